"""Read bags: ours and those of ``ros2 bag record`` (MCAP and sqlite3), with errors that name the cause."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from backports.zstd import ZstdError  # what rosbags decompresses with before Python 3.14
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.errors import ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from lavla_ros.recording.types import (
    CUSTOM_KEY,
    EPISODE_TOPIC,
    EPISODE_TYPE,
    SCENE_KEYS,
    EpisodeMarks,
    jazzy,
    json_object,
)

# what damaged files make rosbags and its decompressors raise, besides its own ReaderError
_DAMAGE = (
    ReaderError,
    SerdeError,
    TypesysError,
    ZstdError,
    struct.error,
    sqlite3.Error,
    EOFError,
    OSError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AssertionError,
    RuntimeError,
    OverflowError,
    MemoryError,
)


class BagError(ValueError):
    """A bag is missing, truncated, damaged, foreign or lacks what is asked of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BagMessage:
    """One serialised message."""

    topic: str
    msgtype: str
    stamp_ns: int
    """Log time: when the recorder received it."""
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeInfo:
    """What a bag says about its episode."""

    outcome: str
    """succeeded, failed, discarded, interrupted, unmarked; ``unmarked`` where the bag says nothing."""
    scene: dict[str, str | int] = field(default_factory=dict)
    """Of a simulated episode: those of ``SCENE_KEYS`` that the bag has."""
    instruction: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


class BagReader:
    """Iterate one bag (a rosbag2 folder, or a bare ``.mcap`` / ``.db3``). A context manager."""

    def __init__(self, path: Path) -> None:
        """Opens the bag. Raises BagError naming the bag and the cause."""
        self.path = Path(path)
        _check_path(self.path)
        self._store = jazzy()
        self._own_store = False
        self._unreadable_types: set[str] = set()
        try:
            self._reader = Reader(self.path)
            self._reader.open()
        except _DAMAGE as error:
            raise BagError(
                f"bag {self.path} cannot be opened: {error or type(error).__name__}; if its recorder was "
                f"killed, `python -m lavla_ros.recording.recover {self.path}` rescues it"
            ) from error
        self.connections: tuple[Connection, ...] = tuple(self._reader.connections)
        self.topics: dict[str, str] = {c.topic: c.msgtype for c in self.connections}
        self.counts: dict[str, int] = {}
        for connection in self.connections:
            self.counts[connection.topic] = self.counts.get(connection.topic, 0) + connection.msgcount

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._reader.is_open:
            self._reader.close()

    def require_topics(self, topics: Collection[str]) -> None:
        """Raise BagError naming every topic that is absent or empty, and those that exist."""
        missing = sorted(t for t in topics if self.counts.get(t, 0) == 0)
        if missing:
            present = sorted(t for t, n in self.counts.items() if n)
            raise BagError(f"bag {self.path} has no messages on {missing}; it has {present}")

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """Messages of ``topics`` (default: all) in log-time order. Raises BagError where the file is damaged."""
        chosen = [c for c in self.connections if topics is None or c.topic in topics]
        if not chosen:
            return
        count = 0
        try:
            for connection, stamp_ns, raw in self._reader.messages(chosen):
                yield BagMessage(topic=connection.topic, msgtype=connection.msgtype, stamp_ns=stamp_ns, raw=raw)
                count += 1
        except GeneratorExit:
            raise
        except _DAMAGE as error:
            raise BagError(
                f"bag {self.path} is damaged after {count} messages: {error or type(error).__name__}; "
                f"`python -m lavla_ros.recording.recover {self.path}` rescues what is whole"
            ) from error

    def deserialize(self, message: BagMessage) -> Any:
        """The message as an object with the attributes of its ROS type. Raises BagError for foreign types."""
        store = self._typestore_for(message.msgtype)
        try:
            return store.deserialize_cdr(message.raw, message.msgtype)
        except _DAMAGE as error:
            raise BagError(
                f"bag {self.path}: a {message.msgtype} on {message.topic} at {message.stamp_ns} ns cannot "
                f"be read ({len(message.raw)} bytes): {error or type(error).__name__}"
            ) from error

    def episode(self) -> EpisodeInfo:
        """Outcome and description: metadata.yaml first, else the marks on /episode/state."""
        custom = self._reader.storage.metadata.custom or {}
        state = json_object(custom.get(CUSTOM_KEY, ""))
        if not state and self.topics.get(EPISODE_TOPIC) == EPISODE_TYPE:
            marks = EpisodeMarks()
            for message in self.messages([EPISODE_TOPIC]):
                marks.add(str(self.deserialize(message).data))
            state = {**marks.metadata, "state": marks.outcome or "unmarked"}
        return EpisodeInfo(
            outcome=str(state.get("state", "unmarked")),
            scene={key: state[key] for key in SCENE_KEYS if isinstance(state.get(key), (str, int))},
            instruction=str(state.get("instruction") or ""),
            metadata=state,
        )

    def _typestore_for(self, msgtype: str) -> Typestore:
        if msgtype in self._store.types:
            return self._store
        if not self._own_store:
            self._store, self._own_store = get_typestore(Stores.ROS2_JAZZY), True
        for connection in self.connections:
            if connection.msgtype == msgtype:
                register_definition(self._store, connection)
        if msgtype not in self._store.types:
            raise BagError(f"bag {self.path} holds {msgtype}, and no definition of it")
        return self._store


def register_definition(store: Typestore, connection: Connection) -> None:
    """Add the message definition that a bag carries to ``store``; known types stay as they are."""
    data = connection.msgdef.data
    if connection.msgdef.format == MessageDefinitionFormat.MSG:
        found = get_types_from_msg(data, connection.msgtype)
    elif connection.msgdef.format == MessageDefinitionFormat.IDL:
        found = get_types_from_idl(data)
    else:
        return
    store.register({name: value for name, value in found.items() if name not in store.types})


def find_bags(paths: Collection[Path]) -> list[Path]:
    """Every bag at or below ``paths``, sorted. Raises BagError when a path is missing or holds none."""
    bags: set[Path] = set()
    for path in (Path(p) for p in paths):
        if not path.exists():
            raise BagError(f"{path} does not exist")
        if path.is_file() or (path / "metadata.yaml").exists():
            bags.add(path)
            continue
        found = {p.parent for pattern in ("*.mcap", "*.db3", "metadata.yaml") for p in path.rglob(pattern)}
        if not found:
            raise BagError(f"{path} holds no rosbag2 bag (a folder with metadata.yaml, or an .mcap or .db3 file)")
        bags |= found
    return sorted(bags)


def _check_path(path: Path) -> None:
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    if path.is_dir():
        if (path / "metadata.yaml").exists():
            return
        names = sorted(p.name for p in path.iterdir())
        if any(name.endswith((".mcap", ".db3")) for name in names):
            raise BagError(
                f"bag {path} has no metadata.yaml: its recorder was killed before closing it; "
                f"`python -m lavla_ros.recording.recover {path}` makes it readable"
            )
        raise BagError(f"{path} is not a rosbag2 bag: no metadata.yaml, .mcap or .db3 in it (found {names[:5]})")
    if path.suffix == ".bag":
        raise BagError(f"{path} is a ROS 1 bag; convert it first with `rosbags-convert --src {path} --dst OUT`")
    if path.suffix not in (".mcap", ".db3"):
        raise BagError(f"{path} is not a rosbag2 bag: expected a folder, .mcap or .db3")
