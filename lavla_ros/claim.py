"""Names that one process of this machine has at a time, of whatever user.

A name is claimed by binding an abstract socket to it: no file is left behind or in the way, the kernel gives it back
when the process ends, however it ends, and it reaches as far as the network namespace does.
"""

from __future__ import annotations

import errno
import os
import pwd
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path

from lavla_ros.errors import UserError

_POLL_S = 0.02


class ClaimError(UserError, RuntimeError):
    """Another process has the name; the message is that process."""


class Claim:
    """A name that this process has alone; children that inherit its file descriptor keep it while they live."""

    def __init__(self, name: str, *, wait_s: float = 0.0) -> None:
        """``name``: up to 100 bytes of UTF-8. ``wait_s``: how long another process may take to give it back.

        Raises ClaimError naming the process that has it, OSError if there can be no such socket.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address, deadline = f"\0lavla/{name}", time.monotonic() + wait_s
        while True:
            try:
                self._socket.bind(address)
                self._socket.listen(64)  # no answer: who connects learns our process id
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                    self._socket.close()
                    if error.errno != errno.EADDRINUSE:
                        raise
                    raise ClaimError(_owner(address)) from None
            time.sleep(_POLL_S)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


def _owner(address: str) -> str:
    """Its process id, command line and, if it is not ours, its user, as far as they can be read."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        asking.connect(address)
        pid, uid, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        user = "" if uid == os.getuid() else f" of user {_user(uid)}"
        command = ""
        with suppress(OSError):  # another user's may be hidden
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"process {pid}{user}: {' '.join(command.split())[:200] or 'its command line cannot be read'}"
    return "an unknown process"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
