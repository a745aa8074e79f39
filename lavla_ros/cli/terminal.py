"""What the commands say on a terminal: progress on standard error, answers on standard output."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from lavla_ros.errors import UserError

PROGRAM = (sys.executable, "-m", "lavla_ros.cli")
"""The command line, for what a command starts beside itself."""


class CommandError(UserError, RuntimeError):
    """The command cannot be run as it was given, or found what it was to look for."""


def say(text: str) -> None:
    """A note on standard error."""
    print(text, file=sys.stderr, flush=True)


def to_json(value: Any) -> str:
    """JSON of a dataclass or plain value, for --json outputs."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.dumps(value, indent=2, default=str)


class Progress:
    """A bar that counts on standard error, so that standard output stays the answer."""

    def __init__(self, label: str, total: int = 0, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._progress = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tally]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._task = self._progress.add_task(label, total=total, tally="")
        self._tally: dict[str, int] = {}

    def __enter__(self) -> Progress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, outcome: str, *, more: bool = False) -> None:
        """``more``: this one was not among those that were expected."""
        if more:
            self.expect(int(self._progress.tasks[0].total or 0) + 1)
        self._tally[outcome] = self._tally.get(outcome, 0) + 1
        tally = ", ".join(f"{count} {name}" for name, count in sorted(self._tally.items()))
        self._progress.update(self._task, advance=1, tally=tally)

    def expect(self, total: int) -> None:
        """For work whose amount is known later."""
        self._progress.update(self._task, total=total)

    def show(self, done: int, total: int) -> None:
        """For work that counts for itself."""
        self._progress.update(self._task, completed=done, total=total)
