"""Progress of a training: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter(Protocol):
    """What a training run tells about itself."""

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a training or validation step."""

    def message(self, text: str) -> None:
        """A line that stays."""


def is_first_process() -> bool:
    """False in all processes of a launch but one."""
    return os.environ.get("RANK", "0") == "0"


class TerminalReporter:
    """Progress bars with the time left on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, shown: Sequence[str]) -> None:
        """``shown``: the figures to print. In all processes of a launch but the first, nothing is."""
        quiet = not is_first_process()
        self._shown = tuple(shown)
        self._console = Console(stderr=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True, compact=True),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._reading = self._progress.add_task("frames", total=None, figures="", visible=False)
        self._task = self._progress.add_task("train", total=total, figures="", visible=False)
        self._total = total
        self._started: tuple[float, int] | None = None
        self._latest: dict[str, float] = {}
        self._told = time.monotonic()

    def __enter__(self) -> TerminalReporter:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def read(self, done: int, total: int) -> None:
        """Show how many frames were decoded."""
        self._progress.update(self._reading, completed=done, total=total, visible=done < total)
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._told > 30 or done == total):
            self._told = now
            self.message(f"decoded {done} of {total} frames")

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Show the newest figures of a training or validation step."""
        self._latest |= figures
        shown = "  ".join(f"{k} {self._latest[k]:.4g}" for k in self._shown if k in self._latest)
        self._progress.update(self._task, completed=step, figures=shown, visible=True)
        now = time.monotonic()
        self._started = self._started or (now, step)
        since, first = self._started
        if not self._console.is_terminal:
            rate = (step - first) / max(now - since, 1e-9)
            left = f"{(self._total - step) / rate / 60:.1f} min left" if rate > 0 else ""
            self.message(f"step {step}/{self._total}  {shown}  {left}")

    def message(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)
