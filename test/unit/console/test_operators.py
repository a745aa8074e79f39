"""One browser has the controls."""

from __future__ import annotations

from lavla_ros.console.operators import AWAY_S, Operators


def test_the_first_has_them_and_the_next_only_when_they_are_free() -> None:
    now_s = [0.0]
    operators = Operators(lambda: now_s[0])
    operators.opened("a")
    operators.opened("b")
    assert operators.operates("a") and not operators.operates("b") and not operators.free
    assert not operators.claim("b")
    operators.closed("a")
    now_s[0] = AWAY_S - 0.1
    assert not operators.claim("b")
    operators.opened("a")  # loaded again in time
    assert operators.operates("a")
    operators.closed("a")
    now_s[0] += AWAY_S + 0.1
    assert operators.free and operators.claim("b") and not operators.operates("a")
    operators.opened("a")
    assert not operators.operates("a")


def test_they_are_given_away_and_not_taken_back_by_who_gave_them() -> None:
    operators = Operators()
    operators.opened("a")
    operators.opened("b")
    operators.release("b")
    assert operators.operates("a"), "who watches has nothing to give"
    operators.release("a")
    assert not operators.operates("a") and operators.free
    assert operators.claim("b") and not operators.claim("a")


def test_two_pages_of_one_browser_operate_until_both_are_closed() -> None:
    now_s = [0.0]
    operators = Operators(lambda: now_s[0])
    operators.opened("a")
    operators.opened("a")
    operators.closed("a")
    now_s[0] = 2 * AWAY_S
    operators.opened("b")
    assert operators.operates("a") and not operators.operates("b")
    assert not operators.claim("nobody's browser")
