"""A C2 curve through the points of a chunk, joined to the present motion without any step.

The points are the knots of a cubic spline on the chunk's own time grid, with the position commanded at
the chunk's stamp as the knot before the first one (clamped to the velocity commanded then, natural at
the far end). The present commanded position, velocity and acceleration are joined to that spline by a
quintic: the shortest one that keeps the limits. Everything is prepared when a chunk arrives; sampling
is a Horner scheme on floats.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lavla_ros.control.arm import JointLimits
from lavla_ros.typing import FloatArray

State = tuple[list[float], list[float], list[float]]
"""Position (rad), velocity (rad/s), acceleration (rad/s²), one value per joint each."""

BRIDGE_STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Durations tried for the joining quintic, in policy steps."""
SMOOTHING = (0.0, 0.03, 0.3, 3.0, 30.0, 300.0)
"""Weights tried on the squared third differences of the points where the clamped exact spline breaks a limit."""
FALLBACK_SMOOTHING = 3.0
"""The weight used if no weight helps (the motion itself is too fast): it damps periods below 0.7 s at 10 Hz."""
SWING_RAD = 0.008
"""Room for a spline to swing out beyond its knots: more than a motion at 5 rad/s² does between two points at 10 Hz."""
MARGIN = 1.0 - 1e-6
"""Rounding room between a piece that counts as within the limits and the limits."""
_GRID = np.linspace(0.0, 1.0, 17)
_POWERS = np.arange(6)


def _basis(order: int) -> FloatArray:
    """(17, 6): derivative ``order`` of u^k on the grid."""
    factor = np.ones(6)
    for i in range(order):
        factor = factor * np.maximum(_POWERS - i, 0)
    return factor * np.power(_GRID[:, None], np.maximum(_POWERS - order, 0))


