"""The rubrics of Appendix F.2, and what they refuse."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_bridges.judging.rubrics import NESTING, ScoreError, mean, outline_area, read_outlines, rubric, wiped_share

SQUARE = [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)]


def test_a_rollout_has_the_mean_of_its_parts() -> None:
    stack = rubric("stack", bowls=4)
    assert stack.parts == ("bowl 2", "bowl 3", "bowl 4")
    assert stack.score([1.0, 0.8, 0.0]) == pytest.approx(0.6)
    assert stack.success([1.0, 0.8, 0.8]) and not stack.success([1.0, 0.5, 1.0])
    place = rubric("place")
    assert [place.score(parts) for parts in ([1, 1], [1, 0], [0, 1], [0, 0])] == [1.0, 0.5, 0.5, 0.0]
    assert place.success([1.0, 1.0]) and not place.success([1.0, 0.0])
    assert rubric("wipe").score([0.85]) == 0.85 and rubric("wipe").success([0.95])


@settings(deadline=None)
@given(st.lists(st.sampled_from(NESTING), min_size=1, max_size=5))
def test_a_stack_is_worth_0_to_1(nested: list[float]) -> None:
    stack = rubric("stack", bowls=len(nested) + 1)
    assert 0.0 <= stack.score(nested) <= 1.0
    assert (stack.score(nested) == 1.0) == (set(nested) == {1.0})


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("stack", [0.7], "bowl 2 is scored 0.7; the rubric stack has 0, 0.5, 0.8, 1"),
        ("place", [1.0, 0.5], "place is scored 0.5; the rubric place has 0, 1"),
        ("place", [1.0], "1 scores; the rubric place has the parts pick, place"),
        ("wipe", [1.01], "wiped share is scored 1.01; expected a share from 0 to 1"),
        ("wipe", [math.nan], "wiped share is scored nan"),
        ("stack", [1.0, 1.0], "2 scores"),
    ],
)
def test_a_score_outside_the_rubric_is_refused(name: str, values: list[float], says: str) -> None:
    with pytest.raises(ScoreError, match=says):
        rubric(name).score(values)  # type: ignore[arg-type]


def test_a_stack_has_two_bowls() -> None:
    with pytest.raises(ScoreError, match="a stack of 1 bowls is none"):
        rubric("stack", bowls=1)
    with pytest.raises(ScoreError, match="no score"):
        mean([])


def test_the_wiped_share_is_that_of_the_outlines() -> None:
    half = [(0.0, 0.0), (10.0, 0.0), (10.0, 5.0), (0.0, 5.0)]
    assert wiped_share([SQUARE], [half]) == 0.5
    assert wiped_share([SQUARE], []) == 1.0
    assert wiped_share([half], [SQUARE]) == 0.0  # smeared: clipped
    moved = [(x + 20, y) for x, y in half[::-1]]
    assert wiped_share([SQUARE, moved], [half, moved]) == pytest.approx(1 / 3)
    assert read_outlines("0,0 10,0 10,10 0,10; ") == [SQUARE] and read_outlines("") == []


@pytest.mark.parametrize(
    ("corners", "says"),
    [
        (SQUARE[:2], "2 corners"),
        ([*SQUARE[:3], (math.inf, 0.0)], "inf"),
        ([SQUARE[0], SQUARE[2], SQUARE[1], SQUARE[3]], "sides 1 and 3 of an outline cross"),
    ],
)
def test_an_outline_that_is_none_is_refused(corners: list[tuple[float, float]], says: str) -> None:
    with pytest.raises(ScoreError, match=says):
        outline_area(corners)


def test_a_stain_that_was_not_there_has_no_share() -> None:
    with pytest.raises(ScoreError, match="no outline before"):
        wiped_share([], [SQUARE])
    with pytest.raises(ScoreError, match="'0,0 x' is no outline"):
        read_outlines("0,0 x")
