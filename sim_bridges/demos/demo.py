"""A demo: episodes of a suite, live over ROS 2, recorded; videos of the bags and a report.

A suite that has a live stack of its own (``Suite.live``) is shown on it, any other in lock-step (the stack
``lockstep``), by a policy or by its expert.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lavla_ros.bringup.launcher import LaunchError, up
from lavla_ros.contract import Contract
from lavla_ros.outputs import folder_of_run
from lavla_ros.recording import find_bags
from lavla_ros.yaml_text import dump_yaml
from sim_bridges.demos.config import DemoConfig
from sim_bridges.evaluation.bag_video import write_bag_video
from sim_bridges.evaluation.policies import policy_hash
from sim_bridges.evaluation.report import write_report
from sim_bridges.evaluation.results import EpisodeResult, Results
from sim_bridges.files import read_rows, write_json
from sim_bridges.suites import load_suite
from sim_bridges.world import Live, Suite


def run_demo(config: DemoConfig, say: Callable[[str], None], *, name: str = "demo") -> Results:
    """Bring the stack up for one task after another, and write everything below ``config.out``, or runs/NAME-TIME.

    Raises SessionError or LaunchError naming what went wrong and where its log is; OutputError if ``out`` exists.
    """
    out = folder_of_run(config.out, name)
    suite = load_suite(config.suite, config.options)
    live: Live | None = getattr(suite, "live", None)
    contract, began = suite.contract, time.perf_counter()
    episodes: list[EpisodeResult] = []
    videos: dict[int, Path] = {}
    for task in config.tasks:
        say(f"{task}: starting the stack (log: {out / f'{task}.log'})")
        rows = _in_lockstep(config, out, suite, task) if live is None else _live(config, out, live, suite, task, say)
        for row in rows:
            index, state = len(episodes), row["state"]
            episodes.append(_episode(index, task, row, contract))
            say(f"{task}, seed {row['seed']}: {state} after {episodes[-1].length_steps} steps")
            videos[index] = out / f"episode_{index}.mp4"
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
    write_json(out / "results.json", results.to_dict())
    acts = "the scripted expert" if config.policy == "expert" else "policy node"
    ran = f"simulator, camera node, {acts} and recorder, over ROS 2" if live is None else live.ran
    write_report(
        out / "report.html",
        results,
        title=f"lavla_ros demo: {', '.join(config.tasks)} ({suite.name})",
        reproduce=_command(config),
        videos=videos,
        notes={"What ran": f"{ran}. The videos are made from the bags"},
    )
    say(results.summary())
    say(f"open {out}/report.html; videos {out}/episode_*.mp4, bags {out}/bags, {out}/results.json")
    return results


def _command(config: DemoConfig) -> str:
    words = ["lavla", "demo", config.suite, "--task", *config.tasks, "--policy", config.policy]
    words += [f"--episodes={config.episodes}", f"--seed={config.seed}", *(["--disturb"] if config.disturb else [])]
    return shlex.join([*words, *(f"-o{name}={value}" for name, value in config.options.items())])


def _live(
    config: DemoConfig, out: Path, live: Live, suite: Suite, task: str, say: Callable[[str], None]
) -> list[Mapping[str, Any]]:
    seed = suite.plan(task, 0, 0).seed + config.seed
    return live.show(out, task=task, policy=config.policy, episodes=config.episodes, seed=seed, say=say)


def _in_lockstep(config: DemoConfig, out: Path, suite: Suite, task: str) -> list[Mapping[str, Any]]:
    contract, progress, log_file = (out / f"{name}" for name in ("contract.yaml", f"{task}.jsonl", f"{task}.log"))
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
        "bags": str(out / "bags" / task),
        "progress": str(progress),
    }
    with log_file.open("w", encoding="utf-8") as log:
        status = up("lockstep", arguments, log=log)
    rows = read_rows(progress)
    if status != 0 or len(rows) < config.episodes:
        tail = "\n  ".join(log_file.read_text(errors="replace", encoding="utf-8").splitlines()[-6:])
        ran = f"{len(rows)} of {config.episodes} episodes of {task} ran, status {status}"
        raise LaunchError(f"{ran}; the end of {log_file}:\n  {tail}")
    bags = find_bags([out / "bags" / task])
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
