"""The emulated controller's commands, states and servo queue, without sockets and without waiting."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.jaka.units import pose_to_wire
from sim_bridges.jaka_controller.config import ControllerConfig
from sim_bridges.jaka_controller.controller import EmulatedController
from sim_bridges.jaka_controller.faults import Faults
from sim_bridges.jaka_controller.filter import FilterLimits, NonlinearFilter
from sim_bridges.jaka_controller.plant import KinematicPlant

forward = MINICOBO.kinematics.forward


class Bench:
    """A controller, its plant and faults; ``ok`` and ``refused`` check the errorCode."""

    def __init__(
        self, *, ready: bool = True, servo: bool = False, plant: KinematicPlant | None = None, **config: Any
    ) -> None:
        self.plant = plant or KinematicPlant()
        self.faults = Faults()
        self.controller = EmulatedController(
            self.plant, ControllerConfig(power_on_s=0.0, enable_s=0.0, **config), self.faults
        )
        self.log = self.controller.servo_log
        if ready or servo:
            self.ok("power_on")
            self.cycles(1)
            self.ok("enable_robot")
            self.cycles(1)
        if servo:
            self.ok("servo_move", relFlag=1)

    def send(self, command: str, **fields: Any) -> dict[str, Any]:
        return self.controller.handle({"cmdName": command, **fields}, 1)

    def ok(self, command: str, **fields: Any) -> dict[str, Any]:
        reply = self.send(command, **fields)
        assert reply["cmdName"] == command
        assert reply["errorCode"] == "0", reply
        return reply

    def refused(self, command: str, code: str = "2", **fields: Any) -> str:
        reply = self.send(command, **fields)
        assert reply["errorCode"] == code, reply
        text: str = reply["errorMsg"]
        return text

    def servo(self, deg: float, steps: int = 1, **fields: Any) -> dict[str, Any]:
        return self.send("servo_j", **{"relFlag": 0, "jointPosition": [deg] * 6, "stepNum": steps, **fields})

    def cycles(self, count: int) -> list[float]:
        """Joint 1 after each cycle, deg."""
        return [self.one() for _ in range(count)]

    def one(self) -> float:
        self.controller.cycle()
        return math.degrees(self.plant.joint_position_rad()[0])


def test_power_and_enable_follow_the_vendors_order() -> None:
    bench = Bench(ready=False)
    assert "not powered" in bench.refused("enable_robot")
    assert "not powered" in bench.refused("servo_move", relFlag=1)
    assert bench.ok("power_on")["power status"] == "True"
    bench.cycles(1)
    assert "not enabled" in bench.refused("joint_move", relFlag=0, jointPosition=[0] * 6, speed=10, accel=10)
    assert bench.ok("enable_robot")["enabled status"] == "True"
    bench.cycles(1)
    state = bench.ok("get_robot_state")
    assert (state["power"], state["enable"]) == ("powered_on", "robot_enabled")
    assert "disable" in bench.refused("power_off")
    bench.ok("disable_robot")
    bench.ok("power_off")
    assert bench.ok("get_robot_state")["power"] == "powered_off"


def test_power_takes_its_time() -> None:
    controller = EmulatedController(KinematicPlant(), ControllerConfig(power_on_s=0.08, enable_s=0.0), Faults())
    controller.handle({"cmdName": "power_on"}, 0)
    for _ in range(9):
        controller.cycle()
    assert not controller.snapshot.powered
    for _ in range(3):
        controller.cycle()
    assert controller.snapshot.powered


def test_joint_move_arrives_and_queues() -> None:
    bench = Bench()
    move = {"speed": 90, "accel": 400}
    bench.ok("joint_move", relFlag=0, jointPosition=[20, 0, 0, 0, 0, 0], **move)
    bench.ok("joint_move", relFlag=1, jointPosition=[-5, 0, 0, 0, 0, 0], **move)
    assert "moving" in bench.refused("servo_move", relFlag=1)
    track = bench.cycles(120)
    assert max(track) == pytest.approx(20.0)
    assert track[-1] == pytest.approx(15.0)
    assert max(abs(b - a) for a, b in itertools.pairwise(track)) <= 90 * 0.008 + 1e-6
    assert "soft limits" in bench.refused("joint_move", relFlag=0, jointPosition=[0, 0, 150, 0, 0, 0], **move)
    bench.refused("joint_move", "1", relFlag=0, jointPosition=[0] * 5, **move)
    bench.refused("joint_move", relFlag=0, jointPosition=[0] * 6, speed=0, accel=1)


def test_end_move_and_linear_move_reach_their_pose() -> None:
    bench = Bench()
    bench.ok("joint_move", relFlag=0, jointPosition=[0, 15, 75, 0, 70, 0], speed=170, accel=1000)
    bench.cycles(120)
    pose = bench.ok("get_tcp_pos")["tcp_pos"]
    pose[1] += 60
    bench.ok("end_move", endPosition=pose, speed=90, accel=500)
    bench.cycles(200)
    np.testing.assert_allclose(bench.ok("get_tcp_pos")["tcp_pos"][:3], pose[:3], atol=0.01)
    bench.ok("moveL", relFlag=1, cartPosition=[0, -40, 10, 0, 0, 0], speed=100, accel=500, tol=0)
    bench.cycles(200)
    reached = bench.ok("get_tcp_pos")["tcp_pos"]
    np.testing.assert_allclose(reached[:3], [pose[0], pose[1] - 40, pose[2] + 10], atol=0.01)
    assert "kinematics" in bench.refused("end_move", endPosition=[2000, 0, 0, 0, 0, 0], speed=9, accel=9)
    bench.refused("moveL", relFlag=0, cartPosition=[2000, 0, 0, 0, 0, 0], speed=99, accel=99, tol=0)
    bench.refused("moveL", "1", relFlag=0, cartPosition=[0, 0, 0], speed=99, accel=99, tol=0)


def test_stop_program_and_rapid_rate() -> None:
    bench = Bench()
    bench.ok("rapid_rate", rate_value=0.5)
    bench.ok("joint_move", relFlag=0, jointPosition=[90, 0, 0, 0, 0, 0], speed=100, accel=1000)
    track = bench.cycles(60)
    assert max(b - a for a, b in itertools.pairwise(track)) == pytest.approx(0.4, rel=0.01)
    bench.ok("stop_program")
    stopped = bench.cycles(30)
    assert stopped[-1] == stopped[-10] < 40
    bench.refused("rapid_rate", rate_value=1.5)


def test_servo_steps_are_played_one_per_cycle_and_interpolated() -> None:
    bench = Bench(servo=True, servo_lead_periods=0)
    assert bench.servo(1.0)["errorCode"] == "0"
    bench.servo(3.0, steps=2)
    bench.servo(0.5, relFlag=1)
    assert bench.cycles(4) == pytest.approx([1.0, 2.0, 3.0, 3.5])
    assert bench.log.counters.missed == 0
    # The frames stop: the arm stays where it was commanded last, and every cycle of that is counted.
    assert bench.cycles(3) == pytest.approx([3.5] * 3)
    assert bench.log.counters.missed == 3


def test_the_lead_delays_the_first_target_by_one_cycle() -> None:
    bench = Bench(servo=True)
    assert bench.cycles(3) == [0.0] * 3
    assert bench.log.counters.missed == 0, "nothing is missed before the first target"
    bench.servo(1.0)
    bench.servo(2.0)
    assert bench.cycles(3) == pytest.approx([0.0, 1.0, 2.0])
    assert bench.log.counters.missed == 0


def test_steps_above_180_deg_s_are_acknowledged_without_effect() -> None:
    bench = Bench(servo=True, servo_lead_periods=0)
    assert bench.servo(1.44)["errorCode"] == "0"
    assert bench.servo(1.44 + 1.45)["errorCode"] == "0"
    assert bench.servo(1.44 + 1.0)["errorCode"] == "0"
    assert bench.cycles(3)[-1] == pytest.approx(2.44)
    counters = bench.log.counters
    assert (counters.received, counters.queued, counters.ineffective) == (3, 2, 1)
    assert bench.servo(2.44 + 2.8, steps=2)["errorCode"] == "0"
    assert bench.cycles(2)[-1] == pytest.approx(5.24), "the same step over two periods is slow enough"


def test_the_servo_queue_is_bounded() -> None:
    bench = Bench(servo=True, servo_depth=5)
    replies = [bench.servo(0.1 * i)["errorCode"] for i in range(1, 8)]
    assert replies == ["0"] * 5 + ["2"] * 2
    bench.cycles(10)
    assert bench.one() == pytest.approx(0.5)
    assert bench.log.counters.refused == 2


def test_servo_commands_are_checked() -> None:
    bench = Bench()
    assert "not in servo mode" in bench.servo(0.0)["errorMsg"]
    bench.ok("servo_move", relFlag=1)
    assert bench.ok("is_in_servomove")["in_servomove"] is True
    assert "outside servo mode" in bench.refused("set_servo_move_filter", filter_type=0)
    assert "in servo mode" in bench.refused("joint_move", relFlag=0, jointPosition=[0] * 6, speed=1, accel=1)
    assert "soft limit: joint 3" in bench.refused("servo_j", relFlag=0, jointPosition=[0, 0, 130, 0, 0, 0], stepNum=100)
    for bad in ({"stepNum": 0}, {"stepNum": 1.5}, {"jointPosition": [0] * 7}, {"jointPosition": "x"}, {"relFlag": 3}):
        bench.refused("servo_j", "1", **{"relFlag": 0, "jointPosition": [0] * 6, "stepNum": 1, **bad})
    assert bench.log.counters.refused == 7
    bench.ok("servo_move", relFlag=0)
    bench.ok("set_servo_move_filter", filter_type=1, lpf_cf=5)
    bench.refused("set_servo_move_filter", "1", filter_type=1)
    bench.refused("set_servo_move_filter", filter_type=9)


def test_servo_p_follows_the_pose() -> None:
    bench = Bench()
    bench.ok("joint_move", relFlag=0, jointPosition=[0, 15, 75, 0, 70, 0], speed=170, accel=1000)
    bench.cycles(120)
    bench.ok("servo_move", relFlag=1)
    pose = bench.ok("get_tcp_pos")["tcp_pos"]
    pose[2] -= 1.0
    bench.ok("servo_p", catPosition=pose, relFlag=0, stepNum=1)
    bench.ok("servo_p", catPosition=[0, 0, -1.0, 0, 0, 0], relFlag=1, stepNum=1)
    bench.cycles(4)
    assert bench.ok("get_tcp_pos")["tcp_pos"][2] == pytest.approx(pose[2] - 1.0, abs=0.01)


def test_lost_frames_are_acknowledged_and_missed() -> None:
    bench = Bench(servo=True, servo_lead_periods=0)
    bench.servo(0.5)
    bench.faults.lose_servo_frames = 1
    assert bench.servo(1.0)["errorCode"] == "0"
    assert bench.cycles(2) == pytest.approx([0.5, 0.5])
    bench.servo(1.5)
    assert bench.one() == pytest.approx(1.5)
    assert (bench.log.counters.lost, bench.log.counters.missed) == (1, 1)


def test_protective_stop_ends_servo_mode_until_cleared() -> None:
    bench = Bench(servo=True, servo_lead_periods=0)
    for i in range(10):
        bench.servo(i * 0.1)
    bench.cycles(3)
    bench.faults.protective_stop = True
    assert bench.cycles(5) == pytest.approx([0.2] * 5)
    assert bench.ok("protective_stop_status")["protective_stop"] == "1"
    assert "protective stop" in bench.servo(0.3)["errorMsg"]
    assert "protective stop" in bench.refused("servo_move", relFlag=1)
    assert bench.controller.snapshot.error_code != 0
    bench.ok("clear_error")
    assert bench.ok("protective_stop_status")["protective_stop"] == "0"
    bench.ok("servo_move", relFlag=1)


def test_emergency_stop_takes_power_and_needs_a_release() -> None:
    bench = Bench(servo=True)
    bench.faults.emergency_stop = True
    bench.cycles(1)
    state = bench.ok("get_robot_state")
    assert (state["power"], state["enable"]) == ("powered_off", "robot_disabled")
    for command in ("power_on", "enable_robot", "clear_error"):
        assert "emergency stop" in bench.refused(command)
    bench.faults.emergency_stop = False
    bench.cycles(1)
    bench.ok("power_on")
    bench.cycles(1)
    bench.ok("enable_robot")


def test_kinematics_outputs_and_settings() -> None:
    bench = Bench()
    q = [10.0, 20.0, 60.0, 5.0, 70.0, -30.0]
    pose = bench.ok("kine_forward", jointPosition=q)["cartPosition"]
    np.testing.assert_allclose(pose, pose_to_wire(forward(np.radians(q))))
    near = [v + 3 for v in q]
    np.testing.assert_allclose(
        bench.ok("kine_inverse", jointPosition=near, cartPosition=pose)["jointPosition"], q, atol=1e-3
    )
    far = [9e3, 0, 0, 0, 0, 0]
    assert bench.refused("kine_inverse", jointPosition=q, cartPosition=far) == "call kine_inverse failed"
    assert bench.ok("get_dh_param")["d"][0] == pytest.approx(187.0)
    bench.ok("set_digital_output", type=1, index=0, value=1)
    bench.ok("set_digital_output", type=0, index=3, value=1)
    bench.cycles(1)
    assert bench.plant.tool_outputs == {0: True}
    assert bench.controller.snapshot.cabinet_outputs[3] == 1
    bench.refused("set_digital_output", type=1, index=2, value=1)
    bench.refused("set_digital_output", type=2, index=0, value=1)
    bench.refused("set_digital_output", "1", type=1, index=0, value="on")
    bench.ok("set_payload", mass=0.5, centroid=[0, 0, 30])
    bench.ok("set_clsn_sensitivity", sensitivityVal=3)
    bench.refused("set_clsn_sensitivity", sensitivityVal=6)
    bench.ok("set_network_exception_handle", timeLimit=100, motType=2)
    assert "unknown command" in bench.refused("fly")


def test_a_late_cycle_leaves_motion_out_instead_of_falling_behind() -> None:
    bench = Bench(servo=True, servo_lead_periods=1)
    for i in range(1, 9):
        bench.servo(i * 0.5)
    bench.cycles(2)
    bench.controller.cycle(skipped=3)
    assert math.degrees(bench.plant.joint_position_rad()[0]) == pytest.approx(2.5)
    counters = bench.log.counters
    assert (counters.trimmed, counters.late_cycles, counters.missed) == (3, 3, 0)


@given(
    steps=st.lists(st.tuples(st.floats(-3, 3), st.integers(1, 4), st.integers(0, 3)), max_size=40),
    depth=st.integers(2, 30),
)
@settings(max_examples=60, deadline=None)
def test_the_arm_never_exceeds_180_deg_s_in_servo_mode(steps: list[tuple[float, int, int]], depth: int) -> None:
    bench = Bench(servo=True, servo_depth=depth)
    at, track = 0.0, [0.0]
    for delta, count, cycles in steps:
        at += delta
        bench.servo(at, steps=count)
        track += bench.cycles(cycles)
    track += bench.cycles(depth + 2)
    assert np.abs(np.diff(track)).max() <= 1.44 * (1 + 1e-5)
    counters = bench.log.counters
    assert counters.received == len(steps) == counters.queued + counters.ineffective + counters.refused


numbers = st.integers(-3, 3) | st.sampled_from([10**400, 1e308, 0.5, None, "x", True]) | st.floats(-400, 400)
odd_values = numbers | st.lists(numbers, max_size=7) | st.dictionaries(st.text(max_size=2), numbers, max_size=1)
KEYS = (
    "relFlag",
    "jointPosition",
    "stepNum",
    "speed",
    "accel",
    "endPosition",
    "cartPosition",
    "catPosition",
    "type",
    "index",
    "value",
    "mass",
    "centroid",
    "sensitivityVal",
    "rate_value",
    "timeLimit",
    "motType",
    "filter_type",
    "lpf_cf",
    "tol",
)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_command_gets_an_orderly_reply(data: st.DataObject) -> None:
    bench = Bench(servo=data.draw(st.booleans()))
    names = (*bench.controller.commands(), "unknown", "")
    for _ in range(4):
        fields = data.draw(st.dictionaries(st.sampled_from(KEYS), odd_values, max_size=6))
        reply = bench.send(data.draw(st.sampled_from(names)), **fields)
        assert reply["errorCode"] in ("0", "1", "2")
        bench.cycles(2)
        assert np.isfinite(bench.plant.joint_position_rad()).all()


def test_faults_are_checked_all_or_none() -> None:
    faults = Faults()
    with pytest.raises(ValueError, match=r"unknown keys \['dealy_s'\].*delay_s"):
        faults.update({"delay_s": 1.0, "dealy_s": 2.0})
    assert faults == Faults()
    for bad in ({"delay_s": -1}, {"glue_replies": 1.5}, {"protective_stop": 1}, {"garble": "x"}, {"reject": "servo_j"}):
        with pytest.raises(ValueError, match=f"fault: {next(iter(bad))} is .*; expected"):
            faults.update(bad)
        assert faults == Faults()
    faults.update({"delay_s": 1, "reject": ["power_on"], "garble": "malformed"})
    assert faults.rejects("power_on")
    assert not faults.rejects("power_off")
    assert faults.as_dict()["delay_s"] == 1.0


@pytest.mark.parametrize(
    "bad",
    [
        {"servo_depth": 0},
        {"servo_lead_periods": 100},
        {"power_on_s": -1.0},
        {"clock_drift": 0.6},
        {"coast_s": -0.1},
        {"collision_sensitivity": 6},
        {"without_commands": "fly"},
        {"overflow": "x"},
        {"outside_servo": "x"},
    ],
)
def test_configuration_is_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is .*; expected"):
        ControllerConfig(**bad)


def differences(track_deg: list[float]) -> tuple[float, float, float]:
    """Largest velocity, acceleration and jerk of one joint, rad and s, from one position per cycle."""
    q = np.radians([track_deg[0], *track_deg])
    largest = []
    for _ in range(3):
        q = np.diff(q) / 0.008
        largest.append(float(np.abs(q).max()))
    return largest[0], largest[1], largest[2]


def test_when_the_commands_stop_the_arm_may_go_on_at_its_last_velocity_for_a_while() -> None:
    bench = Bench(servo=True, servo_lead_periods=0, without_commands="coast", coast_s=0.04)
    for i in range(1, 4):
        bench.servo(0.5 * i)
    assert bench.cycles(3)[-1] == pytest.approx(1.5)
    assert bench.cycles(8) == pytest.approx([2.0, 2.5, 3.0, 3.5, 4.0, 4.0, 4.0, 4.0])
    assert (bench.log.counters.missed, bench.log.counters.coasted) == (8, 5)
    assert not bench.controller.snapshot.moving
    bench.servo(4.5)
    assert bench.cycles(3) == pytest.approx([4.5, 5.0, 5.5]), "what comes later starts where the arm has got to"
    bench.ok("servo_move", relFlag=0)
    assert bench.cycles(3) == pytest.approx([5.5] * 3), "leaving servo mode ends it"


def test_coasting_ends_at_the_soft_limit() -> None:
    bench = Bench(without_commands="coast", coast_s=5.0)
    bench.ok("joint_move", relFlag=0, jointPosition=[0, 0, 124, 0, 0, 0], speed=180, accel=5000)
    bench.cycles(200)
    bench.ok("servo_move", relFlag=1)
    bench.ok("servo_j", relFlag=0, jointPosition=[0, 0, 124.1, 0, 0, 0], stepNum=1)
    bench.ok("servo_j", relFlag=0, jointPosition=[0, 0, 124.2, 0, 0, 0], stepNum=1)
    bench.cycles(100)
    assert math.degrees(bench.plant.joint_position_rad()[2]) <= math.degrees(2.18) + 1e-6
    assert bench.controller.snapshot.on_soft_limit


@pytest.mark.parametrize(("overflow", "end", "lost"), [("drop_newest", 0.5, 2), ("drop_oldest", 0.7, 0)])
def test_a_full_queue_may_lose_commands_without_a_word(overflow: str, end: float, lost: int) -> None:
    bench = Bench(servo=True, servo_depth=5, overflow=overflow)
    assert [bench.servo(0.1 * i)["errorCode"] for i in range(1, 8)] == ["0"] * 7
    assert bench.cycles(10)[-1] == pytest.approx(end)
    assert bench.log.counters.lost == lost


def test_servo_mode_is_lost_without_a_word() -> None:
    bench = Bench(servo=True, servo_lead_periods=0, outside_servo="ignore")
    bench.servo(0.5)
    bench.servo(1.0)
    bench.one()
    bench.faults.servo_mode_lost = True
    assert bench.cycles(2) == pytest.approx([0.5, 0.5])
    assert bench.servo(1.0)["errorCode"] == "0"
    assert bench.cycles(2) == pytest.approx([0.5, 0.5])
    assert bench.controller.snapshot.error_code == 0
    assert bench.ok("is_in_servomove")["in_servomove"] is False
    assert not bench.faults.servo_mode_lost, "once"


@pytest.mark.parametrize("modes_refuse", [True, False])
def test_drag_and_manual_mode(modes_refuse: bool) -> None:
    bench = Bench(servo=True, servo_lead_periods=0, modes_refuse=modes_refuse)
    bench.servo(1.0)
    bench.one()
    bench.faults.update({"drag": True, "hand_speed_rad_s": 0.5})
    track = bench.cycles(11)
    assert track[10] - track[0] == pytest.approx(math.degrees(0.5 * 0.08), rel=1e-6), "the hand moves it"
    assert not bench.controller.snapshot.servo_mode
    assert bench.controller.snapshot.drag
    assert (bench.send("servo_move", relFlag=1)["errorCode"] == "2") is modes_refuse
    if not modes_refuse:
        assert bench.cycles(3) == pytest.approx([track[-1]] * 3), "servo mode takes the arm out of the hand"
    bench.faults.update({"drag": False, "manual": True})
    bench.cycles(1)
    bench.ok("servo_move", relFlag=0)
    assert bench.controller.snapshot.manual
    reply = bench.send("joint_move", relFlag=0, jointPosition=[0] * 6, speed=1, accel=1)
    assert (reply["errorCode"] == "2") is modes_refuse


def test_a_reboot_forgets_everything_but_the_position() -> None:
    bench = Bench(servo=True, servo_lead_periods=0)
    bench.ok("set_payload", mass=0.5, centroid=[0, 0, 30])
    bench.ok("set_digital_output", type=1, index=0, value=1)
    bench.servo(1.0)
    bench.one()
    bench.faults.reboot_s = 0.08
    bench.cycles(1)
    assert bench.controller.offline
    bench.cycles(10)
    assert not bench.controller.offline
    state = bench.controller.snapshot
    assert (state.powered, state.enabled, state.servo_mode, state.tool_outputs) == (False, False, False, (0, 0))
    assert bench.controller.settings == {}
    assert bench.plant.tool_outputs[0] is False
    assert bench.one() == pytest.approx(1.0)


def test_power_loss_may_clear_the_tool_outputs() -> None:
    for clears in (False, True):
        bench = Bench(power_loss_clears_outputs=clears)
        bench.ok("set_digital_output", type=1, index=0, value=1)
        bench.cycles(1)
        bench.faults.emergency_stop = True
        bench.cycles(2)
        assert bench.plant.tool_outputs[0] is not clears
        assert bench.controller.snapshot.tool_outputs == (int(not clears), 0)


class Blocked(KinematicPlant):
    """An arm that something holds back at 1 degree of joint 1, with 2000 N per rad."""

    def advance(self, dt_s: float) -> None:
        wanted = self._target_rad.copy()
        self._force_n = 2000.0 * max(0.0, wanted[0] - math.radians(1.0))
        self._target_rad[0] = min(wanted[0], math.radians(1.0))
        self._position_rad = self._target_rad


@pytest.mark.parametrize(("sensitivity", "felt_n"), [(0, math.inf), (1, 25.0), (5, 125.0)])
def test_a_collision_trips_the_protective_stop_where_the_arm_stands(sensitivity: int, felt_n: float) -> None:
    bench = Bench(servo=True, servo_lead_periods=0, plant=Blocked())
    bench.ok("set_clsn_sensitivity", sensitivityVal=sensitivity)
    assert bench.controller.settings["set_clsn_sensitivity"] == {"sensitivityVal": sensitivity}
    at = 0.0
    while not bench.controller.snapshot.protective_stop and at < 10.0:
        at += 0.1
        bench.servo(at)
        bench.one()
    state = bench.controller.snapshot
    if sensitivity == 0:
        assert not state.protective_stop
        return
    assert 2000.0 * math.radians(at - 0.1 - 1.0) <= felt_n < 2000.0 * math.radians(at - 1.0)
    np.testing.assert_array_equal(state.commanded_rad, state.measured_rad)
    assert math.degrees(state.measured_rad[0]) == pytest.approx(1.0)
    bench.ok("clear_error")
    bench.ok("servo_move", relFlag=1)
    bench.servo(-0.5, relFlag=1)
    assert bench.cycles(2)[-1] == pytest.approx(0.5), "commands from where the arm stands take effect"


def test_the_flange_does_not_get_below_a_table() -> None:
    home = np.array([0.0, 0.0, np.pi / 2, 0.0, np.pi / 2, 0.0])
    height = float(forward(home)[2, 3])
    bench = Bench(servo=True, plant=KinematicPlant(home, table_z_m=height - 0.01), collision_sensitivity=3)
    for i in range(1, 200):
        bench.send("servo_j", relFlag=0, jointPosition=[0, 0, 90 + 0.2 * i, 0, 90 - 0.2 * i, 0], stepNum=1)
        bench.one()
        if bench.controller.snapshot.protective_stop:
            break
    assert "collision" in bench.controller.snapshot.error_text
    assert forward(bench.plant.joint_position_rad())[2, 3] >= height - 0.01


def test_every_stop_leaves_the_command_at_the_measured_position() -> None:
    for stop in ({"protective_stop": True}, {"emergency_stop": True}, {"drag": True}, {"reboot_s": 0.1}):
        bench = Bench(servo=True, servo_lead_periods=0, plant=Blocked())
        for i in range(1, 6):
            bench.servo(0.5 * i)
        bench.cycles(5)
        bench.faults.update(stop)
        bench.cycles(1)
        assert math.degrees(bench.controller.snapshot.commanded_rad[0]) == pytest.approx(1.0), stop


def test_a_measured_position_may_be_wrong() -> None:
    bench = Bench()
    bench.faults.measured_offset_rad = 1.5
    bench.cycles(1)
    assert bench.controller.snapshot.measured_rad[0] == pytest.approx(1.5)
    assert bench.controller.snapshot.commanded_rad[0] == 0.0


@pytest.mark.parametrize(("action", "acts"), [(0, True), (1, True), (2, True), (2, False)])
def test_the_network_exception_handle_acts_when_the_client_is_silent(action: int, acts: bool) -> None:
    bench = Bench(servo=True, servo_lead_periods=0, without_commands="coast", network_exception_acts=acts)
    bench.ok("set_network_exception_handle", timeLimit=40, motType=action)
    bench.servo(0.5)
    bench.servo(1.0)
    track = bench.cycles(20)
    state = bench.controller.snapshot
    if action == 0 or not acts:
        assert track[-1] == pytest.approx(10.0), "it coasts on"
        return
    assert track[-1] == pytest.approx(2.5), "5 cycles of 8 ms after the last command"
    assert (state.servo_mode, state.paused) == ((True, True) if action == 1 else (False, False))
    assert (bench.servo(3.0)["errorCode"] == "0") is (action == 1)
    if action == 1:
        assert bench.one() == pytest.approx(3.0)
        assert not bench.controller.snapshot.paused


def test_the_network_exception_handle_stops_planned_motion() -> None:
    bench = Bench()
    bench.ok("set_network_exception_handle", timeLimit=100, motType=2)
    bench.ok("joint_move", relFlag=0, jointPosition=[90, 0, 0, 0, 0, 0], speed=45, accel=400)
    track = bench.cycles(60)
    assert track[-1] == track[-20] < 10.0
    bench.ok("joint_move", relFlag=0, jointPosition=[20, 0, 0, 0, 0, 0], speed=90, accel=400)
    for _ in range(60):
        bench.ok("get_joint_pos")
        bench.one()
    assert bench.one() == pytest.approx(20.0), "a client that is heard is no exception"


NLF = {"filter_type": 2, "nlf_max_vr": 110.0, "nlf_max_ar": 570.0, "nlf_max_jr": 5700.0}
NLF_RAD = [math.radians(v) for v in (110.0, 570.0, 5700.0)]


def smooth_deg(count: int) -> NDArray[np.float64]:
    """Joint 1 swaying by 40 deg, from rest, within the filter's limits."""
    return np.asarray(20.0 * (1.0 - np.cos(2.0 * 0.008 * np.arange(1, count + 1))))


