"""Measured positions by name, from messages of several publishers that each may have some of the joints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NEVER = -(1 << 62)


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
