"""The executor node with its servo process and the emulated controller: motion, faults, deaths."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_harness import World, fails_to_start, running, wait_until
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from lavla_ros.contract import ActionChunk, load_contract
from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.ros.lifecycle import stamp_to_ns
from lavla_ros.ros.messages import CHUNK_QOS, LATCHED_INPUT_QOS, STATE_QOS, chunk_to_trajectory
from sim_bridges.jaka_controller.emulator import emulator_command

MODULE = "lavla_ros.nodes.executor_node"
CONTRACT = load_contract("jaka_minicobo")


class Arm:
    """What the test sees of the executor."""

    def __init__(self, world: World) -> None:
        self.states = world.collect(JointState, "/joint_states", STATE_QOS)
        self.commands = world.collect(JointTrajectory, "/joint_command", STATE_QOS)
        self.announced = world.collect(String, "/executor/state", LATCHED_INPUT_QOS)
        self._chunks: Any = None
        self._world = world

    @property
    def state(self) -> str:
        return json.loads(self.announced[-1].data)["state"] if self.announced else ""

    def said(self, key: str) -> Any:
        return json.loads(self.announced[-1].data)[key] if self.announced else None

    @property
    def fault(self) -> str:
        return str(json.loads(self.announced[-1].data)["fault"])

    def position(self) -> dict[str, float]:
        wait_until(lambda: self.states, "joint states")
        return dict(zip(self.states[-1].name, self.states[-1].position, strict=True))

    def send(
        self, offset_rad: float, steps: int = 10, gripper: float = 1.0, shuffled: bool = True, source: str = ""
    ) -> None:
        """A chunk that moves joint 1 by ``offset_rad``; names in another order than the contract's."""
        if self._chunks is None:
            self._chunks = self._world.publisher(JointTrajectory, "/action_chunk", CHUNK_QOS)
        now = self.position() | {"gripper": gripper}
        names = CONTRACT.action.names[::-1] if shuffled else CONTRACT.action.names
        start = np.array([now[n] for n in names])
        goal = start + np.array([offset_rad if n == "joint_1" else 0.0 for n in names])
        ramp = np.linspace(1 / steps, 1.0, steps)[:, None]
        chunk = ActionChunk(
            stamp_ns=time.time_ns(), dt_ns=CONTRACT.dt_ns, actions_HA=start + ramp * (goal - start), names=names
        )
        self._chunks.publish(chunk_to_trajectory(chunk, source))


def test_moves_by_name_and_holds_when_the_chunk_runs_out(
    world: World, tmp_path: Path, controller: dict[str, Any]
) -> None:
    arm, diagnostics = Arm(world), world.diagnostics()
    with running(MODULE, "executor", tmp_path, **controller):
        wait_until(lambda: arm.state == "holding", "holding after activation")
        before = arm.position()
        arm.send(0.2, gripper=0.0)
        wait_until(lambda: arm.state == "tracking", "tracking")
        wait_until(lambda: arm.state == "holding", "holding at the chunk's end")
        # It comes to rest a little behind the last point: the chunk has no newer one after it, and moves at its end.
        wait_until(lambda: 0.19 < arm.position()["joint_1"] - before["joint_1"] < 0.22, "joint 1 at its goal")
        for name in CONTRACT.action.names[1:6]:
            assert abs(arm.position()[name] - before[name]) < 1e-3
        assert arm.position()["gripper"] == pytest.approx(0.0, abs=0.3)
        stamps = np.diff([stamp_to_ns(c.header.stamp) for c in arm.commands])
        assert set(stamps % 8_000_000) == {0}, "commands lie on the 8 ms grid"
        assert np.mean(stamps == 8_000_000) > 0.95
        assert {stamp_to_ns(c.points[0].time_from_start) for c in arm.commands} == {8_000_000}
        measured = np.diff([stamp_to_ns(s.header.stamp) for s in arm.states])
        assert (measured > 0).all() and np.median(measured) < 20e6  # 8 ms on a quiet machine
        wait_until(lambda: float(diagnostics.values("executor").get("tick_rate_hz", 0)) > 100, "125 Hz in diagnostics")
        assert diagnostics.values("executor")["chunks.accepted"] == "1"


def test_refuses_malformed_chunks_and_obeys_hold(world: World, tmp_path: Path, controller: dict[str, Any]) -> None:
    arm, diagnostics = Arm(world), world.diagnostics()
    with running(MODULE, "executor", tmp_path, **controller):
        wait_until(lambda: arm.state == "holding", "holding after activation")
        arm.send(0.1)
        wait_until(lambda: arm.state == "tracking", "tracking")
        assert world.call("/executor/hold").success
        wait_until(lambda: arm.state == "holding", "holding as asked")
        arm.send(0.1)
        wait_until(lambda: diagnostics.values("executor").get("chunks.refused") == "1", "a refusal while held")
        assert world.call("/executor/resume").success
        message = chunk_to_trajectory(
            ActionChunk(stamp_ns=time.time_ns(), dt_ns=CONTRACT.dt_ns, actions_HA=np.zeros((2, 2)), names=("a", "b"))
        )
        arm._chunks.publish(message)
        wait_until(lambda: diagnostics.values("executor").get("chunks.malformed") == "1", "a malformed chunk")
        assert "missing ['gripper', 'joint_1'" in diagnostics.values("executor")["last_refusal"]


