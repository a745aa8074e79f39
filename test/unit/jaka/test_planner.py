"""Trapezoidal profiles, joint and straight paths, speed scaling and stopping."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.jaka.limits import SERVO_PERIOD_S
from sim_bridges.jaka_controller.planner import (
    MotionError,
    MotionPlayer,
    plan_joint_motion,
    plan_linear_motion,
    trapezoid,
)

forward = MINICOBO.kinematics.forward

HOME = np.array([0.0, 0.3, 1.3, 0.0, 1.2, 0.0])


@given(distance=st.floats(0, 6), speed=st.floats(0.1, 3.0), acceleration=st.floats(0.2, 20))
@settings(max_examples=150, deadline=None)
def test_trapezoid_keeps_its_limits_and_arrives(distance: float, speed: float, acceleration: float) -> None:
    length = np.concatenate(([0.0], trapezoid(distance, speed, acceleration)))
    assert length[-1] == distance
    steps = np.diff(length) / SERVO_PERIOD_S
    assert steps.min() >= -1e-9
    assert steps.max() <= speed * (1 + 1e-6)
    # Sampled speeds of a bounded acceleration differ by no more than one period of it.
    assert np.abs(np.diff(steps)).max(initial=0.0) <= acceleration * SERVO_PERIOD_S * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("arguments", [(1.0, 0.0, 1.0), (1.0, 1.0, -1.0), (math.nan, 1.0, 1.0), (1e4, 1.0, 1.0)])
def test_trapezoid_refuses(arguments: tuple[float, float, float]) -> None:
    with pytest.raises(MotionError):
        trapezoid(*arguments)


def test_joint_motion_is_synchronous() -> None:
    goal = HOME + np.array([0.4, -0.2, 0.1, 0.0, 0.3, -0.8])
    path = plan_joint_motion(HOME, goal, 1.0, 4.0, MINICOBO.limits)
    np.testing.assert_array_equal(path[-1], goal)
    fractions = (path - HOME)[:, [0, 1, 2, 4, 5]] / (goal - HOME)[[0, 1, 2, 4, 5]]
    np.testing.assert_allclose(fractions - fractions[:, :1], 0.0, atol=1e-9)
    with pytest.raises(MotionError, match=r"joint 3 at 171\.89 deg is outside"):
        plan_joint_motion(HOME, np.array([0, 0, 3.0, 0, 0, 0]), 1.0, 1.0, MINICOBO.limits)
    with pytest.raises(MotionError, match="180 deg/s"):
        plan_joint_motion(HOME, goal, 4.0, 1.0, MINICOBO.limits)


def test_linear_motion_is_straight() -> None:
    goal = forward(HOME)
    goal[:3, 3] += (0.05, 0.04, -0.03)
    path = plan_linear_motion(HOME, goal, 0.2, 1.0, MINICOBO.limits, MINICOBO.kinematics)
    points = np.array([forward(q)[:3, 3] for q in path])
    start = forward(HOME)[:3, 3]
    direction = (goal[:3, 3] - start) / np.linalg.norm(goal[:3, 3] - start)
    off_line = (points - start) - np.outer((points - start) @ direction, direction)
    assert np.abs(off_line).max() < 1e-5
    np.testing.assert_allclose(points[-1], goal[:3, 3], atol=1e-5)
    goal[:3, 3] += (0.5, 0.0, 0.0)
    with pytest.raises(MotionError, match=r"cannot be followed|180 deg/s"):
        plan_linear_motion(HOME, goal, 0.2, 1.0, MINICOBO.limits, MINICOBO.kinematics)


def play(player: MotionPlayer, rate: float = 1.0) -> list[float]:
    positions = []
    while (q := player.next(rate)) is not None:
        positions.append(float(q[0]))
        assert len(positions) < 10_000
    return positions


def test_player_plays_in_order_and_scales_time() -> None:
    zero, there = np.zeros(6), np.full(6, 0.5)
    path = plan_joint_motion(zero, there, 1.0, 4.0, MINICOBO.limits)
    player = MotionPlayer()
    player.add(zero, path)
    player.add(player.end(zero), path[::-1])
    full = play(player)
    assert len(full) == 2 * len(path)
    assert max(full) == 0.5
    player.add(zero, path)
    half = play(player, 0.5)
    assert abs(len(half) - 2 * len(path)) <= 1
    assert half[-1] == 0.5


def test_player_stops_on_the_path_without_a_jump() -> None:
    zero = np.zeros(6)
    player = MotionPlayer()
    player.add(zero, plan_joint_motion(zero, np.full(6, 1.5), 1.5, 4.0, MINICOBO.limits))
    before = [float(q[0]) for _ in range(80) if (q := player.next(1.0)) is not None]
    player.stop()
    after = [before[-1], *play(player)]
    assert not player.busy
    assert len(after) < 15
    assert np.diff(after).max() <= 1.5 * SERVO_PERIOD_S + 1e-9
    assert np.diff(after)[-1] < 0.2 * 1.5 * SERVO_PERIOD_S
