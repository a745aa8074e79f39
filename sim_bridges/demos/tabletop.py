"""The demo: the live stack with a learned policy, five recorded episodes, videos and a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavla_ros.config import ConfigError
from lavla_ros.contract import load_contract
from sim_bridges.demos.bag_video import write_bag_video
from sim_bridges.evaluation.policies import policy_hash
from sim_bridges.evaluation.report import write_report
from sim_bridges.evaluation.results import EpisodeResult, Results
from sim_bridges.files import write_json
from sim_bridges.worlds.tabletop.live_episodes import LiveEpisodes
from sim_bridges.worlds.tabletop.suite import EVALUATION_SEED_BASE

CONTRACT = "jaka_minicobo"
EPISODE_S = 30.0
"""An episode without success has failed after this."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    out: Path
    task: str = "pick_place"
    policy: str = "bundled"
    episodes: int = 5
    seed: int = 0
    """Episode i has the layout of evaluation seed ``seed + i``: none that the policy was trained on."""

    def __post_init__(self) -> None:
        if not 1 <= self.episodes <= 1000:
            raise ConfigError(f"episodes is {self.episodes}; expected 1 to 1000")


def run_demo(config: DemoConfig, say: Callable[[str], None]) -> Results:
    """Bring the stack up, run the episodes, write everything below ``config.out``.

    Raises SessionError naming what went wrong and where its log is.
    """
    config.out.mkdir(parents=True, exist_ok=False)
    contract = load_contract(CONTRACT)
    began = time.perf_counter()
    rows = _run_live(config, say)
    wall_s = time.perf_counter() - began
    say("writing videos and the report")
    videos: dict[int, Path] = {}
    for row in rows:
        index, state = row["index"], row["state"]
        videos[index] = config.out / f"episode_{index}.mp4"
        write_bag_video(Path(row["bag"]), videos[index], contract, caption=f"episode {index}: {state}")
    episodes = tuple(
        EpisodeResult(
            index=row["index"],
            seed=row["seed"],
            initial_state=f"seed {row['seed']}",
            success=row["state"] == "succeeded",
            score=float(row["score"]),
            length_steps=round(float(row["elapsed_s"]) * contract.rate_hz),
        )
        for row in rows
    )
    results = Results(
        suite="tabletop, live",
        task=config.task,
        policy=config.policy,
        contract_hash=contract.full_hash,
        settings={
            "episodes": config.episodes,
            "seed": config.seed,
            "max_steps": round(EPISODE_S * contract.rate_hz),
            "policy_hash": policy_hash(config.policy),
        },
        episodes=episodes,
        wall_s=wall_s,
        simulated_s=sum(float(row["elapsed_s"]) for row in rows),
        live=True,
        comparable="A live demonstration of a few episodes. The command lavla eval measures success.",
    )
    write_json(config.out / "results.json", results.to_dict())
    write_report(
        config.out / "report.html",
        results,
        title="lavla_ros demo: a learned policy on the emulated JAKA arm",
        reproduce="make demo",
        videos=videos,
        notes={
            "What ran": "camera nodes, policy node, executor with its 125 Hz servo process, recorder, over ROS 2; "
            "the arm is the JAKA controller emulator, reached through its TCP protocol only"
        },
    )
    return results


def _run_live(config: DemoConfig, say: Callable[[str], None]) -> list[dict[str, Any]]:
    arguments = {
        "policy": config.policy,
        "task": config.task,
        "seed": str(EVALUATION_SEED_BASE + config.seed),
        "episode_s": str(EPISODE_S),
    }
    say(f"starting the stack (log: {config.out / 'stack.log'})")
    with LiveEpisodes(config.out, episodes=config.episodes, arguments=arguments) as live:
        told, going = 0, True
        while going:
            going = live.running(0.2)
            for row in live.finished[told:]:
                told += 1
                outcome = f"{row['state']} after {row['elapsed_s']:.1f} s"
                say(f"episode {told}/{config.episodes}, seed {row['seed']}: {outcome}")
        return live.finished
