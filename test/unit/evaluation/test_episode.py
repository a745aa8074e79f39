"""The one loop: who is asked when, what the observer is told, and how an episode can end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lavla_ros.contract import ActionChunk, Observation, load_contract
from sim_bridges.episode import CorrectedPolicy, Episode, ExpertActor, Observer, PlayedExpert, PolicyError, run_episode
from sim_bridges.evaluation.episode import evaluate_episode
from sim_bridges.world import EpisodePlan, Outcome

CONTRACT = load_contract("libero")
PLAN = EpisodePlan(index=0, task="count", trial=0, seed=0, state_index=None, max_steps=6)


def chunk(first: float, *, horizon: int = 4) -> ActionChunk:
    """Action h is ``first`` + h in every dimension."""
    actions = np.tile(first + np.arange(horizon, dtype=float)[:, None], (1, CONTRACT.action_dim))
    return ActionChunk(stamp_ns=0, dt_ns=CONTRACT.dt_ns, actions_HA=actions, names=CONTRACT.action.names)


class Counter:
    """An environment whose goal is to have been stepped ``goal`` times."""

    trajectory = "t"

    def __init__(self, goal: int = 99) -> None:
        self.goal, self.steps = goal, 0
        self.arrived: list[float | None] = []
        self.pictures: list[int] = []

    def reset(self, plan: EpisodePlan) -> str:
        self.steps = 0
        return "begun"

    def observe(self, *, images: bool) -> Observation:
        if images:
            self.pictures.append(self.steps)
        stamp_ns = self.steps * CONTRACT.dt_ns
        return Observation(stamp_ns=stamp_ns, images={}, state=np.zeros(8, np.float32), instruction="count")

    def step(self, chunk: ActionChunk | None) -> None:
        self.arrived.append(None if chunk is None else float(chunk.actions_HA[0, 0]))
        self.steps += 1

    def outcome(self) -> Outcome:
        return Outcome(success=self.steps >= self.goal, score=min(1.0, self.steps / self.goal))

    def expert(self) -> Expert:
        return Expert(self)

    def close(self) -> None: ...


class Expert:
    only_plays = True

    def __init__(self, counter: Counter, lasts: int = 99) -> None:
        self._counter, self._lasts = counter, lasts

    @property
    def done(self) -> bool:
        return self._counter.steps >= self._lasts

    def reset(self) -> None: ...

    def chunk(self) -> ActionChunk:
        return chunk(10.0 * self._counter.steps, horizon=1)

    def play(self, on_frame: Callable[[np.ndarray], None]) -> str:
        for _ in range(3):
            on_frame(np.full(CONTRACT.action_dim, float(self._counter.steps)))
            self._counter.steps += 1
        return "dropped it"


class Policy(ExpertActor):
    every, needs_images = 2, True

    def chunk(self, observation: Observation) -> ActionChunk:
        return super().chunk(observation) if self.every == 1 else chunk(observation.stamp_ns / CONTRACT.dt_ns * 10)


class Notes(Observer):
    def __init__(self, *, every_step: bool = False, end: bool = False, images: bool = False) -> None:
        self.every_step, self.end, self.images = every_step, end, images
        self.seen: list[int] = []
        self.labels: list[tuple[int, float | None]] = []
        self.initial = ""

    def begun(self, initial_state: str) -> None:
        self.initial = initial_state

    def observed(self, observation: Observation) -> None:
        self.seen.append(round(observation.stamp_ns / CONTRACT.dt_ns))

    def stepped(self, stamp_ns: int, action_A: np.ndarray | None) -> None:
        self.labels.append((round(stamp_ns / CONTRACT.dt_ns), None if action_A is None else float(action_A[0])))


class Push:
    def apply(self, chunk: ActionChunk) -> ActionChunk:
        return replace(chunk, actions_HA=chunk.actions_HA + 0.5)


def run(environment: Counter, actor: ExpertActor, **more: object) -> Episode:
    return run_episode(environment, actor, PLAN, contract=CONTRACT, **more)  # type: ignore[arg-type]


def test_a_policy_is_asked_at_every_second_step_and_sees_pictures_then() -> None:
    environment, notes = Counter(goal=5), Notes()
    episode = run(environment, Policy(environment.expert()), observer=notes)
    assert episode == Episode(success=True, score=1.0, steps=5, trajectory="t", reason="")
    assert environment.arrived == [0.0, None, 20.0, None, 40.0]
    assert environment.pictures == notes.seen == [0, 2, 4] and notes.initial == "begun"
    assert [value for _, value in notes.labels] == [0.0, 1.0, 20.0, 21.0, 40.0]


def test_the_limit_ends_it_and_an_observer_may_see_every_step_and_the_end() -> None:
    environment, notes = Counter(), Notes(every_step=True, end=True)
    episode = run(environment, Policy(environment.expert()), observer=notes)
    assert (episode.success, episode.steps, episode.reason) == (False, 6, "the limit of 6 steps is reached")
    assert notes.seen == [0, 1, 2, 3, 4, 5, 6] and environment.pictures == [0, 2, 4, 6]
    assert [step for step, _ in notes.labels] == [0, 1, 2, 3, 4, 5]
    environment = Counter()
    run(environment, ExpertActor(environment.expert()), observer=Notes(every_step=True, images=True))
    assert environment.pictures == [0, 1, 2, 3, 4, 5]


def test_a_late_chunk_begins_with_the_action_that_is_due() -> None:
    environment, notes = Counter(), Notes()
    run(environment, Policy(environment.expert()), observer=notes, latency_steps=1)
    assert environment.arrived == [None, 0.0, None, 20.0, None, 40.0]
    assert [value for _, value in notes.labels] == [None, 1.0, 2.0, 21.0, 22.0, 41.0]
    with pytest.raises(PolicyError, match="4 actions; 5 are to be executed"):
        run(environment, Policy(environment.expert()), latency_steps=3)


def test_a_disturbance_is_executed_and_not_told() -> None:
    environment, notes = Counter(), Notes(every_step=True)
    run(environment, ExpertActor(environment.expert()), observer=notes, disturbance=Push())
    assert environment.arrived == [0.5, 10.5, 20.5, 30.5, 40.5, 50.5]
    assert [value for _, value in notes.labels] == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]


def test_an_expert_that_is_done_ends_the_episode_only_if_it_may() -> None:
    environment = Counter()
    episode = run(environment, ExpertActor(Expert(environment, lasts=2), gives_up=True))
    assert (episode.steps, episode.success, episode.reason) == (2, False, "the expert did not reach the goal")
    assert run(environment, ExpertActor(Expert(environment, lasts=2))).steps == 6


def test_an_expert_that_plays_by_itself_is_seen_frame_by_frame() -> None:
    environment, notes = Counter(), Notes(images=True)
    episode = run(environment, PlayedExpert(environment.expert()), observer=notes)
    assert (episode.success, episode.steps, episode.reason) == (False, 2, "dropped it")
    assert notes.seen == environment.pictures == [0, 1, 2] and environment.arrived == []
    assert notes.labels == [(0, 1.0), (1, 2.0)], "a frame's label is where the robot is commanded to at the next"


@pytest.mark.parametrize(
    ("raised", "kept"), [(PolicyError("no chunk"), False), (ValueError("shapes (3, 4) and (5, 6) not aligned"), True)]
)
def test_a_fault_within_an_episode_keeps_its_traceback(
    raised: Exception, kept: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(self: Counter, chunk: ActionChunk | None) -> None:
        raise raised

    monkeypatch.setattr(Counter, "step", fault)
    environment = Counter()
    result = evaluate_episode(environment, Policy(environment.expert()), CONTRACT, PLAN)
    assert result.error == f"{type(raised).__name__}: {raised}"
    assert ("in fault\n" in capsys.readouterr().err) == kept


class Halves(Counter):
    """Half of the task is done after ``half`` steps."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self._half = half

    def outcome(self) -> Outcome:
        return Outcome(success=False, score=0.5 * (self.steps >= self._half))


