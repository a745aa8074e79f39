"""Measured positions by name, from messages of several publishers that each may have some of the joints."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NEVER = -(1 << 62)
_MOST_LAYOUTS = 16
_LITTLE_ENDIAN = b"\x00\x01"
_STAMP, _COUNT = struct.Struct("<iI"), struct.Struct("<I")
_STAMP_AT, _FRAME_AT = 4, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """What does not change from one message of a publisher to the next."""

    size: int
    names: tuple[str, ...]
    head: bytes
    """From the frame's name to the last joint's."""
    count_at: int
    positions_at: int
    positions: struct.Struct

    def fits(self, raw: bytes) -> bool:
        return (
            len(raw) == self.size
            and raw[:2] == _LITTLE_ENDIAN
            and raw[_FRAME_AT : _FRAME_AT + len(self.head)] == self.head
            and _COUNT.unpack_from(raw, self.count_at)[0] == len(self.names)
        )


class StateReader:
    """Reads sensor_msgs/JointState as it travels (CDR).

    A message object costs more than a tick may. So it is made of the first message of its kind alone; it tells where
    the positions are, and those that differ in nothing but their numbers are read from there.
    """

    def __init__(self, deserialised: Callable[[bytes], Any]) -> None:
        """``deserialised``: the message (header, name, position) of some bytes."""
        self._deserialised = deserialised
        self._layouts: list[_Layout] = []

    def read(self, raw: bytes) -> tuple[Sequence[str], Sequence[float], int]:
        """Names, positions and stamp, ns."""
        for layout in self._layouts:
            if layout.fits(raw):
                seconds, nanoseconds = _STAMP.unpack_from(raw, _STAMP_AT)
                return layout.names, layout.positions.unpack_from(raw, layout.positions_at), _ns(seconds, nanoseconds)
        message = self._deserialised(raw)
        stamp, names, positions = message.header.stamp, tuple(message.name), tuple(message.position)
        if (new := _layout(message.header.frame_id, names, positions, raw)) is not None:
            self._layouts = [new, *self._layouts][:_MOST_LAYOUTS]
        return names, positions, _ns(stamp.sec, stamp.nanosec)


def _ns(seconds: int, nanoseconds: int) -> int:
    return seconds * 1_000_000_000 + nanoseconds


def _layout(frame_id: str, names: tuple[str, ...], positions: tuple[float, ...], raw: bytes) -> _Layout | None:
    """Where a message's positions are; None if they are not there."""
    numbers, end = struct.Struct(f"<{len(positions)}d"), _after(_FRAME_AT, frame_id)
    end = _aligned(end, 4) + _COUNT.size
    for name in names:
        end = _after(end, name)
    count_at = _aligned(end, 4)
    # Alignment counts from behind the first four bytes, which say how the rest is encoded.
    positions_at = 4 + _aligned(count_at + _COUNT.size - 4, 8)
    layout = _Layout(
        size=len(raw),
        names=names,
        head=raw[_FRAME_AT:end],
        count_at=count_at,
        positions_at=positions_at,
        positions=numbers,
    )
    found = raw[positions_at : positions_at + numbers.size]
    return layout if len(names) == len(positions) and layout.fits(raw) and found == numbers.pack(*positions) else None


def _after(at: int, text: str) -> int:
    """Behind a text that may begin here."""
    return _aligned(at, 4) + _COUNT.size + len(text.encode()) + 1


def _aligned(at: int, size: int) -> int:
    return -(-at // size) * size


class StatesByName:
    """The newest position of each joint."""

    def __init__(self, names: Sequence[str], *, arrival_stamps: bool = False) -> None:
        """``arrival_stamps``: a position is as old as its arrival, whatever its stamp says."""
        self._place = {name: i for i, name in enumerate(names)}
        self._names = tuple(names)
        self._arrival_stamps = arrival_stamps
        self._stamp_ns = [0] * len(names)
        self._arrived_ns = [NEVER] * len(names)
        self.position = np.full(len(names), np.nan)
        """(names,) rad or m; NaN before the first."""
        self.seen: set[str] = set()
        """Names of joints in messages that had none of ours."""
        self.unusable = self.repeated = 0
        """Messages whose names and positions do not belong together; positions that were not newer."""

    def take(
        self, names: Sequence[str], positions: Sequence[float], stamp_ns: int, wall_ns: int, monotonic_ns: int
    ) -> bool:
        """A message; returns whether it told something new. One of stamp 0 is of now."""
        if len(names) != len(positions) or len(set(names)) != len(names):
            self.unusable += 1
            return False
        stamped = stamp_ns and not self._arrival_stamps
        found = new = False
        for name, position in zip(names, positions, strict=True):
            place = self._place.get(name)
            if place is None:
                continue
            found = True
            if stamped and stamp_ns <= self._stamp_ns[place]:
                self.repeated += 1
                continue
            self.position[place] = position
            self._stamp_ns[place] = stamp_ns if stamped else wall_ns
            self._arrived_ns[place] = monotonic_ns
            new = True
        if not found and len(self.seen) < 64:
            self.seen.update(names)
        return new

    def stamp_ns(self) -> int:
        """Since when at least everything is known: the oldest of the joints' newest stamps, 0 before all were heard."""
        return min(self._stamp_ns)

    def older_than(self, monotonic_ns: int) -> list[str]:
        """The joints of which nothing new has arrived since."""
        return [name for name, at_ns in zip(self._names, self._arrived_ns, strict=True) if at_ns < monotonic_ns]
