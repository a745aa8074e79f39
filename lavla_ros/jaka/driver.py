"""The JAKA arm behind the control layer's ``ArmDriver`` protocol, over the vendor's TCP protocol.

Connecting goes: lock the controller for this process, look at the status port whether the arm stands still, only then
open the command port (which may replace another client). Powering on, enabling, clearing an error and entering servo
mode are separate acts; each is confirmed by the controller within a time-out. From
:meth:`JakaTcpDriver.enter_servo` on, the first fault is latched: nothing reconnects, nothing is cleared, until a
person asks for :meth:`JakaTcpDriver.clear_fault`. What counts as trouble in between: :mod:`lavla_ros.jaka.stream`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lavla_ros.config import ConfigError
from lavla_ros.control.arm import Arm, ArmState, DriverError, JointLimits
from lavla_ros.jaka.client import JakaClient, RobotState
from lavla_ros.jaka.codec import JakaProtocolError
from lavla_ros.jaka.connection import ClientCounters
from lavla_ros.jaka.controller_settings import SettingRefused, apply_settings
from lavla_ros.jaka.dh import differences
from lavla_ros.jaka.driver_config import JakaDriverConfig
from lavla_ros.jaka.errors import ControllerBusyError, JakaConnectionError, JakaError, JakaTimeoutError
from lavla_ros.jaka.limits import JOINTS
from lavla_ros.jaka.lock import ControllerLock
from lavla_ros.jaka.status import ArmStatus, span_rad
from lavla_ros.jaka.stream import StreamWatch, Verdict

__all__ = ["JakaDriverConfig", "JakaTcpDriver", "leave_servo_mode"]

_log = logging.getLogger(__name__)
_JAKA_ERRORS = (JakaConnectionError, JakaError, JakaProtocolError, SettingRefused, ControllerBusyError)
_POLL_S = 0.02
_STILL_FOR_S = 0.1
_COME_TO_REST_S = 1.0
_FAREWELL_CYCLES = 25
"""A connection that can only be written to is given up after this many cycles at rest."""
_MAX_STEPS = 10


class JakaTcpDriver:
    """Implements :class:`lavla_ros.control.arm.ArmDriver`. One thread at a time."""

    def __init__(self, config: JakaDriverConfig, limits: JointLimits, arm: Arm | None = None) -> None:
        """``limits``: what the commands keep. ``arm``: the one that the controller has to have; None: any.

        Raises ValueError if the controller cannot follow so fast, the payload is too heavy for the arm, or the arm
        has not six joints.
        """
        if arm is not None:
            config = _loaded(config, arm)
        self._config, self._filter_limits, self._arm = config, config.filter_limits(limits), arm
        self._client = _client_of(config)
        self._lock = ControllerLock(config.host, config.port)
        self._watch = StreamWatch(config)
        self._connected = False
        self._fault: str | None = None
        self._verdict = Verdict()
        self._robot = RobotState(powered_on=False, enabled=False)
        """As last asked for, if the status does not say."""
        self._last_position_rad = np.zeros(6)
        self._last_stamp_ns = 0
        self._moving: bool | None = None
        self._seen_ns = 0
        self._counted = (0, 0, 0)
        self._gripper_open = True
        """As commanded last."""
        self._gripper_due_ns: int | None = None
        """When the status has to show the output that was switched; None if nothing is awaited."""

    @property
    def counters(self) -> ClientCounters:
        """Commands sent without waiting, their replies, refusals, stray replies, reconnects."""
        return self._client.counters

    def report(self) -> dict[str, int]:
        """How the stream of servo commands goes, by name; only what is not 0."""
        counters, watch = self._client.counters, self._watch
        values = {
            "wire_unanswered": self._client.unanswered("servo_j")[0],
            "wire_refused": counters.refused["servo_j"],
            "wire_full_reads": counters.full_reads,
            "wire_stray_replies": sum(counters.stray_replies.values()),
            "wire_reconnects": counters.reconnects,
            "wire_withheld_at_rest": watch.withheld,
            "wire_queued": round(watch.queue_periods),
            "wire_lag_ms": round(watch.lag_s * 1e3),
            "wire_off_path_mrad": round(watch.off_path_rad * 1e3),
        }
        return {name: value for name, value in values.items() if value}

    # ---- set-up ----

    def connect(self) -> None:
        """Lock the controller, look at the arm, open the command port; with ``power_on`` also power on and enable.

        An arm without power, disabled, in protective stop or in drag mode is no error. Raises DriverError naming
        host:port, what is wrong and the fix; nothing stays connected or locked then.
        """
        if self._connected:
            return
        try:
            self._lock.acquire()
            self._open()
            self._fault = None
            if self._config.power_on:
                self._require_no_error(self._wait_status())
                self.power_on()
                self.enable()
                self._wait_status(lambda s: s.fault is None)
        except _JAKA_ERRORS as error:
            self.close()
            raise self._error(str(error)) from error
        except DriverError:
            self.close()
            raise

    def power_on(self) -> None:
        """Switch the arm's power on and wait until it has it. Raises DriverError."""
        self._switch("power_on", lambda s: s.powered_on, self._client.power_on, "is the emergency stop released?")

    def enable(self) -> None:
        """Release the brakes and wait until they are. Raises DriverError, also for an arm without power."""
        self._switch("enable_robot", lambda s: s.enabled, self._client.enable_robot, "look at the pendant")

    def enter_servo(self) -> None:
        """Set the controller up, enter servo mode, and wait until it is confirmed and the arm is seen to stand still.

        Raises DriverError for an arm that has a fault, is not enabled, moves, or is in someone else's hands, where
        the controller refuses a setting, and where its own command is not where the arm is.
        """
        if not self._connected:
            raise self._error("enter_servo before connect()")
        if self._fault is not None:
            raise self._error(f"the fault must be acknowledged first: {self._fault}")
        try:
            self._require_ready(self._wait_status())
            self._wait_still()
            apply_settings(self._client, self._config, self._filter_limits)
            self._client.servo_move(True)
            if not self._client.is_in_servo_move():
                raise self._error("servo_move was accepted, but the controller is not in servo mode")
            status = self._wait_still()
            self._require_ready(status)
            self._require_own_command_at_arm(status)
        except (*_JAKA_ERRORS, DriverError) as error:
            if self._client.in_servo_mode:
                self._try_to_leave()
            if isinstance(error, DriverError):
                raise
            raise self._error(f"servo mode could not be entered: {error}") from error
        self._take(status)
        self._watch.begin(status.position_rad, time.monotonic_ns())
        self._verdict = Verdict()
        self._counted = self._reply_counts()

    def exit_servo(self) -> None:
        """Leave servo mode, over a fresh connection if the present one is of no use any more.

        Raises DriverError if the controller does not confirm it: servo mode may still be on then.
        """
        if not self._client.in_servo_mode:
            return
        if self._client.connected and self._client.deaf is None:
            try:
                _leave(self._client)
                return
            except _JAKA_ERRORS as error:
                _log.warning("servo mode could not be left in order: %s", error)
        self._client.farewell("servo_move", {"relFlag": 0})
        try:
            # The arm may still carry out what was waiting in the controller.
            self._require_still_to_connect(self._wait_status(), wait_s=_COME_TO_REST_S)
            _leave(self._client)
        except (*_JAKA_ERRORS, DriverError) as error:
            self._client.in_servo_mode = True
            fault = f"servo mode could not be left, the controller may still be in it: {error}"
            self._latch(fault)
            raise self._error(fault) from error

    def close(self) -> None:
        """Leave servo mode and close both connections; the arm stays powered and enabled.

        Where servo mode cannot be left that is logged: :meth:`exit_servo` raises it.
        """
        self._try_to_leave()
        self._client.close()
        self._lock.release()
        self._connected = False

    def clear_fault(self) -> None:
        """On a person's request: connect again where needed, clear the controller's error, check that it is gone.

        Neither powers on nor enables. Raises DriverError if the fault stays; it stays latched then.
        """
        try:
            self._lock.acquire()
            self.exit_servo()
            if not (self._connected and self._client.connected):
                self._open()
            self._client.clear_error()
            # What was just cleared may still be in the push for some cycles.
            status = self._wait_status(lambda s: s.error is None)
            self._robot = self._client.get_robot_state()
        except _JAKA_ERRORS as error:
            raise self._error(f"the fault could not be cleared: {error}") from error
        self._take(status)
        self._fault = None
        self._verdict = Verdict()
        self._connected = True

    # ---- every cycle ----

    def read(self) -> ArmState:
        """The newest state; never blocks, never raises. From servo mode on the first fault seen is latched."""
        client, now_ns = self._client, time.monotonic_ns()
        status = client.latest_status
        if status is not None and status.received_monotonic_ns > self._seen_ns:
            self._take(status)
        fault = self._present_fault(status) if self._connected else "not connected"
        concern = None
        if self._connected and client.in_servo_mode:
            self._supervise(now_ns)
            fault = fault or self._stream_fault()
            concern = self._verdict.concern or self._status_concern()
            self._latch(fault)
        powered, enabled = self._power(status)
        fault = self._fault or fault
        return ArmState(
            stamp_ns=self._last_stamp_ns,
            position_rad=self._last_position_rad,
            gripper=1.0 if self._measured_open(status) else 0.0,
            enabled=self._connected and powered and enabled,
            servo_mode=client.in_servo_mode and client.connected and fault is None,
            fault=fault,
            powered_on=self._connected and powered,
            concern=concern,
            commanded_rad=None if status is None else status.commanded_rad,
            moving=self._moving,
            taken=None if status is None or client.in_servo_mode else status.taken,
            tool_wrench=status.tool_wrench if status is not None and self._config.force_sensor else None,
        )

    def command(self, position_rad: NDArray[np.float64]) -> None:
        """Send one absolute target (6,), rad, to be reached in one 8 ms period.

        Does nothing after a connection fault, which :meth:`read` reports. Raises ValueError for a target that
        is not six finite numbers, RuntimeError outside servo mode (programming errors).
        """
        client = self._client
        if not client.in_servo_mode:
            raise RuntimeError("command() outside servo mode: call enter_servo() first")
        if not client.connected:
            self._latch("connection lost in servo mode")
            return
        if position_rad.shape != (JOINTS,) or not np.isfinite(position_rad).all():
            raise ValueError(f"a servo target is {JOINTS} finite numbers (rad), got {position_rad!r}")
        if not self._watch.command(position_rad, time.monotonic_ns()):
            return
        # What was refused is missing from the way: the next target gets its time too, instead of twice the speed.
        steps = 1 + min(client.counters.refused_in_a_row["servo_j"], _MAX_STEPS - 1)
        try:
            client.post_servo_j(position_rad.tolist(), steps=steps)
        except _JAKA_ERRORS as error:
            self._latch(f"connection lost in servo mode: {error}")
        if client.deaf is not None:
            self._latch(f"connection lost in servo mode: {client.deaf}")
            if self._watch.still_cycles >= _FAREWELL_CYCLES:
                client.farewell("servo_move", {"relFlag": 0})

    def set_gripper(self, open_fraction: float) -> None:
        """1 open, 0 closed; the output is switched only if that changes it, and again if it did not stay."""
        if open_fraction > self._config.open_above:
            wanted = True
        elif open_fraction < self._config.close_below:
            wanted = False
        else:
            return
        awaited = self._gripper_open if self._gripper_due_ns else self._measured_open(self._client.latest_status)
        if wanted == awaited:
            return
        if not self._client.connected:
            self._latch("connection lost")
            return
        try:
            self._send_gripper(wanted)
        except _JAKA_ERRORS as error:
            self._latch(f"connection lost while switching the gripper: {error}")

    # ---- inside: connecting ----

    def _open(self) -> None:
        """Connect both ports, from any state; the command port only if no other client moves the arm."""
        client = self._client
        client.in_servo_mode = False
        client.watch()
        self._require_still_to_connect(self._wait_status())
        client.connect()
        if client.is_in_servo_move():
            # Left by a client that died: the arm stands still, and the lock says that it is none of this machine.
            _log.warning("the controller was still in servo mode; leaving it")
            _leave(client)
        self._require_the_arm()
        self._robot = client.get_robot_state()
        status = self._wait_status()
        self._take(status)
        self._gripper_due_ns = None
        self._gripper_open = self._measured_open(status)
        self._connected = True

    def _require_the_arm(self) -> None:
        """Raises DriverError if the controller's geometry is another arm's than the one that the commands are for."""
        arm, action = self._arm, self._config.other_geometry
        if arm is None or arm.chain is None or action == "accept":
            return
        try:
            reported = self._client.get_dh_param()
        except JakaTimeoutError as error:
            raise self._error(f"{error}; other_geometry: accept does not ask for the arm's parameters") from error
        except (JakaError, JakaProtocolError) as error:
            _log.warning("whether the controller's arm is a %s cannot be told: %s", arm.name, error)
            return
        found = differences(arm.chain, reported)
        if not found:
            return
        from lavla_ros.jaka.arm import models_like  # reads every model's file: only for this message

        like = models_like(reported)
        whose = f"they are those of {' and '.join(like)}" if like else "no known model has them"
        raise self._error(
            f"the commands are for a {arm.name}, but the controller has another arm: its Denavit-Hartenberg parameters "
            f"differ ({'; '.join(found)}), and {whose}. Name that arm as the contract's robot; other_geometry: accept "
            "skips the comparison"
        )

    def _require_still_to_connect(self, status: ArmStatus, *, wait_s: float = 0.0) -> None:
        """Raises DriverError if something moves the arm that a new connection could replace in motion."""
        c, started = self._config, time.monotonic()
        while (span := self._span()) is None:
            if time.monotonic() > started + c.connect_timeout_s:
                raise self._error("the status push is too slow to tell whether the arm stands still")
            status = self._wait_status()
        while status.planned_motion or (span > c.still_rad and not status.drag):
            if time.monotonic() > started + wait_s:
                raise self._error(
                    f"the arm moves ({span:.4f} rad in the last {_STILL_FOR_S:g} s, "
                    f"{status.taken or 'by nothing that the status names'}): is another client or the pendant in "
                    "command? Connecting could replace it in motion; stop the arm first"
                )
            status = self._wait_status()
            span = self._span() or 0.0

    def _switch(self, step: str, reached: Callable[[RobotState], bool], call: Callable[[], None], hint: str) -> None:
        c = self._config
        if not self._connected:
            raise self._error(f"{step} before connect()")
        if self._client.in_servo_mode:
            raise self._error(f"{step} in servo mode: leave it first")
        try:
            self._require_no_error(self._wait_status())
            self._robot = self._client.get_robot_state()
            if reached(self._robot):
                return
            call()
            deadline = time.monotonic() + c.power_timeout_s
            while not reached(state := self._client.get_robot_state()):
                if time.monotonic() > deadline:
                    raise self._error(
                        f"{step} was accepted but had no effect within {c.power_timeout_s:g} s ({state}); {hint}"
                    )
                time.sleep(_POLL_S)
            self._robot = state
            # The push may lag behind the answers by some cycles.
            self._take(
                self._wait_status(
                    lambda s: (
                        s.error is not None
                        or reached(RobotState(powered_on=s.powered_on is not False, enabled=s.enabled is not False))
                    )
                )
            )
        except _JAKA_ERRORS as error:
            raise self._error(str(error)) from error

    def _require_no_error(self, status: ArmStatus) -> None:
        if status.emergency_stop:
            raise self._error("the emergency stop is pressed; release it")
        if status.error is not None:
            raise self._error(f"{status.error}; look why, then clear it on the pendant or acknowledge the fault")

    def _require_ready(self, status: ArmStatus) -> None:
        """Raises DriverError unless the arm can be commanded, as far as this status and the last answers tell."""
        self._require_no_error(status)
        self._robot = self._client.get_robot_state()
        powered, enabled = self._power(status)
        if not (powered and enabled and self._robot.powered_on and self._robot.enabled):
            raise self._error(
                f"the arm is {'disabled' if powered else 'without power'}; power on and enable at the pendant, or call "
                "/executor/power_on and /executor/enable, or start with power_on:=true"
            )
        if status.taken is not None and not (status.taken == "in manual mode" and self._config.accept_manual_mode):
            raise self._error(
                f"the arm is {status.taken}; end that at the pendant first"
                + (" (or set accept_manual_mode)" if status.taken == "in manual mode" else "")
            )

    def _require_own_command_at_arm(self, status: ArmStatus) -> None:
        if status.commanded_rad is None:
            return
        error_rad = float(np.abs(status.commanded_rad - status.position_rad).max())
        if error_rad > self._config.entry_error_rad:
            raise self._error(
                f"the controller's own command is {error_rad:.3f} rad from the arm (allowed: "
                f"{self._config.entry_error_rad} rad): servo commands from here would have no effect, or be a jump; "
                "free the arm, then disable and enable it at the pendant"
            )

    def _span(self) -> float | None:
        stream = self._client.status
        return None if stream is None else span_rad(stream.recent, _STILL_FOR_S)

    def _wait_still(self) -> ArmStatus:
        """The newest status after some, all from now on, that show the arm standing still. Raises DriverError.

        In servo mode the controller is asked for it all the while: it stops by itself if the network is silent.
        """
        stream, c = self._client.status, self._config
        if stream is None:
            raise self._error("no status stream")
        since_ns = time.monotonic_ns()
        while (
            span := span_rad([s for s in stream.recent if s.received_monotonic_ns > since_ns], _STILL_FOR_S)
        ) is None:
            if time.monotonic_ns() - since_ns > c.connect_timeout_s * 1e9:
                # Raises where there is none at all, and names what the stream met with.
                stream.wait_newer(since_ns, 0.0)
                raise self._error("the status push is too slow to tell whether the arm stands still")
            if self._client.in_servo_mode and not self._client.is_in_servo_move():
                raise self._error("the controller left servo mode by itself")
            time.sleep(_POLL_S)
        if span > c.still_rad:
            raise self._error(
                f"the arm moves: {span:.4f} rad within {_STILL_FOR_S:g} s (still is below {c.still_rad} rad); let go "
                "of it, or stop what moves it"
            )
        return stream.recent[-1]

    def _wait_status(self, wanted: Callable[[ArmStatus], bool] | None = None) -> ArmStatus:
        """A status from now on; where something is wanted of it, the first that has it."""
        stream = self._client.status
        if stream is None:
            raise self._error("no status stream")
        deadline = time.monotonic() + self._config.connect_timeout_s
        status = stream.wait_newer(time.monotonic_ns(), self._config.connect_timeout_s)
        while wanted is not None and not wanted(status):
            if time.monotonic() > deadline:
                raise self._error(f"the status push says: {status.fault}; look at the pendant")
            status = stream.wait_newer(status.received_monotonic_ns, self._config.connect_timeout_s)
        return status

    def _try_to_leave(self) -> None:
        try:
            self.exit_servo()
        except DriverError as error:
            _log.error("%s", error)
        self._client.in_servo_mode = False

    # ---- inside: every cycle ----

    def _send_gripper(self, opened: bool) -> None:
        self._client.post_tool_output(self._config.tool_output, opened != self._config.output_closes)
        self._gripper_open = opened
        self._gripper_due_ns = time.monotonic_ns() + round(self._config.output_timeout_s * 1e9)

    def _measured_open(self, status: ArmStatus | None) -> bool:
        """Whether the gripper's output says open; as commanded last if the status does not show the output."""
        index = self._config.tool_output
        if status is None or not self._config.output_in_status or index >= len(status.tool_outputs):
            return self._gripper_open
        return status.tool_outputs[index] != self._config.output_closes

    def _take(self, status: ArmStatus) -> None:
        self._seen_ns = status.received_monotonic_ns
        self._last_position_rad, self._last_stamp_ns = status.position_rad, status.received_ns
        if self._client.in_servo_mode:
            self._watch.status(status)
        span = self._span()
        self._moving = True if status.planned_motion else None if span is None else span > self._config.still_rad
        if self._measured_open(status) == self._gripper_open:
            self._gripper_due_ns = None

    def _power(self, status: ArmStatus | None) -> tuple[bool, bool]:
        """Powered on, enabled: by the status, or as last asked for if it does not say."""
        if status is None:
            return False, False
        powered = self._robot.powered_on if status.powered_on is None else status.powered_on
        return powered, self._robot.enabled if status.enabled is None else status.enabled

    def _reply_counts(self) -> tuple[int, int, int]:
        counters = self._client.counters
        return (
            counters.acknowledged["servo_j"],
            counters.refused["servo_j"],
            counters.refused["set_digital_output"],
        )

    def _supervise(self, now_ns: int) -> None:
        """Take the replies that are there, and judge the stream."""
        client = self._client
        if client.connected:
            try:
                client.drain()
            except _JAKA_ERRORS as error:
                self._latch(f"connection lost in servo mode: {error}")
        before, self._counted = self._counted, self._reply_counts()
        answered, refused, gripper = (a - b for a, b in zip(self._counted, before, strict=True))
        counters = client.counters
        self._watch.replies(answered - refused, refused, client.unanswered("servo_j")[0], now_ns)
        self._verdict = self._watch.judge(
            now_ns, counters.full_reads_in_a_row, counters.last_refusal.get("servo_j", "no text")
        )
        if gripper:
            text = counters.last_refusal["set_digital_output"]
            self._latch(f"the controller refused the gripper's tool output {self._config.tool_output}: {text}")

    def _stream_fault(self) -> str | None:
        if self._client.deaf is not None:
            return f"connection lost in servo mode: {self._client.deaf}"
        if not self._client.connected:
            return "connection lost in servo mode"
        if self._gripper_due_ns is not None and time.monotonic_ns() > self._gripper_due_ns:
            wanted, index = "opens" if self._gripper_open else "closes", self._config.tool_output
            return (
                f"the gripper's tool output {index} was switched so that it {wanted}, but the status does not show it"
            )
        return self._verdict.fault

    def _status_concern(self) -> str | None:
        stream, limit_s = self._client.status, 0.5 * self._config.status_timeout_s
        return f"no status for {limit_s:g} s" if stream is not None and stream.age_s() > limit_s else None

    def _present_fault(self, status: ArmStatus | None) -> str | None:
        """What the status says is wrong now. Without servo mode an arm without power has no fault."""
        c, stream = self._config, self._client.status
        if status is None or stream is None or stream.age_s() > c.status_timeout_s:
            return f"no status from {c.host}:{c.status_port} for {c.status_timeout_s:g} s"
        if not self._client.in_servo_mode:
            return status.error
        if status.fault is None and status.drag:
            return "the arm was switched to drag mode"
        return status.fault

    def _latch(self, fault: str | None) -> None:
        if fault is not None and self._fault is None:
            self._fault = fault
            _log.error("JAKA %s:%d: %s", self._config.host, self._config.port, fault)

    def _error(self, text: str) -> DriverError:
        c = self._config
        return DriverError(f"JAKA controller {c.host}:{c.port} (status port {c.status_port}): {text}")


