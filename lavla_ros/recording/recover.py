"""Make a readable bag from one whose recorder was killed, or that was cut off (``lavla recover``).

Everything is copied as it was serialised, with the message definitions that are there: types that are unknown here
stay readable for programs that know them. The original stays as it is, and nothing half-made is left behind.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from backports import zstd
from mcap.exceptions import McapError
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from zstandard import ZstdError

from lavla_ros.episode import EpisodePhase
from lavla_ros.outputs import new_folder
from lavla_ros.recording.reader import BagError, BagReader, storage_files
from lavla_ros.recording.types import CUSTOM_KEY, EPISODE_TOPIC, EPISODE_TYPE, EpisodeMarks, jazzy


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """What came out of a killed bag."""

    source: Path
    path: Path
    """The readable bag."""
    messages: dict[str, int]
    """Topic → messages recovered."""
    outcome: str
    """The episode's mark if it was written, ``interrupted`` for one that began, ``unmarked`` without any mark."""
    damage: str
    """What was not whole and where; empty when the files were whole up to their ends."""

    def __str__(self) -> str:
        total = sum(self.messages.values())
        lines = [f"{self.path}: {total} messages recovered from {self.source}, outcome {self.outcome}"]
        lines += [f"  {count:7d}  {topic}" for topic, count in sorted(self.messages.items())]
        return "\n".join([*lines, *([f"  damage: {self.damage}"] if self.damage else [])])


# what a torn record, chunk or compressed block raises (lz4: RuntimeError)
_TORN = (McapError, struct.error, ZstdError, zstd.ZstdError, EOFError, ValueError, KeyError, RuntimeError, OSError)
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""Begins a message that rosbag2 compressed; no CDR message begins so."""


class _Record(NamedTuple):
    topic: str
    msgtype: str
    definition: str
    """Of the type, as the file has it; may be empty."""
    digest: str
    stamp_ns: int
    raw: bytes


def recover_bag(path: Path, out: Path | None = None) -> RecoveryReport:
    """Copy every whole message of ``path`` (bag folder or storage file) into a new bag ``out``.

    ``out`` defaults to ``<name>_recovered`` beside it. Raises BagError when the bag is whole, when there is nothing to
    recover, or when the storage is not rosbag2; OutputError when ``out`` exists or is being written.
    """
    path = Path(path)
    files = _files(path)
    target = Path(out) if out is not None else path.with_name(f"{path.name if path.is_dir() else path.stem}_recovered")
    with new_folder(target) as made:
        if _is_whole(path):
            raise BagError(f"{path} is whole: every message that it counts can be read, so there is nothing to recover")
        return _copy(path, files, made, target)


def _is_whole(path: Path) -> bool:
    try:
        with BagReader(path) as reader:
            for _ in reader.messages():
                pass
    except BagError:
        return False
    return True


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise BagError(f"{path} does not exist")
    files = storage_files(path) if path.is_dir() else [p for p in storage_files(path.parent) if p.name == path.name]
    if not files:
        raise BagError(f"{path} holds no .mcap or .db3 file: not a rosbag2 bag")
    return files


def _copy(path: Path, files: list[Path], made: Path, target: Path) -> RecoveryReport:
    """Write the bag ``made`` of all that can be read; raises BagError when that is nothing."""
    damage: list[str] = []
    connections: dict[tuple[str, str], Connection] = {}
    counts: Counter[str] = Counter()
    marks = EpisodeMarks()
    writer = Writer(made, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.open()
    try:
        for file in files:
            for record in _read(file, damage):
                key = (record.topic, record.msgtype)
                if key not in connections:
                    connections[key] = _connect(writer, record)
                raw = zstd.decompress(record.raw) if record.raw[:4] == _ZSTD_MAGIC else record.raw
                writer.write(connections[key], record.stamp_ns, raw)
                counts[record.topic] += 1
                if key == (EPISODE_TOPIC, EPISODE_TYPE):
                    text: Any = jazzy().deserialize_cdr(raw, EPISODE_TYPE)
                    marks.add(str(text.data), record.stamp_ns)
        if not counts:
            raise BagError(f"{path} holds no whole message: nothing to recover ({'; '.join(damage) or 'empty'})")
    except BaseException:
        writer.abort()
        raise
    outcome = marks.outcome or (EpisodePhase.INTERRUPTED if marks.begun else EpisodePhase.UNMARKED)
    if marks.begun and len(marks.episodes()) == 1:  # of several, their own marks tell
        writer.set_custom_data(CUSTOM_KEY, json.dumps({**marks.metadata, "state": outcome, "recovered": True}))
    writer.close()
    return RecoveryReport(source=path, path=target, messages=dict(counts), outcome=outcome, damage="; ".join(damage))


def _connect(writer: Writer, record: _Record) -> Connection:
    """The file's own definition, which knows also what this machine does not; else that of the standard messages."""
    store = jazzy()
    if record.msgtype in store.types:
        definition, _ = store.generate_msgdef(record.msgtype, ros_version=2)
        if record.definition in ("", definition):
            return writer.add_connection(record.topic, record.msgtype, typestore=store)
    known = record.digest or "unknown"
    connection = writer.add_connection(record.topic, record.msgtype, msgdef=record.definition, rihs01=known)
    if not record.digest:  # the writer wants one, readers take none for any
        connection = connection._replace(digest="")
        writer.connections[-1] = connection
    return connection


