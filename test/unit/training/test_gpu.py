"""The table of the GPU benchmark, on the CPU and small: every line comes out, where little is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import fixture
from lavla_ros.policy.model import LatentActionVLA

pytestmark = pytest.mark.long

CODE = """
import sys
from benchmarks import gpu
gpu.main(sys.argv[1:])
print(*sorted({name.partition('.')[0] for name in sys.modules}))
"""
"""Prints what was imported, last."""


def test_the_whole_table_runs_without_a_gpu(tmp_path: Path) -> None:
    """It is to run where only torch and the model's libraries are: no OpenCV, no Arrow, no tyro, no accelerate."""
    out = tmp_path / "figures.json"
    arguments = ["--size", "small", "--device", "cpu", "--rounds", "2", "--steps", "1", "--micro-batches", "1"]
    arguments += ["--strategies", "la_cond", "--no-compile", "--out", str(out)]  # compiling takes a minute
    run = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True)
    imported = set(run.stdout.splitlines()[-1].split())
    assert not {"cv2", "pyarrow", "tyro", "rich", "rclpy", "training", "sim_bridges", "mujoco", "av"} & imported
    lines = {line["what"]: line for line in json.loads(out.read_text())["lines"]}
    assert not [line for line in lines.values() if "failed" in line]
    naive = lines["la_cond: float32, adapters, stock forward pass"]
    fused = lines["la_cond: float32, merged and fused, eager"]
    assert fused["error_max"] < 1e-4 < lines["la_cond: bfloat16, merged and fused, eager"]["error_max"] < 0.2
    assert fused["waits"] == 0 < naive["waits"] and 2 * fused["kernels"] < naive["kernels"]
    trained = [line for line in lines.values() if line["part"] == "training"]
    assert [line["what"] for line in trained] == [
        f"{variant}, micro-batch 1" for variant in ("naive", "ours", "ours, recomputing")
    ]
    assert all(line["samples_per_s"] > 0 and line["tflops"] is not None for line in trained)
    obvious, ours, recomputing = trained
    assert ours["waits"] == recomputing["waits"] == 0 < obvious["waits"]
    assert ours["kernels"] < min(obvious["kernels"], recomputing["kernels"])


def test_the_fixtures_chunk_is_the_stored_one_and_another_is_noticed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights from their names, inputs by arithmetic, the actions from fixture.json."""
    arguments = ["--size", "small", "--device", "cpu", "--rounds", "2"]
    assert fixture.main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["what"] for line in lines] == [f"{name}, small, float32, CPU" for name in ("baseline", "la_cond")]
    assert all(line["error_rms"] < 1e-5 and line["p50_ms"] > 0 for line in lines)
    fill = fixture.fill

    def other(model: LatentActionVLA) -> None:
        fill(model)
        model.backbone.vlm.language_model.norm.weight.data[0] += 0.1

    monkeypatch.setattr(fixture, "fill", other)
    assert fixture.main([*arguments, "--strategies", "baseline"]) == 1
    sizes = json.loads(fixture.EXPECTED.read_text())
    assert set(sizes) == {"small", "eighth", "2b"}
    assert all(len(actions) == 20 for strategies in sizes.values() for actions in strategies.values())