def _loaded(config: JakaDriverConfig, arm: Arm) -> JakaDriverConfig:
    """``config`` with the mass of the arm's tool, if it has none of its own. Raises ConfigError."""
    if len(arm.joint_names) != JOINTS:
        raise ConfigError(f"{arm.name} has {len(arm.joint_names)} joints; JAKA's controller moves {JOINTS}")
    payload = arm.payload
    if config.payload_kg is None and payload.tool_kg:
        config = replace(config, payload_kg=payload.tool_kg, payload_centroid_m=payload.tool_centroid_m)
    if (config.payload_kg or 0.0) > payload.limit_kg:
        raise ConfigError(
            f"payload_kg is {config.payload_kg}; expected at most {payload.limit_kg}, as {arm.name} carries"
        )
    return config


def leave_servo_mode(config: JakaDriverConfig, *, lock_timeout_s: float = 1.0) -> bool:
    """Leave servo mode over a connection of its own, when the process that entered it has ended.

    Returns whether it was on. Raises DriverError if another process has the controller, and if it does not
    confirm: servo mode may still be on then.
    """
    client, lock = _client_of(config), ControllerLock(config.host, config.port)
    try:
        # Ended a moment ago, it may still hold the lock.
        lock.acquire(lock_timeout_s)
        client.open()
        was_on = client.is_in_servo_move()
        if was_on:
            _leave(client)
    except _JAKA_ERRORS as error:
        raise DriverError(
            f"JAKA controller {config.host}:{config.port}: servo mode could not be left: {error}"
        ) from error
    finally:
        client.close()
        lock.release()
    return was_on


def _client_of(config: JakaDriverConfig) -> JakaClient:
    return JakaClient(
        config.host,
        config.port,
        config.status_port,
        connect_timeout_s=config.connect_timeout_s,
        reply_timeout_s=config.reply_timeout_s,
        post_timeout_s=config.command_timeout_s,
    )


def _leave(client: JakaClient) -> None:
    """Leave servo mode, connecting where needed, and have it confirmed. Raises as the client's commands."""
    client.in_servo_mode = False
    client.servo_move(False)
    if client.is_in_servo_move():
        raise JakaConnectionError("leaving servo mode was accepted, but the controller is still in it")
