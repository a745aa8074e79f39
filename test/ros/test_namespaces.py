"""Two stacks in one graph, each in a namespace of its own: nothing of one is heard or moved by the other."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from random_policy import write_random_checkpoint
from ros_harness import World, picture, wait_until
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.contract import ActionChunk, load_contract
from lavla_ros.episode import EpisodePhase, EpisodeState
from lavla_ros.recording.reader import BagReader
from lavla_ros.ros.inputs import publishers_of
from lavla_ros.ros.messages import CHUNK_QOS, LATCHED_INPUT_QOS, LATCHED_QOS, STATE_QOS, chunk_to_trajectory

CONTRACT = load_contract("jaka_minicobo")
EVERYBODYS = {"/parameter_events", "/rosout"}


CLOSED_LOOP = """
description: A policy moves an arm that is simulated by the loop-back driver, and sees a film.
simulated: true
arguments:
  policy: {default: bundled, description: Checkpoint.}
  film: {default: "", description: What both cameras see.}
processes:
  - {name: executor, node: lavla_ros.nodes.executor_node, stop_first: true, parameters: {loopback: true}}
  - name: camera
    node: lavla_ros.nodes.camera_node
    parameters: {contract: jaka_minicobo, sources: ["front=${film}", "wrist=${film}"], loop: true}
  - {name: policy, node: lavla_ros.nodes.policy_node, parameters: {contract: jaka_minicobo, policy: "${policy}"}}
"""


class Side:
    """One stack, as the test sees it."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self.name = world, name
        self.chunks = world.collect(JointTrajectory, f"/{name}/action_chunk")
        self._states = world.collect(JointState, f"/{name}/joint_states", STATE_QOS)
        self._episodes = world.collect(String, f"/{name}/episode/state", LATCHED_INPUT_QOS)

    def call(self, service: str) -> str:
        answer = self._world.call(f"/{self.name}/{service}")
        assert answer.success, answer.message
        return str(answer.message)

    @property
    def phases(self) -> list[EpisodePhase]:
        said = [EpisodeState.from_json(m.data) for m in list(self._episodes)]
        return [state.phase for state in said if state.source == "simulator"]

    def command(self) -> None:
        """As a teleoperator: the first joint turns by 0.2 rad in 2 s, once the episode runs."""
        wait_until(lambda: self.phases[-1] is EpisodePhase.RUNNING, f"an episode on {self.name}")
        chunks = self._world.publisher(JointTrajectory, f"/{self.name}/action_chunk", CHUNK_QOS)
        state = self._states[-1]
        now = dict(zip(state.name, state.position, strict=True))
        actions = np.tile([now[name] for name in CONTRACT.action.names], (CONTRACT.chunk_size, 1))
        actions[:, 0] += np.linspace(0.0, 0.2, CONTRACT.chunk_size)
        names, dt_ns = CONTRACT.action.names, CONTRACT.dt_ns
        chunk = ActionChunk(stamp_ns=time.time_ns(), dt_ns=dt_ns, names=names, actions_HA=actions)
        chunks.publish(chunk_to_trajectory(chunk))

    @property
    def moved_rad(self) -> float:
        """The farthest that any joint has been from where it was first seen."""
        seen = np.array([m.position[:6] for m in list(self._states)]).reshape(-1, 6)
        return float(np.abs(seen - seen[:1]).max()) if len(seen) else 0.0


@contextlib.contextmanager
def stacks(folder: Path, stack: str, *arguments: str) -> Iterator[None]:
    """``lavla up`` twice, in the same ROS domain; both have to end in order."""
    logs = {name: folder / f"{name}.log" for name in ("left", "right")}
    with contextlib.ExitStack() as held:
        running = {}
        for name, log in logs.items():
            running[name] = subprocess.Popen(
                [sys.executable, "-m", "lavla_ros.cli", "up", stack, f"namespace:={name}", *arguments],
                env=ros_environment(),
                stdout=held.enter_context(log.open("wb")),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            for name, log in logs.items():
                wait_until(
                    lambda log=log, name=name: "are ready" in log.read_text() or running[name].poll() is not None,
                    f"the stack {name}",
                    60.0,
                )
                assert "are ready" in log.read_text(), log.read_text()
            yield
        finally:
            for process in running.values():
                process.send_signal(signal.SIGINT)
            statuses = {name: process.wait(40.0) for name, process in running.items()}
    assert statuses == {"left": 0, "right": 0}, "\n".join(log.read_text() for log in logs.values())


def check_graph(world: World) -> None:
    """Whatever is in the graph is in one of the namespaces, and has to do with nodes of that one alone."""
    for topic in {name for name, _ in world.node.get_topic_names_and_types()} - EVERYBODYS:
        _, side, *_ = topic.split("/")
        assert side in ("left", "right"), f"{topic} is outside both namespaces"
        heard = world.node.get_subscriptions_info_by_topic(topic)
        nodes = {p.node for p in publishers_of(world.node, topic)} - {"/world"}
        nodes |= {f"{e.node_namespace}/{e.node_name}" for e in heard if e.node_name != "world"}
        assert all(node.startswith(f"/{side}/") for node in nodes), f"{topic}: {nodes}"


def test_two_policies_move_two_arms_in_one_graph(world: World, tmp_path: Path) -> None:
    """The second policy waits for an instruction in its own namespace."""
    film, stack = tmp_path / "film.avi", tmp_path / "closed_loop.yaml"
    stack.write_text(CLOSED_LOOP, encoding="utf-8")
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (224, 224))
    for seed in range(20):
        writer.write(picture(seed))
    writer.release()
    policy = write_random_checkpoint(tmp_path / "policy")
    left, right = Side(world, "left"), Side(world, "right")
    with stacks(tmp_path, str(stack), f"film:={film}", f"policy:={policy}"):
        for side, other in ((left, right), (right, None)):
            instruction = world.publisher(String, f"/{side.name}/instruction", LATCHED_QOS)
            instruction.publish(String(data="Put the mango into the bowl."))
            wait_until(lambda side=side: side.chunks and side.moved_rad > 0.005, f"motion of the arm {side.name}", 30.0)
            assert other is None or not (other.chunks or other.moved_rad > 0.001), "only one was told to"
        check_graph(world)


def test_two_simulated_arms_in_one_graph(world: World, tmp_path: Path) -> None:
    left, right = Side(world, "left"), Side(world, "right")
    with stacks(tmp_path, "record_demos", f"bags:={tmp_path / 'bags'}", "wait_for_reset:=true", "episode_s:=2.0"):
        wait_until(lambda: left.phases and right.phases, "both simulators")
        bag = left.call("episode/start")
        assert Path(bag).is_relative_to(tmp_path / "bags" / "left")
        left.call("episode/reset")
        left.command()
        wait_until(lambda: left.moved_rad > 0.05, "motion of the left arm")
        assert right.moved_rad < 0.002 and right.phases == [EpisodePhase.WAITING], "only the left one was asked"
        right.call("episode/reset")
        right.command()
        wait_until(lambda: right.moved_rad > 0.05, "motion of the right arm")
        for side in (left, right):
            wait_until(lambda side=side: side.phases[-1].final, f"the verdict on {side.name}", 20.0)
        left.call("episode/stop")
        assert "call /right/episode/start first" in world.call("/right/episode/mark", True).message
        check_graph(world)
    with BagReader(Path(bag)) as reader:  # named as in a stack without a namespace
        assert reader.counts["/joint_states"] > 0 and reader.counts["/observation/front"] > 0
    assert not (tmp_path / "bags" / "right").exists() or not list((tmp_path / "bags" / "right").iterdir())
