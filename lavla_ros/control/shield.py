"""Braking along the path, so that the arm comes to rest before it is closer to anything than it may be.

Invariant, true after every tick: a way to rest from the present motion is known on which no pair of shapes comes closer
than its margin (at the ticks, where commands are given). A tick of motion is admitted only if such a way exists behind
it; otherwise the arm takes the way that is known already. So it can always stop in time, whatever asks for it: a chunk
that leads into something, a hold, a fault, the end of the process.

Ways to rest, in the order in which they are tried:

1. *braking*: each joint for itself, as fast as its limits allow (:mod:`lavla_ros.control.stopping`), if the joints
   cannot move so far by it that anything gets near;
2. *along the path*: the curve is kept and its time slows down, from 1 to 0 over T seconds: s(t) = T (u - u³ + u⁴/2)
   with u = t/T, which goes T/2 of the curve's time further; the shortest T for which velocity, acceleration and jerk
   limits hold;
3. *braking*, looked at tick by tick;
4. *further on*: what is planned goes on, within its limits, up to the first tick from which the time can slow down.
   The plan may slow down by itself, or lead around what braking would lead into.

A pair that is below its margin already may only come apart. What is far away is not looked at: the slack of a pair
changes by at most its reach per radian, so that a slack seen once holds, less what the joints have moved since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, dist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lavla_ros.control.arm import JointLimits
from lavla_ros.control.curve import Curve, State
from lavla_ros.control.limiter import SLACK_A, SLACK_V, Limiter
from lavla_ros.control.scene import SINGULAR
from lavla_ros.control.stopping import brake_path, stop_travel
from lavla_ros.typing import FloatArray

LONGEST_STOP_S = 0.8
"""A stop along the path that takes longer is not tried."""
LONGEST_LEAD_S = 1.0
"""What is planned goes on for so long at most before its time slows down."""
LONGEST_WAY_S = LONGEST_LEAD_S + LONGEST_STOP_S
"""No way to rest but braking takes longer."""
_TOLERANCE_M = 1e-6
_SLACK_J = 1e-4
"""Rounding of a curve that uses its jerk limit up."""
_LOOK_TICKS = 5
"""Ticks between two points of a curve at which the tip's speed is looked at."""
_SPARE = 0.95
"""What a curve may use of the tip's speed; the rest is for the way onto it."""


class Clearances(Protocol):
    """What the shield asks of :class:`lavla_ros.control.clearance.Clearance`: see there."""

    pairs: list[tuple[str, str]]
    reach_PJ: FloatArray
    tool_speed_m_s: float | None
    tip_reach_J: FloatArray

    def tip(self, position_rad: Sequence[float] | FloatArray) -> FloatArray: ...

    def place(self, position_rad: Sequence[float] | FloatArray) -> None: ...

    def slack_of(self, pair: int) -> float: ...

    def slacks(self, position_rad: Sequence[float] | FloatArray) -> FloatArray: ...

    def told(self, pair: int, slack_m: float) -> str: ...


class Planned(Protocol):
    """A :class:`lavla_ros.control.curve.Curve`, or a way onto one (:class:`lavla_ros.control.limiter.WayOnto`)."""

    def sample(self, at_ns: int) -> State: ...

    def table(self, start_ns: int, tick_ns: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]: ...


