"""The servo loop: executor, driver and rings, once every 8 ms, until it is told to end."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lavla_ros.control.config import ConfigError
from lavla_ros.control.driver import ArmDriver, ArmState, DriverError
from lavla_ros.control.executor import ChunkExecutor, ExecutorError
from lavla_ros.control.realtime import Pacer
from lavla_ros.control.ring import Ring
from lavla_ros.control.servo_config import ServoConfig
from lavla_ros.control.types import Command, ExecutorState
from lavla_ros.control.wire import ServoSnapshot, WireError, decode_chunk, decode_request

_log = logging.getLogger(__name__)
INPUT_LEAD_NS = 2_000_000
"""Chunks are taken over this long before a deadline: preparing one (0.4 to 1.5 ms) must not delay a command."""


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
        self._gripper_sent: float | None = None
        self._results: list[tuple[int, bool, str]] = []
        self._answers: list[tuple[int, bool, str]] = []
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
        for what, call in (("leave servo mode", self._driver.exit_servo), ("close", self._driver.close)):
            try:
                call()
            except Exception as error:  # noqa: BLE001  every later step must still be tried
                problems.append(f"{what}: {error}")
        if problems:
            _log.error("while ending: %s", "; ".join(problems))
        reason = "; ".join([reason, *problems])
        if self._last is not None:
            command, state = self._last
            self._write_snapshot(replace(command, state=ExecutorState.IDLE), state, reason)
        else:
            write_exit(self._rings, reason, len(self._executor.config.joint_names))

    def _cycle(self) -> None:
        executor, now_ns = self._executor, self._pacer.wall_ns()
        state = self._driver.read()
        command = executor.tick(now_ns, state)
        if self._servo_on:
            self._driver.command(command.position_rad)
            if command.gripper != self._gripper_sent:
                self._driver.set_gripper(command.gripper)
                self._gripper_sent = command.gripper
        self._last = command, state
        self._ticks += 1
        self._write_snapshot(command, state, None)
        self._results.clear()
        self._answers.clear()

    def _take_input(self) -> None:
        now_ns = time.time_ns()
        while (payload := self._rings["chunks"].read()) is not None:
            try:
                chunk = decode_chunk(payload)
            except WireError as error:
                self._executor.fault(str(error))
                continue
            result = self._executor.submit(chunk, now_ns)
            self._results.append((chunk.stamp_ns, result.accepted, result.reason))
        while (payload := self._rings["requests"].read()) is not None:
            request_id, name, value = decode_request(payload)
            self._answers.append((request_id, *self._carry_out(name, value)))
        beat = False
        while self._rings["heartbeat"].read() is not None:
            beat = True
        if beat:
            self._heartbeat_ns = time.monotonic_ns()
            self._silent = False
        self._watch_heartbeat()

    def _watch_heartbeat(self) -> None:
        silent_s = (time.monotonic_ns() - self._heartbeat_ns) / 1e9
        if silent_s > self._config.heartbeat_hold_s and not self._silent:
            self._silent = True
            self._executor.hold(f"the ROS side is silent for {silent_s:.2f} s")
        if silent_s > self._config.heartbeat_fault_s and self._executor.state is not ExecutorState.FAULT:
            self._executor.fault(f"the ROS side is silent for {silent_s:.2f} s; is the executor node dead?")
        if silent_s > self._config.orphan_exit_s:
            self.request_stop(f"the ROS side is gone ({silent_s:.1f} s without a heartbeat)")

    def _carry_out(self, name: str, value: float) -> tuple[bool, str]:
        """One request of the ROS side. Returns success and reason."""
        executor = self._executor
        try:
            if name == "acknowledge":
                return self._acknowledge()
            if name == "activate":
                self._activate()
            elif name == "deactivate":
                if not executor.at_rest:
                    executor.hold("deactivating", latch=True)
                    return False, "the command is still ramping to rest; ask again"
                executor.deactivate()
                self._servo_on = False
                self._driver.exit_servo()
            elif name == "hold":
                executor.hold("held by request", latch=True)
            elif name == "resume":
                executor.resume(time.time_ns())
            elif name == "speed_scale":
                executor.set_speed_scale(value)
            else:
                return False, f"unknown request {name!r}"
        except (ExecutorError, ConfigError, DriverError) as error:
            return False, str(error)
        return True, "done"

    def _activate(self) -> None:
        """Servo mode on, and the executor holding at the measured position. Raises DriverError, ExecutorError."""
        if self._executor.state is not ExecutorState.IDLE:
            raise ExecutorError("already active")
        self._driver.enter_servo()
        self._executor.resume(time.time_ns())
        self._executor.activate(self._driver.read(), time.time_ns())
        self._servo_on = True
        self._pacer.restart()

    def _acknowledge(self) -> tuple[bool, str]:
        """A person says that it is safe again: clear the controller's fault, servo mode on, clear ours."""
        executor = self._executor
        state = self._driver.read()
        if executor.state is ExecutorState.FAULT and (state.fault or not state.enabled or not state.servo_mode):
            if not executor.at_rest:
                return False, "the command is still ramping to rest; ask again"
            # The controller takes no commands now, so this may block. What follows starts at the arm.
            self._servo_on = False
            self._driver.clear_fault()
            self._driver.enter_servo()
            executor.rebase(self._driver.read(), time.time_ns())
            self._servo_on = True
            self._pacer.restart()
            self._cycle()
        ok = executor.acknowledge(time.time_ns())
        return ok, "acknowledged" if ok else executor.refusal

    def _write_snapshot(self, command: Command, state: ArmState, exit_reason: str | None) -> None:
        executor = self._executor
        snapshot = ServoSnapshot(
            tick=self._ticks,
            stamp_ns=command.stamp_ns,
            command_rad=command.position_rad,
            command_velocity_rad_s=command.velocity_rad_s,
            gripper=command.gripper,
            state=command.state,
            fault=command.fault,
            hold_reason=executor.hold_reason if command.state is ExecutorState.HOLDING else "",
            chunk_stamp_ns=command.chunk_stamp_ns,
            measured_rad=state.position_rad,
            measured_gripper=state.gripper,
            measured_stamp_ns=state.stamp_ns,
            enabled=state.enabled,
            servo_mode=state.servo_mode,
            driver_fault=state.fault,
            late_ns=self._pacer.late_ns,
            missed=self._pacer.missed,
            results=tuple(self._results),
            answers=tuple(self._answers),
            counters=executor.counters,
            exit_reason=exit_reason,
        )
        self._rings["snapshots"].write(snapshot.encode())

    def _ramp_down(self) -> list[str]:
        """Braking commands, one per cycle, from the last commanded motion. Uses nothing that may have failed."""
        if not self._servo_on:
            return []
        until_ns = time.monotonic_ns() + round(self._config.ramp_timeout_s * 1e9)
        while time.monotonic_ns() < until_ns:
            moving = not self._executor.at_rest
            try:
                self._driver.command(self._executor.brake())
            except Exception as error:  # noqa: BLE001  the arm cannot be told any more; the controller stops it
                return [f"the ramp to rest could not be sent: {error}"]
            if not moving:
                return []
            self._pacer.wait()
        return [f"not at rest after {self._config.ramp_timeout_s} s"]


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
            enabled=False,
            servo_mode=False,
            driver_fault=None,
            late_ns=0,
            missed=0,
            exit_reason=reason,
        ).encode()
    )
