"""Start a stack's processes, watch over them, stop them in order: what ``lavla up`` does.

Each process gets a session of its own, so that a Ctrl-C in the terminal reaches the launcher alone,
which stops every process with one SIGINT, in reverse order. When a process dies, those marked
``stop_first`` (the executor) are stopped before all others, so that the arm comes to rest under
control; the launcher then reports who died, with its last lines, and ends with a non-zero status.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.bringup.stack import Process, Stack, load_stack

_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95)
_LAST_LINES = 20


class LaunchError(RuntimeError):
    """A process did not come up, or died; the message carries its last lines."""


@dataclass(frozen=True, slots=True)
class _Event:
    kind: str  # "ready", "exit" or "signal"
    name: str
    status: int = 0


class _Running:
    """One started process and the thread that reads its output."""

    def __init__(self, process: Process, stack: Stack, events: queue.SimpleQueue[_Event], log: _Log) -> None:
        self.process = process
        self.ready = process.ready is None
        self.lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._pattern = re.compile(process.ready) if process.ready is not None else None
        self._events = events
        self._log = log
        self.popen = subprocess.Popen(
            process.command(stack.run_dir),
            env=ros_environment() | dict(process.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._read, name=f"log {process.name}", daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            text = line.rstrip()
            if not self.ready and self._pattern is not None and self._pattern.search(text):
                self.ready = True
                self._events.put(_Event("ready", self.process.name))
            if not text.startswith("lavla-ready "):
                self.lines.append(text)
                self._log.write(self.process.name, text)
        self._events.put(_Event("exit", self.process.name, self.popen.wait()))

    def signal(self, number: int) -> None:
        """To the leader only: its children are its own business."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        try:
            self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def sweep(self, grace_s: float) -> None:
        """End what the process left behind in its group: SIGTERM, time to bring the arm to rest, SIGKILL."""
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 1.0)):
            deadline = time.monotonic() + wait_s
            if not _signal_group(self.popen.pid, number):
                return
            while time.monotonic() < deadline and _signal_group(self.popen.pid, 0):
                time.sleep(0.02)


class _Log:
    """Lines of all processes on one stream, each with the name of its process."""

    def __init__(self, stream: TextIO, names: list[str]) -> None:
        self._stream = stream
        self._width = max((len(n) for n in names), default=0)
        self._colour = {n: _COLOURS[i % len(_COLOURS)] for i, n in enumerate(names)} if stream.isatty() else {}
        self._lock = threading.Lock()

    def write(self, name: str, text: str) -> None:
        label = f"{name:>{self._width}} |"
        if name in self._colour:
            label = f"\x1b[{self._colour[name]}m{label}\x1b[0m"
        with self._lock:
            self._stream.write(f"{label} {text}\n")
            self._stream.flush()


