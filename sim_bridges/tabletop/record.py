"""Record scripted demonstrations over ROS: a recorder node and a lock-step bridge per worker.

Every worker has a ROS domain of its own, so workers do not hear one another. The episodes of a seed are the same
whatever the number of workers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lavla_ros.bringup.domain import free_domains
from lavla_ros.bringup.environment import ros_environment
from lavla_ros.bringup.stack import Process
from lavla_ros.config import ConfigError
from lavla_ros.errors import UserError
from lavla_ros.lifeline import lifeline

RECORDING_SEED_LIMIT = 1_000_000
"""Recordings use seeds below this; evaluation uses those from here on."""


class RecordError(UserError, RuntimeError):
    """A worker ended badly; what was recorded before is kept."""


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """A batch of scripted demonstrations."""

    out: Path
    task: str = "pick_place"
    layout: str = "id"
    contract: str = "jaka_minicobo"
    episodes: int = 400
    seed: int = 0
    """Episode i uses seed ``seed + i``."""
    workers: int = 1
    disturb: bool = True
    max_steps: int = 150

    def __post_init__(self) -> None:
        if self.episodes < 1 or not 1 <= self.workers <= 16:
            raise ConfigError(f"episodes is {self.episodes}, workers {self.workers}; expected >= 1 and 1 to 16")
        if self.seed < 0 or self.seed + self.episodes > RECORDING_SEED_LIMIT:
            raise ConfigError(
                f"seeds {self.seed} to {self.seed + self.episodes - 1} must lie in 0 to {RECORDING_SEED_LIMIT - 1}: "
                "those from there on are kept for evaluation"
            )


@dataclass(frozen=True, kw_only=True)
class RecordSummary:
    episodes: int
    succeeded: int
    steps: int
    wall_s: float
    bags: tuple[str, ...]


def record_expert(config: RecordConfig, on_episode: Callable[[dict[str, object]], None]) -> RecordSummary:
    """Run all workers to the end. Raises RecordError with the last lines of the worker that failed, DomainError where
    there are not enough free ROS domains."""
    began = time.monotonic()
    config.out.mkdir(parents=True, exist_ok=True)
    if any(config.out.glob("*/episode_*")):
        raise RecordError(f"{config.out} holds recorded episodes already; give another --out")
    seeds = [config.seed + i for i in range(config.episodes)]
    count = min(config.workers, len(seeds))
    workers: list[_Worker] = []
    episodes: list[dict[str, object]] = []
    with ExitStack() as stack:
        domains, keep = stack.enter_context(free_domains(count))
        for i in range(count):
            workers.append(worker := _Worker(config, i, domains[i], keep[i]))
            stack.callback(worker.stop)
            worker.start(seeds[i :: config.workers])
        while True:
            for worker in workers:
                for episode in worker.new_episodes():
                    episodes.append(episode)
                    on_episode(episode)
                worker.check()
            if all(worker.finished for worker in workers):
                break
            time.sleep(0.1)
    return RecordSummary(
        episodes=len(episodes),
        succeeded=sum(bool(e["success"]) for e in episodes),
        steps=sum(int(str(e["steps"])) for e in episodes),
        wall_s=time.monotonic() - began,
        bags=tuple(sorted(str(p) for p in config.out.glob("*/episode_*"))),
    )


class _Worker:
    """One recorder process and one bridge process in a domain of their own."""

    def __init__(self, config: RecordConfig, index: int, domain: int, keep_fd: int) -> None:
        self._config, self._keep_fd = config, keep_fd
        self._root = config.out / f"worker_{index}"
        self._root.mkdir(parents=True, exist_ok=True)
        self._progress = self._root / "progress.jsonl"
        self._read_bytes = 0
        self._environment = ros_environment() | {"ROS_DOMAIN_ID": str(domain)} | lifeline()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, seeds: list[int]) -> None:
        config = self._config
        self._seeds_left = len(seeds)
        parameters = {"root": str(self._root), "contract": config.contract, "images": "raw"}
        recorder = Process(name="recorder", module="lavla_ros.nodes.recorder_node", is_node=True, parameters=parameters)
        bridge = [sys.executable, "-m", "sim_bridges.tabletop.lockstep_node", "--record"]
        bridge += ["--task", config.task, "--layout", config.layout, "--contract", config.contract]
        bridge += ["--max-steps", str(config.max_steps), "--progress", str(self._progress)]
        bridge += ["--disturb"] if config.disturb else []
        bridge += ["--seeds", *map(str, seeds)]
        for name, command in (("recorder", recorder.command(self._root)), ("bridge", bridge)):
            with (self._root / f"{name}.log").open("wb") as log:
                self._processes[name] = subprocess.Popen(
                    command,
                    env=self._environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[self._keep_fd],
                )

    @property
    def finished(self) -> bool:
        return self._processes["bridge"].poll() == 0 and self._seeds_left == 0

    def new_episodes(self) -> list[dict[str, object]]:
        if not self._progress.exists():
            return []
        with self._progress.open("rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(complete)
        episodes = [json.loads(line) for line in complete.splitlines()]
        self._seeds_left -= len(episodes)
        return episodes

    def check(self) -> None:
        for name, process in self._processes.items():
            status = process.poll()
            if status not in (None, 0) or (name == "recorder" and status is not None and not self.finished):
                log = (self._root / f"{name}.log").read_text(errors="replace", encoding="utf-8").splitlines()[-8:]
                raise RecordError(f"{name} of {self._root} ended with status {status}:\n  " + "\n  ".join(log))

    def stop(self) -> None:
        """SIGINT first, so that an open episode is closed; SIGKILL after five seconds."""
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5.0)
