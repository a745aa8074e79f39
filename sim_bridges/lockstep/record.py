"""Record a suite's scripted demonstrations over ROS: a recorder node and a lock-step node per worker.

Every worker has a ROS domain of its own, so workers do not hear one another. The episodes of a seed are the same
whatever the number of workers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from lavla_ros.bringup.domain import free_domains
from lavla_ros.bringup.launcher import Launcher
from lavla_ros.bringup.stack import Process, Stack
from lavla_ros.errors import UserError
from lavla_ros.outputs import sole_writer
from lavla_ros.yaml_text import dump_yaml
from sim_bridges.lockstep.config import RecordConfig
from sim_bridges.suites import choose_tasks, load_suite, require_experts
from sim_bridges.world import Suite


class RecordError(UserError, RuntimeError):
    """A worker ended badly; what was recorded before is kept."""


@dataclass(frozen=True, kw_only=True)
class RecordSummary:
    episodes: int
    succeeded: int
    steps: int
    wall_s: float
    bags: tuple[str, ...]


MOST_TRIES = 3
"""Episodes of a task in a protocol: at most so many times as it wants demonstrations."""


def wanted_demonstrations(config: RecordConfig) -> dict[str, int]:
    """Task → successful demonstrations that the configuration's protocol wants."""
    wanted: Mapping[str, int] = load_suite(config.suite, config.options).protocols[config.protocol]  # type: ignore[attr-defined]
    return {task: count for task, count in wanted.items() if config.task in ("", task)}


def record_protocol(config: RecordConfig, on_episode: Callable[[dict[str, object]], None]) -> RecordSummary:
    """Record each task of the protocol into a folder of its name, until as many demonstrations of it have succeeded.

    Seeds follow one another from the configuration's. Raises what :func:`record_expert` does, and RecordError if the
    expert fails too often; what was recorded is kept.
    """
    began, rounds = time.monotonic(), []
    for task, wanted in wanted_demonstrations(config).items():
        tried = succeeded = 0
        while succeeded < wanted:
            if tried >= MOST_TRIES * wanted:
                raise RecordError(
                    f"{succeeded} of {tried} demonstrations of {task} succeeded; {wanted} are wanted, and the expert "
                    f"does not get {MOST_TRIES} times as many tries. What there is lies in {config.out / task}"
                )
            one = replace(
                config,
                protocol="",
                task=task,
                episodes=wanted - succeeded,
                seed=config.seed + tried,
                out=config.out / task / f"from_seed_{config.seed + tried}",
            )
            rounds.append(made := record_expert(one, on_episode))
            tried, succeeded = tried + made.episodes, succeeded + made.succeeded
    return RecordSummary(
        episodes=sum(made.episodes for made in rounds),
        succeeded=sum(made.succeeded for made in rounds),
        steps=sum(made.steps for made in rounds),
        wall_s=time.monotonic() - began,
        bags=tuple(bag for made in rounds for bag in made.bags),
    )


def _suite_and_task(config: RecordConfig) -> tuple[Suite, tuple[str]]:
    suite = load_suite(config.suite, config.options)
    return suite, (choose_tasks(suite, [config.task] if config.task else [])[0],)


def record_expert(config: RecordConfig, on_episode: Callable[[dict[str, object]], None]) -> RecordSummary:
    """Run all workers to the end. Raises SuiteError for a task without an expert, RecordError with the last lines of
    the worker that failed, DomainError if there are not enough free ROS domains, OutputError if another process records
    into the same folder."""
    require_experts(*_suite_and_task(config))
    began = time.monotonic()
    count = min(config.workers, config.count)
    workers: list[_Worker] = []
    episodes: list[dict[str, object]] = []
    with sole_writer(config.out), ExitStack() as stack:
        if any(config.out.glob("*/episode_*")):
            raise RecordError(f"{config.out} holds recorded episodes already; give another --out")
        domains, keep = stack.enter_context(free_domains(count))
        for i in range(count):
            workers.append(worker := _Worker(config, i, domains[i], keep[i]))
            stack.callback(worker.stop)
            worker.start()
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
    """A recorder node and a lock-step node in a domain of their own."""

    def __init__(self, config: RecordConfig, index: int, domain: int, keep_fd: int) -> None:
        self._left = len(range(index, config.count, config.workers))
        self._root = config.out / f"worker_{index}"
        self._root.mkdir(parents=True, exist_ok=True)
        self._progress = self._root / "progress.jsonl"
        self._read_bytes = 0
        processes = self._processes(config, index)
        stack = Stack(name="record", description="", arguments={}, processes=processes, run_dir=self._root)
        self._log = (self._root / "nodes.log").open("w", encoding="utf-8")
        environment = {"ROS_DOMAIN_ID": str(domain)}
        self._launcher = Launcher(stack, log=self._log, environment=environment, pass_fds=[keep_fd])
        self.start = self._launcher.start

    def _processes(self, config: RecordConfig, first: int) -> tuple[Process, ...]:
        suite, (task,) = _suite_and_task(config)
        limit: int | Mapping[str, int] = getattr(suite, "demonstration_steps", 0)
        has_states = suite.plan(task, 0, config.seed).state_index is not None
        contract = self._root / "contract.yaml"
        contract.write_text(dump_yaml(suite.contract.to_dict()), encoding="utf-8")
        recorder = {"root": str(self._root), "contract": str(contract), "images": "raw", "silent_after_s": 60.0}
        bridge = {
            **{name: value for name, value in config.options.items() if value},
            "suite": config.suite,
            "task": task,
            "seed": config.seed + (0 if has_states else first),
            "initial_state": config.initial_state + (first if has_states else 0),
            "every": config.workers,
            "episodes": self._left,
            "max_steps": config.max_steps or (limit if isinstance(limit, int) else limit[task]),
            "commander": "expert",
            "policy": config.policy,
            "patience_s": config.patience_s,
            "disturb": config.disturb and not config.policy,
            "record": True,
            "exit_when_done": True,
            "progress": str(self._progress),
        }
        return (
            Process(name="recorder", module="lavla_ros.nodes.recorder_node", is_node=True, parameters=recorder),
            Process(name="bridge", module="sim_bridges.lockstep.node", is_node=True, parameters=bridge, finishes=True),
        )

    @property
    def finished(self) -> bool:
        return self._launcher.finished and self._left == 0

    def new_episodes(self) -> list[dict[str, object]]:
        if not self._progress.exists():
            return []
        with self._progress.open("rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(complete)
        rows = [json.loads(line) for line in complete.splitlines()]
        episodes = [{**row, "success": row["state"] == "succeeded"} for row in rows]
        self._left -= len(episodes)
        return episodes

    def check(self) -> None:
        if not self._launcher.finished and not self._launcher.wait(0.0):
            raise RecordError(f"{self._launcher.failure}\nthe whole log: {self._log.name}")

    def stop(self) -> None:
        """The bridge first, so that an open episode is closed."""
        self._launcher.stop()
        self._log.close()
