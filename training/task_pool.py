"""Many independent tasks on the processes of this machine or on a Ray cluster: one code path for both.

Conversion and labelling are made of tasks that read shared files and write their own, whole or not at all. So a
task can be begun again when its worker is lost (out of memory, machine gone), and results do not depend on
where or how often it ran. Results come back in the order of the tasks.
"""

from __future__ import annotations

import heapq
import importlib
import logging
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

from lavla_ros.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Tasks that are begun or wait with their result for an earlier one, per worker: bounds what is staged."""


class PoolError(UserError, RuntimeError):
    """Tasks cannot be run as asked."""


class WorkerLostError(PoolError):
    """The worker of one task died every time that it was tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Where tasks run."""

    jobs: int | None = None
    """Number of processes. The default is one per core, of this machine or of the cluster. The output does not depend
    on it."""
    ray: str | None = None
    """Address of a Ray cluster (HOST:6379, or "auto" on one of its machines) whose machines do the work, instead of
    processes on this one; docs/scaling.md explains it."""
    gpus_per_task: float = 0.0
    """Number of GPUs that Ray reserves for each task; with 0.25, four tasks share one."""
    attempts: int = 3
    """How often a task is begun before the loss of its worker counts as its own fault."""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise PoolError(f"jobs is {self.jobs}; expected at least 1")
        if self.attempts < 1:
            raise PoolError(f"attempts is {self.attempts}; expected at least 1")
        if self.gpus_per_task < 0 or (self.gpus_per_task and self.ray is None):
            raise PoolError(f"gpus_per_task is {self.gpus_per_task}; expected 0, or more than that with a Ray cluster")


def run_tasks(
    tasks: Sequence[T],
    function: Callable[[T], R],
    workers: Workers | None = None,
    *,
    name: Callable[[T], str] = str,
    give_up: Callable[[T, str], R] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    log: Callable[[str], None] = lambda text: None,
) -> Generator[R, None, None]:
    """``function(task)`` of every task, in order.

    ``function``, tasks and results must be picklable. ``progress(done, total)`` is called whenever a task is
    done, ``log`` when a worker is lost. A task whose worker dies is begun again, ``workers.attempts`` times in
    all; then ``give_up(task, reason)`` stands in for its result, or WorkerLostError names it. What ``function``
    raises ends the run at once, as does closing the generator. Raises PoolError when Ray is not installed or the
    cluster can't be reached.
    """
    workers = workers or Workers()
    count = min(workers.jobs or os.cpu_count() or 1, len(tasks))
    if workers.ray is None and count <= 1:
        for number, task in enumerate(tasks):
            result = function(task)
            progress(number + 1, len(tasks))
            yield result
        return
    crew: _Crew = _Processes(count) if workers.ray is None else _RayCluster(workers)
    waiting = list(range(len(tasks)))  # a heap: what was lost is begun again before what comes after it
    running: dict[Future[R], int] = {}
    finished: dict[int, R] = {}
    losses: dict[int, int] = {}
    following = done = 0
    try:
        while following < len(tasks):
            capacity = crew.capacity()
            while waiting and len(running) < capacity and waiting[0] < following + _AHEAD * capacity:
                number = heapq.heappop(waiting)
                running[crew.submit(function, tasks[number])] = number
            if following in finished:
                yield finished.pop(following)
                following += 1
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                task = tasks[number]
                try:
                    finished[number] = crew.result(future)
                except crew.lost as error:
                    losses[number] = losses.get(number, 0) + 1
                    reason = f"its worker died {losses[number]} times ({_first_line(error)})"
                    if losses[number] < workers.attempts:
                        log(f"{name(task)}: {reason}; it is begun again")
                        heapq.heappush(waiting, number)
                        continue
                    if give_up is None:
                        raise WorkerLostError(
                            f"{name(task)}: {reason}. Out of memory? Try fewer jobs; what is finished is kept"
                        ) from error
                    finished[number] = give_up(task, reason)
                done += 1
                progress(done, len(tasks))
    finally:
        crew.close()


class _Crew(Protocol):
    """Workers of one kind."""

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """What ``result`` raises when the worker died, as opposed to what the task raised."""

    def capacity(self) -> int:
        """Tasks that can run at a time, at present."""

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future[Any]: ...

    def result(self, future: Future[Any]) -> Any:
        """Of a future that is done."""

    def close(self) -> None:
        """End all workers; tasks that still run are abandoned."""


# ---------------------------------------------------------------------- this machine


class _Processes:
    """Pools of one process each: when a process dies, it is known which task it had, and no other task is lost."""

    lost = (BrokenProcessPool,)

    def __init__(self, count: int) -> None:
        self._count = count
        self._idle: list[_OneProcess] = []
        self._busy: dict[Future[Any], _OneProcess] = {}

    def capacity(self) -> int:
        return self._count

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future[Any]:
        process = self._idle.pop() if self._idle else _OneProcess()
        future = process.pool.submit(function, task)
        self._busy[future] = process
        return future

    def result(self, future: Future[Any]) -> Any:
        process = self._busy.pop(future)
        try:
            value = future.result()
        except BrokenProcessPool:
            process.close()
            raise
        except BaseException:
            self._idle.append(process)
            raise
        self._idle.append(process)
        return value

    def close(self) -> None:
        for process in self._busy.values():
            process.hang_up()  # at once for all of them, before waiting for each
        for process in [*self._busy.values(), *self._idle]:
            process.close()


class _OneProcess:
    """A process pool of one, that ends with us: also when we are killed or its task is no longer wanted."""

    def __init__(self) -> None:
        # spawn: forking a process that has threads (rclpy, torch) can deadlock
        context = multiprocessing.get_context("spawn")
        theirs, self._ours = context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_end_with, initargs=(theirs,))
        self._theirs = theirs

    def hang_up(self) -> None:
        """End the process in the middle of its task."""
        self._ours.close()

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
        self._ours.close()
        self._theirs.close()


def _end_with(parent: Connection) -> None:
    """In a worker: end this process as soon as the other end of ``parent`` is closed."""

    def watch() -> None:
        parent.poll(None)  # nothing is ever sent: it wakes when the pipe is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


# ---------------------------------------------------------------------- many machines


class _RayCluster:
    """Tasks of a Ray cluster. Ray's own retries are off: losses are counted here, as for processes."""

    def __init__(self, workers: Workers) -> None:
        try:
            ray = importlib.import_module("ray")
        except ImportError:
            raise PoolError(
                "a Ray cluster was asked for, but Ray is not installed: pip install 'lavla_ros[ray]', on every machine"
            ) from None
        self._ray: Any = ray
        self._limit = workers.jobs
        self._gpus = workers.gpus_per_task
        self._opened = not ray.is_initialized()
        if self._opened:
            try:
                _require_listener(workers.ray or "auto")
                ray.init(address=workers.ray, log_to_driver=False, logging_level=logging.WARNING)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise PoolError(
                    f"the Ray cluster at {workers.ray!r} cannot be reached: {_first_line(error)}. Start it with "
                    "`ray start --head` here, and `ray start --address=HOST:6379` on the other machines"
                ) from None
        self.lost: tuple[type[BaseException], ...] = (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.LocalRayletDiedError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.ObjectLostError,
        )
        self._remote: dict[Callable[[Any], Any], Any] = {}
        self._references: dict[Future[Any], Any] = {}

    def capacity(self) -> int:
        """What the machines that are there have; Ray keeps a task waiting when there is none."""
        have = self._ray.cluster_resources()
        slots = int(have.get("GPU", 0) / self._gpus) if self._gpus else int(have.get("CPU", 0))
        return max(1, min(slots, self._limit or slots))

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future[Any]:
        if function not in self._remote:
            # max_calls 0: a worker keeps its loaded model from task to task, on GPUs too
            self._remote[function] = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=0, max_calls=0)(
                function
            )
        reference = self._remote[function].remote(task)
        future: Future[Any] = reference.future()
        self._references[future] = reference
        return future

    def result(self, future: Future[Any]) -> Any:
        del self._references[future]
        try:
            return future.result()
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None  # as a local process would have raised it

    def close(self) -> None:
        for reference in self._references.values():
            self._ray.cancel(reference, force=True)
        if self._opened:
            self._ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise OSError when nothing answers there: Ray itself would try for more than a minute."""
    host, separator, port = address.rpartition(":")
    if separator:
        with socket.create_connection((host, int(port)), timeout=10):
            pass


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
