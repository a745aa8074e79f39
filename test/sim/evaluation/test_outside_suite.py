"""A suite from outside the package is benched and recorded; other tests evaluate it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import slider_suite

from benchmarks import suite
from benchmarks.config import SuiteBench
from sim_bridges.lockstep.config import RecordConfig
from sim_bridges.lockstep.record import record_expert
from training.ingest import ingest

pytestmark = [pytest.mark.sim, pytest.mark.ros]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite, for processes of their own."""
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


def test_its_expert_is_recorded_and_converted(tmp_path: Path) -> None:
    config = RecordConfig(
        out=tmp_path / "bags",
        suite=slider_suite.NAME,
        options={"mass_kg": "2.0"},
        task="far",
        episodes=2,
        disturb=False,
        max_steps=40,
    )
    summary = record_expert(config, lambda episode: None)
    assert summary.succeeded == summary.episodes == 2
    report = ingest("bag", [tmp_path / "bags"], tmp_path / "dataset", contract=slider_suite.CONTRACT)
    assert (report.episodes, report.steps) == (2, summary.steps)


def test_in_process_and_over_topics_the_same_steps_are_taken() -> None:
    bench = SuiteBench(suite=slider_suite.NAME, options={"mass_kg": "2.0"}, task="far", steps=6, workers=(1,))
    figures = suite.run(replace(bench, rounds=1, episodes=1))
    for every, name in ((2, "lockstep"), (1, "lockstep_picture_for_every_step")):
        measured = figures[name]
        assert (measured["steps"], measured["replan_steps"]) == (6, every)
        assert measured["equal_states"] and min(measured["in_process_step_ms"], measured["topics_step_ms"]) > 0
    assert figures["pictures"]["observations_per_s"] > 0 and figures["pictures"]["memory_mb"] > 10
    assert figures["evaluations"]["expert"]["real_time_factor"] > 0
    assert figures["own"] == {}
