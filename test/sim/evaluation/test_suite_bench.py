"""A benchmark of a suite from outside the package."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import slider_suite

from benchmarks import suite

pytestmark = [pytest.mark.sim, pytest.mark.ros]


def test_in_process_and_over_topics_the_same_steps_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    figures = suite.run(
        slider_suite.NAME, options={"mass_kg": "2.0"}, task="far", steps=6, workers=(1,), rounds=1, episodes=1
    )
    for every, name in ((2, "lockstep"), (1, "lockstep_picture_for_every_step")):
        measured = figures[name]
        assert (measured["steps"], measured["replan_steps"]) == (6, every)
        assert measured["equal_states"] and 0 < measured["in_process_step_ms"] < measured["topics_step_ms"]
    assert figures["pictures"]["observations_per_s"] > 0 and figures["pictures"]["memory_mb"] > 10
    assert figures["evaluations"]["expert"]["real_time_factor"] > 0
    assert figures["own"] == {}