class Shield:
    """Knows a safe way to rest at every tick: :meth:`admits` each tick of motion, or :meth:`brake` instead."""

    def __init__(self, clearance: Clearances, limits: JointLimits, tick_ns: int) -> None:
        self._clearance, self._limits, self._tick_ns = clearance, limits, tick_ns
        self._tick_s = tick_ns * 1e-9
        self._reach_PJ, self._tip_reach = clearance.reach_PJ, clearance.tip_reach_J.tolist()
        self._a_max, self._j_max = np.array(limits.acceleration_rad_s2), np.array(limits.jerk_rad_s3)
        self.reason = self.counter = ""
        """Why the last tick was not admitted, and the name under which it is counted."""
        self._tip = np.zeros(3)
        self._tip_m_s = 0.0
        self._position = np.zeros(len(limits.lower_rad))
        """Where the arm was admitted when a pair was near for the last time."""
        self._room_P = np.zeros(len(self._reach_PJ))
        """Of each pair there: its slack is at least so much above its floor, m."""
        self._floor_P = np.zeros(len(self._reach_PJ))
        """The least slack that is allowed: 0, or what it is as long as it is below."""
        self._path: _Path | None = None
        """Of the curve that is being followed."""
        self._way_onto: _Path | None = None
        """Of the way onto it."""
        self._stop: _StopAlong | None = None
        """The known way to rest; None: braking."""
        self._braked_NJ: FloatArray | None = None

    def reset(self, position: Sequence[float]) -> None:
        """At rest at a position (J,), rad, wherever that is."""
        self._path = self._way_onto = self._stop = self._braked_NJ = None
        self._position = np.array(position)
        slack_P = self._clearance.slacks(position)
        self._floor_P = np.minimum(slack_P, 0.0)
        self._room_P = slack_P - self._floor_P
        self._tip, self._tip_m_s = self._clearance.tip(position), 0.0

    def slower(self, curve: Curve, from_ns: int) -> float:
        """By which factor the curve is to be followed more slowly from a time on so that the tip keeps its limit; 1: as
        it is."""
        limit = self._clearance.tool_speed_m_s
        if limit is None:
            return 1.0
        position_NJ, *_ = curve.table(from_ns, _LOOK_TICKS * self._tick_ns)
        fastest = float(self._tip_steps(position_NJ).max(initial=0.0)) / (_LOOK_TICKS * self._tick_s)
        return fastest / (_SPARE * limit) if fastest > _SPARE * limit else 1.0

    def expect(self, curve: Curve, from_ns: int) -> None:
        """The curve is followed from a time on: what takes long about it is done now, between two ticks."""
        self._path = _Path(curve, from_ns, self._tick_ns, self._limits)

    def rest(self) -> None:
        """The arm stands: there is nothing to be braked."""
        self._stop = None

    def admits(self, state: State, planned: Planned | None, at_ns: int, speed_scale: float) -> bool:
        """Whether the arm may be in ``state`` at ``at_ns``, the next tick. If so the way to rest from there is kept.

        ``planned``: the curve, or the known way onto it, that the state is a point of at ``at_ns``; None: it is on the
        way to something else. ``speed_scale``: factor on the velocity limits that it has to keep.
        """
        curve, self._braked_NJ = planned if isinstance(planned, Curve) else None, None
        position = np.array(state[0])
        tip, tip_m_s, fastest_m_s = self._tip_speeds(state)
        limit = self._clearance.tool_speed_m_s or np.inf
        if tip_m_s > limit and tip_m_s > self._tip_m_s:
            self._refuse_speed(tip_m_s)
            return False
        too_fast = fastest_m_s > max(limit, self._tip_m_s)
        moved, (ends, travels) = np.abs(position - self._position), self._stopping(state)
        travel, stop = np.array(travels), None
        if not too_fast and (self._reach_PJ @ (moved + travel) <= self._room_P).all():
            self._stop, self._tip, self._tip_m_s = None, tip, tip_m_s
            return True
        room_P = self._room_P - self._reach_PJ @ moved
        need_P = stopping_P = self._reach_PJ @ travel
        if curve is not None:  # a stop along the curve goes elsewhere than braking, and further
            need_P = np.maximum(stopping_P, self._reach_PJ @ self._along_travel(curve, at_ns))
        near = (need_P > room_P).nonzero()[0]
        if curve is not None and not self._floor_P[near].any():
            stop = self._along(curve, at_ns, near.tolist(), room_P)
        if stop is None:
            slack = self._slacks(position, near.tolist())
            sunk = slack < self._floor_P[near] - _TOLERANCE_M
            if sunk.any():
                first = int(np.argmax(sunk))
                self._refuse(int(near[first]), float(slack[first]))
                return False
            room_P[near] = np.maximum(slack - self._floor_P[near], 0.0)
            still = near[stopping_P[near] > room_P[near]].tolist()
            if still or too_fast:
                on_curve = near[need_P[near] > room_P[near]].tolist()
                stop = self._along(curve, at_ns, on_curve, room_P) if curve is not None else None
                if stop is None and too_fast:
                    self._refuse_speed(fastest_m_s)
                    return False
                if stop is None and still:
                    rest = position + ends
                    if not self._braking_is_clear(state, rest, still, room_P, stopping_P):
                        stop = self._further(planned, at_ns, room_P, speed_scale)
                        if stop is None:
                            return False
            raised = np.minimum(slack, 0.0)
            room_P[near] = slack - raised
            self._floor_P[near] = raised
        self._position, self._room_P, self._stop = position, room_P, stop
        self._tip, self._tip_m_s = tip, tip_m_s
        return True

    def brake(self, limiter: Limiter) -> None:
        """One tick of the known way to rest."""
        if self._stop is None:
            limiter.brake()
        else:
            limiter.take(self._stop.next())

    def _slacks(self, position: FloatArray, pairs: Sequence[int]) -> FloatArray:
        self._clearance.place(position)
        return np.array([self._clearance.slack_of(pair) for pair in pairs])

    def _refuse(self, pair: int, slack: float) -> None:
        inside = ", and it would get less" if self._floor_P[pair] < 0.0 else ""
        singular = self._clearance.pairs[pair][1] == SINGULAR
        self.counter = "stops_before_singularity" if singular else "stops_before_contact"
        self.reason = f"too close: {self._clearance.told(pair, slack)}{inside}"

    def _refuse_speed(self, tip_m_s: float) -> None:
        limit = self._clearance.tool_speed_m_s
        self.counter = "stops_too_fast"
        self.reason = f"too fast: the tool would move at {tip_m_s:.3f} m/s; the limit is {limit} m/s"

    def _tip_speeds(self, state: State) -> tuple[FloatArray, float, float]:
        """The tip (3,), m; how fast it comes there, m/s; its largest speed while the joints are braked from there."""
        if self._clearance.tool_speed_m_s is None:
            return self._tip, 0.0, 0.0
        tip = self._clearance.tip(state[0])
        tip_m_s = dist(tip, self._tip) / self._tick_s
        # No joint becomes faster by braking than it is when its acceleration is gone.
        j_max, limit = self._limits.jerk_rad_s3, self._clearance.tool_speed_m_s
        peaks = [max(abs(v), abs(v + 0.5 * a * abs(a) / j)) for v, a, j in zip(state[1], state[2], j_max, strict=True)]
        at_most = sum(peak * reach for peak, reach in zip(peaks, self._tip_reach, strict=True))
        if at_most <= limit:
            return tip, tip_m_s, at_most
        # The tip may, at any time: what joints that move against one another add to its speed is gone when one stands.
        path_NJ = self._braking(state)
        at_most_N = (_moved(path_NJ) @ self._clearance.tip_reach_J) / self._tick_s
        over = (at_most_N > limit).nonzero()[0]
        if not len(over):
            return tip, tip_m_s, float(at_most_N.max(initial=0.0))
        return tip, tip_m_s, float(self._tip_steps(path_NJ[over[0] : over[-1] + 2]).max()) / self._tick_s

    def _stopping(self, state: State) -> tuple[list[float], list[float]]:
        """Of each joint, where braking brings it to rest, from where it is, and how far it travels on its way, rad."""
        limits, ends, travels = self._limits, [], []
        for v, a, a_max, j_max in zip(state[1], state[2], limits.acceleration_rad_s2, limits.jerk_rad_s3, strict=True):
            end, travel = stop_travel(v, a, a_max, j_max)
            ends.append(end)
            travels.append(travel)
        return ends, travels

    def _braking(self, state: State) -> FloatArray:
        """(N, J) the way of the joints while they are braked from this tick's state."""
        if self._braked_NJ is None:
            self._braked_NJ = brake_path(state, self._a_max, self._j_max, self._tick_s)
        return self._braked_NJ

    def _along(self, curve: Curve, at_ns: int, pairs: list[int], room_P: FloatArray) -> _StopAlong | None:
        """The stop along the curve, if it keeps the limits and its stretch of the curve is known to be clear of the
        pairs: all those that the stretch may bring below their floors.

        That a pair has a negative ``room_P`` says nothing about it: it is known only if it was looked at from further
        back on this curve. One that is below its margin is looked at by the caller first, as its floor may rise.
        """
        path, row = self._at(curve, at_ns)
        if not path.stops(row) or not self._keeps_clear(path, row, path.last(row), pairs, room_P):
            return None
        return _StopAlong(path, row)

    def _further(
        self, planned: Planned | None, at_ns: int, room_P: FloatArray, speed_scale: float
    ) -> _StopAlong | None:
        """The stop along what is planned from the first tick on from which there is one, if all up to there is known to
        keep the limits and to be clear."""
        if planned is None:
            return None
        path, row = self._at(planned, at_ns)
        begin = path.next_stop(row, speed_scale)
        if begin is None:
            return None
        last = path.last(begin)
        need_P = self._reach_PJ @ path.moved_NJ[row:last].sum(axis=0)
        pairs = (need_P > room_P).nonzero()[0].tolist()
        why = self.reason, self.counter
        fast = not self._keeps_tip_speed(path.position_NJ[row : last + 1])
        if fast or not self._keeps_clear(path, row, last, pairs, room_P):
            self.reason, self.counter = why  # of braking: nearer, and sooner
            return None
        return _StopAlong(path, begin, lead=begin - row)

    def _keeps_tip_speed(self, path_NJ: FloatArray) -> bool:
        limit = self._clearance.tool_speed_m_s
        return limit is None or float(self._tip_steps(path_NJ).max(initial=0.0)) <= limit * self._tick_s

    def _tip_steps(self, path_NJ: FloatArray) -> FloatArray:
        """How far the tip goes from row to row, m."""
        tips_N3 = np.array([self._clearance.tip(position) for position in path_NJ])
        steps_N: FloatArray = np.linalg.norm(np.diff(tips_N3, axis=0), axis=1)
        return steps_N

    def _keeps_clear(self, path: _Path, row: int, last: int, pairs: list[int], room_P: FloatArray) -> bool:
        """Whether the pairs are known to stay above their floors on the path from one row to another."""
        new = [pair for pair in pairs if not path.knows(pair, row, float(self._floor_P[pair]))]
        if new:
            if (room_P[new] < 0.0).any():
                return False
            for pair, travel_N in zip(new, _travel(path.moved_NJ, self._reach_PJ[new]), strict=True):
                seen = path.seen[pair] = _Seen(float(self._floor_P[pair]), travel_N)
                seen.look(row, float(room_P[pair]))
        return all(self._is_clear(pair, path.position_NJ, path.seen[pair], last) for pair in pairs)

    def _at(self, planned: Planned, at_ns: int) -> tuple[_Path, int]:
        """What is planned at the ticks, and the row of a time."""
        on_curve = isinstance(planned, Curve)
        path = self._path if on_curve else self._way_onto
        if path is None or path.planned is not planned or (at_ns - path.from_ns) % self._tick_ns:
            path = _Path(planned, at_ns, self._tick_ns, self._limits)
            if on_curve:
                self._path = path
            else:
                self._way_onto = path
        return path, (at_ns - path.from_ns) // self._tick_ns

    def _along_travel(self, curve: Curve, at_ns: int) -> FloatArray:
        """(J,) how far the joints travel on the way to rest along the curve, rad; 0 if there is none."""
        path, row = self._at(curve, at_ns)
        travel_J: FloatArray = path.moved_NJ[row : path.last(row) if path.stops(row) else row].sum(axis=0)
        return travel_J

    def _braking_is_clear(
        self, state: State, rest: FloatArray, pairs: list[int], room_P: FloatArray, stopping_P: FloatArray
    ) -> bool:
        """Whether the pairs stay above their floors while the joints are braked to ``rest``."""
        slack, floor = self._slacks(rest, pairs), self._floor_P[pairs]
        if (slack < floor - _TOLERANCE_M).any():
            first = int(np.argmin(slack - floor))
            self._refuse(pairs[first], float(slack[first]))
            return False
        # Whatever lies between here and there is within the room of either of them, if their sum is as large.
        room = slack - floor
        unsure = room_P[pairs] + room < stopping_P[pairs]
        if not unsure.any():
            return True
        path_NJ, pairs = self._braking(state), np.array(pairs)[unsure].tolist()
        travel_PN = _travel(_moved(path_NJ), self._reach_PJ[pairs])
        for pair, travel_N, back in zip(pairs, travel_PN, room[unsure].tolist(), strict=True):
            seen = _Seen(float(self._floor_P[pair]), travel_N)
            seen.look(0, float(room_P[pair]))
            last = int(travel_N.searchsorted(travel_N[-1] - back)) - 1
            if not self._is_clear(pair, path_NJ, seen, last):
                return False
        return True

    def _is_clear(self, pair: int, path_NJ: FloatArray, seen: _Seen, last: int) -> bool:
        """Whether the pair stays above its floor on a path up to row ``last``; what is found stays in ``seen``."""
        while last > seen.until and not seen.blocked:
            row = seen.until + 1
            self._clearance.place(path_NJ[row])
            slack = self._clearance.slack_of(pair)
            if slack < seen.floor - _TOLERANCE_M:
                self._refuse(pair, slack)
                seen.blocked = True
            else:
                seen.look(row, max(slack - seen.floor, 0.0))
        return last <= seen.until


