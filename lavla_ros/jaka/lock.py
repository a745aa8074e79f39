"""One user of a controller at a time on this machine: a lock file per controller address.

The controller itself lets a later client replace an earlier one, also while the earlier one moves the arm.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from pathlib import Path
from typing import IO

from lavla_ros.jaka.errors import ControllerBusyError

_POLL_S = 0.02


class ControllerLock:
    """Held from :meth:`acquire` to :meth:`release`, or until the process ends, however it ends."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._file: IO[str] | None = None

    def acquire(self, timeout_s: float = 0.0) -> None:
        """Take the lock, waiting for it up to ``timeout_s``. Does nothing where it is held by this object.

        Raises ControllerBusyError naming the process that has it, or the file that cannot be used.
        """
        if self._file is not None:
            return
        path = lock_path(self._host, self._port)
        try:
            _make_private(path.parent)
            # Not truncated on opening: the content names the holder.
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise ControllerBusyError(
                f"the lock file {path} of the controller cannot be used: {error}; remove it or mend its permissions"
            ) from error
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    holder = file.read().strip() or "an unknown process"
                    file.close()
                    raise ControllerBusyError(
                        f"the controller is commanded by {holder} (lock file {path}); stop that one first: two would "
                        "fight over the arm"
                    ) from None
                time.sleep(_POLL_S)
        file.truncate(0)
        file.write(f"process {os.getpid()} ({_command_line()})\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Let others have the controller. Safe to call twice."""
        if self._file is not None:
            # The file stays: whoever removed it could remove the one that another process has just locked.
            self._file.truncate(0)
            self._file.close()
            self._file = None


def lock_path(host: str, port: int) -> Path:
    """The lock file of a controller: the same for every name of one address."""
    try:
        address = socket.gethostbyname(host)
    except OSError:
        address = host
    name = "".join(c if c.isalnum() or c in ".-" else "_" for c in address)
    # Not TMPDIR or XDG_RUNTIME_DIR: they differ between a terminal, a service and a remote session of one user.
    return Path("/tmp") / f"lavla_ros-{os.getuid()}" / f"jaka_{name}_{port}.lock"


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder of this user")


def _command_line() -> str:
    words = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    return " ".join(b" ".join(words).decode(errors="replace").split())[:200]
