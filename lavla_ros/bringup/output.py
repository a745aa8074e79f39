"""Lines of all processes of a stack on one stream. Writing never waits, even if the stream blocks or breaks."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import TextIO

_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95)
_MOST_WAITING = 10_000


class Output:
    """A thread writes; a reader that stalls costs lines, one that goes away or a full disk ends the writing alone."""

    def __init__(self, stream: TextIO, names: list[str]) -> None:
        self._stream = stream
        self._width = max((len(n) for n in names), default=0)
        self._colour = {n: _COLOURS[i % len(_COLOURS)] for i, n in enumerate(names)} if stream.isatty() else {}
        self._waiting: queue.Queue[str | None] = queue.Queue(_MOST_WAITING)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="output", daemon=True)
        self._thread.start()

    def write(self, name: str, text: str) -> None:
        """A line of process ``name``."""
        label = f"{name:>{self._width}} |"
        if name in self._colour:
            label = f"\x1b[{self._colour[name]}m{label}\x1b[0m"
        self.say(f"{label} {text}")

    def say(self, text: str) -> None:
        """A line of the launcher's own."""
        try:
            self._waiting.put_nowait(text)
        except queue.Full:
            self._lost += 1

    def close(self, timeout_s: float = 2.0) -> None:
        """Wait until everything is written, as long as there is a reader."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)

    def _write(self) -> None:
        going = True
        while (text := self._waiting.get()) is not None:
            if self._lost:
                text, self._lost = f"({self._lost} lines were not shown: the output stood still)\n{text}", 0
            if not going:
                continue
            try:
                self._stream.write(f"{text}\n")
                self._stream.flush()
            except (OSError, ValueError):  # ValueError: closed
                going = False
