"""The policy node: aligned observations in, chunks stamped like them out; parity of live and recorded tensors."""

from __future__ import annotations

import gc
import itertools
import json
import os
import shutil
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from random_policy import HOME_RAD, write_random_checkpoint
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from ros_harness import World, fails_to_start, image_message, picture, running, wait_until
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.contract import Observation, load_contract
from lavla_ros.nodes.policy_node import PolicyNode
from lavla_ros.observation.pipeline import ObservationPipeline
from lavla_ros.policy.folder import fingerprint
from lavla_ros.policy.policy import load_policy
from lavla_ros.recording.reader import BagReader
from lavla_ros.ros.lifecycle import set_stamp, stamp_to_ns
from lavla_ros.ros.messages import IMAGE_QOS, LATCHED_QOS, STATE_QOS, joint_state, trajectory_to_chunk

MODULE = "lavla_ros.nodes.policy_node"
CONTRACT = load_contract("jaka_minicobo")
STATE_PERIOD_NS = 8_000_000


def policy_node(world: World, **parameters: Any) -> PolicyNode:
    """One in this process."""
    given = {"contract": CONTRACT.name, **parameters}
    return PolicyNode(
        context=world.context, parameter_overrides=[Parameter(name, value=value) for name, value in given.items()]
    )


class Streams:
    """A camera pair at 10 Hz and joint states at 125 Hz, all stamped at capture."""

    def __init__(
        self,
        world: World,
        subscribers: int = 1,
        *,
        instruct: bool = True,
        state_qos: Any = STATE_QOS,
        state_offset_ns: int = 0,
    ) -> None:
        if instruct:
            self._instruction = world.publisher(String, "/instruction", LATCHED_QOS, subscribers=subscribers)
            self._instruction.publish(String(data="Put the mango into the bowl."))
        self._images = {
            c.name: world.publisher(Image, c.observation_topic, IMAGE_QOS, subscribers=subscribers)
            for c in CONTRACT.cameras
        }
        self._states = world.publisher(JointState, "/joint_states", state_qos, subscribers=subscribers)
        self._state_offset_ns = state_offset_ns
        self._message = joint_state(CONTRACT.state.names[::-1])  # order must not matter
        self.steps: list[int] = []
        time.sleep(0.3)  # a latched message has no acknowledgement that one could wait for

    def run(self, steps: int) -> None:
        for _ in range(steps):
            stamp, step = time.time_ns(), len(self.steps)
            self.steps.append(stamp)
            for offset, (name, publisher) in enumerate(self._images.items()):
                publisher.publish(image_message(picture(10 * step + (name == "wrist")), stamp + offset * 1_000_000))
            for tick in range(13):
                now = stamp + (tick - 6) * STATE_PERIOD_NS
                self._message.position = [1.0, *(q + 1e-9 * (now % 10_000_000) for q in reversed(HOME_RAD))]
                set_stamp(self._message.header.stamp, now + self._state_offset_ns)
                self._states.publish(self._message)
            time.sleep(max(0.0, (stamp - time.time_ns()) * 1e-9 + CONTRACT.dt_s))

    def observation(self, stamp_ns: int, instruction: str) -> Observation:
        """What the policy has to see at the step stamped ``stamp_ns``."""
        step = self.steps.index(stamp_ns)
        # the newest state not after the step is the one stamped like it
        state = np.array([*(q + 1e-9 * (stamp_ns % 10_000_000) for q in HOME_RAD), 1.0], np.float32)
        images = {"front": picture(10 * step), "wrist": picture(10 * step + 1)}
        return Observation(stamp_ns=stamp_ns, images=images, state=state, instruction=instruction)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint")


