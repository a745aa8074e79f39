"""The emulated servo queue: targets in, one interpolated position per 8 ms cycle out, and a record of both."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from lavla_ros.jaka.limits import SERVO_MAX_SPEED_RAD_S, SERVO_PERIOD_S
from lavla_ros.typing import FloatArray

Overflow = Literal["refuse", "drop_newest", "drop_oldest"]
_Item = TypeVar("_Item")


class Push(enum.Enum):
    """What became of a servo target."""

    QUEUED = "queued"
    INEFFECTIVE = "ineffective"
    FULL = "full"
    DROPPED = "dropped"


@dataclass(slots=True)
class ServoCounters:
    """Since the emulator started (or since the log was cleared)."""

    received: int = 0
    """Every servo_j and servo_p that arrived, in servo mode or not."""
    queued: int = 0
    ineffective: int = 0
    """Steps above 180 deg/s: acknowledged, without effect."""
    refused: int = 0
    """Answered with an error: not in servo mode, outside the limits, queue full, malformed, rejected by a fault."""
    lost: int = 0
    """Acknowledged and lost: by the ``lose_servo_frames`` fault, in a full queue, or outside servo mode."""
    trimmed: int = 0
    """Periods of queued motion left out because the emulator itself was late."""
    cycles: int = 0
    """8 ms cycles that were run."""
    late_cycles: int = 0
    """8 ms cycles left out because the emulator itself was late: judge ``missed`` with this in mind."""
    active_cycles: int = 0
    """Cycles in servo mode since the first target of each servo session."""
    missed: int = 0
    """Those of them that found the queue empty: the arm held its last target for want of a fresh one."""
    deepest_queue: int = 0
    """Largest number of periods that were waiting."""
    coasted: int = 0
    """Those of the missed cycles in which the arm went on at its last velocity."""


class ServoLog:
    """Arrival times of servo commands (monotonic clock, ns) in a bounded buffer, and the counters.

    One thread appends, any thread reads.
    """

    def __init__(self, size: int) -> None:
        self._arrivals: deque[int] = deque(maxlen=size)
        self._appended = 0
        self.counters = ServoCounters()

    def append(self, arrival_ns: int) -> None:
        """Record one arrival."""
        self._arrivals.append(arrival_ns)
        self._appended += 1

    def arrivals_ns(self) -> NDArray[np.int64]:
        """Arrival times held, oldest first, (N,), ns."""
        return np.array(_copy(self._arrivals), dtype=np.int64)

    def page(self, since: int, count: int) -> dict[str, Any]:
        """Up to ``count`` arrivals from running number ``since`` on, and the counters, as JSON holds them."""
        arrivals = _copy(self._arrivals)
        first = self._appended - len(arrivals)
        begin = max(since, first)
        part = arrivals[begin - first : begin - first + count]
        return {
            "first": begin,
            "arrival_ns": part,
            "next": begin + len(part),
            "total": first + len(arrivals),
            "counters": asdict(self.counters),
        }

    def clear(self) -> None:
        """Forget the arrivals and set the counters to zero; running numbers go on."""
        self._arrivals.clear()
        self.counters = ServoCounters()


class MotionLog:
    """Measured positions, one per cycle that was run, in a bounded buffer. One thread appends, any thread reads."""

    def __init__(self, size: int) -> None:
        self._rows: deque[tuple[int, FloatArray]] = deque(maxlen=size)

    def append(self, cycle: int, position_rad: FloatArray) -> None:
        """``cycle``: running number, those left out counted; position (6,), rad."""
        self._rows.append((cycle, position_rad))

    def page(self, since: int, count: int) -> dict[str, Any]:
        """Up to ``count`` rows [cycle, q1 … q6 (rad)] from a cycle on, and the cycle to ask from next (None: all)."""
        rows = [[n, *q.tolist()] for n, q in _copy(self._rows) if n >= since]
        return {"rows": rows[:count], "next": rows[count][0] if len(rows) > count else None}


class ServoQueue:
    """Positions waiting to be played, one per period.

    ``lead_periods``: playing begins this many periods after the first target, so that the phase between the
    sender's clock and the cycle does not matter; measured from then on, a target may be late by that much.
    ``coast_periods``: with nothing waiting, the motion goes on for so long at the last velocity. ``overflow``: see
    :class:`~sim_bridges.jaka_controller.config.ControllerConfig`.
    """

    def __init__(self, depth: int, lead_periods: int, *, coast_periods: int = 0, overflow: Overflow = "refuse") -> None:
        self._depth = depth
        self._lead_periods = lead_periods
        self._coast_periods = coast_periods
        self._overflow = overflow
        self._waiting: deque[FloatArray] = deque()
        self._tail: FloatArray | None = None
        self._played: FloatArray | None = None
        self._step: FloatArray | None = None
        self._coasted = 0
        self._lead = 0
        self._started = False

    @property
    def started(self) -> bool:
        """Whether a target came in this servo session."""
        return self._started

    @property
    def coasting(self) -> bool:
        """Whether the last position was made up for want of one."""
        return self._coasted > 0 and self._step is not None

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, position_rad: FloatArray) -> None:
        """Start a servo session at the commanded position (6,), rad."""
        self._waiting.clear()
        self._tail = self._played = position_rad
        self._step = None
        self._coasted = 0
        self._lead = self._lead_periods
        self._started = False

    def end(self) -> None:
        """Leave out what is still waiting."""
        self._waiting.clear()
        self._started, self._step = False, None

    def stand(self) -> None:
        """Leave out what is still waiting, and stay at the position played last; the session goes on."""
        self._waiting.clear()
        self._tail, self._step = self._played, None

    def tail(self) -> FloatArray:
        """Where the queued motion ends, (6,), rad. RuntimeError outside a session."""
        if self._tail is None:
            raise RuntimeError("no servo session was begun")
        return self._tail

    def push(self, target_rad: FloatArray, steps: int) -> Push:
        """Queue the straight way to a target (6,), rad, over ``steps`` periods."""
        tail = self.tail()
        delta = target_rad - tail
        if float(np.abs(delta).max()) > SERVO_MAX_SPEED_RAD_S * SERVO_PERIOD_S * steps * (1 + 1e-6):
            return Push.INEFFECTIVE
        if len(self._waiting) + steps > self._depth:
            if self._overflow == "drop_oldest" and steps <= self._depth:
                for _ in range(len(self._waiting) + steps - self._depth):
                    self._waiting.popleft()
            else:
                return Push.FULL if self._overflow == "refuse" else Push.DROPPED
        for i in range(1, steps):
            self._waiting.append(tail + delta * (i / steps))
        self._waiting.append(target_rad)
        self._tail = target_rad
        self._started = True
        return Push.QUEUED

    def pop(self) -> FloatArray | None:
        """The position for this period, or None if no fresh one waits."""
        if not self._waiting:
            return None
        position = self._waiting.popleft()
        self._step = None if self._played is None else position - self._played
        self._played = position
        self._coasted = 0
        return position

    def coast(self) -> FloatArray | None:
        """One more period at the last velocity; None if that is over, or not how it is."""
        if self._step is None or self._played is None or self._coasted >= self._coast_periods:
            self._step = None
            return None
        self._coasted += 1
        self._played = self._tail = self._played + self._step
        return self._played

    def leading(self) -> bool:
        """Whether this period still belongs to the lead after the first target; counts it."""
        if self._lead > 0:
            self._lead -= 1
            return True
        return False

    def trim(self, periods: int) -> list[FloatArray]:
        """Leave out up to this many of the oldest positions, keeping the lead; returns them."""
        count = max(0, min(periods, len(self._waiting) - max(1, self._lead_periods)))
        taken = [self._waiting.popleft() for _ in range(count)]
        if taken:
            self._played = taken[-1]
        return taken


def _copy(items: deque[_Item]) -> list[_Item]:
    for _ in range(100):
        try:
            return list(items)
        except RuntimeError:  # the other thread appended meanwhile
            continue
    raise RuntimeError("the log could not be copied while it grows")
