"""Work for the tests of ``training.task_pool``: importable by worker processes, and with a record of what was begun."""

from __future__ import annotations

import os
import signal
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """``folder`` takes one file per begin, named ``NUMBER-…``, whose content is the worker's process id."""

    number: int
    folder: Path
    action: str = "square"
    delay_s: float = 0.0


def work(task: Task) -> int:
    """The number squared, unless ``action`` says how it goes wrong."""
    partial = task.folder / f".{uuid.uuid4().hex}"
    partial.write_text(str(os.getpid()))
    partial.rename(task.folder / f"{task.number}-{uuid.uuid4().hex}")
    if task.action == "die once" and begun(task.folder, task.number) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if task.action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.action == "raise":
        raise KeyError(f"task {task.number} is wrong")
    if task.action == "wait":
        wait_until(lambda: (task.folder / "go").exists(), 60)
    time.sleep(task.delay_s)
    return task.number**2


def begun(folder: Path, number: int | None = None) -> int:
    """How often a task was begun; how many in all for None."""
    return len(list(folder.glob("*-*" if number is None else f"{number}-*")))


def pids(folder: Path) -> set[int]:
    return {int(file.read_text()) for file in folder.glob("*-*")}


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def read_unless_deadly(task: Any) -> Any:
    """What a builder does with a source, but one named ``deadly`` ends the process."""
    if "deadly" in task.source.name:
        os.kill(os.getpid(), signal.SIGKILL)
    from training.ingest.build import read_source  # heavy: not for every worker of every test

    return read_source(task)
