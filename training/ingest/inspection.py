"""What a bag holds, without a contract: topics, rates, pictures, joints, clocks and episodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lavla_ros.observation import ImageError, decode_image
from lavla_ros.observation.images import check_image
from lavla_ros.pieces import JOINTS, TRAJECTORY
from lavla_ros.recording import BagReader, EpisodeInfo
from lavla_ros.recording.stream_stats import raw_stamp_ns
from lavla_ros.recording.types import jazzy
from lavla_ros.typing import NS_PER_S
from training.ingest.diagnosis import Clocks

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
ARRAYS = tuple(f"std_msgs/msg/{kind}" for kind in ("Float64MultiArray", "Float32MultiArray", "Float64", "Float32"))

_HEADER_BYTES = 12
"""Byte order (4), seconds (4) and nanoseconds (4), with which a message with a header begins."""
_OTHER_CLOCK_MS = 1e3
_APART_MS = 50.0
"""Two streams whose delays differ by more are to be looked at: it is a contract's usual tolerance."""
_LOST = 3.0
"""A gap of more periods than this is to be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What the first message of a camera shows."""

    encoding: str
    """That of the message; of a compressed one its format."""
    width: int
    """Pixels; 0 if it cannot be decoded."""
    height: int
    problem: str
    """Why it is no colour picture that can be converted; empty if it is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joints:
    """What the messages of a JointState or JointTrajectory topic name; the numbers of an array have their places as
    names."""

    names: tuple[str, ...]
    """Every name, in the order of the first appearance."""
    low: tuple[float | None, ...]
    """Smallest position of each name; None for one without positions."""
    high: tuple[float | None, ...]
    partial: bool
    """Whether some messages lack some of the names."""
    velocity: bool
    effort: bool
    points: int
    """Most points of a trajectory; 1 for others."""
    groups: tuple[tuple[str, ...], ...] = ()
    """Every set of names that came in one message, in the order of the first appearance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic of a bag."""

    name: str
    types: tuple[str, ...]
    count: int
    clock: str
    """What the rate is measured by: ``header``, or ``log`` if there is no stamp."""
    rate_hz: float | None
    """One over the median interval; None for fewer than two messages."""
    largest_gap_s: float | None
    delay_ms: float | None
    """Median of log time minus stamp; None without stamps."""
    unstamped: int
    """Messages whose stamp is 0."""
    backward: int
    """Stamps that are before the one that was logged before them."""
    pictures: Pictures | None
    joints: Joints | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BagFacts:
    """What a bag holds."""

    bag: str
    duration_s: float
    """From the first log time to the last."""
    messages: int
    topics: tuple[Topic, ...]
    episodes: tuple[EpisodeInfo, ...]
    findings: tuple[str, ...]
    """What looks wrong, a sentence each."""


def inspect_bag(path: Path) -> BagFacts:
    """Read every message of a bag once; of pictures only the first is decoded. Raises BagError."""
    clocks = Clocks()
    with BagReader(path) as reader:
        streams = {topic: _Stream(reader, topic) for topic in sorted(reader.types)}
        for message in reader.messages():
            stream = streams[message.topic]
            stream.add(message)
            if stream.stamped:
                clocks.add(message.topic, raw_stamp_ns(message.raw), message.stamp_ns)
        delays = clocks.delay_ms()
        topics = tuple(stream.facts(delays.get(topic)) for topic, stream in streams.items())
        logged = [at for stream in streams.values() for at in stream.logged_ns]
        return BagFacts(
            bag=str(path),
            duration_s=(max(logged) - min(logged)) / NS_PER_S if logged else 0.0,
            messages=len(logged),
            topics=topics,
            episodes=tuple(reader.episodes()),
            findings=tuple(_findings(topics)),
        )


class _Stream:
    """Collects what the messages of one topic say."""

    def __init__(self, reader: BagReader, topic: str) -> None:
        self.types = tuple(sorted(reader.types[topic]))
        self.logged_ns: list[int] = []
        self.stamped = False
        """Whether the newest message carries a header."""
        self._reader, self._topic = reader, topic
        self._headed = all(_begins_with_header(kind) for kind in self.types)
        self._stamps_ns: list[int] = []
        self._unstamped = 0
        self._pictures: Pictures | None = None
        self._ranges: dict[str, tuple[float, float]] = {}
        self._fewest = self._points = 0
        self._groups: dict[frozenset[str], tuple[str, ...]] = {}
        self._velocity = self._effort = False

    def add(self, message: Any) -> None:
        self.logged_ns.append(message.stamp_ns)
        self.stamped = self._headed and len(message.raw) >= _HEADER_BYTES
        if self.stamped:
            stamp = raw_stamp_ns(message.raw)
            self._unstamped += stamp == 0
            self._stamps_ns.append(stamp)
        if message.msgtype in (IMAGE, COMPRESSED):
            if self._pictures is None:
                self._pictures = _look(self._reader.deserialize(message))
        elif message.msgtype in (JOINTS, TRAJECTORY):
            self._add_joints(self._reader.deserialize(message))
        elif message.msgtype in ARRAYS:
            numbers = np.atleast_1d(self._reader.deserialize(message).data)
            self._add_numbers([str(i) for i in range(len(numbers))], [numbers])

    def _add_joints(self, data: Any) -> None:
        is_state = hasattr(data, "name")
        names = list(data.name if is_state else data.joint_names)
        rows = [data.position] if is_state else [point.positions for point in data.points]
        first = data if is_state else next(iter(data.points), None)
        self._velocity |= len(getattr(first, "velocity" if is_state else "velocities", ())) > 0
        self._effort |= len(getattr(first, "effort", ())) > 0
        self._add_numbers(names, rows)

    def _add_numbers(self, names: list[str], rows: list[Any]) -> None:
        self._points = max(self._points, len(rows))
        self._groups.setdefault(frozenset(names), tuple(names))
        self._fewest = min(self._fewest, len(names)) if self._ranges else len(names)
        for name in names:
            self._ranges.setdefault(name, (np.nan, np.nan))
        for row in rows:
            for name, value in zip(names, map(float, row), strict=False):
                low, high = self._ranges[name]
                self._ranges[name] = (float(np.fmin(low, value)), float(np.fmax(high, value)))

    def facts(self, delay_ms: float | None) -> Topic:
        by_header = bool(self._stamps_ns) and not self._unstamped
        times = np.array(self._stamps_ns if by_header else self.logged_ns, np.int64)
        steps = np.diff(times)
        forward = steps[steps > 0]
        joints = Joints(
            names=tuple(self._ranges),
            low=tuple(None if np.isnan(low) else low for low, _ in self._ranges.values()),
            high=tuple(None if np.isnan(high) else high for _, high in self._ranges.values()),
            partial=self._fewest < len(self._ranges),
            velocity=self._velocity,
            effort=self._effort,
            points=self._points,
            groups=tuple(self._groups.values()),
        )
        return Topic(
            name=self._topic,
            types=self.types,
            count=len(self.logged_ns),
            clock="header" if by_header else "log",
            rate_hz=round(NS_PER_S / float(np.median(forward)), 3) if len(forward) else None,
            largest_gap_s=round(float(forward.max()) / NS_PER_S, 6) if len(forward) else None,
            delay_ms=delay_ms,
            unstamped=self._unstamped,
            backward=int((steps < 0).sum()) if by_header else 0,
            pictures=self._pictures,
            joints=joints if self._ranges else None,
        )


def _begins_with_header(kind: str) -> bool:
    definition = jazzy().fielddefs.get(kind)
    return definition is not None and bool(definition[1]) and definition[1][0][1][1] == "std_msgs/msg/Header"


def _look(data: Any) -> Pictures:
    compressed = hasattr(data, "format")
    encoding, problem = str(data.format if compressed else data.encoding), ""
    width, height = (0, 0) if compressed else (int(data.width), int(data.height))
    try:
        check_image(data)
        if compressed:
            height, width = decode_image(data).shape[:2]
    except ImageError as error:
        problem = str(error)
    return Pictures(encoding=encoding, width=width, height=height, problem=problem)


def _findings(topics: Iterable[Topic]) -> Iterator[str]:
    """Sentences on streams whose clock or rate a person has to look at."""
    streams = [t for t in topics if t.count and (t.pictures or t.joints) and not set(t.types) & set(ARRAYS)]
    reference = next((t for t in streams if t.pictures and t.delay_ms is not None), None)
    delays_ms = [t.delay_ms for t in streams if t.delay_ms is not None]
    one_clock = len(delays_ms) > 1 and max(delays_ms) - min(delays_ms) <= _APART_MS
    if one_clock and abs(delays_ms[0]) > _OTHER_CLOCK_MS:
        yield (
            f"every stream: logged a median {delays_ms[0] / 1e3:.0f} s after the stamps. They are of one clock, which "
            "is not the recorder's: a simulation's, or another computer's. They convert as they are."
        )
    for topic in streams:
        if topic.unstamped:
            yield f"{topic.name}: {topic.unstamped} of {topic.count} messages are stamped 0; convert with `--log-time`."
        if topic.backward:
            yield f"{topic.name}: the stamps jump back {topic.backward} times."
        if topic.largest_gap_s and topic.rate_hz and topic.largest_gap_s * topic.rate_hz > _LOST:
            yield f"{topic.name}: the largest gap is {topic.largest_gap_s:.3f} s at {topic.rate_hz:.4g} Hz."
        delay = topic.delay_ms
        if delay is None:
            continue
        if abs(delay) > _OTHER_CLOCK_MS:
            if one_clock:
                continue
            yield f"{topic.name}: logged a median {delay / 1e3:.3f} s after the stamps: these are of another clock."
        elif delay < -1.0:
            yield f"{topic.name}: logged a median {-delay:.0f} ms before the stamps: the clock that stamps is ahead."
        if reference is not None and reference.delay_ms is not None and abs(delay - reference.delay_ms) > _APART_MS:
            yield (
                f"{topic.name}: logged a median {delay:.0f} ms after its stamps, {reference.name} "
                f"{reference.delay_ms:.0f} ms: either the clocks differ, or one of the ways is slow; `--log-time` "
                "pairs streams by log time."
            )