@pytest.fixture(scope="class")
def one_policys_domain(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A policy runs in it. It takes seconds to load."""
    folder, given = tmp_path_factory.mktemp("policy"), {"replan_steps": 5, "instruction": "Do as I said first."}
    with pytest.MonkeyPatch.context() as patched:
        domain = str(20 + os.getpid() % 80)
        patched.setenv("ROS_DOMAIN_ID", domain)
        with running(MODULE, "policy", folder, policy=str(checkpoint), **given):
            yield domain


class TestOnePolicy:
    """In three worlds, one after another."""

    @pytest.fixture(autouse=True)
    def domain(self, one_policys_domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """In place of one of each test's own."""
        monkeypatch.setenv("ROS_DOMAIN_ID", one_policys_domain)

    def test_a_volatile_instruction_and_best_effort_states_are_heard(self, world: World, checkpoint: Path) -> None:
        """An instruction by rclpy's default QoS replaces the one given at the start: the chunks are of the new one."""
        chunks = world.collect(JointTrajectory, "/action_chunk")
        streams = Streams(world, instruct=False, state_qos=qos_profile_sensor_data)
        streams.run(7)
        wait_until(lambda: chunks, "a chunk")
        world.publisher(String, "/instruction", 10).publish(String(data="Put the mango into the bowl."))
        time.sleep(0.3)
        before = len(chunks)
        streams.run(12)
        wait_until(lambda: len(chunks) > before + 1, "chunks after the new instruction")
        policy = load_policy(checkpoint)
        for message, instruction in ((chunks[0], "Do as I said first."), (chunks[-1], "Put the mango into the bowl.")):
            assert message.header.frame_id == fingerprint(checkpoint)
            expected = policy.predict(streams.observation(stamp_to_ns(message.header.stamp), instruction))
            np.testing.assert_allclose(
                trajectory_to_chunk(message, CONTRACT).actions_HA, expected.actions_HA, atol=1e-6
            )

    def test_chunks_are_the_policys_own_and_carry_the_observations_stamp(self, world: World, checkpoint: Path) -> None:
        chunks = world.collect(JointTrajectory, "/action_chunk")
        diagnostics = world.diagnostics()
        streams = Streams(world)
        streams.run(17)
        wait_until(lambda: len(chunks) >= 3, "three chunks")
        wait_until(lambda: "inference_p50_ms" in diagnostics.values("policy"), "latencies in diagnostics")
        stamps = [stamp_to_ns(c.header.stamp) for c in chunks]
        indices = [streams.steps.index(s) for s in stamps]
        assert all(4 <= b - a <= 6 for a, b in itertools.pairwise(indices)), indices
        policy = load_policy(checkpoint)
        message = chunks[1]
        expected = policy.predict(streams.observation(stamps[1], "Put the mango into the bowl."))
        received = trajectory_to_chunk(message, CONTRACT)
        assert received.names == CONTRACT.action.names and received.dt_ns == CONTRACT.dt_ns
        np.testing.assert_allclose(received.actions_HA, expected.actions_HA, atol=1e-6)
        assert stamp_to_ns(message.points[0].time_from_start) == CONTRACT.dt_ns

    def test_the_arm_has_one_master(self, world: World, tmp_path: Path, checkpoint: Path) -> None:
        """A second policy does not come up; the first pauses while somebody else publishes chunks, and is no publisher
        while a simulator brings the arm home.
        """
        simulator = world.node.create_publisher(String, "/episode/state", LATCHED_QOS)
        chunks = world.collect(JointTrajectory, "/action_chunk")
        diagnostics = world.diagnostics()
        other = World()
        try:
            # in this process: as from another computer, where the launcher's own check sees nothing
            remote = policy_node(world, policy=str(checkpoint))
            assert not remote.bring_up()
            assert "/policy publishes /action_chunk already" in str(remote.fault)
            remote.destroy_node()
            second = tmp_path / "second"
            second.mkdir()
            refusal = fails_to_start(MODULE, "policy", second, policy=str(checkpoint))
            assert "already has the policy of another lavla stack" in refusal
            streams = Streams(world)
            streams.run(6)
            wait_until(lambda: chunks, "a chunk")
            rival = other.publisher(JointTrajectory, "/action_chunk")
            wait_until(lambda: "paused: /world publishes /action_chunk" in diagnostics.message("policy"), "a pause")
            paused = len(chunks)
            streams.run(6)
            assert len(chunks) == paused
            other.node.destroy_publisher(rival)
            wait_until(lambda: "paused" not in diagnostics.message("policy"), "the end of the pause")
            streams.run(6)
            wait_until(lambda: len(chunks) > paused, "chunks again")
            for state, publishers in (("running", 1), ("homing", 0), ("running", 1)):
                simulator.publish(String(data=json.dumps({"source": "simulator", "state": state})))
                wait_until(lambda n=publishers: world.node.count_publishers("/action_chunk") == n, state)
        finally:
            other.close()


def test_says_who_is_silent_and_whose_clock_is_another(world: World, tmp_path: Path, checkpoint: Path) -> None:
    diagnostics = world.diagnostics()
    with running(MODULE, "policy", tmp_path, policy=str(checkpoint), silent_after_s=0.5):
        wait_until(lambda: "no node publishes /observation/front" in diagnostics.message("policy"), "who is absent")
        streams = Streams(world, instruct=False, state_offset_ns=-1_700_000_000_000_000_000)

        def said() -> bool:
            streams.run(1)
            message = diagnostics.message("policy")
            return "stamps of /joint_states are -1700000000." in message and "/joint_states: its stamps are" in message

        wait_until(said, "how far the stamps are apart")


def test_live_session_and_its_bag_give_equal_tensors(world: World, tmp_path: Path) -> None:
    live_pipeline = ObservationPipeline(CONTRACT)
    live: list[Observation] = []

    def take(topic: str, kind: Any, qos: Any) -> None:
        def on_message(message: Any) -> None:
            live_pipeline.add(topic, message, time.time_ns())
            live.extend(live_pipeline.pop())

        world.node.create_subscription(kind, topic, on_message, qos)

    for spec in CONTRACT.cameras:
        take(spec.observation_topic, Image, IMAGE_QOS)
    take("/joint_states", JointState, STATE_QOS)
    take("/instruction", String, LATCHED_QOS)
    with running("lavla_ros.nodes.recorder_node", "recorder", tmp_path, root=str(tmp_path / "bags")):
        streams = Streams(world, subscribers=2)
        bag = Path(world.call("/episode/start").message)
        streams.run(20)
        assert world.call("/episode/stop").success
    offline_pipeline = ObservationPipeline(CONTRACT)
    offline: list[Observation] = []
    with BagReader(bag) as reader:
        for message in reader.messages(offline_pipeline.topics):
            offline_pipeline.add(message.topic, reader.deserialize(message), message.stamp_ns)
            offline.extend(offline_pipeline.pop())
    assert [o.stamp_ns for o in live] == [o.stamp_ns for o in offline]
    assert len(live) >= 19
    for ours, theirs in zip(live, offline, strict=True):
        assert ours.instruction == theirs.instruction and ours.capture_ns == theirs.capture_ns
        assert np.array_equal(ours.state, theirs.state)
        for name in CONTRACT.camera_names:
            assert np.array_equal(ours.images[name], theirs.images[name])


def test_what_the_policy_holds_is_free_after_clean_up(
    world: World, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lavla_ros.ros.arbitration.DISCOVERY_S", 0.0)
    node = policy_node(world, policy=str(checkpoint))
    assert node.bring_up(), node.fault
    policy = weakref.ref(node._policy)
    node.bring_down()
    gc.collect()
    assert policy() is None
    node.destroy_node()


def test_refuses_another_contract_and_a_broken_checkpoint(world: World, tmp_path: Path, checkpoint: Path) -> None:
    def fault(**values: str) -> str:
        node = policy_node(world, **values)
        try:
            assert not node.bring_up()
            return str(node.fault)
        finally:
            node.bring_down()
            node.destroy_node()

    data = CONTRACT.to_dict()
    data["rate_hz"] = 20.0
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(data))
    assert "rate_hz: 20.0 != 10.0" in fault(policy=str(checkpoint), contract=str(other))
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors" in fault(policy=str(broken))
    assert "nowhere" in fault(policy=str(tmp_path / "nowhere"))