def _moved(path_NJ: FloatArray) -> FloatArray:
    """(N - 1, J) how far each joint moves from row to row, rad."""
    return np.abs(path_NJ[1:] - path_NJ[:-1])


def _travel(moved_NJ: FloatArray, reach_PJ: FloatArray) -> FloatArray:
    """(P, N + 1) how much the slack of each pair can have changed since the first row, m."""
    travel_PN = np.zeros((len(reach_PJ), len(moved_NJ) + 1))
    np.cumsum(reach_PJ @ moved_NJ.T, axis=1, out=travel_PN[:, 1:])
    return travel_PN


@dataclass(slots=True)
class _Seen:
    """How far a path is known to keep a pair above its floor."""

    floor: float
    travel_N: FloatArray
    until: int = -1
    """Up to this row."""
    blocked: bool = False
    """The row after it is not allowed."""

    def look(self, row: int, room: float) -> None:
        """At a row the slack is so much above the floor, m."""
        within = float(self.travel_N[row]) + room
        self.until = max(row, int(self.travel_N.searchsorted(within, side="right")) - 1)


class _Path:
    """What is planned at the ticks, and how long it takes to come to rest along it from each of them."""

    def __init__(self, planned: Planned, from_ns: int, tick_ns: int, limits: JointLimits) -> None:
        self.planned, self.from_ns, self.tick_s, self._limits = planned, from_ns, tick_ns * 1e-9, limits
        self.position_NJ, *derivatives = self._table_NJ = planned.table(from_ns, tick_ns)
        self.moved_NJ = _moved(self.position_NJ)
        """(N - 1, J) from each tick to the next."""
        self.stop_s_N = self._shortest_stops(np.abs(np.hstack(derivatives)), limits)
        """The shortest T for which slowing down from there on keeps the limits; inf: there is none."""
        self.seen: dict[int, _Seen] = {}
        """By pair."""

    def stops(self, row: int) -> bool:
        """Whether the time can slow down from a row on."""
        return row < len(self.stop_s_N) and bool(self.stop_s_N[row] <= LONGEST_STOP_S)

    def last(self, row: int) -> int:
        """The row where the stop from a row on ends."""
        return row + ceil(float(self.stop_s_N[row]) / 2.0 / self.tick_s - 1e-9)

    def next_stop(self, row: int, speed_scale: float) -> int | None:
        """The first row at or after one from which there is a stop, if the rows up to it keep the limits."""
        within = self.stop_s_N[row : row + int(LONGEST_LEAD_S / self.tick_s) + 1]
        found = (within <= LONGEST_STOP_S).nonzero()[0]
        if not len(found):
            return None
        begin, limits = row + int(found[0]), self._limits
        position, v, a, jerk = (values[row : begin + 1] for values in self._table_NJ)
        a_max, j_max = np.array(limits.acceleration_rad_s2), np.array(limits.jerk_rad_s3)
        v_max = speed_scale * np.array(limits.velocity_rad_s)
        kept = (np.abs(v + a * np.abs(a) / (2.0 * j_max)) <= v_max + SLACK_V) & (np.abs(a) <= a_max + SLACK_A)
        kept &= (np.abs(jerk) <= j_max + _SLACK_J) | np.isinf(jerk)  # infinite: see WayOnto
        kept &= (position >= limits.lower()) & (position <= limits.upper())
        return begin if kept.all() else None

    def knows(self, pair: int, row: int, floor: float) -> bool:
        """Whether the pair was looked at from further back on the curve, for this floor."""
        seen = self.seen.get(pair)
        return seen is not None and seen.floor == floor and seen.until >= row

    def _shortest_stops(self, size_NK: FloatArray, limits: JointLimits) -> FloatArray:
        """``size_NK``: absolute velocity, acceleration and jerk of each joint, side by side.

        With derivatives of at most v, a, j on the stretch: acceleration ≤ a + 1.5 v/T, jerk ≤ j + 4.5 a/T + 6 v/T².
        """
        a_max, j_max = np.array(limits.acceleration_rad_s2), np.array(limits.jerk_rad_s3)
        rows = np.arange(len(size_NK))
        longest = self._rows(np.array(LONGEST_STOP_S)) + 1
        largest = _Largest(size_NK, int(longest))
        duration_N = np.full(len(rows), LONGEST_STOP_S)
        for _ in range(2):  # the second time for the shorter stretch that the first one found
            window_N = np.minimum(self._rows(duration_N) + 1, longest)
            v, a, j = np.split(largest.within(rows, window_N), 3, axis=1)
            a_room, j_room = a_max - a, j_max - j
            with np.errstate(divide="ignore", invalid="ignore"):
                by_jerk = (2.25 * a + np.sqrt((2.25 * a) ** 2 + 6.0 * v * j_room)) / j_room
                found_N = np.maximum(1.5 * v / a_room, by_jerk).max(1) * (1.0 + 1e-9)
            possible = ((a_room > 0.0) & (j_room > 0.0)).all(1) & (found_N <= LONGEST_STOP_S)
            found_N = np.maximum(np.where(possible, found_N, LONGEST_STOP_S), self.tick_s)
            possible &= rows + self._rows(found_N) < len(rows)
            duration_N = found_N
        outside_N = ((self.position_NJ < limits.lower()) | (self.position_NJ > limits.upper())).any(1)
        counted = np.concatenate(([0], np.cumsum(outside_N)))
        ends = np.minimum(rows + self._rows(duration_N) + 1, len(rows))
        return np.where(possible & (counted[ends] == counted[rows]), duration_N, np.inf)

    def _rows(self, duration_s: FloatArray) -> NDArray[np.int64]:
        """Ticks of the curve that a stop of this duration passes."""
        return np.ceil(duration_s / 2.0 / self.tick_s).astype(np.int64)


