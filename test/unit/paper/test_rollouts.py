"""The paper's rollouts, and what it calculates from them."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from sim_bridges.paper.published import TABLES
from sim_bridges.paper.rollouts import Check, recompute


def test_fig_4_and_table_3_come_from_the_rollouts() -> None:
    """Every figure is within half a point of the rows: no rollout was copied wrong."""
    found = recompute()
    for number, ours in (("Fig. 4", found.fig_4), ("3", found.table_3)):
        printed = {line.method: line.figures for table in TABLES if table.number == number for line in table.rows}
        assert ours.keys() == printed.keys()
        for method, figures in printed.items():
            assert np.abs(np.array(ours[method][: len(figures)]) - np.array(figures, float)).max() <= 0.5 + 1e-9
    assert found.table_3["la_direct"][-3:] == pytest.approx((250 / 3, 200 / 3, 75))


def test_what_does_not_match_the_rows_is_named() -> None:
    found = recompute()
    assert len(found.checks) > 400
    assert [(c.where, str(c.printed), round(float(c.exact), 2)) for c in found.wrong] == [
        ("Table 18 (Baseline), place_mango, average of score (total)", "0.60", 0.65),
        ("Table 3, LA-Align, average (all), points above the baseline", "21", 21.67),
        ("Table 3, LA-Direct, average (ID), points above the baseline", "6", 6.67),
        ("Table 3, LA-Cond, average (all), points above the baseline", "26", 26.67),
        ("Table 3, LA-Tok, average (ID), points above the baseline", "6", 6.67),
        ("Appendix F.2, rollouts of a method in each setting of a pick-and-place task", "10", 5.0),
    ]
    assert found.off_rubric["Table 13 (Baseline), stack_4_bowls, rollout 6"] == (0.9, 0.7)
    assert sum(map(len, found.off_rubric.values())) == 84
    assert "printed 0.60, by the rows 0.65" in str(found) and found.to_dict()["wrong"][0]["by_the_rows"] == 0.65


@pytest.mark.parametrize(
    ("printed", "exact", "right"),
    [
        ("0.64", "0.635", True),
        ("0.63", "0.635", True),
        ("0.62", "0.635", False),
        ("48", "47.5", True),
        ("48", "47.4", False),
    ],
)
def test_a_figure_is_right_to_half_a_unit_of_its_last_digit(printed: str, exact: str, right: bool) -> None:
    assert Check(where="", printed=Decimal(printed), exact=Fraction(exact)).right is right
