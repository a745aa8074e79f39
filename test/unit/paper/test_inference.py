"""The statistics of a study, on tables whose answer is known and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from sim_bridges.paper.inference import difference, holm, mean_over, rate, t_quantile, t_two_sided


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706205), (2, 4.302653), (4, 2.776445), (30, 2.042272), (math.inf, 1.959964)]
)
def test_students_t_is_that_of_the_tables(degrees: float, quantile: float) -> None:
    assert t_quantile(0.95, degrees) == pytest.approx(quantile, abs=1e-5)
    assert t_two_sided(quantile, degrees) == pytest.approx(0.05, abs=1e-7)
    assert t_two_sided(0.0, degrees) == pytest.approx(1.0)


def test_where_layouts_all_go_alike_it_is_the_t_test_of_the_seeds() -> None:
    estimate = mean_over([np.repeat([[0.2], [0.5], [0.8]], 50, axis=1)])
    assert (estimate.standard_error, estimate.degrees) == (pytest.approx(0.3 / math.sqrt(3)), pytest.approx(2))
    assert estimate.high == pytest.approx(0.5 + 4.302653 * 0.3 / math.sqrt(3), abs=1e-5)


def test_two_by_two_by_hand() -> None:
    """MS: seeds 1, layouts 9, rest 0, of four values."""
    estimate = mean_over([np.array([[1.0, 4.0], [2.0, 5.0]])])
    assert estimate.mean == 3.0
    assert estimate.standard_error**2 == pytest.approx((1 + 9) / 4)
    assert estimate.degrees == pytest.approx(10**2 / 1**2)


def test_a_layouts_difficulty_is_no_error_of_a_difference() -> None:
    rng = np.random.default_rng(0)
    hard_L = rng.normal(0, 10, 40)
    left, right = hard_L + rng.normal(0, 0.1, (3, 40)), hard_L + rng.normal(1, 0.1, (3, 40))
    estimate = difference([left], [right])
    assert estimate.mean == pytest.approx(1.0, abs=0.1) and estimate.p_value < 0.01
    with pytest.raises(ValueError, match="same shapes"):
        difference([left], [right[:2]])


def test_equal_policies_are_not_certainly_equal_and_one_seed_says_nothing_of_a_method() -> None:
    nothing = difference([np.ones((3, 50))], [np.ones((3, 50))])
    assert nothing.mean == 0 and nothing.p_value == 1 and 0.02 < nothing.high < 0.06
    one = difference([np.zeros((1, 50))], [np.ones((1, 50))])
    assert (one.p_value, one.degrees) == (1.0, 0.0)


def test_rates_stay_between_0_and_1() -> None:
    none = rate([np.zeros((3, 50))])
    assert (none.low, none.mean) == (pytest.approx(0), 0) and 0.05 < none.high < 0.12, "as of 50 trials, not of 150"
    assert rate([np.ones((1, 50))]).low == pytest.approx(0.9287, abs=1e-3)  # Wilson's of 50 of 50
    rng = np.random.default_rng(1)
    some = rate([(rng.random((3, 50)) < 0.97).astype(float)])
    assert 0.8 < some.low < some.mean < some.high <= 1


def test_tasks_count_alike_whatever_their_number_of_layouts() -> None:
    tables = [np.zeros((3, 10)), np.ones((3, 90))]
    estimate = mean_over(tables)
    assert (estimate.mean, estimate.layouts) == (0.5, 100)
    assert estimate.high < 0.6, "that tasks differ is not an error of their mean"
    with pytest.raises(ValueError, match="seeds alike"):
        mean_over([np.zeros((3, 10)), np.zeros((2, 10))])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"p-values \[1.5\]"):
        holm([0.5, 1.5])


def _policies(rng: np.random.Generator, logits_L: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, L) successes of three seeds that differ more than layouts do."""
    logits_SL = logits_L + rng.normal(0, 1.5, (3, 1))
    return (rng.random(logits_SL.shape) < 1 / (1 + np.exp(-logits_SL))).astype(float)


def _bootstrap(table_SL: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    seeds, layouts = table_SL.shape
    chosen = rng.integers(seeds, size=(200, seeds, 1)), rng.integers(layouts, size=(200, 1, layouts))
    low, high = np.percentile(table_SL[chosen].mean(axis=(1, 2)), [2.5, 97.5])
    return float(low), float(high)


def test_three_seeds_are_covered_where_a_bootstrap_does_not_cover_them() -> None:
    rng, runs = np.random.default_rng(2), 200
    truth = float((1 / (1 + np.exp(-rng.normal(0.3, math.hypot(1.5, 1), 200_000)))).mean())
    covered, alarms = np.zeros(2), np.zeros(2)
    for _ in range(runs):
        logits_L = rng.normal(0.3, 1, 50)
        left, right = _policies(rng, logits_L), _policies(rng, logits_L)
        estimate, (low, high) = rate([left]), _bootstrap(left, rng)
        covered += estimate.low <= truth <= estimate.high, low <= truth <= high
        low, high = _bootstrap(right - left, rng)
        alarms += difference([left], [right]).p_value < 0.05, not low <= 0 <= high
    (ours, theirs), (false, theirs_false) = covered / runs, alarms / runs
    assert ours > 0.9 > 0.85 > theirs
    assert false < 0.09 < 0.15 < theirs_false
