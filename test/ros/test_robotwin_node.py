"""RoboTwin's stand-in over topics: the episodes of one process, what is published, and every way in which one ends."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from random_policy import write_random_checkpoint
from ros_harness import World, pixels_of, refusal, running, wait_until
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.contract import ActionChunk, load_contract
from lavla_ros.policy.policy import load_policy
from lavla_ros.ros.lifecycle import stamp_to_ns
from lavla_ros.ros.messages import LATCHED_INPUT_QOS, chunk_to_trajectory
from sim_bridges.lockstep.node import LockstepNode
from sim_bridges.worlds.robotwin.environment import RobotwinEnvironment
from sim_bridges.worlds.robotwin.sources import open_source
from sim_bridges.worlds.robotwin.task_source import Instructions, TaskSource
from training.dataset import EpisodeDataset
from training.ingest import ingest

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("vulkan"), pytest.mark.long]
MODULE = "sim_bridges.lockstep.node"
CONTRACT = load_contract("robotwin_aloha")
TASK, SEED = "stack_two_blocks", 100_000


@pytest.fixture(scope="module")
def source() -> TaskSource:
    return open_source("standin")


def scene(source: TaskSource, task: str = TASK, instruction: str = "") -> RobotwinEnvironment:
    environment = source.environment(task, CONTRACT)
    environment.reset(SEED, instruction=instruction)
    return environment


def parameters(**more: Any) -> dict[str, Any]:
    return {"suite": "robotwin", "robotwin_root": "standin", "task": TASK, "seed": SEED, "timeout_s": 60.0, **more}


class Listener:
    """What the simulator says on /episode/state."""

    def __init__(self, world: World) -> None:
        self._messages = world.collect(String, "/episode/state", LATCHED_INPUT_QOS)

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(message.data) for message in list(self._messages)]

    def wait(self, state: str, count: int = 1, timeout_s: float = 200.0) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            states = [s for s in self.all() if s["state"] == state]
            return states if len(states) >= count else []

        return dict(wait_until(found, f"{state!r}", timeout_s)[-1])


class Commander:
    """Answers every picture of the head camera with ``actions`` (H, 14)."""

    def __init__(self, world: World, actions: np.ndarray) -> None:
        self.actions = actions
        self._publisher = world.node.create_publisher(JointTrajectory, "/action_chunk", 10)
        world.node.create_subscription(Image, "/camera/head/image_raw", self._answer, 50)
        for topic, kind in (
            ("/camera/left_wrist/image_raw", Image),
            ("/camera/right_wrist/image_raw", Image),
            (CONTRACT.state.topic, JointState),
            (CONTRACT.instruction_topic, String),
        ):
            world.node.create_subscription(kind, topic, lambda _: None, 50)

    def _answer(self, message: Image) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        names, dt_ns = CONTRACT.action.names, CONTRACT.dt_ns
        chunk = ActionChunk(stamp_ns=stamp_ns, dt_ns=dt_ns, actions_HA=self.actions, names=names)
        self._publisher.publish(chunk_to_trajectory(chunk))


def test_an_episode_by_service_and_every_bad_chunk(world: World, tmp_path: Path, source: TaskSource) -> None:
    inside = scene(source)
    home = inside.commanded()
    moves = np.tile(home, (2, 1))
    moves[0, 0] += 0.1
    moves[1, [6, 13]] = 0.3
    listener, commander = Listener(world), Commander(world, moves)
    pictures = world.collect(Image, "/camera/left_wrist/image_raw")
    infos = world.collect(CameraInfo, "/camera/left_wrist/camera_info")
    poses = world.collect(PoseStamped, "/endpose/left")
    measured = world.collect(JointState, "/joint_states/measured")
    states = world.collect(JointState, CONTRACT.state.topic)
    commands = world.collect(JointTrajectory, CONTRACT.action.topic)
    clocks = world.collect(Clock, "/clock")
    with running(MODULE, "robotwin", tmp_path, **parameters(max_steps=4, replan_steps=2)):
        answer = world.call("/episode/reset")
        assert answer.success and json.loads(answer.message)["seed"] == SEED
        ended = listener.wait("failed")
        assert [s["state"] for s in listener.all()] == ["resetting", "running", "failed"]
        assert ended["steps"] == 4 and "4 steps" in ended["reason"] and ended["comparable"] is False
        assert ended["instruction"] == said(source, TASK, "unseen")
        wait_until(lambda: len(states) == 5 and len(poses) == 3 and len(commands) == 4, "all messages")

        # a bad chunk is an error, nothing moves, and the next reset works
        for count, (actions, words) in enumerate(
            (
                (np.full((2, 14), np.nan), "nan"),
                (moves[:1], "1 steps; 2 are executed"),
                (moves + np.eye(14)[1] * 9.0, "left_joint_2"),
                (moves + np.eye(14)[6] * 2.0, "left_gripper"),
            ),
            1,
        ):
            commander.actions = actions
            assert world.call("/episode/reset").success
            error = listener.wait("error", count)
            assert words in error["reason"] and error["steps"] == 0
        assert sum(s["state"] == "failed" for s in listener.all()) == 1

    first_ns = stamp_to_ns(states[0].header.stamp)
    expected = [0]
    for action in [*moves, *moves]:
        inside.step(action)
        expected.append(inside.time_ns)
    for messages in (states[:5], measured[:5]):
        assert [stamp_to_ns(m.header.stamp) - first_ns for m in messages] == expected
    assert [stamp_to_ns(c.clock) - first_ns for c in clocks[:5]] == expected and all(
        t % 4_000_000 == 0 for t in expected
    )
    assert [stamp_to_ns(p.header.stamp) - first_ns for p in pictures[:3]] == [expected[0], expected[2], expected[4]]
    np.testing.assert_array_equal(states[4].position, inside.commanded())
    np.testing.assert_array_equal(measured[4].position, inside.measured())
    assert np.abs(np.array(states[0].position) - measured[0].position).max() < 0.01
    view = inside.view()
    np.testing.assert_array_equal(pixels_of(pictures[2]), view.images["left_wrist"])
    np.testing.assert_array_equal(infos[2].k, view.intrinsics["left_wrist"].ravel())
    assert (infos[2].width, infos[2].height) == (320, 240)
    pose = poses[2].pose
    turned = (pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w)
    np.testing.assert_allclose([pose.position.x, pose.position.y, pose.position.z, *turned], view.endposes["left"])
    assert list(commands[0].points[0].positions) == moves[0].tolist()


def said(source: TaskSource, task: str, kind: Instructions) -> str:
    return source.instruction(task, SEED, scene(source, task).demonstrate().info, kind)


def test_a_policy_node_gives_the_episode_of_one_process(tmp_path: Path, source: TaskSource) -> None:
    words = "swing both arms"
    environment = scene(source, instruction=words)
    checkpoint = write_random_checkpoint(
        tmp_path / "policy", robot="robotwin_aloha", home=environment.commanded().tolist(), relative=False
    )
    policy = load_policy(checkpoint, threads=1)
    for _ in range(2):
        for action in policy.predict(environment.observe()).actions_HA[:3]:
            environment.step(action)
    made = source.provenance()
    listed = {"schema": 1, "source": made.source, "hash": made.hash, "instructions": "unseen"}
    seeds, progress = tmp_path / "seeds.json", tmp_path / "progress.jsonl"
    seeds.write_text(json.dumps({**listed, "tasks": {TASK: [{"seed": SEED, "instruction": words}]}}))
    camera = {"contract": "robotwin_aloha", "frozen_after_s": 0.0, "missing_after_s": 60.0}
    node = parameters(episodes=1, seeds=str(seeds), max_steps=6, replan_steps=3, progress=str(progress))
    with (
        running("lavla_ros.nodes.camera_node", "camera", tmp_path, use_sim_time=True, **camera),
        running(
            "lavla_ros.nodes.policy_node",
            "policy",
            tmp_path,
            use_sim_time=True,
            contract="robotwin_aloha",
            policy=str(checkpoint),
        ),
        running(MODULE, "robotwin", tmp_path, **node),
    ):
        wait_until(progress.is_file, "the episode", 200.0)
        episode = json.loads(wait_until(progress.read_text, "its line"))
    assert (episode["state"], episode["steps"]) == ("failed", 6), episode
    assert episode["trajectory"] == environment.trajectory


def test_demonstrations_become_bags_and_a_dataset(tmp_path: Path, source: TaskSource) -> None:
    bags, dataset, progress = tmp_path / "bags", tmp_path / "dataset", tmp_path / "progress.jsonl"
    camera = {"contract": "robotwin_aloha", "frozen_after_s": 0.0, "missing_after_s": 60.0}
    recorder = {"contract": "robotwin_aloha", "root": str(bags), "silent_after_s": 60.0}
    task = "move_blocks_to_pads"  # the shortest
    node = parameters(task=task, commander="expert", record=True, episodes=1, disturb=True, progress=str(progress))
    with (
        running("lavla_ros.nodes.camera_node", "camera", tmp_path, use_sim_time=True, **camera) as prepares,
        running("lavla_ros.nodes.recorder_node", "recorder", tmp_path, **recorder),
        running(MODULE, "robotwin", tmp_path, **node),
    ):
        wait_until(lambda: any(bags.glob("episode_*")), "the beginning of the episode", 200.0)
        for _ in range(3):  # a camera node that does not keep up loses nothing
            prepares.popen.send_signal(signal.SIGSTOP)
            time.sleep(0.5)
            prepares.popen.send_signal(signal.SIGCONT)
            time.sleep(0.2)
        wait_until(progress.is_file, "the episode", 400.0)
        episode = json.loads(wait_until(progress.read_text, "its line"))
    assert episode["state"] == "succeeded", episode
    report = ingest("bag", [bags], dataset, contract=CONTRACT)
    words = said(source, task, "seen")
    assert report.steps == episode["steps"] > 20, report.sources
    scene_of_bag = {"suite": "robotwin_standin", "task": task, "seed": SEED, "instruction": words}
    assert report.sources[0].scene == scene_of_bag
    read = EpisodeDataset(dataset, CONTRACT)
    assert read.instruction(0) == words
    first = read[0]
    assert {name: image.shape for name, image in first.images.items()} == dict.fromkeys(
        CONTRACT.camera_names, (224, 224, 3)
    )


def test_what_cannot_be_run_is_refused(world: World, tmp_path: Path) -> None:
    for values, words in (
        ({"task": "fly"}, "no task 'fly'"),
        ({"record": True}, "set commander to expert"),
        ({"robotwin_root": str(tmp_path)}, "no RoboTwin 2.0 checkout"),
    ):
        assert words in refusal(world, LockstepNode, **parameters(**values)), values


def test_the_stack_names_the_protocol() -> None:
    from lavla_ros.bringup.stack import load_stack

    stack = load_stack("robotwin_policy", {"policy": "runs/x"}, run_dir=Path("/tmp"))
    by_name = {p.name: p for p in stack.processes}
    assert list(by_name) == ["camera", "policy", "robotwin"]
    robotwin = by_name["robotwin"].parameters
    assert (robotwin["seed"], robotwin["episodes"], robotwin["replan_steps"]) == (100_000, 100, 25)
    assert robotwin["commander"] == "topic" and robotwin["robotwin_root"] == "standin"
    expert = load_stack("robotwin_policy", {"expert": "true", "record": "true"}, run_dir=Path("/tmp"))
    assert [p.name for p in expert.processes] == ["camera", "recorder", "robotwin"]
