"""The live tabletop over ROS: pictures with the state's time, an episode's verdict, and a reset that homes the arm."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_harness import World, fails_to_start, pixels_of, running, wait_until
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.contract import ActionChunk, load_contract
from lavla_ros.ros.lifecycle import stamp_to_ns
from lavla_ros.ros.messages import CHUNK_QOS, IMAGE_QOS, LATCHED_INPUT_QOS, STATE_QOS, chunk_to_trajectory
from sim_bridges.worlds.tabletop.homing import Homing

CAMERA, EXECUTOR = "sim_bridges.worlds.tabletop.camera_node", "lavla_ros.nodes.executor_node"
FAR_RAD = 0.8
"""Beyond what the first chunk after a hold may jump."""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The emulator over the tabletop: its ports and state file."""
    log, state_file = tmp_path / "live.log", tmp_path / "state"
    command = [sys.executable, "-m", "sim_bridges.worlds.tabletop.live", "--port", "0", "--status-port", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--seed", "3", "--state-file", str(state_file)],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    pattern = re.compile(r"commands on [\d.]+:(\d+), status on port (\d+)")
    try:
        found = wait_until(lambda: pattern.search(log.read_text()), "the emulator's ports", 30.0)
        yield {"arm.port": int(found[1]), "arm.status_port": int(found[2]), "state_file": str(state_file)}
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10.0) == 0, log.read_text()


def test_pictures_episodes_and_reset(world: World, tmp_path: Path, live: dict[str, Any]) -> None:
    state_file = live.pop("state_file")
    images = {n: world.collect(Image, f"/camera/{n}/image_raw", IMAGE_QOS) for n in ("front", "wrist")}
    episodes = world.collect(String, "/episode/state", LATCHED_INPUT_QOS)
    instructions = world.collect(String, "/instruction", LATCHED_INPUT_QOS)
    states = world.collect(JointState, "/joint_states", STATE_QOS)

    def said() -> list[tuple[str, int]]:
        return [(m["state"], m["seed"]) for m in (json.loads(e.data) for e in list(episodes))]

    with contextlib.ExitStack() as stack:
        stack.enter_context(running(CAMERA, "tabletop_camera", tmp_path, state_file=state_file))
        refused = world.call("/episode/reset")
        assert not refused.success, "without an executor nobody brings the arm home"
        stack.enter_context(
            running(EXECUTOR, "executor", tmp_path, state_timeout_s=1.0, **{"arm.power_on": True}, **live)
        )
        wait_until(lambda: said() == [("running", 3)], "the first episode")
        wait_until(lambda: instructions and all(images.values()), "the instruction and both cameras")
        assert "mango" in instructions[0].data
        now = time.time_ns()
        wait_until(lambda: stamp_to_ns(images["front"][-1].header.stamp) > now, "a fresh picture")
        ages = [time.time_ns() - stamp_to_ns(i[-1].header.stamp) for i in images.values()]
        assert max(ages) < 2e9 and pixels_of(images["front"][-1]).std() > 10
        before = pixels_of(images["front"][-1]).copy()
        wait_until(lambda: world.call("/episode/reset").success, "an accepted reset (the executor is active)")
        assert not world.call("/episode/reset").success, "one reset at a time"
        wait_until(lambda: said()[-1] == ("running", 4), f"the next episode: {said()}", 30.0)
        assert [state for state, _ in said()] == ["running", "homing", "running"]
        assert np.abs(pixels_of(images["front"][-1]).astype(int) - before).mean() > 0.2, "the objects have moved"
        wait_until(lambda: states, "the executor's states: its participant may be found last")
        assert dict(zip(states[-1].name, states[-1].position, strict=True))["gripper"] == pytest.approx(1.0, abs=0.05)


def test_a_way_home_that_was_held_up_begins_again_where_the_arm_is(
    world: World, tmp_path: Path, live: dict[str, Any]
) -> None:
    """The arm is held until the motion is over; its last chunks begin too far away to be taken when it is resumed."""
    episodes = world.collect(String, "/episode/state", LATCHED_INPUT_QOS)
    states = world.collect(JointState, "/joint_states", STATE_QOS)
    camera = {"state_file": live.pop("state_file")}
    arm = {"state_timeout_s": 1.0, "arm.power_on": True, **live}

    def joints() -> Any:
        return np.array(states[-1].position[:6])

    def phase() -> str:
        return str(json.loads(episodes[-1].data)["state"]) if episodes else ""

    with running(CAMERA, "tabletop_camera", tmp_path, **camera), running(EXECUTOR, "executor", tmp_path, **arm):
        wait_until(lambda: phase() == "running" and states, "the first episode")
        home, contract = joints(), load_contract("jaka_minicobo")
        away = home + FAR_RAD * np.eye(6)[0]
        rows = np.append(np.linspace(home, away, contract.chunk_size), np.ones((contract.chunk_size, 1)), axis=1)
        policy = world.publisher(JointTrajectory, "/action_chunk", CHUNK_QOS)
        chunk = ActionChunk(stamp_ns=time.time_ns(), dt_ns=contract.dt_ns, actions_HA=rows, names=contract.action.names)
        policy.publish(chunk_to_trajectory(chunk))
        wait_until(lambda: abs(joints() - home)[0] > 0.9 * FAR_RAD, "the arm is away")
        world.node.destroy_publisher(policy)
        wait_until(lambda: world.call("/episode/reset").success, "homing")
        assert world.call("/executor/hold").success
        time.sleep(1.5 * Homing(begin_ns=0, start_rad=away, goal_rad=home).duration_s)
        assert phase() == "homing" and abs(joints() - home)[0] > 0.4, "it was held on its way"
        assert world.call("/executor/resume").success
        wait_until(lambda: phase() == "running", "the next episode", 30.0)
        assert np.abs(joints() - home).max() < 0.1


def test_refuses_to_start_without_physics(tmp_path: Path) -> None:
    assert "nowhere" in fails_to_start(CAMERA, "tabletop_camera", tmp_path, state_file=str(tmp_path / "nowhere"))
