"""Worker processes: one environment and one policy each, watched by the parent.

A worker says whom it is waiting for; one that says nothing for too long, or dies, costs its episode (an error, never
a failure) and is replaced. The order in which episodes are handed out changes nothing in them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lavla_ros.contract import Observation
from lavla_ros.errors import UserError, is_users
from sim_bridges.episode import Actor, ExpertActor
from sim_bridges.evaluation.config import EvaluationConfig, kind_of
from sim_bridges.evaluation.episode import OnBusy, evaluate_episode, result_of
from sim_bridges.evaluation.forking import forking_context
from sim_bridges.evaluation.policies import Link, make_actor
from sim_bridges.evaluation.results import EpisodeResult
from sim_bridges.suites import load_suite
from sim_bridges.world import Environment, EpisodePlan

MOST_ERRORS_IN_A_ROW = 5
"""After as many the evaluation is stopped: something is wrong with more than an episode."""


class EvaluationError(UserError, RuntimeError):
    """An evaluation cannot begin or go on; finished episodes are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker has to know; travels to its process."""

    config: EvaluationConfig
    replan_steps: int
    links: tuple[Link, ...] = ()
    """One per worker where the policy is behind topics."""
    clips: Path | None = None
    """Folder for the videos of all episodes."""
    start_timeout_s: float = 600.0
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of the worker's process, besides the parent's."""


def run_plans(
    job: Job,
    plans: Sequence[EpisodePlan],
    *,
    workers: int,
    task_in_process: bool,
    on_ready: Callable[[], None] = lambda: None,
    watch: Callable[[], None] = lambda: None,
) -> Generator[EpisodeResult, None, None]:
    """Run all plans, in whatever order they finish. ``on_ready`` is called for every worker that begins its first;
    ``watch`` again and again, and what it raises ends everything.

    Raises EvaluationError if a worker cannot start, or after ``MOST_ERRORS_IN_A_ROW`` episodes in error. Leaving
    the iteration ends the workers.
    """
    queue = _Queue(plans)
    slots: list[_Slot] = []
    errors_in_a_row = 0
    try:
        for index in range(min(workers, len(plans))):
            slots.append(_Slot(job, index, queue, on_ready, task_in_process=task_in_process))
        while any(slot.busy for slot in slots):
            deadline = min(slot.deadline for slot in slots if slot.busy)
            handles = [handle for slot in slots if slot.busy for handle in slot.handles]
            wait(handles, timeout=max(0.0, min(1.0, deadline - time.monotonic())))
            watch()
            for slot in slots:
                result = slot.poll()
                if result is None:
                    continue
                yield result  # it is on the disk before anything else happens
                errors_in_a_row = errors_in_a_row + 1 if result.error is not None else 0
                if errors_in_a_row >= MOST_ERRORS_IN_A_ROW:
                    raise EvaluationError(
                        f"{errors_in_a_row} episodes in a row ended in error, the last, episode {result.index}, "
                        f"by {result.error}; mend that and give the same command again to go on"
                    )
                slot.advance(result.task)
    finally:
        for slot in slots:
            slot.stop()


class _Queue:
    """Plans by task: a worker stays with a task as long as it lasts, and begins with the one least looked after."""

    def __init__(self, plans: Sequence[EpisodePlan]) -> None:
        self._left: dict[str, deque[EpisodePlan]] = {}
        self._workers: dict[str, int] = {}
        for plan in plans:
            self._left.setdefault(plan.task, deque()).append(plan)
            self._workers[plan.task] = 0

    def next(self, task: str | None) -> EpisodePlan | None:
        """``task``: of the worker that asks, None if it has none yet."""
        if task is None or not self._left[task]:
            if task is not None:
                self._workers[task] -= 1
            open_tasks = [name for name, plans in self._left.items() if plans]
            if not open_tasks:
                return None
            task = max(open_tasks, key=lambda name: len(self._left[name]) / (1 + self._workers[name]))
            self._workers[task] += 1
        return self._left[task].popleft()


