"""The stand-in's kinematics and its motion from rest to rest: no simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lavla_ros.contract import ActionChunk, load_contract
from sim_bridges.worlds.robotwin.standin.disturbance import DisturbanceConfig, DisturbanceSource
from sim_bridges.worlds.robotwin.standin.kinematics import LIMITS_RAD, OutOfReach, forward, hand_down, inverse
from sim_bridges.worlds.robotwin.standin.motion import physics_steps, rest_to_rest
from sim_bridges.worlds.robotwin.standin.robot import BASES_M


def test_inverse_undoes_forward_everywhere_that_it_answers() -> None:
    rng = np.random.default_rng(0)
    answered = 0
    for _ in range(500):
        point, hand = forward(np.array([rng.uniform(low, high) for low, high in LIMITS_RAD]))
        try:
            joints = inverse(point, hand)
        except OutOfReach:
            continue
        answered += 1
        again, axes = forward(joints)
        np.testing.assert_allclose(again, point, atol=1e-9)
        np.testing.assert_allclose(axes, hand, atol=1e-9)
    assert answered > 200


def test_a_hand_points_down_and_opens_along_its_yaw() -> None:
    joints = inverse(np.array([0.1, 0.35, 0.05]), hand_down(0.4))
    _, hand = forward(joints)
    np.testing.assert_allclose(hand[:, 2], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(hand[:, 0], [np.cos(0.4), np.sin(0.4), 0], atol=1e-12)


@pytest.mark.parametrize(
    ("point", "why"), [((0.0, 0.9, 0.1), "from the shoulder"), ((0.0, -0.35, 0.05), "joint 1 would be")]
)
def test_what_cannot_be_reached_is_named(point: tuple[float, float, float], why: str) -> None:
    with pytest.raises(OutOfReach, match=why):
        inverse(np.array(point), hand_down(0.0))


def test_steps_are_those_that_robotwin_takes() -> None:
    start = np.zeros(6)
    assert physics_steps(start, start + 0.02) == 71  # as measured on RoboTwin itself
    assert physics_steps(start, start) == 50
    assert physics_steps(start, np.array([0, 0, 0, 2.0, 0, 0])) == 750  # 1 s up, 1 s at full speed, 1 s down


@pytest.mark.parametrize("way", [0.02, 0.5, 3.0])
def test_motion_ends_at_the_goal_at_rest_and_its_speed_is_that_of_its_positions(way: float) -> None:
    start, goal = np.array([0.3, -0.2]), np.array([0.3 + way, -0.2 - way / 4])
    for slower in (1, 2):
        steps = slower * physics_steps(start, goal)
        positions, velocities = rest_to_rest(start, goal, steps)
        assert positions.shape == velocities.shape == (steps, 2)
        assert (positions[-1] == goal).all() and np.abs(velocities[-1]).max() == 0
        assert np.abs(velocities).max() <= 1 / slower + 1e-9
        moved = np.diff(np.vstack([start, positions]), axis=0) * 250
        between = (np.vstack([np.zeros(2), velocities[:-1]]) + velocities) / 2
        np.testing.assert_allclose(moved, between, atol=5e-3)


def test_disturbances_repeat_and_never_push_into_the_table() -> None:
    low = inverse(np.array([0.0, 0.3, 0.76 - BASES_M["left"][2]]), hand_down(0.0))
    command = np.array([*low, 1.0, *low, 0.0])
    contract = load_contract("robotwin_aloha")
    chunk = ActionChunk(stamp_ns=0, dt_ns=contract.dt_ns, actions_HA=command[None], names=contract.action.names)
    pushed = []
    for _ in range(2):
        source = DisturbanceSource(DisturbanceConfig(start_probability=0.5), 3)
        pushed.append(np.array([source.apply(chunk).actions_HA[0] for _ in range(300)]))
    assert (pushed[0] == pushed[1]).all()
    assert (pushed[0][:, [6, 13]] == [1.0, 0.0]).all(), "grippers are left alone"
    moved = np.abs(pushed[0] - command).max(axis=1) > 0
    assert 0.1 < moved.mean() < 0.95
    heights = np.array([forward(row[joints])[0][2] for row in pushed[0] for joints in (slice(0, 6), slice(7, 13))])
    assert heights.min() + BASES_M["left"][2] >= 0.755
    with pytest.raises(ValueError, match="shape"):
        source.apply(replace(chunk, actions_HA=command[None, :7]))
