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
from dataclasses import replace
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
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.contract import Observation, load_contract
from lavla_ros.nodes.policy_node import PolicyNode
from lavla_ros.observation.pipeline import ObservationPipeline
from lavla_ros.pieces import Piece
from lavla_ros.policy.folder import fingerprint
from lavla_ros.policy.policy import load_policy
from lavla_ros.recording.reader import BagReader
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.lifecycle import set_stamp, stamp_to_ns
from lavla_ros.ros.messages import IMAGE_QOS, LATCHED_QOS, STATE_QOS, joint_state, single_point, trajectory_to_chunk
from lavla_ros.yaml_text import dump_yaml
from training.ingest.bag import Bags, BagSource

pytestmark = pytest.mark.long

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
        self._offer_states(world, state_qos, subscribers)
        self._state_offset_ns = state_offset_ns
        self.steps: list[int] = []
        time.sleep(0.3)  # a latched message has no acknowledgement that one could wait for

    def _offer_states(self, world: World, qos: Any, subscribers: int) -> None:
        self._states = world.publisher(JointState, "/joint_states", qos, subscribers=subscribers)
        self._message = joint_state(CONTRACT.state.names[::-1])  # order must not matter

    def _publish_states(self, stamp: int) -> None:
        for tick in range(13):
            now = stamp + (tick - 6) * STATE_PERIOD_NS
            self._message.position = [1.0, *(q + 1e-9 * (now % 10_000_000) for q in reversed(HOME_RAD))]
            set_stamp(self._message.header.stamp, now + self._state_offset_ns)
            self._states.publish(self._message)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            stamp, step = time.time_ns(), len(self.steps)
            self.steps.append(stamp)
            for offset, (name, publisher) in enumerate(self._images.items()):
                publisher.publish(image_message(picture(10 * step + (name == "wrist")), stamp + offset * 1_000_000))
            self._publish_states(stamp)
            time.sleep(max(0.0, (stamp - time.time_ns()) * 1e-9 + CONTRACT.dt_s))

    def observation(self, stamp_ns: int, instruction: str) -> Observation:
        """What the policy has to see at the step stamped ``stamp_ns``."""
        step = self.steps.index(stamp_ns)
        # the newest state not after the step is the one stamped like it
        state = np.array([*(q + 1e-9 * (stamp_ns % 10_000_000) for q in HOME_RAD), 1.0], np.float32)
        images = {"front": picture(10 * step), "wrist": picture(10 * step + 1)}
        return Observation(stamp_ns=stamp_ns, images=images, state=state, instruction=instruction)


IN_PIECES = replace(
    CONTRACT,
    state=replace(
        CONTRACT.state,
        topic="",
        pieces=(
            # as an arm that counts in degrees, and turns its second joint the other way round
            Piece(
                topic="/arm/joint_states",
                names=("joint_1", "joint_2", "joint_3", "joint_4"),
                message_names=("a1", "a2", "a3", "a4"),
                unit="deg",
                scale=(1.0, -1.0, 1.0, 1.0),
                offset=(0.0, 0.0, 90.0, 0.0),
            ),
            Piece(
                topic="/wrist/angles", type="std_msgs/msg/Float64MultiArray", names=("joint_6", "joint_5"), hold_s=60.0
            ),
            # as fingers that tell their width, 0.08 m if open, whenever it changes
            Piece(topic="/gripper/joint_states", names=("gripper",), unit="fraction", scale=12.5, hold_s=60.0),
        ),
    ),
    # a busy machine publishes late, and takes its time
    alignment=replace(CONTRACT.alignment, command_tolerance_s=30.0, max_observation_age_s=30.0),
)
"""A robot whose state is on three topics, none of them stamped, named or scaled like another."""


