"""An evaluation from its description to ``results.json`` and ``report.html``; see docs/evaluation.md."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.config import ConfigError
from sim_bridges.episode import PolicyError
from sim_bridges.evaluation.config import REPLAY, EvaluationConfig, kind_of
from sim_bridges.evaluation.html_parts import in_words
from sim_bridges.evaluation.policies import (
    Link,
    policy_config,
    policy_hash,
    recorded_scenes,
)
from sim_bridges.evaluation.policy_nodes import Watch, links_to_nodes, policy_nodes
from sim_bridges.evaluation.policy_server import served_policy
from sim_bridges.evaluation.report import NOTHING_PUBLISHED, Published, write_report
from sim_bridges.evaluation.results import EpisodeResult, Results, versions
from sim_bridges.evaluation.store import EvaluationFolder, StoreError
from sim_bridges.evaluation.workers import EvaluationError, Job, run_plans
from sim_bridges.files import write_json
from sim_bridges.suites import choose_tasks, load_suite, make_plans, protocol_starts, require_experts
from sim_bridges.world import EpisodePlan, EpisodeStart, EvaluationConditions, FindsEpisodes, Suite

OnEpisode = Callable[[EpisodeResult], None]


def evaluate(
    config: EvaluationConfig,
    *,
    out: Path | None = None,
    workers: int = 1,
    on_start: Callable[[int], None] | None = None,
    on_episode: OnEpisode | None = None,
    published: Published = NOTHING_PUBLISHED,
) -> Results:
    """Run what is not finished in ``out`` yet, and write results.json and report.html there, beside what is published.

    The number of workers changes nothing but the wall time. ``on_start`` gets the number of episodes, ``on_episode``
    each of them, first those that were finished before. Raises EvaluationError, StoreError, SuiteError and what
    loading the policy raises.
    """
    if not 1 <= workers <= 64:
        raise ConfigError(f"workers is {workers}; expected 1 to 64")
    evaluation = _Evaluation(config, published)
    if on_start is not None:
        on_start(evaluation.count)
    with tempfile.TemporaryDirectory() if out is None else nullcontext(str(out)) as path:
        return evaluation.run(Path(path), workers, on_episode or (lambda episode: None), keep=out is not None)


def on_a_gpu(device: str) -> bool:
    """Whether a policy computes there; raises DeviceError for a device that is not there."""
    if device == "cpu":
        return False
    from lavla_ros.policy.device import resolve_device  # imports torch

    return resolve_device(device).type != "cpu"


class _Evaluation:
    """A configuration with the suite's own numbers filled in."""

    def __init__(self, config: EvaluationConfig, published: Published) -> None:
        if config.method and published.methods and config.method not in published.methods:
            raise ConfigError(f"evaluation: method is {config.method!r}; expected one of {sorted(published.methods)}")
        self.published = published
        self.kind = kind_of(config.policy)
        self.suite: Suite = load_suite(config.suite, config.options)
        self.finder = self._finder()
        rules = self.suite.rules
        tasks = choose_tasks(self.suite, config.tasks)
        if self.kind == "expert":
            require_experts(self.suite, tasks)
        seed = rules.seed if config.seed is None else config.seed
        self.replan_steps = rules.replan_steps if config.replan_steps is None else config.replan_steps
        if self.kind == "replay":
            starts = _recorded_starts(self.suite, tasks, config.episodes, Path(config.policy.removeprefix(REPLAY)))
            episodes = max(map(len, starts.values()))
        else:
            episodes = rules.episodes if config.episodes is None else config.episodes
            starts = protocol_starts(self.suite, tasks, episodes=episodes, seed=seed)
        self.starts = starts
        self.count = sum(map(len, starts.values()))
        limits = [start.max_steps or rules.max_steps for of_task in starts.values() for start in of_task]
        max_steps = config.max_steps or max(limits)
        self.config = replace(
            config, tasks=tasks, episodes=episodes, seed=seed, max_steps=max_steps, replan_steps=self.replan_steps
        )
        contract = self.suite.contract
        if self.kind in ("checkpoint", "remote") and self.replan_steps + config.latency_steps > contract.chunk_size:
            raise ConfigError(
                f"replan_steps {self.replan_steps} + latency_steps {config.latency_steps} exceed the chunk size "
                f"{contract.chunk_size}: the arm would run out of actions"
            )
        if self.kind == "checkpoint":
            on_a_gpu(config.device)  # before anything is started
        self.policy_hash = policy_hash(config.policy)
        network, training = policy_config(config.policy)
        backbone = network.get("backbone")
        self.backbone = str(backbone.get("kind", "")) if isinstance(backbone, Mapping) else ""
        self.method = config.method or published.method_of(network, training)
        self.assets = self.suite.assets()
        self.comparability = self.suite.comparability(
            EvaluationConditions(
                tasks=tasks,
                episodes=episodes,
                seed=seed,
                max_steps=max_steps,
                replan_steps=self.replan_steps,
                latency_steps=config.latency_steps,
                policy=config.policy,
                backbone=self.backbone,
                options=config.options,
            )
        )

    def settings(self) -> dict[str, Any]:
        """Everything that decides the episodes."""
        config = asdict(self.config)
        for name in ("videos", "timeout_s", "method"):
            del config[name]
        return {
            **config,
            "tasks": list(self.config.tasks),
            **({} if (patience := self.suite.rules.patience_steps) is None else {"patience_steps": patience}),
            "options": {key: value for key, value in sorted(self.config.options.items()) if value},
            "policy_hash": self.policy_hash,
            "contract_hash": self.suite.contract.full_hash,
            "assets_hash": self.assets.hash,
            "versions": versions(self.suite.versions()),
        }

    def run(self, path: Path, workers: int, on_episode: OnEpisode, *, keep: bool) -> Results:
        with EvaluationFolder(path, self.settings()) as folder:
            episodes = dict(folder.finished)
            for index in sorted(episodes):
                on_episode(episodes[index])
            before = len(episodes)
            clips = _Clips(folder, self.config.videos if keep else 0)
            began = time.perf_counter()

            def on_ready() -> None:
                nonlocal began
                if len(episodes) == before:
                    began = time.perf_counter()

            plans = [plan for plan in self._plans(folder.path, workers) if plan.index not in episodes]
            simulated_steps = 0
            with self._links(path, min(workers, max(1, len(plans))), plans) as (links, watch):
                job = Job(
                    config=self.config,
                    replan_steps=self.replan_steps,
                    links=links,
                    clips=path / "clips" if clips.wanted else None,
                    environment=ros_environment() if any(link.served is None for link in links) else {},
                )
                if self.kind == "remote" and workers > 1:
                    raise EvaluationError(f"one policy node serves one worker; --workers is {workers}: make it 1")
                running = run_plans(
                    job,
                    plans,
                    workers=workers,
                    task_in_process=self.suite.task_in_process,
                    on_ready=on_ready,
                    watch=watch,
                )
                with closing(running):  # whatever happens here, its workers end
                    for episode in running:
                        folder.add(episode)
                        episodes[episode.index] = episode
                        simulated_steps += episode.length_steps
                        clips.choose(episodes)
                        on_episode(episode)
            contract = self.suite.contract
            results = self._results(
                episodes,
                wall_s=time.perf_counter() - began,
                simulated_s=simulated_steps * contract.dt_s if contract.step == "period" else 0.0,
            )
            if keep:
                self._write(folder, results, clips)
            return results

    def _finder(self) -> FindsEpisodes | None:
        """The suite, if its episodes have to be found."""
        if not isinstance(self.suite, FindsEpisodes):
            return None
        if self.suite.episodes_given and self.kind == "replay":
            raise ConfigError("a list of episodes is given, and replay: has those of its dataset; leave one out")
        return self.suite if self.kind != "replay" and (self.kind != "expert" or self.suite.episodes_given) else None

    def _plans(self, folder: Path, workers: int) -> tuple[EpisodePlan, ...]:
        """All episodes; if they have to be found, those that the folder has are taken from there."""
        config, starts = self.config, self.starts
        assert config.max_steps is not None and config.episodes is not None and config.seed is not None
        if self.finder is not None:
            starts = self.finder.find(
                config.tasks, episodes=config.episodes, seed=config.seed, folder=folder, workers=workers
            )
        return make_plans(starts, max_steps=config.max_steps, patience_steps=self.suite.rules.patience_steps)

    @contextmanager
    def _links(self, path: Path, workers: int, plans: list[EpisodePlan]) -> Iterator[tuple[tuple[Link, ...], Watch]]:
        """Topics to the policy, with policy nodes behind them while the block runs, and who looks after those."""
        timeout_s = 0.9 * self.config.timeout_s  # before the worker itself is taken for dead
        if self.kind == "remote":
            yield (Link(domain=None, timeout_s=timeout_s),) * workers, lambda: None
        elif self.config.through == "nodes" and plans:
            parameters = {name: getattr(self.config, name) for name in ("policy", "replan_steps", "device")}
            with (
                links_to_nodes(workers, timeout_s) as links,
                policy_nodes(parameters, self.suite.contract, links, path / "nodes.log") as watch,
            ):
                yield links, watch
        elif self.kind == "checkpoint" and workers > 1 and plans and on_a_gpu(self.config.device):
            with served_policy(self.config.policy, device=self.config.device) as (address, watch):
                yield (Link(served=address, timeout_s=timeout_s),) * workers, watch
        else:
            yield (), lambda: None

    def _results(self, episodes: Mapping[int, EpisodeResult], *, wall_s: float, simulated_s: float) -> Results:
        return Results(
            suite=self.suite.name,
            task=",".join(self.config.tasks),
            policy=self.config.policy,
            contract_hash=self.suite.contract.full_hash,
            settings=self.settings(),
            episodes=tuple(episodes[index] for index in sorted(episodes)),
            assets=asdict(self.assets),
            comparable=self.comparability.statement,
            is_comparable=self.comparability.comparable,
            method=self.method,
            versions=versions(self.suite.versions()),
            wall_s=wall_s,
            simulated_s=simulated_s,
        )

    def _write(self, folder: EvaluationFolder, results: Results, clips: _Clips) -> None:
        tasks = self.config.tasks
        what = ", ".join(map(in_words, tasks)) if len(tasks) < 3 else f"{len(tasks)} tasks"
        try:
            write_report(
                folder.path / "report.html",
                results,
                title=f"{results.suite}: {what}",
                reproduce=self.config.command(),
                videos=clips.files({e.index: e for e in results.episodes}),
                published=self.published,
            )
            write_json(folder.path / "results.json", results.to_dict())  # last: with it the evaluation is finished
        except OSError as error:
            raise StoreError(
                f"cannot write the report in {folder.path}: {error.strerror or error}; all {len(results.episodes)} "
                "episodes are kept, and the same command writes it"
            ) from error


