"""The tabletop suite in lock-step: simulated time waits for the policy, so results repeat bit for bit."""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lavla_ros.contract import ActionChunk, Contract, Observation, load_contract
from sim_bridges.evaluation.results import EpisodeResult, Results, latency_summary
from sim_bridges.tabletop.tasks import LayoutName, TaskName

EVALUATION_SEED_BASE = 1_000_000
"""Evaluation episodes use seeds from here on, recordings stay below: a policy never meets its training layouts."""

OnEpisode = Callable[[EpisodeResult], None]


@dataclass(frozen=True, kw_only=True)
class TabletopEvaluation:
    """What to evaluate, completely: equal values give equal episodes."""

    task: TaskName = "pick_place"
    """pick_place or stack_bowls."""
    policy: str = "bundled"
    """A checkpoint directory, ``bundled``, or ``expert`` (the scripted expert on privileged state)."""
    contract: str = "jaka_minicobo"
    """Contract name or file."""
    layout: LayoutName = "id"
    """Object placements: like the demonstrations, or outside of them."""
    episodes: int = 50
    seed: int = 0
    max_steps: int = 200
    """Contract steps after which an episode counts as failed: 20 s, the paper's limit (Appendix F)."""
    replan_steps: int = 10
    """Contract steps executed from a chunk before the next inference."""
    latency_steps: int = 0
    """Contract steps that pass between an observation and its chunk arriving (0: inference is free)."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("episodes", 1, 10_000),
            ("seed", 0, 99_999),
            ("max_steps", 1, 10_000),
            ("replan_steps", 1, 256),
            ("latency_steps", 0, 255),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"evaluation: {name} is {value}; expected {low} to {high}")

    def episode_seed(self, index: int) -> int:
        return EVALUATION_SEED_BASE + self.seed * 10_000 + index


class EpisodeRunner:
    """One simulator with one policy; runs any number of episodes, each independent of the ones before."""

    def __init__(self, evaluation: TabletopEvaluation) -> None:
        from lavla_ros.control.executor import ChunkExecutor, ExecutorConfig
        from sim_bridges.tabletop.expert import ScriptedExpert
        from sim_bridges.tabletop.lockstep import LockstepSession
        from sim_bridges.tabletop.render import TabletopRenderer
        from sim_bridges.tabletop.sim import TabletopSim

        self.evaluation = evaluation
        self.contract: Contract = load_contract(evaluation.contract)
        self.sim = TabletopSim(evaluation.task, layout=evaluation.layout)
        self.expert: Any = None
        self.policy: Any = None
        if evaluation.policy == "expert":
            self.expert = ScriptedExpert(self.sim)
        else:
            from lavla_ros.contract import require_same_contract
            from lavla_ros.policy.policy import load_policy

            # One thread: sums in another order would be other bits.
            self.policy = load_policy(evaluation.policy, threads=1)
            require_same_contract(
                self.contract,
                self.policy.contract,
                ours_from=f"contract {evaluation.contract}",
                theirs_from=f"policy {evaluation.policy}",
            )
            if evaluation.replan_steps + evaluation.latency_steps > self.contract.chunk_size:
                raise ValueError(
                    f"replan_steps {evaluation.replan_steps} + latency_steps {evaluation.latency_steps} exceed the "
                    f"chunk size {self.contract.chunk_size}: the arm would run out of actions"
                )
        self._renderer = None if self.policy is None else TabletopRenderer(self.sim)
        executor = ChunkExecutor(self.contract, ExecutorConfig.from_contract(self.contract))
        self.session = LockstepSession(self.sim, executor, self.contract, self._renderer)

    def run(self, index: int, on_frame: Callable[[Observation], None] | None = None) -> EpisodeResult:
        """One episode. A raised error becomes an episode in error, never a failure."""
        seed = self.evaluation.episode_seed(index)
        latencies_ms: list[float] = []
        initial, steps = "", 0
        try:
            self.session.reset(seed)
            if self.expert is not None:
                self.expert.reset()
            if self.policy is not None:
                self.policy.reset()
            initial = hashlib.sha256(self.sim.snapshot().tobytes()).hexdigest()[:16]
            pending: list[tuple[int, ActionChunk]] = []
            outcome = self.sim.outcome()
            while steps < self.evaluation.max_steps and not outcome.success:
                if self.policy is None:
                    chunk: ActionChunk | None = self.expert.chunk(self.contract, self.sim.time_ns)
                else:
                    if steps % self.evaluation.replan_steps == 0:
                        observation = self.session.observe(render=True)
                        if on_frame is not None:
                            on_frame(observation)
                        began = time.perf_counter()
                        predicted = self.policy.predict(observation)
                        latencies_ms.append((time.perf_counter() - began) * 1e3)
                        pending.append((steps + self.evaluation.latency_steps, predicted))
                    chunk = pending.pop(0)[1] if pending and pending[0][0] <= steps else None
                self.session.step(chunk)
                steps += 1
                outcome = self.sim.outcome()
        except Exception as error:  # noqa: BLE001  # whatever went wrong is the episode's error, not its failure
            return EpisodeResult(
                index=index,
                seed=seed,
                initial_state=initial,
                success=False,
                score=0.0,
                length_steps=steps,
                error=f"{type(error).__name__}: {error}",
            )
        return EpisodeResult(
            index=index,
            seed=seed,
            initial_state=initial,
            success=bool(outcome.success),
            score=float(outcome.score),
            length_steps=steps,
            trajectory=self.session.trajectory,
            latency_ms=latency_summary(latencies_ms),
        )

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()


def evaluate(evaluation: TabletopEvaluation, *, workers: int = 1, on_episode: OnEpisode | None = None) -> Results:
    """Run all episodes; the number of workers changes nothing but the wall time."""
    if not 1 <= workers <= 64:
        raise ValueError(f"workers is {workers}; expected 1 to 64")
    began = time.perf_counter()
    episodes: list[EpisodeResult] = []
    for result in _run_all(evaluation, workers):
        episodes.append(result)
        if on_episode is not None:
            on_episode(result)
    contract = load_contract(evaluation.contract)
    return Results(
        suite="tabletop",
        task=evaluation.task,
        policy=evaluation.policy,
        contract_hash=contract.hash,
        settings={**asdict(evaluation), "policy_hash": policy_hash(evaluation.policy)},
        episodes=tuple(sorted(episodes, key=lambda e: e.index)),
        wall_s=time.perf_counter() - began,
        simulated_s=sum(e.length_steps for e in episodes) * contract.dt_s,
    )


def policy_hash(policy: str) -> str | None:
    """Content hash of a checkpoint's files; None for the expert."""
    if policy == "expert":
        return None
    from lavla_ros.policy.policy import checkpoint_path

    digest = hashlib.sha256()
    for file in sorted(Path(checkpoint_path(policy)).iterdir()):
        if file.is_file():
            digest.update(file.name.encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _run_all(evaluation: TabletopEvaluation, workers: int) -> Iterator[EpisodeResult]:
    if workers == 1:
        runner = EpisodeRunner(evaluation)
        try:
            for index in range(evaluation.episodes):
                yield runner.run(index)
        finally:
            runner.close()
        return
    context = multiprocessing.get_context("spawn")  # GL contexts and torch do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(evaluation,)) as pool:
        futures = [pool.submit(_run_in_worker, index) for index in range(evaluation.episodes)]
        for future in as_completed(futures):
            yield future.result()


_worker_runner: list[EpisodeRunner] = []


def _start_worker(evaluation: TabletopEvaluation) -> None:
    runner = EpisodeRunner(evaluation)
    atexit.register(runner.close)  # before the GL library shuts itself down
    _worker_runner.append(runner)


def _run_in_worker(index: int) -> EpisodeResult:
    return _worker_runner[0].run(index)


def same_episodes(left: Results, right: Results) -> bool:
    """Whether two evaluations were equal bit for bit (everything but wall times)."""

    def key(results: Results) -> list[tuple[object, ...]]:
        return [
            (e.index, e.seed, e.initial_state, e.success, e.score, e.length_steps, e.trajectory, e.error)
            for e in results.episodes
        ]

    return key(left) == key(right)
