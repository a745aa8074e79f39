"""Unit conversions: figures and round trips."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavla_ros.control.rotations import rotation_from_rpy
from lavla_ros.jaka import units


def test_figures() -> None:
    assert units.rad_to_deg(math.pi) == pytest.approx(180.0)
    assert units.deg_to_rad(90.0) == pytest.approx(math.pi / 2)
    assert units.m_to_mm(0.7668) == pytest.approx(766.8)
    assert units.mm_to_m(6.0) == pytest.approx(0.006)
    assert units.joints_to_deg((0.0, math.pi / 2)) == pytest.approx([0.0, 90.0])


angles = st.floats(-math.pi, math.pi)


@given(x=st.floats(-1, 1), rpy=st.tuples(angles, st.floats(-math.pi / 2, math.pi / 2), angles))
@settings(max_examples=200, deadline=None)
def test_poses_survive_the_wire(x: float, rpy: tuple[float, float, float]) -> None:
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_rpy(*rpy)
    pose[:3, 3] = (x, -0.006, 0.3)
    np.testing.assert_allclose(units.pose_from_wire(units.pose_to_wire(pose)), pose, atol=1e-7)


@pytest.mark.parametrize("bad", [[0.0] * 5, [0.0] * 5 + [math.nan]])
def test_bad_poses_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="six finite numbers"):
        units.pose_from_wire(bad)
