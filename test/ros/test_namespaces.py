"""Two stacks in one graph, each in a namespace of its own: nothing of one is heard or moved by the other."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ros_harness import World, wait_until
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.contract import ActionChunk, load_contract
from lavla_ros.episode import EpisodePhase, EpisodeState
from lavla_ros.recording.reader import BagReader
from lavla_ros.ros.inputs import publishers_of
from lavla_ros.ros.messages import CHUNK_QOS, LATCHED_INPUT_QOS, STATE_QOS, chunk_to_trajectory

CONTRACT = load_contract("jaka_minicobo")
EVERYBODYS = {"/parameter_events", "/rosout"}


class Side:
    """One stack, as the test sees it."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self.name = world, name
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
def stacks(folder: Path) -> Iterator[None]:
    """``lavla up record_demos`` twice, in the same ROS domain; both have to end in order."""
    logs = {name: folder / f"{name}.log" for name in ("left", "right")}
    arguments = [f"bags:={folder / 'bags'}", "wait_for_reset:=true", "episode_s:=2.0"]
    with contextlib.ExitStack() as held:
        running = {}
        for seed, (name, log) in enumerate(logs.items()):
            command = [sys.executable, "-m", "lavla_ros.cli", "up", "record_demos", f"namespace:={name}"]
            running[name] = subprocess.Popen(
                [*command, f"seed:={seed}", *arguments],
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


def test_two_arms_in_one_graph(world: World, tmp_path: Path) -> None:
    left, right = Side(world, "left"), Side(world, "right")
    with stacks(tmp_path):
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
        graph = world.node.get_topic_names_and_types()
        for topic in {name for name, _ in graph} - EVERYBODYS:
            _, side, *_ = topic.split("/")
            assert side in ("left", "right"), f"{topic} is outside both namespaces"
            heard = world.node.get_subscriptions_info_by_topic(topic)
            nodes = {p.node for p in publishers_of(world.node, topic)} - {"/world"}
            nodes |= {f"{e.node_namespace}/{e.node_name}" for e in heard if e.node_name != "world"}
            assert all(node.startswith(f"/{side}/") for node in nodes), f"{topic}: {nodes}"
    with BagReader(Path(bag)) as reader:  # named as in a stack without a namespace
        assert reader.counts["/joint_states"] > 0 and reader.counts["/observation/front"] > 0
    assert not (tmp_path / "bags" / "right").exists() or not list((tmp_path / "bags" / "right").iterdir())
