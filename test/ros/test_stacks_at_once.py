"""Two live stacks at once on one machine: each moves its own arm by its own policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shells import ended, start

from lavla_ros.recording import BagReader, find_bags
from sim_bridges.worlds.tabletop.suite import EVALUATION_SEED_BASE

pytestmark = [pytest.mark.alone, pytest.mark.timeout(700)]


def test_two_demos_at_once(tmp_path: Path) -> None:
    seeds = (0, 5)
    ended([start(tmp_path, "demo", "--episodes", 1, "--seed", seed, "--out", seed) for seed in seeds])
    for seed in seeds:
        (episode,) = json.loads((tmp_path / str(seed) / "results.json").read_text(encoding="utf-8"))["episodes"]
        (bag,) = find_bags([tmp_path / str(seed) / "bags"])
        with BagReader(bag) as reader:
            assert reader.episode().scene["seed"] == episode["seed"] == EVALUATION_SEED_BASE + seed


def test_two_benchmarks_of_the_live_stack(tmp_path: Path) -> None:
    """Each measures its own arm: it has no more commands, or chunks, than one stack gives."""
    options = {"servo": ("--settle-s", 0.5, "--duration", 3), "pipeline": ("--replan-steps", 4, "--duration", 5)}
    ended([start(tmp_path, "bench", kind, *words, "--out", f"{kind}.json") for kind, words in options.items()])
    servo, pipeline = (json.loads((tmp_path / f"{kind}.json").read_text(encoding="utf-8")) for kind in options)
    assert 10 < servo["commands"] < 125 * 4 and servo["controller"]["refused"] == 0
    assert 10 <= pipeline["chunks"] <= 2.5 * (pipeline["duration_s"] + 1) + 1
