"""A stall detector: one SCHED_FIFO process per core that notices when the machine itself stops that core.

Virtual machines take a core away for 10 to 40 ms now and then; no program on it can be punctual then. The
detector sleeps to absolute deadlines 1 ms apart on its core, above every other priority; a wake-up more
than 2 ms late is a stall. Without real-time permission ordinary load looks like stalls too: then
nothing is detected, and every figure counts as the program's own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

PRIORITY = 80
PERIOD_NS = 1_000_000
STALL_NS = 2_000_000


def watch(core: int) -> int:
    """Run on one core until SIGTERM, then print the stalls as JSON: [[from_ns, to_ns], …] (monotonic clock)."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stop.append(number))
    os.sched_setaffinity(0, {core})
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except PermissionError:
        print("null", flush=True)
        return 0
    stalls: list[tuple[int, int]] = []
    print("ready", flush=True)
    deadline_ns = time.monotonic_ns()
    while not stop:
        deadline_ns += PERIOD_NS
        ahead_ns = deadline_ns - time.monotonic_ns()
        if ahead_ns > 0:
            time.sleep(ahead_ns * 1e-9)
        now_ns = time.monotonic_ns()
        if now_ns - deadline_ns > STALL_NS:
            stalls.append((deadline_ns, now_ns))
            deadline_ns = now_ns
    print(json.dumps(stalls), flush=True)
    return 0


class StallDetector:
    """``with StallDetector() as detector: …; detector.stalls`` → [(from_ns, to_ns)], or None without permission."""

    def __init__(self) -> None:
        self.stalls: list[tuple[int, int]] | None = None
        self._watchers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        for core in sorted(os.sched_getaffinity(0)):
            self._watchers.append(
                subprocess.Popen(
                    [sys.executable, __file__, str(core)], stdout=subprocess.PIPE, text=True, encoding="utf-8"
                )
            )
        self._permitted = [w.stdout is not None and w.stdout.readline().strip() == "ready" for w in self._watchers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        found: list[tuple[int, int]] = []
        for watcher in self._watchers:
            watcher.terminate()
            output, _ = watcher.communicate(timeout=10)
            for begin, end in json.loads(output or "null") or []:
                found.append((int(begin), int(end)))
        self.stalls = sorted(found) if all(self._permitted) else None


if __name__ == "__main__":
    sys.exit(watch(int(sys.argv[1])))
