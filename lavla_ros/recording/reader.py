"""Read bags: ours and those of ``ros2 bag record`` (MCAP and sqlite3), with errors that name the cause."""

from __future__ import annotations

import io
import re
import sqlite3
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
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

from lavla_ros.episode import SCENE_KEYS, EpisodePhase, json_object
from lavla_ros.errors import UserError
from lavla_ros.recording.marks import MarksError, listed_episodes, marks_file, spoken_episodes
from lavla_ros.recording.types import (
    CUSTOM_KEY,
    EPISODE_TOPIC,
    EPISODE_TYPE,
    EpisodeMarks,
    MarkedEpisode,
    jazzy,
)

LABEL_FILE = "label.json"
"""Beside a bag's files: what a person says of its episode (outcome, instruction, note), and what was said before."""
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


class BagError(UserError, ValueError):
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
    """What a bag says about one episode in it."""

    outcome: str
    """succeeded, failed, discarded, interrupted, unmarked; ``unmarked`` if the bag says nothing."""
    scene: dict[str, str | int] = field(default_factory=dict)
    """Of a simulated episode: those of ``SCENE_KEYS`` that the bag has."""
    instruction: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    start_ns: int | None = None
    """Log time of its first message; None: the bag's first one."""
    end_ns: int | None = None
    """Log time of its last message; None: the bag's last one."""
    corrected_instruction: str = ""
    """What a person says the episode shows, in place of every instruction in it; empty: nothing was corrected."""
    note: str = ""
    """What a person noted."""
    said_by: str = ""
    """Who corrected or noted it."""


