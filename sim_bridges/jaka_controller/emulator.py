"""A JAKA controller on this machine: the vendor's TCP protocol over any :class:`ArmPlant`.

Stand-alone with an arm without physics: ``python -m sim_bridges.jaka_controller.emulator --port P --status-port Q``.

Besides the vendor's commands it knows one of its own, for tests and measurements from another process::

    {"cmdName":"_emulator","fault":{"delay_s":0.05,"protective_stop":true}}   switch faults (see Faults)
    {"cmdName":"_emulator","query":"faults"}                                  how they stand
    {"cmdName":"_emulator","query":"servo_log","since":0,"count":2000}        arrivals (monotonic ns), counters
    {"cmdName":"_emulator","query":"motion","since":0}                        where the arm was, cycle by cycle
    {"cmdName":"_emulator","query":"state"}                                   measured and commanded joints, modes
    {"cmdName":"_emulator","query":"settings"}                                what the client has set
    {"cmdName":"_emulator","clear":"servo_log"}                               restart counting

A connection that sends nothing else does not replace the client. All replies have errorCode and errorMsg.
How the controller behaves where the vendor's documents leave it open: ControllerConfig, by option on the command line.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

import tyro

from lavla_ros.control.realtime import request_fifo
from lavla_ros.errors import FailedError
from lavla_ros.jaka.codec import FrameReader, encode
from lavla_ros.jaka.limits import SERVO_PERIOD_S
from lavla_ros.jaka.units import joints_to_deg, pose_to_wire
from lavla_ros.lifeline import die_with_parent
from sim_bridges.jaka_controller.config import EmulatorOptions
from sim_bridges.jaka_controller.controller import EmulatedController, Snapshot
from sim_bridges.jaka_controller.faults import Faults
from sim_bridges.jaka_controller.plant import ArmPlant, KinematicPlant
from sim_bridges.jaka_controller.server import CONTROL_COMMAND, CommandServer, StatusServer, listen
from sim_bridges.jaka_controller.servo import ServoLog

_log = logging.getLogger(__name__)
_PERIOD_NS = round(SERVO_PERIOD_S * 1e9)
_PAGE = 2000
"""Arrivals in one servo_log reply: about 35 KB, below the 64 KiB that a message may have."""
_MOTION_PAGE = 400
"""Cycles in one motion reply, for the same reason."""
_POLL_S = 0.02
SIGINT_PATIENCE_S = 3.0
"""Ctrl-C goes to every process of a terminal: a client in servo mode gets this long to bring the arm to rest."""


class ControllerEmulator:
    """Three threads over one controller: commands, 8 ms cycle, status push. Usable as a context manager."""

    def __init__(self, plant: ArmPlant, options: EmulatorOptions, *, realtime: bool = True) -> None:
        """Ports of 0 are chosen by the system: read :attr:`port` and :attr:`status_port` after :meth:`start`."""
        self.faults = Faults()
        self.controller = EmulatedController(plant, options.controller, self.faults)
        self.host, self.port, self.status_port = options.host, options.port, options.status_port
        self._options = options
        self._period_ns = round(_PERIOD_NS * (1.0 + options.controller.clock_drift))
        self._realtime = realtime
        self._commands: CommandServer | None = None
        self._status: StatusServer | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None
        """What ended the cycle thread (an error of the plant)."""

    @property
    def servo_log(self) -> ServoLog:
        """Arrivals of servo commands and the counters."""
        return self.controller.servo_log

    @property
    def snapshot(self) -> Snapshot:
        """State of the controller after the newest cycle."""
        return self.controller.snapshot

    @property
    def serving(self) -> bool:
        """Whether a client is connected and in servo mode."""
        return self._commands is not None and self._commands.client_connected() and self.snapshot.servo_mode

    def start(self) -> None:
        """Open both ports and start. Raises OSError naming the port where one is in use."""
        if self._thread is not None:
            raise RuntimeError("the emulator was already started")
        command_listener = listen(self.host, self._options.port, "command")
        try:
            status_listener = listen(self.host, self._options.status_port, "status")
        except OSError:
            command_listener.close()
            raise
        self.port = command_listener.getsockname()[1]
        self.status_port = status_listener.getsockname()[1]
        self._commands = CommandServer(
            command_listener,
            self.controller.handle,
            self._control,
            self.faults,
            offline=lambda: self.controller.offline,
            realtime=self._realtime,
        )
        self._status = StatusServer(
            status_listener,
            self._status_message,
            self.faults,
            offline=lambda: self.controller.offline,
            rate_hz=self._options.status_rate_hz,
        )
        self._thread = threading.Thread(target=self._run, name="emulator-cycle", daemon=True)
        for part in (self._thread, self._commands, self._status):
            part.start()

    def stop(self) -> None:
        """Close every connection and end the threads. Safe to call twice and before :meth:`start`."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5.0)
        for server in (self._commands, self._status):
            if server is not None:
                server.stop()
        self._commands = self._status = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- 8 ms cycle ----

    def _run(self) -> None:
        if self._realtime:
            request_fifo(40, "the emulator's cycle thread")
        period_ns, deadline_ns = self._period_ns, time.monotonic_ns()
        try:
            while not self._stopping.is_set():
                deadline_ns += period_ns
                late_ns = time.monotonic_ns() - deadline_ns
                # Cycles that are over already are left out, never run in a burst.
                skipped = max(0, late_ns // period_ns)
                deadline_ns += skipped * period_ns
                if late_ns < 0:
                    time.sleep(-late_ns * 1e-9)
                self.controller.cycle(skipped)
        except Exception as error:  # noqa: BLE001 - a plant may raise anything; kept in `failure` and logged
            _log.exception("the emulated arm failed; the emulator hangs up")
            # A controller that stops silently would look like a slow one: hang up instead.
            self.faults.refuse_connections = True
            self.faults.drop_connection = True
            self.faults.status_stalled = True
            self.failure = error

    # ---- status push ----

    def _status_message(self) -> dict[str, Any]:
        s, config = self.controller.snapshot, self.controller.config
        message: dict[str, Any] = {
            "errcode": hex(s.error_code),
            "errmsg": s.error_text,
            "joint_actual_position": joints_to_deg(s.measured_rad),
            "actual_position": pose_to_wire(self.controller.kinematics.forward(s.measured_rad)),
            "din": [0] * len(s.cabinet_outputs),
            "dout": list(s.cabinet_outputs),
            "tio_din": [0] * len(s.tool_outputs),
            "tio_dout": list(s.tool_outputs),
            "task_state": 4 if s.enabled else 2 if s.powered else 1,
            "interp_state": 2 if s.paused else 3 if s.moving else 0,
            "enabled": s.enabled,
            "paused": s.paused,
            "rapidrate": s.rapid_rate,
            "powered_on": int(s.powered),
            "inpos": not s.moving,
            "netState": 1,
        }
        if config.reports_commanded:
            message["joint_position"] = joints_to_deg(s.commanded_rad)
        if config.reports_modes:
            message |= {"drag_status": s.drag, "task_mode": 4 if s.drag else 1 if s.manual else 2}
        if config.force_sensor:
            read = list(self.faults.tool_wrench)
            message["torqsensor"] = [["10.5.5.101", 55555, [0.0, [0.0, 0.0, 0.0]]], [1, 0, read, read, read]]
        if config.reports_safety:
            message |= {
                "on_soft_limit": int(s.on_soft_limit),
                "emergency_stop": int(s.emergency_stop),
                "protective_stop": int(s.protective_stop),
            }
        return message

    # ---- the emulator's own command ----

    def _control(self, message: Mapping[str, Any], arrival_ns: int) -> dict[str, Any]:
        try:
            fields = self._control_fields(message)
        except (ValueError, TypeError, ArithmeticError) as error:
            return {"cmdName": CONTROL_COMMAND, "errorCode": "2", "errorMsg": str(error)}
        return {"cmdName": CONTROL_COMMAND, "errorCode": "0", "errorMsg": "", "arrival_ns": arrival_ns, **fields}

    def _control_fields(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if "fault" in message:
            if not isinstance(message["fault"], Mapping):
                raise ValueError(f"fault must be an object of names and values, got {message['fault']!r}")
            self.faults.update(message["fault"])
            return {"faults": self.faults.as_dict()}
        if message.get("clear") == "servo_log":
            self.servo_log.clear()
            return {}
        since, count = int(message.get("since", 0)), min(int(message.get("count", _PAGE)), _PAGE)
        state = asdict(self.snapshot)
        queries: dict[str, Callable[[], object]] = {
            "faults": self.faults.as_dict,
            "servo_log": lambda: self.servo_log.page(since, count),
            "motion": lambda: self.controller.motion_log.page(since, _MOTION_PAGE),
            "state": lambda: {k: v.tolist() if k.endswith("_rad") else v for k, v in state.items()},
            "settings": lambda: self.controller.settings,
        }
        query = str(message.get("query"))
        if query not in queries:
            raise ValueError(
                f"{CONTROL_COMMAND} takes fault: {{…}}, query: one of {list(queries)}, or clear: 'servo_log'; got "
                f"{dict(message)!r}"
            )
        return {query: queries[query]()}


def emulator_command(host: str, port: int, *, timeout_s: float = 2.0, **fields: Any) -> dict[str, Any]:
    """Send one ``_emulator`` command from any process: ``emulator_command(h, p, fault={"delay_s": 0.1})``.

    Returns the reply. Raises OSError if there is no answer, RuntimeError if the peer is no emulator or refuses.
    """
    deadline = time.monotonic() + timeout_s
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        connection.sendall(encode({"cmdName": CONTROL_COMMAND, **fields}))
        reader = FrameReader()
        while not (messages := reader.feed(data := connection.recv(65536))):
            if not data or time.monotonic() > deadline:
                raise ConnectionError(f"{host}:{port} did not answer an {CONTROL_COMMAND} command: is it an emulator?")
    reply = messages[0]
    if reply.get("errorCode") != "0":
        raise FailedError(f"{host}:{port} refused an {CONTROL_COMMAND} command: {reply.get('errorMsg', reply)}")
    return reply


def run_emulator(emulator: ControllerEmulator, each: Callable[[], None] = lambda: None) -> int:
    """Run until SIGINT or SIGTERM, or until the arm fails; returns the exit status. ``each`` is called every 20 ms.

    SIGTERM ends it at once, as a second SIGINT does. The first SIGINT waits while a client is in servo mode, at most
    ``SIGINT_PATIENCE_S``: a client that had the same Ctrl-C brings the arm to rest meanwhile.
    """
    # Lists, not Events: a handler that interrupts an Event's wait() or set() would wait for itself.
    stop: list[int] = []
    interrupted_s: list[float] = []

    def interrupt(number: int, _frame: object) -> None:
        if interrupted_s:
            stop.append(number)
        interrupted_s.append(time.monotonic())

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: stop.append(received))
    signal.signal(signal.SIGINT, interrupt)
    die_with_parent()
    try:
        emulator.start()
    except OSError as error:
        _log.error("%s", error)
        return 1
    # Collections pause every thread; what exists now is never going to be garbage.
    gc.collect()
    gc.freeze()
    _log.info("commands on %s:%d, status on port %d", emulator.host, emulator.port, emulator.status_port)
    while emulator.failure is None and not stop:
        time.sleep(_POLL_S)
        each()
        if interrupted_s and not (emulator.serving and time.monotonic() < interrupted_s[0] + SIGINT_PATIENCE_S):
            break
    emulator.stop()
    gc.unfreeze()  # else ruckig's objects, in circles of what was frozen, outlive their library, which complains
    return 1 if emulator.failure is not None else 0


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m sim_bridges.jaka_controller.emulator") -> int:
    """Run an emulator with a kinematic arm until SIGINT or SIGTERM; returns the exit status."""
    description = "A JAKA controller on this machine, with an arm without physics."
    options = tyro.cli(
        EmulatorOptions, args=argv, prog=prog, description=description, config=(tyro.conf.OmitArgPrefixes,)
    )
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    return run_emulator(ControllerEmulator(KinematicPlant(), options))


if __name__ == "__main__":
    raise SystemExit(main())
