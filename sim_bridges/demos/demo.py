"""A demo: episodes of a suite, live over ROS 2, recorded; videos of the bags and a report.

A suite that has a live stack of its own (``Suite.live``) is shown on it, any other in lock-step (the stack
``lockstep``), by a policy or by its expert.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavla_ros.bringup.launcher import LaunchError, up
from lavla_ros.config import ConfigError
from lavla_ros.contract import Contract
from lavla_ros.recording import find_bags
from lavla_ros.yaml_text import dump_yaml
from sim_bridges.demos.bag_video import write_bag_video
from sim_bridges.evaluation.policies import policy_hash
from sim_bridges.evaluation.report import write_report
from sim_bridges.evaluation.results import EpisodeResult, Results
from sim_bridges.files import read_rows, write_json
from sim_bridges.suites import choose_tasks, load_suite
from sim_bridges.world import Live, Options, Suite
from sim_bridges.worlds import DEFAULT_SUITE


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What is shown."""

    out: Path
    """New folder for everything that the demo writes."""
    suite: str = DEFAULT_SUITE
    """Name of the suite, or module:factory."""
    options: Options = field(default_factory=dict)
    """Of the suite."""
    tasks: tuple[str, ...] = ()
    """Names or numbers; none: the suite's usual ones."""
    policy: str = ""
    """Checkpoint directory, ``bundled`` or ``expert``; empty: the policy that comes with the suite, else the expert."""
    episodes: int = 5
    """Of each task."""
    seed: int = 0
    """Of the evaluation whose first scenes are shown: none that a policy was trained on."""
    disturb: bool = False
    """Push the arm of the expert now and then."""

    def __post_init__(self) -> None:
        suite = load_suite(self.suite, self.options)
        object.__setattr__(self, "tasks", choose_tasks(suite, self.tasks))
        object.__setattr__(self, "policy", self.policy or getattr(suite, "policy", "expert"))
        if not 1 <= self.episodes <= 1000:
            raise ConfigError(f"episodes is {self.episodes}; expected 1 to 1000")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; expected an integer >= 0")
        if self.disturb and self.policy != "expert":
            raise ConfigError(f"disturb pushes the expert's arm, and {self.policy} is to act; leave it out")


def run_demo(config: DemoConfig, say: Callable[[str], None]) -> Results:
    """Bring the stack up for one task after another, and write everything below ``config.out``.

    Raises SessionError or LaunchError naming what went wrong and where its log is; FileExistsError if ``out`` exists.
    """
    config.out.mkdir(parents=True, exist_ok=False)
    suite = load_suite(config.suite, config.options)
    live: Live | None = getattr(suite, "live", None)
    contract, began = suite.contract, time.perf_counter()
    episodes: list[EpisodeResult] = []
    videos: dict[int, Path] = {}
    for task in config.tasks:
        say(f"{task}: starting the stack (log: {config.out / f'{task}.log'})")
        for row in _in_lockstep(config, suite, task) if live is None else _live(config, live, suite, task, say):
            index, state = len(episodes), row["state"]
            episodes.append(_episode(index, task, row, contract))
            say(f"{task}, seed {row['seed']}: {state} after {episodes[-1].length_steps} steps")
            videos[index] = config.out / f"episode_{index}.mp4"
            write_bag_video(Path(row["bag"]), videos[index], contract, caption=f"{task}: {state}")
    assets = suite.assets()
    starts = [suite.plan(task, 0, config.seed) for task in config.tasks]
    results = Results(
        suite=f"{suite.name}, live",
        task=",".join(config.tasks),
        policy=config.policy,
        contract_hash=contract.full_hash,
        settings={
            "episodes": config.episodes,
            "seed": config.seed,
            "disturb": config.disturb,
            "max_steps": max(start.max_steps or suite.rules.max_steps for start in starts)
            if live is None
            else round(live.episode_s * contract.rate_hz),
            "policy_hash": policy_hash(config.policy),
        },
        episodes=tuple(episodes),
        assets={"source": assets.source, "hash": assets.hash},
        wall_s=time.perf_counter() - began,
        simulated_s=sum(episode.length_steps for episode in episodes) / contract.rate_hz if live else 0.0,
        live=live is not None,
        comparable=f"A demonstration of a few episodes; lavla eval measures success. {assets.statement}".rstrip(),
    )
    write_json(config.out / "results.json", results.to_dict())
    acts = "the scripted expert" if config.policy == "expert" else "policy node"
    ran = f"simulator, camera node, {acts} and recorder, over ROS 2" if live is None else live.ran
    write_report(
        config.out / "report.html",
        results,
        title=f"lavla_ros demo: {', '.join(config.tasks)} ({suite.name})",
        reproduce=_command(config),
        videos=videos,
        notes={"What ran": f"{ran}. The videos are made from the bags"},
    )
    return results


def _command(config: DemoConfig) -> str:
    words = ["lavla", "demo", config.suite, "--task", *config.tasks, "--policy", config.policy]
    words += [f"--episodes={config.episodes}", f"--seed={config.seed}", *(["--disturb"] if config.disturb else [])]
    return shlex.join([*words, *(f"-o{name}={value}" for name, value in config.options.items())])


def _live(
    config: DemoConfig, live: Live, suite: Suite, task: str, say: Callable[[str], None]
) -> list[Mapping[str, Any]]:
    seed = suite.plan(task, 0, 0).seed + config.seed
    return live.show(config.out, task=task, policy=config.policy, episodes=config.episodes, seed=seed, say=say)


def _in_lockstep(config: DemoConfig, suite: Suite, task: str) -> list[Mapping[str, Any]]:
    contract, progress, log_file = (
        config.out / f"{name}" for name in ("contract.yaml", f"{task}.jsonl", f"{task}.log")
    )
    contract.write_text(dump_yaml(suite.contract.to_dict()), encoding="utf-8")
    expert = config.policy == "expert"
    arguments = {
        "suite": config.suite,
        "options": shlex.join(f"{name}={value}" for name, value in config.options.items()),
        "task": task,
        "contract": str(contract),
        "expert": str(expert).lower(),
        "policy": "" if expert else config.policy,
        "replan_steps": str(suite.rules.replan_steps),
        "record": "true",
        "disturb": str(config.disturb).lower(),
        "seed": str(suite.plan(task, 0, config.seed).seed),
        "episodes": str(config.episodes),
        "bags": str(config.out / "bags" / task),
        "progress": str(progress),
    }
    with log_file.open("w", encoding="utf-8") as log:
        status = up("lockstep", arguments, log=log)
    rows = read_rows(progress)
    if status != 0 or len(rows) < config.episodes:
        tail = "\n  ".join(log_file.read_text(errors="replace", encoding="utf-8").splitlines()[-6:])
        ran = f"{len(rows)} of {config.episodes} episodes of {task} ran, status {status}"
        raise LaunchError(f"{ran}; the end of {log_file}:\n  {tail}")
    bags = find_bags([config.out / "bags" / task])
    return [{**row, "bag": bag} for row, bag in zip(rows, bags, strict=True)]


def _episode(index: int, task: str, row: Mapping[str, Any], contract: Contract) -> EpisodeResult:
    steps = row["steps"] if "steps" in row else round(float(row["elapsed_s"]) * contract.rate_hz)
    return EpisodeResult(
        index=index,
        task=task,
        seed=row["seed"],
        state_index=row.get("initial_state"),
        initial_state=f"seed {row['seed']}",
        success=row["state"] == "succeeded",
        score=float(row["score"]),
        length_steps=steps,
        trajectory=row.get("trajectory", ""),
        wall_s=row.get("wall_s", 0.0),
    )
