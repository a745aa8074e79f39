"""Transitions of one or several datasets: features of the image at a step and of the one δ steps later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavla_ros.contract import Contract
from lavla_ros.policy.config import ActionCodingConfig
from lavla_ros.policy.normalization import Normalizer, compute_stats
from training.dataset import EpisodeDataset
from training.latent_actions.features import FeatureExtractor, cached_features
from training.latent_actions.image_config import ImageDataConfig, ImageLamConfig
from training.samples import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """M transitions, those of every dataset and camera one after the other."""

    features: tuple[NDArray[np.float16], ...]
    """(steps, N, F) of each dataset and camera; memory-mapped."""
    part_M: NDArray[np.int64]
    """Which of ``features`` a transition is in."""
    now_M: NDArray[np.int64]
    """Row of o_t in it."""
    future_M: NDArray[np.int64]
    """Row of o_t+δ in it; the last step of the episode if that is nearer."""
    episode_M: NDArray[np.int64]
    """Episodes, numbered through all datasets."""
    states_MS: NDArray[np.float32]
    actions_MA: NDArray[np.float32]
    """a_t, in the contract's units."""
    instructions: tuple[str, ...]
    """Distinct instructions."""
    instruction_M: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.now_M)

    def pairs(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Features (B, N, F) of o_t and of o_t+δ, float16 on the CPU; the rows are read from the file now."""
        shape = (len(rows), *self.features[0].shape[1:])
        now, future = np.empty(shape, np.float16), np.empty(shape, np.float16)
        for part in np.unique(self.part_M[rows]):
            here = self.part_M[rows] == part
            now[here] = self.features[part][self.now_M[rows[here]]]
            future[here] = self.features[part][self.future_M[rows[here]]]
        return torch.from_numpy(now), torch.from_numpy(future)


def future_steps(lengths: Sequence[int], delta: int) -> NDArray[np.int64]:
    """Lengths of consecutive episodes → (steps,) index of each step's o_t+δ: t + δ, or the episode's last step."""
    sizes = np.asarray(lengths, dtype=np.int64)
    last = np.repeat(np.cumsum(sizes) - 1, sizes)
    return np.minimum(np.arange(len(last)) + delta, last)


def load_transitions(
    data: ImageDataConfig,
    model: ImageLamConfig,
    contract: Contract,
    extractor: FeatureExtractor,
    on_frame: Callable[[int, int], None] = lambda done, total: None,
) -> Transitions:
    """Open the datasets and the features of their images, which are computed if they are missing.

    Raises DatasetError for damaged files or another contract, DataError for a path that doesn't exist or data
    without a change to learn from, RoomError when the disk is too small for the features.
    """
    datasets = []
    for path in data.datasets:
        if not path.exists():
            raise DataError(f"dataset {path} does not exist; make it with `lavla convert`")
        datasets.append(EpisodeDataset(path, contract))
    cameras = model.cameras_of(contract)
    known: dict[str, int] = {}
    features: list[NDArray[np.float16]] = []
    columns: list[dict[str, NDArray[Any]]] = []
    first_episode = 0
    for dataset in datasets:
        future = future_steps([episode.length for episode in dataset.episodes], model.delta)
        instruction = [known.setdefault(dataset.instruction(i), len(known)) for i in range(len(dataset))]
        for camera in cameras:
            columns.append(
                {
                    "part_M": np.full(len(dataset), len(features), np.int64),
                    "now_M": np.arange(len(dataset), dtype=np.int64),
                    "future_M": future,
                    "episode_M": dataset.episode_of + first_episode,
                    "states_MS": dataset.states,
                    "actions_MA": dataset.actions,
                    "instruction_M": np.asarray(instruction, np.int64),
                }
            )
            features.append(
                cached_features(
                    dataset,
                    camera,
                    extractor,
                    data.cache_dir,
                    batch=data.feature_batch,
                    threads=data.decode_threads,
                    on_frame=on_frame,
                )
            )
        first_episode += len(dataset.episodes)
    whole: dict[str, NDArray[Any]] = {name: np.concatenate([c[name] for c in columns]) for name in columns[0]}
    if not (whole["future_M"] > whole["now_M"]).any():
        raise DataError(
            f"the {first_episode} episodes of {', '.join(map(str, data.datasets))} have one step each: nothing changes "
            "between two images, so there is nothing to learn"
        )
    return Transitions(features=tuple(features), instructions=tuple(known), **whole)


def supervised_rows(train_rows: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """The transitions whose action the action head may see (App. A.1): a draw that depends on the seed alone."""
    count = max(1, round(fraction * len(train_rows)))
    return np.sort(np.random.default_rng((seed, 17)).permutation(train_rows)[:count])


def normalised_actions(
    transitions: Transitions, known_rows: NDArray[np.int64], contract: Contract, coding: ActionCodingConfig
) -> NDArray[np.float32]:
    """(M, A) a_t in [-1, 1], by statistics of the known rows only. StatsError for values that aren't finite."""
    single = replace(contract, chunk_size=1)
    actions_M1A = transitions.actions_MA[:, None]
    stats = compute_stats(
        single,
        coding,
        states_NS=transitions.states_MS[known_rows],
        actions_NHA=actions_M1A[known_rows],
        mask_NH=np.ones((len(known_rows), 1), np.bool_),
    )
    return Normalizer(single, coding, stats).encode_actions(actions_M1A, transitions.states_MS)[:, 0]
