"""A recorded gamepad moves the arm of a real executor node, takes it from a policy, and gives it back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_harness import World, fails_to_start, refusal, running, wait_until
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.contract import ActionChunk, load_contract
from lavla_ros.nodes.teleop_node import TeleopNode
from lavla_ros.ros.messages import CHUNK_QOS, LATCHED_INPUT_QOS, STATE_QOS, chunk_to_trajectory

EXECUTOR, TELEOP = "lavla_ros.nodes.executor_node", "lavla_ros.nodes.teleop_node"
CONTRACT = load_contract("jaka_minicobo")


def gamepad(folder: Path, *events: tuple[float, str, float], until_s: float) -> str:
    """A recorded stream, with a sign of life every 50 ms."""
    alive = [(0.05 * k, "", 0.0) for k in range(int(until_s / 0.05))]
    file = folder / "gamepad.jsonl"
    file.write_text("\n".join(json.dumps(event) for event in sorted([*events, *alive])))
    return str(file)


class Arm:
    """What is said of the arm, and a policy that wants it to stay where it is."""

    def __init__(self, world: World) -> None:
        self.states = world.collect(JointState, "/joint_states", STATE_QOS)
        self.announced = world.collect(String, "/executor/state", LATCHED_INPUT_QOS)
        self._world = world
        self._policy: Any = None

    def said(self, key: str) -> Any:
        return json.loads(self.announced[-1].data)[key] if self.announced else None

    def commanders(self) -> list[str]:
        """Who had the arm, in turn."""
        said = [json.loads(message.data)["commander"] for message in list(self.announced)]
        return [who for who, _ in groupby(filter(None, said))]

    def joints(self) -> np.ndarray:
        return np.array(self.states[-1].position[:6])

    def policy(self) -> None:
        """One chunk of it."""
        if self._policy is None:
            self._policy = self._world.publisher(JointTrajectory, "/action_chunk", CHUNK_QOS)
        rows = np.tile(np.append(self.joints(), 1.0), (20, 1))
        chunk = ActionChunk(stamp_ns=time.time_ns(), dt_ns=CONTRACT.dt_ns, actions_HA=rows, names=CONTRACT.action.names)
        self._policy.publish(chunk_to_trajectory(chunk))


def test_a_person_takes_the_arm_from_a_policy_and_gives_it_back(world: World, tmp_path: Path) -> None:
    """Again and again: on a busy machine a device may seem to be silent, and has to be pressed again."""
    arm, diagnostics = Arm(world), world.diagnostics()
    turn = [(0.0, "BTN_TL", 1.0), (0.0, "ABS_RY", 1.0), (1.5, "BTN_TL", 0.0), (1.8, "BTN_START", 1.0)]
    turn.append((1.9, "BTN_START", 0.0))
    turns = [(2.0 * k + at, name, value) for k in range(30) for at, name, value in turn]
    device = gamepad(tmp_path, *turns, until_s=60.0)

    def until(what: str, reached: Callable[[], bool]) -> None:
        def there() -> bool:
            arm.policy()
            time.sleep(0.1)
            return reached()

        wait_until(there, what, 60.0)

    with running(EXECUTOR, "executor", tmp_path, loopback=True):
        wait_until(lambda: arm.states and arm.said("state") == "holding", "holding after activation")
        until("the policy has the arm", lambda: bool(arm.said("commander") == "policy"))
        before = arm.joints()
        with running(TELEOP, "teleop", tmp_path, mapping="gamepad", device=device, level=4):
            until("the person has the arm", lambda: bool(arm.said("commander") == "person"))
            until("the arm moves", lambda: bool(np.abs(arm.joints() - before).max() > 0.01))
            until("the policy has it again", lambda: bool(arm.said("commander") == "policy"))
            wait_until(lambda: int(diagnostics.values("executor").get("executor.handed_back", 0)) > 0, "handed back")
    values = diagnostics.values("executor")
    assert int(values["executor.taken_over"]) - int(values["executor.handed_back"]) in (0, 1)
    assert int(values["executor.rejected_person"]) > 0 and "executor.faults" not in values
    assert int(diagnostics.values("teleop")["chunks"]) > 5
    told = arm.commanders()
    assert told[told.index("person") - 1] == "policy" == told[told.index("person") + 1]


def test_a_program_says_what_is_held_and_its_silence_lets_go(world: World, tmp_path: Path) -> None:
    arm, diagnostics = Arm(world), world.diagnostics()
    program = world.publisher(String, "/teleop/events", subscribers=0)

    def holds(what: str, reached: Callable[[], bool]) -> None:
        """On a busy machine what is said may come too late: it lets go, and presses again."""
        said = [{"deadman": 1, "right_y": -1}] * 40 + [{}]

        def there() -> bool:
            program.publish(String(data=json.dumps(said[next(turns) % len(said)])))
            time.sleep(0.05)
            return reached()

        turns = count()
        wait_until(there, what, 60.0)

    with (
        running(EXECUTOR, "executor", tmp_path, loopback=True),
        running(TELEOP, "teleop", tmp_path, mapping="browser", level=4) as node,
    ):
        wait_until(lambda: arm.states and arm.said("state") == "holding", "holding after activation")
        before = arm.joints()
        holds("the arm moves", lambda: bool(np.abs(arm.joints() - before).max() > 0.01))
        assert arm.said("commander") == "person"
        wait_until(lambda: arm.said("waiting_for") == "hand_back", "rest, since nothing is said any more", 5.0)
        wait_until(lambda: "the device has been silent for 0.3 s" in node.output, "why it rests")
        program.publish(String(data='{"deadman": "yes"}'))
        wait_until(lambda: diagnostics.values("teleop").get("refused") == "1", "a message that is refused")
        assert """the message '{"deadman": "yes"}' says no events""" in node.output
        still = arm.joints()
        # Of two who say what is held, none is believed.
        world.publisher(String, "/teleop/events")
        holds("neither is heard", lambda: "one may steer" in node.output)
        assert np.abs(arm.joints() - still).max() < 1e-3


def test_of_two_people_one_commands(world: World, tmp_path: Path) -> None:
    arm = Arm(world)
    device = gamepad(tmp_path, until_s=5.0)
    with (
        running(EXECUTOR, "executor", tmp_path, loopback=True),
        running(TELEOP, "teleop", tmp_path, mapping="gamepad", device=device),
    ):
        said = fails_to_start(TELEOP, "second", tmp_path, mapping="gamepad", device=device)
        assert "/teleop publishes /person_chunk already, and the arm obeys one person" in said
        # Someone who does not ask whether he may: the arm comes to rest, and waits for a person.
        other = world.publisher(JointTrajectory, "/person_chunk", CHUNK_QOS)
        wait_until(lambda: arm.states, "states")
        arm.policy()
        rows = np.tile(np.append(arm.joints(), 1.0), (5, 1))
        chunk = ActionChunk(stamp_ns=time.time_ns(), dt_ns=CONTRACT.dt_ns, actions_HA=rows, names=CONTRACT.action.names)
        other.publish(chunk_to_trajectory(chunk))
        wait_until(lambda: "one may command the arm" in str(arm.said("held")), "held")
        assert arm.said("fault") is None and not world.call("/executor/resume").success


def test_the_command_ends_when_another_program_interrupts_it_alone(tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches its node as well; ``kill -INT`` does not."""
    device = gamepad(tmp_path, until_s=60.0)
    words = ["teleop", "--mapping", "gamepad", "--device", device, "--contract", "jaka_minicobo"]
    command = [sys.executable, "-m", "lavla_ros.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert any("lavla-ready" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20.0) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"mapping": "nothing"}, "nothing"),
        ({"mapping": "gamepad", "device": "/dev/input/event999"}, "/dev/input/event999: No such file"),
        ({"mapping": "keyboard"}, "standard input is none"),
        ({"mapping": "gamepad", "leader": "/leader"}, "parameter leader is '/leader'"),
    ],
)
def test_what_it_cannot_work_with_is_one_line(
    parameters: dict[str, str], said: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert said in refusal(world, TeleopNode, contract="jaka_minicobo", **parameters)
