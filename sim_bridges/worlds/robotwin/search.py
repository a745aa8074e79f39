"""The search for seeds that the expert solves, in processes of its own: what its planner and the renderer do there ends
with them."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from lavla_ros.contract import Contract
from sim_bridges.worlds.robotwin.environment import RobotwinEnvironment, RobotwinError
from sim_bridges.worlds.robotwin.seeds import Tried, try_seed
from sim_bridges.worlds.robotwin.task_source import Instructions, TaskSource

TRY_TIMEOUT_S = 900.0
"""Longest that the expert may take over a seed."""
_KEPT = "what was found is kept, and the same command goes on there"


def search(
    source: TaskSource, contract: Contract, task: str, kind: Instructions, workers: int, first: int
) -> Generator[Tried]:
    """Seeds from ``first`` on, in order, tried ``workers`` at a time. Raises RobotwinError if a process dies, or does
    not come to an end with a seed."""
    context = multiprocessing.get_context("spawn")
    pending: deque[tuple[int, Future[Tried]]] = deque()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_make, initargs=(source, contract, task)) as pool:
        try:
            seed = first
            while True:
                while len(pending) < workers:
                    pending.append((seed, pool.submit(_try, seed, kind)))
                    seed += 1
                oldest, future = pending.popleft()
                yield future.result(TRY_TIMEOUT_S)
        except BrokenProcessPool as error:
            raise RobotwinError(f"a process that tried seeds of {task} from {oldest} on died; {_KEPT}") from error
        except TimeoutError as error:
            for process in list(pool._processes.values()):  # from Python 3.14 on: kill_workers()
                process.kill()
            raise RobotwinError(
                f"the expert did not come to an end with seed {oldest} of {task} in {TRY_TIMEOUT_S:g} s; {_KEPT}"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_made: tuple[TaskSource, Contract, str] | None = None
_environment: RobotwinEnvironment | None = None


def _make(source: TaskSource, contract: Contract, task: str) -> None:
    global _made
    _made = (source, contract, task)


def _try(seed: int, kind: Instructions) -> Tried:
    global _environment
    assert _made is not None
    source, contract, task = _made
    if _environment is None:
        _environment = source.environment(task, contract)
    return try_seed(_environment, source, seed, kind)
