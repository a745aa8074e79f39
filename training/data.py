"""From datasets of episodes to normalised batches.

Several datasets are one after the other: sample i is step i of their concatenation. Numbers and labels are in memory
(per sample 4 · (S + A) bytes, 24 of indices, and its labels' own), chunks are cut and coded when a batch is made, and
frames come from :mod:`training.frames`, which says what they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavla_ros.config import ConfigError
from lavla_ros.contract import Contract
from lavla_ros.policy.model import VlaBatch
from lavla_ros.policy.normalization import Normalizer
from lavla_ros.policy.prompt import PromptBuilder
from lavla_ros.policy.strategies import LabelSpec, check_labels
from training.config import DataConfig, InterventionConfig, MixturePart
from training.dataset import EpisodeDataset
from training.frames import Frames, JoinedFrames, MemoryFrames, OnFrame, open_frames
from training.latent_actions.labels import LabelError, dataset_hash, labels_in_use, read_labels
from training.samples import DataError
from training.system_resources import GIB


class DatasetLike(Protocol):
    """What is read of ``training.dataset.EpisodeDataset``."""

    @property
    def path(self) -> Path: ...

    @property
    def states(self) -> NDArray[np.float32]:
        """(N, S)"""

    @property
    def actions(self) -> NDArray[np.float32]:
        """(N, A)"""

    @property
    def episode_of(self) -> NDArray[np.int64]:
        """(N,) episode index of every step; the steps of an episode stand together."""

    @property
    def interventions(self) -> NDArray[np.bool_] | None:
        """(N,) whether a person commanded the step; None: nothing says it."""

    def instruction(self, index: int) -> str: ...

    def phrasings(self, episode: int) -> tuple[str, ...]:
        """All ways to say the instruction of this episode of ``episode_of``; empty if there is one way only."""
        ...

    def frames(self, camera: str, *, threads: int = 2) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(index, (H, W, 3) RGB) of every step, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One opened dataset of a mixture."""

    dataset: DatasetLike
    name: str
    """For messages: its path."""
    weight: float = 1.0
    labels: Mapping[str, NDArray[Any]]
    """Latent labels by key, one row per step."""
    label_sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The label sets that they are of, and what made these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedData:
    """All datasets of a run as one: raw states and actions, reduced frames, N samples."""

    frames: Frames
    states_NS: NDArray[np.float32]
    actions_NA: NDArray[np.float32]
    last_N: NDArray[np.int64]
    """Index of the last sample of each sample's episode."""
    episode_N: NDArray[np.int64]
    """Episodes, numbered through all datasets."""
    instructions: tuple[str, ...]
    """Distinct instructions."""
    instruction_N: NDArray[np.int64]
    phrasings: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)
    """Episode (as in ``episode_N``) → its instruction and the others that mean the same; those with several only."""
    weight_N: NDArray[np.float32]
    """How often a sample is drawn, relative to the others."""
    labels: Mapping[str, NDArray[Any]]
    """Latent labels by key, N rows each; empty for strategies that need none."""
    sources: tuple[tuple[str, int], ...]
    """(name, number of samples) of every dataset."""
    label_sets: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Dataset → label sets in use."""

    def __len__(self) -> int:
        return len(self.states_NS)

    def chunks(self, indices: NDArray[np.int64], steps: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(B, H, A) actions from each sample on, the episode's last one repeated, and (B, H) which are real."""
        wanted_BH = indices[:, None] + np.arange(steps)
        last_B1 = self.last_N[indices][:, None]
        return self.actions_NA[np.minimum(wanted_BH, last_B1)], wanted_BH <= last_B1

    def latent_labels(self, key: str, indices: NDArray[np.int64], steps: int) -> NDArray[Any]:
        """Labels of a batch: z_img (B, H, P) and c_img (B, H, P, d), or z_act (B, H) and c_act (B, H, d).

        Image labels belong to a step; those of the H steps of a chunk are gathered, the last of the episode
        repeated. Action labels belong to a chunk: a sample's row has all of its H steps.
        """
        rows = indices
        if is_per_step(key):
            rows = np.minimum(indices[:, None] + np.arange(steps), self.last_N[indices][:, None])
        found: NDArray[Any] = self.labels[key][rows]
        return found

    def instructions_of(self, indices: NDArray[np.int64], seed: int, positions: Sequence[int]) -> NDArray[np.int64]:
        """(B,) instructions of samples that are trained on: where an episode has several, one by chance.

        The draw is a function of the seed and the sample's position in the stream alone. Samples that are evaluated
        keep their own, ``instruction_N``.
        """
        found = self.instruction_N[indices]
        for i, (episode, position) in enumerate(zip(self.episode_N[indices].tolist(), positions, strict=True)):
            if (several := self.phrasings.get(episode)) is not None:
                found[i] = several[np.random.default_rng((seed, 19, position)).integers(len(several))]
        return found

    def describe(self, index: int) -> str:
        """Where a sample comes from, for people."""
        ends = np.cumsum([count for _, count in self.sources])
        part = int(np.searchsorted(ends, index, side="right"))
        name, count = self.sources[part]
        step = index - int(np.searchsorted(self.episode_N, self.episode_N[index]))
        return f"sample {index - int(ends[part]) + count} of {name} (step {step} of its episode)"


