from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_bridges.evaluation.statistics import mcnemar_exact, sign_flip_exact, wilson95


def test_wilson_matches_published_values() -> None:
    # Newcombe 1998, table I: 81/263 and 0/20.
    low, high = wilson95(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson95(0, 20)
    assert low == 0.0
    assert round(high, 4) == 0.1611


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_rate(case: tuple[int, int]) -> None:
    successes, trials = case
    low, high = wilson95(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_nonsense(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=str(successes)):
        wilson95(successes, trials)


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs() -> None:
    # 1 + 10 + 45 of the 1024 outcomes of ten tosses lie as far out on one side as 2 against 8.
    assert mcnemar_exact(2, 8) == pytest.approx(2 * 56 / 1024)
    assert mcnemar_exact(0, 6) == pytest.approx(2 / 64)  # the fewest pairs that reach 5%
    assert mcnemar_exact(0, 5) > 0.05
    assert mcnemar_exact(0, 0) == mcnemar_exact(4, 4) == 1.0
    with pytest.raises(ValueError, match="-1"):
        mcnemar_exact(-1, 3)


@settings(deadline=None)  # long sums on a busy machine
@given(st.integers(0, 100), st.integers(0, 100))
def test_mcnemar_is_a_symmetric_probability(left: int, right: int) -> None:
    value = mcnemar_exact(left, right)
    assert 0 < value <= 1
    assert value == mcnemar_exact(right, left)


def test_the_randomisation_test_counts_every_choice_of_signs() -> None:
    drawn = np.random.default_rng(0).choice([-0.5, -0.2, 0.0, 0.3, 0.8, 1 / 3], size=9)
    sums = [abs(sum(s * d for s, d in zip(signs, drawn, strict=True))) for signs in product((-1, 1), repeat=9)]
    assert sign_flip_exact(drawn.tolist()) == pytest.approx(np.mean(np.array(sums) >= abs(drawn.sum()) - 1e-3))
    assert sign_flip_exact([1.0] * 5) == 2 / 32
    assert sign_flip_exact([0.0, 0.0]) == sign_flip_exact([]) == 1.0
