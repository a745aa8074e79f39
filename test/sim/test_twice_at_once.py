"""Commands of two shells on one machine: each gives what it gives alone, for neither hears the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lavla_ros.recording import BagReader, find_bags
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.evaluation import evaluate

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


def _both(folder: Path, arguments: list[object]) -> None:
    """The command twice at once, with 0 and 1 in the place of every {}."""
    started = [_start(folder, *(str(word).replace("{}", str(i)) for word in arguments)) for i in (0, 1)]
    for process in started:
        _end(process)


def _contents(root: Path, pattern: str, read: Callable[[Path], Any]) -> dict[str, Any]:
    return {str(file.relative_to(root)): read(file) for file in root.rglob(pattern)}


def _scenes(folder: Path) -> list[Any]:
    scenes = []
    for bag in find_bags([folder]):
        with BagReader(bag) as reader:
            scenes.append(reader.episode().scene["seed"])
    return scenes


def test_two_of_each_from_recording_to_a_policy_do_not_mix(tmp_path: Path) -> None:
    short = ["--episodes", 1, "--max-steps", STEPS, "--videos", 0]
    started = [
        _start(tmp_path, "eval", "tabletop", "--through", "nodes", *short, "--seed", seed, "--out", f"eval_{seed}")
        for seed in (0, 1)
    ]
    started += [_start(tmp_path, "record", "--episodes", 1, "--seed", s, "--out", f"bags_{s}") for s in (0, 500)]
    for process in started:
        _end(process)
    for seed in (0, 1):
        alone = evaluate(
            EvaluationConfig(suite="tabletop", policy="bundled", episodes=1, max_steps=STEPS, seed=seed, videos=0)
        )
        results = json.loads((tmp_path / f"eval_{seed}" / "results.json").read_text(encoding="utf-8"))
        assert [e["trajectory"] for e in results["episodes"]] == [e.trajectory for e in alone.episodes]
    assert [_scenes(tmp_path / f"bags_{seed}") for seed in (0, 500)] == [[0], [500]]
    recipes = Path(__file__).parents[2] / "config"
    short = ["--data.validation-fraction", 0, "--steps", 2, "--batch-size", 4]
    latent = [*short, "--data.datasets", "dataset_{}", "--output", "latent_{}"]
    policy = [*short, "--data.dataset", "dataset_{}", "--output", "policy_{}"]
    for arguments in (
        ["convert", "bags_0", "--out", "dataset_{}", "--jobs", 1],
        ["latent", "train", "action", "--config", recipes / "latent/action_tabletop.yaml", *latent],
        ["latent", "label", "dataset_{}", "--model", "latent_{}/model", "--jobs", 1],
        ["train", "--config", recipes / "training/tabletop_tiny.yaml", *policy],
    ):
        _both(tmp_path, arguments)
    tables = [_contents(tmp_path / f"dataset_{i}", "*.parquet", Path.read_bytes) for i in (0, 1)]
    assert tables[0] and tables[0] == tables[1]
    for folder, pattern in (("latent", "*.safetensors"), ("policy", "best/*.safetensors")):
        # The order of a header's entries is left to chance: the tensors are compared.
        first, second = (_contents(tmp_path / f"{folder}_{i}", pattern, load_file) for i in (0, 1))
        assert first and first.keys() == second.keys()
        for name, tensors in first.items():
            assert all(np.array_equal(tensor, second[name][key]) for key, tensor in tensors.items()), (folder, name)


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
