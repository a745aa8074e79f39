"""Which samples are trained on, and in which order: a function of the seed alone, with nothing to save."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lavla_ros.errors import UserError


class DataError(UserError, ValueError):
    """The training data cannot be used; names the sample and the cause."""


def split_episodes(
    episode_N: NDArray[np.int64],
    *,
    validation: float,
    seed: int,
    fraction: float = 1.0,
    task_N: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sample indices for training and validation; an episode is wholly in one of them, or unused.

    ``validation`` of the episodes is held out, but none of a single one; every task gives its share, rounded up or
    down. ``fraction`` of those left for training is used, of every task (at least one episode). A smaller fraction is
    part of a larger one, and has the same episodes held out. All tasks of one episode each count as one, as where
    every episode has a wording of its own.
    """
    episodes, starts = np.unique(episode_N, return_index=True)
    order = np.random.default_rng((seed, 7)).permutation(len(episodes))
    count = max(round(validation * len(episodes)), 1) if validation > 0 and len(episodes) > 1 else 0
    tasks = np.zeros(len(order), np.int64) if task_N is None else task_N[starts[order]]
    _, of_episode, sizes = np.unique(tasks, return_inverse=True, return_counts=True)
    tasks = np.where(sizes[of_episode] == 1, -1, tasks)
    _, first = np.unique(tasks, return_index=True)  # tasks of few episodes take turns by the seed, too
    of_tasks = [order[tasks == task] for task in tasks[np.sort(first)]]
    ends = np.cumsum([0, *map(len, of_tasks)])
    shares = np.diff(np.floor(ends * count / len(order) + 0.5).astype(np.int64))  # they sum to count
    held_out = [of_task[:share] for of_task, share in zip(of_tasks, shares, strict=True)]
    left = [of_task[share:] for of_task, share in zip(of_tasks, shares, strict=True)]
    used = [of_task[: max(1, round(fraction * len(of_task)))] for of_task in left]
    in_training = np.isin(episode_N, episodes[np.concatenate(used)])
    in_validation = np.isin(episode_N, episodes[np.concatenate(held_out)])
    return np.flatnonzero(in_training), np.flatnonzero(in_validation)


def spread(rows: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """``rows``, or as many as ``limit`` of them, evenly spread."""
    if len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]


class SampleStream:
    """An endless sequence of sample indices, one fresh permutation per epoch, with nothing to save.

    Position p is a function of the seed and p alone, so a resumed run sees exactly what the
    uninterrupted one would have seen. With several processes each takes its share of every batch.
    In an epoch a sample of weight 2.3 occurs twice, and a third time by a chance of 0.3.
    """

    def __init__(self, indices: NDArray[np.int64], seed: int, weights: NDArray[np.float32] | None = None) -> None:
        if len(indices) == 0:
            raise DataError("no samples are left for training; lower data.validation_fraction or add episodes")
        self._seed = seed
        weights = np.ones(len(indices), np.float32) if weights is None else weights
        self._always = np.repeat(indices, np.floor(weights).astype(np.int64))
        self._sometimes = []
        """(samples of one weight, how many of them occur once more in an epoch)"""
        for weight in np.unique(weights):
            group = indices[weights == weight]
            extra = round(float(weight % 1) * len(group))
            if extra:
                self._sometimes.append((group, extra))
        self.epoch_length = len(self._always) + sum(extra for _, extra in self._sometimes)
        if self.epoch_length == 0:
            raise DataError(
                "the weights of data.mixture and data.interventions leave no sample in an epoch; raise them"
            )
        self._epoch = -1
        self._order = indices

    def __call__(self, start: int, count: int) -> NDArray[np.int64]:
        """Sample indices at positions ``start … start + count - 1``."""
        parts = []
        while count > 0:
            epoch, offset = divmod(start, self.epoch_length)
            if epoch != self._epoch:
                rng = np.random.default_rng((self._seed, 11, epoch))
                chosen = [rng.choice(group, extra, replace=False) for group, extra in self._sometimes]
                self._epoch, self._order = epoch, rng.permutation(np.concatenate([self._always, *chosen]))
            part = self._order[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)
