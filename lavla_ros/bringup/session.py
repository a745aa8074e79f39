"""A stack, and beside it one program that uses it: the session is over when that program ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.bringup.launcher import Launcher, interrupting, notices, stack_domain
from lavla_ros.bringup.stack import Stack, in_namespace
from lavla_ros.errors import UserError
from lavla_ros.lifeline import lifeline
from lavla_ros.places import run_dir


class SessionError(UserError, RuntimeError):
    """The stack or its program did not last; what was recorded before is kept."""


class Session:
    """``with Session(…) as session: while session.running(0.2): …``; leaving it stops arm, program, rest."""

    def __init__(
        self, stack: Callable[[Path], Stack], program: Sequence[str], log_file: Path, *, interactive: bool = False
    ) -> None:
        """``stack``: from the folder of the run to the stack. ``program``: a Python module of a ROS program and its
        arguments; it joins the namespace of the stack.

        The stack writes to ``log_file``; so does the program, unless it is ``interactive``: then it has the terminal.
        """
        self.log_file = log_file
        self._load = stack
        self._command = [sys.executable, "-m", *program]
        self._interactive = interactive
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            log = starting.enter_context(self.log_file.open("w", encoding="utf-8"))
            folder = starting.enter_context(run_dir())
            self.stack = self._load(folder)
            environment, pass_fds = starting.enter_context(stack_domain(self.stack))
            self.environment = environment = ros_environment() | environment
            self._launcher = Launcher(self.stack, log=log, environment=environment, pass_fds=pass_fds)
            starting.callback(self._launcher.stop)
            for line in notices(self.stack, environment):
                self._launcher.output.say(line)
                if self._interactive:
                    print(line, flush=True)
            self._launcher.start()
            output = None if self._interactive else log
            self._program = subprocess.Popen(
                [*self._command, "--ros-args", *in_namespace(self.stack.namespace)],
                env=environment | lifeline(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            starting.callback(self._end_program)
            starting.callback(self._launcher.stop_the_arm)
            self._stack = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with interrupting(self._launcher):  # an impatient Ctrl-C must not leave half of it running
            self._stack.close()

    def running(self, timeout_s: float) -> bool:
        """Wait up to ``timeout_s``. False once the program has ended; raises SessionError when something failed."""
        if self._program.poll() is None and not self._launcher.wait(timeout_s):
            raise SessionError(f"{self._launcher.failure}\nthe whole log: {self.log_file}")
        if self._program.poll():
            tail = "\n  ".join(self.log_file.read_text(errors="replace", encoding="utf-8").splitlines()[-6:])
            ended = f"{self._command[2]} ended with status {self._program.returncode}"
            raise SessionError(f"{ended}; the end of {self.log_file}:\n  {tail}")
        return self._program.returncode is None

    def _end_program(self) -> None:
        if self._program.poll() is None:
            self._program.send_signal(signal.SIGINT)
            try:
                self._program.wait(10.0)
            except subprocess.TimeoutExpired:
                self._program.kill()
                self._program.wait()
