"""The ROS side of the servo process: chunks go in, every servo tick comes out as /joint_states and /joint_command.

The servo loop itself runs in a process of its own (``lavla_ros.control.servo_process``). This node starts
it, hands chunks over in joint space, and beats its heart from the ROS loop: when that stalls or dies, the servo
process brings the arm to rest by itself. When the servo process freezes or dies, this node says so, ends it, and
leaves servo mode in its place. What a person decides is one service each (``lavla_ros.ros.executor_services``).
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Any

from geometry_msgs.msg import WrenchStamped
from rcl_interfaces.msg import SetParametersResult
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros import topics
from lavla_ros.control.servo_link import ServoLink, ServoLinkError
from lavla_ros.control.types import ExecutorState
from lavla_ros.control.wire import ServoSnapshot, WireError
from lavla_ros.episode import ExecutorReport
from lavla_ros.nodes.executor_parameters import ExecutorParameters
from lavla_ros.ros.arbitration import ChunkGate, conflict_of, rivals_of
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.executor_services import ExecutorServices
from lavla_ros.ros.lifecycle import LavlaNode, wall_ns
from lavla_ros.ros.messages import CHUNK_QOS, LATCHED_QOS, STATE_QOS, MessageError
from lavla_ros.ros.process import run_node
from lavla_ros.ros.tick_messages import Statistics, TickMessages, announcement, describe

HEARTBEAT_S = 0.05
SILENT_S, FROZEN_S = 0.1, 1.0
"""A servo process that has not ticked for so long is reported; for longer, it is ended."""


class ExecutorNode(LavlaNode):
    """The servo process's owner: its link, its ticks as messages, and the services of a person."""

    parameters_type = ExecutorParameters
    parameters: ExecutorParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("executor", **options)
        self._link: ServoLink | None = None
        self._newest: ServoSnapshot | None = None
        self._announced = ExecutorReport()
        self._announcing = threading.Lock()
        self._statistics = Statistics()
        self._forwarding = threading.Event()  # set while ticks are published
        self._gates: tuple[ChunkGate, ...] = ()  # the policy's, and a person's
        self.add_on_set_parameters_callback(self._on_parameters)

    def setup(self) -> None:
        config = self.parameters.servo_config()
        contract = config.load_contract()
        executor = config.executor_config(contract)
        poses = config.named_poses(executor, contract)
        self._tick_ns = executor.tick_ns
        self._messages = TickMessages(contract, executor.joint_names, executor.tick_ns)
        for topic in (contract.state.topic, contract.action.topic):
            if (name := self.resolve_topic_name(contract.wire(topic))) in config.driver_topics():
                raise ServoLinkError(
                    f"contract {contract.name} calls the topic {name} its own, which the arm's driver uses: give the "
                    "contract's state and action other topics, such as /arm/joint_states and /arm/joint_command"
                )
        if others := rivals_of(self, topics.EXECUTOR_STATE):
            raise ServoLinkError(
                f"{' and '.join(others)} commands the arm of this ROS domain already; stop it first, or use another "
                "ROS_DOMAIN_ID (a node that was killed stays in the graph for up to 20 s)"
            )
        made = self.configured
        self._states = made.publisher(JointState, contract.wire(contract.state.topic), STATE_QOS)
        self._wrenches = made.publisher(WrenchStamped, topics.TOOL_WRENCH, STATE_QOS)
        self._commands = made.publisher(JointTrajectory, contract.wire(contract.action.topic), STATE_QOS)
        self._announcements = made.publisher(String, topics.EXECUTOR_STATE, LATCHED_QOS)
        self._acknowledge = self.resolve_service_name(topics.EXECUTOR_ACKNOWLEDGE)
        person = ChunkGate(self, contract, topic=topics.PERSON_CHUNK, person=True)
        self._gates = (self.parameters.gate(self, contract), person)
        self._link = link = ServoLink(config)
        made.callback(self._end_link)
        link.start()
        self._forwarding.set()
        thread = threading.Thread(target=self._forward, args=(link,), name="servo ticks", daemon=True)
        thread.start()
        made.callback(thread.join, 2.0)
        made.callback(self._forwarding.clear)
        made.timer(HEARTBEAT_S, self._beat)
        for gate in self._gates:
            made.subscription(JointTrajectory, gate.topic, partial(self._on_chunk, gate), CHUNK_QOS, raw=True)
        self._asked = ExecutorServices(made, link, partial(conflict_of, self._gates), executor.joint_names, poses)

    def start(self) -> None:
        assert self._link is not None
        if self.parameters.standby:
            self.get_logger().info("standby: the arm's state is reported, commands are not executed")
            return
        if conflict := conflict_of(self._gates):
            raise ServoLinkError(conflict)
        if not self._link.activate():
            raise ServoLinkError(f"servo mode was refused: {self._asked.named(self._link.reason)}")

    def stop(self) -> None:
        """The arm ramps to rest and leaves servo mode."""
        if self._link is not None and self._link.alive and not self._link.deactivate():
            raise ServoLinkError(f"could not leave servo mode in order: {self._link.reason}")

    def _end_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.stop()
        self._newest, self._announced = None, ExecutorReport()

    # Chunks in: forwarded in the callback, nothing in between.

    def _on_chunk(self, gate: ChunkGate, message: bytes) -> None:
        if self._link is None or not self.active:
            self._statistics.refused("chunks.inactive")
            return
        conflict = gate.look()
        if conflict is not None:
            self._statistics.refused("chunks.contested", conflict)
            self.get_logger().warning(conflict, throttle_duration_sec=1.0)
            if gate.person and self._newest is not None and self._newest.held is None:
                self._link.hold(conflict)  # whose wish counts is not known, but that the policy's does not
            return
        try:
            chunk = gate.read(message)
            self._link.submit(chunk, person=gate.person, most_speed=gate.most_speed)
        except (MessageError, WireError, ServoLinkError) as error:
            self._statistics.refused("chunks.malformed", str(error))
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        self._statistics.forwarded(chunk.stamp_ns)

    def _beat(self) -> None:
        link = self._link
        if link is None or self.fault is not None:
            return
        if not link.alive:
            self._fail(f"the servo process ended: {link.exit_reason}", link.leave_servo())
            return
        link.heartbeat()
        silent_s = link.silent_s
        if silent_s > FROZEN_S:
            self._fail(f"the servo process has not ticked for {silent_s:.1f} s and was ended", link.kill())
        elif silent_s > SILENT_S:
            self._say(fault="the servo process does not tick")
        elif self._newest is not None:
            self._say()  # it may have been silent before
        contest = conflict_of(self._gates, lasting=True) if self.active else None
        if contest is not None and self._newest is not None and self._newest.state is ExecutorState.TRACKING:
            link.fault(contest)

    def _fail(self, reason: str, rescue: str) -> None:
        reason = "; ".join(filter(None, (reason, rescue, "clean up and configure this node to restart it")))
        self._say(fault=reason)
        self.fail(reason)

    # Ticks out: a thread that wakes just after each tick of the servo process.

    def _forward(self, link: ServoLink) -> None:
        measured_ns = 0
        while self._forwarding.is_set():
            snapshots = link.drain()
            for snapshot in snapshots:
                if snapshot.exit_reason is not None:
                    continue  # _beat reports it
                if snapshot.measured_stamp_ns > measured_ns:  # the controller's status may be slower than the ticks
                    measured_ns = snapshot.measured_stamp_ns
                    self._states.publish(self._messages.state(snapshot))
                    if (wrench := self._messages.wrench(snapshot)) is not None:
                        self._wrenches.publish(wrench)
                if snapshot.state is not ExecutorState.IDLE and not snapshot.busy:
                    self._commands.publish(self._messages.command(snapshot))
                self._note(snapshot)
            due_s = (self._newest.stamp_ns + self._tick_ns - wall_ns()) * 1e-9 if snapshots and self._newest else 0.0
            # The phase of the ticks is known; only an overdue one is polled for.
            time.sleep(min(max(due_s + 0.0003, 0.001), 0.01))

    def _note(self, snapshot: ServoSnapshot) -> None:
        self._newest = snapshot
        self._statistics.note(snapshot)
        self._say()

    def _say(self, fault: str | None = None) -> None:
        """Announce the newest state (or a fault that this side sees) on executor/state, if it has changed."""
        with self._announcing:
            said = announcement(self._newest, fault, self._gates[0].slow if self._gates else "")
            if said == self._announced:
                return
            if said.fault and said.fault != self._announced.fault:
                self.get_logger().error(f"fault: {said.fault}; when it is safe, call {self._acknowledge}")
            self._announced = said
            self._announcements.publish(String(data=said.to_json()))

    def _on_parameters(self, changes: list[Any]) -> SetParametersResult:
        """Those that may be set while the node runs take effect at once."""
        values = {p.name: p.value for p in changes if p.name in ("speed_scale", "command_source")}
        link, scale = self._link, values.get("speed_scale")
        if scale is not None and link is not None and link.alive and not link.set_speed_scale(scale):
            return SetParametersResult(successful=False, reason=link.reason)
        if "command_source" in values and self._gates:
            self._gates[0].allow(values["command_source"])
        kept: dict[str, Any] = {name: value for name, value in values.items() if name == "command_source"}
        if scale is not None:
            kept["executor"] = {**self.parameters.executor, "speed_scale": scale}
        self.parameters = replace(self.parameters, **kept)
        return SetParametersResult(successful=True)

    def diagnose(self, report: Report) -> None:
        self._statistics.describe(report)
        if self._link is not None:
            report.value("ticks_not_published", self._link.lost_snapshots)
        describe(report, self._newest, self._announced)


def main() -> int:
    return run_node(ExecutorNode)


if __name__ == "__main__":
    sys.exit(main())