def test_protective_stop_is_latched_until_acknowledged(
    world: World, tmp_path: Path, controller: dict[str, Any]
) -> None:
    arm, diagnostics = Arm(world), world.diagnostics()
    with running(MODULE, "executor", tmp_path, **controller):
        wait_until(lambda: arm.state == "holding", "holding after activation")
        emulator_command("127.0.0.1", controller["arm.port"], fault={"protective_stop": True})
        wait_until(lambda: arm.state == "fault", "fault")
        assert "protective" in arm.fault
        wait_until(lambda: "protective" in diagnostics.message("executor"), "the fault in diagnostics")
        answer = world.call("/executor/acknowledge", timeout_s=40.0)
        assert answer.success, answer.message
        wait_until(lambda: arm.state == "holding" and "protective" in arm.said("held"), "held after acknowledging")
        assert arm.said("waiting_for") == "resume"
        arm.send(0.05)
        time.sleep(0.3)
        assert arm.state == "holding", "acknowledging is not resuming"
        answer = world.call("/executor/resume")
        assert answer.success, answer.message
        wait_until(lambda: arm.said("held") is None and arm.said("waiting_for") == "a chunk", "no hold any more")
        arm.send(0.05)
        wait_until(lambda: arm.state == "tracking", "tracking again")


def test_a_broken_chunk_latches_until_acknowledged_and_resumed_also_across_deactivation(
    world: World, tmp_path: Path, controller: dict[str, Any]
) -> None:
    arm = Arm(world)
    with running(MODULE, "executor", tmp_path, **controller):
        wait_until(lambda: arm.state == "holding", "holding after activation")
        arm.send(float("nan"))
        wait_until(lambda: "nan" in arm.fault, "the fault")
        assert arm.said("waiting_for") == "acknowledge"
        assert change(world, Transition.TRANSITION_DEACTIVATE)
        assert not servo_mode(controller)
        assert not change(world, Transition.TRANSITION_ACTIVATE), "activated in spite of a fault"
        assert "nan" in arm.fault
        answer = world.call("/executor/acknowledge")
        assert answer.success, answer.message
        wait_until(lambda: arm.said("fault") is None, "no fault any more")
        assert change(world, Transition.TRANSITION_ACTIVATE)
        arm.send(float("nan"))
        wait_until(lambda: "nan" in arm.fault, "another fault")
        assert world.call("/executor/acknowledge").success
        wait_until(lambda: "nan" in str(arm.said("held")), "held after acknowledging")
        assert arm.state == "holding" and arm.said("waiting_for") == "resume"
        arm.send(0.05)
        time.sleep(0.3)
        assert arm.state == "holding", "acknowledging is not resuming"
        assert world.call("/executor/resume").success
        arm.send(0.05)
        wait_until(lambda: arm.state == "tracking", "tracking again")
        assert arm.said("waiting_for") == "" and arm.said("held") is None


def test_two_publishers_of_chunks_command_nothing(world: World, tmp_path: Path, controller: dict[str, Any]) -> None:
    arm, diagnostics = Arm(world), world.diagnostics()
    with running(MODULE, "executor", tmp_path, **controller):
        wait_until(lambda: arm.state == "holding", "holding after activation")
        arm.send(0.3, steps=20)
        wait_until(lambda: arm.state == "tracking", "tracking")
        rival = Node("teleop", context=world.context)
        try:
            rival.create_publisher(JointTrajectory, "/action_chunk", CHUNK_QOS)
            wait_until(lambda: "/teleop" in arm.fault and "/world" in arm.fault, "a fault that names both")
            assert world.call("/executor/acknowledge").success
            answer = world.call("/executor/resume")
            assert not answer.success and "/teleop" in answer.message
            arm.send(0.05)
            wait_until(lambda: diagnostics.values("executor").get("chunks.contested"), "a refused chunk")
        finally:
            rival.destroy_node()
        wait_until(lambda: world.call("/executor/resume").success, "resuming with one publisher")
        arm.send(0.05)
        wait_until(lambda: arm.state == "tracking", "tracking again")


