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


def brake_path(state: State, a_max: FloatArray, j_max: FloatArray, dt: float) -> FloatArray:
    """(N, J): positions after 1, 2, … N times ``dt`` of braking each joint (:func:`brake_step`), until all stand."""
    none = ((0.0, 0.0),) * 3
    phases_J32 = np.array(
        [
            brake_phases(v, a, a_most, j_most) or none
            for v, a, a_most, j_most in zip(state[1], state[2], a_max.tolist(), j_max.tolist(), strict=True)
        ]
    )
    duration_3J, jerk_3J = phases_J32[..., 0].T, phases_J32[..., 1].T
    last = ceil(float(duration_3J.sum(0).max()) / dt - 1e-9)
    left_N1 = dt * np.arange(1, last + 1)[:, None]
    position, velocity, acceleration = np.array(state)
    path_NJ = np.tile(position, (last, 1))
    for duration, jerk in zip(duration_3J, jerk_3J, strict=True):
        t = np.clip(left_N1, 0.0, duration)
        path_NJ += t * (velocity + t * (0.5 * acceleration + t * (jerk / 6.0)))
        velocity = velocity + duration * (acceleration + 0.5 * duration * jerk)
        acceleration = acceleration + duration * jerk
        left_N1 = left_N1 - duration
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