class _Clips:
    """Keeps the clips of the first few successes and failures, whatever the order in which episodes finish."""

    def __init__(self, folder: EvaluationFolder, wanted: int) -> None:
        self._folder = folder
        self.wanted = wanted

    def choose(self, episodes: Mapping[int, EpisodeResult]) -> None:
        if not self.wanted:
            return
        kept = set(self._chosen(episodes))
        for index in episodes:
            if index not in kept:
                self._folder.clip(index).unlink(missing_ok=True)

    def files(self, episodes: Mapping[int, EpisodeResult]) -> dict[int, Path]:
        clips = {index: self._folder.clip(index) for index in self._chosen(episodes)}
        return {index: clip for index, clip in clips.items() if clip.exists()}

    def _chosen(self, episodes: Mapping[int, EpisodeResult]) -> Iterator[int]:
        for success in (True, False):
            same = [i for i in sorted(episodes) if episodes[i].success == success and episodes[i].error is None]
            yield from same[: self.wanted]


def _recorded_starts(
    suite: Suite, tasks: Sequence[str], episodes: int | None, dataset: Path
) -> dict[str, list[EpisodeStart]]:
    """The recorded scenes of these tasks, ``episodes`` of each at most. Raises PolicyError if there are fewer."""
    starts: dict[str, dict[EpisodeStart, None]] = {task: {} for task in tasks}
    for scene in recorded_scenes(dataset):
        task = scene["task"]
        name = suite.tasks[task] if isinstance(task, int) and 0 <= task < len(suite.tasks) else task
        same = all(scene.get(key) in (None, value) for key, value in getattr(suite, "scene", {}).items())
        if scene.get("suite", suite.name) == suite.name and same and name in starts:
            limit = suite.plan(name, 0, 0).max_steps
            start = EpisodeStart(scene["seed"], scene.get("initial_state"), str(scene.get("instruction", "")), limit)
            starts[name][start] = None
    for name, found in starts.items():
        if len(found) < (episodes or 1):
            raise PolicyError(
                f"{dataset} has {len(found)} recorded scenes of {suite.name}, {name}; there are none to replay beyond "
                f"them (--episodes is {episodes or 'not given'})"
            )
    return {name: list(found)[:episodes] for name, found in starts.items()}