def test_floods_cost_neither_the_heartbeat_nor_the_motion(world: World, tmp_path: Path) -> None:
    arm, diagnostics = Arm(world), world.diagnostics()
    with running(MODULE, "executor", tmp_path, loopback=True):
        wait_until(lambda: arm.state == "holding", "holding after activation")
        arm.send(0.0)
        wait_until(lambda: arm.state == "tracking", "tracking")
        flood = JointTrajectory(joint_names=list(CONTRACT.action.names))
        flood.points = [JointTrajectoryPoint(positions=[0.0] * 7)] * 100_000
        seen = len(arm.announced)
        arm._chunks.publish(flood)
        wait_until(lambda: "bytes" in diagnostics.values("executor").get("last_refusal", ""), "a refusal by length")
        time.sleep(0.5)
        assert not any("silent" in m.data for m in list(arm.announced)[seen:]), "the heartbeat stopped"
        arm.send(0.0, steps=CONTRACT.chunk_size)
        wait_until(lambda: arm.state == "tracking", "tracking after the flood")


def test_the_speed_is_set_while_running(world: World, tmp_path: Path) -> None:
    arm = Arm(world)
    with running(MODULE, "executor", tmp_path, loopback=True):
        wait_until(lambda: arm.state == "holding", "holding after activation")
        assert set_parameter(world, "speed_scale", 0.1)
        assert not set_parameter(world, "speed_scale", 3.0)
        assert not set_parameter(world, "max_chunk_age_s", 3.0)
        begin = len(arm.commands)
        arm.send(0.4, steps=10)
        wait_until(lambda: arm.state == "tracking", "tracking")
        wait_until(lambda: arm.state == "holding", "holding at the chunk's end")
        commands = list(arm.commands)[begin:]
        moved = np.array([c.points[0].positions for c in commands])
        stamps = np.array([stamp_to_ns(c.header.stamp) for c in commands]) * 1e-9
        speed = np.abs(np.diff(moved, axis=0)).max(axis=1) / np.diff(stamps)
        assert 0.05 < speed.max() <= 0.157 + 1e-3


def test_whoever_is_not_approved_is_followed_at_a_quarter(world: World, tmp_path: Path) -> None:
    arm, approved, diagnostics = Arm(world), tmp_path / "mine.yaml", world.diagnostics()
    approved.write_text("approved: [{source: checked}]")
    late = {"max_engage_jump_rad": 3.0, "max_start_jump_rad": 3.0, "engage_ramp_s": 0.0}  # on a busy machine
    with running(MODULE, "executor", tmp_path, loopback=True, approved=str(approved), **late):
        wait_until(lambda: arm.state == "holding", "holding after activation")
        for source, least, most in (("", 0.2, 0.25), ("another", 0.2, 0.25), ("checked", 0.3, 1.0)):
            begin = len(arm.commands)
            arm.send(1.0, steps=20, source=source)
            wait_until(lambda: arm.state == "tracking", "tracking")
            said = arm.said("slow")
            wait_until(lambda: arm.state == "holding", "holding at the chunk's end")
            commands = list(arm.commands)[begin:]
            moved = np.array([c.points[0].positions for c in commands])
            stamps = np.array([stamp_to_ns(c.header.stamp) for c in commands]) * 1e-9
            speed = np.abs(np.diff(moved, axis=0)).max(axis=1) / np.diff(stamps) / 1.57
            assert least < speed.max() <= most + 1e-3, source
            assert (source == "checked") == (said == "") and source in said + source
            assert source != "another" or "{source: another}" in said
        wait_until(lambda: diagnostics.values("executor").get("chunks.accepted") == "3", "three chunks in diagnostics")


@pytest.mark.parametrize(("ended_by", "text"), [(signal.SIGKILL, "ended"), (signal.SIGSTOP, "not ticked")])
def test_a_servo_process_that_dies_or_freezes_is_reported_and_servo_mode_left(
    world: World, tmp_path: Path, controller: dict[str, Any], ended_by: int, text: str
) -> None:
    arm, diagnostics = Arm(world), world.diagnostics()
    with running(MODULE, "executor", tmp_path, **controller) as process:
        wait_until(lambda: arm.state == "holding", "holding after activation")
        arm.send(0.4, steps=20)
        wait_until(lambda: arm.state == "tracking", "tracking")
        assert servo_mode(controller)
        os.kill(_servo_process_of(process.popen.pid), ended_by)
        wait_until(lambda: arm.state == "fault" and "servo process" in arm.fault, "the fault in /executor/state")
        wait_until(lambda: text in diagnostics.message("executor"), "the reason in diagnostics")
        wait_until(lambda: not servo_mode(controller), "servo mode left in its place")
        assert not world.call("/executor/acknowledge").success


