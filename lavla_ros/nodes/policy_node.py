"""Observations → action chunks: the aligned step of the topics goes to the policy, its chunk to the executor.

The arm has one master: the node does not come up if another one publishes action_chunk, and pauses while one does.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from functools import partial
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros import topics
from lavla_ros.contract import ActionChunk, Contract, Observation, load_contract, require_same_contract
from lavla_ros.defaults import BUNDLED_POLICY, DEFAULT_DEVICE, DEFAULT_DTYPE, REPLAN_STEPS
from lavla_ros.episode import RECORDER, EpisodeError, EpisodePhase, EpisodeState
from lavla_ros.errors import UserError
from lavla_ros.observation.pipeline import ObservationPipeline
from lavla_ros.policy.checkpoint_files import checkpoint_path, fingerprint
from lavla_ros.policy.inference import InferenceWorker, warm_up
from lavla_ros.policy.policy import checkpoint_contract, load_policy
from lavla_ros.ros.arbitration import other_publishers, require_no_rival
from lavla_ros.ros.diagnostics import Rate, Report, Window
from lavla_ros.ros.inputs import FOLLOW_PERIOD_S, Inputs
from lavla_ros.ros.lifecycle import LavlaNode, wall_ns
from lavla_ros.ros.messages import CHUNK_QOS, IMAGE_QOS, STATE_QOS, chunk_to_trajectory, message_class
from lavla_ros.ros.parameters import NodeParameters, parameter
from lavla_ros.ros.process import run_node
from lavla_ros.ros.starvation import Starvation


@dataclass(frozen=True, kw_only=True)
class PolicyParameters(NodeParameters):
    contract: str = parameter(help="Contract: a shipped name or a YAML file. It must agree with the checkpoint's.")
    policy: str = parameter(
        BUNDLED_POLICY,
        "Directory of the checkpoint; bundled is the one that comes with the package. Another one runs once the node "
        "has been cleaned up and configured again; one of another contract is refused at once.",
        settable=True,
    )
    instruction: str = parameter("", "What to do, in words, until a message on the instruction topic says it.")
    replan_steps: int = parameter(REPLAN_STEPS, "Contract steps between two inferences.", low=1, high=256)
    device: str = parameter(DEFAULT_DEVICE, "Device that the policy runs on: cpu, cuda, cuda:1, …")
    dtype: str = parameter(
        DEFAULT_DTYPE, "What the policy computes in: auto (bfloat16 on a GPU, else float32), float32, bfloat16."
    )
    torch_threads: int = parameter(1, "CPU threads that one inference uses.", low=1, high=256)
    silent_after_s: float = parameter(
        2.0,
        "Warn if no observation has been complete for this long; for the first, 5 times as long.",
        low=0.1,
        high=600.0,
        unit="s",
    )


class PolicyNode(LavlaNode):
    """The policy, a worker that runs it, and the publisher of its chunks."""

    parameters_type = PolicyParameters
    parameters: PolicyParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("policy", **options)
        self._chunk_topic = self.resolve_topic_name(topics.ACTION_CHUNK)
        self._chunks: Any = None
        self._publishing = threading.Lock()  # the worker publishes, the executor's thread takes the publisher away
        self._rivals: list[str] = []
        self._loaded = self._fingerprint = ""
        self._running_scenes: dict[str, bool] = {}
        self._rate = Rate()
        self._predict_ms = Window()
        self._align_ms = Window()
        self._total_ms = Window()
        self.add_on_set_parameters_callback(self._on_parameters)

    def setup(self) -> None:
        p, chosen = self.parameters, str(self.get_parameter("policy").value)
        contract = load_contract(p.contract)
        self._fingerprint = fingerprint(checkpoint_path(chosen))
        self._policy = load_policy(chosen, device=p.device, threads=p.torch_threads, dtype=p.dtype)
        self._loaded = chosen
        self._require_contract(chosen, self._policy.contract)
        self._contract = contract
        warm_up(self._policy, contract)
        advice = "end it first, or use another namespace or ROS_DOMAIN_ID"
        require_no_rival(self, topics.ACTION_CHUNK, "one", advice)
        self._offer(True)
        self.configured.callback(self._offer, False)

    def start(self) -> None:
        contract = self._contract  # topics and tolerances are this robot's, not those of the robot that it learned from
        self._policy.reset()
        self._pipeline = ObservationPipeline(contract, instruction=self.parameters.instruction or None)
        self._running_scenes = {}
        self._worker = InferenceWorker(
            self._policy,
            self._on_chunk,
            self._on_failure,
            replan_steps=self.parameters.replan_steps,
            now_ns=self.now_ns,
        )
        self.activated.callback(self._worker.stop)
        self._inputs = inputs = Inputs(self.activated)
        # Waiting messages are taken in this order: an episode's start and instruction before its pictures.
        inputs.add(String, topics.EPISODE_STATE, self._on_episode, latched=True)
        topic = contract.instruction_topic
        inputs.add(String, contract.wire(topic), partial(self._on_input, topic), latched=True)
        for topic, kind in {piece.topic: piece.type for piece in contract.state.sources}.items():
            wire, callback = contract.wire(topic), partial(self._on_input, topic)
            quiet_s = contract.quiet_s(topic)
            inputs.add(message_class(kind), wire, callback, depth=STATE_QOS.depth, quiet_s=quiet_s)
        for spec in contract.cameras:
            topic = spec.observation_topic
            inputs.add(Image, contract.wire(topic), partial(self._on_input, topic), depth=IMAGE_QOS.depth)
        simulated = bool(self.get_parameter("use_sim_time").value)
        self._starvation = Starvation(
            contract, self._pipeline, inputs, silent_after_s=self.parameters.silent_after_s, simulated_time=simulated
        )
        self.activated.timer(FOLLOW_PERIOD_S, self._watch_rivals)

    def teardown(self) -> None:
        """What the policy holds on its device is free from here on."""
        for name in ("_worker", "_policy"):
            self.__dict__.pop(name, None)

    # Which policy.

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        """What cannot be run is refused while the policy before it is there still."""
        try:
            for each in changed:
                if each.name == "policy":
                    self._require_contract(each.value, checkpoint_contract(each.value))
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _require_contract(self, policy: str, its: Contract) -> None:
        name = self.parameters.contract
        require_same_contract(
            load_contract(name), its, ours_from=f"parameter contract ({name})", theirs_from=f"policy {policy}"
        )

    # Who commands.

    def _offer(self, offer: bool) -> None:
        """Be, or no longer be, a publisher of chunks."""
        with self._publishing:
            if offer and self._chunks is None:
                self._chunks = self.create_publisher(JointTrajectory, topics.ACTION_CHUNK, CHUNK_QOS)
            elif not offer and self._chunks is not None:
                self.destroy_publisher(self._chunks)
                self._chunks = None

    def _watch_rivals(self) -> None:
        before = self._rivals
        self._rivals = other_publishers(self, topics.ACTION_CHUNK, itself=self._chunks is not None)
        if self._rivals and not before and self._chunks is not None:
            self.get_logger().error(self._rivalry)
        self._pace()

    @property
    def _rivalry(self) -> str:
        rivals = ", ".join(self._rivals)
        return f"paused: {rivals} publishes {self._chunk_topic} too, and the arm obeys one; end one of them"

    def _pace(self) -> None:
        """Infer while an episode runs, or there are no episodes, and no other node commands the arm."""
        if self._rivals or not all(self._running_scenes.values()):
            self._worker.pause()
        else:
            self._worker.resume()

    # Messages.

    def _on_input(self, topic: str, message: Any) -> None:
        self._starvation.arrived(topic, message)
        self._pipeline.add(topic, message, wall_ns())
        for observation in self._pipeline.pop():
            self._align_ms.add((self.now_ns() - observation.stamp_ns) * 1e-6)
            self._worker.offer(observation)

    def _on_episode(self, message: String) -> None:
        """The simulator says when an episode runs; in between there is nothing to infer."""
        try:
            state = EpisodeState.from_json(message.data)
        except EpisodeError as error:
            self.get_logger().warning(str(error))
            return
        if state.source == RECORDER:
            return
        running = state.phase is EpisodePhase.RUNNING
        self._running_scenes[state.source] = running
        if running or state.phase is EpisodePhase.HOMING:  # homing: the simulator itself commands the arm for a while
            self._offer(running)
        self._pace()

    def _on_chunk(self, chunk: ActionChunk, observation: Observation, predict_s: float) -> None:
        with self._publishing:
            if self._chunks is None:
                return
            self._chunks.publish(chunk_to_trajectory(chunk, self._fingerprint))
        self._rate.tick()
        self._predict_ms.add(predict_s * 1e3)
        self._total_ms.add((self.now_ns() - observation.stamp_ns) * 1e-6)

    def _on_failure(self, error: BaseException) -> None:
        self.fail(f"inference failed: {type(error).__name__}: {error}")

    def diagnose(self, report: Report) -> None:
        report.value("policy", self._loaded)
        report.value("fingerprint", self._fingerprint)
        report.value("chunk_rate_hz", self._rate.take_hz(wall_ns()))
        report.latency("observation_age_when_aligned", self._align_ms)
        report.latency("inference", self._predict_ms)
        report.latency("capture_to_chunk", self._total_ms)
        if not self.active:
            return
        for key, count in sorted(self._pipeline.counters.items()):
            report.value(f"pipeline.{key}", count)
        self._inputs.report(report)
        paused = bool(self._rivals) or not all(self._running_scenes.values())
        self._starvation.report(report, waiting=not paused)
        if self._rivals and self._chunks is not None:
            report.error(self._rivalry)
        for key, count in sorted(self._worker.counters.items()):
            report.value(f"inference.{key}", count)


def main() -> int:
    return run_node(PolicyNode)


if __name__ == "__main__":
    sys.exit(main())
