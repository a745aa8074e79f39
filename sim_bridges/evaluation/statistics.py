"""The few statistics that success rates need."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054  # 97.5% quantile of the normal distribution


def wilson95(successes: int, trials: int) -> tuple[float, float]:
    """Wilson score interval at 95% for a binomial rate (Wilson 1927).

    Unlike the normal approximation it stays within [0, 1] and is honest near 0 and 1.
    Raises ValueError unless 0 <= successes <= trials and trials >= 1.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials; expected 0 <= successes <= trials and trials >= 1")
    rate = successes / trials
    denominator = 1 + Z95**2 / trials
    centre = (rate + Z95**2 / (2 * trials)) / denominator
    half = Z95 * math.sqrt(rate * (1 - rate) / trials + Z95**2 / (4 * trials**2)) / denominator
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar_exact(only_left: int, only_right: int) -> float:
    """Two-sided p-value of McNemar's test in its exact form (McNemar 1947): a binomial test of the discordant pairs.

    ``only_left``: pairs in which only the left one succeeded; ``only_right`` likewise. Pairs in which both did the
    same say nothing about a difference. 1.0 without any discordant pair. Raises ValueError for negative counts.
    """
    if only_left < 0 or only_right < 0:
        raise ValueError(f"discordant pairs are {only_left} and {only_right}; expected counts")
    pairs = only_left + only_right
    tail = sum(math.comb(pairs, k) for k in range(min(only_left, only_right) + 1))
    p_value: float = 2 * tail / 2**pairs
    return min(1.0, p_value)


def sign_flip_exact(differences: Sequence[float]) -> float:
    """Two-sided p-value of Fisher's randomisation test of paired differences, in its exact form.

    If there were no difference, each would have come out with the other sign just as well: the share of all 2^n ways to
    choose the signs whose sum is at least as far from 0 as the one that was found. Differences are taken to 1/1000. 1.0
    if all are 0.
    """
    steps = [abs(round(1000 * difference)) for difference in differences]
    found = abs(sum(round(1000 * difference) for difference in differences))
    total = sum(steps)
    chance = np.zeros(2 * total + 1)
    chance[total] = 1.0  # of every sum, from -total on
    for step in steps:
        chance = 0.5 * (np.roll(chance, step) + np.roll(chance, -step))  # no sum goes beyond its ends
    sums = np.abs(np.arange(-total, total + 1))
    return min(1.0, float(chance[sums >= found].sum()))
