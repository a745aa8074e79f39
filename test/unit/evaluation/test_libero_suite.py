"""LIBERO in the harness, as far as it needs no simulator: protocol, comparability, and which action is due."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from lavla_ros.contract import ActionChunk, load_contract
from sim_bridges.suites import choose_tasks, load_suite, make_plans, protocol_starts
from sim_bridges.world import Assets, EvaluationConditions, SuiteError
from sim_bridges.worlds.libero.suite import LiberoSuite, RelativeActions

CONTRACT = load_contract("libero")
DT = CONTRACT.dt_ns
needs_libero = pytest.mark.skipif(importlib.util.find_spec("libero") is None, reason="hf-libero is not installed")


def chunk(stamp_ns: int, first: float) -> ActionChunk:
    """Action h moves x by ``first`` + h / 100 and closes the gripper."""
    actions = np.zeros((8, 7))
    actions[:, 0] = first + np.arange(8) / 100
    actions[:, 6] = 1.0
    return ActionChunk(stamp_ns=stamp_ns, dt_ns=DT, actions_HA=actions, names=CONTRACT.action.names)


def test_actions_are_executed_one_by_one() -> None:
    actions = RelativeActions(CONTRACT)
    moved = [actions.due(chunk(0, 0.1) if step == 0 else None, step * DT)[0] for step in range(8)]
    assert moved == pytest.approx([0.1 + h / 100 for h in range(8)])


def test_a_late_chunk_begins_with_the_action_that_is_due() -> None:
    actions = RelativeActions(CONTRACT)
    assert actions.due(None, 0).tolist() == [0, 0, 0, 0, 0, 0, -1]
    assert actions.due(None, DT).tolist() == [0, 0, 0, 0, 0, 0, -1]
    assert actions.due(chunk(0, 0.1), 2 * DT)[0] == pytest.approx(0.12)


def test_past_the_chunk_the_arm_rests_and_the_gripper_stays() -> None:
    actions = RelativeActions(CONTRACT)
    actions.due(chunk(0, 0.1), 0)
    assert actions.due(None, 8 * DT).tolist() == [0, 0, 0, 0, 0, 0, 1]


@needs_libero
@pytest.mark.parametrize(
    ("name", "tasks", "steps"),
    [("spatial", 10, 220), ("object", 10, 280), ("goal", 10, 300), ("10", 10, 520), ("90", 90, 400)],
)
def test_the_standard_protocol(name: str, tasks: int, steps: int) -> None:
    suite = load_suite(f"libero_{name}")
    rules = suite.rules
    assert (len(suite.tasks), rules.max_steps, rules.episodes, rules.seed) == (tasks, steps, 50, 7)
    plans = make_plans(
        protocol_starts(suite, suite.default_tasks, episodes=rules.episodes, seed=rules.seed),
        max_steps=rules.max_steps,
    )
    assert len(plans) == 50 * tasks
    assert {(p.seed, p.state_index) for p in plans} == {(7, k) for k in range(50)}


@needs_libero
def test_tasks_by_number_and_by_name() -> None:
    suite = load_suite("libero_object")
    by_number, by_name = choose_tasks(suite, ["3"]), choose_tasks(suite, [suite.tasks[3]])
    assert by_number == by_name == (suite.tasks[3],)
    with pytest.raises(SuiteError, match=r"(?s)no task '10'; it has\s+0: pick_up_the_alphabet_soup.*9: "):
        choose_tasks(suite, ["10"])
    with pytest.raises(SuiteError, match=r"initial state 50 of libero_object is out of range.*50 at most"):
        protocol_starts(suite, by_name, episodes=51, seed=7)


@needs_libero
def test_comparability_names_every_departure(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = LiberoSuite("libero_object")
    official = EvaluationConditions(
        tasks=suite.tasks,
        episodes=50,
        seed=7,
        max_steps=280,
        replan_steps=8,
        latency_steps=0,
        policy="runs/p",
        backbone="pretrained",
    )
    monkeypatch.setattr(suite, "assets", lambda: Assets(source="official", statement="LIBERO's own assets."))
    fine = suite.comparability(official)
    assert fine.comparable and "LIBERO's own assets" in fine.statement
    tiny = suite.comparability(replace(official, backbone="tiny"))
    assert tiny.comparable and "tiny backbone" in tiny.statement
    for changed, words in (
        (replace(official, episodes=10), "10 episodes a task in place of 50"),
        (replace(official, tasks=suite.tasks[:2]), "2 of the suite's 10 tasks"),
        (replace(official, max_steps=300), "300 steps at most in place of 280"),
        (replace(official, seed=0), "0 as the seed in place of 7"),
        (replace(official, replan_steps=5), "5 steps between inferences in place of 8"),
        (replace(official, latency_steps=2), "2 steps late"),
        (replace(official, policy="expert"), "no policy"),
    ):
        judged = suite.comparability(changed)
        assert not judged.comparable and words in judged.statement
    monkeypatch.setattr(suite, "assets", lambda: Assets(source="ours", stand_ins=15))
    assert "15 of the scenes' files" in suite.comparability(official).statement
