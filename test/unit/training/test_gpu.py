"""The table of the GPU benchmark, on the CPU and small: that every line comes out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import gpu


def test_the_whole_table_runs_without_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    arguments = ["--size", "small", "--device", "cpu", "--rounds", "2", "--steps", "1", "--micro-batches", "2"]
    arguments += ["--no-compile"]  # a minute of it
    assert gpu.main([*arguments, "--out", str(out)]) == 0
    lines = {line["what"]: line for line in json.loads(out.read_text())["lines"]}
    failed = [line for line in lines.values() if "failed" in line]
    assert not failed
    naive = lines["baseline: float32, adapters, stock forward pass"]
    fused = lines["baseline: float32, merged and fused, eager"]
    assert fused["error_max"] < 1e-4 < lines["la_cond: bfloat16, merged and fused, eager"]["error_max"] < 0.2
    assert fused["waits"] == 0 < naive["waits"] and 2 * fused["kernels"] < naive["kernels"]
    assert {line["what"] for line in lines.values() if line["part"] == "training"} == {
        f"{variant}, micro-batch 2" for variant in ("naive", "ours", "ours, recomputing")
    }
    assert all(line["samples_per_s"] > 0 for line in lines.values() if line["part"] == "training")


def test_it_needs_nothing_but_torch_and_the_libraries_of_the_model() -> None:
    """It is to run where only they are installed: no OpenCV, no Arrow, no tyro, no accelerate."""
    code = "import sys, benchmarks.gpu; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"cv2", "pyarrow", "tyro", "rich", "rclpy", "training", "sim_bridges", "mujoco", "av"} & set(found)
