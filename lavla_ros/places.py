"""Folders that can be written: those of a run, and others where the usual ones of libraries cannot be.

Service accounts, containers and read-only installs have no home to write into; ROS, numba, matplotlib, Hugging Face
and OpenGL drivers each ask for another corner of it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lavla_ros.errors import UserError

_LOCK = "lock"


class PlaceError(UserError, OSError):
    """There is nowhere to write."""


def use_writable_places() -> None:
    """Give this process, and those it starts, the folders of :func:`writable_places`."""
    os.environ.update(writable_places(os.environ))


def writable_places(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that libraries need where their usual folders cannot be made; what is set already stays.

    Raises PlaceError if not even the system's temporary folder can be written.
    """
    home = Path(environment.get("HOME") or "/dev/null")
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    usual = {
        "ROS_LOG_DIR": Path(environment.get("ROS_HOME") or home / ".ros") / "log",
        "NUMBA_CACHE_DIR": cache / "numba",
        "MPLCONFIGDIR": config / "matplotlib",
        "HF_HOME": cache / "huggingface",
        "XDG_CACHE_HOME": cache,
    }
    missing = {name: place for name, place in usual.items() if name not in environment and not _can_be_made(place)}
    if usual["HF_HOME"].is_dir():  # a filled cache serves, even if it cannot be added to
        missing.pop("HF_HOME", None)
    if not missing:
        return {}
    folder = _user_folder(environment)
    return {name: str(folder / name.lower()) for name in missing}


def _can_be_made(place: Path) -> bool:
    """Whether ``place`` is a folder that can be written, or can become one."""
    while not place.exists():
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _user_folder(environment: Mapping[str, str]) -> Path:
    """A folder of this user alone that outlives the process."""
    runtime = Path(environment.get("XDG_RUNTIME_DIR") or "/dev/null")
    if runtime.is_dir() and os.access(runtime, os.W_OK | os.X_OK):
        return runtime / "lavla"
    folder = Path(tempfile.gettempdir()) / f"lavla-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise PlaceError(
            f"HOME is {environment.get('HOME', 'not set')!r} and cannot be written, neither can {folder} ({error}); "
            "set HOME, or TMPDIR, to a folder that can"
        ) from None
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise PlaceError(
            f"{folder} belongs to another user (uid {found.st_uid}); set HOME, or TMPDIR, to a folder of yours"
        )
    return folder


@contextmanager
def run_dir(prefix: str = "lavla-") -> Iterator[Path]:
    """A private folder for one run, in memory where possible (it carries the rings).

    Folders that killed runs of this user left behind are removed first.
    """
    parent = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
    _sweep(parent)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        unready = folder / f".{_LOCK}"
        with unready.open("w", encoding="utf-8") as lock:  # held for as long as this process lives, whatever ends it
            fcntl.flock(lock, fcntl.LOCK_EX)
            unready.rename(folder / _LOCK)  # never to be seen without its owner
            yield folder


def _sweep(parent: Path) -> None:
    """Remove the folders of runs that have ended without doing so."""
    for lock in parent.glob(f"lavla-*/{_LOCK}"):
        with suppress(OSError):
            if lock.parent.stat().st_uid != os.getuid():
                continue
            with lock.open("r", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError if the run goes on
                shutil.rmtree(lock.parent, ignore_errors=True)
