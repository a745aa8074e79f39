"""The few statistics that success rates need."""

from __future__ import annotations

import math

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