_BASES = tuple(_basis(order) for order in range(5))
_HERMITE = np.linalg.inv(
    np.stack([_BASES[0][0], _BASES[1][0], _BASES[2][0], _BASES[0][-1], _BASES[1][-1], _BASES[2][-1]])
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One polynomial of degree ≤ 5 per joint, valid from ``start_ns``; its local time starts at ``origin_ns``."""

    start_ns: int
    origin_ns: int
    coefficients: tuple[tuple[float, ...], ...]
    """(dof, 6), ascending powers of seconds."""
    feasible: bool
    """Velocity, acceleration, jerk and position stay within the limits on the whole piece."""


class Curve:
    """Pieces in order of time. C2 throughout; defined on [start_ns, end_ns]."""

    def __init__(self, pieces: list[Piece], end_ns: int, *, joined: bool, smoothed: bool) -> None:
        self.pieces = pieces
        self.end_ns = end_ns
        self.joined = joined
        """Whether it starts at the state it was built for; else the limiter has to catch up with it."""
        self.smoothed = smoothed
        """Whether some joint does not pass through its points exactly."""
        self._starts = [piece.start_ns for piece in pieces]

    @property
    def start_ns(self) -> int:
        return self._starts[0]

    def sample(self, at_ns: int) -> State:
        """Position, velocity, acceleration at a time; beyond the end: at rest in the last point."""
        if at_ns > self.end_ns:
            position, _, _ = self.sample(self.end_ns)
            return position, [0.0] * len(position), [0.0] * len(position)
        piece = self.pieces[max(0, bisect_right(self._starts, at_ns) - 1)]
        t = (at_ns - piece.origin_ns) * 1e-9
        position, velocity, acceleration = [], [], []
        for c0, c1, c2, c3, c4, c5 in piece.coefficients:
            position.append(c0 + t * (c1 + t * (c2 + t * (c3 + t * (c4 + t * c5)))))
            velocity.append(c1 + t * (2.0 * c2 + t * (3.0 * c3 + t * (4.0 * c4 + t * 5.0 * c5))))
            acceleration.append(2.0 * c2 + t * (6.0 * c3 + t * (12.0 * c4 + t * 20.0 * c5)))
        return position, velocity, acceleration

    def table(self, start_ns: int, tick_ns: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Position, velocity, acceleration and jerk, (N, J) each, at ``start_ns`` and every tick from it to the end."""
        times = np.arange(start_ns, max(self.end_ns, start_ns) + 1, tick_ns)
        rows = np.maximum(0, np.searchsorted(self._starts, times, side="right") - 1)
        c = np.moveaxis(np.array([piece.coefficients for piece in self.pieces])[rows], -1, 0)
        t = ((times - np.array([piece.origin_ns for piece in self.pieces])[rows]) * 1e-9)[:, None]
        return (
            c[0] + t * (c[1] + t * (c[2] + t * (c[3] + t * (c[4] + t * c[5])))),
            c[1] + t * (2.0 * c[2] + t * (3.0 * c[3] + t * (4.0 * c[4] + t * 5.0 * c[5]))),
            2.0 * c[2] + t * (6.0 * c[3] + t * (12.0 * c[4] + t * 20.0 * c[5])),
            6.0 * c[3] + t * (24.0 * c[4] + t * 60.0 * c[5]),
        )

    def feasible(self, from_ns: int, to_ns: int) -> bool:
        """Whether every piece touched by [from_ns, to_ns] is within the limits."""
        first = max(0, bisect_right(self._starts, from_ns) - 1)
        last = max(0, bisect_right(self._starts, to_ns) - 1)
        return to_ns <= self.end_ns and all(self.pieces[i].feasible for i in range(first, last + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitArrays:
    """Limits as arrays (dof,), for the vectorised checks at submission."""

    lower: FloatArray
    upper: FloatArray
    velocity: FloatArray
    acceleration: FloatArray
    jerk: FloatArray

    @classmethod
    def of(cls, limits: JointLimits, speed_scale: float) -> LimitArrays:
        return cls(
            lower=limits.lower(),
            upper=limits.upper(),
            velocity=np.array(limits.velocity_rad_s) * speed_scale,
            acceleration=np.array(limits.acceleration_rad_s2),
            jerk=np.array(limits.jerk_rad_s3),
        )


def build_curve(
    points_HJ: FloatArray,
    *,
    first_knot_ns: int,
    dt_ns: int,
    before_J: FloatArray,
    before_velocity_J: FloatArray,
    start: State,
    start_ns: int,
    limits: LimitArrays,
) -> Curve:
    """The curve through ``points_HJ`` (rad), point h at ``first_knot_ns + h * dt_ns``.

    ``before_J``/``before_velocity_J``: position and velocity commanded one ``dt_ns`` before the first
    knot. ``start``: the motion to join at ``start_ns``, which is not after the last knot. Where no joining quintic
    within the limits exists the curve is the bare spline and ``joined`` is False.
    """
    h = dt_ns * 1e-9
    # With so few points a free end would move as fast as the arm is behind, and the next chunk's would answer that.
    end_velocity = (points_HJ[-1] - points_HJ[0]) / h if len(points_HJ) <= 2 else None
    knots = np.vstack((before_J, points_HJ))
    coefficients, feasible_KJ, smoothed = _feasible_spline(knots, before_velocity_J, end_velocity, h, limits)
    origin_ns, end_ns = first_knot_ns - dt_ns, first_knot_ns + (len(points_HJ) - 1) * dt_ns
    if not feasible_KJ.all() or _overshoots(coefficients, knots, h):
        # The arm is not on the way that the points describe. What it has to catch up with must not depend on where
        # it is, or the two of them chase each other: the points alone.
        knots, origin_ns = points_HJ if len(points_HJ) > 1 else np.vstack((points_HJ, points_HJ)), first_knot_ns
        coefficients, feasible_KJ, smoothed = _feasible_spline(knots, None, end_velocity, h, limits)
    feasible = [bool(row.all()) for row in feasible_KJ]
    spline = [
        Piece(origin_ns + i * dt_ns, origin_ns + i * dt_ns, _plain(coefficients[i]), feasible[i])
        for i in range(len(coefficients))
    ]
    bare = Curve(spline, end_ns, joined=False, smoothed=bool(smoothed.any()))
    start_JJ = np.array(start)
    landings = [start_ns + round(steps * dt_ns) for steps in BRIDGE_STEPS]
    landings = [at for at in landings if origin_ns <= at <= end_ns] or [end_ns]
    for at in landings:
        duration = (at - start_ns) * 1e-9
        if duration < 1e-3:
            continue
        bridge, ok = quintic(start_JJ, np.array(bare.sample(at)), duration, limits)
        if ok:
            later = [
                Piece(max(p.start_ns, at), p.origin_ns, p.coefficients, p.feasible)
                for p in spline
                if p.origin_ns + dt_ns > at
            ]
            return Curve(
                [Piece(start_ns, start_ns, _plain(bridge), True), *later], end_ns, joined=True, smoothed=bare.smoothed
            )
    return bare


def _feasible_spline(
    knots_KJ: FloatArray,
    start_velocity_J: FloatArray | None,
    end_velocity_J: FloatArray | None,
    h_s: float,
    limits: LimitArrays,
) -> tuple[FloatArray, NDArray[np.bool_], NDArray[np.bool_]]:
    """The spline through the knots; joints whose spline breaks a limit are smoothed as little as helps.

    A policy's points carry noise; at 10 Hz, noise of 3 mrad already asks for 50 rad/s³. Smoothing minimises
    Σ (z - y)² + λ Σ (third difference of z)², with the smallest λ of a short list that makes the joint
    feasible. Where none does (the motion itself is too fast) a moderate one is taken, and the limiter
    saturates. Returns coefficients (K-1, 6, J), feasibility (K-1, J), and which joints were smoothed (J,).
    """
    coefficients = spline_coefficients(knots_KJ, start_velocity_J, end_velocity_J, h_s)
    feasible = _cubic_feasible(coefficients, h_s, limits)
    smoothed = np.zeros(knots_KJ.shape[1], dtype=bool)
    if len(knots_KJ) < 4:
        return coefficients, feasible, smoothed
    if feasible.all():
        return coefficients, feasible, smoothed
    # Every weight at once, (K, L, J): many small numpy calls would cost more.
    count, joints = knots_KJ.shape
    calmer = (_smoothers(count) @ knots_KJ).transpose(1, 0, 2)
    # No longer clamped to the velocity that the motion comes with: the joining quintic sees to that.
    slope = (4.0 * calmer[1] - 3.0 * calmer[0] - calmer[2]) / (2.0 * h_s)
    candidates = spline_coefficients(calmer.reshape(count, -1), slope.reshape(-1), None, h_s)
    candidates = candidates.reshape(count - 1, 6, len(SMOOTHING), joints)
    candidates_ok = _cubic_feasible(candidates, h_s, limits)
    all_ok = np.logical_and.reduce(candidates_ok, axis=0)
    for j in np.flatnonzero(~feasible.all(axis=0)):
        chosen = int(np.argmax(all_ok[:, j])) if all_ok[:, j].any() else SMOOTHING.index(FALLBACK_SMOOTHING)
        coefficients[:, :, j] = candidates[:, :, chosen, j]
        feasible[:, j] = candidates_ok[:, chosen, j]
        smoothed[j] = SMOOTHING[chosen] > 0.0
    return coefficients, feasible, smoothed


def _overshoots(coefficients: FloatArray, knots_KJ: FloatArray, h_s: float) -> bool:
    """Whether the spline swings out beyond all of its knots by more than ``SWING_RAD``."""
    inner = (_GRID[1:-1, None] * h_s) ** _POWERS
    between = np.einsum("gk,ikj->igj", inner, coefficients)
    low, high = knots_KJ.min(0) - SWING_RAD, knots_KJ.max(0) + SWING_RAD
    return bool((between < low).any() or (between > high).any())


@lru_cache(maxsize=64)
def _smoothers(count: int) -> FloatArray:
    """(L, count, count): knots → smoothed knots, for every weight."""
    third = np.diff(np.eye(count), n=3, axis=0)
    return np.stack([np.linalg.inv(np.eye(count) + weight * third.T @ third) for weight in SMOOTHING])


def spline_coefficients(
    knots_KJ: FloatArray, start_velocity_J: FloatArray | None, end_velocity_J: FloatArray | None, h_s: float
) -> FloatArray:
    """Cubic spline on uniform knots, (K-1, 6, J): clamped to the velocity at either end, natural where it is None."""
    slopes = (knots_KJ[1:] - knots_KJ[:-1]) / h_s
    right = np.zeros_like(knots_KJ)
    if start_velocity_J is not None:
        right[0] = 6.0 / h_s * (slopes[0] - start_velocity_J)
    right[1:-1] = 6.0 / h_s * (slopes[1:] - slopes[:-1])
    if end_velocity_J is not None:
        right[-1] = 6.0 / h_s * (end_velocity_J - slopes[-1])
    second = _spline_inverse(len(knots_KJ), start_velocity_J is not None, end_velocity_J is not None) @ right
    coefficients = np.zeros((len(slopes), 6, knots_KJ.shape[1]))
    coefficients[:, 0] = knots_KJ[:-1]
    coefficients[:, 1] = slopes - h_s / 6.0 * (2.0 * second[:-1] + second[1:])
    coefficients[:, 2] = second[:-1] / 2.0
    coefficients[:, 3] = (second[1:] - second[:-1]) / (6.0 * h_s)
    return coefficients


@lru_cache(maxsize=64)
def _spline_inverse(count: int, clamped_start: bool, clamped_end: bool) -> FloatArray:
    """Inverse of the tridiagonal system for the second derivatives at ``count`` uniform knots."""
    matrix = 4.0 * np.eye(count) + np.eye(count, k=1) + np.eye(count, k=-1)
    for row, clamped in ((0, clamped_start), (-1, clamped_end)):
        if not clamped:
            matrix[row] = 0.0
        matrix[row, row] = 2.0 if clamped else 1.0
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def quintic(
    start_3J: FloatArray, end_3J: FloatArray, duration_s: float, limits: LimitArrays
) -> tuple[FloatArray, bool]:
    """The quintic between two states (rows: position, velocity, acceleration), (6, J), and whether it is feasible."""
    scale = np.array([1.0, duration_s, duration_s**2])[:, None]
    unit = np.asarray(_HERMITE @ np.vstack((start_3J * scale, end_3J * scale)), dtype=np.float64)
    position, velocity, acceleration, jerk, snap = (
        basis @ unit / duration_s**order for order, basis in enumerate(_BASES)
    )
    # Between two samples a function exceeds the larger one by at most (spacing²/8)·max|second derivative|.
    slack = (duration_s / (len(_GRID) - 1)) ** 2 / 8.0
    crackle = 120.0 * np.abs(unit[5]) / duration_s**5
    top_jerk = np.abs(jerk).max(0) + slack * crackle
    top_acceleration = np.abs(acceleration).max(0) + slack * np.abs(snap).max(0)
    top_velocity = np.abs(velocity).max(0) + slack * top_jerk
    room = slack * top_acceleration
    feasible = (
        (top_jerk <= MARGIN * limits.jerk).all()
        and (top_acceleration <= MARGIN * limits.acceleration).all()
        and (top_velocity <= MARGIN * limits.velocity).all()
        and (position.min(0) - room >= limits.lower).all()
        and (position.max(0) + room <= limits.upper).all()
    )
    coefficients: FloatArray = unit / np.power(duration_s, _POWERS)[:, None]
    return coefficients, bool(feasible)


def _cubic_feasible(coefficients: FloatArray, h_s: float, limits: LimitArrays) -> NDArray[np.bool_]:
    """(K-1, …, J): whether each cubic of (K-1, 6, …, J) keeps the limits on its interval; in closed form."""
    c0, c1, c2, c3 = (coefficients[:, k] for k in range(4))
    a0, a1 = 2.0 * c2, 2.0 * c2 + 6.0 * c3 * h_s
    v1 = c1 + 2.0 * c2 * h_s + 3.0 * c3 * h_s**2
    bend = np.clip(np.divide(-c2, 3.0 * c3, out=np.zeros_like(c2), where=c3 != 0.0), 0.0, h_s)
    v_bend = c1 + 2.0 * c2 * bend + 3.0 * c3 * bend**2
    top_acceleration = np.maximum(np.abs(a0), np.abs(a1))
    top_velocity = np.maximum(np.maximum(np.abs(c1), np.abs(v1)), np.abs(v_bend))
    ends = np.stack((c0, c0 + h_s * (c1 + h_s * (c2 + h_s * c3))))
    room = h_s**2 / 8.0 * top_acceleration
    ok = (
        (6.0 * np.abs(c3) <= MARGIN * limits.jerk)
        & (top_acceleration <= MARGIN * limits.acceleration)
        & (top_velocity <= MARGIN * limits.velocity)
        # A chord's excursion bound; pieces near a position limit are left to the tick-wise check.
        & (ends.min(0) - room >= limits.lower - 0.05)
        & (ends.max(0) + room <= limits.upper + 0.05)
    )
    return np.asarray(ok)


def _plain(coefficients_6J: FloatArray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(column) for column in coefficients_6J.T.tolist())
