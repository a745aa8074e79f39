"""Pairs of episodes from the same initial states, and nothing else, are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_results import results

from sim_bridges.evaluation.compare import compare, short_names
from sim_bridges.evaluation.results import ResultsError


def test_pairs_and_verdict() -> None:
    left = results([True, True, False, False, None, True])
    right = results([True, False, True, False, True, None], policy="q")
    both = compare(left, right)
    assert (both.pairs.both, both.pairs.only_left, both.pairs.only_right, both.pairs.neither) == (1, 1, 1, 1)
    assert both.unpaired == 4
    assert "No difference" in both.verdict()
    assert both.to_dict()["difference"] == 0.0


def test_a_difference_and_how_sure_it_is() -> None:
    left, right = results([False] * 6 + [True] * 4), results([True] * 10, policy="q")
    sure = compare(left, right)
    assert sure.pairs.p_value == pytest.approx(2 / 64)
    assert sure.verdict().startswith("q is better")
    assert "10/10 (100.0%" in str(sure) and "4/10 (40.0%" in str(sure)
    unsure = compare(results([False] * 5 + [True] * 5), right, names=("old", "new"))
    assert "by chance alone" in unsure.verdict() and unsure.verdict().startswith("new succeeded more often")


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/s/baseline/evaluation", "runs/s/la_tok/evaluation"], ["baseline", "la_tok"]),
        (["runs/a/1/e", "runs/b/2/e"], ["a/1", "b/2"]),
        (["/old/object", "new"], ["/old/object", "new"]),
        (["runs/object", "runs/object/again"], ["runs/object", "runs/object/again"]),
        (["a", "b", "b"], ["a", "b", "b"]),
    ],
)
def test_evaluations_are_named_by_what_tells_them_apart(folders: list[str], names: list[str]) -> None:
    assert short_names([Path(folder) for folder in folders]) == names


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"suite": "libero_goal"}, "suite 'libero_object' in one, 'libero_goal' in the other"),
        ({"contract_hash": "d"}, "contract 'c' in one, 'd'"),
        ({"assets": {"hash": "other"}}, "assets 'h' in one, 'other'"),
        ({"settings": {"max_steps": 300}}, "max_steps 280 in one, 300"),
        ({"episodes": ()}, "no episode of the same task, trial and seed"),
    ],
)
def test_what_cannot_be_paired(change: dict[str, object], says: str) -> None:
    with pytest.raises(ResultsError, match=says):
        compare(results([True]), replace(results([True]), **change))  # type: ignore[arg-type]


def test_other_initial_states_are_found_out() -> None:
    left = results([True])
    moved = replace(left, episodes=(replace(left.episodes[0], initial_state="elsewhere"),))
    with pytest.raises(ResultsError, match=r"began in state state0 .* and elsewhere"):
        compare(left, moved)
