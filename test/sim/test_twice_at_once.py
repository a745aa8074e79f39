"""Commands of two shells on one machine: each gives what it gives alone, for neither hears the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lavla_ros.recording import BagReader, find_bags
from sim_bridges.evaluation.tabletop import TabletopEvaluation, evaluate

pytestmark = [pytest.mark.sim, pytest.mark.ros]

STEPS = 20


def _start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
    command = [sys.executable, "-m", "lavla_ros.cli", *map(str, arguments)]
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        command, env=environment, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _end(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=240.0)
    assert process.returncode == 0, output


def _scenes(folder: Path) -> list[Any]:
    scenes = []
    for bag in find_bags([folder]):
        with BagReader(bag) as reader:
            scenes.append(reader.episode().scene["seed"])
    return scenes


def test_two_evaluations_and_two_recordings_do_not_mix(tmp_path: Path) -> None:
    short = ["--episodes", 1, "--max-steps", STEPS, "--videos", 0]
    started = [
        _start(tmp_path, "eval", "tabletop", "--through", "nodes", *short, "--seed", seed, "--out", f"eval_{seed}")
        for seed in (0, 1)
    ]
    started += [_start(tmp_path, "record", "--episodes", 1, "--seed", s, "--out", f"bags_{s}") for s in (0, 500)]
    for process in started:
        _end(process)
    for seed in (0, 1):
        alone = evaluate(TabletopEvaluation(policy="bundled", episodes=1, max_steps=STEPS, seed=seed))
        results = json.loads((tmp_path / f"eval_{seed}" / "results.json").read_text(encoding="utf-8"))
        assert [e["trajectory"] for e in results["episodes"]] == [e.trajectory for e in alone.episodes]
    assert [_scenes(tmp_path / f"bags_{seed}") for seed in (0, 500)] == [[0], [500]]
    converted = [_start(tmp_path, "convert", "bags_0", "--out", f"dataset_{i}", "--jobs", 1) for i in (0, 1)]
    for process in converted:
        _end(process)
    first, second = (
        {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*.parquet")}
        for root in (tmp_path / "dataset_0", tmp_path / "dataset_1")
    )
    assert first and first == second


def test_two_emulators_on_free_ports(tmp_path: Path) -> None:
    ports = []
    started = [_start(tmp_path, "emulator", "--port", 0, "--status-port", 0) for _ in range(2)]
    try:
        for process in started:
            assert process.stdout is not None
            line = next(text for text in process.stdout if "commands on" in text)
            ports.append(line.split("127.0.0.1:")[1].split(",")[0])
    finally:
        for process in started:
            process.terminate()
            process.communicate(timeout=20.0)
    assert len(set(ports)) == 2