class StreamsInPieces(Streams):
    """The same pictures, the state as IN_PIECES has it."""

    def _offer_states(self, world: World, qos: Any, subscribers: int) -> None:
        self._arm = world.publisher(JointState, "/arm/joint_states", qos, subscribers=subscribers)
        self._wrist = world.publisher(Float64MultiArray, "/wrist/angles", qos, subscribers=subscribers)
        self._gripper = world.publisher(JointState, "/gripper/joint_states", qos, subscribers=subscribers)
        self._commands = world.publisher(JointTrajectory, CONTRACT.action.topic, qos)  # labels, for the recorder
        self._command = single_point(CONTRACT.action.names, STATE_PERIOD_NS)
        self._width_m: float | None = None

    @staticmethod
    def width_m(step: int) -> float:
        """It changes every sixth step."""
        return 0.08 - 0.01 * (step // 6 % 4)

    def _publish_states(self, stamp: int) -> None:
        step = len(self.steps) - 1
        if self.width_m(step) != self._width_m:
            self._width_m = self.width_m(step)
            width = JointState(name=["gripper"], position=[self._width_m])
            set_stamp(width.header.stamp, stamp - STATE_PERIOD_NS)
            self._gripper.publish(width)
        for tick in range(13):
            now = stamp + (tick - 6) * STATE_PERIOD_NS
            q1, q2, q3, q4 = (np.rad2deg(q + 1e-9 * (now % 10_000_000)) for q in HOME_RAD[:4])
            arm = JointState(name=["a4", "other", "a3", "a2", "a1"], position=[q4, 7.0, q3 - 90.0, -q2, q1])
            set_stamp(arm.header.stamp, now)
            self._arm.publish(arm)
            # without a stamp, so that which of them a step gets is known only if all are the same
            self._wrist.publish(Float64MultiArray(data=[HOME_RAD[5], HOME_RAD[4]]))
            set_stamp(self._command.header.stamp, now)
            self._commands.publish(self._command)

    def observation(self, stamp_ns: int, instruction: str) -> Observation:
        whole = super().observation(stamp_ns, instruction)
        moved = [q + 1e-9 * (stamp_ns % 10_000_000) for q in HOME_RAD[:4]]
        opening = 12.5 * self.width_m(self.steps.index(stamp_ns))
        return replace(whole, state=np.array([*moved, HOME_RAD[4], HOME_RAD[5], opening], np.float32))


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


def test_a_state_in_pieces_is_the_same_to_the_policy_node_and_in_its_bag(
    world: World, tmp_path: Path, checkpoint: Path
) -> None:
    """The policy learned under the contract without pieces: how the numbers come is no part of what it learned."""
    file = tmp_path / "contract.yaml"
    file.write_text(dump_yaml(IN_PIECES.to_dict()), encoding="utf-8")
    chunks = world.collect(JointTrajectory, "/action_chunk")
    node = policy_node(world, policy=str(checkpoint), contract=str(file), replan_steps=3)
    try:
        root = str(tmp_path / "bags")
        with running("lavla_ros.nodes.recorder_node", "recorder", tmp_path, root=root, contract=str(file)):
            assert node.bring_up(), node.fault
            world.spin(node)
            streams = StreamsInPieces(world, subscribers=2)
            bag = Path(world.call("/episode/start").message)
            while len(chunks) < 4 and len(streams.steps) < 300:
                streams.run(6)
            assert world.call("/episode/stop").success
    finally:
        world.forget(node)
        node.bring_down()
        node.destroy_node()
    source = BagSource(path=bag, options=Bags(outcomes=("unmarked",), allow_gaps=True))
    recorded = {step.capture_ns[0]: step for episode in source.episodes(IN_PIECES) for step in episode.steps()}
    policy = load_policy(checkpoint)
    compared = 0
    for message in chunks:
        stamp_ns = stamp_to_ns(message.header.stamp)
        expected = streams.observation(stamp_ns, "Put the mango into the bowl.")
        received = trajectory_to_chunk(message, IN_PIECES).actions_HA
        np.testing.assert_allclose(received, policy.predict(expected).actions_HA, atol=1e-6)
        if (step := recorded.get(stamp_ns)) is None:
            continue  # of before the episode, or of its last moment, whose label had not come
        compared += 1
        np.testing.assert_allclose(step.state, expected.state, atol=1e-6)
        read = replace(expected, state=step.state, images=step.images, instruction=step.instruction)
        np.testing.assert_array_equal(received, policy.predict(read).actions_HA)
    assert compared >= 2, (len(chunks), len(recorded))
    assert len({round(float(step.state[6]), 3) for step in recorded.values()}) > 1


def test_a_number_that_holds_is_not_of_another_clock(world: World, tmp_path: Path, checkpoint: Path) -> None:
    file = tmp_path / "contract.yaml"
    file.write_text(dump_yaml(IN_PIECES.to_dict()), encoding="utf-8")
    diagnostics = world.diagnostics()
    node = policy_node(world, policy=str(checkpoint), contract=str(file), silent_after_s=0.5, diagnostics_period_s=0.2)
    try:
        assert node.bring_up(), node.fault
        world.spin(node)
        front = world.publisher(Image, "/observation/front", IMAGE_QOS)
        width = JointState(name=["gripper"], position=[0.04])
        set_stamp(width.header.stamp, time.time_ns())
        world.publisher(JointState, "/gripper/joint_states").publish(width)

        def said() -> bool:
            front.publish(image_message(picture(1), time.time_ns()))
            key = "/gripper/joint_states.stamp_after_front_s"
            later_s = -float(diagnostics.values("policy").get(key, "0"))
            return later_s > 2.0 and "no complete observation" in diagnostics.message("policy")

        wait_until(said, "what is missing, with the gripper's last stamp long ago", 60.0)
        message = diagnostics.message("policy")
        assert "/observation/wrist" in message and "stamps of /gripper" not in message
    finally:
        world.forget(node)
        node.bring_down()
        node.destroy_node()


def test_what_the_policy_holds_is_free_after_clean_up(
    world: World, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lavla_ros.ros.arbitration.DISCOVERY_S", 0.0)
    node = policy_node(world, policy=str(checkpoint))
    assert node.bring_up(), node.fault
    policy = weakref.ref(node._policy)
    gc.freeze()  # as in a process of its own, which goes on with another policy
    node.bring_down()
    gc.collect()
    gc.unfreeze()
    assert policy() is None
    node.destroy_node()


def test_another_checkpoint_runs_after_the_next_configuration_and_one_of_another_contract_is_refused(
    world: World, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a person chooses one on the console's page; what is refused changes nothing."""
    monkeypatch.setattr("lavla_ros.ros.arbitration.DISCOVERY_S", 0.0)
    other = write_random_checkpoint(tmp_path / "other", seed=1)
    foreign = tmp_path / "foreign"
    shutil.copytree(checkpoint, foreign)
    contract = yaml.safe_load((foreign / "contract.yaml").read_text())
    (foreign / "contract.yaml").write_text(yaml.safe_dump(contract | {"rate_hz": 20.0}))
    empty = tmp_path / "empty"
    empty.mkdir()
    node = policy_node(world, policy=str(checkpoint))

    def choose(policy: Path) -> str:
        return str(node.set_parameters([Parameter("policy", value=str(policy))])[0].reason)

    def loaded() -> str:
        report = Report("policy", "policy")
        node.diagnose(report)
        return next(value.value for value in report.finish("").values if value.key == "fingerprint")

    try:
        assert node.bring_up(), node.fault
        assert "rate_hz: 10.0 != 20.0" in choose(foreign)
        assert "lacks config.yaml" in choose(empty) and "is not a directory" in choose(tmp_path / "nowhere")
        assert choose(other) == "" and node.active and loaded() == fingerprint(checkpoint)
        node.trigger_deactivate()
        node.trigger_cleanup()
        assert node.bring_up(), node.fault
        assert loaded() == fingerprint(other)
    finally:
        node.bring_down()
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
