"""The ROS side's handle on the servo process: start it, feed it chunks, read what it did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from lavla_ros.contract import ActionChunk
from lavla_ros.control.ring import Ring
from lavla_ros.control.servo_config import ServoConfig
from lavla_ros.control.wire import RING_FILES, ServoSnapshot, encode_chunk, encode_request
from lavla_ros.lifeline import lifeline
from lavla_ros.places import run_dir

_POLL_S = 0.004
_BACKLOG = 1024


class ServoLinkError(RuntimeError):
    """The servo process could not be started or has ended; the message carries its reason."""


class ServoLink:
    """Owns one servo process and its rings. Methods may be called from any thread.

    Nothing here keeps the arm going by itself: call :meth:`heartbeat` at 10 Hz or more from the loop
    whose life is to be watched.
    """

    def __init__(self, config: ServoConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._rings: dict[str, Ring] = {}
        self._folder: AbstractContextManager[Path] | None = None
        self._backlog: deque[ServoSnapshot] = deque(maxlen=_BACKLOG)
        self._newest: ServoSnapshot | None = None
        self._answers: dict[int, tuple[bool, str]] = {}
        self._requests = 0
        self.reason = ""
        """Outcome of the last request in words (why an acknowledgement was refused, for instance)."""

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
        file.write_text(json.dumps(replace(self._config, ring_dir=str(folder)).to_dict()))
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

    def submit(self, chunk: ActionChunk) -> None:
        """Hand over a chunk; the verdict comes in ``ServoSnapshot.results``. Raises WireError where it does not fit."""
        payload = encode_chunk(chunk)
        with self._lock:
            self._need_rings()["chunks"].write(payload)

    def heartbeat(self) -> None:
        """Tell the process that the ROS side is alive."""
        with self._lock:
            self._need_rings()["heartbeat"].write(time.monotonic_ns().to_bytes(8, "little"))

    def acknowledge(self, timeout_s: float = 30.0) -> bool:
        """A person clears the latched fault (and the controller's), once the ramp to rest is over.

        False where refused: see :attr:`reason`.
        """
        return self._when_at_rest("acknowledge", timeout_s)

    def activate(self, timeout_s: float = 10.0) -> bool:
        """Enter servo mode (where the configuration left it off). False with :attr:`reason`."""
        return self.request("activate", timeout_s=timeout_s)

    def deactivate(self, timeout_s: float = 10.0) -> bool:
        """Ramp to rest and leave servo mode; the process stays connected."""
        return self._when_at_rest("deactivate", timeout_s)

    def hold(self) -> bool:
        """Ramp to rest and refuse chunks until :meth:`resume`."""
        return self.request("hold")

    def resume(self) -> bool:
        """Accept chunks again."""
        return self.request("resume")

    def set_speed_scale(self, scale: float) -> bool:
        """Factor on the velocity limits, 0.01 to 1."""
        return self.request("speed_scale", scale)

    def request(self, name: str, value: float = 0.0, *, timeout_s: float = 5.0) -> bool:
        """Send a request and wait for the answer, heart beating. False where refused or unanswered."""
        with self._lock:
            self._requests += 1
            request_id = self._requests
            self._need_rings()["requests"].write(encode_request(request_id, name, value))
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            self.heartbeat()
            self._collect()
            if request_id in self._answers:
                ok, self.reason = self._answers.pop(request_id)
                return ok
            if not self.alive:
                self.reason = f"the servo process has ended: {self._ended()}"
                return False
            time.sleep(_POLL_S)
        self.reason = f"no answer to {name!r} within {timeout_s} s"
        return False

    def _when_at_rest(self, name: str, timeout_s: float) -> bool:
        """Ask until the answer is another than that the command is still ramping to rest."""
        until = time.monotonic() + timeout_s
        while not self.request(name, timeout_s=timeout_s):
            if "ramping" not in self.reason or time.monotonic() > until:
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
                snapshot = ServoSnapshot.decode(payload)
                self._newest = snapshot
                self._backlog.append(snapshot)
                for request_id, ok, reason in snapshot.answers:
                    self._answers[request_id] = (ok, reason)

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
