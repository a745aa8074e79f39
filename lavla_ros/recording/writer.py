"""Record episodes: raw serialised messages in, one rosbag2 MCAP directory per episode out.

A background thread pushes what was written to the file every ``flush_interval_s``, so that a killed
process loses less than a second (``lavla recover`` makes such a bag readable). The file reaches the
operating system, not necessarily the disk: a power failure can cost more.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.storage_mcap import McapWriter

from lavla_ros.episode import RECORDER, EpisodePhase, EpisodeState
from lavla_ros.errors import UserError
from lavla_ros.recording.types import CUSTOM_KEY, EPISODE_TOPIC, EPISODE_TYPE, OUTCOMES, jazzy, string_cdr

_COUNTER_FILE = ".next_episode"
_NAME = re.compile(r"episode_(\d{6,})(?:_recovered)?")


class RecordingError(UserError, RuntimeError):
    """Recording cannot start or go on. What reached the file so far stays there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSummary:
    """What one closed episode holds."""

    path: Path
    episode: int
    outcome: EpisodePhase
    messages: dict[str, int]
    """Topic → number of messages."""
    duration_s: float
    """Between the first and the last stamp."""
    size_bytes: int

    def __str__(self) -> str:
        total, size_mb = sum(self.messages.values()), self.size_bytes * 1e-6
        return f"{self.path}: {self.outcome}, {self.duration_s:.1f} s, {total} messages, {size_mb:.1f} MB"


