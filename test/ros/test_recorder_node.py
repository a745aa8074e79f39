"""The recorder node: an episode is what was published, byte for byte, and survives the recorder's death."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ros_harness import World, fails_to_start, image_message, picture, running, wait_until
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.contract import Contract, RecordedTopic, load_contract
from lavla_ros.episode import ExecutorReport
from lavla_ros.pieces import Piece
from lavla_ros.recording.recover import recover_bag
from lavla_ros.ros.lifecycle import set_stamp
from lavla_ros.ros.messages import (
    CHUNK_QOS,
    IMAGE_QOS,
    LATCHED_INPUT_QOS,
    LATCHED_QOS,
    STATE_QOS,
    joint_state,
    single_point,
)
from lavla_ros.yaml_text import dump_yaml
from training.ingest.bag import Bags, BagSource
from training.view.episode import open_episode

MODULE = "lavla_ros.nodes.recorder_node"
CONTRACT = load_contract("jaka_minicobo")


class Robot:
    """Publishes every stream of the contract once per call."""

    def __init__(self, world: World) -> None:
        self.instruction = world.publisher(String, "/instruction", LATCHED_QOS)
        self.instruction.publish(String(data="Put the mango into the bowl."))
        self.executor = world.publisher(String, "/executor/state", LATCHED_QOS)
        self.executor.publish(String(data=ExecutorReport(state="tracking", commander="policy").to_json()))
        self._images = [world.publisher(Image, c.observation_topic, IMAGE_QOS) for c in CONTRACT.cameras]
        self._states = world.publisher(JointState, "/joint_states", STATE_QOS)
        self._commands = world.publisher(JointTrajectory, "/joint_command", STATE_QOS)
        self.published = 0
        time.sleep(0.3)  # a latched message has no acknowledgement that one could wait for

    def step(self, stamp_ns: int | None = None, *, pictures_after_s: float = 0.0) -> None:
        now = time.time_ns() if stamp_ns is None else stamp_ns
        state, command = joint_state(CONTRACT.state.names), single_point(CONTRACT.action.names, 8_000_000)
        state.position = [float(self.published)] * CONTRACT.state_dim
        set_stamp(state.header.stamp, now)
        set_stamp(command.header.stamp, now)
        self._states.publish(state)
        self._commands.publish(command)
        shown = image_message(picture(self.published), now)
        for publisher in self._images:
            if pictures_after_s:
                threading.Timer(pictures_after_s, publisher.publish, [shown]).start()
            else:
                publisher.publish(shown)
        self.published += 1


def messages_of(bag: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    with AnyReader([bag]) as reader:
        for connection, _, raw in reader.messages():
            found.setdefault(connection.topic, []).append(reader.deserialize(raw, connection.msgtype))
    return found


def test_records_episodes_by_services(world: World, tmp_path: Path) -> None:
    announced = world.collect(String, "/episode/state", LATCHED_INPUT_QOS)

    def states() -> list[str]:
        return [json.loads(m.data)["state"] for m in announced]

    with running(MODULE, "recorder", tmp_path, root=str(tmp_path / "bags")):
        robot = Robot(world)
        wait_until(lambda: states() == ["idle"], "idle")
        assert not world.call("/episode/stop").success
        assert not world.call("/episode/mark", True).success
        robot.step()  # before the episode: not part of it
        started = world.call("/episode/start")
        assert started.success
        assert not world.call("/episode/start").success
        for _ in range(60):  # as fast as possible: nothing may be lost on the way
            robot.step()
        robot.executor.publish(String(data=ExecutorReport(state="tracking", commander="person").to_json()))
        assert world.call("/episode/mark", True).success
        stopped = world.call("/episode/stop")
        assert stopped.success and "succeeded" in stopped.message
        assert "/observation/wrist: 60 messages" in stopped.message and "largest gap" in stopped.message

        discarded = world.call("/episode/start").message
        robot.step()
        assert world.call("/episode/discard").success
        assert not Path(discarded).exists()
        wait_until(lambda: states() == ["idle", "running", "succeeded", "running", "discarded"], f"states {states()}")

    messages = messages_of(Path(started.message))
    assert len(messages["/joint_states"]) == len(messages["/joint_command"]) == 60
    assert [m.position[0] for m in messages["/joint_states"]] == list(range(1, 61))
    for camera in ("front", "wrist"):
        frames = messages[f"/observation/{camera}"]
        assert len(frames) == 60
        assert np.array_equal(frames[-1].data, picture(60).ravel())
    assert [m.data for m in messages["/instruction"]] == ["Put the mango into the bowl."]
    had = [json.loads(m.data)["commander"] for m in messages["/executor/state"]]
    assert had == ["policy", "person"], "who had the arm when it began, and who took it"
    bagged = [json.loads(m.data) for m in messages["/episode/state"]]
    assert [b["state"] for b in bagged] == ["running", "succeeded"]
    assert bagged[0]["contract_hash"] == CONTRACT.hash
    assert Contract.from_dict(bagged[0]["contract_definition"]) == CONTRACT
    assert bagged[0]["instruction"] == "Put the mango into the bowl."


def test_chunks_are_recorded_and_shown_and_not_missed(world: World, tmp_path: Path) -> None:
    sent = single_point(CONTRACT.action.names, 100_000_000)
    with running(MODULE, "recorder", tmp_path, root=str(tmp_path / "bags")):
        robot, chunks = Robot(world), world.publisher(JointTrajectory, "/action_chunk", CHUNK_QOS)
        robot.step()
        started = world.call("/episode/start")
        for step in range(20):
            robot.step(stamp_ns=time.time_ns())
            if step == 10:
                set_stamp(sent.header.stamp, time.time_ns())
                chunks.publish(sent)
            time.sleep(0.1)
        wait_until(lambda: world.call("/episode/check").success, "every stream, though no person's chunk comes")
        assert world.call("/episode/stop").success
    assert messages_of(Path(started.message))["/action_chunk"][0].joint_names == sent.joint_names
    (shown,) = open_episode(Path(started.message)).chunks
    assert (shown.sender, shown.due_ns[0] - shown.stamp_ns) == ("policy", 100_000_000)


def test_the_last_pictures_are_waited_for(world: World, tmp_path: Path) -> None:
    with running(MODULE, "recorder", tmp_path, root=str(tmp_path / "bags")):
        robot = Robot(world)
        started = world.call("/episode/start")
        for _ in range(3):
            robot.step()
        robot.step(pictures_after_s=0.6)
        assert world.call("/episode/stop").success
    messages = messages_of(Path(started.message))
    assert {topic: len(found) for topic, found in messages.items() if topic.startswith("/observation/")} == {
        camera.observation_topic: 4 for camera in CONTRACT.cameras
    }
    assert len(messages["/joint_states"]) == 4


def test_says_before_an_episode_which_stream_is_silent(world: World, tmp_path: Path) -> None:
    with running(MODULE, "recorder", tmp_path, root=str(tmp_path / "bags"), silent_after_s=60.0):
        checked = world.call("/episode/check")
        assert not checked.success and "no node publishes /joint_command" in checked.message
        robot = Robot(world)
        robot.step()
        wait_until(lambda: world.call("/episode/check").success, "every stream")


def test_kill_9_loses_at_most_a_second(world: World, tmp_path: Path) -> None:
    with running(MODULE, "recorder", tmp_path, root=str(tmp_path / "bags")) as process:
        robot = Robot(world)
        bag = Path(world.call("/episode/start").message)
        begin = time.monotonic()
        times = []
        while time.monotonic() - begin < 2.5:
            robot.step()
            times.append(time.monotonic())
            time.sleep(0.02)
        process.kill()
        killed = time.monotonic()
        process.popen.returncode = 0  # its end is not what is tested
    report = recover_bag(bag)
    recovered = report.path
    count = len(messages_of(recovered)["/joint_states"])
    due = sum(t < killed - 1.0 for t in times)
    assert count >= due, f"{count} of {len(times)} messages survived; {due} were older than 1 s"


def test_simulators_outcome_is_the_mark_unless_a_person_marked(world: World, tmp_path: Path) -> None:
    with running(MODULE, "recorder", tmp_path, root=str(tmp_path / "bags")):
        robot = Robot(world)
        simulator = world.publisher(String, "/episode/state", LATCHED_QOS)
        simulator.publish(String(data=json.dumps({"source": "simulator", "state": "running", "seed": 7, "episode": 1})))
        world.call("/episode/start")
        robot.step()
        simulator.publish(String(data=json.dumps({"source": "simulator", "state": "failed", "seed": 7, "episode": 1})))
        time.sleep(0.2)
        stopped = world.call("/episode/stop").message
        assert ": failed" in stopped
    bagged = [json.loads(m.data) for m in messages_of(Path(stopped.split(":")[0]))["/episode/state"]]
    assert [(b["source"], b["state"]) for b in bagged].count(("simulator", "failed")) == 1
    assert bagged[-1]["source"] == "recorder" and bagged[-1]["seed"] == 7


def test_an_interrupted_recorder_keeps_its_episode(world: World, tmp_path: Path) -> None:
    with running(MODULE, "recorder", tmp_path, root=str(tmp_path / "bags"), auto_start=True):
        robot = Robot(world)
        for _ in range(5):
            robot.step()
        time.sleep(0.3)
    bags = list((tmp_path / "bags").glob("episode_*"))
    assert len(bags) == 1 and len(messages_of(bags[0])["/joint_states"]) == 5


def test_numbers_in_pieces_are_recorded_and_read_as_they_came(world: World, tmp_path: Path) -> None:
    """Arm and gripper apart, commands without names or stamps, and a topic that nothing reads and need not come."""
    arm = CONTRACT.state.names[:6]
    pieces = (
        Piece(topic="/arm/joint_states", names=arm, unit="deg"),
        Piece(topic="/gripper/width", type="std_msgs/msg/Float64", names=("gripper",), unit="percent", hold_s=60.0),
    )
    action = replace(
        CONTRACT.action,
        topic="",
        pieces=(
            Piece(topic="/commands", type="std_msgs/msg/Float64MultiArray", names=CONTRACT.action.names, hold_s=60.0),
        ),
    )
    notes = RecordedTopic(topic="/notes", type="std_msgs/msg/String")
    contract = replace(CONTRACT, state=replace(CONTRACT.state, topic="", pieces=pieces), action=action, record=(notes,))
    file = tmp_path / "contract.yaml"
    file.write_text(dump_yaml(contract.to_dict()), encoding="utf-8")
    with running(MODULE, "recorder", tmp_path, root=str(tmp_path / "bags"), contract=str(file)):
        images = [world.publisher(Image, c.observation_topic, IMAGE_QOS) for c in CONTRACT.cameras]
        states, widths = world.publisher(JointState, "/arm/joint_states"), world.publisher(Float64, "/gripper/width")
        commands = world.publisher(Float64MultiArray, "/commands")
        instruction = world.publisher(String, "/instruction", LATCHED_QOS)
        instruction.publish(String(data="Put the mango into the bowl."))
        time.sleep(0.3)  # a latched message has no acknowledgement that one could wait for
        started = world.call("/episode/start").message
        widths.publish(Float64(data=50.0))
        world.call("/episode/check")  # takes what has arrived
        begin = time.time_ns()
        for step in range(5):
            now = begin + step * 100_000_000
            time.sleep(max(0.0, (now - time.time_ns()) * 1e-9))
            state = joint_state(arm)
            state.position = [float(step)] * 6
            set_stamp(state.header.stamp, now)
            states.publish(state)
            commands.publish(Float64MultiArray(data=[0.01 * step] * 6 + [0.25]))
            for publisher in images:
                publisher.publish(image_message(picture(step), now))
        assert world.call("/episode/check").message == "every stream comes"
        stopped = world.call("/episode/stop")
        assert stopped.success and "/commands: 5 messages" in stopped.message and "/notes: SILENT" in stopped.message
    source = BagSource(path=Path(started), options=Bags(outcomes=("unmarked",), allow_gaps=True))
    steps = [step for episode in source.episodes(contract) for step in episode.steps()]
    assert len(steps) >= 3
    for found in steps:
        step = round((found.capture_ns[0] - begin) / 1e8)
        np.testing.assert_allclose(found.state, [*[np.deg2rad(step)] * 6, 0.5], atol=1e-6)
        # stamped when it arrives, which a busy machine may do late: one of those that were sent by the end of the step
        assert found.action[6] == 0.25 and found.action[0] <= 0.01 * (step + 1) + 1e-6


def test_refuses_a_folder_that_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in fails_to_start(MODULE, "recorder", tmp_path, root=str(tmp_path / "file" / "bags"))
