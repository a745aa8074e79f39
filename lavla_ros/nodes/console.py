"""The console beside a stack: what it sees over ROS, and the web server of its page.

``lavla console`` starts it with a stack. It commands nothing by itself, and passes on what a person holds on the page's
pad; a browser that is closed ends nothing else.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import ParameterType, ParameterValue
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
from lavla_ros.console.access import Access, address_of, listening_at, serve
from lavla_ros.console.heard import Heard, joints_of
from lavla_ros.console.models import Models
from lavla_ros.console.page import application
from lavla_ros.console.pictures import jpeg
from lavla_ros.console.robot import Joint, Snapshot
from lavla_ros.contract import load_contract
from lavla_ros.control.approved import load_approvals
from lavla_ros.episode import EpisodeError
from lavla_ros.errors import one_line_errors
from lavla_ros.observation.images import decode_image
from lavla_ros.recording.library import Library
from lavla_ros.ros.client import call, own_arguments, set_parameter, spinning
from lavla_ros.ros.diagnostics import problems_of
from lavla_ros.ros.inputs import Inputs
from lavla_ros.ros.lifecycle import wall_ns
from lavla_ros.ros.messages import LATCHED_QOS
from lavla_ros.ros.model_switch import ModelSwitch
from lavla_ros.ros.process import secured
from lavla_ros.ros.scope import Scope
from lavla_ros.teleop.config import TOPIC, load_mapping

SERVICES = {
    "hold": topics.EXECUTOR_HOLD,
    "hand_back": topics.EXECUTOR_HAND_BACK,
    "resume": topics.EXECUTOR_RESUME,
    "acknowledge": topics.EXECUTOR_ACKNOWLEDGE,
    "start": topics.EPISODE_START,
    "stop": topics.EPISODE_STOP,
    "check": topics.EPISODE_CHECK,
    "reset": topics.EPISODE_RESET,
}
EXECUTOR, POLICY = "executor", "policy"


class ConsoleNode(Node):  # type: ignore[misc]  # rclpy is untyped
    """A :class:`~lavla_ros.console.robot.Robot` over topics and services."""

    def __init__(self, contract_name: str, models: Models | None = None, *, steers: bool = False) -> None:
        """``steers``: it says what a person holds; else another program may."""
        super().__init__("console", start_parameter_services=False)  # each service costs time at every message
        self.models = models
        self._contract = contract = load_contract(contract_name)
        self.cameras = contract.camera_names
        self._scope = Scope(self)
        self._triggers = {verb: self.create_client(Trigger, name) for verb, name in SERVICES.items()}
        self._mark = self.create_client(SetBool, topics.EPISODE_MARK)
        self._set = self.create_client(SetParameters, f"{EXECUTOR}/set_parameters")
        self._get = self.create_client(GetParameters, f"{EXECUTOR}/get_parameters")
        self._model = ModelSwitch(self, POLICY)
        self._instruction = self.create_publisher(String, contract.wire(contract.instruction_topic), LATCHED_QOS)
        self._events = self.create_publisher(String, topics.TELEOP_EVENTS, 1) if steers else None
        self._pictures: dict[str, tuple[int, bytes]] = {}
        self._encoding = {camera: threading.Lock() for camera in self.cameras}
        self._heard = Heard()
        inputs = Inputs(self._scope)
        # Hundreds of messages a second, of which a page shows a few.
        self._streams = {
            topic: inputs.add(kind, contract.wire(topic), None, depth=1, raw=True)
            for kind, topic in (
                (JointState, contract.state.topic),
                (JointTrajectory, contract.action.topic),
                *((Image, camera.observation_topic) for camera in contract.cameras),
            )
        }
        for topic, hear in (
            (topics.EXECUTOR_STATE, self._heard.executor),
            (topics.EPISODE_STATE, self._heard.episode),
            (contract.wire(contract.instruction_topic), self._heard.instruction),
        ):
            inputs.add(String, topic, self._hearing(hear), latched=True)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, qos_profile_sensor_data)
        self.create_timer(1.0, self._ask_speed)

    # What is heard.

    def _hearing(self, hear: Callable[[str], None]) -> Any:
        def on(message: String) -> None:
            try:
                hear(message.data)
            except EpisodeError as error:
                self.get_logger().warning(str(error))

        return on

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.removesuffix(": lavla")
            values = {value.key: value.value for value in status.values}
            found = list(problems_of(status))
            self._heard.diagnostics(name, values, [f"{word}: {name}: {text}" for word, text in found], wall_ns())
            if name == POLICY:
                self._model.hear(values, "; ".join(text for word, text in found if word == "error"))

    def _ask_speed(self) -> None:
        if self._get.service_is_ready():
            future = self._get.call_async(GetParameters.Request(names=["speed_scale"]))
            future.add_done_callback(self._on_speed)

    def _on_speed(self, future: Any) -> None:
        values = future.result().values if future.result() is not None else []
        if values and values[0].type == ParameterType.PARAMETER_DOUBLE:
            self._heard.speed_scale(values[0].double_value)

    # What the page asks for.

    def snapshot(self) -> Snapshot:
        joints, now_ns = self._joints(), wall_ns()
        measured = self._streams[self._contract.state.topic]
        age_s = None if measured.last_ns is None else measured.silent_for_s(now_ns)
        return replace(self._heard.snapshot(now_ns), joints=joints, running=self._model.running, age_s=age_s)

    def _joints(self) -> tuple[Joint, ...]:
        state, action = self._contract.state, self._contract.action
        measured: dict[str, float] = {}
        commanded: dict[str, float] = {}
        if raw := self._streams[state.topic].newest()[1]:
            message = deserialize_message(raw, JointState)
            measured = dict(zip(message.name, message.position, strict=False))
        if raw := self._streams[action.topic].newest()[1]:
            message = deserialize_message(raw, JointTrajectory)
            commanded = dict(zip(message.joint_names, message.points[0].positions, strict=False))
        return joints_of(self._contract, measured, commanded)

    def picture(self, camera: str, after: int) -> tuple[int, bytes] | None:
        """Encoded once, however many look at it, and only if somebody does."""
        topic = self._contract.camera(camera).observation_topic
        with self._encoding[camera]:
            count, raw = self._streams[topic].newest()
            if raw is None or count <= after:
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
        assert self._events is not None, "there is no pad to hold anything on"
        self._events.publish(String(data=held))

    def set_speed_scale(self, scale: float) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=scale)
        set_parameter(self._set, "speed_scale", value, "the speed scale stays")
        self._heard.speed_scale(scale)

    def run_model(self, policy: str) -> str:
        return self._model.run(policy, self._hold_for_a_model)

    def _hold_for_a_model(self) -> None:
        """A model that was chosen a moment ago moves nothing before a person resumes."""
        if self._heard.executor_state in ("tracking", "holding"):
            self.ask("hold")

    def stop_model(self) -> str:
        return self._model.stop()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--contract", required=True, help="of the stack: a shipped name or a YAML file")
    parser.add_argument("--bags", type=Path, required=True, help="folder of the recorded episodes")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; another than this needs a token")
    parser.add_argument("--port", type=int, default=8420, help="0: a free one")
    parser.add_argument("--token", default="", help="what a browser has to know")
    parser.add_argument(
        "--mapping", default="", help="of the page's pad, or of the device here that moves the arm; empty: nothing does"
    )
    parser.add_argument("--policy", default="", help="checkpoint that the stack began with; empty: it runs none")
    parser.add_argument("--models", type=Path, help="folder of further checkpoints")
    parser.add_argument("--approved", default="", help="list of those that may move the arm at full speed")
    parser.add_argument("--title", default="lavla", help="of the page")
    enter_ros()
    options = parser.parse_args(own_arguments(argv))
    with one_line_errors("console"), secured():
        rclpy.init(args=argv)
        mapping = load_mapping(options.mapping) if options.mapping else None
        pad = mapping is not None and mapping.device == TOPIC
        node = ConsoleNode(options.contract, _models(options), steers=pad)
        folder = options.bags.expanduser() / node.get_namespace().strip("/")
        page = application(node, Library(folder), title=options.title, mapping=mapping)
        web = Access(page, host=options.host, token=options.token)
        listening = listening_at(options.host, options.port)
    try:
        print(f"console: open {address_of(listening, options.host, options.token)}", flush=True)
        with spinning(node):
            serve(web, listening)
    except KeyboardInterrupt:
        return 130
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _models(options: argparse.Namespace) -> Models | None:
    if not options.policy:
        return None
    approvals = load_approvals(options.approved) if options.approved else None
    return Models(options.policy, options.models.expanduser() if options.models else None, approvals)


if __name__ == "__main__":
    sys.exit(main())