class EpisodeRecorder:
    """Write episodes below ``root``, numbered without reuse; thread-safe.

    ``topics`` maps topic → message type (``sensor_msgs/msg/Image``). ``/episode/state`` is always
    there: start, outcome and metadata are written to it, and to metadata.yaml.
    """

    def __init__(
        self,
        root: Path,
        topics: Mapping[str, str],
        *,
        flush_interval_s: float = 0.25,
        min_free_bytes: int = 256 * 2**20,
    ) -> None:
        """Raises RecordingError for a message type that ROS 2 Jazzy's standard messages lack."""
        if not 0 < flush_interval_s <= 1:
            raise RecordingError(f"flush_interval_s is {flush_interval_s}; expected (0, 1] s")
        self.root = Path(root)
        self.topics = {**topics, EPISODE_TOPIC: EPISODE_TYPE}
        unknown = {topic: kind for topic, kind in self.topics.items() if kind not in jazzy().types}
        if unknown:
            raise RecordingError(
                f"cannot record {unknown}: not among the standard messages of ROS 2 Jazzy "
                "(write the type as package/msg/Name)"
            )
        self._flush_interval_s = flush_interval_s
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._connections: dict[str, Connection] = {}
        self._counts: Counter[str] = Counter()
        self._metadata: dict[str, Any] = {}
        self._episode = -1
        self._path = self.root
        self._first_ns: int | None = None
        self._last_ns = 0
        self._dirty = False
        self._error: RecordingError | None = None
        self._stop_flushing = threading.Event()
        self._flusher: threading.Thread | None = None

    @property
    def recording(self) -> bool:
        """Whether an episode is open."""
        return self._writer is not None

    @property
    def path(self) -> Path | None:
        """Folder of the open episode."""
        return self._path if self.recording else None

    def start(self, metadata: Mapping[str, Any] | None = None, *, stamp_ns: int | None = None) -> Path:
        """Open the next episode. ``metadata`` (JSON-ready: task, seed, instruction, …) goes into the bag.

        With ``stamp_ns`` a ``running`` message is written to /episode/state. Raises RecordingError when an
        episode is open, the folder cannot be written, or less than ``min_free_bytes`` are free.
        """
        with self._lock:
            if self._writer is not None:
                raise RecordingError(f"{self._path.name} is still open; stop or discard it first")
            self._metadata = json.loads(json.dumps(dict(metadata or {})))
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                free = shutil.disk_usage(self.root).free
                if free < self._min_free_bytes:
                    raise RecordingError(
                        f"only {free / 2**20:.0f} MiB are free below {self.root}; recording needs "
                        f"{self._min_free_bytes / 2**20:.0f} MiB: free space or choose another folder"
                    )
                writer = self._open_next()
            except OSError as error:
                raise RecordingError(f"cannot record below {self.root}: {error.strerror or error}") from error
            self._writer = writer
            store = jazzy()
            self._connections = {
                topic: writer.add_connection(topic, kind, typestore=store) for topic, kind in self.topics.items()
            }
            self._counts = Counter()
            self._first_ns, self._last_ns, self._dirty, self._error = None, 0, True, None
            if stamp_ns is not None:
                self._write(EPISODE_TOPIC, string_cdr(self._state(EpisodePhase.RUNNING)), stamp_ns)
        self._stop_flushing.clear()
        self._flusher = threading.Thread(target=self._flush_loop, name="episode-flush", daemon=True)
        self._flusher.start()
        return self._path

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """Add to the open episode's metadata, or correct it; does nothing without one."""
        with self._lock:
            if self._writer is not None:
                self._metadata |= json.loads(json.dumps(dict(metadata)))

    def write(self, topic: str, raw_cdr: bytes, stamp_ns: int) -> bool:
        """Append one serialised message with its log time. False when no episode is open.

        Raises RecordingError for an unknown topic, and when the disk is full or the file failed (then
        the episode is closed as it is on disk).
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._writer is None:
                return False
            if topic not in self._connections:
                raise RecordingError(f"topic {topic!r} is not recorded; known: {sorted(self._connections)}")
            self._write(topic, raw_cdr, stamp_ns)
            return True

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        with self._lock:
            self._flush()

    def stop(self, outcome: str = EpisodePhase.UNMARKED, *, stamp_ns: int | None = None) -> EpisodeSummary:
        """Mark and close the open episode. ``stamp_ns`` of the final message defaults to the last one."""
        if outcome not in OUTCOMES:
            raise RecordingError(f"outcome is {outcome!r}; expected one of {[*map(str, OUTCOMES)]}")
        phase = EpisodePhase(outcome)
        self._end_flushing()
        with self._lock:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            writer = self._require_open()
            last_ns = self._last_ns if stamp_ns is None else stamp_ns
            self._write(EPISODE_TOPIC, string_cdr(self._state(phase)), last_ns)
            writer.set_custom_data(CUSTOM_KEY, self._state(phase))
            try:
                writer.close()
            except OSError as error:
                raise self._failed(error) from error
            self._writer = None
            return EpisodeSummary(
                path=self._path,
                episode=self._episode,
                outcome=phase,
                messages=dict(self._counts),
                duration_s=(self._last_ns - (self._first_ns or self._last_ns)) / 1e9,
                size_bytes=sum(file.stat().st_size for file in self._path.iterdir()),
            )

    def discard(self) -> Path:
        """Close the open episode and remove it; its number is not used again. Returns the removed folder."""
        self._end_flushing()
        with self._lock:
            self._error = None
            if self._writer is not None:
                self._writer.abort()
                self._writer = None
            elif not self._path.is_dir() or self._path == self.root:
                raise RecordingError("no episode is open; nothing to discard")
            shutil.rmtree(self._path)
            return self._path

    # ------------------------------------------------------------------ inside

    def _state(self, phase: EpisodePhase) -> str:
        return EpisodeState(RECORDER, phase, {**self._metadata, "episode": self._episode}).to_json()

    def _open_next(self) -> Writer:
        """Take the next free number: above every one that was ever given out below root."""
        counter = self.root / _COUNTER_FILE
        used = [int(match[1]) for p in self.root.iterdir() if (match := _NAME.fullmatch(p.name))]
        text = counter.read_text(encoding="utf-8").strip() if counter.exists() else "0"
        number = max([int(text) if text.isdigit() else 0, *(n + 1 for n in used)])
        while True:
            path = self.root / f"episode_{number:06d}"
            writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) if not path.exists() else None
            if writer is not None:
                try:
                    writer.open()
                    break
                except WriterError:  # another recorder took it in this instant
                    writer = None
            number += 1
        temporary = counter.with_suffix(f".{os.getpid()}")
        temporary.write_text(f"{number + 1}\n", encoding="utf-8")
        temporary.replace(counter)
        self._episode, self._path = number, path
        return writer

    def _require_open(self) -> Writer:
        if self._writer is None:
            raise RecordingError("no episode is open; start one first")
        return self._writer

    def _write(self, topic: str, raw: bytes, stamp_ns: int) -> None:
        writer = self._require_open()
        try:
            writer.write(self._connections[topic], stamp_ns, raw)
        except OSError as error:
            raise self._failed(error) from error
        self._counts[topic] += 1
        self._first_ns = stamp_ns if self._first_ns is None else min(self._first_ns, stamp_ns)
        self._last_ns = max(self._last_ns, stamp_ns)
        self._dirty = True

    def _flush(self) -> None:
        if self._writer is None or not self._dirty:
            return
        storage = self._writer.storage
        if not isinstance(storage, McapWriter):
            raise RecordingError(f"the bag's storage is {type(storage).__name__}; expected MCAP")
        try:
            if storage.chunk.bio.tell():
                storage.close_chunk()  # chunks are what a reader finds again in a file without an end
            storage.bio.flush()
        except OSError as error:
            raise self._failed(error) from error
        self._dirty = False

    def _failed(self, error: OSError) -> RecordingError:
        """The file cannot be written any more: let go of it, keep what is there, remember why."""
        failure = RecordingError(
            f"recording {self._path} failed: {error.strerror or error}; what was written before stays there and "
            f"`lavla recover {self._path}` makes it readable"
        )
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.abort()
            except OSError as second:  # closing flushes once more and fails for the same reason
                failure.add_note(f"closing failed too: {second}")
        self._error = failure
        return failure

    def _flush_loop(self) -> None:
        while not self._stop_flushing.wait(self._flush_interval_s):
            with self._lock:
                try:
                    self._flush()
                except RecordingError:  # kept in _error: the next write or stop raises it
                    return

    def _end_flushing(self) -> None:
        self._stop_flushing.set()
        if self._flusher is not None:
            self._flusher.join()
            self._flusher = None
