"""Real-time priority for the calling thread, where the system permits it."""

from __future__ import annotations

import logging
import os

_log = logging.getLogger(__name__)


def request_fifo(priority: int, what: str) -> bool:
    """Put the calling thread under SCHED_FIFO; returns whether that worked, and warns where it did not."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (PermissionError, OSError, AttributeError) as error:
        _log.warning(
            "%s runs without real-time priority (%s): expect jitter under load; grant CAP_SYS_NICE or an rtprio limit",
            what,
            error,
        )
        return False
    return True
