"""Ticks of the servo process → /joint_states and /joint_command, in preallocated messages, matched by name;
and in words, for /executor/state and /diagnostics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import WrenchStamped
from numpy.typing import NDArray
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.contract import Contract, Dimension
from lavla_ros.control.types import ExecutorState
from lavla_ros.control.wire import ServoSnapshot
from lavla_ros.episode import ExecutorReport
from lavla_ros.ros.diagnostics import Rate, Report, Window
from lavla_ros.ros.lifecycle import set_stamp, wall_ns
from lavla_ros.ros.messages import MessageError, joint_state, single_point

FORCE_SENSOR_FRAME = "force_sensor"
"""The frame that wrenches are in: the sensor's own, as its maker has it."""


class TickMessages:
    """The messages of one contract and arm; each is valid until the next call."""

    def __init__(self, contract: Contract, joints: Sequence[str], tick_ns: int) -> None:
        """``joints``: the driver's, in its order. MessageError when the arm lacks a state that the contract names.
        ContractError when the contract does not say on which topic they go."""
        states = contract.state.published
        unknown = sorted(set(states) - set(joints) - set(_grippers(contract.state.fields)))
        if unknown:
            raise MessageError(f"contract {contract.name} wants the states {unknown}; this arm measures {list(joints)}")
        in_joint_space, named = contract.action.space == "joint", contract.action.published
        commands = named if in_joint_space else (*joints, *_grippers(contract.action.dims))
        self._state = joint_state(states)
        self._command = single_point(commands, tick_ns)
        self._wrench = WrenchStamped()
        self._wrench.header.frame_id = FORCE_SENSOR_FRAME
        self._state_indices = [joints.index(n) if n in joints else None for n in states]
        self._command_indices = [joints.index(n) if n in joints else None for n in commands]

    def state(self, snapshot: ServoSnapshot) -> JointState:
        """What was measured, stamped when it was."""
        self._state.position = _pick(self._state_indices, snapshot.measured_rad, snapshot.measured_gripper)
        set_stamp(self._state.header.stamp, snapshot.measured_stamp_ns)
        return self._state

    def wrench(self, snapshot: ServoSnapshot) -> WrenchStamped | None:
        """What presses on the tool, stamped like the state that it was measured with; None without a sensor."""
        if snapshot.tool_wrench is None:
            return None
        force, torque = self._wrench.wrench.force, self._wrench.wrench.torque
        force.x, force.y, force.z, torque.x, torque.y, torque.z = snapshot.tool_wrench.tolist()
        set_stamp(self._wrench.header.stamp, snapshot.measured_stamp_ns)
        return self._wrench

    def command(self, snapshot: ServoSnapshot) -> JointTrajectory:
        """What was commanded, stamped with its tick; due one tick later."""
        self._command.points[0].positions = _pick(self._command_indices, snapshot.command_rad, snapshot.gripper)
        set_stamp(self._command.header.stamp, snapshot.stamp_ns)
        return self._command


class Statistics:
    """Counts and latencies of chunks and ticks since the node started."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._last_refusal = ""
        self._rate = Rate()
        self._forward_ms, self._response_ms, self._late_ms = Window(), Window(), Window()
        self._chunk_stamp_ns: int | None = None

    def forwarded(self, stamp_ns: int) -> None:
        """A chunk was handed over."""
        self._counts["chunks.forwarded"] += 1
        self._forward_ms.add((wall_ns() - stamp_ns) * 1e-6)

    def refused(self, counter: str, why: str = "") -> None:
        """A chunk was not."""
        self._counts[counter] += 1
        self._last_refusal = why or self._last_refusal

    def note(self, snapshot: ServoSnapshot) -> None:
        """A tick came out."""
        self._rate.tick()
        self._late_ms.add(snapshot.late_ns * 1e-6)
        for _, accepted, reason in snapshot.results:
            if accepted:
                self._counts["chunks.accepted"] += 1
            else:
                self.refused("chunks.refused", reason)
        if snapshot.chunk_stamp_ns is not None and snapshot.chunk_stamp_ns != self._chunk_stamp_ns:
            self._chunk_stamp_ns = snapshot.chunk_stamp_ns
            self._response_ms.add((snapshot.stamp_ns - snapshot.chunk_stamp_ns) * 1e-6)

    def describe(self, report: Report) -> None:
        """Into /diagnostics."""
        report.value("tick_rate_hz", self._rate.take_hz(wall_ns()))
        report.latency("chunk_age_on_arrival", self._forward_ms)
        report.latency("capture_to_command", self._response_ms)
        report.latency("tick_lateness", self._late_ms)
        for key, count in sorted(self._counts.items()):
            report.value(key, count)
        if self._last_refusal:
            report.value("last_refusal", self._last_refusal)


def announcement(snapshot: ServoSnapshot | None, fault: str | None = None, slow: str = "") -> ExecutorReport:
    """What executor/state says: why the arm stands, since when, and what it waits for.

    ``fault``: one of the servo process itself, which cannot tell it any more. ``slow``: see ExecutorReport.
    """
    if snapshot is None or fault is not None:
        return ExecutorReport(
            state="idle" if fault is None else "fault",
            fault=fault,
            waiting_for="" if fault is None else "the servo process",
            since_ns=0 if snapshot is None else snapshot.stamp_ns,
        )
    fault = snapshot.fault or snapshot.driver_fault
    state = snapshot.state
    if fault is not None:
        state = ExecutorState.FAULT
    elif snapshot.held is not None and state is ExecutorState.IDLE:
        state = ExecutorState.HOLDING  # in or out of servo mode: a person has to resume
    return ExecutorReport(
        state=state.name.lower(),
        fault=fault,
        reason=snapshot.held or snapshot.hold_reason or (f"the arm is {snapshot.taken}" if snapshot.taken else ""),
        held=snapshot.held,
        waiting_for=snapshot.waiting_for,
        since_ns=snapshot.since_ns,
        commander=snapshot.commander,
        slow=slow if snapshot.commander in ("", "policy") else "",
    )


def describe(report: Report, snapshot: ServoSnapshot | None, announced: ExecutorReport) -> None:
    """The same for /diagnostics, with the counters."""
    if snapshot is None:
        return
    for key in ("state", "held", "waiting_for", "reason", "commander", "slow"):
        if value := getattr(announced, key):
            report.value(key, value)
    report.value("missed_ticks", snapshot.missed)
    for key, count in sorted(snapshot.counters.items()):
        report.value(f"executor.{key}", count)
    if announced.fault:
        report.error(f"fault: {announced.fault}; waiting for {announced.waiting_for}")
    if snapshot.concern is not None:
        report.warn(f"held: {snapshot.concern}")
    if snapshot.state is ExecutorState.TRACKING and (snapshot.gripper >= 0.5) != (snapshot.measured_gripper >= 0.5):
        report.warn(
            f"the gripper is commanded to {snapshot.gripper:g} and reported at {snapshot.measured_gripper:g} (1 open)"
        )


def _grippers(dims: Sequence[Dimension]) -> tuple[str, ...]:
    return tuple(d.name for d in dims if d.kind == "gripper")


def _pick(indices: Sequence[int | None], joints_rad: NDArray[np.float64], gripper: float) -> list[float]:
    values: list[float] = joints_rad.tolist()
    return [gripper if i is None else values[i] for i in indices]
