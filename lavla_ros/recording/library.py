"""The recorded episodes below a folder: listed, shown, labelled, discarded and restored.

Nothing here is without a way back. A label lies beside the bag, which stays as it was recorded; a discarded episode
moves to the hidden folder ``.discarded``, which no reader of bags enters. Either is on the disk before it is answered.
"""

from __future__ import annotations

import getpass
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lavla_ros.episode import EpisodePhase, json_object
from lavla_ros.errors import UserError
from lavla_ros.outputs import replacing
from lavla_ros.recording.reader import LABEL_FILE, BagError, BagReader, storage_files

DISCARDED = ".discarded"
LABELS = (EpisodePhase.SUCCEEDED, EpisodePhase.FAILED)
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class LibraryError(UserError, RuntimeError):
    """An episode cannot be shown or changed; nothing was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEpisode:
    """One episode as a person sees it."""

    name: str
    outcome: str
    """A word of :class:`EpisodePhase`; of a label, if one was given."""
    instruction: str
    duration_s: float
    note: str = ""
    said_by: str = ""
    """Who gave the label: a user of that computer; empty: the bag says all of it."""
    size_bytes: int = 0
    episodes: int = 1
    """How many the bag holds; what is said here is of the first."""
    discarded: bool = False
    cameras: tuple[str, ...] = ()
    """Topics of its pictures."""
    problem: str = ""
    """Why it cannot be read; empty if it can."""


class Library:
    """The episodes below ``root``. What is given as ``name`` is a folder there."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._looking = threading.Lock()
        """Nothing is moved while it is looked at: half of it would seem to be missing."""
        self._known: dict[Path, tuple[tuple[int, ...], RecordedEpisode]] = {}

    @classmethod
    def of(cls, bag: Path) -> tuple[Library, str]:
        """The library that holds this bag, discarded or not, and the bag's name there."""
        bag = bag if bag.name not in ("", "..") else bag.resolve()
        return cls(bag.parent.parent if bag.parent.name == DISCARDED else bag.parent), bag.name

    @classmethod
    def below(cls, folder: Path) -> list[Library]:
        """Those of ``folder`` and of the folders in it: ``lavla record`` makes one for each worker."""
        folders = [path for path in folder.rglob("*") if path.is_dir() and storage_files(path)]
        return [cls(root) for root in sorted({cls.of(bag)[0].root for bag in folders})]

    def episodes(self) -> list[RecordedEpisode]:
        """The newest first, those that were discarded last. An episode that is being recorded is not listed."""
        with self._looking:
            kept, discarded = (
                [self._read(path) for path in sorted(_folders(folder), reverse=True)]
                for folder in (self.root, self.root / DISCARDED)
            )
        return [*filter(None, kept), *(replace(each, discarded=True) for each in discarded if each)]

    def episode(self, name: str) -> RecordedEpisode:
        """Raises LibraryError if there is no such episode, or if it is being recorded."""
        path = self.path(name)
        return replace(self._closed(path), discarded=path.parent.name == DISCARDED)

    def label(
        self, name: str, *, outcome: str | None = None, instruction: str | None = None, note: str | None = None
    ) -> None:
        """Say of an episode what its bag does not, or says wrongly; None keeps what was said before.

        Raises LibraryError if there is no such episode, if it is being recorded or cannot be read, if it is one of
        several in its bag, or if the outcome is neither succeeded nor failed.
        """
        if outcome is not None and outcome not in LABELS:
            raise LibraryError(f"outcome is {outcome!r}; expected one of {[*map(str, LABELS)]}")
        if instruction is not None and not instruction.strip():
            raise LibraryError(f"{name}: the instruction is empty; an episode without one cannot be trained on")
        self.require_one_that_is_whole(name)
        path = self.path(name) / LABEL_FILE
        before = self.said(name)
        given = {"outcome": outcome, "instruction": instruction and instruction.strip(), "note": note}
        said = {key: value if given.get(key) is None else str(given[key]) for key, value in _said(before).items()}
        if all(said[key] == _said(before)[key] for key in given):
            return
        history = [*before.get("history", []), {"until": _now(), **_said(before)}]
        _write(path, json.dumps({**said, "by": _user(), "history": history}, indent=2) + "\n")

    def require_one_that_is_whole(self, name: str) -> None:
        """Raise LibraryError for what no label can be given to."""
        path = self.path(name)
        episode = self._closed(path)
        if episode.problem:
            raise LibraryError(episode.problem)
        if episode.episodes > 1:
            raise LibraryError(
                f"{path} holds {episode.episodes} episodes, and a label is of one; their marks say which are good: see "
                "`episodes.yaml` in docs/bags.md"
            )

    def said(self, name: str) -> dict[str, Any]:
        """An episode's label, with its ``history``, the oldest first; empty if there is none. Raises LibraryError."""
        path = self.path(name) / LABEL_FILE
        return json_object(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else {}

    def discard(self, name: str) -> None:
        """Move an episode to where no conversion finds it.

        Raises LibraryError if there is no such episode, or if it is being recorded.
        """
        path = self.root / _checked(name)
        if path.is_dir():
            self._closed(path)
        self._move(path, self.root / DISCARDED / name)

    def restore(self, name: str) -> None:
        """Move a discarded episode back. Raises LibraryError if it is not there."""
        self._move(self.root / DISCARDED / _checked(name), self.root / name)

    def path(self, name: str) -> Path:
        """The folder of an episode, discarded or not. Raises LibraryError if there is none."""
        for folder in (self.root, self.root / DISCARDED):
            if (path := folder / _checked(name)).is_dir():
                return path
        raise LibraryError(f"there is no episode {name!r} below {self.root}")

    def _move(self, source: Path, target: Path) -> None:
        if not source.is_dir():
            raise LibraryError(f"there is no episode {source}")
        if target.exists():
            raise LibraryError(f"{target} exists already; rename one of the two")
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._looking:
            source.rename(target)
        for folder in (source.parent, target.parent):
            _to_disk(folder)

    def _closed(self, path: Path) -> RecordedEpisode:
        with self._looking:
            episode = self._read(path)
        if episode is None:
            raise LibraryError(f"{path} is being recorded; end the episode first")
        return episode

    def _read(self, path: Path) -> RecordedEpisode | None:
        """None: it is being recorded."""
        files = [path / "metadata.yaml", path / LABEL_FILE]
        if not files[0].exists():
            return _unfinished(path)
        stamp = tuple(file.stat().st_mtime_ns for file in files if file.exists())
        if path not in self._known or self._known[path][0] != stamp:
            self._known[path] = stamp, _described(path)
        return self._known[path][1]


def _described(path: Path) -> RecordedEpisode:
    try:
        with BagReader(path) as bag:
            episode, *others = bag.episodes()
            return RecordedEpisode(
                name=path.name,
                outcome=episode.outcome,
                instruction=episode.instruction,
                duration_s=bag.duration_s,
                note=episode.note,
                said_by=episode.said_by,
                size_bytes=_size(path),
                episodes=1 + len(others),
                cameras=cameras_of(bag),
            )
    except BagError as error:
        return _unreadable(path, "", str(error))


def _unfinished(path: Path) -> RecordedEpisode | None:
    """A bag without metadata.yaml is being written, or its recorder was killed: then nobody writes it any more."""
    newest = max((file.stat().st_mtime for file in path.iterdir()), default=0.0)
    if datetime.now(UTC).timestamp() - newest < 10.0:
        return None
    problem = f"its recorder was killed before closing it; `lavla recover {path}` makes it readable"
    return _unreadable(path, EpisodePhase.INTERRUPTED, problem)


def _unreadable(path: Path, outcome: str, problem: str) -> RecordedEpisode:
    return RecordedEpisode(
        name=path.name, outcome=outcome, instruction="", duration_s=0.0, size_bytes=_size(path), problem=problem
    )


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and not path.name.startswith(".") and storage_files(path):
                yield path


def cameras_of(bag: BagReader) -> tuple[str, ...]:
    """Topics of its pictures."""
    return tuple(sorted(t for t, kinds in bag.types.items() if kinds & set(IMAGE_TYPES) and bag.counts.get(t)))


def _said(label: dict[str, Any]) -> dict[str, str]:
    return {key: str(label.get(key, "")) for key in ("outcome", "instruction", "note", "by")}


def _checked(name: str) -> str:
    if name != Path(name).name or name.startswith("."):
        raise LibraryError(f"{name!r} is not the name of an episode's folder")
    return name


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user that has no name
        return f"user {os.getuid()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(path: Path, text: str) -> None:
    with replacing(path) as file, file.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    _to_disk(path.parent)


def _to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