def test_death_of_the_node_stops_the_arm(world: World, tmp_path: Path, controller: dict[str, Any]) -> None:
    arm = Arm(world)
    with running(MODULE, "executor", tmp_path, **controller) as process:
        wait_until(lambda: arm.state == "holding", "holding after activation")
        servo = _servo_process_of(process.popen.pid)
        arm.send(0.4, steps=20)
        wait_until(lambda: arm.state == "tracking", "tracking")
        process.kill()
        process.popen.returncode = 0  # its end is not what is tested
    time.sleep(1.5)

    def joints() -> Any:
        return emulator_command("127.0.0.1", controller["arm.port"], query="state")["state"]["measured_rad"]

    first = joints()
    time.sleep(0.5)
    assert joints() == first, "the arm still moves"
    with contextlib.suppress(ProcessLookupError):
        os.kill(servo, signal.SIGTERM)


def test_unreachable_and_wrong_controllers(tmp_path: Path, controller: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = free.getsockname()[1]
    text = fails_to_start(MODULE, "executor", tmp_path, **{"arm.port": closed, "arm.status_port": closed})
    assert f"127.0.0.1:{closed}" in text
    emulator_command("127.0.0.1", controller["arm.port"], fault={"emergency_stop": True})
    text = fails_to_start(MODULE, "executor", tmp_path, **controller)
    assert "emergency stop" in text


def servo_mode(controller: dict[str, Any]) -> bool:
    return bool(emulator_command("127.0.0.1", controller["arm.port"], query="state")["state"]["servo_mode"])


def change(world: World, transition: int) -> bool:
    """Ask the executor for a lifecycle transition; whether it succeeded."""
    client = world.node.create_client(ChangeState, "/executor/change_state")
    assert client.wait_for_service(10.0)
    future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
    wait_until(future.done, "a lifecycle transition", 30.0)
    return bool(future.result().success)


def set_parameter(world: World, name: str, value: float) -> bool:
    """Set a parameter of the running executor; whether it was accepted."""
    client = world.node.create_client(SetParameters, "/executor/set_parameters")
    assert client.wait_for_service(10.0)
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    future = client.call_async(request)
    wait_until(future.done, f"setting {name}")
    return bool(future.result().results[0].successful)


def _servo_process_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return next(int(child) for child in children if b"servo_process" in Path(f"/proc/{child}/cmdline").read_bytes())


def move_to(world: World, **asked: float | str) -> tuple[bool, str]:
    """What /executor/move_to answers."""
    client = world.node.create_client(SetParametersAtomically, "/executor/move_to")
    assert client.wait_for_service(15.0)
    parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in asked.items()]
    future = client.call_async(SetParametersAtomically.Request(parameters=parameters))
    result = wait_until(lambda: future.done() and future.result(), "an answer").result
    world.node.destroy_client(client)
    return result.successful, result.reason


def test_goes_to_a_pose_that_is_asked_for_and_home_again(
    world: World, tmp_path: Path, controller: dict[str, Any]
) -> None:
    arm = Arm(world)
    with running(MODULE, "executor", tmp_path, **controller):
        wait_until(lambda: arm.state == "holding", "holding after activation")
        joints = {name: p for name, p in arm.position().items() if name != "gripper"}
        goal = joints | {"joint_1": joints["joint_1"] + 0.5, "joint_6": joints["joint_6"] - 0.3}
        done, text = move_to(world, **dict(reversed(goal.items())))
        assert done and "takes" in text, text
        wait_until(lambda: arm.said("commander") == "move", "the move")
        assert arm.state == "tracking"
        done, text = move_to(world, **joints)
        assert not done and "on its way" in text
        arm.send(0.2)
        wait_until(lambda: arm.said("reason") == "arrived at the pose that was asked for", "arriving")
        wait_until(lambda: all(abs(arm.position()[n] - p) < 1e-3 for n, p in goal.items()), "being there")
        assert arm.state == "holding" and arm.said("commander") == "", "the chunk was refused"

        for asked, why in [
            (goal | {"joint_3": 2.5}, "joint_3 would be at 2.5 rad; expected -2.18 to 2.18"),
            (goal | {"joint_3": float("nan")}, "joint_3 would be at nan rad"),
            ({"joint_1": 0.0}, "expected each of"),
            ({"pose": "kitchen"}, "there is no pose 'kitchen'; there are ['home']"),
        ]:
            done, text = move_to(world, **asked)
            assert not done and why in text, text
        answer = world.call("/executor/home")
        assert answer.success and "moving to home" in answer.message
        wait_until(lambda: arm.said("reason") == "arrived at home", "home", timeout_s=30.0)
        home = dict(zip([f"joint_{i}" for i in range(1, 7)], MINICOBO.poses["home"], strict=True))
        wait_until(lambda: all(abs(arm.position()[n] - p) < 1e-3 for n, p in home.items()), "being at home")
        assert move_to(world, pose="home") == (True, "the arm is at home already")

        assert change(world, Transition.TRANSITION_DEACTIVATE)
        answer = world.call("/executor/home")
        assert not answer.success and "waiting for activate" in answer.message
