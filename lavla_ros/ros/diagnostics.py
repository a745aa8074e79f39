"""What /diagnostics says about a node: counters, rates, ages and latency percentiles, once a second."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterator

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

LEVELS = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR)
PROBLEMS = ("", "warning", "error", "stale")
"""Words for the levels of a status; a report lists each of its problems under the word of its level."""

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d.,]*(?:e[-+]?\d+)?")


class Window:
    """The last ``size`` values of one quantity (latencies, intervals), safe to fill from any thread."""

    def __init__(self, size: int = 1000) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        with self._lock:
            self._values.append(value)

    def percentiles(self, *quantiles: float) -> list[float] | None:
        """Values at ``quantiles`` (0 to 1, nearest rank), or None while nothing was added."""
        with self._lock:
            ordered = sorted(self._values)
        if not ordered:
            return None
        return [ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in quantiles]


class Rate:
    """Events per second between two reports."""

    def __init__(self) -> None:
        self.total = 0
        self._reported = 0
        self._since_ns: int | None = None

    def tick(self) -> None:
        self.total += 1

    def take_hz(self, now_ns: int) -> float:
        """Rate since the last call (0.0 on the first)."""
        since, self._since_ns = self._since_ns, now_ns
        count, self._reported = self.total - self._reported, self.total
        return count / ((now_ns - since) * 1e-9) if since is not None and now_ns > since else 0.0


class Report:
    """One DiagnosticStatus being written; the worst level wins and its messages are joined."""

    def __init__(self, name: str, hardware_id: str) -> None:
        self._status = DiagnosticStatus(name=name, hardware_id=hardware_id, level=DiagnosticStatus.OK)
        self._level = 0
        self._messages: list[str] = []

    def value(self, key: str, value: object) -> None:
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        self._status.values.append(KeyValue(key=key, value=text))

    def latency(self, key: str, window: Window) -> None:
        """p50, p99 and largest of a window in milliseconds."""
        found = window.percentiles(0.5, 0.99, 1.0)
        if found is not None:
            for suffix, value in zip(("p50_ms", "p99_ms", "max_ms"), found, strict=True):
                self.value(f"{key}_{suffix}", value)

    def warn(self, message: str) -> None:
        self._raise(1, message)

    def error(self, message: str) -> None:
        self._raise(2, message)

    def finish(self, otherwise: str) -> DiagnosticStatus:
        """The message; ``otherwise`` is its text when nothing was wrong."""
        self._status.level = LEVELS[self._level]
        self._status.message = "; ".join(self._messages) or otherwise
        return self._status

    def _raise(self, level: int, message: str) -> None:
        self._level = max(self._level, level)
        self._messages.append(message)
        self.value(PROBLEMS[level], message)


class NewProblems:
    """Pick from /diagnostics what a person has not been told yet (pure: who asks, prints).

    A problem whose numbers alone change ("no frame for 3.1 s") is the same; one that was away for ``forget_s`` is new.
    """

    def __init__(self, forget_s: float = 30.0) -> None:
        self._forget_s = forget_s
        self._seen_s: dict[tuple[str, str], float] = {}

    def take(self, message: DiagnosticArray, now_s: float | None = None) -> list[str]:
        """Lines like ``error: camera: camera front: no frame yet``; ``now_s``: a monotonic clock's, by default now."""
        now_s = time.monotonic() if now_s is None else now_s
        lines = []
        for status in message.status:
            name = status.name.removesuffix(": lavla")
            for word, text in problems_of(status):
                key = (name, _NUMBER.sub("#", text))
                seen_s, self._seen_s[key] = self._seen_s.get(key), now_s
                if seen_s is None or now_s - seen_s > self._forget_s:
                    lines.append(f"{word}: {name}: {text}")
        return lines


def problems_of(status: DiagnosticStatus) -> Iterator[tuple[str, str]]:
    """(word of its level, text) of each problem in a status; none if it is well."""
    level = int.from_bytes(status.level, "little")
    if not 0 < level < len(PROBLEMS):
        return
    # Nodes of others have one message for everything.
    listed = [(pair.key, pair.value) for pair in status.values if pair.key in PROBLEMS[1:]]
    yield from listed or [(PROBLEMS[level], status.message)]