def test_the_filter_lets_pass_what_is_within_its_limits() -> None:
    bench = Bench()
    bench.ok("set_servo_move_filter", **NLF)
    bench.ok("servo_move", relFlag=1)
    assert "outside servo mode" in bench.refused("set_servo_move_filter", filter_type=0)
    wanted = smooth_deg(300)
    track = []
    for q in wanted:
        bench.servo(float(q))
        track.append(bench.one())
    np.testing.assert_allclose(track[1:], wanted[:-1], atol=1e-9)  # the lead of one period


@pytest.mark.parametrize("stall", [1, 2, 5, 40, 400])
@pytest.mark.parametrize("coast", [False, True])
def test_the_filter_bounds_the_arm_when_commands_fail_to_come(stall: int, coast: bool) -> None:
    bench = Bench(servo_lead_periods=0, without_commands="coast" if coast else "stop", coast_s=0.2)
    bench.ok("set_servo_move_filter", **NLF)
    bench.ok("servo_move", relFlag=1)
    wanted = smooth_deg(300)
    track = [0.0]
    for q in wanted[:80]:
        bench.servo(float(q))
        track.append(bench.one())
    track += bench.cycles(stall)
    # They begin again from rest at the last command, as the executor does after a stall: by steps that are too large.
    for q in np.linspace(track[-1], track[-1] + 20.0, 60):
        bench.servo(float(q))
        track.append(bench.one())
    track += bench.cycles(100)
    assert all(found <= limit * (1 + 1e-6) for found, limit in zip(differences(track), NLF_RAD, strict=True))
    assert not bench.controller.snapshot.moving
    if not coast:
        assert track[-1] == pytest.approx(math.degrees(bench.controller.snapshot.commanded_rad[0]))


