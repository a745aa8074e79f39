"""What a command writes has one writer at a time; a new file or folder is there whole or not at all.

The end of a process, whatever ends it, frees what it was writing.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

from lavla_ros.errors import UserError


class OutputError(UserError, RuntimeError):
    """An output cannot be written now; the message names it and says what to do."""


@contextmanager
def sole_writer(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Within the body, this process alone writes ``folder``, which is made if it is missing.

    Raises OutputError if another process writes it. With ``wait``, that one's end is waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock", folder, wait=wait):
        yield


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """The name of a folder to make and fill, which becomes ``path`` at the end of the body.

    Raises OutputError if ``path`` holds something, or if another process is making it.
    """
    with _beside(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OutputError(f"{path} exists already; choose another folder, or remove it")
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as hidden:
            made = Path(hidden) / path.name
            yield made
            made.rename(path)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """As :func:`replacing`. Raises OutputError if another process is writing ``path``."""
    with _beside(path), replacing(path) as file:
        yield file


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file to write, which takes the place of ``path`` at the end of the body, unless that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def folder_of_run(wanted: Path | None, name: str) -> Path:
    """Make the folder ``wanted``, or runs/NAME-TIME that no other process has. Raises OutputError if it exists."""
    usual = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    for folder in [wanted] if wanted else [usual, *(Path(f"{usual}-{i}") for i in range(2, 100))]:
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise OutputError(f"{wanted or usual} exists already; choose another folder, or remove it")


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with _locked(lock, path):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _locked(lock: Path, output: Path, *, wait: bool = False) -> Iterator[None]:
    while True:
        with lock.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                file.seek(0)
                raise OutputError(
                    f"{output} is being written by another process ({file.read().strip() or 'unknown'}); wait until it "
                    "has ended, or choose another output"
                ) from None
            if not _is_still(lock, file):
                continue  # the process that held it has removed it
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
            return


def _is_still(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
