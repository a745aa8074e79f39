"""What a few training seeds say about a method, and not only about the policies that happened to be trained.

Every policy of a study is evaluated on the same layouts, and every method is trained with the same seeds, so that a
measurement has a value for each seed and layout: a crossed table (S, L), as in studies of several readers of the same
cases. It is taken for a mixed model in which seeds and layouts are random (two-way analysis of variance):

    y_sl = μ + a_s + b_l + e_sl,    Var(mean) = MS_seeds / (S L) + max(MS_layouts - MS_rest, 0) / (S L)

with Hillis's degrees of freedom, (MS_seeds + max(MS_layouts - MS_rest, 0))² / (MS_seeds² / (S - 1)), for Student's t
(Obuchowski and Rockette 1995; Hillis 2007). The training seed is the unit: without a spread of the seeds' means a
difference would be one of policies. Two methods are compared by their difference at each seed and layout, which takes
out how hard a layout is.

Why no bootstrap over seeds and layouts: three seeds have ten different resamples, whose variance is 2/3 of the right
one, and a percentile interval knows nothing of the 4.3 that two degrees of freedom need in place of 2. Simulated with
three seeds that differ as much as layouts or more, it covers the true rate in 78 to 85 of 100 studies, and this in 92;
of equal methods it calls 12 to 22 of 100 different, and this 6 (``test_inference.py``). With many seeds they agree.

Several tasks are fixed, not drawn: each is analysed by itself, and their means are averaged with equal weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its 95% interval over training seeds and layouts."""

    mean: float
    low: float
    high: float
    p_value: float
    """Two-sided, against 0. 1.0 if it cannot be known."""
    seeds: int
    layouts: int
    """In all tasks together."""
    standard_error: float
    degrees: float
    """Of freedom; 0 with one seed, of which the spread between seeds is unknown: the interval is then of the layouts
    alone, and says nothing about the method."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def difference(left: Sequence[NDArray[np.float64]], right: Sequence[NDArray[np.float64]]) -> Estimate:
    """How much ``right`` is above ``left``: (S, L) arrays, one of each task, over the same seeds and layouts.

    Raises ValueError for tables of other shapes.
    """
    if [a.shape for a in left] != [b.shape for b in right]:
        raise ValueError(
            f"tables of {[a.shape for a in left]} and {[b.shape for b in right]}; expected the same shapes"
        )
    return mean_over([b - a for a, b in zip(left, right, strict=True)])


def mean_over(tables: Sequence[NDArray[np.float64]]) -> Estimate:
    """The mean of the tasks' means. ``tables``: (S, L) values of each task, the seeds being the same in all.

    Raises ValueError for no table, an empty one, or another number of seeds in one of them.
    """
    seeds = tables[0].shape[0] if tables else 0
    if seeds == 0 or any(table.ndim != 2 or table.shape[0] != seeds or table.shape[1] == 0 for table in tables):
        raise ValueError(f"tables of {[table.shape for table in tables]}; expected (seeds, layouts), seeds alike")
    layouts = sum(table.shape[1] for table in tables)
    of_seeds_S = np.mean([table.mean(axis=1) for table in tables], axis=0)
    mean = float(of_seeds_S.mean())
    of_layouts = sum(_layout_variance(table) for table in tables) / len(tables) ** 2
    # what Agresti and Min (2005) add to a table of pairs, so that one without a difference is not taken for certain
    least = sum(1 / (table.shape[1] + 2) ** 2 for table in tables) / len(tables) ** 2
    if seeds == 1:
        error, degrees = math.sqrt(max(of_layouts, least)), 0.0
        half = NORMAL95 * error
        return _estimate(mean, half, 1.0, seeds, layouts, error, degrees)
    of_seeds = float(of_seeds_S.var(ddof=1)) / seeds
    variance = max(of_seeds + of_layouts, least)
    degrees = (seeds - 1) * (variance / of_seeds) ** 2 if of_seeds > 0 else math.inf
    error = math.sqrt(variance)
    return _estimate(
        mean, t_quantile(LEVEL, degrees) * error, t_two_sided(mean / error, degrees), seeds, layouts, error, degrees
    )


def rate(tables: Sequence[NDArray[np.float64]]) -> Estimate:
    """As :func:`mean_over`, of values in [0, 1], whose interval stays there.

    It is Wilson's of as many independent trials as have the same variance (Korn and Graubard 1998), with t in place of
    the normal quantile. Where all succeed or fail alike, layouts are the trials.
    """
    plain = mean_over(tables)
    mean, variance = plain.mean, plain.standard_error**2
    trials = mean * (1 - mean) / variance if 0 < mean < 1 else float(plain.layouts)
    trials = min(trials, float(plain.seeds * plain.layouts))
    z = t_quantile(LEVEL, plain.degrees) if plain.degrees else NORMAL95
    scale = 1 + z * z / trials
    centre = (mean + z * z / (2 * trials)) / scale
    half = z * math.sqrt(mean * (1 - mean) / trials + z * z / (4 * trials**2)) / scale
    return Estimate(**{**plain.to_dict(), "low": max(0.0, centre - half), "high": min(1.0, centre + half)})


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for the number of comparisons (Holm 1979), in the given order: each is to be held against 0.05.

    Raises ValueError for one that is no probability.
    """
    if bad := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"p-values {bad}; expected 0 to 1")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _layout_variance(table_SL: NDArray[np.float64]) -> float:
    """The part of a task's mean that is due to which layouts were drawn."""
    seeds, layouts = table_SL.shape
    if layouts == 1:
        return 0.0
    means_L = table_SL.mean(axis=0)
    ms_layouts = seeds * float(means_L.var(ddof=1))
    rest_SL = table_SL - means_L - table_SL.mean(axis=1, keepdims=True) + table_SL.mean()
    ms_rest = float((rest_SL**2).sum()) / ((seeds - 1) * (layouts - 1)) if seeds > 1 else 0.0
    return float(max(ms_layouts - ms_rest, 0.0) / (seeds * layouts))


def _estimate(
    mean: float, half: float, p_value: float, seeds: int, layouts: int, error: float, degrees: float
) -> Estimate:
    return Estimate(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p_value=p_value,
        seeds=seeds,
        layouts=layouts,
        standard_error=error,
        degrees=degrees,
    )


# ---------------------------------------------------------------------- Student's t

_MOST_DEGREES = 1e4
"""From here on t is taken for normal, 0.02% off."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)


def t_two_sided(value: float, degrees: float) -> float:
    """P(|T| >= |value|) of Student's t. With x = √ν tan θ its density is cos(θ)^(ν-1), which is summed here."""
    if not degrees < _MOST_DEGREES:
        return math.erfc(abs(value) / math.sqrt(2))
    angle = math.atan(abs(value) / math.sqrt(degrees))
    outside, inside = _cosines(angle, math.pi / 2, degrees), _cosines(0.0, angle, degrees)
    return float(outside / (outside + inside))


def t_quantile(level: float, degrees: float) -> float:
    """The value that |T| exceeds with probability 1 - ``level``."""
    low, high = 0.0, 1.0
    while t_two_sided(high, degrees) > 1 - level:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if t_two_sided(middle, degrees) > 1 - level else (low, middle)
    return high


def _cosines(begin: float, end: float, degrees: float) -> float:
    """∫ cos(θ)^(ν-1) dθ."""
    angles = (end - begin) / 2 * (_NODES + 1) + begin
    return float((end - begin) / 2 * (_WEIGHTS * np.cos(angles) ** (degrees - 1)).sum())


NORMAL95 = t_quantile(LEVEL, math.inf)
