"""How well one stream ran during an episode, from the capture stamps of its serialised messages."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping

from lavla_ros.typing import NS_PER_S


def raw_stamp_ns(raw: bytes) -> int:
    """The header's stamp of a message in CDR, which four bytes precede that say its byte order."""
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(seconds * NS_PER_S + nanoseconds)


class StreamStats:
    """Count, rate, largest gap and last stamp."""

    def __init__(self) -> None:
        self.count = 0
        self.largest_gap_s = 0.0
        self.last_ns = self._first_ns = 0

    def add(self, stamp_ns: int) -> None:
        """One message: the stamp in its header, or its arrival if it has none."""
        if self.count:
            self.largest_gap_s = max(self.largest_gap_s, (stamp_ns - self.last_ns) * 1e-9)
        else:
            self._first_ns = stamp_ns
        self.last_ns = stamp_ns
        self.count += 1

    def __str__(self) -> str:
        if not self.count:
            return "SILENT"
        span_s = (self.last_ns - self._first_ns) * 1e-9
        rate = f", {(self.count - 1) / span_s:.1f} Hz, largest gap {self.largest_gap_s:.3f} s" if span_s > 0 else ""
        return f"{self.count} messages{rate}"


def behind(stats: Mapping[str, StreamStats], references: Collection[str], *, within_s: float) -> list[str]:
    """Streams whose newest stamp is before that of all ``references``, by less than ``within_s``: more is another
    clock.
    """
    newest_ns = max((stats[name].last_ns for name in references if name in stats), default=0)
    return [name for name, found in stats.items() if 0 < newest_ns - found.last_ns < within_s * NS_PER_S]
