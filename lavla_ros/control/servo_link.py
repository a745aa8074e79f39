"""The ROS side's handle on the servo process: start it, feed it chunks, read what it did.

Chunks are brought into joint space here (inverse kinematics take longer than a servo cycle has).
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from lavla_ros.contract import ActionChunk
from lavla_ros.control.actions import ActionDecoder, ChunkRejected
from lavla_ros.control.ring import Ring
from lavla_ros.control.servo_config import ServoConfig
from lavla_ros.control.wire import (
    RING_FILES,
    Answer,
    ServoSnapshot,
    WireError,
    encode_chunk,
    encode_rejection,
    encode_request,
)
from lavla_ros.errors import UserError
from lavla_ros.lifeline import lifeline
from lavla_ros.places import run_dir

_log = logging.getLogger(__name__)
_POLL_S = 0.004
_BACKLOG = 1024
_BUSY_S = 90.0
"""Longest call of a driver (brakes, power) during which the process does not tick."""


class ServoLinkError(UserError, RuntimeError):
    """The servo process could not be started or has ended; the message carries its reason."""


class ServoLink:
    """Owns one servo process and its rings. Methods may be called from any thread.

    Nothing here keeps the arm going by itself: call :meth:`heartbeat` at 10 Hz or more from the loop
    whose life is to be watched.
    """

    def __init__(self, config: ServoConfig) -> None:
        """Raises ConfigError."""
        self._config = config
        contract = config.load_contract()
        executor = config.executor_config(contract)
        self._decoder, self._tick_ns = ActionDecoder(contract, executor), executor.tick_ns
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._rings: dict[str, Ring] = {}
        self._folder: AbstractContextManager[Path] | None = None
        self._backlog: deque[ServoSnapshot] = deque(maxlen=_BACKLOG)
        self._newest: ServoSnapshot | None = None
        self._newest_at_s = 0.0
        self._left_servo = False
        self._answers: dict[int, Answer] = {}
        self._waiting: set[int] = set()
        self._requests = 0
        self.answer = Answer(True, "")
        """Outcome of the last request."""

    def start(self, timeout_s: float = 45.0) -> None:
        """Start the process and wait for its first tick: connected and, unless told otherwise, in servo mode.

        Raises ServoLinkError with the cause (unreachable controller, bad configuration, time-out).
        """
        if self._process is not None:
            raise ServoLinkError("the servo process was already started")
        self._folder = run_dir("lavla-servo-")
        folder = self._folder.__enter__()
        self._rings = {
            name: Ring.create(folder / name, slots=slots, capacity=capacity)
            for name, (slots, capacity) in RING_FILES.items()
        }
        file = folder / "servo.json"
        file.write_text(json.dumps(replace(self._config, ring_dir=str(folder)).to_dict()), encoding="utf-8")
        # A group of its own: Ctrl-C in a terminal reaches us alone, and we stop it in order.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lavla_ros.control.servo_process", "--config", str(file)],
            env=os.environ | lifeline(),
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._errors: deque[str] = deque(maxlen=20)
        self._reader = threading.Thread(target=self._relay_stderr, name="servo-stderr", daemon=True)
        self._reader.start()
        until = time.monotonic() + timeout_s
        while True:
            self.heartbeat()
            newest = self.snapshot()
            if not self.alive or (newest is not None and newest.exit_reason is not None):
                reason = self._ended()
                self.stop()
                raise ServoLinkError(f"the servo process ended at the start: {reason}")
            if newest is not None:
                return
            if time.monotonic() > until:
                self.stop()
                raise ServoLinkError(f"the servo process did not start within {timeout_s} s")
            time.sleep(_POLL_S)

    @property
    def reason(self) -> str:
        """Outcome of the last request in words (why an acknowledgement was refused, for instance)."""
        return self.answer.text

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id, or None before the start and after the stop."""
        return None if self._process is None else self._process.pid

    @property
    def exit_reason(self) -> str | None:
        """Why the process ended or is about to, or None while it runs."""
        newest = self.snapshot()
        if newest is not None and newest.exit_reason is not None:
            return newest.exit_reason
        return None if self.alive else self._ended()

    @property
    def lost_snapshots(self) -> int:
        """Ticks that :meth:`drain` never saw because it was called too rarely (less than once in 8 s)."""
        return self._rings["snapshots"].lost if self._rings else 0

    @property
    def silent_s(self) -> float:
        """Time since the last tick, 0 before the first one and while the process said that it would not tick."""
        newest = self.snapshot()
        silent_s = time.monotonic() - self._newest_at_s
        return 0.0 if newest is None or (newest.busy and silent_s < _BUSY_S) else silent_s

    def submit(self, chunk: ActionChunk, *, person: bool = False, most_speed: float = 1.0) -> None:
        """Hand over a chunk in joint space, to be followed at ``most_speed`` at most (a speed scale); the verdict comes
        in ``ServoSnapshot.results``. ``person``: not a policy's.

        Raises ServoLinkError before the first tick, WireError if the chunk does not fit the ring.
        """
        newest = self.snapshot()
        if newest is None:
            raise ServoLinkError("the servo process has not ticked yet")
        try:
            seed_rad: list[float] = newest.command_rad.tolist()
            prepared = self._decoder.prepare(chunk, seed_rad, newest.stamp_ns + self._tick_ns)
            payload = encode_chunk(replace(prepared, person=person, most_speed=most_speed))
        except ChunkRejected as rejection:
            rejection.person = person
            payload = encode_rejection(chunk.stamp_ns, rejection)
        with self._lock:
            self._need_rings()["chunks"].write(payload)

    def heartbeat(self) -> None:
        """Tell the process that the ROS side is alive."""
        with self._lock:
            self._need_rings()["heartbeat"].write(time.monotonic_ns().to_bytes(8, "little"))

    def acknowledge(self, timeout_s: float = 30.0) -> bool:
        """A person clears the latched fault and the controller's, once the ramp to rest is over. Nothing moves.

        False where refused: see :attr:`reason`.
        """
        return self._when_at_rest("acknowledge", timeout_s)

    def power_on(self, timeout_s: float = 45.0) -> bool:
        """Give the arm power."""
        return self.request("power_on", timeout_s=timeout_s)

    def enable(self, timeout_s: float = 45.0) -> bool:
        """Release the brakes."""
        return self.request("enable", timeout_s=timeout_s)

    def activate(self, timeout_s: float = 10.0) -> bool:
        """Enter servo mode (if the configuration left it off). False with :attr:`reason`."""
        return self.request("activate", timeout_s=timeout_s)

    def deactivate(self, timeout_s: float = 10.0) -> bool:
        """Ramp to rest and leave servo mode; the process stays connected."""
        return self._when_at_rest("deactivate", timeout_s)

    def hold(self, reason: str = "") -> bool:
        """Ramp to rest and refuse chunks until :meth:`resume`."""
        return self.request("hold", text=reason)

    def fault(self, reason: str) -> bool:
        """Latch a fault that only the ROS side can see."""
        return self.request("fault", text=reason)

    def resume(self, timeout_s: float = 15.0) -> bool:
        """A person lets the arm move again: later chunks are accepted."""
        return self._when_at_rest("resume", timeout_s)

    def hand_back(self) -> bool:
        """The person gives the arm back to the policy."""
        return self.request("hand_back")

    def set_speed_scale(self, scale: float) -> bool:
        """Factor on the velocity limits, 0.01 to 1."""
        return self.request("speed_scale", [scale])

    def move_to(self, goal_rad: Sequence[float], to: str, timeout_s: float = 5.0) -> bool:
        """Bring the arm to joint positions (dof,), which are called ``to``, once it rests. True: it is on its way."""
        return self._when_at_rest("move_to", timeout_s, goal_rad, to)

    def request(self, name: str, values: Sequence[float] = (), *, text: str = "", timeout_s: float = 5.0) -> bool:
        """Send a request and wait for the answer, heart beating. False where refused or unanswered."""
        with self._lock:
            self._requests += 1
            request_id = self._requests
            self._need_rings()["requests"].write(encode_request(request_id, name, values, text))
            self._waiting.add(request_id)
        until = time.monotonic() + timeout_s
        try:
            while time.monotonic() < until:
                self.heartbeat()
                self._collect()
                if request_id in self._answers:
                    self.answer = self._answers[request_id]
                    return self.answer.ok
                if not self.alive:
                    self.answer = Answer(False, f"the servo process has ended: {self._ended()}")
                    return False
                time.sleep(_POLL_S)
            silent = f"the last tick was {self.silent_s:.1f} s ago"
            self.answer = Answer(False, f"no answer to {name!r} within {timeout_s} s; {silent}")
            return False
        finally:
            with self._lock:
                self._waiting.discard(request_id)
                self._answers.pop(request_id, None)

    def _when_at_rest(self, name: str, timeout_s: float, values: Sequence[float] = (), text: str = "") -> bool:
        """Ask until the answer is another than that the command is still ramping to rest."""
        until = time.monotonic() + timeout_s
        while not self.request(name, values, text=text, timeout_s=timeout_s):
            if not self.answer.retry or time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def snapshot(self) -> ServoSnapshot | None:
        """The newest tick, or None before the first one. Does not take it from :meth:`drain`."""
        self._collect()
        return self._newest

    def drain(self) -> list[ServoSnapshot]:
        """Every tick since the last call, oldest first (at most the last 1024)."""
        self._collect()
        with self._lock:
            taken = list(self._backlog)
            self._backlog.clear()
        return taken

    def kill(self) -> str:
        """End a process that does not tick any more, and leave servo mode in its place: see :meth:`leave_servo`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        return self.leave_servo()

    def leave_servo(self) -> str:
        """Leave servo mode over a connection of our own, if the process has ended without doing so.

        Returns what came of it in words, "" if servo mode was off already. The arm stands, since it gets no commands.
        """
        newest = self.snapshot()
        if self.alive or self._left_servo or newest is None or not newest.servo_mode:
            return ""
        self._left_servo = True
        try:
            was_on = self._config.leave_servo()
            text = "servo mode was left in its place" if was_on else "servo mode was left already"
        except Exception as error:  # noqa: BLE001  whatever it is, the person beside the arm has to be told
            text = f"servo mode may still be on: {error}; press the emergency stop before going near"
        _log.warning("the servo process is gone: %s", text)
        return text

    def stop(self, timeout_s: float = 10.0) -> int | None:
        """Ramp to rest, leave servo mode, end the process, remove the rings. Returns its exit code. Idempotent."""
        code = None
        self._collect()
        if self._process is not None:
            if self._process.poll() is None:
                # One that is ending already must keep its own exit code.
                if self._newest is None or self._newest.exit_reason is None:
                    self._process.terminate()
                try:
                    self._process.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            code = self._process.returncode
            self._collect()
            self.leave_servo()
            self._reader.join(1.0)
            self._process = None
        for ring in self._rings.values():
            ring.close()
        self._rings = {}
        if self._folder is not None:
            self._folder.__exit__(None, None, None)
            self._folder = None
        return code

    def _collect(self) -> None:
        with self._lock:
            if not self._rings:
                return
            while (payload := self._rings["snapshots"].read()) is not None:
                try:
                    snapshot = ServoSnapshot.decode(payload)
                except WireError as error:  # one tick less is told of
                    _log.error("%s", error)
                    continue
                self._newest, self._newest_at_s = snapshot, time.monotonic()
                self._backlog.append(snapshot)
                for request_id, answer in snapshot.answers:
                    if request_id in self._waiting:
                        self._answers[request_id] = answer

    def _ended(self) -> str:
        self._collect()
        if self._newest is not None and self._newest.exit_reason is not None:
            return self._newest.exit_reason
        if self._process is None:
            return "not started" if self._newest is None else "stopped"
        code = self._process.poll()
        self._reader.join(0.5)
        return f"exit code {code}: " + " | ".join(self._errors)

    def _need_rings(self) -> dict[str, Ring]:
        if not self._rings:
            raise ServoLinkError("the servo process is not started")
        return self._rings

    def _relay_stderr(self) -> None:
        """Pass the process's stderr on, and keep its last lines for the error message."""
        assert self._process is not None and self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._errors.append(text)
            print(text, file=sys.stderr, flush=True)
