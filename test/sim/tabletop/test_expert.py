"""The scripted expert through the executor, in lock-step. All of it: ``python -m sim_bridges.measure tabletop``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lavla_ros.contract import Contract, Observation
from sim_bridges.episode import ExpertActor, Observer, run_episode
from sim_bridges.measure import show
from sim_bridges.suites import load_suite
from sim_bridges.world import EpisodePlan
from sim_bridges.worlds.tabletop.disturbance import DisturbanceConfig, DisturbanceSource
from sim_bridges.worlds.tabletop.expert import ExpertConfig, ScriptedExpert
from sim_bridges.worlds.tabletop.sim import TabletopSim
from sim_bridges.worlds.tabletop.suite import TabletopEnvironment

pytestmark = pytest.mark.sim


def plan(seed: int, task: str = "pick_place") -> EpisodePlan:
    return EpisodePlan(index=0, task=task, trial=0, seed=seed, state_index=None, max_steps=150)


class Shown(Observer):
    """Keeps every observation, and the clean label (A,) of the step that follows it."""

    every_step = True

    def __init__(self) -> None:
        self.observations: list[Observation] = []
        self.labels: list[np.ndarray] = []

    def observed(self, observation: Observation) -> None:
        self.observations.append(observation)

    def stepped(self, stamp_ns: int, action_A: np.ndarray | None) -> None:
        assert action_A is not None and stamp_ns == self.observations[-1].stamp_ns
        self.labels.append(action_A.copy())


def shown(environment: TabletopEnvironment, seed: int, *, disturb: bool = False) -> Shown:
    observer = Shown()
    actor, contract = ExpertActor(environment.expert()), environment.contract
    disturbance = environment.disturbance(plan(seed)) if disturb else None
    run_episode(environment, actor, plan(seed), contract=contract, observer=observer, disturbance=disturbance)
    assert environment.outcome().success
    return observer


@pytest.mark.parametrize(
    ("task", "layout", "seeds"),
    [
        ("stack_3_bowls", "ood", (40,)),
        ("stack_4_bowls", "id", (40,)),
        ("wipe_stain", "ood", (40, 41)),
        ("place_mango", "ood", (40, 41)),
        ("place_bottle", "id", (40, 41)),
    ],
)
def test_solves_the_papers_task(task: str, layout: str, seeds: tuple[int, ...]) -> None:
    suite = load_suite("tabletop", {"layout": layout})
    environment = suite.environment(task, images=False)
    episodes = [show(environment, replace(plan(seed, task), max_steps=300), suite.contract) for seed in seeds]
    assert all(episode.success for episode in episodes)
    assert np.mean([episode.score for episode in episodes]) > 0.9


def test_a_sponge_is_dented_by_the_fingers_and_springs_back() -> None:
    environment = load_suite("tabletop").environment("place_sponge", images=False)
    session, expert, dents = environment.session, environment.expert(), []
    session.reset(40)
    sides = [session.sim.model.joint(f"sponge_{side}_{i}").qposadr[0] for side in ("left", "right") for i in range(3)]
    while not session.sim.outcome().success:
        session.step(expert.chunk())
        dents.append(session.sim.data.qpos[sides].copy())
        assert len(dents) < 100
    deepest = np.array(dents).min(axis=0)
    assert deepest.min() < -0.005 and np.abs(dents[-1]).max() < 0.001


@pytest.mark.parametrize(("task", "layout"), [("pick_place", "id"), ("stack_bowls", "id"), ("pick_place", "ood")])
def test_solves_the_task(task: str, layout: str) -> None:
    suite = load_suite("tabletop", {"layout": layout})
    environment = suite.environment(task, images=False)
    episodes = [show(environment, plan(seed, task), suite.contract) for seed in (40, 41, 42)]
    assert all(episode.success and episode.steps < 120 for episode in episodes)
    assert np.mean([episode.score for episode in episodes]) > 0.9


def test_recovers_from_disturbances(environment: TabletopEnvironment) -> None:
    for seed in (10, 11, 12):
        calm = show(environment, plan(seed), environment.contract)
        pushed = show(environment, plan(seed), environment.contract, disturb=True)
        assert pushed.success and pushed.trajectory != calm.trajectory


def test_fetches_an_object_that_was_moved_away_while_reaching_for_it(environment: TabletopEnvironment) -> None:
    session, expert = environment.session, environment.expert()
    session.reset(3)
    expert.reset()
    for step in range(150):
        if expert.done:
            break
        session.step(expert.chunk())
        if step == 14:
            session.sim.data.joint("mango").qpos[:2] += [-0.02, -0.04]
    assert session.sim.outcome().success


def test_equal_seeds_give_equal_episodes(environment: TabletopEnvironment) -> None:
    runs = []
    for _ in range(2):
        episode = shown(environment, 6, disturb=True)
        states = np.array([o.state for o in episode.observations])
        runs.append((states, np.array(episode.labels), environment.sim.snapshot()))
    for first, second in zip(*runs, strict=True):
        assert np.array_equal(first, second)


def test_the_label_is_what_the_arm_does_a_step_later(environment: TabletopEnvironment, contract: Contract) -> None:
    episode = shown(environment, 1)
    labels = np.array(episode.labels)[:-1, :6]
    states = np.array([o.state for o in episode.observations])[1:, :6]
    assert np.percentile(np.abs(labels - states), 95) < 0.01
    assert [o.stamp_ns for o in episode.observations] == [i * contract.dt_ns for i in range(len(episode.labels))]
    gripper = np.array([label[6] for label in episode.labels])
    assert set(gripper) == {0.0, 1.0}


def test_disturbances_change_what_is_executed_and_come_in_bursts(environment: TabletopEnvironment) -> None:
    environment.session.reset(0)
    chunk = environment.expert().chunk()

    def pushed() -> list[bool]:
        source = DisturbanceSource(DisturbanceConfig(start_probability=0.1), 3)
        return [not np.array_equal(source.apply(chunk).actions_HA, chunk.actions_HA) for _ in range(400)]

    pushes = np.array(pushed())
    assert pushed() == pushes.tolist()
    starts = np.flatnonzero(np.diff(pushes.astype(int)) == 1).size
    assert 10 < starts < 60
    assert 0.25 < pushes.mean() < 0.7


def test_refuses_a_contract_that_it_cannot_command(pick_sim: TabletopSim, contract: Contract) -> None:
    delta = replace(contract, action=replace(contract.action, mode="delta"))
    with pytest.raises(ValueError, match="delta"):
        ScriptedExpert(pick_sim, delta)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="speed_m_s"):
        ExpertConfig(speed_m_s=0.0)
    with pytest.raises(ValueError, match="steps"):
        DisturbanceConfig(steps=(3, 2))
    with pytest.raises(ValueError, match="start_probability"):
        DisturbanceConfig(start_probability=1.5)
