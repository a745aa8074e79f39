"""What the scripted expert makes of the goals of LIBERO's suites, read from the benchmark's own files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.evaluation import evaluate
from sim_bridges.lockstep.config import RecordConfig
from sim_bridges.lockstep.record import record_expert
from sim_bridges.measure import MeasureConfig, measure
from sim_bridges.suites import choose_tasks, load_suite, require_experts
from sim_bridges.world import SuiteError
from sim_bridges.worlds.libero.jobs import Job, NoExpertError, has_expert, parse_jobs, read_jobs
from sim_bridges.worlds.libero.tasks import find_task, suite_tasks

pytestmark = pytest.mark.skipif(importlib.util.find_spec("libero") is None, reason="hf-libero is not installed")


@pytest.mark.parametrize(
    ("suite", "task", "jobs"),
    [
        ("libero_object", 0, ["in alphabet_soup_1 basket_1_contain_region"]),
        ("libero_spatial", 4, ["on akita_black_bowl_1 plate_1"]),
        ("libero_goal", 1, ["on akita_black_bowl_1 flat_stove_1_cook_region"]),
        ("libero_goal", 9, ["on wine_bottle_1 wine_rack_1_top_region"]),
        ("libero_goal", 7, ["turnon flat_stove_1"]),
        ("libero_10", 2, ["turnon flat_stove_1", "on moka_pot_1 flat_stove_1_cook_region"]),
        ("libero_10", 0, ["in alphabet_soup_1 basket_1_contain_region", "in tomato_sauce_1 basket_1_contain_region"]),
        ("libero_10", 5, ["in black_book_1 desk_caddy_1_back_contain_region"]),
        (
            "libero_10",
            6,
            ["on porcelain_mug_1 plate_1", "on chocolate_pudding_1 living_room_table_plate_right_region"],
        ),
        # The stove is on from the beginning.
        ("libero_10", 8, ["on moka_pot_1 flat_stove_1_cook_region", "on moka_pot_2 flat_stove_1_cook_region"]),
    ],
)
def test_goals_become_jobs(suite: str, task: int, jobs: list[str]) -> None:
    assert list(map(str, read_jobs(find_task(suite, task)))) == jobs


@pytest.mark.parametrize(
    ("suite", "having"),
    [
        ("libero_object", range(10)),
        ("libero_spatial", range(10)),
        ("libero_goal", [1, 2, 4, 6, 7, 8, 9]),
        ("libero_10", [0, 1, 2, 4, 5, 6, 7, 8]),
    ],
)
def test_which_tasks_have_an_expert(suite: str, having: list[int]) -> None:
    loaded = load_suite(suite)
    assert [task.index for task in suite_tasks(suite) if has_expert(task)] == [*having]
    assert choose_tasks(loaded, ["with_expert"]) == tuple(loaded.tasks[index] for index in having)
    require_experts(loaded, choose_tasks(loaded, ["with_expert"]))


@pytest.mark.parametrize(
    ("suite", "task", "words"),
    [
        ("libero_goal", 0, r"'open wooden_cabinet_1_middle_region' opens.*1, 2, 4, 6, 7, 8, 9"),
        ("libero_goal", 3, r"'in akita_black_bowl_1 wooden_cabinet_1_top_region'.* from above"),
        ("libero_goal", 5, r"'on plate_1 main_table_stove_front_region'.* flat"),
        ("libero_10", 3, r"'close white_cabinet_1_bottom_region'"),
        ("libero_10", 9, r"'in white_yellow_mug_1 microwave_1_heating_region'"),
    ],
)
def test_other_tasks_are_refused_by_name(suite: str, task: int, words: str) -> None:
    loaded = load_suite(suite)
    with pytest.raises(SuiteError, match=rf"{suite} task {task}: no scripted expert: {words}"):
        require_experts(loaded, [loaded.tasks[task]])


def test_a_task_without_an_expert_is_refused_before_a_simulator_is_made(tmp_path: Path) -> None:
    missing = {"assets": str(tmp_path)}  # which making one would trip over
    with pytest.raises(NoExpertError, match="libero_goal task 0"):
        evaluate(EvaluationConfig(suite="libero_goal", policy="expert", episodes=1, options=missing))
    with pytest.raises(NoExpertError, match="libero_10 task 3"):
        measure(MeasureConfig(suite="libero_10", tasks=("1", "3"), options=(f"assets={tmp_path}",)))
    with pytest.raises(NoExpertError, match="libero_10 task 9"):
        record_expert(RecordConfig(out=tmp_path / "bags", suite="libero_10", task="9"), lambda episode: None)
    assert not (tmp_path / "bags").exists()


def test_what_holds_things_is_put_in_place_first() -> None:
    upper = ["on", "bowl_1", "bowl_2"]
    tray = ["in", "bowl_2", "tray_1_contain_region"]
    goal = {"goal_state": [upper, tray], "initial_state": []}
    assert parse_jobs(goal) == (Job("in", "bowl_2", "tray_1_contain_region"), Job("on", "bowl_1", "bowl_2"))
    assert parse_jobs({**goal, "initial_state": [["In", *tray[1:]]]}) == (Job("on", "bowl_1", "bowl_2"),)
    with pytest.raises(NoExpertError, match="one after another"):
        parse_jobs({**goal, "goal_state": [upper, ["on", "bowl_2", "bowl_1"]]})
    with pytest.raises(NoExpertError, match="turns off"):
        parse_jobs({**goal, "goal_state": [["turnoff", "flat_stove_1"]]})
    with pytest.raises(NoExpertError, match="nothing is to be done"):
        parse_jobs({"goal_state": [upper], "initial_state": [upper]})
