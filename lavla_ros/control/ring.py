"""A ring of records in a memory-mapped file: one writer process, one reader process, no locks.

Every slot carries its sequence number before and after the payload and a checksum over both. A reader
that meets a slot being overwritten sees a mismatch and gets nothing instead of a torn record; a plain
seqlock would let a SCHED_FIFO reader spin for ever on a writer that it preempted. A reader that falls more
than a ring behind loses the oldest records, and counts them.

A plain file (in /dev/shm) is mapped because Python 3.11's ``SharedMemory`` unlinks the segment when an
attaching process exits.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from zlib import crc32

from lavla_ros.errors import UserError

_HEADER = struct.Struct("<8sIIQ")  # magic, slots, capacity, newest sequence number
_NEWEST = struct.Struct("<Q")
_NEWEST_AT = 16
_SLOT = struct.Struct("<QII")  # sequence number, length, checksum
_MAGIC = b"LAVLARB1"


class RingError(UserError, RuntimeError):
    """The file is not a ring, or a record does not fit."""


class Ring:
    """Records in shared memory. Sequence numbers start at 1. Open it once as the writer and once as a reader."""

    def __init__(self, path: Path, file_map: mmap.mmap) -> None:
        self.path = path
        self._map = file_map
        header: tuple[bytes, int, int, int] = _HEADER.unpack_from(file_map, 0)
        _, self.slots, self.capacity, _ = header
        self._stride = _slot_size(self.capacity)
        self._next = 1
        self.lost = 0
        """Records that were overwritten before this reader came to them."""
        self.torn = 0
        """Reads that met a record being written."""

    @classmethod
    def create(cls, path: Path, *, slots: int, capacity: int) -> Ring:
        """A new ring of ``slots`` ≥ 2 records of at most ``capacity`` bytes. Replaces the file."""
        if slots < 2 or capacity < 1:
            raise RingError(f"{path}: {slots} slots of {capacity} bytes; expected 2 or more slots of 1 byte or more")
        with path.open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, slots, capacity, 0))
            file.truncate(_HEADER.size + slots * _slot_size(capacity))
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Ring:
        """Map an existing ring. Raises RingError naming the file."""
        try:
            with path.open("r+b") as file:
                file_map = mmap.mmap(file.fileno(), 0)
        except (OSError, ValueError) as error:
            raise RingError(f"cannot map the ring {path}: {error}") from None
        if len(file_map) < _HEADER.size or file_map[: len(_MAGIC)] != _MAGIC:
            file_map.close()
            raise RingError(f"{path} is not a ring file")
        _, slots, capacity, _ = _HEADER.unpack_from(file_map, 0)
        size = len(file_map)
        if size != _HEADER.size + slots * _slot_size(capacity):
            file_map.close()
            raise RingError(f"{path} is truncated: {size} bytes for {slots} slots of {capacity} bytes")
        return cls(path, file_map)

    def close(self) -> None:
        """Unmap; the file stays."""
        self._map.close()

    def write(self, payload: bytes) -> None:
        """Append a record, overwriting the oldest. Raises RingError if it is too large."""
        if len(payload) > self.capacity:
            raise RingError(f"{self.path.name}: a record of {len(payload)} bytes; the capacity is {self.capacity}")
        sequence = self._newest() + 1
        at = self._slot_at(sequence)
        checksum = _checksum(sequence, payload)
        # An invalid sequence number first, the valid one last: a reader in between rejects the slot.
        _SLOT.pack_into(self._map, at, 0, 0, 0)
        body = at + _SLOT.size
        self._map[body : body + len(payload)] = payload
        _NEWEST.pack_into(self._map, body + self.capacity, sequence)
        _SLOT.pack_into(self._map, at, sequence, len(payload), checksum)
        _NEWEST.pack_into(self._map, _NEWEST_AT, sequence)

    def read(self) -> bytes | None:
        """The next record that this reader has not had, or None. Counts what it missed."""
        newest = self._newest()
        while self._next <= newest:
            oldest = max(1, newest - self.slots + 1)
            if self._next < oldest:
                self.lost += oldest - self._next
                self._next = oldest
            payload = self._read_slot(self._next)
            if payload is not None:
                self._next += 1
                return payload
            # Overwritten while being read: it is lost, or (a writer in the middle of it) on its way.
            self.torn += 1
            newest = self._newest()
            if self._next > newest - self.slots + 1:
                return None
        return None

    def newest(self) -> bytes | None:
        """The newest complete record, without moving the position of :meth:`read`; None if there is none."""
        newest = self._newest()
        for sequence in range(newest, max(0, newest - self.slots), -1):
            payload = self._read_slot(sequence)
            if payload is not None:
                return payload
            self.torn += 1
        return None

    def _newest(self) -> int:
        sequence: int = _NEWEST.unpack_from(self._map, _NEWEST_AT)[0]
        return sequence

    def _slot_at(self, sequence: int) -> int:
        return _HEADER.size + (sequence % self.slots) * self._stride

    def _read_slot(self, sequence: int) -> bytes | None:
        at = self._slot_at(sequence)
        found, length, checksum = _SLOT.unpack_from(self._map, at)
        if found != sequence or length > self.capacity:
            return None
        body = at + _SLOT.size
        payload = self._map[body : body + length]
        after: int = _NEWEST.unpack_from(self._map, body + self.capacity)[0]
        if after != sequence or _checksum(sequence, payload) != checksum:
            return None
        return payload


def _slot_size(capacity: int) -> int:
    return _SLOT.size + capacity + _NEWEST.size


def _checksum(sequence: int, payload: bytes) -> int:
    return crc32(payload, sequence & 0xFFFFFFFF)