def test_the_filter_brings_the_arm_to_rest_when_servo_mode_ends() -> None:
    for end in ("servo_move", "lost", "network"):
        bench = Bench(servo_lead_periods=0)
        bench.ok("set_servo_move_filter", **NLF)
        bench.ok("set_network_exception_handle", timeLimit=40, motType=2)
        bench.ok("servo_move", relFlag=1)
        track = [0.0]
        for q in smooth_deg(80):
            bench.servo(float(q))
            track.append(bench.one())
        if end == "servo_move":
            bench.ok("servo_move", relFlag=0)
        bench.faults.servo_mode_lost = end == "lost"
        if end != "network":
            track.append(bench.one())
            assert "moving" in bench.refused("servo_move", relFlag=1)
        track += bench.cycles(100)
        assert not bench.controller.snapshot.servo_mode, end
        assert all(found <= limit * (1 + 1e-6) for found, limit in zip(differences(track), NLF_RAD, strict=True)), end
        assert track[-1] == track[-2]
        bench.ok("servo_move", relFlag=1)


def test_a_filter_without_effect_and_other_types_change_nothing() -> None:
    for config, message in (({"filter_acts": False}, NLF), ({}, {"filter_type": 1, "lpf_cf": 5})):
        bench = Bench(servo_lead_periods=0, **config)
        bench.ok("set_servo_move_filter", **message)
        assert bench.controller.settings["set_servo_move_filter"]["filter_type"] == message["filter_type"]
        bench.ok("servo_move", relFlag=1)
        bench.servo(1.4)
        assert bench.one() == pytest.approx(1.4)


@given(
    targets=st.lists(st.tuples(st.floats(-40, 40), st.integers(1, 30)), min_size=1, max_size=8),
    limits=st.tuples(st.floats(10, 180), st.floats(50, 2000), st.floats(500, 20000)),
)
@settings(max_examples=60, deadline=None)
def test_the_filter_keeps_its_limits_whatever_is_asked(
    targets: list[tuple[float, int]], limits: tuple[float, float, float]
) -> None:
    bounds = [math.radians(v) for v in limits]
    nlf = NonlinearFilter(FilterLimits(*bounds))
    track = [0.0]
    for q, count in targets:
        track += [math.degrees(nlf.follow(np.full(6, math.radians(q)))[0]) for _ in range(count)]
    last = track[-1]
    track += [math.degrees(nlf.brake()[0]) for _ in range(2)]
    assert all(found <= bound * (1 + 1e-6) for found, bound in zip(differences(track), bounds, strict=True)), last
