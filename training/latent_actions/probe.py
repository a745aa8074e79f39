"""Linear probes: how much of a target a ridge regression reads from codes, over episodes it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.errors import UserError

FOLDS, SHUFFLES = 5, 5


class InspectionError(UserError, ValueError):
    """What was asked cannot be told from these labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How much of a target's variance a ridge regression on codes explains, over held-out episodes."""

    source: str
    """``code`` (one-hot per token) or ``embedding`` (c before quantisation)."""
    target: str
    r2: float
    """Mean over the target's dimensions that vary."""
    shuffled: float
    """The same with the rows of the source shuffled: what chance gives; the mean over ``SHUFFLES`` draws."""
    shuffled_max: float
    r2_by_dimension: dict[str, float]
    rows: int


def probe(
    source: str,
    target: str,
    dimensions: Sequence[str],
    features_NX: NDArray[np.float64],
    values_NA: NDArray[np.float64],
    episodes_N: NDArray[np.int64],
    *,
    seed: int,
) -> Probe:
    """Cross-validated R² of ``values`` from ``features``, and of shuffled features."""
    rng = np.random.default_rng((seed, 23))
    names = np.unique(episodes_N)
    fold_of = rng.permutation(len(names)) % min(FOLDS, len(names))
    fold_N = fold_of[np.searchsorted(names, episodes_N)]
    r2 = cross_validated_r2(features_NX, values_NA, fold_N)
    if np.isnan(r2).all():
        raise InspectionError(f"no dimension of the {target} ever changes in this dataset: there is nothing to explain")
    chance = [
        float(np.nanmean(cross_validated_r2(features_NX[rng.permutation(len(features_NX))], values_NA, fold_N)))
        for _ in range(SHUFFLES)
    ]
    return Probe(
        source=source,
        target=target,
        r2=float(np.nanmean(r2)),
        shuffled=float(np.mean(chance)),
        shuffled_max=float(np.max(chance)),
        r2_by_dimension={n: float(v) for n, v in zip(dimensions, r2, strict=True) if np.isfinite(v)},
        rows=len(features_NX),
    )


def cross_validated_r2(
    features_NX: NDArray[np.float64], values_NA: NDArray[np.float64], fold_N: NDArray[np.int64], ridge: float = 1.0
) -> NDArray[np.float64]:
    """(A,) 1 - (squared error of held-out predictions) / (that of the training folds' mean); NaN for a constant.

    Ridge regression with an intercept that is not penalised. Each fold's sums are made once and subtracted from the
    total, so that all fits together cost little more than one.
    """
    folds = [np.flatnonzero(fold_N == k) for k in np.unique(fold_N)]
    sums = [_Sums.of(features_NX[rows], values_NA[rows]) for rows in folds]
    error = np.zeros(values_NA.shape[1])
    spread = np.zeros(values_NA.shape[1])
    for rows, own in zip(folds, sums, strict=True):
        rest = [s for s in sums if s is not own]
        n = sum(s.n for s in rest)
        mean_X = sum((s.x for s in rest), np.zeros(features_NX.shape[1])) / n
        mean_A = sum((s.a for s in rest), np.zeros(values_NA.shape[1])) / n
        xx = sum((s.xx for s in rest), np.zeros_like(own.xx)) - n * np.outer(mean_X, mean_X)
        xa = sum((s.xa for s in rest), np.zeros_like(own.xa)) - n * np.outer(mean_X, mean_A)
        weights_XA = np.linalg.solve(xx + ridge * np.eye(len(xx)), xa)
        predicted = (features_NX[rows] - mean_X) @ weights_XA + mean_A
        error += ((values_NA[rows] - predicted) ** 2).sum(0)
        spread += ((values_NA[rows] - mean_A) ** 2).sum(0)
    varies = values_NA.std(0) > 1e-9
    return np.where(varies, 1.0 - error / np.where(varies, spread, 1.0), np.nan)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Moments of one fold."""

    n: int
    x: NDArray[np.float64]
    a: NDArray[np.float64]
    xx: NDArray[np.float64]
    xa: NDArray[np.float64]

    @classmethod
    def of(cls, x: NDArray[np.float64], a: NDArray[np.float64]) -> _Sums:
        return cls(len(x), x.sum(0), a.sum(0), x.T @ x, x.T @ a)


def one_hot(codes_NT: NDArray[np.integer[Any]], size: int) -> NDArray[np.float64]:
    """(N, T) codes → (N, T·K)."""
    hot: NDArray[np.float64] = np.eye(size)[codes_NT].reshape(len(codes_NT), -1)
    return hot


def standardised(values_NX: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zero mean, unit variance; a constant column becomes zero."""
    deviation = values_NX.std(0)
    result: NDArray[np.float64] = (values_NX - values_NX.mean(0)) / np.where(deviation > 1e-9, deviation, 1.0)
    return result
