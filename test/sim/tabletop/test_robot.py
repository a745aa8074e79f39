"""The arm in physics: the published kinematics, and tracking like an industrial servo."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from lavla_ros.jaka.arm import MINICOBO
from sim_bridges.worlds.tabletop.sim import TabletopSim
from sim_bridges.worlds.tabletop.tool import tool_down_joints, tool_of, upright_tool_of

forward = MINICOBO.kinematics.forward

pytestmark = pytest.mark.sim
TICK_NS = 8_000_000


def flange_pose(sim: TabletopSim) -> np.ndarray:
    pose = np.eye(4)
    body = sim.data.body("link_6")
    pose[:3, :3], pose[:3, 3] = body.xmat.reshape(3, 3), body.xpos
    return pose


def test_physics_and_kinematics_agree(pick_sim: TabletopSim) -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        q = rng.uniform(-2.0, 2.0, size=6)
        pick_sim.reset(0)
        for i, value in enumerate(q):
            pick_sim.data.joint(f"joint_{i + 1}").qpos[0] = value
        mujoco.mj_kinematics(pick_sim.model, pick_sim.data)
        np.testing.assert_allclose(flange_pose(pick_sim), forward(q), atol=1e-9)


def test_closed_form_tool_kinematics_invert_the_forward_ones() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        radius, azimuth = rng.uniform(0.21, 0.38), rng.uniform(-1.2, 1.2)
        grasp = np.array([-radius * np.cos(azimuth), -radius * np.sin(azimuth), rng.uniform(-0.09, 0.03)])
        yaw = rng.uniform(-1.4, 1.4)
        q = tool_down_joints(grasp, yaw)
        for inverse in (tool_of, upright_tool_of):
            point, angle = inverse(q)
            np.testing.assert_allclose(point, grasp, atol=1e-12)
            assert angle == pytest.approx(yaw, abs=1e-12)
        assert forward(q)[2, 2] == pytest.approx(-1.0)


def test_a_point_out_of_reach_is_named() -> None:
    with pytest.raises(ValueError, match="out of reach"):
        tool_down_joints((-0.7, 0.0, 0.0), 0.0)


def test_holds_still_within_a_milliradian(pick_sim: TabletopSim) -> None:
    pick_sim.reset(0)
    for radius in (0.22, 0.38):
        q = tool_down_joints((-radius, 0.0, 0.05), 0.3)
        start = pick_sim.joint_target_rad
        for step in range(250):
            pick_sim.set_targets(start + (q - start) * min(1.0, (step + 1) / 125), 1.0)
            pick_sim.advance(TICK_NS)
        assert np.abs(pick_sim.joint_position_rad - q).max() < 1e-3


def test_follows_a_moving_target_without_lag(pick_sim: TabletopSim) -> None:
    pick_sim.reset(0)
    start = pick_sim.joint_target_rad
    worst = 0.0
    for step in range(250):
        s = (step + 1) / 250
        q = start + 0.6 * np.array([1.0, 0.3, -0.3, 0.4, 0.5, 1.0]) * s**3 * (10 - 15 * s + 6 * s * s)
        pick_sim.set_targets(q, 1.0)
        pick_sim.advance(TICK_NS)
        worst = max(worst, float(np.abs(pick_sim.joint_position_rad - q).max()))
    # The top speed is 0.56 rad/s: a lag of one 8 ms period alone would be 4.5 mrad.
    assert worst < 3e-3, f"{worst:.5f} rad"


def test_a_jump_is_approached_at_the_joints_top_speed(pick_sim: TabletopSim) -> None:
    pick_sim.reset(0)
    q = pick_sim.joint_target_rad
    q[5] += 1.0
    pick_sim.set_targets(q, 1.0)
    fastest = 0.0
    for _ in range(100):
        pick_sim.advance(4_000_000)
        fastest = max(fastest, float(np.abs(pick_sim.joint_velocity_rad_s).max()))
    assert 2.5 < fastest < 4.2
    assert abs(pick_sim.joint_position_rad[5] - q[5]) < 2e-3


def test_the_gripper_opens_and_closes_in_about_a_quarter_second(pick_sim: TabletopSim) -> None:
    pick_sim.reset(0)
    assert pick_sim.gripper_opening > 0.99
    q = pick_sim.joint_target_rad
    pick_sim.set_targets(q, 0.0)
    pick_sim.advance(120_000_000)
    assert 0.3 < pick_sim.gripper_opening < 0.8
    pick_sim.advance(280_000_000)
    assert pick_sim.gripper_opening < 0.02
    pick_sim.set_targets(q, 1.0)
    pick_sim.advance(600_000_000)
    assert pick_sim.gripper_opening > 0.98
