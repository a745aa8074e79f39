"""The emulator over the live tabletop, with real-time priority.

It takes the time stamps: its own waiting for the load would count as the sender's lateness.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from sim_bridges.worlds.tabletop.live import main

if __name__ == "__main__":
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(45))  # below the servo loop's 50
    sys.exit(main())