def _read(file: Path, damage: list[str]) -> Iterator[_Record]:
    """Whole messages of a storage file; what is not whole goes into ``damage``."""
    with tempfile.TemporaryDirectory() as folder:
        readable = _decompressed(file, Path(folder), damage) if file.suffix == ".zstd" else file
        records = _read_mcap(readable, damage) if readable.suffix == ".mcap" else _read_sqlite(readable, damage)
        try:
            yield from records
        except zstd.ZstdError as error:
            damage.append(f"{file.name}: {error}")


def _decompressed(file: Path, folder: Path, damage: list[str]) -> Path:
    """A file that rosbag2 compressed as a whole, as far as it goes."""
    plain = folder / file.stem
    with zstd.open(file, "rb") as source, plain.open("wb") as copy:
        try:
            shutil.copyfileobj(source, copy)
        except (EOFError, OSError, zstd.ZstdError) as error:
            damage.append(f"{file.name}: {error}")
    return plain


def _read_mcap(file: Path, damage: list[str]) -> Iterator[_Record]:
    """Whole messages of an MCAP file up to its end or its first torn record."""
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    foreign: set[str] = set()
    with file.open("rb") as stream:
        try:
            for record in StreamReader(stream, record_size_limit=file.stat().st_size).records:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, Message) and record.channel_id in channels:
                    channel = channels[record.channel_id]
                    schema = schemas.get(channel.schema_id)
                    if channel.message_encoding != "cdr" or schema is None:
                        foreign.add(f"{channel.topic} ({channel.message_encoding or 'no encoding'})")
                        continue
                    digest = channel.metadata.get("topic_type_hash", "")
                    text = schema.data.decode("utf-8", "replace")
                    yield _Record(channel.topic, schema.name, text, digest, record.log_time, record.data)
        except _TORN as error:
            damage.append(f"{file.name} at byte {stream.tell()}: {type(error).__name__} {error}".rstrip())
    _leave_out(foreign, file.name, damage)


def _read_sqlite(file: Path, damage: list[str]) -> Iterator[_Record]:
    """Messages of an sqlite file in the order of their recording; torn ones are stepped over."""
    with tempfile.TemporaryDirectory() as folder:
        # a copy: what waits in a journal beside it is taken in when it is opened, which writes
        copy = Path(folder) / file.name
        for source in (file, *(file.with_name(file.name + end) for end in ("-wal", "-journal"))):
            if source.exists():
                shutil.copyfile(source, copy.with_name(source.name))
        _drop_torn_page(copy)
        database = sqlite3.connect(copy)
        try:
            # sqlite refuses a file that is shorter than its header says, unless one sets out to mend it
            database.execute("PRAGMA writable_schema = ON")
            topics = _topics(database, file.name, damage)
            yield from _rows(database, topics, file.name, damage)
        except sqlite3.Error as error:
            damage.append(f"{file.name}: {error}")
        finally:
            database.close()


def _drop_torn_page(file: Path) -> None:
    """A last page that is there in part would be read as one that ends in zeros."""
    with file.open("r+b") as data:
        size = int.from_bytes(data.read(18)[16:], "big")
        page = 65536 if size == 1 else size
        if page >= 512:
            data.truncate(file.stat().st_size // page * page)


def _topics(database: sqlite3.Connection, file: str, damage: list[str]) -> dict[int, tuple[str, str, str, str]]:
    """Topic id → name, type, definition, hash of the type; the latter two are empty in files before ROS 2 Iron."""
    columns = {row[1] for row in database.execute("PRAGMA table_info(topics)")}
    digest = "type_description_hash" if "type_description_hash" in columns else "''"
    definitions: dict[str, str] = {}
    if database.execute("PRAGMA table_info(message_definitions)").fetchall():
        query = "SELECT topic_type, encoded_message_definition FROM message_definitions"
        definitions = {str(kind): str(text) for kind, text in database.execute(query)}
    found = database.execute(f"SELECT id, name, type, {digest}, serialization_format FROM topics").fetchall()
    _leave_out({f"{name} ({encoding})" for _, name, _, _, encoding in found if encoding != "cdr"}, file, damage)
    return {
        int(i): (str(name), str(kind), definitions.get(str(kind), ""), str(digest_))
        for i, name, kind, digest_, encoding in found
        if encoding == "cdr"
    }


def _leave_out(foreign: set[str], file: str, damage: list[str]) -> None:
    if foreign:
        damage.append(f"{file}: left out, not serialised as ROS 2 does it: {', '.join(sorted(foreign))}")


def _rows(
    database: sqlite3.Connection, topics: dict[int, tuple[str, str, str, str]], name: str, damage: list[str]
) -> Iterator[_Record]:
    last, step, lost = 0, 1, ""
    while step <= 1 << 40:  # past the largest number that a recording reaches
        query = "SELECT id, topic_id, timestamp, data FROM messages NOT INDEXED WHERE id >= ? ORDER BY id"
        try:
            for number, topic, stamp_ns, raw in database.execute(query, (last + step,)):
                if number < last + step or not isinstance(raw, bytes):
                    raise sqlite3.DatabaseError(f"a damaged page holds message {number}")
                last, step = int(number), 1
                if topic in topics:
                    yield _Record(*topics[topic], int(stamp_ns), raw)
            break
        except sqlite3.Error as error:
            lost = f"{name} after message {last}: {error}"
            step *= 2
    if lost:
        damage.append(lost)
