"""RoboTwin's official protocol in the harness, on a task with its interface."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from robotwin_checkpoint import write_checkpoint
from swing_task import LIMIT, NAME, SwingOptions, SwingSource, SwingSuite

from lavla_ros.contract import ActionChunk, Observation
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.episode import evaluate_episode
from sim_bridges.evaluation.evaluation import evaluate
from sim_bridges.evaluation.results import same_episodes
from sim_bridges.suites import choose_tasks, load_suite
from sim_bridges.world import EpisodePlan, EvaluationConditions, SuiteError
from sim_bridges.worlds.robotwin import search
from sim_bridges.worlds.robotwin import suite as suite_module
from sim_bridges.worlds.robotwin.environment import RobotwinError
from sim_bridges.worlds.robotwin.standin.instructions import all_instructions
from sim_bridges.worlds.robotwin.standin.tasks import TASK_TYPES
from sim_bridges.worlds.robotwin.standin_source import StandinSource
from sim_bridges.worlds.robotwin.suite import SEEDS_FILE, RobotwinTaskEnvironment
from sim_bridges.worlds.robotwin.task_sets import PAPER_4, PAPER_10

ACCEPTED = [100_000, 100_001, 100_002, 100_004, 100_006, 100_008]  # 3: unstable, 5: stops short, 7: no plan
EVALUATION = EvaluationConfig(suite=NAME, episodes=3, max_steps=4, replan_steps=2, videos=0)


def test_the_official_numbers() -> None:
    suite = SwingSuite()
    assert (suite.rules.episodes, suite.rules.seed, suite.rules.replan_steps) == (100, 0, 25)
    assert [suite.plan("swing", trial, 2).seed for trial in (0, 1, 99)] == [300_000, 300_001, 300_099]
    assert suite.plan("swing", 0, 0).max_steps == LIMIT


def test_a_seed_counts_where_the_expert_solves_it(tmp_path: Path) -> None:
    suite = SwingSuite()
    found = suite.find(["swing"], episodes=6, seed=0, folder=tmp_path, workers=2)
    assert [start.seed for start in found["swing"]] == ACCEPTED
    said = {start.seed: start.instruction for start in found["swing"]}
    assert said == {seed: SwingSource().instruction("swing", seed, INFO, "unseen") for seed in ACCEPTED}
    assert len(set(said.values())) > 1
    rows = {row["seed"]: row for row in json.loads((tmp_path / SEEDS_FILE).read_text())["tasks"]["swing"]}
    assert list(rows) == list(range(100_000, 100_009))
    assert "UnStableError" in rows[100_003]["rejected"] and "no plan" in rows[100_007]["rejected"]
    assert rows[100_004] == {"seed": 100_004, "instruction": said[100_004]}


INFO = {"{A}": "left mark", "{B}": "right mark"}


def test_a_recording_keeps_all_seen_instructions_and_of_an_unseen_one_none() -> None:
    source, task = StandinSource(), "stack_two_blocks"
    environment = RobotwinTaskEnvironment(SimpleNamespace(name=task), SimpleNamespace(source=source))
    plan = EpisodePlan(index=0, task=task, trial=0, seed=7, state_index=None, max_steps=1)
    words = TASK_TYPES[task].words_of(7)
    own, unseen = (source.instruction(task, 7, words, kind) for kind in ("seen", "unseen"))
    several = environment.phrasings(replace(plan, instruction=own))
    assert several[0] == own and len(several) > 1
    assert set(several) == set(all_instructions(task, words, "seen"))
    assert environment.phrasings(replace(plan, instruction=unseen)) == ()
    with_no_list = RobotwinTaskEnvironment(SimpleNamespace(name="swing"), SimpleNamespace(source=SwingSource()))
    assert with_no_list.phrasings(replace(plan, task="swing", instruction="see")) == ()


def test_what_was_found_is_not_looked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = SwingSuite()
    first = suite.find(["swing"], episodes=4, seed=0, folder=tmp_path, workers=1)
    asked: list[int] = []

    def counted(*asked_for: Any):
        asked.append(asked_for[-1])
        yield from search.search(*asked_for)

    monkeypatch.setattr(suite_module, "search", counted)
    assert suite.find(["swing"], episodes=3, seed=0, folder=tmp_path, workers=1)["swing"] == first["swing"][:3]
    assert asked == []
    more = suite.find(["swing"], episodes=5, seed=0, folder=tmp_path, workers=1)
    assert asked == [100_005] and [start.seed for start in more["swing"]] == ACCEPTED[:5]


def test_an_expert_that_solves_nothing_ends_the_search(tmp_path: Path) -> None:
    suite = SwingSuite(SwingOptions(fault="expert"), most_rejected=4)
    with pytest.raises(
        RobotwinError, match=r"none of 4 seeds of swing in a row, 100000 to 100003 \(3: no plan was found; 1: the scene"
    ):
        suite.find(["swing"], episodes=1, seed=0, folder=tmp_path, workers=1)
    rows = json.loads((tmp_path / SEEDS_FILE).read_text())["tasks"]["swing"]
    assert [row["seed"] for row in rows] == [100_000, 100_001, 100_002, 100_003]


@pytest.mark.parametrize(("fault", "words"), [("die", "from 100000 on died"), ("hang", "with seed 100000 of swing in")])
def test_an_expert_that_takes_its_process_along_or_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setattr(search, "TRY_TIMEOUT_S", 2.0 if fault == "hang" else 200.0)
    with pytest.raises(RobotwinError, match=words):
        SwingSuite(SwingOptions(fault=fault)).find(["swing"], episodes=1, seed=0, folder=tmp_path, workers=1)


def test_a_given_list_is_run_and_nothing_else(tmp_path: Path) -> None:
    SwingSuite().find(["swing"], episodes=4, seed=0, folder=tmp_path / "a", workers=1)
    given = str(tmp_path / "a" / SEEDS_FILE)
    replayed = SwingSuite(SwingOptions(seeds=given))
    found = replayed.find(["swing"], episodes=3, seed=0, folder=tmp_path / "b", workers=1)
    assert [start.seed for start in found["swing"]] == ACCEPTED[:3]
    assert (tmp_path / "b" / SEEDS_FILE).read_text() == Path(given).read_text()
    with pytest.raises(SuiteError, match="has 4 episodes of swing; 5 are to be run"):
        replayed.find(["swing"], episodes=5, seed=0, folder=tmp_path / "c", workers=1)
    with pytest.raises(SuiteError, match="has 0 episodes of swing_again"):
        replayed.find(["swing_again"], episodes=1, seed=0, folder=tmp_path / "c", workers=1)
    SwingSuite().find(["swing"], episodes=1, seed=5, folder=tmp_path / "d", workers=1)
    with pytest.raises(SuiteError, match="has other episodes of swing"):
        replayed.find(["swing"], episodes=1, seed=0, folder=tmp_path / "d", workers=1)
    with pytest.raises(SuiteError, match="is not a file"):
        SwingSuite(SwingOptions(seeds=str(tmp_path / "none"))).find(
            ["swing"], episodes=1, seed=0, folder=tmp_path, workers=1
        )


def test_lists_of_other_episodes_are_refused(tmp_path: Path) -> None:
    suite = SwingSuite()
    suite.find(["swing"], episodes=1, seed=0, folder=tmp_path, workers=1)
    with pytest.raises(RobotwinError, match="instructions 'unseen' there, 'seen' now"):
        SwingSuite(SwingOptions(instructions="seen")).find(["swing"], episodes=1, seed=0, folder=tmp_path, workers=1)
    (tmp_path / SEEDS_FILE).write_text('{"tasks": []}')
    with pytest.raises(RobotwinError, match="is no list of seeds"):
        suite.find(["swing"], episodes=1, seed=0, folder=tmp_path, workers=1)
    with pytest.raises(SuiteError, match="instructions is 'spoken'"):
        load_suite(NAME, {"instructions": "spoken"})


def test_an_evaluation_goes_on_with_its_episodes_and_its_list_repeats_them(tmp_path: Path) -> None:
    config = replace(EVALUATION, policy=str(write_checkpoint(tmp_path / "policy")))

    class Stopped(Exception):
        pass

    def stop(episode: object) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        evaluate(config, out=tmp_path / "one", on_episode=stop)
    found = (tmp_path / "one" / SEEDS_FILE).read_text()
    assert len(list((tmp_path / "one" / "episodes").glob("*.json"))) == 1
    once = evaluate(config, out=tmp_path / "one")
    assert [(e.seed, e.error, e.inferences, e.length_steps) for e in once.episodes] == [
        (seed, None, 2, 4) for seed in ACCEPTED[:3]
    ]
    assert len({e.initial_state for e in once.episodes}) == 3
    assert (tmp_path / "one" / SEEDS_FILE).read_text() == found

    listed = replace(config, options={"seeds": str(tmp_path / "one" / SEEDS_FILE)}, seed=8)
    assert same_episodes(once, evaluate(listed, out=tmp_path / "listed"))


def test_the_expert_is_judged_on_all_seeds_by_way_of_commands(tmp_path: Path) -> None:
    expert = evaluate(replace(EVALUATION, policy="expert", episodes=8, max_steps=None))
    outcomes = {e.seed: (e.success, e.error) for e in expert.episodes}
    assert {seed for seed, (success, _) in outcomes.items() if success} == set(ACCEPTED[:5])
    assert outcomes[100_005] == (False, None)
    assert outcomes[100_003][1] is not None and "UnStableError" in outcomes[100_003][1]
    assert all(3 <= e.length_steps <= 18 for e in expert.episodes if e.success)


def test_the_expert_meets_the_episodes_of_a_given_list_and_a_replay_refuses_one(tmp_path: Path) -> None:
    SwingSuite().find(["swing"], episodes=4, seed=0, folder=tmp_path, workers=1)
    options = {"seeds": str(tmp_path / SEEDS_FILE)}
    expert = evaluate(replace(EVALUATION, policy="expert", episodes=4, max_steps=None, options=options))
    assert [(e.seed, e.success) for e in expert.episodes] == [(seed, True) for seed in ACCEPTED[:4]]
    with pytest.raises(ValueError, match="replay: has those of its dataset"):
        evaluate(replace(EVALUATION, policy="replay:anything", options=options))
    with pytest.raises(SuiteError, match="none is not a file"):
        evaluate(replace(EVALUATION, policy="expert", options={"seeds": str(tmp_path / "none")}))


def test_a_chunk_is_counted_in_commands_not_in_time() -> None:
    environment = SwingSuite().environment("swing", images=True)
    environment.reset(EpisodePlan(index=0, task="swing", trial=0, seed=100_002, state_index=None, max_steps=9))
    inner = environment.environment
    actions = np.zeros((3, 14))
    actions[:, 1] = (0.1, 0.15, 0.2)
    seen = environment.observe(images=False)
    names, dt_ns = inner.contract.action.names, inner.contract.dt_ns
    chunk = ActionChunk(stamp_ns=seen.stamp_ns, dt_ns=dt_ns, actions_HA=actions, names=names)
    environment.step(None)  # it comes a step late: its first action is past
    targets = []
    for late in (chunk, None, None):
        environment.step(late)
        targets.append(inner.commanded()[1])
    assert targets == [0.15, 0.2, 0.2]  # past the end the arms stay
    assert inner.time_ns > 4 * inner.contract.dt_ns / 4


@pytest.mark.parametrize(("fault", "words"), [("get_obs", "get_obs of swing failed after 0"), ("take_action", "TOPP")])
def test_an_episode_in_which_robotwin_raises_is_in_error_and_the_next_one_is_not(fault: str, words: str) -> None:
    environment = SwingSuite(SwingOptions(fault=fault)).environment("swing", images=True)
    plan = EpisodePlan(index=0, task="swing", trial=0, seed=100_002, state_index=None, max_steps=2)
    contract = environment.environment.contract

    class Still:
        every, needs_images, done = 1, True, False

        def reset(self, plan: EpisodePlan) -> None: ...

        def chunk(self, observation: Observation) -> ActionChunk:
            names, dt_ns, actions = contract.action.names, contract.dt_ns, np.zeros((1, 14))
            return ActionChunk(stamp_ns=observation.stamp_ns, dt_ns=dt_ns, actions_HA=actions, names=names)

        def finish(self, *, success: bool) -> None: ...

        def close(self) -> None: ...

    result = evaluate_episode(environment, Still(), contract, plan)
    assert result.error is not None and words in result.error and result.length_steps == 0 and not result.success
    environment.environment.task.fault = ""
    assert evaluate_episode(environment, Still(), contract, plan).error is None


def test_task_sets_and_comparability() -> None:
    assert len(PAPER_4) == 4 and len(PAPER_10) == 10 and len(set(PAPER_10)) == 10
    suite = SwingSuite()
    suite.task_sets = {"both": ("swing_again", "swing")}
    assert choose_tasks(suite, ["both"]) == ("swing", "swing_again")
    official = EvaluationConditions(
        tasks=("swing",),
        episodes=100,
        seed=0,
        max_steps=LIMIT,
        replan_steps=25,
        latency_steps=0,
        policy="runs/p",
        backbone="pretrained",
    )
    assert suite.comparability(official).comparable
    for changed, words in (
        (replace(official, episodes=20), "20 episodes a task in place of 100"),
        (replace(official, max_steps=30), "30 steps at most"),
        (replace(official, policy="expert"), "no policy"),
        (replace(official, latency_steps=1), "1 steps late"),
    ):
        judged = suite.comparability(changed)
        assert not judged.comparable and words in judged.statement
    assert "stand-in" in SwingSuite(SwingOptions(fault="expert")).comparability(official).statement
    assert "seen instructions" in SwingSuite(SwingOptions(instructions="seen")).comparability(official).statement
