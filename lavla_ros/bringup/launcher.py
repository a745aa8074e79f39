"""Start a stack's processes, watch over them, stop them in order: what ``lavla up`` does.

Each process gets a session of its own, so that a Ctrl-C in the terminal reaches the launcher alone, which stops every
process with one SIGINT: those marked ``stop_first`` (the executor) before all others, so that the arm comes to rest
under control, the rest in reverse order. The same happens when a process dies (the launcher then reports which, with
its last lines, and ends with a non-zero status), when the terminal is closed, and for any error of the launcher's own.
Should the launcher itself be killed, the kernel sends every process its SIGINT (:mod:`lavla_ros.lifeline`).

Watching depends on nothing but the processes: not on their output being read, nor on the log being written.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from lavla_ros.bringup.domain import VARIABLE, claim_role, domain_id, domain_of_port, free_domains
from lavla_ros.bringup.environment import DISCOVERY, reaches_others, ros_environment
from lavla_ros.bringup.output import Output
from lavla_ros.bringup.stack import Process, Stack, load_stack
from lavla_ros.claim import Claim, ClaimError
from lavla_ros.errors import UserError
from lavla_ros.lifeline import die_with_parent, lifeline
from lavla_ros.places import run_dir

READY_TIMEOUT_S = 600.0
"""A full-size policy on a cold disk takes minutes to load; a process that dies is noticed at once."""
READY_NOTICE_S = 30.0
"""How often a person is told what the start-up waits for."""
_LAST_LINES = 20
_FAREWELL = re.compile(r"nanobind: |See https://nanobind\.|\s- (leaked |\.\.\. skipped )")
"""What the bindings of ruckig and others say as a process ends with an error, longer than the error itself."""


class LaunchError(UserError, RuntimeError):
    """A process did not come up, or died; the message carries its last lines."""


@dataclass(frozen=True, slots=True)
class _Event:
    kind: str  # "ready", "exit" or "signal"
    name: str
    status: int = 0


class _Running:
    """One process, a thread that reads its output and one that waits for its end."""

    def __init__(self, process: Process, events: queue.SimpleQueue[_Event], output: Output) -> None:
        self.process = process
        self.ready = process.ready is None
        self.lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.popen: subprocess.Popen[str] | None = None
        self._pattern = re.compile(process.ready) if process.ready is not None else None
        self._events = events
        self._output = output
        self._reader = threading.Thread(target=self._read, name=f"log {process.name}", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name=f"end {process.name}", daemon=True)

    def start(self, run_dir: Path, environment: Mapping[str, str], pass_fds: Sequence[int]) -> None:
        """To be called by a thread that lives as long as this process (see :mod:`lavla_ros.lifeline`)."""
        self.popen = subprocess.Popen(
            self.process.command(run_dir),
            env=ros_environment() | dict(environment) | dict(self.process.environment) | lifeline(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=pass_fds,
            encoding="utf-8",
        )
        if self.process.nice:  # what it starts has it too
            own = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, self.popen.pid, min(19, own + self.process.nice))
        self._reader.start()
        self._watcher.start()

    def _read(self) -> None:
        assert self.popen is not None and self.popen.stdout is not None
        for line in self.popen.stdout:
            text = line.rstrip()
            if not self.ready and self._pattern is not None and self._pattern.search(text):
                self.ready = True
                self._events.put(_Event("ready", self.process.name))
            if not text.startswith("lavla-ready "):
                if not _FAREWELL.match(text):
                    self.lines.append(text)
                self._output.write(self.process.name, text)

    def _watch(self) -> None:
        assert self.popen is not None
        status = self.popen.wait()
        self._reader.join(0.5)  # its last lines; a child of its own may keep the pipe open for longer
        self._events.put(_Event("exit", self.process.name, status))

    def signal(self, number: int) -> None:
        """To the leader only: its children are its own business."""
        if self.popen is not None and self.popen.poll() is None:
            self.popen.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        if self.popen is None:
            return True
        try:
            self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def finish(self, grace_s: float) -> int:
        """Let what the process started end (the servo process has its output, and the arm to bring to rest), then end
        what is left in its group: SIGTERM, as much time again, SIGKILL. Its exit status."""
        if self.popen is None:
            return 0
        if self._reader.ident is not None:
            self._reader.join(grace_s)
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 1.0)):
            deadline = time.monotonic() + wait_s
            if not _signal_group(self.popen.pid, number):
                break
            while time.monotonic() < deadline and _signal_group(self.popen.pid, 0):
                time.sleep(0.02)
        return self.popen.wait()


class Launcher:
    """The processes of one stack. ``start`` returns when all are ready; ``stop`` when all are gone."""

    def __init__(
        self,
        stack: Stack,
        *,
        log: TextIO | None = None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        ready_timeout_s: float = READY_TIMEOUT_S,
        stop_timeout_s: float = 10.0,
    ) -> None:
        """``environment``: of every process, besides this one's; ``pass_fds``: file descriptors that they inherit."""
        self.stack = stack
        self.failure: str | None = None
        """Who died or did not come up, and its last lines."""
        self.finished = False
        """Whether one that ``finishes`` has ended well."""
        self.statuses: dict[str, int] = {}
        """Exit status of every process that has been stopped; what is optional has none."""
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._running: dict[str, _Running] = {}
        self.output = Output(log if log is not None else sys.stderr, [p.name for p in stack.processes])
        self._environment = dict(environment or {})
        self._pass_fds = tuple(pass_fds)
        self._ready_timeout_s = ready_timeout_s
        self._stop_timeout_s = stop_timeout_s

    def start(self) -> None:
        """Start every process once those it comes after are ready. Raises LaunchError; all are stopped then, as for
        every other error."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        waiting = list(self.stack.processes)
        deadline = time.monotonic() + self._ready_timeout_s
        while True:
            present = {p.name for p in self.stack.processes}
            for process in list(waiting):
                if all(self._is_ready(name) for name in process.after if name in present):
                    self._running[process.name] = running = _Running(process, self._events, self.output)
                    running.start(self.stack.run_dir, self._environment, self._pass_fds)
                    waiting.remove(process)
            if not waiting and all(r.ready for r in self._running.values()):
                return
            event = self._next(min(deadline - time.monotonic(), READY_NOTICE_S))
            late = [n for n, r in self._running.items() if not r.ready]
            if event is None and time.monotonic() < deadline:
                self.output.say(f"waiting for {', '.join(late)}")
            elif event is None:
                self.failure = f"{late} not ready after {self._ready_timeout_s:.0f} s{self._tail(late[0])}"
            elif event.kind == "exit" and self._running[event.name].process.optional:
                self._running[event.name].ready = True
            elif event.kind == "exit":
                self.failure = f"{event.name} ended with status {event.status} at start-up{self._tail(event.name)}"
            elif event.kind == "signal":
                self.failure = "interrupted at start-up"
            if self.failure is not None:
                raise LaunchError(self.failure)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until a signal, the time-out, or one that ``finishes`` has: True; when a process died: False, and ``failure``
        says which."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            event = self._next(None if deadline is None else deadline - time.monotonic())
            if event is None or event.kind == "signal":
                return True
            if event.kind == "exit" and event.name in self._running:  # else it was asked to
                process = self._running[event.name].process
                if event.status == 0 and process.finishes:
                    self.finished = True
                    return True
                if process.optional:
                    continue
                self.failure = f"{event.name} died with status {event.status}{self._tail(event.name)}"
                return False

    def interrupt(self) -> None:
        """End :meth:`wait` from a signal handler or another thread."""
        self._events.put(_Event("signal", ""))

    def stop(self) -> None:
        """One SIGINT to each process: the ``stop_first`` ones, then the last started first. No signal interrupts it."""
        with _deaf():
            self.stop_the_arm()
            for running in reversed(list(self._running.values())):
                self._end(running)
            self.output.close()

    def stop_the_arm(self) -> None:
        """The ``stop_first`` processes alone."""
        for running in list(self._running.values()):
            if running.process.stop_first:
                self._end(running)

    def _end(self, running: _Running) -> None:
        running.signal(signal.SIGINT)
        if not running.wait(self._stop_timeout_s):
            self.output.write(running.process.name, f"did not end within {self._stop_timeout_s:.0f} s; killing it")
            running.signal(signal.SIGTERM)
            if not running.wait(2.0):
                running.signal(signal.SIGKILL)
                running.wait(2.0)
        status = running.finish(grace_s=5.0)
        if not running.process.optional:
            self.statuses[running.process.name] = status
        del self._running[running.process.name]

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
    """Run a stack until Ctrl-C, SIGTERM, the end of the terminal, or a process's death; the exit status.

    Raises StackError for a wrong stack or argument, DomainError if another stack is in its ROS domain, LaunchError
    when a process does not come up.
    """
    out = log if log is not None else sys.stderr
    with run_dir() as folder:
        stack = load_stack(name, arguments, run_dir=folder)
        with stack_domain(stack) as (environment, pass_fds):
            launcher = Launcher(stack, log=out, environment=environment, pass_fds=pass_fds)
            with interrupting(launcher):
                die_with_parent()
                for line in notices(stack, ros_environment() | environment):
                    launcher.output.say(line)
                launcher.start()
                launcher.output.say(f"{stack.name}: {len(stack.processes)} processes are ready; Ctrl-C stops them")
                try:
                    if on_ready is not None:
                        on_ready(launcher)
                    launcher.wait()
                finally:
                    launcher.stop()
    ending = Output(out, [])
    if launcher.failure is not None:
        ending.say(f"error: {launcher.failure}\nall other processes were stopped, the arm first")
    for process, status in launcher.statuses.items():
        if status != 0:
            ending.say(f"{process} ended with status {status}")
    ending.close()
    return launcher.exit_code


@contextlib.contextmanager
def stack_domain(stack: Stack) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """The ROS domain that a stack runs in: what its processes' environment needs, and file descriptors for them.

    A stack without a real arm has a domain to itself if the caller's environment names none: a trial never moves the
    arm of somebody else. Raises DomainError if another stack is there already.
    """
    with contextlib.ExitStack() as held:
        fds: tuple[int, ...] = ()
        if stack.simulated and not os.environ.get(VARIABLE):
            (domain,), fds = held.enter_context(free_domains(1))
        else:
            domain = domain_id()
            with contextlib.suppress(ClaimError):  # several programs may share a domain that was asked for
                fds = (held.enter_context(contextlib.closing(Claim(str(domain)))).fileno(),)
        for process in stack.processes:
            if process.role:  # the node claims it for itself; here nothing has been started yet
                claim_role(process.role, domain, process.namespace or "/").close()
        yield {VARIABLE: str(domain)}, fds


def notices(stack: Stack, environment: Mapping[str, str]) -> Iterator[str]:
    """What a person should know of the surroundings before anything starts."""
    domain = domain_id(environment)
    if not os.environ.get(VARIABLE) and domain:
        yield f"{stack.name} is simulated and has a ROS domain to itself; to look into it: export {VARIABLE}={domain}"
    if reaches_others(environment):
        yield f"WARNING: {DISCOVERY} is {environment[DISCOVERY]}: every machine of this network can command this stack"
    others = other_users(domain)
    if others:
        yield (
            f"WARNING: ROS programs of {', '.join(others)} are, or were, in ROS domain {domain}; programs of different "
            "users of one machine do not hear one another: run drivers and stack as the same user, not with sudo"
        )


def other_users(domain: int, shared_memory: Path = Path("/dev/shm")) -> list[str]:
    """Users other than this one whose Fast DDS ports of a domain lie in shared memory."""
    found = set()
    for file in shared_memory.glob("fastrtps_port*"):
        number = re.match(r"fastrtps_port(\d+)", file.name)
        if number is not None and domain_of_port(int(number[1])) == domain:
            with contextlib.suppress(OSError):
                if file.stat().st_uid != os.getuid():
                    found.add(_user_name(file.stat().st_uid))
    return sorted(found)


def _user_name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


@contextlib.contextmanager
def interrupting(launcher: Launcher) -> Iterator[None]:
    """What asks for an end stops the stack; further signals change nothing while it is being stopped.

    So does Ctrl-Z: a launcher that stands still watches over nothing.
    """
    with _handling(lambda *_: launcher.interrupt()):
        yield


def _deaf() -> contextlib.AbstractContextManager[None]:
    """Signals that ask for an end are not heard."""
    return _handling(lambda *_: None)


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's business
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)
    heard = [n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, handler) for number in heard}
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