@pytest.mark.parametrize(
    ("half", "max_steps", "steps", "reason"),
    [
        (99, 50, 4, "there was no progress for 4 steps"),
        (3, 50, 7, "there was no progress for 4 steps"),  # progress starts the clock again
        (4, 50, 8, "there was no progress for 4 steps"),  # made on the last step that counts
        (5, 50, 4, "there was no progress for 4 steps"),
        (3, 5, 5, "the limit of 5 steps is reached"),
    ],
)
def test_an_episode_without_progress_ends(half: int, max_steps: int, steps: int, reason: str) -> None:
    environment = Halves(half)
    plan = replace(PLAN, max_steps=max_steps, patience_steps=4)
    episode = run_episode(environment, ExpertActor(environment.expert()), plan, contract=CONTRACT)
    assert (episode.success, episode.steps, episode.reason) == (False, steps, reason)


class Corrector(Expert):
    def chunk(self) -> ActionChunk:
        return chunk(-10.0 * self._counter.steps, horizon=1)


def test_a_policy_is_corrected_until_there_is_progress() -> None:
    """Half of the task is done after 5 steps, with or without help; the person's patience ends after 3."""
    environment, notes = Halves(5), Notes(every_step=True)
    told: list[tuple[str, int]] = []
    policy = Policy(environment.expert())
    actor = CorrectedPolicy(
        policy,
        Corrector(environment),
        environment,
        patience_steps=3,
        told=lambda who, at_ns: told.append((who, at_ns // CONTRACT.dt_ns)),
    )
    for _ in range(2):  # an episode knows nothing of the one before
        run_episode(environment, actor, replace(PLAN, max_steps=9), contract=CONTRACT, observer=notes)
        assert told == [("policy", 0), ("person", 3), ("policy", 5), ("person", 8)]
        assert [value for _, value in notes.labels] == [0, 1, 20, -30, -40, 50, 51, 70, -80]
        assert environment.pictures == [0, 2, 5, 7], "of the contract, where the policy plans"
        told.clear(), notes.labels.clear(), environment.pictures.clear()
