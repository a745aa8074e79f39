"""What this machine gives a process: memory and disk, refused if there is too little, and its arithmetic."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lavla_ros.errors import UserError

_CGROUP = Path("/sys/fs/cgroup")
GIB = 2**30


class RoomError(UserError, RuntimeError):
    """Memory or disk will not do; the message says for what, how much is needed and how much is there."""


def available_memory() -> int | None:
    """Bytes that can still be allocated without swapping, by the machine and by the container; None: unknown."""
    found = [value for value in (_machine_memory(), _container_memory()) if value is not None]
    return min(found, default=None)


def free_disk(folder: Path) -> int:
    """Free bytes of the file system that ``folder`` is, or will be, on."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def processes_here() -> int:
    """Processes of this run on this machine (1 unless a launcher started several)."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def require_memory(needed: int, what: str, advice: str) -> None:
    """Raise RoomError unless ``needed`` bytes can be allocated."""
    available = available_memory()
    if available is not None and needed > available:
        raise RoomError(f"{what} needs {needed / GIB:.1f} GiB of memory; {available / GIB:.1f} GiB are free. {advice}")


def require_disk(needed: int, folder: Path, what: str, advice: str) -> None:
    """Raise RoomError unless ``needed`` bytes are free where ``folder`` is."""
    free = free_disk(folder)
    if needed > free:
        raise RoomError(f"{what} needs {needed / GIB:.2f} GiB in {folder}; {free / GIB:.2f} GiB are free. {advice}")


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Numbers below 1e-38 count as 0 within: fading optimizer moments would make a CPU many times slower.

    It is a setting of the whole process, so it is taken back at the end.
    """
    before = float(torch.tensor(1e-40) * 1.0) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _machine_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: nothing is known
    return None


def _container_memory() -> int | None:
    """What cgroup v2 leaves to this container; file cache counts as free, for it gives way."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="utf-8").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="utf-8"))
        cached = [
            line
            for line in (_CGROUP / "memory.stat").read_text(encoding="utf-8").splitlines()
            if line.startswith("file ")
        ]
    except OSError:
        return None
    if limit == "max":
        return None
    return int(limit) - used + (int(cached[0].split()[1]) if cached else 0)
