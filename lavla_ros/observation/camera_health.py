"""Is a camera alive and honest? Judged frame by frame from stamps and pixels."""

from __future__ import annotations

import zlib
from collections import Counter, deque
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from lavla_ros.typing import NS_PER_S

AHEAD_S = 0.1
"""Frames cannot come before they were taken; clocks that are set by the network agree this well."""


@dataclass(slots=True, kw_only=True)
class CameraHealth:
    """What one camera has delivered so far. ``counters`` counts everything that was wrong, by kind."""

    name: str
    missing_after_s: float = 1.0
    """Silence longer than this means: missing."""
    first_after_s: float = 3.0
    """A driver may take so long to send its first frame."""
    frozen_after_s: float = 1.0
    """The same pixels for longer than this mean: frozen (a sensor's noise never repeats). 0: never (a rendered scene
    at rest does repeat)."""
    clock_tolerance_s: float = 1.0
    """Stamps further than this from the arrival mean: another clock. 0: not judged (simulated time)."""
    clock_jump_s: float = 0.5
    """A change of (arrival − capture) larger than this between two frames means: the clock jumped."""
    counters: Counter[str] = field(default_factory=Counter)
    last_error: str = ""
    _since_ns: int | None = None
    _received_ns: int | None = None
    _stamp_ns: int | None = None
    _offset_ns: int | None = None
    _size: tuple[int, ...] | None = None
    _checksum: int | None = None
    _unchanged_since_ns: int = 0
    _offsets_ns: deque[int] = field(default_factory=lambda: deque(maxlen=5))

    def begin(self, now_ns: int) -> None:
        """Start to expect frames."""
        self._since_ns, self._received_ns, self._checksum = now_ns, None, None
        self._offsets_ns.clear()

    def arrival(self, stamp_ns: int, received_ns: int) -> bool:
        """Judge the stamps of a frame; False when its capture stamp did not advance (do not use it)."""
        self.counters["frames"] += 1
        self._received_ns = received_ns
        offset = received_ns - stamp_ns
        self._offsets_ns.append(offset)
        jumped = self._offset_ns is not None and abs(offset - self._offset_ns) > self.clock_jump_s * NS_PER_S
        repeated = self._stamp_ns is not None and stamp_ns == self._stamp_ns
        if repeated:
            self.counters["repeated_stamp"] += 1
            self.last_error = f"stamp {stamp_ns * 1e-9:.3f} came again"
            return False
        if jumped:
            self.counters["clock_jump"] += 1
            self.last_error = f"clock jumped by {(offset - (self._offset_ns or 0)) * 1e-9:+.3f} s"
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns and not jumped:
            self.counters["out_of_order"] += 1
            self.last_error = f"stamp went back by {(self._stamp_ns - stamp_ns) * 1e-9:.3f} s"
            return False
        self._stamp_ns, self._offset_ns = stamp_ns, offset
        return True

    def pixels(self, image: NDArray[np.uint8], received_ns: int) -> bool:
        """Judge the content of a frame as the driver sent it, (H, W, 3): False while the picture is frozen (do not
        use it); a change of its size is counted.
        """
        if self._size is not None and image.shape != self._size:
            self.counters["size_changed"] += 1
            self.last_error = f"size changed from {self._size} to {image.shape}"
        self._size = image.shape
        checksum = zlib.crc32(np.ascontiguousarray(image[::2]).data)
        if checksum != self._checksum:
            self._checksum, self._unchanged_since_ns = checksum, received_ns
        elif self.frozen_after_s and received_ns - self._unchanged_since_ns > self.frozen_after_s * NS_PER_S:
            self.counters["frozen"] += 1
            return False
        return True

    def rejected(self, kind: str, message: str) -> None:
        """Count a frame that could not be used."""
        self.counters[kind] += 1
        self.last_error = message

    def age_s(self, now_ns: int) -> float | None:
        """Age of the newest capture stamp."""
        return None if self._stamp_ns is None else (now_ns - self._stamp_ns) * 1e-9

    def missing(self, now_ns: int) -> bool:
        """Whether no frame has arrived for ``missing_after_s``, or none at all for ``first_after_s``."""
        if self._received_ns is not None:
            return now_ns - self._received_ns > self.missing_after_s * NS_PER_S
        return self._since_ns is not None and now_ns - self._since_ns > self.first_after_s * NS_PER_S

    def problems(self, now_ns: int) -> list[str]:
        """Why there are no usable frames at present, worst first; empty while all is well."""
        if self.missing(now_ns):
            silent_s = (now_ns - (self._received_ns or now_ns)) * 1e-9
            return [f"no frame for {silent_s:.1f} s" if self._received_ns is not None else "no frame yet"]
        found = [text] if (text := self._clock_problem()) else []
        if self.frozen_after_s and self._checksum is not None and self._received_ns is not None:
            unchanged_s = (self._received_ns - self._unchanged_since_ns) * 1e-9
            if unchanged_s > self.frozen_after_s:
                found.append(
                    f"frozen, the same picture for {unchanged_s:.1f} s; nothing is passed on until it changes "
                    "(a rendered scene at rest repeats itself: frozen_after_s:=0)"
                )
        return found

    def _clock_problem(self) -> str:
        if not self.clock_tolerance_s or not self._offsets_ns:
            return ""
        if self._stamp_ns == 0:
            return "its frames carry no stamp (0); the driver has to stamp them at capture, with the system's clock"
        return clock_problem(median(self._offsets_ns) / NS_PER_S, self.clock_tolerance_s)


def clock_problem(age_s: float, tolerance_s: float) -> str:
    """What is wrong with stamps that are ``age_s`` old on arrival; empty if nothing is."""
    if -AHEAD_S <= age_s <= tolerance_s:
        return ""
    return (
        f"its stamps are {abs(age_s):.1f} s {'old' if age_s > 0 else 'ahead'} on arrival: another clock (of the boot, "
        "of a simulation, of a computer whose time is not set)? They have to be of this computer's system clock"
    )
