"""How overlapping absolute chunks become one: formulas of ACT and of real-time chunking.

Arrays are (H, J): H points of the newest chunk, J arm joints. Older predictions are read at the times
of the newest chunk's points, by linear interpolation if the time grids differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavla_ros.typing import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Absolute joint points of one chunk; point h belongs to ``stamp_ns + (h + 1) * dt_ns``."""

    stamp_ns: int
    dt_ns: int
    points_HJ: FloatArray

    def at(self, times_ns: NDArray[np.int64]) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Points (N, J) at the times, and which times (N,) lie between the first and the last point."""
        steps = (times_ns - (self.stamp_ns + self.dt_ns)) / self.dt_ns
        last = len(self.points_HJ) - 1
        # A microsecond of stamp rounding must not drop the last common point.
        inside = (steps >= -1e-4) & (steps <= last + 1e-4)
        steps = np.clip(steps, 0.0, last)
        low = np.minimum(np.floor(steps).astype(np.int64), last)
        high = np.minimum(low + 1, last)
        part = (steps - low)[:, None]
        return (1.0 - part) * self.points_HJ[low] + part * self.points_HJ[high], inside

    @property
    def times_ns(self) -> NDArray[np.int64]:
        """(H,): when each point is due."""
        return self.stamp_ns + self.dt_ns * np.arange(1, len(self.points_HJ) + 1, dtype=np.int64)


def temporal_ensemble(predictions: Sequence[Prediction], m: float) -> FloatArray:
    """ACT (Zhao et al. 2023, Section IV-B): a = Σ w_i a_i / Σ w_i with w_i = exp(-m i), i = 0 the oldest.

    ``predictions`` from oldest to newest; the result (H, J) is on the newest one's times. At each
    time only the chunks that cover it take part, and i counts those.
    """
    newest = predictions[-1]
    total = np.zeros_like(newest.points_HJ)
    weights = np.zeros((len(newest.points_HJ), 1))
    rank = np.zeros((len(newest.points_HJ), 1))
    for prediction in predictions:
        points, inside = prediction.at(newest.times_ns)
        weight = np.exp(-m * rank) * inside[:, None]
        total += weight * points
        weights += weight
        rank += inside[:, None]
    result: FloatArray = total / weights
    return result


def soft_mask_weights(horizon: int, delay: int, execution_horizon: int) -> FloatArray:
    """(H,) weights of the previous plan (real-time chunking, Black et al. 2025, eq. 5).

    With d = ``delay`` (steps already consumed) and end = H - s: 1 for i < d;
    c (e^c - 1)/(e - 1) with c = (end - i)/(end - d + 1) for d ≤ i < end; 0 after.
    """
    end = horizon - execution_horizon
    weights = np.zeros(horizon)
    weights[: min(max(delay, 0), horizon)] = 1.0
    for i in range(max(delay, 0), max(end, 0)):
        c = (end - i) / (end - delay + 1)
        weights[i] = c * math.expm1(c) / (math.e - 1.0)
    return weights


def soft_mask(previous: Prediction, newest: Prediction, delay: int, execution_horizon: int) -> FloatArray:
    """(H, J): W·previous + (1 - W)·newest; W = 0 if the previous plan has no point."""
    points, inside = previous.at(newest.times_ns)
    weights = (soft_mask_weights(len(newest.points_HJ), delay, execution_horizon) * inside)[:, None]
    result: FloatArray = weights * points + (1.0 - weights) * newest.points_HJ
    return result
