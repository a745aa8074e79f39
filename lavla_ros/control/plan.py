"""What the executor follows: an absolute curve, or the increments of a delta chunk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavla_ros.control.curve import Curve


@dataclass(slots=True, kw_only=True)
class Plan:
    """One accepted chunk, or a move, ready for execution. Step k covers [origin + k·dt, origin + (k+1)·dt)."""

    stamp_ns: int
    origin_ns: int
    """The stamp, unless the chunk is followed more slowly than it was predicted: earlier then."""
    dt_ns: int
    """The chunk's own, or as much longer as it is followed more slowly."""
    horizon: int
    curve: Curve | None
    """Absolute chunks."""
    increments_HJ: NDArray[np.float64] | None
    """Delta chunks: joint increment of each step, applied when the step begins."""
    gripper_H: list[float] | None
    next_step: int
    """First step that is not begun (delta chunks)."""
    person: bool = False
    """Of a person's chunk."""
    to: str = ""
    """What a move leads to, in words; empty: the plan is a chunk's."""
    late_ns: int = 0
    """A move waits while cycles are missed: its curve is followed so much later than it was made for."""

    @property
    def end_ns(self) -> int:
        return self.origin_ns + self.horizon * self.dt_ns

    def step_at(self, at_ns: int) -> int:
        """Index of the step due at a time: below 0 before the chunk, ≥ horizon after it."""
        return (at_ns - self.origin_ns) // self.dt_ns


class History:
    """Commanded motion of the last two seconds: what was commanded when an observation was taken."""

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._entries: list[tuple[int, list[float], list[float]]] = []

    def reset(self, at_ns: int, position: list[float]) -> None:
        """As if it had always been at rest here."""
        self._entries = [(at_ns, list(position), [0.0] * len(position))]

    def add(self, at_ns: int, position: list[float], velocity: list[float]) -> None:
        """``at_ns``: when the commanded position is reached."""
        self._entries.append((at_ns, list(position), list(velocity)))
        if len(self._entries) >= 2 * self._size:
            del self._entries[: self._size]

    def stop(self) -> None:
        """The last position was reached and not left again: what comes after it begins at rest."""
        at_ns, position, _ = self._entries[-1]
        self._entries[-1] = (at_ns, position, [0.0] * len(position))

    def at(self, at_ns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Commanded position and velocity at a time: cubic between ticks, at rest before the first."""
        entries = self._entries
        index = len(entries) - 1
        while index > 0 and entries[index][0] > at_ns:
            index -= 1
        t0, p0, v0 = entries[index]
        if at_ns <= t0 or index == len(entries) - 1:
            return np.array(p0), np.array(v0)
        t1, p1, v1 = entries[index + 1]
        h = (t1 - t0) * 1e-9
        u = (at_ns - t0) / (t1 - t0)
        a, b, c, d = np.array(p0), np.array(p1), h * np.array(v0), h * np.array(v1)
        position = a + u * (c + u * (3.0 * (b - a) - 2.0 * c - d + u * (2.0 * (a - b) + c + d)))
        return position, (1.0 - u) * np.array(v0) + u * np.array(v1)
