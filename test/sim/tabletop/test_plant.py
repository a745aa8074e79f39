"""The tabletop as the arm of the emulated controller: what it runs into is felt."""

from __future__ import annotations

import numpy as np
import pytest

from lavla_ros.jaka.units import joints_to_deg
from sim_bridges.jaka_controller.config import ControllerConfig
from sim_bridges.jaka_controller.controller import EmulatedController
from sim_bridges.jaka_controller.faults import Faults
from sim_bridges.worlds.tabletop.plant import TabletopPlant
from sim_bridges.worlds.tabletop.scene import TABLE_Z_M
from sim_bridges.worlds.tabletop.sim import HOME_GRASP_M, TabletopSim
from sim_bridges.worlds.tabletop.tool import tool_down_joints

pytestmark = pytest.mark.sim


def test_pressing_the_tool_into_the_table_is_a_collision(pick_sim: TabletopSim) -> None:
    pick_sim.reset(0)
    # Beside the objects, with the gripper closed.
    x, y = HOME_GRASP_M[0], HOME_GRASP_M[1] - 0.18
    config = ControllerConfig(power_on_s=0.0, enable_s=0.0, collision_sensitivity=3)
    controller = EmulatedController(TabletopPlant(pick_sim, feels_collisions=True), config, Faults())

    def send(name: str, **fields: object) -> None:
        reply = controller.handle({"cmdName": name, **fields}, 0)
        assert reply["errorCode"] == "0", reply

    send("power_on")
    controller.cycle()
    send("enable_robot")
    controller.cycle()
    above = tool_down_joints(np.array([x, y, TABLE_Z_M + 0.10]), 0.0)
    send("joint_move", relFlag=0, jointPosition=joints_to_deg(above), speed=60, accel=200)
    for _ in range(300):
        controller.cycle()
    assert not controller.snapshot.protective_stop, "moving freely is none"
    assert pick_sim.external_force_n() < 10.0
    for depth in np.arange(0.0, 0.2, 0.0008):  # 0.1 m/s
        if controller.snapshot.protective_stop:
            break
        if depth == 0.0:
            send("servo_move", relFlag=1)
        q = tool_down_joints(np.array([x, y, TABLE_Z_M + 0.10 - depth]), 0.0)
        send("servo_j", relFlag=0, jointPosition=joints_to_deg(q), stepNum=1)
        controller.cycle()
    state = controller.snapshot
    assert "collision" in state.error_text
    assert 0.06 < depth < 0.12, "at the table, not far below it"
    np.testing.assert_array_equal(state.commanded_rad, state.measured_rad)
    for _ in range(50):
        controller.cycle()
    send("clear_error")
    for _ in range(50):
        controller.cycle()
    assert not controller.snapshot.protective_stop, "it stands, it doesn't press"