class BagReader:
    """Iterate one bag (a rosbag2 folder, or a bare ``.mcap`` / ``.db3``). A context manager."""

    def __init__(self, path: Path) -> None:
        """Opens the bag. Raises BagError naming the bag and the cause."""
        self.path = Path(path)
        _check_path(self.path)
        self._store = jazzy()
        self._own_store = False
        try:
            self._reader = Reader(_AnyProfilePath(self.path))
            self._reader.open()
        except _DAMAGE as error:
            raise BagError(f"bag {self.path} cannot be opened: {_told(error)}; {_advice(self.path, error)}") from error
        self._has_metadata = self.path.is_dir()
        self._match_storages()
        self.connections: tuple[Connection, ...] = tuple(self._reader.connections)
        self.types: dict[str, set[str]] = {}
        """Topic → its message types (more than one where publishers disagreed)."""
        self.counts: dict[str, int] = {}
        for connection in self.connections:
            self.types.setdefault(connection.topic, set()).add(connection.msgtype)
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

    def require_types(self, expected: Mapping[str, Collection[str]]) -> None:
        """Raise BagError for a topic of the bag whose messages are of another type, or not serialised as ROS 2 does."""
        for topic, kinds in expected.items():
            if not self.counts.get(topic, 0):
                continue
            foreign = sorted(self.types.get(topic, set()) - set(kinds))
            if foreign:
                raise BagError(
                    f"bag {self.path}: {topic} holds {' and '.join(foreign)}; expected {' or '.join(sorted(kinds))}. "
                    "Name another topic in the contract, or say this one and its type in a piece (docs/bags.md)"
                )
            for connection in self.connections:
                encoding = getattr(connection.ext, "serialization_format", "cdr")
                if connection.topic == topic and encoding != "cdr":
                    raise BagError(f"bag {self.path}: {topic} is serialised as {encoding!r}; ROS 2's cdr is read")

    def messages(
        self, topics: Collection[str] | None = None, *, start_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Messages of ``topics`` (default: all), logged from ``start_ns`` to ``end_ns``, in log-time order.

        Raises BagError if the file is damaged, or holds fewer messages than metadata.yaml counts.
        """
        chosen = [c for c in self.connections if topics is None or c.topic in topics]
        if not chosen:
            return
        count = 0
        stop_ns = None if end_ns is None else end_ns + 1
        try:
            for connection, stamp_ns, raw in self._reader.messages(chosen, start_ns, stop_ns):
                yield BagMessage(topic=connection.topic, msgtype=connection.msgtype, stamp_ns=stamp_ns, raw=raw)
                count += 1
        except GeneratorExit:
            raise
        except _DAMAGE as error:
            raise BagError(
                f"bag {self.path} is damaged after {count} messages: {_told(error)}; "
                f"`lavla recover {self.path}` rescues what is whole"
            ) from error
        counted = sum(connection.msgcount for connection in chosen)
        if self._has_metadata and start_ns is None and end_ns is None and count < counted:
            names = sorted({connection.topic for connection in chosen})
            raise BagError(
                f"bag {self.path} holds {count} messages on {names}, but metadata.yaml counts {counted}: it was "
                f"edited, or a file is damaged; `lavla recover {self.path}` makes a bag of what the files hold"
            )

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

    def episodes(self, marks_topic: str = "") -> list[EpisodeInfo]:
        """The episodes in the bag, in order: as a file beside it lists them, or those on ``marks_topic``, or the one
        that metadata.yaml tells of, or as /episode/state marks them.

        A bag that says nothing of episodes is one, ``unmarked``. What lies outside of marks belongs to none. What a
        person has said of a bag's only episode since (``LABEL_FILE``) counts before what it says itself. Raises
        BagError for marks that overlap or are none.
        """
        found = self._marked_episodes(marks_topic)
        return [_labelled(found[0], self.path / LABEL_FILE)] if len(found) == 1 and self._has_metadata else found

    @property
    def duration_s(self) -> float:
        """Between the first and the last message."""
        return float(self._reader.duration) / 1e9

    def _marked_episodes(self, marks_topic: str) -> list[EpisodeInfo]:
        custom = self._reader.storage.metadata.custom or {}
        state = json_object(custom.get(CUSTOM_KEY, ""))
        if found := self._others_marks(marks_topic):
            return [_episode({**state, **e.metadata, "state": e.outcome}, e.start_ns, e.end_ns) for e in found]
        if not state and self.types.get(EPISODE_TOPIC) == {EPISODE_TYPE}:
            marks = EpisodeMarks()
            for message in self.messages([EPISODE_TOPIC]):
                marks.add(str(self.deserialize(message).data), message.stamp_ns)
            marked = marks.episodes()
            if marked:
                return [_episode({**e.metadata, "state": e.outcome}, e.start_ns, e.end_ns) for e in marked]
        return [_episode(state)]

    def _others_marks(self, topic: str) -> list[MarkedEpisode]:
        file = marks_file(self.path)
        try:
            if file.exists():
                return listed_episodes(file, self._reader.start_time, self._reader.end_time)
            if not topic:
                return []
            self.require_topics([topic])
            self.require_types({topic: (EPISODE_TYPE, "std_msgs/msg/Bool")})
            said = [(message.stamp_ns, self.deserialize(message).data) for message in self.messages([topic])]
            if not (found := spoken_episodes(topic, said)):
                raise MarksError(f"no episode begins on {topic}, which has {len(said)} messages")
            return found
        except MarksError as error:
            raise BagError(f"bag {self.path}: {error}") from None

    def episode(self) -> EpisodeInfo:
        """The only episode in the bag. Raises BagError if there are several."""
        found = self.episodes()
        if len(found) > 1:
            raise BagError(f"bag {self.path} holds {len(found)} episodes; expected one")
        return found[0]

    def _match_storages(self) -> None:
        """Let the storage files' connections be those of metadata.yaml with the same topic and type.

        rosbags also asks for the same QoS and type hash, which differ if a bag was edited or written by another
        version, and leaves out what does not match.
        """
        for storage in getattr(self._reader.storage, "storages", ()):
            for i, theirs in enumerate(storage.connections):
                same = (c for c in self._reader.connections if (c.topic, c.msgtype) == (theirs.topic, theirs.msgtype))
                if (ours := next(same, None)) is not None:
                    storage.connections[i] = theirs._replace(ext=ours.ext, digest=ours.digest)

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
    """Every bag at or below ``paths``, sorted, none twice. Raises BagError when a path is missing or holds none.

    A bag is a folder with metadata.yaml; or one without it whose storage files have the folder's name, as a killed
    recorder leaves it; or a storage file with a name of its own.
    """
    bags: dict[Path, Path] = {}
    for path in (Path(p) for p in paths):
        if not path.exists():
            raise BagError(f"{path} does not exist")
        found = {path} if path.is_file() else _bags_below(path)
        if not found:
            raise BagError(f"{path} holds no rosbag2 bag (a folder with metadata.yaml, or an .mcap or .db3 file)")
        for bag in found:
            bags.setdefault(bag.resolve(), bag)
    return sorted(bag for real, bag in bags.items() if real.parent not in bags)  # a bag's own file is not another bag


def _bags_below(folder: Path) -> set[Path]:
    patterns = ("metadata.yaml", "*.mcap", "*.db3", "*.mcap.zstd", "*.db3.zstd")
    folders = {p.parent for pattern in patterns for p in folder.rglob(pattern)}
    found: set[Path] = set()
    for place in folders:
        if any(part.startswith(".") for part in place.relative_to(folder).parts):
            continue  # half-made
        if (place / "metadata.yaml").exists():
            found.add(place)
            continue
        files = storage_files(place)
        own = {file for file in files if not _is_part(file) and file.suffix != ".zstd"}
        found |= own if own else {place}
        if own and len(own) < len(files):
            found.add(place)
    return found


def storage_files(folder: Path) -> list[Path]:
    """Storage files directly in ``folder``, in the order of their numbers."""
    files = [p for p in folder.iterdir() if p.is_file() and _STORAGE.search(p.name)]
    return sorted(files, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])


_STORAGE = re.compile(r"\.(mcap|db3)(\.zstd)?$")


def _is_part(file: Path) -> bool:
    """Whether the name is one that a recorder gives to a file of the bag ``file.parent``."""
    return re.fullmatch(re.escape(file.resolve().parent.name) + r"(_\d+)?", _STORAGE.sub("", file.name)) is not None


def _check_path(path: Path) -> None:
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    if path.is_dir():
        if (path / "metadata.yaml").exists():
            return
        files = storage_files(path)
        if files and not any(map(_is_part, files)):
            raise BagError(f"{path} has no metadata.yaml and holds bags of their own: {[p.name for p in files][:5]}")
        if files:
            raise BagError(
                f"bag {path} has no metadata.yaml: its recorder was killed before closing it; "
                f"`lavla recover {path}` makes it readable"
            )
        names = sorted(p.name for p in path.iterdir())
        raise BagError(f"{path} is not a rosbag2 bag: no metadata.yaml, .mcap or .db3 in it (found {names[:5]})")
    if path.suffix == ".bag":
        raise BagError(f"{path} is a ROS 1 bag; convert it first with `rosbags-convert --src {path} --dst OUT`")
    if path.suffix not in (".mcap", ".db3"):
        raise BagError(f"{path} is not a rosbag2 bag: expected a folder, .mcap or .db3")


def _episode(state: dict[str, Any], start_ns: int | None = None, end_ns: int | None = None) -> EpisodeInfo:
    return EpisodeInfo(
        outcome=str(state.get("state", EpisodePhase.UNMARKED)),
        scene={key: state[key] for key in SCENE_KEYS if isinstance(state.get(key), (str, int))},
        instruction=str(state.get("instruction") or ""),
        metadata=state,
        start_ns=start_ns,
        end_ns=end_ns,
    )


def _labelled(episode: EpisodeInfo, file: Path) -> EpisodeInfo:
    """With what a person has said since; raises BagError if that cannot be read, for it would be lost."""
    if not file.exists():
        return episode
    label = json_object(file.read_text(encoding="utf-8", errors="replace"))
    if not label:
        raise BagError(f"{file} is no JSON object; restore it, or remove it to have what the bag itself says")
    instruction = str(label.get("instruction") or "")
    return replace(
        episode,
        outcome=str(label.get("outcome") or episode.outcome),
        instruction=instruction or episode.instruction,
        corrected_instruction=instruction,
        note=str(label.get("note") or ""),
        said_by=str(label.get("by") or ""),
    )


def _told(error: BaseException) -> str:
    """The error's text in one line."""
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__


def _advice(path: Path, error: BaseException) -> str:
    """What helps with a bag that cannot be opened: rescuing it, if that is possible."""
    text = str(error)
    if "Rosbag2 version" in text:
        return "it was written by a newer ROS 2 than this rosbags package knows: update it"
    if "Profile is not" in text:
        return "it is an MCAP file, but no recording of ROS 2"
    if isinstance(error, KeyError) or "Serialization format" in text:
        return "only messages serialised as ROS 2 does it (cdr) are read"
    if "Storage plugin" in text or "Compression format" in text:
        return "sqlite3 and mcap are read, compressed with zstd: record or convert it that way (`ros2 bag convert`)"
    if "files are missing" in text:
        there = path.is_dir() and storage_files(path)
        others = f", or `lavla recover {path}` makes a bag of the files that are there" if there else ""
        return f"copy them there{others}"
    return f"if its recorder was killed, or it was cut off, `lavla recover {path}` rescues what is whole"


class _AnyProfilePath(type(Path())):  # type: ignore[misc]  # before Python 3.12 Path itself cannot be derived from
    """A path whose MCAP files also open where they claim no profile, as some writers of ROS 2 messages leave them."""

    def open(self, mode: str = "r", *args: Any, **options: Any) -> Any:
        if self.suffix == ".mcap" and mode == "rb":
            return _AnyProfileFile(io.FileIO(self))
        return super().open(mode, *args, **options)


_HEADER = 17
"""Where the header's fields begin: after the magic, its opcode and its length."""


class _AnyProfileFile(io.BufferedReader):
    """An MCAP file that says ``ros2`` where its header has no profile; the header's size stays as it is."""

    def read(self, size: int | None = -1, /) -> bytes:
        at_header = self.tell() == _HEADER
        data = super().read(size)
        if at_header and data[:4] == bytes(4) and len(data) >= 8:
            return b"\4\0\0\0ros2" + data[8:]
        return data