def is_per_step(label: str) -> bool:
    """True for labels of image transitions, False for those of action chunks."""
    return label.endswith("_img")


def open_sources(config: DataConfig, contract: Contract, specs: Mapping[str, LabelSpec]) -> list[Source]:
    """Open the configured datasets and read the labels that ``specs`` names, before anything is decoded.

    Raises DataError for a missing dataset or unusable labels, DatasetError for damage or another contract.
    """
    sources = []
    for part in config.parts:
        if not part.path.exists():
            raise DataError(f"dataset {part.path} does not exist; make it with `lavla convert` or `lavla import`")
        dataset = EpisodeDataset(part.path, contract)
        labels, used = _read_labels(part, dataset, specs) if specs else ({}, {})
        sources.append(Source(dataset=dataset, name=str(part.path), weight=part.weight, labels=labels, label_sets=used))
    require_one_teacher(sources)
    return sources


def require_one_teacher(sources: Sequence[Source]) -> None:
    """Raise DataError unless the labels of all datasets are of the same latent action models."""

    for other in sources[1:]:
        if teachers(other.label_sets).keys() != teachers(sources[0].label_sets).keys():
            made = [f"{source.name} by {named(teachers(source.label_sets))}" for source in (sources[0], other)]
            raise DataError(
                f"labels are of different latent action models: those of {' and those of '.join(made)}. A code of one "
                "says nothing about the other's; label all datasets with the same model"
            )


