"""Largest velocity, acceleration and jerk of a motion given by one position per cycle."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.jaka.limits import SERVO_PERIOD_S
from lavla_ros.typing import FloatArray

LIMITS = {
    "velocity_rad_s": MINICOBO.limits.velocity_rad_s[0],
    "acceleration_rad_s2": MINICOBO.limits.acceleration_rad_s2[0],
    "jerk_rad_s3": MINICOBO.limits.jerk_rad_s3[0],
}
"""What the executor's commands keep; the same for every joint."""
STILL_RAD_S = 1e-3


def largest(cycles: NDArray[np.int64], position_rad: FloatArray) -> dict[str, float]:
    """Figures by the names of ``LIMITS``, and ``ratio``: the largest of them over its limit.

    ``cycles`` (N,): running numbers; ``position_rad`` (N, J). Cycles that the emulator could not run in time are
    missing: the differences are then taken over the longer time, which is how the arm would have moved.
    """
    t, derivative = cycles * SERVO_PERIOD_S, position_rad
    figures = {}
    for name in LIMITS:
        if len(derivative) < 2:
            figures[name] = 0.0
            continue
        derivative = np.diff(derivative, axis=0) / np.diff(t)[:, None]
        # A difference holds for the middle of its interval.
        t = (t[1:] + t[:-1]) / 2
        figures[name] = float(np.abs(derivative).max())
    figures["ratio"] = max(figures[name] / limit for name, limit in LIMITS.items())
    return figures


def after(cycles: NDArray[np.int64], position_rad: FloatArray, event_cycle: int) -> dict[str, Any]:
    """How far the arm went after an event (rad, the farthest joint), and when it first came to rest (s)."""
    part = cycles >= event_cycle
    if part.sum() < 2:
        return {"travel_rad": 0.0, "rest_s": None}
    q, t = position_rad[part], (cycles[part] - event_cycle) * SERVO_PERIOD_S
    speed = np.abs(np.diff(q, axis=0)).max(axis=1) / np.diff(t)
    still = np.flatnonzero(speed < STILL_RAD_S)
    return {
        "travel_rad": float(np.abs(q - q[0]).max()),
        "rest_s": round(float(t[still[0]]), 3) if len(still) else None,
    }
