"""The controller's status push on port 10000: parsed into :class:`ArmStatus`, read by a thread."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.jaka.codec import FrameReader, JakaProtocolError, finite_numbers
from lavla_ros.jaka.errors import JakaConnectionError, JakaTimeoutError
from lavla_ros.jaka.limits import JOINTS
from lavla_ros.jaka.units import joints_to_rad
from lavla_ros.typing import NS_PER_S

_log = logging.getLogger(__name__)
_READ_BYTES = 65536
_PAUSE_S = 0.001
"""Between two reads: a peer that floods this port must not take the interpreter from the servo loop."""
MAX_BYTES_PER_S = 8 << 20
"""More is no status push: the longest status known has 9 kB, at 125 Hz about 1.1 MB/s."""
HISTORY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmStatus:
    """One status message. Flags that the firmware does not send are None: unknown, not False."""

    received_ns: int
    """Wall clock when its last byte arrived, ns."""
    received_monotonic_ns: int
    """Monotonic clock at the same moment, ns: ages are taken from this one."""
    position_rad: NDArray[np.float64]
    """Measured joint positions (6,), rad; read-only."""
    commanded_rad: NDArray[np.float64] | None
    """Where the controller itself commands the joints to be (6,), rad, read-only; None if it does not say."""
    enabled: bool | None
    powered_on: bool | None
    protective_stop: bool | None
    emergency_stop: bool | None
    on_soft_limit: bool | None
    drag: bool | None
    """Drag mode: a person guides the arm by hand."""
    manual: bool | None
    """Manual mode: the pendant has the arm."""
    planned_motion: bool | None
    """The controller carries out a program or a planned motion."""
    errcode: str
    """"0x0" if nothing is wrong."""
    errmsg: str
    tool_outputs: tuple[bool, ...]
    """Tool digital outputs; empty if the firmware does not send them."""
    tool_wrench: NDArray[np.float64] | None
    """Reading of the force sensor at the flange (6,): force in N, torque in Nm, x, y, z each; read-only. None if the
    firmware does not send one. Zeros may mean that there is no sensor."""

    @property
    def error(self) -> str | None:
        """What a person has to look after and clear, or None. Gravest reason first."""
        detail = f" ({self.errcode} {self.errmsg})".replace(" )", ")") if self.has_error else ""
        if self.emergency_stop:
            return f"emergency stop pressed{detail}"
        if self.protective_stop:
            return f"protective stop{detail}"
        return f"controller error{detail}" if self.has_error else None

    @property
    def fault(self) -> str | None:
        """Why the controller says the arm cannot move, or None. Gravest reason first."""
        if self.emergency_stop or self.protective_stop:
            return self.error
        detail = f" ({self.errcode} {self.errmsg})".replace(" )", ")") if self.has_error else ""
        if self.powered_on is False:
            return f"power lost{detail}"
        if self.enabled is False:
            return f"robot disabled{detail}"
        return self.error

    @property
    def taken(self) -> str | None:
        """What else has the arm: a person guiding it, the pendant, a program; None if nothing is known of it."""
        if self.drag:
            return "in drag mode"
        if self.planned_motion:
            return "carrying out a program or a planned motion"
        return "in manual mode" if self.manual else None

    @property
    def has_error(self) -> bool:
        """Whether ``errcode`` names an error. Zero is written "0x0", "0" or 0 depending on the firmware."""
        return self.errcode.strip().lower() not in ("", "0", "0x0")


def parse_status(message: Mapping[str, Any], received_ns: int, received_monotonic_ns: int) -> ArmStatus:
    """Status message → :class:`ArmStatus`. Unknown keys are ignored; only the joint positions are indispensable.

    Raises JakaProtocolError naming the field that is missing or has the wrong type.
    """
    joints_deg = finite_numbers(message.get("joint_actual_position"), JOINTS)
    if joints_deg is None:
        raise JakaProtocolError(
            f"status without {JOINTS} finite numbers in joint_actual_position: {message.get('joint_actual_position')!r}"
        )
    position_rad = joints_to_rad(joints_deg)
    position_rad.setflags(write=False)
    # Older firmware has no commanded position, some versions have fewer joints in it: unknown then.
    commanded_deg = finite_numbers(message.get("joint_position"), JOINTS)
    commanded_rad = None if commanded_deg is None else joints_to_rad(commanded_deg)
    if commanded_rad is not None:
        commanded_rad.setflags(write=False)
    drag, task_mode, interpreter = _flag(message, "drag_status"), message.get("task_mode"), message.get("interp_state")
    outputs = message.get("tio_dout", [])
    if not isinstance(outputs, list):
        raise JakaProtocolError(f"status field tio_dout is no list: {outputs!r}")
    return ArmStatus(
        received_ns=received_ns,
        received_monotonic_ns=received_monotonic_ns,
        position_rad=position_rad,
        commanded_rad=commanded_rad,
        enabled=_flag(message, "enabled"),
        powered_on=_flag(message, "powered_on"),
        protective_stop=_flag(message, "protective_stop"),
        emergency_stop=_flag(message, "emergency_stop"),
        on_soft_limit=_flag(message, "on_soft_limit"),
        drag=True if task_mode == _DRAG_MODE else drag,
        manual=None if task_mode is None else task_mode == _MANUAL_MODE,
        planned_motion=None if interpreter is None else interpreter == _RUNNING,
        errcode=str(message.get("errcode", "0x0")),
        errmsg=str(message.get("errmsg", "")),
        tool_outputs=tuple(bool(v) for v in outputs),
        tool_wrench=_tool_wrench(message.get("torqsensor")),
    )


def span_rad(statuses: Sequence[ArmStatus], over_s: float) -> float | None:
    """Largest change of any measured joint over the newest ``over_s``, rad.

    At least three statuses; None if there are fewer yet, or they cover less time.
    """
    if len(statuses) < 3:
        return None
    since_ns = statuses[-1].received_monotonic_ns - round(over_s * 1e9)
    if statuses[0].received_monotonic_ns > since_ns:
        return None
    first = next(i for i in range(len(statuses), 0, -1) if statuses[i - 1].received_monotonic_ns <= since_ns) - 1
    recent = np.array([s.position_rad for s in statuses[min(first, len(statuses) - 3) :]])
    return float((recent.max(axis=0) - recent.min(axis=0)).max())


def _tool_wrench(torqsensor: object) -> NDArray[np.float64] | None:
    """The contact force out of ``[setup, [status, error code, contact force, raw reading, …]]``, six numbers each.

    What is there but not so is taken for another firmware's: nothing but a topic is made of it.
    """
    state = torqsensor[1] if isinstance(torqsensor, list) and len(torqsensor) > 1 else None
    numbers = finite_numbers(state[2], 6) if isinstance(state, list) and len(state) > 2 else None
    if numbers is None:
        return None
    wrench = np.array(numbers, np.float64)
    wrench.setflags(write=False)
    return wrench


_MANUAL_MODE, _DRAG_MODE = 1, 4
_RUNNING = 3
_FLAGS: dict[object, bool] = {"0": False, "1": True, "false": False, "true": True, 0: False, 1: True}


def _flag(message: Mapping[str, Any], name: str) -> bool | None:
    """Firmwares write flags as true, 1, 1.0 or "1"."""
    value = message.get(name)
    if value is None:
        return None
    flag = None
    if isinstance(value, str | int | float):
        flag = _FLAGS.get(value.lower() if isinstance(value, str) else value)
    if flag is None:
        raise JakaProtocolError(f"status field {name} is no flag: {value!r}")
    return flag


@dataclass(slots=True)
class StatusCounters:
    """What the stream did since it was started."""

    messages: int = 0
    malformed: int = 0
    """Connections given up over bytes that are no JSON, and messages without usable fields."""
    length_mismatches: int = 0
    """Messages whose ``len`` field is not their length in bytes (informative: its definition is not documented)."""
    connections: int = 0


class StatusStream:
    """Reads port 10000 in a daemon thread, connecting again whenever the connection ends.

    Reconnecting is harmless here: nothing is commanded on this port. A user of :attr:`latest` checks
    its age with :meth:`age_s`.
    """

    def __init__(self, host: str, port: int, *, connect_timeout_s: float = 2.0, retry_s: float = 0.2) -> None:
        self._address = (host, port)
        self._connect_timeout_s = connect_timeout_s
        self._retry_s = retry_s
        self._stopping = threading.Event()
        self._arrived = threading.Condition()
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self._last_problem = "no connection was attempted yet"
        self._latest: ArmStatus | None = None
        self._recent: tuple[ArmStatus, ...] = ()
        self.counters = StatusCounters()

    @property
    def latest(self) -> ArmStatus | None:
        """The newest status, or None before the first."""
        return self._latest

    @property
    def recent(self) -> tuple[ArmStatus, ...]:
        """Those of the last half second, and at least the newest three, oldest first."""
        return self._recent

    def age_s(self) -> float:
        """Age of the newest status, s; infinite before the first."""
        status = self._latest
        return float("inf") if status is None else (time.monotonic_ns() - status.received_monotonic_ns) * 1e-9

    def start(self) -> None:
        """Start the thread. RuntimeError if it was started before."""
        if self._thread is not None:
            raise RuntimeError("the status stream was already started")
        self._thread = threading.Thread(target=self._run, name="jaka-status", daemon=True)
        self._thread.start()

    def wait_newer(self, than_monotonic_ns: int, timeout_s: float) -> ArmStatus:
        """The first status received after a moment of the monotonic clock.

        Raises JakaTimeoutError naming host:port and what the stream met with.
        """
        with self._arrived:
            newer = self._arrived.wait_for(
                lambda: self._latest is not None and self._latest.received_monotonic_ns > than_monotonic_ns, timeout_s
            )
            status = self._latest
        if not newer or status is None:
            host, port = self._address
            raise JakaTimeoutError(
                f"no status from {host}:{port} within {timeout_s:g} s ({self._last_problem}); check that the "
                f"controller is switched on, that its status port is {port} and that no firewall is between (try ping)"
            )
        return status

    def stop(self) -> None:
        """End the thread and its connection. Safe to call twice."""
        self._stopping.set()
        active = self._socket
        if active is not None:
            try:
                active.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                _log.debug("the status connection was already down: %s", error)
        if self._thread is not None:
            self._thread.join(self._connect_timeout_s + 1.0)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with socket.create_connection(self._address, timeout=self._connect_timeout_s) as connection:
                    self._socket = connection
                    self.counters.connections += 1
                    self._last_problem = "connected, but nothing usable arrived"
                    self._read(connection)
            except (OSError, JakaProtocolError) as error:
                if isinstance(error, JakaProtocolError):
                    self.counters.malformed += 1
                if not self._stopping.is_set() and str(error) != self._last_problem:
                    _log.warning("status stream %s:%d: %s", *self._address, error)
                self._last_problem = str(error)
            finally:
                self._socket = None
            self._stopping.wait(self._retry_s)

    def _read(self, connection: socket.socket) -> None:
        connection.settimeout(0.5)
        reader = FrameReader()
        budget, budget_until_ns = MAX_BYTES_PER_S, time.monotonic_ns() + NS_PER_S
        while not self._stopping.is_set():
            try:
                data = connection.recv(_READ_BYTES)
            except TimeoutError:
                continue
            wall_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
            if not data:
                raise JakaConnectionError("the controller closed the status connection")
            if monotonic_ns > budget_until_ns:
                budget, budget_until_ns = MAX_BYTES_PER_S, monotonic_ns + NS_PER_S
            budget -= len(data)
            if budget < 0:
                raise JakaProtocolError(
                    f"the status port is flooded: more than {MAX_BYTES_PER_S >> 20} MiB in a second"
                )
            messages = reader.feed(data)
            self.counters.messages += len(messages)
            if len(messages) == 1 and reader.pending_bytes == 0 and messages[0].get("len", len(data)) != len(data):
                self.counters.length_mismatches += 1
            if messages:
                self._publish(parse_status(messages[-1], wall_ns, monotonic_ns))
            time.sleep(_PAUSE_S)

    def _publish(self, status: ArmStatus) -> None:
        since_ns = status.received_monotonic_ns - round(HISTORY_S * 1e9)
        kept = self._recent[-2:]
        if len(self._recent) > 2:
            kept = tuple(s for s in self._recent[:-2] if s.received_monotonic_ns > since_ns) + kept
        with self._arrived:
            self._recent = (*kept, status)
            self._latest = status
            self._arrived.notify_all()
