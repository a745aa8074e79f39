"""Observations → action chunks: the aligned step of the topics goes to the policy, its chunk to the executor."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.contract import ActionChunk, Contract, Observation, load_contract, require_same_contract
from lavla_ros.nodes.diagnostics import Rate, Report, Window
from lavla_ros.nodes.inference import InferenceWorker
from lavla_ros.nodes.lifecycle import LavlaNode, run_node, wall_ns
from lavla_ros.nodes.messages import CHUNK_QOS, IMAGE_QOS, LATCHED_INPUT_QOS, STATE_QOS, chunk_to_trajectory
from lavla_ros.nodes.parameters import NodeParameters, parameter
from lavla_ros.observation.pipeline import ObservationPipeline
from lavla_ros.policy.policy import Policy, load_policy


@dataclass(frozen=True, kw_only=True)
class PolicyParameters(NodeParameters):
    contract: str = parameter(
        "jaka_minicobo", "Contract: a shipped name or a YAML file; must agree with the checkpoint's."
    )
    policy: str = parameter("bundled", "Checkpoint directory, or bundled.")
    instruction: str = parameter("", "What to do, in words, until somebody says it on the instruction topic.")
    replan_steps: int = parameter(10, "Contract steps between two inferences.", low=1, high=256)
    device: str = parameter("cpu", "Where the policy runs: cpu, cuda, cuda:1, …")
    torch_threads: int = parameter(1, "CPU threads of one inference.", low=1, high=256)


class PolicyNode(LavlaNode):
    """See the module."""

    parameters_type = PolicyParameters
    parameters: PolicyParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("policy", **options)
        self._contract: Contract | None = None
        self._policy: Policy | None = None
        self._pipeline: ObservationPipeline | None = None
        self._worker: InferenceWorker | None = None
        self._inputs: list[Any] = []
        self._running_scenes: dict[str, bool] = {}
        self._rate = Rate()
        self._predict_ms = Window()
        self._align_ms = Window()
        self._total_ms = Window()

    def setup(self) -> None:
        contract = load_contract(self.parameters.contract)
        self._policy = load_policy(
            self.parameters.policy, device=self.parameters.device, threads=self.parameters.torch_threads
        )
        require_same_contract(
            contract,
            self._policy.contract,
            ours_from=f"parameter contract ({self.parameters.contract})",
            theirs_from=f"policy {self.parameters.policy}",
        )
        self._chunks = self.create_publisher(JointTrajectory, "/action_chunk", CHUNK_QOS)
        self._contract = contract
        self._warm_up(self._policy, contract)

    def start(self) -> None:
        assert self._policy is not None and self._contract is not None
        contract = self._contract  # topics and tolerances are this robot's, whatever they were where it was learned
        self._policy.reset()
        self._pipeline = ObservationPipeline(contract, instruction=self.parameters.instruction or None)
        self._worker = InferenceWorker(
            self._policy,
            self._on_chunk,
            self._on_failure,
            replan_steps=self.parameters.replan_steps,
            now_ns=self.now_ns,
        )
        # Where several wait they are taken in this order: an episode's start and instruction before its pictures.
        subscribe = self.create_subscription
        self._inputs.append(subscribe(String, "/episode/state", self._on_episode, LATCHED_INPUT_QOS))
        streams: list[tuple[str, Any, Any]] = [
            (contract.instruction_topic, String, LATCHED_INPUT_QOS),
            (contract.state.topic, JointState, STATE_QOS),
            *((spec.observation_topic, Image, IMAGE_QOS) for spec in contract.cameras),
        ]
        for topic, kind, qos in streams:
            self._inputs.append(subscribe(kind, topic, partial(self._on_input, topic), qos))

    def stop(self) -> None:
        """No more chunks: the executor runs out of actions and brings the arm to rest."""
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def teardown(self) -> None:
        if self._policy is not None and hasattr(self, "_chunks"):
            self.destroy_publisher(self._chunks)
        self._policy = None

    def _on_input(self, topic: str, message: Any) -> None:
        assert self._pipeline is not None and self._worker is not None
        self._pipeline.add(topic, message, wall_ns())
        for observation in self._pipeline.pop():
            self._align_ms.add((self.now_ns() - observation.stamp_ns) * 1e-6)
            self._worker.offer(observation)

    def _on_episode(self, message: String) -> None:
        """Whoever resets the scene says when an episode runs; in between there is nothing to infer."""
        try:
            state = json.loads(message.data)
            source, running = str(state["source"]), state["state"] == "running"
        except (ValueError, KeyError, TypeError) as error:
            self.get_logger().warning(f"/episode/state is not the JSON that it should be ({error}): {message.data!r}")
            return
        if source == "recorder" or self._worker is None:
            return
        self._running_scenes[source] = running
        if all(self._running_scenes.values()):
            self._worker.resume()
        else:
            self._worker.pause()

    def _on_chunk(self, chunk: ActionChunk, observation: Observation, predict_s: float) -> None:
        self._chunks.publish(chunk_to_trajectory(chunk))
        self._rate.tick()
        self._predict_ms.add(predict_s * 1e3)
        self._total_ms.add((self.now_ns() - observation.stamp_ns) * 1e-6)

    def _on_failure(self, error: BaseException) -> None:
        self.fail(f"inference failed: {type(error).__name__}: {error}")

    def _warm_up(self, policy: Policy, contract: Contract) -> None:
        """One inference on a grey picture: the first is slow, and a broken checkpoint shows now."""
        images = {spec.name: np.full((spec.height, spec.width, 3), 128, np.uint8) for spec in contract.cameras}
        state = np.zeros(contract.state_dim, np.float32)
        policy.predict(Observation(stamp_ns=0, images=images, state=state, instruction="warm up"))
        policy.reset()

    def diagnose(self, report: Report) -> None:
        report.value("policy", self.parameters.policy)
        report.value("chunk_rate_hz", self._rate.take_hz(wall_ns()))
        report.latency("observation_age_when_aligned", self._align_ms)
        report.latency("inference", self._predict_ms)
        report.latency("capture_to_chunk", self._total_ms)
        if self._pipeline is not None:
            for key, count in sorted(self._pipeline.counters.items()):
                report.value(f"pipeline.{key}", count)
            if self.active and not self._pipeline.counters["steps.emitted"]:
                report.warn("no complete observation yet: see the pipeline.* counters for the stream that is missing")
        if self._worker is not None:
            for key, count in sorted(self._worker.counters.items()):
                report.value(f"inference.{key}", count)


def main() -> int:
    return run_node(PolicyNode)


if __name__ == "__main__":
    sys.exit(main())
