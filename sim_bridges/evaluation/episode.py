"""One episode of an evaluation, and what comes of it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract, Observation
from lavla_ros.errors import is_users
from sim_bridges.episode import Actor, Observer, run_episode
from sim_bridges.evaluation.results import EpisodeResult, latency_summary
from sim_bridges.world import Environment, EpisodePlan

Busy = Literal["simulator", "policy"]
OnBusy = Callable[[Busy, int], None]
"""Told who is being waited for, and at which step."""
OnFrame = Callable[[Observation], None]


class _Judge(Observer):
    """Takes the times, and keeps what is known of an episode that ends in an error."""

    def __init__(self, on_busy: OnBusy, on_frame: OnFrame | None, *, end: bool) -> None:
        self._on_busy, self._on_frame = on_busy, on_frame
        self.end = end and on_frame is not None
        self.initial, self.steps = "", 0
        self.latencies_ms: list[float] = []
        self._asked: float | None = None

    def begun(self, initial_state: str) -> None:
        self.initial = initial_state

    def waiting(self, who: Busy, step: int) -> None:
        if self._asked is not None:
            self.latencies_ms.append((time.perf_counter() - self._asked) * 1e3)
        self._on_busy(who, step)
        self._asked = time.perf_counter() if who == "policy" else None

    def observed(self, observation: Observation) -> None:
        if self._on_frame is not None and observation.images:
            self._on_frame(observation)

    def stepped(self, stamp_ns: int, action_A: NDArray[np.float64] | None) -> None:
        self.steps += 1


def evaluate_episode(
    environment: Environment,
    actor: Actor,
    contract: Contract,
    plan: EpisodePlan,
    *,
    latency_steps: int = 0,
    on_busy: OnBusy = lambda busy, step: None,
    on_frame: OnFrame | None = None,
) -> EpisodeResult:
    """Run an episode. Whatever is raised becomes an episode in error, never a failure.

    ``on_frame`` gets the observations whose images were rendered, and the last one. See
    :func:`sim_bridges.episode.run_episode` for the rest.
    """
    began = time.perf_counter()
    judge = _Judge(on_busy, on_frame, end=actor.needs_images)
    success, score, trajectory, error = False, 0.0, "", None
    try:
        episode = run_episode(environment, actor, plan, contract=contract, observer=judge, latency_steps=latency_steps)
        success, score, trajectory = episode.success, episode.score, episode.trajectory
    except Exception as raised:  # noqa: BLE001  # whatever went wrong is the episode's error, not its failure
        error = f"{type(raised).__name__}: {raised}"
        if not is_users(raised):
            traceback.print_exc()
    latencies_ms = [] if error else judge.latencies_ms
    return result_of(
        plan,
        initial_state=judge.initial,
        success=success,
        score=score,
        length_steps=judge.steps,
        error=error,
        trajectory=trajectory,
        inferences=len(latencies_ms),
        latency_ms=latency_summary(latencies_ms),
        wall_s=time.perf_counter() - began,
    )


def result_of(plan: EpisodePlan, **outcome: Any) -> EpisodeResult:
    """The result of a plan; ``outcome``: the fields of :class:`EpisodeResult` that the plan does not know."""
    return EpisodeResult(
        index=plan.index,
        task=plan.task,
        trial=plan.trial,
        seed=plan.seed,
        state_index=plan.state_index,
        **outcome,
    )
