"""Success of the scripted expert by task, without pictures.

``python -m sim_bridges.libero.expert.measure --suite libero_object`` runs 10 tasks x 10 initial states in one process.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from sim_bridges.libero.environment import LiberoEnvironment
from sim_bridges.libero.expert.disturbance import DisturbanceConfig, DisturbanceSource
from sim_bridges.libero.expert.expert import LiberoExpert
from sim_bridges.libero.expert.scene import require_expert


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertEpisode:
    task: int
    initial_state: int
    seed: int
    success: bool
    steps: int
    """Actions until success, or until the limit."""


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What to measure."""

    suite: str
    tasks: tuple[int, ...] = tuple(range(10))
    initial_states: int = 10
    """Initial states 0 to this, less one, of each task."""
    seed: int = 7
    disturb: bool = False
    """Push the arm in random bursts, as recordings do."""
    assets: Path | None = None
    """Folder with LIBERO's assets; without it, they are looked for as everywhere (see find_assets)."""
    out: Path | None = None
    """JSON file for the episodes."""

    def __post_init__(self) -> None:
        require_expert(self.suite)
        if self.initial_states < 1 or not self.tasks:
            raise ValueError(f"initial_states is {self.initial_states}, tasks {self.tasks}; nothing to measure")


def run_episode(
    environment: LiberoEnvironment,
    expert: LiberoExpert,
    *,
    initial_state: int,
    seed: int,
    disturbance: DisturbanceConfig | None = None,
) -> ExpertEpisode:
    """One episode from a recorded initial state, until the first success or the suite's step limit.

    Raises LiberoError where there is no such initial state.
    """
    environment.reset(initial_state, seed)
    expert.reset()
    source = None if disturbance is None else DisturbanceSource(disturbance, seed + initial_state)
    while not environment.outcome.done:
        action = expert.act()
        environment.step(action if source is None else source.apply(action))
    return ExpertEpisode(
        task=environment.task.index,
        initial_state=initial_state,
        seed=seed,
        success=environment.outcome.success,
        steps=environment.steps,
    )


def measure(config: MeasureConfig) -> list[ExpertEpisode]:
    """All episodes, one line printed for each task. Raises LiberoError where LIBERO or a task is missing."""
    disturbance = DisturbanceConfig() if config.disturb else None
    episodes = []
    for task in config.tasks:
        environment = LiberoEnvironment(config.suite, task, assets=config.assets, cameras=())
        try:
            expert = LiberoExpert(environment)
            began = time.perf_counter()
            of_task = [
                run_episode(environment, expert, initial_state=index, seed=config.seed, disturbance=disturbance)
                for index in range(config.initial_states)
            ]
            _print_task(task, of_task, time.perf_counter() - began)
            episodes += of_task
        finally:
            environment.close()
    return episodes


def _print_task(task: int, episodes: list[ExpertEpisode], wall_s: float) -> None:
    missed = [e.initial_state for e in episodes if not e.success]
    steps = sorted(e.steps for e in episodes if e.success)
    lengths = f"{steps[0]} to {steps[-1]} steps" if steps else "no success"
    print(
        f"task {task}: {len(steps)}/{len(episodes)}, {lengths}, {wall_s / len(episodes):.1f} s each"
        + (f"; missed initial states {missed}" if missed else ""),
        flush=True,
    )


def main() -> None:
    config = tyro.cli(MeasureConfig)
    episodes = measure(config)
    print(f"{config.suite}: {sum(e.success for e in episodes)}/{len(episodes)}")
    if config.out is not None:
        document = {"suite": config.suite, "disturb": config.disturb, "episodes": [asdict(e) for e in episodes]}
        config.out.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
