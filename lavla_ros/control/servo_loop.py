"""The servo loop: executor, driver and rings, once every 8 ms, until it is told to end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lavla_ros.config import ConfigError
from lavla_ros.control.actions import ChunkRejected
from lavla_ros.control.arm import ArmDriver, ArmState, DriverError
from lavla_ros.control.executor import ChunkExecutor, ExecutorError, NotAtCommandError, StillMovingError
from lavla_ros.control.realtime import Pacer
from lavla_ros.control.ring import Ring, RingError
from lavla_ros.control.servo_config import ServoConfig
from lavla_ros.control.types import Command, ExecutorState
from lavla_ros.control.wire import (
    MAX_ANSWERS,
    Answer,
    ServoSnapshot,
    WireError,
    decode_chunk,
    decode_request,
    is_persons,
)

_log = logging.getLogger(__name__)
INPUT_LEAD_NS = 2_000_000
"""Chunks are taken over this long before a deadline, so that it does not delay a command."""
GRIPPER_PERIOD_NS = 500_000_000
"""The gripper is commanded again after this while the arm reports it otherwise."""
SETTLED_NS = 500_000_000
"""A measured position is compared with a command that has stood still for this long."""
_NEVER = -(10**18)
RAMPING = "the command is still ramping to rest; ask again"


class ServoLoop:
    """Executor + driver + rings. :meth:`run` returns the reason for a requested end."""

    def __init__(self, config: ServoConfig, executor: ChunkExecutor, driver: ArmDriver, rings: dict[str, Ring]) -> None:
        self._config, self._executor, self._driver, self._rings = config, executor, driver, rings
        self._pacer = Pacer(executor.config.tick_ns)
        self._ticks = 0
        self._heartbeat_ns = time.monotonic_ns()
        self._silent = False
        self._servo_on = False
        """Servo mode was entered and not left by us: commands are sent."""
        self._wanted = False
        """Activated and not deactivated since: to resume is to enter servo mode if it is off."""
        self._held: str | None = None
        """Why it takes a person to enter servo mode again, if a fault ended it."""
        self._concerned = False
        self._missed = 0
        """Cycles missed until the last tick."""
        self._moved_ns = _NEVER
        self._gripper_sent: float | None = None
        self._gripper_sent_ns = _NEVER
        self._counts: Counter[str] = Counter()
        self._results: list[tuple[int, bool, str]] = []
        self._answers: list[tuple[int, Answer]] = []
        self._last: tuple[Command, ArmState] | None = None
        self._stop_reason: str | None = None

    def request_stop(self, reason: str) -> None:
        """End after ramping to rest. Safe to call from a signal handler."""
        self._stop_reason = self._stop_reason or reason

    def run(self) -> str:
        """Until stopped. Raises whatever goes wrong; :meth:`end` is to be called in any case."""
        if self._config.activate:
            self._activate()
        ramp_until_ns: int | None = None
        while True:
            self._pacer.prepare(INPUT_LEAD_NS)
            if self._stop_reason is None:
                self._take_input()
            elif ramp_until_ns is None:
                ramp_until_ns = time.monotonic_ns() + round(self._config.ramp_timeout_s * 1e9)
                self._executor.hold(self._stop_reason, latch=True)
            elif self._executor.at_rest or time.monotonic_ns() > ramp_until_ns:
                return self._stop_reason
            self._pacer.wait()
            self._cycle()

    def end(self, reason: str) -> None:
        """Ramp down with what still works, leave servo mode, close, and write the last snapshot."""
        problems = self._ramp_down()
        left = True
        for what, call in (("leave servo mode", self._driver.exit_servo), ("close", self._driver.close)):
            try:
                call()
            except Exception as error:  # noqa: BLE001  every later step must still be tried
                left = left and what != "leave servo mode"
                problems.append(f"{what}: {error}")
        if problems:
            _log.error("while ending: %s", "; ".join(problems))
        reason = "; ".join([reason, *problems])
        if self._last is not None:
            command, state = self._last
            state = replace(state, servo_mode=state.servo_mode and not left)
            self._write_snapshot(replace(command, state=ExecutorState.IDLE), state, exit_reason=reason)
        else:
            write_exit(self._rings, reason, len(self._executor.config.joint_names))

    def _cycle(self) -> None:
        executor, now_ns = self._executor, self._pacer.wall_ns()
        state = self._driver.read()
        self._watch_stream(state)
        command = executor.tick(now_ns, state, self._pacer.missed - self._missed)
        self._missed = self._pacer.missed
        if self._servo_on:
            self._driver.command(command.position_rad)
            self._move_gripper(command, state)
        if not executor.at_rest:
            self._moved_ns = self._pacer.deadline_ns
        self._last = command, state
        self._ticks += 1
        self._write_snapshot(command, state)
        self._results.clear()
        self._answers.clear()

    def _watch_stream(self, state: ArmState) -> None:
        """A first sign of trouble brings the motion to rest, while the arm can still be told to."""
        if state.concern is not None and not self._concerned:
            self._counts["concerns"] += 1
        self._concerned = state.concern is not None
        if state.concern is not None and self._executor.state is ExecutorState.TRACKING:
            self._executor.hold(state.concern)

    def _move_gripper(self, command: Command, state: ArmState) -> None:
        """Only a chunk moves the gripper: what a stop let go of is not gripped again by itself."""
        if command.chunk_stamp_ns is None:
            return
        again = command.gripper == self._gripper_sent
        as_reported = (state.gripper >= 0.5) == (command.gripper >= 0.5)
        if again and (as_reported or self._pacer.deadline_ns - self._gripper_sent_ns < GRIPPER_PERIOD_NS):
            return
        self._counts["gripper_sent_again"] += again
        self._driver.set_gripper(command.gripper)
        self._gripper_sent, self._gripper_sent_ns = command.gripper, self._pacer.deadline_ns

    def _take_input(self) -> None:
        self._take_chunk(time.time_ns())
        for _ in range(MAX_ANSWERS):
            payload = self._rings["requests"].read()
            if payload is None:
                break
            try:
                request_id, name, values, text = decode_request(payload)
            except WireError as error:
                self._counts["requests_malformed"] += 1
                _log.error("%s", error)
                continue
            self._answers.append((request_id, self._carry_out(name, values, text)))
        beat = False
        for _ in range(self._rings["heartbeat"].slots):
            if self._rings["heartbeat"].read() is None:
                break
            beat = True
        if beat:
            self._heartbeat_ns = time.monotonic_ns()
            self._silent = False
        self._watch_heartbeat()

    def _take_chunk(self, now_ns: int) -> None:
        """The newest chunks of the ring, a person's before the policy's; the others came too fast to be followed."""
        ring, newest = self._rings["chunks"], dict[bool, bytes]()
        for _ in range(ring.slots):
            payload = ring.read()
            if payload is None:
                break
            self._counts["superseded"] += is_persons(payload) in newest
            newest[is_persons(payload)] = payload
        for _, payload in sorted(newest.items(), reverse=True):
            self._submit(payload, now_ns)

    def _submit(self, payload: bytes, now_ns: int) -> None:
        try:
            stamp_ns, chunk = decode_chunk(payload)
        except WireError as error:
            self._executor.fault(str(error))
            return
        if isinstance(chunk, ChunkRejected):
            result = self._executor.submit_rejected(stamp_ns, chunk, now_ns)
        else:
            result = self._executor.submit_prepared(chunk, now_ns)
        self._results.append((stamp_ns, result.accepted, result.reason))

    def _watch_heartbeat(self) -> None:
        silent_s = (time.monotonic_ns() - self._heartbeat_ns) / 1e9
        if silent_s > self._config.heartbeat_hold_s and not self._silent:
            self._silent = True
            self._executor.hold(f"the ROS side is silent for {silent_s:.2f} s")
        if silent_s > self._config.heartbeat_fault_s and self._executor.state is not ExecutorState.FAULT:
            self._executor.fault(f"the ROS side is silent for {silent_s:.2f} s; is the executor node dead?")
        if silent_s > self._config.orphan_exit_s:
            self.request_stop(f"the ROS side is gone ({silent_s:.1f} s without a heartbeat)")

    # What a person (or the node) asks for. Each request does one thing.

    def _carry_out(self, name: str, values: list[float], text: str) -> Answer:
        """One request of the ROS side."""
        try:
            if name == "hold":
                self._executor.hold(text or "held by request", latch=True)
            elif name == "fault":
                self._executor.fault(text)
            elif name == "speed_scale":
                self._executor.set_speed_scale(*values)
            elif name == "activate":
                self._activate()
            elif name == "deactivate":
                self._deactivate()
            elif name == "acknowledge":
                return Answer(True, self._acknowledge())
            elif name == "power_on":
                self._prepare_arm("powering on", self._driver.power_on)
            elif name == "enable":
                self._prepare_arm("enabling", self._driver.enable)
            elif name == "resume":
                return Answer(True, self._resume())
            elif name == "move_to":
                return Answer(True, self._move_to(values, text))
            elif name == "hand_back":
                return Answer(True, self._executor.hand_back(time.time_ns()))
            else:
                return Answer(False, f"unknown request {name!r}")
        except (ExecutorError, ConfigError, DriverError) as error:
            return Answer(False, str(error), retry=isinstance(error, StillMovingError))
        return Answer(True, "done")

    def _activate(self) -> None:
        """Servo mode on, and the executor holding at the measured position. Raises DriverError, ExecutorError."""
        executor, state = self._executor, self._driver.read()
        if executor.state is not ExecutorState.IDLE:
            raise ExecutorError("already active")
        fault = executor.fault_reason or state.fault
        if fault is not None:
            raise ExecutorError(f"fault: {fault}; when it is safe, call /executor/acknowledge, then ask again")
        if not state.enabled:
            what = "enabled" if state.powered_on else "powered on and enabled"
            raise DriverError(
                f"the arm is not {what}: do it at the pendant, or call "
                f"{'' if state.powered_on else '/executor/power_on and '}/executor/enable, or start with power_on:=true"
            )
        with self._pause("entering servo mode"):
            self._driver.enter_servo()
            try:
                executor.activate(self._driver.read(), time.time_ns())
            except ExecutorError:
                self._driver.exit_servo()
                raise
        self._servo_on = self._wanted = True
        self._held = self._gripper_sent = None

    def _deactivate(self) -> None:
        if not self._executor.at_rest:
            self._executor.hold("deactivating", latch=True)
            raise StillMovingError(RAMPING)
        self._wanted, self._held = False, None
        self._leave_servo()

    def _leave_servo(self) -> None:
        """Stop commanding, then leave servo mode. ExecutorError while moving, DriverError if it stays on."""
        self._executor.deactivate()
        self._servo_on = False
        with self._pause("leaving servo mode"):
            self._driver.exit_servo()

    def _acknowledge(self) -> str:
        """Clear the controller's error and the latched fault. Nothing is switched on and nothing moves."""
        executor, state = self._executor, self._driver.read()
        fault = executor.fault_reason or state.fault
        if fault is None:
            raise ExecutorError(f"nothing to acknowledge: the executor is {executor.state.name}, without a fault")
        if executor.state is not ExecutorState.IDLE:
            if not executor.at_rest:
                raise StillMovingError(RAMPING)
            if state.fault is not None or not state.enabled or not state.servo_mode:
                # Commands have no effect now. What follows begins again, where the arm is then.
                self._held = f"acknowledged after: {fault}"
                with contextlib.suppress(DriverError):  # a broken connection; clear_fault makes another
                    self._leave_servo()
        if state.fault is not None:
            with self._pause("clearing the controller's fault"):
                self._driver.clear_fault()
                self._driver.exit_servo()
        if executor.fault_reason is not None and not executor.acknowledge(time.time_ns()):
            raise ExecutorError(executor.refusal)
        if executor.state is ExecutorState.IDLE and self._wanted:
            self._held = f"acknowledged after: {fault}"
        return "acknowledged; " + (
            f"next: /executor/{waiting}" if (waiting := self._waiting_for(self._driver.read())) else "done"
        )

    def _prepare_arm(self, what: str, call: Callable[[], None]) -> None:
        if self._executor.state is not ExecutorState.IDLE:
            raise ExecutorError(
                f"{what}: the executor is {self._executor.state.name}"
                + ("; acknowledge the fault first" if self._executor.fault_reason else ", the arm is on already")
            )
        with self._pause(what):
            call()

    def _resume(self) -> str:
        """A person lets the arm move again. Where command and arm are apart, servo mode is entered again at the arm."""
        executor, where = self._executor, "at the command"
        if executor.fault_reason is not None:
            raise ExecutorError(f"fault: {executor.fault_reason}; acknowledge it first")
        if executor.state is not ExecutorState.IDLE and executor.held is None:
            return "nothing is held"
        if executor.state is ExecutorState.IDLE and not self._wanted:
            if executor.held is None:
                raise ExecutorError("the executor is not active: activate the node (it may be in standby)")
            executor.resume(time.time_ns())
            return "the hold is over; the executor is not active"
        if not executor.at_rest:
            raise StillMovingError(RAMPING)
        try:
            if executor.state is not ExecutorState.IDLE:
                executor.resume(time.time_ns())
        except NotAtCommandError as apart:
            self._let_settle(apart)
            _log.warning("%s", apart)
            self._held = executor.held
            self._leave_servo()
        if executor.state is ExecutorState.IDLE:
            self._activate()
            executor.resume(time.time_ns())  # of a hold that was asked for meanwhile
            where = "where the arm is, in servo mode anew"
        return f"resumed {where}; waiting for a chunk"

    def _move_to(self, goal_rad: list[float], to: str) -> str:
        executor = self._executor
        if executor.state is ExecutorState.IDLE:
            raise ExecutorError(f"the arm takes no commands: waiting for {self._waiting_for(self._driver.read())}")
        try:
            return executor.move_to(goal_rad, time.time_ns(), to=to)
        except NotAtCommandError as apart:
            self._let_settle(apart)
            raise

    def _let_settle(self, apart: NotAtCommandError) -> None:
        """Raises StillMovingError while the arm may still be on the way to a command that has just come to rest."""
        if time.monotonic_ns() - self._moved_ns < SETTLED_NS:
            raise StillMovingError(f"{RAMPING} ({apart})") from None

    @contextlib.contextmanager
    def _pause(self, what: str) -> Iterator[None]:
        """Around calls that block, while nothing is commanded: says so first, or the process would seem frozen."""
        if self._last is not None:
            self._write_snapshot(*self._last, busy=what)
        try:
            yield
        finally:
            self._pacer.restart()

    def _waiting_for(self, state: ArmState) -> str:
        executor = self._executor
        if executor.fault_reason is not None or state.fault is not None:
            return "acknowledge"
        if executor.state is not ExecutorState.IDLE:
            return executor.waiting_for
        if not state.enabled:
            return "enable" if state.powered_on else "power_on"
        return "resume" if self._wanted else "activate"

    def _write_snapshot(
        self, command: Command, state: ArmState, *, busy: str = "", exit_reason: str | None = None
    ) -> None:
        executor = self._executor
        snapshot = ServoSnapshot(
            tick=self._ticks,
            stamp_ns=command.stamp_ns,
            command_rad=command.position_rad,
            command_velocity_rad_s=command.velocity_rad_s,
            gripper=command.gripper,
            state=command.state,
            fault=executor.fault_reason,
            hold_reason=executor.hold_reason if command.state is ExecutorState.HOLDING else "",
            held=executor.held or (self._held if executor.state is ExecutorState.IDLE else None),
            waiting_for=self._waiting_for(state),
            since_ns=executor.since_ns,
            concern=state.concern,
            busy=busy,
            chunk_stamp_ns=command.chunk_stamp_ns,
            commander=executor.commander,
            measured_rad=state.position_rad,
            measured_gripper=state.gripper,
            measured_stamp_ns=state.stamp_ns,
            tool_wrench=state.tool_wrench,
            taken=state.taken,
            powered_on=state.powered_on,
            enabled=state.enabled,
            servo_mode=state.servo_mode,
            driver_fault=state.fault,
            late_ns=self._pacer.late_ns,
            missed=self._pacer.missed,
            results=tuple(self._results),
            answers=tuple(self._answers),
            counters={**executor.counters, **self._counts, **self._driver.report()},
            exit_reason=exit_reason,
        )
        try:
            self._rings["snapshots"].write(snapshot.encode())
        except (RingError, ValueError, TypeError) as error:  # the arm matters more than the report about it
            self._counts["snapshots_failed"] += 1
            if self._counts["snapshots_failed"] == 1:
                _log.error("a snapshot could not be written: %s", error)

    def _ramp_down(self) -> list[str]:
        """Braking commands, one per cycle, from the last commanded motion. Uses nothing that may have failed."""
        if not self._servo_on:
            return []
        problems: list[str] = []
        until_ns = time.monotonic_ns() + round(self._config.ramp_timeout_s * 1e9)
        while time.monotonic_ns() < until_ns:
            moving, missed = not self._executor.at_rest, self._pacer.missed
            position = self._executor.brake()
            try:
                self._driver.command(position)
            except Exception as error:  # noqa: BLE001  the next cycle's may still arrive
                problems = [f"the ramp to rest could not be sent: {error}"]
            if not moving:
                return problems
            self._pacer.wait()
            if self._pacer.missed - missed > self._executor.config.bridged_ticks:
                return problems  # nothing came for several cycles: the arm stands, and going on would be a jump
        return [*problems, f"not at rest after {self._config.ramp_timeout_s} s"]


def write_exit(rings: dict[str, Ring], reason: str, dof: int) -> None:
    """A last snapshot for a process that never ticked."""
    nothing: NDArray[np.float64] = np.full(dof, np.nan)
    rings["snapshots"].write(
        ServoSnapshot(
            tick=0,
            stamp_ns=time.time_ns(),
            command_rad=nothing,
            command_velocity_rad_s=nothing,
            gripper=1.0,
            state=ExecutorState.IDLE,
            fault=None,
            hold_reason="",
            chunk_stamp_ns=None,
            measured_rad=nothing,
            measured_gripper=1.0,
            measured_stamp_ns=0,
            powered_on=False,
            enabled=False,
            servo_mode=False,
            driver_fault=None,
            late_ns=0,
            missed=0,
            exit_reason=reason,
        ).encode()
    )
