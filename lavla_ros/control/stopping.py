"""Time-optimal jerk-limited braking of one joint, in closed form.

Used twice: to ramp to rest (holding, faults), and as the proof, on every tick, that a motion can still
be stopped inside the position and velocity limits. Units: rad, s.
"""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np

from lavla_ros.control.curve import State
from lavla_ros.typing import FloatArray

_STILL_RAD_S = 1e-9
_STILL_RAD_S2 = 1e-6
_NO_PHASES = ((0.0, 0.0),) * 3


def still(velocity: list[float], acceleration: list[float]) -> bool:
    """Whether every joint stands, by the same measure as braking uses."""
    return all(abs(v) < _STILL_RAD_S for v in velocity) and all(abs(a) < _STILL_RAD_S2 for a in acceleration)


def brake_phases(v: float, a: float, a_max: float, j_max: float) -> tuple[tuple[float, float], ...]:
    """(duration, jerk) of the phases that bring velocity ``v`` and acceleration ``a`` to zero at once."""
    if abs(v) < _STILL_RAD_S and abs(a) < _STILL_RAD_S2:
        return ()
    # Velocity left when the acceleration alone is taken to zero: its sign says which way to push.
    if v + a * abs(a) / (2.0 * j_max) < 0.0:
        v, a, jerk = -v, -a, j_max
    else:
        jerk = -j_max
    peak = sqrt(max(0.0, j_max * v + 0.5 * a * a))
    cruise = 0.0
    if peak > a_max:
        peak = a_max
        cruise = max(0.0, (v + a * a / (2.0 * j_max) - a_max * a_max / j_max) / a_max)
    return (max(0.0, (a + peak) / j_max), jerk), (cruise, 0.0), (peak / j_max, -jerk)


def brake_step(p: float, v: float, a: float, a_max: float, j_max: float, dt: float) -> tuple[float, float, float]:
    """Position, velocity, acceleration after braking for ``dt``."""
    for duration, jerk in brake_phases(v, a, a_max, j_max):
        t = duration if duration < dt else dt
        p += t * (v + t * (0.5 * a + t * jerk / 6.0))
        v += t * (a + 0.5 * t * jerk)
        a += t * jerk
        dt -= t
        if dt <= 0.0:
            return p, v, a
    return p, 0.0, 0.0


def stop_range(p: float, v: float, a: float, a_max: float, j_max: float) -> tuple[float, float]:
    """Smallest and largest position passed while braking from this state, the present one included."""
    low = high = p
    for duration, jerk in brake_phases(v, a, a_max, j_max):
        if v * a < 0.0 or v * jerk < 0.0:
            # The velocity may change its sign inside this phase: v + a t + jerk t²/2 = 0.
            for t in _roots(0.5 * jerk, a, v):
                if 0.0 < t < duration:
                    turn = p + t * (v + t * (0.5 * a + t * jerk / 6.0))
                    low, high = min(low, turn), max(high, turn)
        p += duration * (v + duration * (0.5 * a + duration * jerk / 6.0))
        v += duration * (a + 0.5 * duration * jerk)
        a += duration * jerk
        low, high = min(low, p), max(high, p)
    return low, high


def stop_travel(v: float, a: float, a_max: float, j_max: float) -> tuple[float, float]:
    """Where braking brings a joint to rest, from where it is, and how far it travels on the way there (no less)."""
    turned = v + a * abs(a) / (2.0 * j_max) < 0.0
    if turned:
        v, a = -v, -a
    peak = sqrt(max(0.0, j_max * v + 0.5 * a * a))
    cruise = 0.0
    if peak > a_max:
        peak = a_max
        cruise = max(0.0, (v + a * a / (2.0 * j_max) - a_max * a_max / j_max) / a_max)
    t = max(0.0, (a + peak) / j_max)
    end = t * (v + t * (0.5 * a - t * j_max / 6.0))
    end += 0.5 * cruise * peak * (cruise + peak / j_max) + peak * peak * peak / (6.0 * j_max * j_max)
    travel = end
    if v < 0.0:  # it goes the other way until its acceleration has turned it round
        low, _ = stop_range(0.0, v, a, a_max, j_max)
        travel = end - 2.0 * low
    return (-end if turned else end), travel


def brake_path(state: State, a_max: FloatArray, j_max: FloatArray, dt: float) -> FloatArray:
    """(N, J): positions after 0, 1, 2, … times ``dt`` of braking each joint (:func:`brake_step`) until all stand."""
    joints, longest = len(state[0]), 0.0
    phases = []  # of each joint, three: begin, duration, velocity, half of the acceleration, sixth of the jerk
    for v, a, a_most, j_most in zip(state[1], state[2], a_max.tolist(), j_max.tolist(), strict=True):
        begun = 0.0
        for duration, jerk in brake_phases(v, a, a_most, j_most) or _NO_PHASES:
            phases.append((begun, duration, v, 0.5 * a, jerk / 6.0))
            begun += duration
            v += duration * (a + 0.5 * duration * jerk)
            a += duration * jerk
        longest = max(longest, begun)
    last = ceil(longest / dt - 1e-9)
    begin, length, velocity, half, sixth = np.array(phases).reshape(joints, 3, 5).transpose(2, 1, 0).reshape(5, -1)
    t = dt * np.arange(last + 1)[:, None] - begin
    np.maximum(t, 0.0, out=t)
    np.minimum(t, length, out=t)
    moved = t * (velocity + t * (half + t * sixth))
    path_NJ: FloatArray = moved[:, :joints] + moved[:, joints : 2 * joints]
    path_NJ += moved[:, 2 * joints :]
    path_NJ += state[0]
    return path_NJ


def longest_stop(v_max: float, a_max: float, j_max: float) -> float:
    """A distance that no admissible state needs more than to stop (a bound, not tight)."""
    return v_max * (v_max / (2.0 * a_max) + 3.0 * a_max / j_max) + 1e-3


def _roots(c2: float, c1: float, c0: float) -> tuple[float, ...]:
    if c2 == 0.0:
        return (-c0 / c1,) if c1 != 0.0 else ()
    inside = c1 * c1 - 4.0 * c2 * c0
    if inside < 0.0:
        return ()
    root = sqrt(inside)
    return ((-c1 - root) / (2.0 * c2), (-c1 + root) / (2.0 * c2))
