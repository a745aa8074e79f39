"""The verdicts on the paper's findings and the page, from cells whose outcomes are made up."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lavla_ros.config import from_plain
from lavla_ros.contract import load_contract
from sim_bridges.evaluation.results import EpisodeResult, Results
from sim_bridges.paper.analysis import Analysis, CellResult, analyse
from sim_bridges.paper.grid import Study, cells_of
from sim_bridges.paper.page import write_page
from sim_bridges.paper.plan import Plan, StudyError

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from test_report import Reader

EIGHT = [
    "baseline",
    "ph_direct",
    "la_align",
    "la_direct",
    "la_cond",
    "la_tok",
    "la_direct_continuous",
    "la_tok_continuous",
]
TASKS = {
    "stack": {
        "dataset": "d",
        "suite": "tabletop",
        "tasks": ["stack_bowls"],
        "kind": "long",
        "also": {"ood": {"layout": "ood"}},
    },
    "hand": {"dataset": "d", "suite": "robotwin", "tasks": ["place_a2b_left"], "kind": "motor"},
}
SINGLE = {"methods": EIGHT}
JOINT = {"methods": ["baseline", "la_cond"], "training": ["joint"]}


def study(*grids: Mapping[str, object]) -> Study:
    return from_plain(Study, {"tasks": TASKS, "grids": list(grids or (SINGLE, JOINT))}, source="the test")


def evaluated(share: float, seed: int, suite: str, task: str, layouts: int = 100) -> Results:
    """A policy that succeeds in ``share`` of the layouts: always in the easier ones, but for some noise."""
    hard = np.linspace(0, 1, layouts)
    went = hard + np.random.default_rng(seed).normal(0, 0.05, layouts) < share
    episodes = [
        EpisodeResult(
            index=i,
            seed=1,
            initial_state=f"s{i}",
            success=bool(good),
            score=float(good),
            length_steps=9,
            task=task,
            trial=i,
        )
        for i, good in enumerate(went)
    ]
    return Results(
        suite=suite, task=task, policy="p", contract_hash="c", settings={}, episodes=tuple(episodes)
    )  # fmt: skip


def results(config: Study, share: Mapping[str, float], **places: float) -> list[CellResult]:
    """``share``: method → how often its policies succeed; ``places``: added to that at NAME or NAME_WHICH, of methods
    that end with it."""
    found = []
    for number, cell in enumerate(cells_of(config)):
        done = {}
        for name in cell.tasks:
            for which in ("", *config.tasks[name].also):
                key = "_".join(
                    filter(None, [cell.method, name, which, cell.training if cell.training == "joint" else ""])
                )
                value = share.get(cell.method, 0.4) + places.get(key, 0.0)
                task = config.tasks[name]
                done[name, which] = evaluated(value, number, task.suite, task.tasks[0])
        found.append(CellResult(cell=cell, state="finished", results=done, policy=Path("p"), validation_mse=0.1))
    return found


THE_PAPERS = {
    "baseline": 0.3, "ph_direct": 0.3, "la_align": 0.5, "la_direct": 0.7, "la_cond": 0.5, "la_tok": 0.6,
    "la_direct_continuous": 0.5, "la_tok_continuous": 0.5,
}  # fmt: skip
PLACES = {
    "la_tok_stack": -0.2, "la_tok_stack_ood": -0.2, "la_tok_hand": 0.3,
    "la_cond_stack_joint": 0.3, "la_cond_hand_joint": 0.3,
}  # fmt: skip


def verdicts(found: Analysis) -> list[str]:
    return [finding.verdict for finding in found.findings]


def test_a_world_as_the_paper_finds_it() -> None:
    config = study()
    assert verdicts(analyse(config, results(config, THE_PAPERS, **PLACES))) == ["holds"] * 3


def test_a_world_in_which_nothing_helps() -> None:
    config = study()
    found = analyse(config, results(config, {}))
    assert verdicts(found) == ["does not hold"] * 3
    assert "below 5 points" in found.findings[0].parts[0].why
    assert not any(row.p_holm is not None and row.p_holm < 0.05 for row in found.rows)


def test_what_cannot_be_told() -> None:
    config = study()
    cells = results(config, THE_PAPERS, **PLACES)
    one_seed = [each for each in cells if each.cell.seed == 0]
    assert verdicts(analyse(config, one_seed)) == ["cannot tell"] * 3
    assert "one seed on both sides" in analyse(config, one_seed).findings[1].parts[0].why
    few = study({"methods": ["baseline", "la_direct", "la_tok"]})
    found = analyse(few, results(few, THE_PAPERS))
    assert found.findings[1].verdict == "cannot tell"
    first, second, *_ = found.findings[1].parts
    assert (first.verdict, second.why) == ("holds", "the study is without ph_direct")
    assert "without joint training" in found.findings[2].parts[0].why


def test_a_seed_that_diverged_succeeds_nowhere_and_one_that_is_missing_is_left_out() -> None:
    config = study({"methods": ["baseline", "la_tok"], "tasks": ["hand"]})
    cells = results(config, {"la_tok": 0.8})
    broken = [
        replace(each, state="diverged", results={}, said="the loss is nan")
        if each.cell.name == "la_tok.hand.seed1"
        else each
        for each in cells
    ]
    row = analyse(config, broken).rows[1]
    assert row.diverged == (1,) and row.of_seeds[1] == 0 and row.rate.mean == pytest.approx(2 / 3 * 0.8, abs=0.05)
    missing = [each for each in cells if each.cell.name != "la_tok.hand.seed1"]
    row = analyse(config, missing).rows[1]
    assert row.seeds == (0, 2) and row.against is not None and row.against.seeds == 2


def test_policies_that_were_evaluated_in_other_scenes_are_not_paired() -> None:
    config = study({"methods": ["baseline", "la_tok"], "tasks": ["hand"]})
    cells = results(config, {})
    (results_,) = cells[-1].results.values()
    other = replace(results_, episodes=(replace(results_.episodes[0], initial_state="else"), *results_.episodes[1:]))
    with pytest.raises(StudyError, match="began in state s0 with one policy and in else with another"):
        analyse(config, [*cells[:-1], replace(cells[-1], results={("hand", ""): other})])
    fewer = replace(results_, episodes=results_.episodes[:-1])
    with pytest.raises(StudyError, match="evaluated on 99 of the 100 layouts"):
        analyse(config, [*cells[:-1], replace(cells[-1], results={("hand", ""): fewer})])


def test_the_page_has_every_table_of_the_paper_and_ours_in_it(tmp_path: Path) -> None:
    lines = {"methods": ["la_tok"], "fractions": [0.33, 0.5], "weights": [0.1, 0.2]}
    config = study(SINGLE, JOINT, lines)
    cells = results(config, THE_PAPERS, **PLACES)
    contracts = {Path("c"): load_contract("jaka_minicobo")}
    plan = Plan(stages={}, cells=(), inputs={}, contents={}, contracts=contracts, seconds={}, measured=frozenset())
    write_page(
        tmp_path / "r.html", config, plan, cells, analyse(config, cells), wall_s=60.0, source="steps: <2000>"
    )  # fmt: skip
    html = (tmp_path / "r.html").read_text()
    page = Reader(re.sub(r"<(polyline|circle)[^>]*/>", "", html))
    words = " ".join(page.words)
    for number in (*range(1, 13), "Fig. 4", "Fig. 8"):
        assert re.search(rf"(Table )?{number}( \(left\))?: ", words), number
    assert "&lt;2000&gt;" in html and page.loads == []
    fig_4 = next(row for row in page.rows if row[:2] and row[0] == "LA-Direct" and row[1].startswith("83.0"))
    assert re.fullmatch(r"83\.0(69|70|71)\.\d \(\d+–\d+, 3 seeds\)", fig_4[1]), fig_4
    joint = next(row for row in page.rows if row[0] == "LA-Cond, joint" and len(row) > 10)
    assert joint[10].startswith("48.0") and "3 seeds" in joint[10]
    assert next(row for row in page.rows if row and row[0] == "LA-Direct" and row[1].startswith("P·H"))[1] == "P·H4·H"
    assert html.count("<polyline") >= 2
    assert next(row for row in page.rows if row[0].startswith("Table 18"))[1:] == ["0.60", "0.65"]
