"""Success of a suite's scripted expert, without pictures, in this process.

``python -m sim_bridges.measure SUITE --episodes 10`` runs ten episodes of each of the suite's usual tasks.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lavla_ros.config import ConfigError, parse_options
from lavla_ros.contract import Contract
from lavla_ros.errors import one_line_errors
from sim_bridges.episode import Episode, ExpertActor, PlayedExpert, run_episode
from sim_bridges.suites import choose_tasks, load_suite, make_plans, protocol_starts, require_experts
from sim_bridges.world import Environment, EpisodePlan, HasDisturbance, PlaysByItself, SuiteError


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What to measure."""

    suite: Annotated[str, tyro.conf.Positional]
    """Name of the suite, or module:factory."""
    tasks: tuple[str, ...] = ()
    """Names or numbers; none: the suite's usual ones."""
    episodes: int = 10
    """Episodes of each task."""
    seed: int | None = None
    """As in an evaluation; default is the suite's own."""
    play: bool = False
    """An expert that can move the robot itself does so, as in the search for seeds that it can solve."""
    disturb: bool = False
    """Push the arm in random bursts, as recordings do."""
    options: tuple[str, ...] = ()
    """Options of the suite, each as name=value."""
    out: Path | None = None
    """JSON file for the episodes."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ConfigError(f"episodes is {self.episodes}; nothing to measure")
        if self.play and self.disturb:
            raise ConfigError("disturb pushes single commands, and play gives none; choose one of them")


def show(
    environment: Environment, plan: EpisodePlan, contract: Contract, *, play: bool = False, disturb: bool = False
) -> Episode:
    """One episode of the expert. Raises SuiteError if there is none, or none that can do this."""
    expert = environment.expert()
    actor = ExpertActor(expert, gives_up=True)
    if play:
        if not isinstance(expert, PlaysByItself):
            raise SuiteError(f"the expert of {plan.task} does not play by itself; leave play out")
        actor = PlayedExpert(expert)
    disturbance = None
    if disturb:
        if not isinstance(environment, HasDisturbance):
            raise SuiteError(f"the expert of {plan.task} cannot be disturbed; leave disturb out")
        disturbance = environment.disturbance(plan)
    return run_episode(environment, actor, plan, contract=contract, disturbance=disturbance)


def measure(config: MeasureConfig) -> list[tuple[EpisodePlan, Episode]]:
    """All episodes, lines printed for each task. Raises SuiteError, and what making the simulator raises."""
    suite = load_suite(config.suite, parse_options(config.options))
    seed = suite.rules.seed if config.seed is None else config.seed
    tasks = choose_tasks(suite, config.tasks)
    require_experts(suite, tasks)
    starts = protocol_starts(suite, tasks, episodes=config.episodes, seed=seed)
    measured: list[tuple[EpisodePlan, Episode]] = []
    for task, of_task in starts.items():
        plans = make_plans({task: of_task}, max_steps=suite.rules.max_steps)
        environment = suite.environment(task, images=False)
        try:
            began = time.perf_counter()
            shown = [
                (plan, show(environment, plan, suite.contract, play=config.play, disturb=config.disturb))
                for plan in plans
            ]
            _print_task(task, shown, time.perf_counter() - began)
        finally:
            environment.close()
        measured += shown
    return measured


def _print_task(task: str, shown: list[tuple[EpisodePlan, Episode]], wall_s: float) -> None:
    steps = sorted(episode.steps for _, episode in shown if episode.success)
    lengths = f"{steps[0]} to {steps[-1]} steps" if steps else "no success"
    print(f"{task}: {len(steps)}/{len(shown)}, {lengths}, {wall_s / len(shown):.1f} s each", flush=True)
    for plan, episode in shown:
        if not episode.success:
            print(f"  missed trial {plan.trial}, seed {plan.seed}: {episode.reason}", flush=True)


def main() -> None:
    config = tyro.cli(MeasureConfig)
    with one_line_errors("measure"):
        measured = measure(config)
    rows = [{**asdict(plan), **asdict(episode)} for plan, episode in measured]
    print(f"{config.suite}: {sum(row['success'] for row in rows)}/{len(rows)}")
    if config.out is not None:
        document = {"suite": config.suite, "disturb": config.disturb, "play": config.play, "episodes": rows}
        config.out.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
