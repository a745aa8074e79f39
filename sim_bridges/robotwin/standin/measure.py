"""Success of the scripted expert by seed, without pictures.

``python -m sim_bridges.robotwin.standin.measure --task stack_two_blocks --episodes 100``
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from sim_bridges.robotwin.standin.disturbance import DisturbanceConfig, DisturbanceSource
from sim_bridges.robotwin.standin.task import StandinTask
from sim_bridges.robotwin.standin.tasks import TASK_TYPES, make_task

Mode = Literal["play", "commands"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertEpisode:
    seed: int
    success: bool
    commands: int
    """Until success or the end of the expert."""
    physics_steps: int
    lost: str
    """Why the expert could not go on, or empty."""


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What to measure."""

    task: str
    episodes: int = 100
    first_seed: int = 100_000
    """Seeds count up from here: RoboTwin evaluates those from 100000 · (1 + seed) on."""
    mode: Mode = "play"
    """play: ``play_once``, by which RoboTwin accepts a seed. commands: each command on its own, by ``take_action``."""
    disturb: bool = False
    """commands: push the arms in random bursts, as recordings do."""
    out: Path | None = None
    """JSON file for the episodes."""

    def __post_init__(self) -> None:
        if self.task not in TASK_TYPES:
            raise ValueError(f"task is {self.task!r}; expected one of {', '.join(TASK_TYPES)}")
        if self.episodes < 1 or self.first_seed < 0:
            raise ValueError(f"episodes is {self.episodes}, first_seed {self.first_seed}; nothing to measure")
        if self.disturb and self.mode != "commands":
            raise ValueError("disturb pushes single commands: it needs --mode commands")


def run_episode(
    task: StandinTask, seed: int, mode: Mode = "play", disturbance: DisturbanceConfig | None = None
) -> ExpertEpisode:
    """One episode of the expert. Closes the scene. Raises UnStableError, SapienMissing."""
    task.setup_demo(seed=seed, eval_mode=True)
    expert = task.expert()
    if mode == "play":
        success = task.play(expert) and task.check_success()
    else:
        source = None if disturbance is None else DisturbanceSource(disturbance, seed)
        while not expert.done and not task.eval_success and task.take_action_cnt != task.step_lim:
            command = expert.act()
            task.take_action(command if source is None else source.apply(command))
        success = task.eval_success
    task.close_env()
    return ExpertEpisode(
        seed=seed, success=success, commands=expert.commands, physics_steps=task.physics_steps, lost=expert.lost
    )


def measure(config: MeasureConfig) -> list[ExpertEpisode]:
    """All episodes, one after the other."""
    task = make_task(config.task)
    disturbance = DisturbanceConfig() if config.disturb else None
    seeds = range(config.first_seed, config.first_seed + config.episodes)
    return [run_episode(task, seed, config.mode, disturbance) for seed in seeds]


def main() -> None:
    config = tyro.cli(MeasureConfig)
    began, cpu_began = time.perf_counter(), time.process_time()
    episodes = measure(config)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    lengths = sorted(e.commands for e in episodes if e.success) or [0]
    steps = sum(e.physics_steps for e in episodes)
    print(
        f"{config.task} ({config.mode}{', disturbed' * config.disturb}): "
        f"{sum(e.success for e in episodes)}/{len(episodes)}, {lengths[0]} to {lengths[-1]} commands; "
        f"{steps} physics steps in {cpu_s:.1f} s of CPU time ({steps / cpu_s:.0f}/s), {wall_s:.1f} s on the clock"
    )
    for episode in episodes:
        if not episode.success:
            print(f"  missed seed {episode.seed} {episode.lost}")
    if config.out is not None:
        document = {"task": config.task, "mode": config.mode, "disturb": config.disturb}
        config.out.write_text(
            json.dumps({**document, "episodes": [asdict(e) for e in episodes]}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
