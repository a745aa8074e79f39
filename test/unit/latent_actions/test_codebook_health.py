"""Codebook health: numbers known by hand, warnings at the stated threshold, a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.latent_actions.codebook_health import CodebookHealth, HealthTracker


def test_uniform_use_has_full_perplexity():
    health = CodebookHealth.of_codes(np.arange(64).reshape(8, 8), 64)
    assert health.perplexity == pytest.approx(64)
    assert health.dead == 0
    assert health.tokens == 64
    np.testing.assert_allclose(health.usage_K, 1 / 64)


def test_one_code_has_perplexity_one():
    health = CodebookHealth.of_codes(torch.zeros(5, 20, dtype=torch.int64), 256)
    assert health.perplexity == pytest.approx(1.0)
    assert health.dead == 255


def test_perplexity_of_unequal_use():
    """Shares 1/2, 1/4, 1/4: entropy 1.5 bit, so 2^1.5 codes."""
    health = CodebookHealth.of_codes(np.array([3, 3, 0, 1]), 4)
    assert health.perplexity == pytest.approx(2**1.5)
    assert health.dead == 1
    assert health.figures() == {
        "perplexity": pytest.approx(2**1.5),
        "perplexity_share": pytest.approx(2**1.5 / 4),
        "dead_codes": 1.0,
        "largest_share": 0.5,
    }


def test_nothing_counted():
    health = CodebookHealth.of_codes(np.zeros((0, 4), dtype=np.int64), 8)
    assert (health.perplexity, health.dead, health.tokens) == (0.0, 8, 0)


@pytest.mark.parametrize("code", [-1, 4])
def test_a_code_outside_is_refused(code):
    with pytest.raises(ValueError, match=r"expected \[0, 4\)"):
        CodebookHealth.of_codes(np.array([0, code]), 4)


def test_warns_below_the_threshold_and_not_above():
    healthy = CodebookHealth.of_codes(np.arange(16), 16)
    assert healthy.warnings(16 * 0.25) == ()
    collapsed = CodebookHealth.of_codes(np.array([0, 1] * 20), 16)
    low, dead = collapsed.warnings(16 * 0.25)
    assert "perplexity is 2.0 of 16" in low
    assert "14 of 16 codes are never used" in dead
    assert len(collapsed.warnings(16 * 0.25, allow_dead=True)) == 1
    rare = CodebookHealth.of_codes(np.repeat(np.arange(15), 3), 16)  # one dead code, otherwise well
    assert len(rare.warnings(4.0)) == 1
    assert rare.warnings(4.0, allow_dead=True) == ()


def test_tracker_counts_between_two_calls():
    tracker = HealthTracker(4)
    tracker.add(torch.tensor([[0, 1], [1, 1]]))
    tracker.add([2])
    assert tracker.take().counts_K.tolist() == [1, 3, 1, 0]
    tracker.add(np.array([3]))
    assert tracker.take().counts_K.tolist() == [0, 0, 0, 1]


def test_plot_is_a_picture_of_some_content(tmp_path):
    import cv2

    rng = np.random.default_rng(0)
    health = CodebookHealth.of_codes(rng.geometric(0.05, 5000).clip(1, 256) - 1, 256)
    health.plot_usage(tmp_path / "new" / "usage.png")
    picture = cv2.imread(str(tmp_path / "new" / "usage.png"))
    assert picture.shape[1] == 960
    assert picture.std() > 10
