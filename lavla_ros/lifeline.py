"""A process that ends with the one that started it, however that one ends: SIGKILL, a crash, a lost terminal.

The starter adds :func:`lifeline` to the child's environment; the child calls :func:`die_with_parent` once
its handler of SIGINT is in place, and is then sent SIGINT when the starter is gone. A process that was
started otherwise (by hand, in a shell) is left alone: it may outlive its shell.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time

VARIABLE = "LAVLA_PARENT_PID"
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.2


def lifeline() -> dict[str, str]:
    """What a child's environment needs to end with this process.

    The child has to be started by a thread that lives as long as the process: the kernel takes the end of
    the starting thread for the parent's.
    """
    return {VARIABLE: str(os.getpid())}


def die_with_parent() -> None:
    """From now on SIGINT comes when the starter has ended; at once where it has ended already.

    Does nothing if the environment names no starter. The variable is taken out of the environment, so that
    this process's own children do not take it for theirs. Raises ValueError if it is not a process id.
    """
    text = os.environ.pop(VARIABLE, "")
    if not text:
        return
    if not text.isdecimal():
        raise ValueError(f"{VARIABLE} is {text!r}; expected the id of the process that started this one")
    parent = int(text)
    if os.getppid() == parent and sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0) == 0:
            if os.getppid() != parent:  # it ended just before the request: no signal will come
                os.kill(os.getpid(), signal.SIGINT)
            return
    # Something stays in between (sudo, xterm, a debugger), or the kernel refuses.
    threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()


def _watch(parent: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        while True:
            with contextlib.suppress(PermissionError):  # another user's, but there
                os.kill(parent, 0)
            time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGINT)
