"""Speed of the bridge's environment against a loop that draws every step; equal actions must end in the same state.

The plain loop is what LeRobot's and openpi's evaluations do: ``OffScreenRenderEnv``, both cameras drawn on every step.
The bridge draws where a policy looks. Each runs in a process of its own; setting up is not timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim_bridges.worlds.libero.environment import RESOLUTION, LiberoEnvironment
from sim_bridges.worlds.libero.exactness import begun, in_own_process
from sim_bridges.worlds.libero.tasks import PROTOCOL_SEED


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """What both loops do, from the first initial state of a task."""

    suite: str
    task: str
    assets: str
    actions_NA: NDArray[np.float64]
    every: int
    """Number of steps from one drawing of the bridge to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    wall_s: float
    cpu_s: float
    """Of all threads: drawing in software uses several."""
    last_state: list[float]


def compare_speed(episode: Episode, *, rounds: int = 3) -> dict[str, Any]:
    """Medians of ``rounds``, in turn."""
    timings: dict[str, list[Timing]] = {"plain": [], "bridge": []}
    for _ in range(rounds):
        timings["plain"].append(in_own_process(plain, episode))
        timings["bridge"].append(in_own_process(bridge, episode))
    steps = len(episode.actions_NA)
    wall_s, cpu_s = (
        {name: statistics.median(getattr(t, field) for t in of_loop) / steps for name, of_loop in timings.items()}
        for field in ("wall_s", "cpu_s")
    )
    first = timings["plain"][0].last_state
    return {
        "plain_steps_per_s": 1.0 / wall_s["plain"],
        "bridge_steps_per_s": 1.0 / wall_s["bridge"],
        "plain_cpu_ms_per_step": cpu_s["plain"] * 1e3,
        "bridge_cpu_ms_per_step": cpu_s["bridge"] * 1e3,
        "times_plain": wall_s["plain"] / wall_s["bridge"],
        "times_plain_per_core": cpu_s["plain"] / cpu_s["bridge"],
        "equal_states": all(t.last_state == first for of_loop in timings.values() for t in of_loop),
        "goal": {"times_plain_per_core": 3.0, "equal_states": True},
    }


def plain(episode: Episode) -> Timing:
    """LIBERO's own environment; both pictures drawn on every step."""
    env, _ = begun(episode.suite, episode.task, episode.assets, 0, PROTOCOL_SEED, RESOLUTION)
    timing = _timed(episode, lambda step, action: env.step(action), lambda: env.get_sim_state().tolist())
    env.close()
    return timing


def bridge(episode: Episode) -> Timing:
    """The bridge's environment; pictures where a policy would look."""
    environment = LiberoEnvironment(episode.suite, episode.task, assets=episode.assets)
    environment.reset(0, PROTOCOL_SEED)
    environment.raw_images()  # makes the OpenGL context

    def act(step: int, action: NDArray[np.float64]) -> None:
        if step % episode.every == 0:
            environment.raw_images()
        environment.state()
        environment.step(action)

    timing = _timed(episode, act, lambda: environment.states().tolist())
    environment.close()
    return timing


def _timed(
    episode: Episode, act: Callable[[int, NDArray[np.float64]], object], last_state: Callable[[], list[float]]
) -> Timing:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for step, action in enumerate(episode.actions_NA):
        act(step, action)
    return Timing(wall_s=time.perf_counter() - wall_s, cpu_s=time.process_time() - cpu_s, last_state=last_state())
