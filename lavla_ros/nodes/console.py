"""The console beside a stack: what it sees over ROS, and the web server of its page.

``lavla console`` starts it with a stack. It commands nothing by itself, and passes on what a person holds on the page's
pad; a browser that is closed ends nothing else.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
import uvicorn
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lavla_ros import topics
from lavla_ros.bringup.environment import enter_ros
from lavla_ros.console.access import Access, is_loopback, listening_at
from lavla_ros.console.page import application
from lavla_ros.console.pictures import jpeg
from lavla_ros.console.robot import Joint, Snapshot
from lavla_ros.contract import load_contract
from lavla_ros.episode import RECORDER, EpisodeError, EpisodePhase, EpisodeState, ExecutorReport
from lavla_ros.errors import one_line_errors
from lavla_ros.observation.images import decode_image
from lavla_ros.recording.library import Library
from lavla_ros.ros.client import ServiceError, answer_of, call, own_arguments, spinning
from lavla_ros.ros.diagnostics import problems_of
from lavla_ros.ros.inputs import Inputs
from lavla_ros.ros.lifecycle import wall_ns
from lavla_ros.ros.messages import IMAGE_QOS, LATCHED_QOS
from lavla_ros.ros.process import secured
from lavla_ros.ros.scope import Scope
from lavla_ros.teleop.config import load_mapping

SERVICES = {
    "hold": topics.EXECUTOR_HOLD,
    "hand_back": topics.EXECUTOR_HAND_BACK,
    "resume": topics.EXECUTOR_RESUME,
    "acknowledge": topics.EXECUTOR_ACKNOWLEDGE,
    "start": topics.EPISODE_START,
    "stop": topics.EPISODE_STOP,
    "check": topics.EPISODE_CHECK,
}
PROBLEM_S = 3.0
"""A problem that /diagnostics has not repeated for so long is over."""
EXECUTOR, TELEOP = "executor", "teleop"


class ConsoleNode(Node):  # type: ignore[misc]  # rclpy is untyped
    """A :class:`~lavla_ros.console.robot.Robot` over topics and services."""

    def __init__(self, contract_name: str) -> None:
        super().__init__("console")
        self._contract = contract = load_contract(contract_name)
        self.cameras = contract.camera_names
        self._scope = Scope(self)
        self._triggers = {verb: self.create_client(Trigger, name) for verb, name in SERVICES.items()}
        self._mark = self.create_client(SetBool, topics.EPISODE_MARK)
        self._set = self.create_client(SetParameters, f"{EXECUTOR}/set_parameters")
        self._get = self.create_client(GetParameters, f"{EXECUTOR}/get_parameters")
        self._instruction = self.create_publisher(String, contract.wire(contract.instruction_topic), LATCHED_QOS)
        self._events = self.create_publisher(String, topics.TELEOP_EVENTS, 1)
        self._raw: dict[str, tuple[int, bytes]] = {}
        """Topic → how many messages have come, and the newest; read when a page asks for it."""
        self._pictures: dict[str, tuple[int, bytes]] = {}
        self._encoding = {camera: threading.Lock() for camera in self.cameras}
        self._measured_ns: int | None = None
        self._executor_report, self._episode = ExecutorReport(), EpisodeState("", EpisodePhase.IDLE)
        self._problems: dict[str, tuple[int, list[str]]] = {}
        self._latencies: dict[str, str] = {}
        self._steered = 0, ""
        self._speed_scale: float | None = None
        inputs = Inputs(self._scope)
        for kind, topic, depth in (
            (JointState, contract.state.topic, 1),
            (JointTrajectory, contract.action.topic, 1),
            *((Image, camera.observation_topic, IMAGE_QOS.depth) for camera in contract.cameras),
        ):
            inputs.add(kind, contract.wire(topic), self._keep(topic), depth=depth, raw=True)
        inputs.add(String, topics.EXECUTOR_STATE, self._on_executor, latched=True)
        inputs.add(String, topics.EPISODE_STATE, self._on_episode, latched=True)
        inputs.add(String, contract.wire(contract.instruction_topic), self._on_instruction, latched=True)
        self._newest_instruction = ""
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, qos_profile_sensor_data)
        self.create_timer(1.0, self._ask_speed)

    # What is heard.

    def _keep(self, topic: str) -> Any:
        def keep(raw: bytes) -> None:
            self._raw[topic] = self._raw.get(topic, (0, b""))[0] + 1, raw
            if topic == self._contract.state.topic:
                self._measured_ns = wall_ns()

        return keep

    def _on_executor(self, message: String) -> None:
        try:
            self._executor_report = ExecutorReport.from_json(message.data)
        except EpisodeError as error:
            self.get_logger().warning(str(error))

    def _on_episode(self, message: String) -> None:
        try:
            state = EpisodeState.from_json(message.data)
        except EpisodeError as error:
            self.get_logger().warning(str(error))
            return
        if state.source == RECORDER:
            self._episode = state

    def _on_instruction(self, message: String) -> None:
        self._newest_instruction = message.data

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        now_ns = wall_ns()
        for status in message.status:
            name = status.name.removesuffix(": lavla")
            self._problems[name] = now_ns, [f"{word}: {name}: {text}" for word, text in problems_of(status)]
            for value in status.values:
                if value.key == "state" and name == TELEOP:
                    self._steered = now_ns, value.value
                if value.key.endswith("_p50_ms"):
                    self._latencies[value.key.removesuffix("_p50_ms").replace("_", " ")] = value.value

    def _ask_speed(self) -> None:
        if self._get.service_is_ready():
            future = self._get.call_async(GetParameters.Request(names=["speed_scale"]))
            future.add_done_callback(self._on_speed)

    def _on_speed(self, future: Any) -> None:
        values = future.result().values if future.result() is not None else []
        if values and values[0].type == ParameterType.PARAMETER_DOUBLE:
            self._speed_scale = values[0].double_value

    # What the page asks for.

    def snapshot(self) -> Snapshot:
        now_ns = wall_ns()
        newest = [texts for at_ns, texts in list(self._problems.values()) if now_ns - at_ns < PROBLEM_S * 1e9]
        problems = sorted(text for texts in newest for text in texts)
        return Snapshot(
            executor=self._executor_report,
            episode=self._episode,
            joints=self._joints(),
            instruction=self._newest_instruction,
            speed_scale=self._speed_scale,
            latencies_ms=dict(sorted(self._latencies.items())),
            problems=tuple(problems),
            steered=self._steered[1] if now_ns - self._steered[0] < PROBLEM_S * 1e9 else "",
            age_s=None if self._measured_ns is None else (now_ns - self._measured_ns) * 1e-9,
        )

    def _joints(self) -> tuple[Joint, ...]:
        state, action = self._contract.state, self._contract.action
        measured: dict[str, float] = {}
        commanded: dict[str, float] = {}
        if (raw := self._raw.get(state.topic)) is not None:
            message = deserialize_message(raw[1], JointState)
            measured = dict(zip(message.name, message.position, strict=False))
        if (raw := self._raw.get(action.topic)) is not None:
            message = deserialize_message(raw[1], JointTrajectory)
            commanded = dict(zip(message.joint_names, message.points[0].positions, strict=False))
        return tuple(
            Joint(name=d.name, unit=d.unit, measured=measured.get(d.name), commanded=commanded.get(d.name))
            for d in state.fields
        )

    def picture(self, camera: str, after: int) -> tuple[int, bytes] | None:
        """Encoded once, however many look at it, and only if somebody does."""
        topic = self._contract.camera(camera).observation_topic
        with self._encoding[camera]:
            count, raw = self._raw.get(topic, (0, b""))
            if not raw or count <= after:
                return None
            if self._pictures.get(camera, (0, b""))[0] != count:
                self._pictures[camera] = count, jpeg(decode_image(deserialize_message(raw, Image)))
            return self._pictures[camera]

    def ask(self, what: str) -> str:
        return call(self._triggers[what], Trigger.Request())

    def mark(self, success: bool) -> str:
        return call(self._mark, SetBool.Request(data=success))

    def instruct(self, text: str) -> None:
        self._instruction.publish(String(data=text))

    def steer(self, held: str) -> None:
        self._events.publish(String(data=held))

    def set_speed_scale(self, scale: float) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=scale)
        request = SetParameters.Request(parameters=[Parameter(name="speed_scale", value=value)])
        refused = [result.reason for result in answer_of(self._set, request).results if not result.successful]
        if refused:
            raise ServiceError(f"the speed scale stays: {refused[0]}")
        self._speed_scale = scale


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--contract", required=True, help="of the stack: a shipped name or a YAML file")
    parser.add_argument("--bags", type=Path, required=True, help="folder of the recorded episodes")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; another than this needs a token")
    parser.add_argument("--port", type=int, default=8420, help="0: a free one")
    parser.add_argument("--token", default="", help="what a browser has to know")
    parser.add_argument("--pad", default="", help="mapping of the page's pad; empty: it has none")
    parser.add_argument("--title", default="lavla", help="of the page")
    enter_ros()
    options = parser.parse_args(own_arguments(argv))
    with one_line_errors("console"), secured():
        rclpy.init(args=argv)
        node = ConsoleNode(options.contract)
        folder = options.bags.expanduser() / node.get_namespace().strip("/")
        mapping = load_mapping(options.pad) if options.pad else None
        page = application(node, Library(folder), title=options.title, mapping=mapping)
        web = Access(page, host=options.host, token=options.token)
        listening = listening_at(options.host, options.port)
    try:
        shown = "localhost" if is_loopback(options.host) else options.host
        asked = f"/?token={options.token}" if options.token else "/"
        print(f"console: open http://{shown}:{listening.getsockname()[1]}{asked}", flush=True)
        config = uvicorn.Config(web, log_level="warning", timeout_graceful_shutdown=1, ws="websockets-sansio")
        with spinning(node):
            uvicorn.Server(config).run([listening])
    except KeyboardInterrupt:
        return 130
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