def teachers(*label_sets: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Hash → path of the latent action models that made them."""
    return {made["model_hash"]: made["model"] for sets in label_sets for made in sets.values()}


def named(teachers: Mapping[str, str]) -> str:
    """For messages."""
    return ", ".join(f"{model} ({made})" for made, model in sorted(teachers.items()))


def _read_labels(
    part: MixturePart, dataset: EpisodeDataset, specs: Mapping[str, LabelSpec]
) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, Mapping[str, Any]]]:
    try:
        labels = read_labels(part.path, tuple(specs), dataset_hash(dataset))
        used = labels_in_use(part.path, tuple(specs))
        check_labels(specs, labels, steps=len(dataset))
    except (LabelError, ConfigError) as error:
        raise DataError(f"{part.path}: {error}") from None
    for key, values in labels.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise DataError(f"{part.path}: label {key!r} of sample {row} is not finite; make the labels again")
    return labels, used


def load_data(
    sources: Sequence[Source],
    contract: Contract,
    config: DataConfig,
    *,
    image_size: int,
    cache_dir: Path,
    on_frame: OnFrame = lambda done, total: None,
) -> LoadedData:
    """Join the datasets; ``on_frame(done, total)`` follows the decoding of each.

    Raises DataError for an empty dataset, a shape that isn't the contract's or a value that isn't finite,
    FrameError for missing frames, RoomError for too little memory or disk.
    """
    for source in sources:
        _check_numbers(source, contract)
    counts = [len(source.dataset.states) for source in sources]
    memory_left = int(config.cache_bound_gib * GIB)
    frames: list[Frames] = []
    for number, source in enumerate(sources):
        part = open_frames(
            source.dataset,
            counts[number],
            contract,
            config,
            size=image_size,
            cache_dir=cache_dir,
            memory_left=memory_left,
            on_frame=on_frame,
        )
        memory_left -= part.array.nbytes if isinstance(part, MemoryFrames) else 0
        frames.append(part)

    episodes: list[NDArray[np.int64]] = []
    lasts: list[NDArray[np.int64]] = []
    seen = 0
    for source, first in zip(sources, np.cumsum([0, *counts[:-1]]), strict=True):
        numbers, starts, lengths = np.unique(source.dataset.episode_of, return_index=True, return_counts=True)
        episodes.append(np.repeat(np.arange(len(numbers)) + seen, lengths))
        lasts.append(np.repeat(first + starts + lengths - 1, lengths))
        seen += len(numbers)
    known: dict[str, int] = {}
    texts = (s.dataset.instruction(i) for s, count in zip(sources, counts, strict=True) for i in range(count))
    instruction_N = np.fromiter((known.setdefault(text, len(known)) for text in texts), np.int64, sum(counts))
    told = (s.dataset.phrasings(int(n)) for s in sources for n in np.unique(s.dataset.episode_of))
    phrasings = {
        episode: np.array([known.setdefault(text, len(known)) for text in several], np.int64)
        for episode, several in enumerate(told)
        if len(several) > 1
    }
    return LoadedData(
        frames=JoinedFrames(frames),
        states_NS=np.concatenate([s.dataset.states for s in sources]).astype(np.float32),
        actions_NA=np.concatenate([s.dataset.actions for s in sources]).astype(np.float32),
        last_N=np.concatenate(lasts).astype(np.int64),
        episode_N=np.concatenate(episodes).astype(np.int64),
        instruction_N=instruction_N,
        instructions=tuple(known),
        phrasings=phrasings,
        weight_N=np.concatenate([_weights(source, config.interventions) for source in sources]),
        labels={key: np.concatenate([s.labels[key] for s in sources]) for key in sources[0].labels},
        sources=tuple((s.name, count) for s, count in zip(sources, counts, strict=True)),
        label_sets={s.name: s.label_sets for s in sources if s.label_sets},
    )


def _weights(source: Source, wanted: InterventionConfig) -> NDArray[np.float32]:
    """(n,) how often each step of a dataset is drawn. Raises DataError if it does not say what has to be known."""
    weights = np.full(len(source.dataset.states), source.weight, np.float32)
    if wanted == InterventionConfig():
        return weights
    person = source.dataset.interventions
    if person is None:
        if not wanted.only:
            return weights
        raise DataError(
            f"{source.name} does not say which steps a person commanded, which data.interventions.only wants; record "
            "with a policy and lavla teleop (docs/how_to/teleoperate.md), or leave the dataset out"
        )
    return weights * np.where(person, np.float32(wanted.weight), np.float32(not wanted.only))


class BatchMaker:
    """Indices and their frames → normalised tensors."""

    def __init__(
        self,
        data: LoadedData,
        normalizer: Normalizer,
        prompt: PromptBuilder,
        *,
        required_labels: Sequence[str],
        loss_on_padding: bool,
    ) -> None:
        missing = [key for key in required_labels if key not in data.labels]
        if missing:
            raise DataError(f"the strategy needs the labels {missing}, which the data lack; make them first")
        self._data = data
        self._normalizer = normalizer
        self._prompt = prompt
        self._required = tuple(required_labels)
        self._loss_on_padding = loss_on_padding

    def __call__(
        self, indices: NDArray[np.int64], frames: NDArray[np.uint8], instructions: NDArray[np.int64] | None = None
    ) -> VlaBatch:
        """The batch of these samples on the CPU, with raw pixels; ``frames``: theirs.

        ``instructions``: which of the data's they are given; None: their own.
        """
        data, steps = self._data, self._normalizer.contract.chunk_size
        said = data.instruction_N[indices] if instructions is None else instructions
        states_BS = data.states_NS[indices]
        actions_BHA, real_BH = data.chunks(indices, steps)
        weight_BH = np.ones_like(real_BH) if self._loss_on_padding else real_BH
        labels = {key: data.latent_labels(key, indices, steps) for key in self._required}
        return VlaBatch(
            images=torch.from_numpy(frames),
            tokens_BL=self._prompt([data.instructions[i] for i in said]),
            state_BS=torch.from_numpy(self._normalizer.encode_state(states_BS)),
            actions_BHA=torch.from_numpy(self._normalizer.encode_actions(actions_BHA, states_BS)),
            weight_BH=torch.from_numpy(weight_BH.astype(np.float32)),
            labels={key: torch.from_numpy(_plain_type(values)) for key, values in labels.items()},
        )


def to_device(batch: VlaBatch, device: torch.device) -> VlaBatch:
    """The same batch on ``device``; a GPU fetches it by itself from pinned memory, while the host goes on."""
    return _each(batch, lambda tensor: tensor.to(device, non_blocking=True))


def pinned(batch: VlaBatch) -> VlaBatch:
    """The same batch in memory that a GPU can read by itself."""
    return _each(batch, Tensor.pin_memory)


def _each(batch: VlaBatch, change: Callable[[Tensor], Tensor]) -> VlaBatch:
    return VlaBatch(
        images=change(batch.images),
        tokens_BL=change(batch.tokens_BL),
        state_BS=change(batch.state_BS),
        actions_BHA=change(batch.actions_BHA),
        weight_BH=change(batch.weight_BH),
        labels={key: change(value) for key, value in batch.labels.items()},
    )


def _plain_type(values: NDArray[Any]) -> NDArray[Any]:
    """Codes as int64 and embeddings as float32, however compactly they are stored."""
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int64)


def _check_numbers(source: Source, contract: Contract) -> None:
    dataset = source.dataset
    count = len(dataset.states)
    if count == 0:
        raise DataError(f"{source.name} has no samples; record and convert episodes first")
    for what, values, width in (
        ("state", dataset.states, contract.state_dim),
        ("action", dataset.actions, contract.action_dim),
    ):
        if values.shape != (count, width):
            raise DataError(f"{source.name}: the {what} has shape {values.shape}; the contract says {(count, width)}")
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise DataError(f"{source.name}: the {what} of sample {row} is not finite; run `lavla dataset check`")
    if (np.diff(dataset.episode_of) < 0).any():
        raise DataError(f"{source.name}: the steps of an episode do not stand together; run `lavla dataset check`")
