"""RoboTwin's stand-in in the harness: its expert on all seeds, and the protocol's episodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.evaluation import evaluate
from sim_bridges.suites import load_suite
from sim_bridges.worlds.robotwin.sources import open_source

pytest.importorskip("sapien", reason="SAPIEN is not installed")
pytestmark = [pytest.mark.sim, pytest.mark.timeout(600), pytest.mark.long]


def test_the_expert_by_way_of_commands(tmp_path: Path) -> None:
    config = EvaluationConfig(suite="robotwin_standin", tasks=("move_blocks_to_pads",), policy="expert", episodes=2)
    results = evaluate(config, out=tmp_path)
    assert [(e.seed, e.success, e.error) for e in results.episodes] == [(100_000, True, None), (100_001, True, None)]
    limit = open_source("standin").step_limit("move_blocks_to_pads")
    assert all(10 < e.length_steps < limit for e in results.episodes)
    assert not results.is_comparable and "stand-in" in results.comparable and results.real_time_factor is None
    assert len({e.trajectory for e in results.episodes}) == 2


def test_episodes_are_those_that_the_expert_solves(tmp_path: Path) -> None:
    suite = load_suite("robotwin_standin")
    found = suite.find(["move_blocks_to_pads"], episodes=2, seed=1, folder=tmp_path, workers=1)  # type: ignore[attr-defined]
    starts = found["move_blocks_to_pads"]
    assert starts[0].seed >= 200_000 and all(start.instruction for start in starts)
    assert starts[0].max_steps == open_source("standin").step_limit("move_blocks_to_pads")
