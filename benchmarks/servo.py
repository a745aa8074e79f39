"""How punctual the servo loop is, measured where it matters: at the controller.

The whole live stack runs its episodes: policy, cameras, executor with its servo process, recorder, and the controller
emulator that notes when each command arrived. ``lavla bench servo --duration 60 --out FILE.json``.

A cycle is *missed* when no command arrived in its 8 ms slot; the slots lie on the sender's grid, found as
the median phase of the arrivals. ``missed_raw`` and ``raw`` count everything; ``missed`` and ``jitter`` leave
out the intervals in which a detector on some core saw the machine itself stop.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.config import ServoBench
from benchmarks.console import WatchedConsole
from benchmarks.stalls import StallDetector
from lavla_ros.errors import FailedError
from lavla_ros.lifeline import lifeline
from sim_bridges.jaka_controller.emulator import emulator_command
from sim_bridges.worlds.tabletop.live_episodes import HOST, LiveEpisodes

PROBES = {"emulator": "benchmarks.probes.emulator"}
PERIOD_NS = 8_000_000
EARLY_NS = 1_000_000
"""A command may come this much before its usual phase and still belong to its slot."""
_BURN = "import numpy as np\na = np.random.rand(300, 300)\nwhile True: a @ a"


def analyse(arrivals_ns: NDArray[np.int64], stalls: Sequence[tuple[int, int]] | None) -> dict[str, Any]:
    """Figures of the arrival times (N,) ≥ 3 at the controller. ``stalls``: sorted (from_ns, to_ns); None: unknown."""
    if len(arrivals_ns) < 3:
        raise FailedError(f"only {len(arrivals_ns)} servo commands arrived")
    intervals_ns = np.diff(arrivals_ns)
    if stalls is not None:
        stalls = [(begin, end) for begin, end in stalls if end > arrivals_ns[0] and begin < arrivals_ns[-1]]
    # The median of the phase, unwrapped around the first guess (phases are circular).
    anchor = int(arrivals_ns[len(arrivals_ns) // 2])
    phase = (arrivals_ns - anchor + PERIOD_NS // 2) % PERIOD_NS - PERIOD_NS // 2
    anchor += int(np.median(phase))
    slots = (arrivals_ns - anchor + EARLY_NS) // PERIOD_NS
    missing = np.maximum(np.diff(slots) - 1, 0)
    excused = np.zeros(len(intervals_ns), dtype=bool)
    for begin, end in stalls or ():
        # The intervals that the stall touches, and the short one that makes up for the late command.
        first = int(np.searchsorted(arrivals_ns, begin)) - 1
        last = int(np.searchsorted(arrivals_ns, end + PERIOD_NS))
        excused[max(0, first) : last + 1] = True
    return {
        "commands": len(arrivals_ns),
        "raw": _interval_figures(intervals_ns),
        "missed_raw": int(missing.sum()),
        "without_stalls": _interval_figures(intervals_ns[~excused]) if (~excused).any() else None,
        "missed": int(missing[~excused].sum()),
        "jitter_p99_9_ms": _jitter(intervals_ns[~excused]) if (~excused).any() else None,
        "jitter_p99_9_raw_ms": _jitter(intervals_ns),
        "stalls": None if stalls is None else len(stalls),
        "longest_stall_ms": max((end - begin for begin, end in stalls or ()), default=0) / 1e6,
        "intervals_excused": int(excused.sum()),
    }


def run(config: ServoBench) -> dict[str, Any]:
    """Measure for ``duration_s`` after ``settle_s``. Raises RuntimeError if the stack does not last."""
    detector = StallDetector()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lavla-bench-")))
        live = LiveEpisodes(folder, episodes=1000, arguments={"policy": config.policy}, modules=PROBES)
        stack.enter_context(live)
        stack.enter_context(detector)
        for _ in os.sched_getaffinity(0) if config.burn else ():
            stack.enter_context(_process([sys.executable, "-c", _BURN], env={"OMP_NUM_THREADS": "1"}))
        console = None
        if config.console:
            contract = live.stack.arguments["contract"]
            console = stack.enter_context(WatchedConsole(folder, contract, live.environment | lifeline()))
        live.run_for(config.settle_s)
        if console is not None:
            console.begin()
        emulator_command(HOST, live.port, clear="servo_log")
        live.run_for(config.duration_s)
        arrivals, counters = _arrivals(HOST, live.port)
        looked = {"console": console.figures()} if console is not None else {}
        episodes = [row["state"] for row in live.finished]
    return {
        "benchmark": "servo",
        "duration_s": config.duration_s,
        "burn": config.burn,
        **analyse(arrivals, detector.stalls),
        **looked,
        "controller": counters,
        "episodes": {state: episodes.count(state) for state in sorted(set(episodes))},
        "cores": len(os.sched_getaffinity(0)),
    }


def _arrivals(host: str, port: int) -> tuple[NDArray[np.int64], dict[str, int]]:
    arrivals: list[int] = []
    since, total = 0, 1
    counters: dict[str, int] = {}
    while since < total:
        page = emulator_command(host, port, query="servo_log", since=since)["servo_log"]
        arrivals += page["arrival_ns"]
        since, total = page["next"], total if counters else page["total"]
        counters = counters or page["counters"]
    return np.array(arrivals, dtype=np.int64), counters


@contextmanager
def _process(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[None]:
    process = subprocess.Popen(command, env={**os.environ, **(env or {})})
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def _interval_figures(intervals_ns: NDArray[np.int64]) -> dict[str, float]:
    p50, p99, p999 = np.percentile(intervals_ns, [50, 99, 99.9]) / 1e6
    return {
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "p99_9_ms": round(float(p999), 3),
        "max_ms": round(float(intervals_ns.max()) / 1e6, 3),
        "above_12_ms": int((intervals_ns > 12_000_000).sum()),
        "above_16_ms": int((intervals_ns > 16_000_000).sum()),
    }


def _jitter(intervals_ns: NDArray[np.int64]) -> float:
    return round(float(np.percentile(np.abs(intervals_ns - PERIOD_NS), 99.9)) / 1e6, 3)
