"""Action chunks of one or several datasets, in memory: no image is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract
from lavla_ros.policy.config import ActionCodingConfig
from lavla_ros.policy.normalization import compute_stats
from training.dataset import EpisodeDataset
from training.latent_actions.codebook_config import LatentDataConfig
from training.samples import DataError


@dataclass(frozen=True, slots=True)
class ActionChunks:
    """Every step's chunk, in the contract's units; past an episode's end its last action repeats."""

    states_NS: NDArray[np.float32]
    actions_NHA: NDArray[np.float32]
    episode_N: NDArray[np.int64]
    """Numbered through all datasets."""
    task_N: NDArray[np.int64] | None = None
    """Number of each step's instruction; None: one for all."""

    def __len__(self) -> int:
        return len(self.states_NS)

    def take(self, rows: NDArray[np.int64]) -> ActionChunks:
        """These rows of it."""
        tasks = None if self.task_N is None else self.task_N[rows]
        return ActionChunks(self.states_NS[rows], self.actions_NHA[rows], self.episode_N[rows], tasks)


def load_chunks(config: LatentDataConfig, contract: Contract) -> ActionChunks:
    """Read the numbers of all datasets.

    Raises DatasetError for damaged files, values that are not finite or another contract, DataError for a
    path that doesn't exist or datasets without a step.
    """
    states, actions, episodes, first = [], [], [], 0
    tasks: list[int] = []
    known: dict[str, int] = {}
    for path in config.datasets:
        if not path.exists():
            raise DataError(f"dataset {path} does not exist; make it with `lavla convert`")
        dataset = EpisodeDataset(path, contract)
        states.append(dataset.states)
        actions += [dataset.chunk(i)[0] for i in range(len(dataset))]
        episodes.append(dataset.episode_of + first)
        tasks += [known.setdefault(dataset.instruction(i), len(known)) for i in range(len(dataset))]
        first += len(dataset.episodes)
    if not actions:
        raise DataError(f"{', '.join(map(str, config.datasets))} hold no steps; record and convert episodes first")
    return ActionChunks(
        states_NS=np.concatenate(states).astype(np.float32),
        actions_NHA=np.stack(actions).astype(np.float32),
        episode_N=np.concatenate(episodes).astype(np.int64),
        task_N=np.asarray(tasks, np.int64),
    )


def chunk_stats(contract: Contract, coding: ActionCodingConfig, chunks: ActionChunks) -> dict[str, Any]:
    """Statistics of chunks as the model codes them: repeated last actions are tokens too, so they count.

    Raises StatsError for values that are not finite, DataError when no dimension ever changes. A single
    constant dimension is legitimate: it is coded as 0 and decoded exactly (:func:`constant_dimensions`).
    """
    stats = compute_stats(
        contract,
        coding,
        states_NS=chunks.states_NS,
        actions_NHA=chunks.actions_NHA,
        mask_NH=np.ones(chunks.actions_NHA.shape[:2], dtype=np.bool_),
    )
    constant = constant_dimensions(stats)
    if len(constant) == contract.action_dim:
        raise DataError(f"no action dimension of {len(chunks)} steps ever changes: there is nothing to learn")
    return stats


def constant_dimensions(stats: dict[str, Any]) -> tuple[str, ...]:
    """Names of the action dimensions that have one value throughout, as coded."""
    entries = {name: (np.ravel(e["min"]), np.ravel(e["max"])) for name, e in stats["action"].items()}
    return tuple(name for name, (low, high) in entries.items() if (high - low < 1e-9).all())
