"""Listen to a live stack for a while, and say what came. Nothing is published, and no service is called."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import GetParameters
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from benchmarks.doctor.chain import StackFacts, StreamFacts
from benchmarks.doctor.checks import CameraFacts
from lavla_ros import topics
from lavla_ros.bringup.environment import enter_ros
from lavla_ros.contract import Contract
from lavla_ros.episode import SIMULATOR, EpisodeState, ExecutorReport
from lavla_ros.observation import decode_image
from lavla_ros.ros.client import ServiceError, answer_of, spinning
from lavla_ros.ros.diagnostics import problems_of
from lavla_ros.ros.inputs import publishers_of
from lavla_ros.ros.lifecycle import stamp_to_ns, wall_ns
from lavla_ros.ros.messages import LATCHED_INPUT_QOS, recorded_topics
from lavla_ros.typing import NS_PER_S

DARK, BRIGHT = 8, 250
"""Of 255: a pixel that shows nothing."""


class Listener(Node):  # type: ignore[misc]  # rclpy is untyped
    """Hears everything of the chain from the cameras to the driver."""

    def __init__(self, contract: Contract, *, namespace: str = "", context: Context | None = None) -> None:
        super().__init__("doctor", namespace=namespace, context=context)
        self._contract = contract
        self._arrivals: dict[str, list[int]] = {}
        self._ages_s: dict[str, list[float]] = {}
        self._pictures: dict[str, Any] = {}
        self._positions: list[Sequence[float]] = []
        self._instruction: str | None = None
        self._executor: ExecutorReport | None = None
        self._episode = ""
        self._problems: dict[str, list[str]] = {}
        self._values: dict[str, dict[str, str]] = {}
        for spec in contract.cameras:
            self._hear(Image, contract.wire(spec.observation_topic), partial(self._on_image, spec.name))
        kinds = recorded_topics(contract, "observation")
        states = {piece.topic for piece in contract.state.sources}
        for topic in states | {piece.topic for piece in contract.action.sources}:
            self._hear(kinds[topic], contract.wire(topic), self._on_state if topic in states else lambda _: None)
        self._hear(JointTrajectory, topics.ACTION_CHUNK)
        self._latched(contract.wire(contract.instruction_topic), self._on_instruction)
        self._latched(topics.EXECUTOR_STATE, self._on_executor)
        self._latched(topics.EPISODE_STATE, self._on_episode)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, qos_profile_sensor_data)

    def facts(self, over_s: float) -> StackFacts:
        """``over_s``: how long one has listened."""
        contract = self._contract
        positions = np.array([p for p in self._positions if len(p) == len(self._positions[-1])] or [[0.0]])
        return StackFacts(
            cameras={spec.name: self._camera(spec.name, spec.observation_topic, over_s) for spec in contract.cameras},
            states={piece.topic: self._stream(contract.wire(piece.topic), over_s) for piece in contract.state.sources},
            instruction=self._instruction,
            chunks=self._stream(topics.ACTION_CHUNK, over_s),
            commands=max(
                (self._stream(contract.wire(piece.topic), over_s) for piece in contract.action.sources),
                key=lambda stream: stream.count,
            ),
            executor=self._executor,
            problems=self._problems,
            values=self._values,
            episode=self._episode,
            moved_rad=float(np.ptp(positions, axis=0).max()),
            domain=self.context.get_domain_id(),
        )

    def ask_speed_scale(self, timeout_s: float = 2.0) -> None:
        """Of the executor, if it is there. The node spins meanwhile."""
        client = self.create_client(GetParameters, "executor/get_parameters")
        with suppress(ServiceError):
            answer = answer_of(client, GetParameters.Request(names=["speed_scale"]), timeout_s)
            if answer.values:
                self._values.setdefault("executor", {})["speed_scale"] = str(answer.values[0].double_value)

    def _hear(self, kind: Any, topic: str, callback: Callable[[Any], None] = lambda _: None) -> None:
        """Best effort hears every publisher of a stream."""

        def heard(message: Any) -> None:
            self._arrivals.setdefault(topic, []).append(wall_ns())
            callback(message)

        self.create_subscription(kind, topic, heard, qos_profile_sensor_data)

    def _latched(self, topic: str, callback: Callable[[str], None]) -> None:
        self.create_subscription(String, topic, lambda message: callback(message.data), LATCHED_INPUT_QOS)

    def _on_state(self, message: Any) -> None:
        if isinstance(message, JointState):
            self._positions.append(message.position)

    def _on_image(self, name: str, message: Any) -> None:
        self._ages_s.setdefault(name, []).append((wall_ns() - stamp_to_ns(message.header.stamp)) / NS_PER_S)
        self._pictures[name] = message

    def _on_instruction(self, text: str) -> None:
        self._instruction = text

    def _on_executor(self, text: str) -> None:
        self._executor = ExecutorReport.from_json(text)

    def _on_episode(self, text: str) -> None:
        state = EpisodeState.from_json(text)
        if state.source == SIMULATOR:
            self._episode = state.phase.value

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.removesuffix(": lavla")
            values = {pair.key: pair.value for pair in status.values}
            self._values[name] = values
            self._problems[name] = [text for _, text in problems_of(status)]

    def _stream(self, topic: str, over_s: float) -> StreamFacts:
        count = len(self._arrivals.get(topic, ()))
        names = tuple(publisher.node for publisher in publishers_of(self, self.resolve_topic_name(topic)))
        return StreamFacts(publishers=names, count=count, rate_hz=count / over_s)

    def _camera(self, name: str, topic: str, over_s: float) -> CameraFacts:
        stream = self._stream(self._contract.wire(topic), over_s)
        if name not in self._pictures:
            return CameraFacts(publishers=stream.publishers)
        picture = decode_image(self._pictures[name])
        return CameraFacts(
            publishers=stream.publishers,
            rate_hz=stream.rate_hz,
            latency_s=median(self._ages_s[name]),
            size=(picture.shape[0], picture.shape[1]),
            brightness=float(picture.mean() / 255.0),
            dark=float((picture.max(axis=2) < DARK).mean()),
            bright=float((picture.min(axis=2) > BRIGHT).mean()),
        )


def listen(contract: Contract, over_s: float, *, namespace: str = "") -> StackFacts:
    """Of the stack in this ROS domain. Raises SettingError for an environment that ROS does not work in."""
    enter_ros()
    context = Context()
    rclpy.init(context=context)
    listener = Listener(contract, namespace=namespace, context=context)
    try:
        with spinning(listener):
            time.sleep(over_s)
            listener.ask_speed_scale()
        return listener.facts(over_s)
    finally:
        listener.destroy_node()
        rclpy.try_shutdown(context=context)
