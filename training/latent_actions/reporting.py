"""Progress of a latent action model's training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter(Protocol):
    """What a training run tells about itself."""

    def step(self, step: int, figures: Mapping[str, float]) -> None: ...
    def message(self, text: str) -> None: ...


class TerminalReporter:
    """Shows ``shown`` of the figures with the time left."""

    def __init__(self, total: int, shown: Sequence[str]) -> None:
        self._shown = tuple(shown)
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("latent"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True, compact=True),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("latent", total=total, figures="")
        self._total = total
        self._started = time.monotonic()

    def __enter__(self) -> TerminalReporter:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of the steps up to this one."""
        text = "  ".join(f"{name} {figures[name]:.4g}" for name in self._shown if name in figures)
        self._progress.update(self._task, completed=step, figures=text)
        if not self._console.is_terminal:
            left = (self._total - step) * (time.monotonic() - self._started) / max(step, 1) / 60
            self.message(f"step {step}/{self._total}  {text}  {left:.1f} min left")

    def message(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)
