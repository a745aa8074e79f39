"""The bimanual demo: the stand-in's tasks shown by the scripted expert over topics, recorded; videos and a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavla_ros.bringup.launcher import LaunchError, up
from lavla_ros.config import ConfigError
from lavla_ros.contract import load_contract
from lavla_ros.recording import find_bags
from sim_bridges.demos.bag_video import write_bag_video
from sim_bridges.evaluation.report import write_report
from sim_bridges.evaluation.results import EpisodeResult, Results
from sim_bridges.files import write_json
from sim_bridges.worlds.robotwin.seeds import first_seed
from sim_bridges.worlds.robotwin.sources import open_source
from sim_bridges.worlds.robotwin.task_source import require_task
from sim_bridges.worlds.tabletop.live_episodes import read_rows

_STACK = "robotwin_policy"


@dataclass(frozen=True, kw_only=True)
class BimanualDemoConfig:
    out: Path
    tasks: tuple[str, ...] = ()
    """None: all of the stand-in's."""
    episodes: int = 1
    """Per task."""
    seed: int = 0
    """Of the evaluation whose first scenes are shown."""
    disturb: bool = False
    """Push the arms now and then."""

    def __post_init__(self) -> None:
        source = open_source("standin")
        object.__setattr__(self, "tasks", self.tasks or source.tasks)
        for task in self.tasks:
            require_task(source, task)
        if not 1 <= self.episodes <= 1000:
            raise ConfigError(f"episodes is {self.episodes}; expected 1 to 1000")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; expected an integer >= 0")


def run_bimanual_demo(config: BimanualDemoConfig, say: Callable[[str], None]) -> Results:
    """Bring the stack up for one task after another, write everything below ``config.out``.

    Raises LaunchError naming what went wrong and where its log is; FileExistsError where ``out`` is there already.
    """
    config.out.mkdir(parents=True, exist_ok=False)
    contract = load_contract("robotwin_aloha")
    began = time.perf_counter()
    episodes: list[EpisodeResult] = []
    videos: dict[int, Path] = {}
    for task in config.tasks:
        say(f"{task}: starting the stack (log: {config.out / f'{task}.log'})")
        rows = _run_task(config, task)
        bags = find_bags([config.out / "bags" / task])
        for row, bag in zip(rows, bags, strict=True):
            index = len(episodes)
            say(f"{task}, seed {row['seed']}: {row['state']} after {row['steps']} commands")
            videos[index] = config.out / f"episode_{index}.mp4"
            write_bag_video(bag, videos[index], contract, caption=f"{task}: {row['state']}")
            episodes.append(_episode(index, task, row))
    source = open_source("standin")
    provenance = source.provenance()
    results = Results(
        suite="robotwin_standin, live",
        task=",".join(config.tasks),
        policy="expert",
        contract_hash=contract.full_hash,
        settings={
            "episodes": config.episodes,
            "seed": config.seed,
            "disturb": config.disturb,
            "max_steps": max(map(source.step_limit, config.tasks)),
        },
        episodes=tuple(episodes),
        assets={"source": provenance.source, "hash": provenance.hash},
        comparable=f"A live demonstration, not comparable with published numbers. {provenance.statement}",
        wall_s=time.perf_counter() - began,
    )
    write_json(config.out / "results.json", results.to_dict())
    write_report(
        config.out / "report.html",
        results,
        title="lavla_ros demo: two arms in the stand-in for RoboTwin",
        reproduce="make demo-bimanual",
        videos=videos,
        notes={
            "What ran": "simulator, camera node and recorder, over ROS 2; the scripted expert commands both arms, one "
            "command at a time. The videos are made from the bags"
        },
    )
    return results


def _run_task(config: BimanualDemoConfig, task: str) -> list[dict[str, Any]]:
    progress, log_file = config.out / f"{task}.jsonl", config.out / f"{task}.log"
    arguments = {
        "task": task,
        "expert": "true",
        "record": "true",
        "disturb": str(config.disturb).lower(),
        "seed": str(first_seed(config.seed)),
        "episodes": str(config.episodes),
        "bags": str(config.out / "bags" / task),
        "progress": str(progress),
    }
    with log_file.open("w", encoding="utf-8") as log:
        status = up(_STACK, arguments, log=log)
    rows = read_rows(progress)
    if status != 0 or len(rows) < config.episodes:
        tail = "\n  ".join(log_file.read_text(errors="replace", encoding="utf-8").splitlines()[-6:])
        ran = f"{len(rows)} of {config.episodes} episodes of {task} ran, status {status}"
        raise LaunchError(f"{ran}; the end of {log_file}:\n  {tail}")
    return rows


def _episode(index: int, task: str, row: dict[str, Any]) -> EpisodeResult:
    success = row["state"] == "succeeded"
    return EpisodeResult(
        index=index,
        task=task,
        seed=row["seed"],
        initial_state=f"seed {row['seed']}",
        success=success,
        score=float(success),
        length_steps=row["steps"],
        trajectory=row["trajectory"],
        wall_s=row["wall_s"],
    )
