"""A person's device → person_chunk: what :mod:`lavla_ros.teleop` makes of it, for the executor.

The arm obeys a person's chunks before a policy's; the person's button hand_back gives it back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from lavla_ros import topics
from lavla_ros.config import check
from lavla_ros.contract import load_contract
from lavla_ros.control.config import ExecutorConfig
from lavla_ros.episode import EpisodeError, ExecutorReport
from lavla_ros.ros.arbitration import LEASE, require_no_rival
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.inputs import Inputs
from lavla_ros.ros.lifecycle import LavlaNode, stamp_to_ns, wall_ns
from lavla_ros.ros.messages import CHUNK_QOS, STATE_QOS, chunk_to_trajectory
from lavla_ros.ros.parameters import NodeParameters, Section, parameter
from lavla_ros.ros.process import run_node
from lavla_ros.teleop.commanded import Commanded
from lavla_ros.teleop.config import TeleopOptions, load_mapping
from lavla_ros.teleop.devices import DeviceError, Messages, open_device
from lavla_ros.teleop.operator import Event
from lavla_ros.teleop.teleoperator import Teleoperator

QUIET_S = 0.5
"""Where the arm is is not known when its newest state is older than this."""


@dataclass(frozen=True, kw_only=True)
class TeleopParameters(NodeParameters):
    contract: str = parameter(help="Contract: a shipped name or a YAML file; its robot is the arm that is moved.")
    mapping: str = parameter(
        "keyboard",
        "What the device's inputs do: keyboard, gamepad, spacemouse, browser, or a YAML file like "
        "config/teleop/gamepad.yaml.",
    )
    device: str = parameter(
        "",
        "keyboard, topic (a program sends the events on teleop/events), a file like /dev/input/event3, or a recorded "
        "stream of events (*.jsonl); empty: the mapping says.",
    )
    leader: str = parameter(
        "",
        "JointState topic of another arm, whose joints are inputs of the mapping by their names; empty: there is none.",
    )
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def sections(cls, declared: Mapping[str, Any]) -> Iterator[Section]:
        yield Section(into="options", kind=TeleopOptions)


class TeleopNode(LavlaNode):
    """A device, a timer, and a publisher of chunks."""

    parameters_type = TeleopParameters
    parameters: TeleopParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("teleop", **options)

    def setup(self) -> None:
        p = self.parameters
        self._contract = contract = load_contract(p.contract)
        mapping, options = load_mapping(p.mapping), TeleopOptions(**p.options)
        expected = "a topic exactly if a joint follows one in the mapping"
        check(bool(p.leader) == bool(mapping.leads), "parameter leader", p.leader, expected)
        config = ExecutorConfig.from_contract(contract)
        self._teleop = Teleoperator(contract, config, mapping, options)
        self._commanded = Commanded(contract, config)
        require_no_rival(self, topics.PERSON_CHUNK, "one person")
        self._chunks = self.configured.publisher(JointTrajectory, topics.PERSON_CHUNK, CHUNK_QOS)
        self._hand_back = self.configured.client(Trigger, topics.EXECUTOR_HAND_BACK)
        self._device = open_device(p.device, mapping)
        self.configured.callback(self._device.close)

    def start(self) -> None:
        contract = self._contract
        self._leader_events: list[Event] = []
        self._report: ExecutorReport | None = None
        self._shown = ""
        self._counts = {"chunks": 0, "refused": 0}
        self._inputs = inputs = Inputs(self.activated)
        inputs.add(String, topics.EXECUTOR_STATE, self._on_executor, latched=True)
        inputs.add(JointState, contract.wire(contract.state.topic), self._on_state, depth=STATE_QOS.depth)
        inputs.add(JointTrajectory, contract.wire(contract.action.topic), self._on_command, depth=STATE_QOS.depth)
        if self.parameters.leader:
            inputs.add(JointState, self.parameters.leader, self._on_leader, depth=STATE_QOS.depth)
        if isinstance(self._device, Messages):
            inputs.add(String, topics.TELEOP_EVENTS, self._on_events, depth=20)
        self.activated.timer(self._teleop.period_s, self._step)

    def _on_executor(self, message: String) -> None:
        try:
            self._report = ExecutorReport.from_json(message.data)
        except EpisodeError as error:
            self.get_logger().warning(str(error))

    def _on_state(self, message: JointState) -> None:
        self._commanded.measured(message.name, message.position, stamp_to_ns(message.header.stamp))

    def _on_command(self, message: JointTrajectory) -> None:
        point = message.points[-1]
        due_ns = stamp_to_ns(message.header.stamp) + stamp_to_ns(point.time_from_start)
        self._commanded.commanded(message.joint_names, point.positions, due_ns)

    def _on_leader(self, message: JointState) -> None:
        now_ns = wall_ns()
        self._leader_events += [Event(now_ns, *item) for item in zip(message.name, message.position, strict=False)]

    def _on_events(self, message: String) -> None:
        assert isinstance(self._device, Messages)
        heard = self._inputs[topics.TELEOP_EVENTS]
        names = " and ".join(publisher.node for publisher in heard.publishers)
        try:
            if len(heard.publishers) > 1:
                raise DeviceError(f"{heard.topic} is published by {names}: one may steer; end the others ({LEASE})")
            self._device.take(message.data, wall_ns())
        except DeviceError as error:
            self._counts["refused"] += 1
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)

    def _step(self) -> None:
        # On a busy machine what the executor said waits behind this timer; a wish is made of how the arm moves now.
        self._inputs.take_waiting()
        now_ns = wall_ns()
        events = [*self._device.read(now_ns), *self._leader_events]
        self._leader_events = []
        chunk = self._teleop.step(events, self._commanded.motion(now_ns, QUIET_S), now_ns, self._blocked())
        if chunk is not None:
            self._chunks.publish(chunk_to_trajectory(chunk))
            self._counts["chunks"] += 1
        if self._teleop.take_hand_back():
            self._hand_back.call_async(Trigger.Request())
        self._show()

    def _blocked(self) -> str:
        report = self._report
        if report is None:
            return "no executor is there"
        if report.fault or report.held or report.state == "idle":
            return (
                f"the arm takes no commands: {report.fault or report.held or 'idle'}; waiting for {report.waiting_for}"
            )
        return ""

    def _show(self) -> None:
        """What a person has to know, once when it changes."""
        operator, report = self._teleop.operator, self._report
        arm = "" if report is None or report.state != "holding" else f" | the arm stands: {report.reason}"
        text = f"level {operator.level}, {operator.frame} frame | {self._teleop.why or 'moving'}{arm}"
        if text != self._shown:
            self._shown = text
            self.get_logger().info(text)

    def diagnose(self, report: Report) -> None:
        if not self.active:
            return
        for name, count in self._counts.items():
            report.value(name, count)
        report.value("restarts", self._teleop.restarts)
        report.value("state", self._shown)
        self._inputs.report(report)


def main() -> int:
    return run_node(TeleopNode)


if __name__ == "__main__":
    sys.exit(main())
