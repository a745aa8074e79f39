"""One shard of labels, in a worker: embeddings of its episodes by a frozen model, their codes, one parquet file."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavla_ros.policy.device import resolve_device
from training.dataset import Episode, EpisodeDataset
from training.dataset.video import VideoReader
from training.latent_actions.action_model import ActionLatentModel
from training.latent_actions.checkpoint import LatentModel, content_hash, load_latent_model
from training.latent_actions.features import FeatureExtractor, load_features
from training.latent_actions.image_model import ImageLatentModel
from training.latent_actions.labels import IDENTITY, LabelError, Manifest, Shard, array_to_column, load_manifest
from training.latent_actions.quantize import CodebookQuantizer, EmaQuantizer

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]
_CHUNKS, _IMAGES = 1024, 64
"""Chunks or images that go through a network at once. Fixed: sums depend on it in the last bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """What a worker is told; the rest is in the manifest."""

    dataset: Path
    folder: Path
    model_hash: str
    shard: int
    device: Device
    features: Path | None


def task_name(task: ShardTask) -> str:
    """For messages."""
    return f"shard {task.shard} of {task.folder}"


def label_shard(task: ShardTask) -> int:
    """Compute and write one shard; returns its steps. Run by workers."""
    manifest = load_manifest(task.folder)
    labeller = _open_labeller(task.dataset, Path(manifest.model), task.model_hash, task.device, task.features)
    shard = manifest.shards[task.shard]
    z, c = [], []
    # One thread, whatever the machine: how sums are split among threads shows in their last bit.
    with _one_thread(), torch.inference_mode():
        for episode in labeller.dataset.episodes[shard.first_episode : shard.first_episode + shard.episodes]:
            for latents_BTd in labeller.latents(episode, manifest.precision):
                codes_BT = labeller.quantizer(latents_BTd, update=False).codes_BT
                z.append(codes_BT.cpu().numpy().astype(np.int16))
                c.append(latents_BTd.cpu().numpy().astype(np.float16))
    arrays = {"z": np.concatenate(z), "c": np.concatenate(c)}
    if not np.isfinite(arrays["c"]).all():
        raise LabelError(f"{task_name(task)}: the model {manifest.model} gives embeddings that float16 can't hold")
    _write_shard(task.folder, manifest, shard, {key: arrays[key[0]] for key in manifest.keys})
    return shard.steps


def agreement(task: ShardTask, model: Path) -> float:
    """Share of the codes of the first episode that are the same in bfloat16 as in float32."""
    labeller = _open_labeller(task.dataset, model, task.model_hash, task.device, task.features)
    episode, found = labeller.dataset.episodes[0], []
    with _one_thread(), torch.inference_mode():
        for precision in ("float32", "bfloat16"):
            latents = list(labeller.latents(episode, precision))
            found.append(torch.cat([labeller.quantizer(part, update=False).codes_BT for part in latents]))
    return float((found[0] == found[1]).float().mean())


class _Labeller(Protocol):
    """Pre-quantisation embeddings of episodes."""

    @property
    def dataset(self) -> EpisodeDataset: ...
    @property
    def quantizer(self) -> EmaQuantizer | CodebookQuantizer: ...
    def latents(self, episode: Episode, precision: Precision) -> Iterator[Tensor]:
        """(B, T, d) float32 of the episode's steps in order: T = H tokens of a chunk or P of a transition."""


@lru_cache(maxsize=1)
def _open_labeller(
    dataset_path: Path, model_path: Path, model_hash: str, device: str, features: Path | None
) -> _Labeller:
    """Once per process: loading a model takes longer than many a shard."""
    if content_hash(model_path) != model_hash:
        raise LabelError(f"the model {model_path} was changed while it was labelling; label again")
    model = load_latent_model(model_path, LatentModel)
    dataset = EpisodeDataset(dataset_path, model.contract)
    where = resolve_device(device)
    if isinstance(model, ActionLatentModel):
        return _ActionLabeller(dataset, model.to(where))
    assert isinstance(model, ImageLatentModel)
    return _ImageLabeller(dataset, model.to(where), where, features)


def close_labeller() -> None:
    """Let go of the model and the dataset that this process has loaded."""
    _open_labeller.cache_clear()