class Launcher:
    """The processes of one stack. ``start`` returns when all are ready; ``stop`` when all are gone."""

    def __init__(
        self, stack: Stack, *, log: TextIO | None = None, ready_timeout_s: float = 90.0, stop_timeout_s: float = 10.0
    ) -> None:
        self.stack = stack
        self.failure: str | None = None
        """Who died or did not come up, and its last lines."""
        self.statuses: dict[str, int] = {}
        """Exit status of every process that has ended."""
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._running: dict[str, _Running] = {}
        self._log = _Log(log if log is not None else sys.stderr, [p.name for p in stack.processes])
        self._ready_timeout_s = ready_timeout_s
        self._stop_timeout_s = stop_timeout_s

    def start(self) -> None:
        """Start every process once those it comes after are ready. Raises LaunchError; all are stopped then."""
        waiting = list(self.stack.processes)
        deadline = time.monotonic() + self._ready_timeout_s
        while True:
            present = {p.name for p in self.stack.processes}
            for process in list(waiting):
                if all(self._is_ready(name) for name in process.after if name in present):
                    self._running[process.name] = _Running(process, self.stack, self._events, self._log)
                    waiting.remove(process)
            if not waiting and all(r.ready for r in self._running.values()):
                return
            event = self._next(deadline - time.monotonic())
            if event is None:
                late = [n for n, r in self._running.items() if not r.ready]
                self.failure = f"{late} not ready after {self._ready_timeout_s:.0f} s{self._tail(late[0])}"
            elif event.kind == "exit":
                self.failure = f"{event.name} ended with status {event.status} at start-up{self._tail(event.name)}"
            elif event.kind == "signal":
                self.failure = "interrupted at start-up"
            if self.failure is not None:
                self.stop()
                raise LaunchError(self.failure)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until a signal, the time-out, or one that ``finishes`` has: True; when a process died: False, and ``failure``
        says which."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            event = self._next(None if deadline is None else deadline - time.monotonic())
            if event is None or event.kind == "signal":
                return True
            if event.kind == "exit":
                if event.status == 0 and self._running[event.name].process.finishes:
                    return True
                self.failure = f"{event.name} died with status {event.status}{self._tail(event.name)}"
                return False

    def interrupt(self) -> None:
        """End :meth:`wait` from a signal handler or another thread."""
        self._events.put(_Event("signal", ""))

    def stop(self) -> None:
        """One SIGINT to each process, last started first; after a failure the ``stop_first`` ones lead."""
        order = list(reversed(self._running.values()))
        if self.failure is not None:
            order.sort(key=lambda r: not r.process.stop_first)  # stable: reverse order otherwise
        for running in order:
            running.signal(signal.SIGINT)
            if not running.wait(self._stop_timeout_s):
                self._log.write(running.process.name, f"did not end within {self._stop_timeout_s:.0f} s; killing it")
                running.signal(signal.SIGTERM)
                if not running.wait(2.0):
                    running.signal(signal.SIGKILL)
                    running.wait(2.0)
            running.sweep(grace_s=5.0)
            self.statuses[running.process.name] = running.popen.wait()
        self._running.clear()

    @property
    def exit_code(self) -> int:
        """0 when nothing failed and every process ended with status 0."""
        return 1 if self.failure is not None or any(self.statuses.values()) else 0

    def _is_ready(self, name: str) -> bool:
        return name in self._running and self._running[name].ready

    def _next(self, timeout_s: float | None) -> _Event | None:
        try:
            return self._events.get(timeout=None if timeout_s is None else max(0.0, timeout_s))
        except queue.Empty:
            return None

    def _tail(self, name: str) -> str:
        lines = list(self._running[name].lines)
        return "; its last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else "; it wrote nothing"


def up(
    name: str | Path,
    arguments: Mapping[str, str],
    *,
    log: TextIO | None = None,
    on_ready: Callable[[Launcher], None] | None = None,
) -> int:
    """Run a stack until Ctrl-C, SIGTERM, or a process's death; the exit status.

    Raises StackError for a wrong stack or argument, LaunchError when a process does not come up.
    """
    out = log if log is not None else sys.stderr
    with run_dir() as folder:
        launcher = Launcher(load_stack(name, arguments, run_dir=folder), log=out)
        with interrupting(launcher):
            launcher.start()
            out.write(
                f"{launcher.stack.name}: {len(launcher.stack.processes)} processes are ready; Ctrl-C stops them\n"
            )
            out.flush()
            try:
                if on_ready is not None:
                    on_ready(launcher)
                launcher.wait()
            finally:
                launcher.stop()
        if launcher.failure is not None:
            out.write(f"error: {launcher.failure}\nall other processes were stopped, the arm first\n")
        for process, status in launcher.statuses.items():
            if status != 0:
                out.write(f"{process} ended with status {status}\n")
        return launcher.exit_code


@contextlib.contextmanager
def run_dir() -> Iterator[Path]:
    """A private folder for one run, in memory where possible (it carries the rings)."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="lavla-", dir=parent) as folder:
        yield Path(folder)


@contextlib.contextmanager
def interrupting(launcher: Launcher) -> Iterator[None]:
    """SIGINT and SIGTERM stop the stack; further ones change nothing while it is being stopped."""

    def handler(_number: int, _frame: FrameType | None) -> None:
        launcher.interrupt()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _signal_group(pgid: int, number: int) -> bool:
    """False when the group is gone."""
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
