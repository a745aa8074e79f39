"""Two demos at once on one machine: each moves its own arm by its own policy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lavla_ros.recording import BagReader, find_bags
from sim_bridges.worlds.tabletop.suite import EVALUATION_SEED_BASE

pytestmark = pytest.mark.alone


def test_two_demos_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_DOMAIN_ID")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "lavla_ros.cli", "demo", "--episodes", "1", "--seed", str(seed), "--out", f"{seed}"],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for seed in (0, 5)
    ]
    said = [process.communicate(timeout=240.0)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    for seed in (0, 5):
        (episode,) = json.loads((tmp_path / str(seed) / "results.json").read_text(encoding="utf-8"))["episodes"]
        (bag,) = find_bags([tmp_path / str(seed) / "bags"])
        with BagReader(bag) as reader:
            assert reader.episode().scene["seed"] == episode["seed"] == EVALUATION_SEED_BASE + seed
