"""From a camera's capture stamp to the first servo command of the chunk, rendering and inference apart.

The whole live stack (``config/stacks/jaka_policy.yaml``) runs its episodes with its own nodes; three of them are
started through probes that only write down what passes: when the pictures of a stamp were rendered, when the policy
predicted and how long it took, and which servo tick was the first to execute each chunk. Rendering is what stands in
for a camera's exposure and read-out; the stamp is the time of the scene. ``lavla bench pipeline --out FILE.json``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.config import PipelineBench
from lavla_ros.errors import FailedError
from sim_bridges.files import read_rows
from sim_bridges.worlds.tabletop.live_episodes import LiveEpisodes

PROBES = {
    "policy": "benchmarks.probes.policy",
    "executor": "benchmarks.probes.executor",
    "tabletop_camera": "benchmarks.probes.camera",
}
FOLDER_VARIABLE = "LAVLA_PROBE_FOLDER"
ENOUGH = 10
"""Chunks from which there are figures."""
PATIENCE = 5
"""A machine that has other things to do is measured for so many times as long."""


def run(config: PipelineBench) -> dict[str, Any]:
    """Figures in milliseconds over all chunks of ``duration_s``, and of longer where those are too few.

    Raises RuntimeError when the stack does not last, or fewer than ``ENOUGH`` chunks were executed.
    """
    with tempfile.TemporaryDirectory(prefix="lavla-bench-") as name:
        folder = Path(name)
        live = LiveEpisodes(
            folder,
            episodes=1000,
            arguments={"policy": config.policy, "replan_steps": str(config.replan_steps)},
            modules=PROBES,
            environment={FOLDER_VARIABLE: name},
        )
        with live:
            while not read_rows(folder / "executor.jsonl") and live.running(0.1):
                pass  # no episode runs yet
            begun = time.monotonic()
            live.run_for(config.duration_s)
            while len(_executed(folder)) < ENOUGH and time.monotonic() < begun + PATIENCE * config.duration_s:
                live.run_for(1.0)
            duration_s = time.monotonic() - begun
        chunks = _executed(folder)
    if len(chunks) < ENOUGH:
        raise FailedError(f"only {len(chunks)} predicted chunks were executed in {duration_s:.0f} s")
    total = np.array([(e["tick_ns"] - p["stamp_ns"]) * 1e-6 for _, p, e in chunks])
    rendering = np.array([(c["published_ns"] - c["stamp_ns"]) * 1e-6 for c, _, _ in chunks])
    inference = np.array([p["predict_ms"] for _, p, _ in chunks])
    aligned = np.array([(p["begin_ns"] - c["published_ns"]) * 1e-6 for c, p, _ in chunks])
    return {
        "benchmark": "pipeline",
        "unit": "ms",
        "chunks": len(chunks),
        "duration_s": round(duration_s, 1),
        "capture_to_command_without_rendering_and_inference": _summary(total - rendering - inference),
        "capture_to_command_without_inference": _summary(total - inference),
        "rendering": _summary(rendering),
        "pictures_to_inference": _summary(aligned),
        "inference": _summary(inference),
        "chunk_to_command": _summary(total - rendering - inference - aligned),
        "capture_to_command": _summary(total),
        "goal": {"capture_to_command_without_rendering_and_inference.p99": 12.0},
        "cores": os.cpu_count(),
    }


def _executed(folder: Path) -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """What camera, policy and executor noted of each chunk that came to a command."""
    cameras = {row["stamp_ns"]: row for row in read_rows(folder / "camera.jsonl")}
    predicted = {row["stamp_ns"]: row for row in read_rows(folder / "policy.jsonl")}
    return [
        (cameras[stamp], predicted[stamp], row)
        for row in read_rows(folder / "executor.jsonl")
        if (stamp := row["chunk_stamp_ns"]) in predicted
        and stamp in cameras
        # A picture that waited for its episode to begin says nothing about the way.
        and stamp > predicted[stamp]["resumed_ns"]
    ]


def _summary(values_ms: np.ndarray[Any, Any]) -> dict[str, float]:
    p50, p99 = np.percentile(values_ms, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(float(values_ms.max()), 3)}


class ProbeFile:
    """One JSON line per event, line-buffered."""

    def __init__(self, name: str) -> None:
        folder = os.environ.get(FOLDER_VARIABLE)
        if folder is None:
            sys.exit(f"{name} probe: {FOLDER_VARIABLE} is not set; it is started by `lavla bench pipeline` only")
        self._file = (Path(folder) / f"{name}.jsonl").open("w", buffering=1, encoding="utf-8")

    def write(self, **row: float) -> None:
        self._file.write(json.dumps(row) + "\n")
