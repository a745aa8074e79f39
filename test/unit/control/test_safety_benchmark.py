"""The safety campaign: its figures are right, and a scenario in real processes yields all of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from benchmarks.config import SafetyBench
from benchmarks.safety import campaign, skips
from benchmarks.safety.motion import LIMITS, after, largest
from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.jaka.driver_config import JakaDriverConfig

pytestmark = pytest.mark.timed


def test_figures_of_a_motion() -> None:
    t = np.arange(200)
    q = np.zeros((200, 6))
    q[:, 2] = 2.0 * (0.008 * t) ** 2
    figures = largest(t, q)
    assert figures["velocity_rad_s"] == pytest.approx(4.0 * 0.008 * 198.5)
    assert figures["acceleration_rad_s2"] == pytest.approx(4.0)
    assert figures["jerk_rad_s3"] == pytest.approx(0.0, abs=1e-3)
    assert figures["ratio"] == pytest.approx(figures["velocity_rad_s"] / LIMITS["velocity_rad_s"])
    kept = np.delete(t, [50, 51, 52, 120])
    assert largest(kept, q[kept])["acceleration_rad_s2"] == pytest.approx(4.0), "a cycle left out is no jump"
    q[100:] += 0.01
    assert largest(t, q)["acceleration_rad_s2"] == pytest.approx(0.01 / 0.008**2, rel=0.05)


def test_what_the_arm_did_after_an_event() -> None:
    t = np.arange(100)
    q = np.zeros((100, 6))
    q[:, 0] = np.minimum(0.01 * t, 0.5)
    found = after(t, q, 40)
    assert found["travel_rad"] == pytest.approx(0.1)
    assert found["rest_s"] == pytest.approx(0.08)


def test_left_out_cycles_of_the_executor_are_the_same_every_time() -> None:
    first, second = skips.run(), skips.run()
    assert first == second
    assert len(first) == 4 * len(skips.GAPS)
    filtered = [row for row in first if "filtered" in row["scenario"]]
    # Behind the controller's filter nothing exceeds the filter's own limits, whatever the executor does.
    bounds = JakaDriverConfig(host="127.0.0.1").filter_limits(MINICOBO.limits)
    assert bounds is not None
    for name, bound in zip(("velocity_rad_s", "acceleration_rad_s2", "jerk_rad_s3"), bounds, strict=True):
        assert max(row[name] for row in filtered) <= 1.01 * bound


def test_a_scenario_in_real_processes() -> None:
    figures = campaign.run(SafetyBench(scenarios=("protective stop",)))
    [row] = figures["scenarios"]
    assert "error" not in row, row
    assert any("protective stop" in text for text in row["said"])
    assert {*LIMITS, "ratio", "state", "after", "controller", "settings"} <= set(row)
    text = io.StringIO()
    campaign.show(figures, Console(file=text, width=200))
    assert "protective stop, recovered" in text.getvalue()


def test_an_unknown_scenario_is_named() -> None:
    with pytest.raises(ValueError, match="no scenario contains 'flying'"):
        campaign.run(SafetyBench(scenarios=("flying",)))