class _ActionLabeller:
    """Chunks as the policy sees them: past the episode's end its last action repeats (App. A.2)."""

    def __init__(self, dataset: EpisodeDataset, model: ActionLatentModel) -> None:
        self.dataset = dataset
        self.model = model
        self.quantizer = model.quantizer

    def latents(self, episode: Episode, precision: Precision) -> Iterator[Tensor]:
        assert precision == "float32", "the network is small, and its spectra have no bfloat16"
        end = episode.first + episode.length
        for first in range(episode.first, end, _CHUNKS):
            steps = range(first, min(first + _CHUNKS, end))
            actions_BHA = np.stack([self.dataset.chunk(i)[0] for i in steps])
            yield self.model.encode(self.model.normalise(actions_BHA, self.dataset.states[steps.start : steps.stop]))


class _ImageLabeller:
    """Transitions from step t to t + δ, or to the episode's last step if that is nearer (App. A.1)."""

    def __init__(
        self, dataset: EpisodeDataset, model: ImageLatentModel, device: torch.device, features: Path | None
    ) -> None:
        self.dataset = dataset
        self.model = model
        self.quantizer = cast(CodebookQuantizer, quantizer_of(model))
        self.camera = model.cameras[0]
        self.device = device
        self.cached: NDArray[np.float16] | None = None if features is None else np.load(features, mmap_mode="r")
        self.extractor: FeatureExtractor | None = None
        if self.cached is None:
            self.extractor = load_features(model.config.features).to(device)

    def latents(self, episode: Episode, precision: Precision) -> Iterator[Tensor]:
        size, half = _IMAGES, precision == "bfloat16"
        for now_MNF, future_MNF in pairs(self._features(episode, half), self.model.config.delta):
            for first in range(0, len(now_MNF), size):
                now, future = (torch.from_numpy(f[first : first + size]) for f in (now_MNF, future_MNF))
                with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                    latents_BPd = self.model.encode(now.to(self.device).float(), future.to(self.device).float())
                yield latents_BPd

    def _features(self, episode: Episode, half: bool) -> Iterator[NDArray[np.float16]]:
        """(B, N, F) of the episode's frames in order."""
        size = _IMAGES
        if self.cached is not None:
            for first in range(0, episode.length, size):
                yield np.array(self.cached[episode.first + first : episode.first + min(first + size, episode.length)])
            return
        assert self.extractor is not None
        file, offset = episode.videos[self.camera]
        with closing(VideoReader(file, self.dataset.fps)) as video:
            for first in range(0, episode.length, size):
                count = min(size, episode.length - first)
                images_BHW3 = np.stack(list(video.frames(offset + first, count)))
                with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                    features_BNF = self.extractor.extract(images_BHW3)
                yield features_BNF


def pairs(
    blocks: Iterator[NDArray[np.float16]], delta: int
) -> Iterator[tuple[NDArray[np.float16], NDArray[np.float16]]]:
    """Blocks (B, …) of an episode in order → (now, future) in order: row t with row min(t + δ, last).

    Holds δ rows and a block, however long the episode.
    """
    held: NDArray[np.float16] | None = None
    for block in blocks:
        held = block if held is None else np.concatenate([held, block])
        ready = len(held) - delta  # rows whose later one has come
        if ready > 0:
            yield held[:ready], held[delta:]
            held = held[ready:]
    if held is not None:  # the last δ: all lead to the end
        yield held, np.repeat(held[-1:], len(held), axis=0)


def _write_shard(folder: Path, manifest: Manifest, shard: Shard, arrays: Mapping[str, NDArray[Any]]) -> None:
    columns: dict[str, pa.Array] = {
        "index": pa.array(np.arange(shard.first_step, shard.first_step + shard.steps, dtype=np.int64))
    }
    for key, values in arrays.items():
        columns[key] = array_to_column(values, manifest.keys[key])
    table = pa.table(columns).replace_schema_metadata({IDENTITY: manifest.identity.encode()})
    temporary = folder / f"{shard.file}.{uuid.uuid4().hex}.tmp"  # a lost worker may still be writing its own
    codes = [key for key in arrays if key.startswith("z_")]  # embeddings don't repeat, nor can they be compressed
    pq.write_table(
        table,
        temporary,
        compression={name: "NONE" if name.startswith("c_") else "zstd" for name in columns},
        use_dictionary=codes,
        write_page_checksum=True,
    )
    temporary.replace(folder / shard.file)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def quantizer_of(model: LatentModel) -> EmaQuantizer | CodebookQuantizer:
    """The codebook whose codes are a model's labels."""
    if isinstance(model, ActionLatentModel):
        return model.quantizer
    assert isinstance(model, ImageLatentModel)
    return cast(CodebookQuantizer, model.latents[model.target].quantizer)