class _Largest:
    """The largest values of the rows of a table within windows, column by column."""

    def __init__(self, table_NK: FloatArray, longest: int) -> None:
        """``longest``: no window has more rows."""
        padded = np.vstack((table_NK, np.repeat(table_NK[-1:], longest, axis=0)))
        self._powers = [padded]
        """Of windows of 1, 2, 4, … rows; what would go beyond the end does not count."""
        width = 1
        while 2 * width <= longest:
            padded = padded.copy()
            np.maximum(padded[:-width], padded[width:], out=padded[:-width])
            self._powers.append(padded)
            width *= 2

    def within(self, rows_N: NDArray[np.int64], windows_N: NDArray[np.int64]) -> FloatArray:
        """(N, K) from each row on, in a window of so many rows (1 or more) each."""
        stacked = np.stack(self._powers)
        power = np.frexp(windows_N)[1] - 1
        largest: FloatArray = np.maximum(stacked[power, rows_N], stacked[power, rows_N + windows_N - (1 << power)])
        return largest


class _StopAlong:
    """Coming to rest along a path from one of its rows on."""

    def __init__(self, path: _Path, row: int, *, lead: int = 0) -> None:
        """``lead``: the arm is so many rows before that one, which are passed as they are."""
        self._path, self._row, self._ticks = path, row, -lead
        self._duration_s = float(path.stop_s_N[row])

    def next(self) -> State:
        """The state one tick further."""
        self._ticks += 1
        path, duration_s = self._path, self._duration_s
        if self._ticks <= 0:
            return path.planned.sample(path.from_ns + round((self._row + self._ticks) * path.tick_s * 1e9))
        u = min(1.0, self._ticks * path.tick_s / duration_s)
        ahead_s = duration_s * u * (1.0 + u * u * (0.5 * u - 1.0))
        position, velocity, acceleration = path.planned.sample(
            path.from_ns + round((self._row * path.tick_s + ahead_s) * 1e9)
        )
        rate = 1.0 - u * u * (3.0 - 2.0 * u)
        slowing = 6.0 * u * (u - 1.0) / duration_s
        if u >= 1.0:
            return position, [0.0] * len(position), [0.0] * len(position)
        return (
            position,
            [rate * v for v in velocity],
            [rate * rate * a + slowing * v for v, a in zip(velocity, acceleration, strict=True)],
        )
