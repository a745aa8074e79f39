"""One episode: the loop that every suite and every policy goes through."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from lavla_ros.contract import ActionChunk, Contract, Observation
from sim_bridges.evaluation.policies import Commander, check_chunk
from sim_bridges.evaluation.results import EpisodeResult, latency_summary
from sim_bridges.world import Environment, Plan

Busy = Literal["simulator", "policy"]
OnBusy = Callable[[Busy, int], None]
"""Told who is being waited for, and at which step."""
OnFrame = Callable[[Observation], None]


def run_episode(
    environment: Environment,
    commander: Commander,
    contract: Contract,
    plan: Plan,
    *,
    latency_steps: int = 0,
    on_busy: OnBusy = lambda busy, step: None,
    on_frame: OnFrame | None = None,
) -> EpisodeResult:
    """Run to success or ``plan.max_steps``. Whatever is raised becomes an episode in error, never a failure.

    ``latency_steps``: contract steps that pass between an observation and its chunk arriving. ``on_frame`` gets the
    observations whose images were rendered, and the last one.
    """
    began = time.perf_counter()
    latencies_ms: list[float] = []
    initial, trajectory, error, steps = "", "", None, 0
    success, score = False, 0.0
    executed = 1 if commander.every == 1 else commander.every + latency_steps
    try:
        on_busy("simulator", 0)
        initial = environment.reset(plan)
        commander.reset(plan)
        pending: list[tuple[int, ActionChunk]] = []
        outcome = environment.outcome()
        while steps < plan.max_steps and not outcome.success:
            if steps % commander.every == 0:
                observation = environment.observe(images=commander.needs_images)
                if on_frame is not None and observation.images:
                    on_frame(observation)
                on_busy("policy", steps)
                asked = time.perf_counter()
                chunk = commander.chunk(observation)
                latencies_ms.append((time.perf_counter() - asked) * 1e3)
                on_busy("simulator", steps)
                check_chunk(chunk, contract, steps=executed)
                pending.append((steps + latency_steps, chunk))
            environment.step(pending.pop(0)[1] if pending and pending[0][0] <= steps else None)
            steps += 1
            outcome = environment.outcome()
        success, score, trajectory = outcome.success, outcome.score, environment.trajectory
        commander.finish(success=success)
        if on_frame is not None and commander.needs_images:
            on_frame(environment.observe(images=True))
    except Exception as raised:  # noqa: BLE001  # whatever went wrong is the episode's error, not its failure
        error, success, score, trajectory = f"{type(raised).__name__}: {raised}", False, 0.0, ""
        latencies_ms = []
    return result_of(
        plan,
        initial_state=initial,
        success=success,
        score=score,
        length_steps=steps,
        error=error,
        trajectory=trajectory,
        inferences=len(latencies_ms),
        latency_ms=latency_summary(latencies_ms),
        wall_s=time.perf_counter() - began,
    )


def result_of(plan: Plan, **outcome: Any) -> EpisodeResult:
    """The result of a plan; ``outcome``: the fields of :class:`EpisodeResult` that the plan does not know."""
    return EpisodeResult(
        index=plan.index,
        task=plan.task,
        trial=plan.trial,
        seed=plan.seed,
        state_index=plan.state_index,
        **outcome,
    )
