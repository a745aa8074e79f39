"""The recorded episodes below a folder: listed, shown, labelled, discarded and restored.

Nothing here is without a way back. A label lies beside the bag, which stays as it was recorded; a discarded episode
moves to the hidden folder ``.discarded``, which no reader of bags enters. Either is on the disk before it is answered.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2

from lavla_ros.episode import EpisodePhase, json_object
from lavla_ros.errors import UserError
from lavla_ros.observation.images import decode_image
from lavla_ros.outputs import replacing
from lavla_ros.recording.reader import LABEL_FILE, BagError, BagReader

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

    def episodes(self) -> list[RecordedEpisode]:
        """The newest first, those that were discarded last. An episode that is being recorded is not listed."""
        with self._looking:
            kept, discarded = (
                [self._read(path) for path in sorted(_folders(folder), reverse=True)]
                for folder in (self.root, self.root / DISCARDED)
            )
        return [*filter(None, kept), *(replace(each, discarded=True) for each in discarded if each)]

    def label(
        self, name: str, *, outcome: str | None = None, instruction: str | None = None, note: str | None = None
    ) -> None:
        """Say of an episode what its bag does not, or says wrongly; None keeps what was said before.

        Raises LibraryError if there is no such episode, or if the outcome is neither succeeded nor failed.
        """
        if outcome is not None and outcome not in LABELS:
            raise LibraryError(f"outcome is {outcome!r}; expected one of {[*map(str, LABELS)]}")
        if instruction is not None and not instruction.strip():
            raise LibraryError(f"{name}: the instruction is empty; an episode without one cannot be trained on")
        path = self._existing(name) / LABEL_FILE
        before = json_object(path.read_text(encoding="utf-8")) if path.exists() else {}
        given = {"outcome": outcome, "instruction": instruction and instruction.strip(), "note": note}
        said = {key: value if given.get(key) is None else str(given[key]) for key, value in _said(before).items()}
        if said == _said(before):
            return
        history = [*before.get("history", []), {"until": _now(), **_said(before)}]
        _write(path, json.dumps({**said, "history": history}, indent=2) + "\n")

    def discard(self, name: str) -> None:
        """Move an episode to where no conversion finds it. Raises LibraryError if there is no such episode."""
        self._move(self.root / _checked(name), self.root / DISCARDED / name)

    def restore(self, name: str) -> None:
        """Move a discarded episode back. Raises LibraryError if it is not there."""
        self._move(self.root / DISCARDED / _checked(name), self.root / name)

    def frames(self, name: str, camera: str = "") -> Iterator[tuple[int, bytes]]:
        """(log time in ns, JPEG) of a camera's pictures; the first camera's by default.

        Raises LibraryError if there is no such episode or camera, or if the bag cannot be read.
        """
        path = self._existing(name)
        try:
            with BagReader(path) as bag:
                topics = _cameras(bag)
                if (camera and camera not in topics) or not topics:
                    raise LibraryError(f"{name} has no pictures on {camera or 'any topic'}; it has {list(topics)}")
                for message in bag.messages([camera or topics[0]]):
                    yield message.stamp_ns, jpeg(decode_image(bag.deserialize(message)))
        except BagError as error:
            raise LibraryError(str(error)) from error

    def thumbnail(self, name: str) -> bytes:
        """JPEG of the first picture. Raises LibraryError as :meth:`frames` does."""
        for _, picture in self.frames(name):
            return picture
        raise LibraryError(f"{name} has no picture")

    def _existing(self, name: str) -> Path:
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

    def _read(self, path: Path) -> RecordedEpisode | None:
        """None: it is being recorded."""
        files = [path / "metadata.yaml", path / LABEL_FILE]
        if not files[0].exists():
            return _unfinished(path)
        stamp = tuple(file.stat().st_mtime_ns for file in files if file.exists())
        if path not in self._known or self._known[path][0] != stamp:
            self._known[path] = stamp, _described(path)
        return self._known[path][1]


def jpeg(image_rgb: Any, quality: int = 80) -> bytes:
    """(H, W, 3) uint8 RGB as JPEG."""
    return bytes(cv2.imencode(".jpg", image_rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def _described(path: Path) -> RecordedEpisode:
    try:
        with BagReader(path) as bag:
            episode = bag.episodes()[0]
            return RecordedEpisode(
                name=path.name,
                outcome=episode.outcome,
                instruction=episode.instruction,
                duration_s=bag.duration_s,
                note=episode.note,
                cameras=_cameras(bag),
            )
    except BagError as error:
        return RecordedEpisode(name=path.name, outcome="", instruction="", duration_s=0.0, problem=str(error))


def _unfinished(path: Path) -> RecordedEpisode | None:
    """A bag without metadata.yaml is being written, or its recorder was killed: then nobody writes it any more."""
    newest = max((file.stat().st_mtime for file in path.iterdir()), default=0.0)
    if datetime.now(UTC).timestamp() - newest < 10.0:
        return None
    problem = f"its recorder was killed before closing it; `lavla recover {path}` makes it readable"
    return RecordedEpisode(name=path.name, outcome="interrupted", instruction="", duration_s=0.0, problem=problem)


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and not path.name.startswith(".") and any(path.glob("*.mcap")):
                yield path


def _cameras(bag: BagReader) -> tuple[str, ...]:
    return tuple(sorted(t for t, kinds in bag.types.items() if kinds & set(IMAGE_TYPES) and bag.counts.get(t)))


def _said(label: dict[str, Any]) -> dict[str, str]:
    return {key: str(label.get(key, "")) for key in ("outcome", "instruction", "note")}


def _checked(name: str) -> str:
    if name != Path(name).name or name.startswith("."):
        raise LibraryError(f"{name!r} is not the name of an episode's folder")
    return name


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