class _Slot:
    """One worker process after another, and the plan that the present one runs."""

    def __init__(
        self, job: Job, index: int, queue: _Queue, on_ready: Callable[[], None], *, task_in_process: bool
    ) -> None:
        self._job, self._index, self._queue, self._on_ready = job, index, queue, on_ready
        self._task_in_process = task_in_process
        self._plan: EpisodePlan | None = None
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._ready = False
        self._waiting_for, self._step = "start", 0
        self.deadline = 0.0
        self.advance(None)

    @property
    def busy(self) -> bool:
        return self._plan is not None

    @property
    def handles(self) -> list[Any]:
        return [self._connection, self._process.sentinel] if self._process is not None else []

    def poll(self) -> EpisodeResult | None:
        """The plan's result, once there is one. Raises EvaluationError if the worker could not start."""
        if self._plan is None or self._connection is None or self._process is None:
            return None
        with contextlib.suppress(EOFError, ConnectionError):
            while self._connection.poll():
                kind, value = self._connection.recv()
                if kind == "refused":
                    raise EvaluationError(value)
                if kind == "done":
                    self._waiting_for = "parent"
                    result: EpisodeResult = value
                    return result
                if not self._ready:
                    self._ready = True
                    self._on_ready()
                self._waiting_for, self._step = value
                self.deadline = time.monotonic() + self._job.config.timeout_s
        if not self._process.is_alive():
            self._process.join()
            status = self._process.exitcode
            how = f"was killed by signal {-status}" if status is not None and status < 0 else f"ended with {status}"
            return self._lost(self._plan, f"WorkerDied: the worker {how}")
        if time.monotonic() > self.deadline:
            limit = self._job.config.timeout_s if self._ready else self._job.start_timeout_s
            return self._lost(self._plan, f"NoAnswer: no answer of the {self._waiting_for} within {limit:g} s")
        return None

    def _lost(self, plan: EpisodePlan, why: str) -> EpisodeResult:
        """The worker is gone, or is ended here, in the middle of an episode."""
        self._end()
        if not self._ready:
            raise EvaluationError(f"{why.split(': ', 1)[1]} while it made the simulator and loaded the policy")
        return result_of(
            plan,
            initial_state="",
            success=False,
            score=0.0,
            length_steps=self._step,
            error=f"{why}, at step {self._step}",
        )

    def advance(self, task: str | None) -> None:
        """Take the next plan, after one of ``task``; a process that cannot run it makes way for another."""
        self._plan = plan = self._queue.next(task)
        if plan is None or (self._task_in_process and plan.task != task):
            self._end()
        if plan is None:
            return
        if self._process is None:
            self._start()
        assert self._connection is not None
        if self._ready:
            self.deadline = time.monotonic() + self._job.config.timeout_s
        with contextlib.suppress(BrokenPipeError):  # it has died; poll() sees that
            self._connection.send(plan)

    def _start(self) -> None:
        loads_policy = kind_of(self._job.config.policy) == "checkpoint" and not self._job.links
        context = forking_context(loads_policy=loads_policy)
        self._connection, theirs = context.Pipe()
        environment = {**os.environ, **self._job.environment}
        self._process = context.Process(
            target=_work,
            args=(self._job, self._index, theirs, environment),
            name=f"evaluation {self._index}",
            daemon=True,
        )
        self._process.start()
        theirs.close()
        self._ready, self._waiting_for, self._step = False, "worker", 0
        self.deadline = time.monotonic() + self._job.start_timeout_s

    def stop(self) -> None:
        """Give up the plan."""
        self._plan = None
        self._end()

    def _end(self) -> None:
        """End the process; one that has finished its work gets time to close its simulator."""
        if self._process is None or self._connection is None:
            return
        with contextlib.suppress(OSError):
            self._connection.send(None)
        idle = self._ready and self._waiting_for == "parent"
        self._process.join(5.0 if idle else 0.2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()
        self._process = self._connection = None


def _work(job: Job, index: int, connection: Connection, environment: Mapping[str, str]) -> None:
    """A worker: make the environment of a task, load the policy, run what the parent sends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends its workers
    os.environ.clear()  # that of the server it forked from is older
    os.environ.update(environment)
    worker = _Worker(job, job.links[index] if job.links else None)
    try:
        # If the parent is gone, there is no one to tell.
        with contextlib.suppress(EOFError, ConnectionError):
            while (plan := connection.recv()) is not None:
                try:
                    worker.prepare(plan.task)
                except Exception as error:  # noqa: BLE001  # it must reach the user instead of ending here in silence
                    connection.send(("refused", _explain(error)))
                    return
                connection.send(("busy", ("simulator", 0)))
                connection.send(("done", worker.run(plan, lambda who, step: connection.send(("busy", (who, step))))))
    finally:
        worker.close()


class _Worker:
    """The environment and the policy of one process."""

    def __init__(self, job: Job, link: Link | None) -> None:
        self._job, self._link = job, link
        self._suite = load_suite(job.config.suite, job.config.options)
        self._task: str | None = None
        self._environment: Environment | None = None
        self._actor: Actor | None = None

    def prepare(self, task: str) -> None:
        """Raises what the simulator and the policy raise."""
        if task == self._task:
            return
        self._close_environment()
        job, contract, kind = self._job, self._suite.contract, kind_of(self._job.config.policy)
        if self._actor is None and kind != "expert":  # first: what does not fit is said before anything is built
            self._actor = make_actor(
                job.config.policy, contract, every=job.replan_steps, device=job.config.device, link=self._link
            )
        self._environment = self._suite.environment(task, images=kind in ("checkpoint", "remote"))
        if kind == "expert":
            self._actor = ExpertActor(self._environment.expert())
        self._task = task

    def run(self, plan: EpisodePlan, on_busy: OnBusy) -> EpisodeResult:
        assert self._environment is not None and self._actor is not None
        frames: list[Observation] = []
        result = evaluate_episode(
            self._environment,
            self._actor,
            self._suite.contract,
            plan,
            latency_steps=self._job.config.latency_steps,
            on_busy=on_busy,
            on_frame=frames.append if self._job.clips is not None else None,
        )
        if self._job.clips is not None and frames:
            from sim_bridges.evaluation.video import write_clip

            outcome = "error" if result.error else "success" if result.success else "failure"
            # A clip that cannot be written is no reason to lose the episode.
            with contextlib.suppress(OSError):
                write_clip(self._job.clips / f"{plan.index:06d}.mp4", frames, caption=outcome)
        return result

    def close(self) -> None:
        if self._actor is not None:
            self._actor.close()
        self._close_environment()

    def _close_environment(self) -> None:
        if self._environment is not None:
            self._environment.close()
        self._task = self._environment = None


def _explain(error: Exception) -> str:
    """The message of an error that is written for the user, the traceback of any other."""
    if is_users(error) and str(error):
        return str(error)
    return "".join(traceback.format_exception(error))
