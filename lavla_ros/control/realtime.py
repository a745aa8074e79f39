"""Making a Python process punctual: scheduling class, locked memory, no garbage collection pauses."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import sys
import time
from io import FileIO

_log = logging.getLogger(__name__)
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_held: list[FileIO] = []


def make_punctual(priority: int) -> bool:
    """SCHED_FIFO at ``priority`` and locked memory where permitted; a warning where not. Returns whether FIFO holds.

    Call it before threads are started: they inherit the class, so that a thread holding the interpreter
    lock is not preempted by ordinary load.
    """
    sys.setswitchinterval(0.001)
    fifo = request_fifo(priority, "the servo process")
    libc = ctypes.CDLL(None, use_errno=True)
    # Locking future memory under a finite limit would make a later allocation fail.
    unlimited = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if libc.mlockall(_MCL_CURRENT | (_MCL_FUTURE if unlimited else 0)) != 0:
        _log.warning("memory is not locked (%s): raise 'ulimit -l'", os.strerror(ctypes.get_errno()))
    _keep_awake()
    return fifo


def request_fifo(priority: int, what: str) -> bool:
    """Put the calling thread under SCHED_FIFO; returns whether that worked, and warns if it did not."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        _log.warning(
            "%s runs without real-time scheduling (%s): expect late cycles under load; grant it with 'ulimit -r %d' "
            "(/etc/security/limits.conf: rtprio) or CAP_SYS_NICE",
            what,
            error.strerror,
            priority,
        )
        return False
    return True


def _keep_awake() -> None:
    """Keep idle cores from sleeping while this process lives: a sleeping one wakes late, in a virtual machine by ms."""
    try:
        request = FileIO("/dev/cpu_dma_latency", "w")
        request.write((0).to_bytes(4, sys.byteorder))
    except OSError as error:
        _log.info("idle cores may wake late: /dev/cpu_dma_latency: %s", error.strerror)
    else:
        _held.append(request)  # in force until it is closed


def stop_collecting() -> None:
    """Take what is alive out of garbage collection and switch it off (the loop makes no cycles)."""
    gc.collect()
    gc.freeze()
    gc.disable()


class Pacer:
    """Absolute deadlines on the monotonic clock. Overruns skip whole periods; nothing is made up for in a burst."""

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self.deadline_ns = time.monotonic_ns()
        self.late_ns = 0
        """How long after its deadline the last wake-up came."""
        self.missed = 0
        """Periods skipped so far."""

    def prepare(self, lead_ns: int) -> None:
        """Sleep until ``lead_ns`` before the next deadline: time for work that must not delay it."""
        self._sleep_until(self.deadline_ns + self._period_ns - lead_ns)

    def wait(self) -> None:
        """Sleep until the next deadline."""
        self.deadline_ns += self._period_ns
        self._sleep_until(self.deadline_ns)
        late_ns = time.monotonic_ns() - self.deadline_ns
        skipped = max(0, late_ns // self._period_ns)
        self.missed += skipped
        self.deadline_ns += skipped * self._period_ns
        self.late_ns = late_ns - skipped * self._period_ns

    def restart(self) -> None:
        """A new grid from now on, after an intended pause."""
        self.deadline_ns = time.monotonic_ns()

    def wall_ns(self) -> int:
        """Wall clock at the last deadline (not at the wake-up: lateness must not shift the motion)."""
        return time.time_ns() - (time.monotonic_ns() - self.deadline_ns)

    @staticmethod
    def _sleep_until(at_ns: int) -> None:
        ahead_ns = at_ns - time.monotonic_ns()
        if ahead_ns > 0:
            time.sleep(ahead_ns * 1e-9)
