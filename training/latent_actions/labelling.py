"""Make the labels of a dataset: `lavla latent label DATASET --model DIR` (paper, Sec. 3.2: models are frozen by then).

Read from the top: what a run does, what it plans, how it goes on where another was stopped. A shard is on disk whole
or not at all and its bytes do not depend on who made it, so any number of processes or machines may work, and a run
that was killed goes on. What is done for one shard is in ``label_shard``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lavla_ros.config import to_plain
from lavla_ros.outputs import sole_writer
from lavla_ros.policy.device import resolve_device, resolve_dtype
from training.dataset import Episode, EpisodeDataset, layout
from training.latent_actions.action_model import ActionLatentModel
from training.latent_actions.checkpoint import (
    LatentModel,
    content_hash,
    load_latent_model,
    load_training_record,
)
from training.latent_actions.codebook_health import CodebookHealth
from training.latent_actions.features import feature_key, load_features
from training.latent_actions.image_model import CONTROLLABLE, ImageLatentModel
from training.latent_actions.label_shard import (
    Device,
    Precision,
    ShardTask,
    agreement,
    close_labeller,
    label_shard,
    quantizer_of,
    task_name,
)
from training.latent_actions.labels import (
    FOLDER,
    IDENTITY,
    MANIFEST,
    KeyInfo,
    LabelError,
    Manifest,
    Shard,
    dataset_hash,
    load_manifest,
    read_shard,
)
from training.system_resources import require_disk
from training.task_pool import Workers, run_tasks

SHARD_STEPS = 4096
"""Number of steps at which a shard ends, with the episode that reaches it: 21 MB of c_act at H = 20."""

LEAST_AGREEMENT = 0.95
"""Of codes in bfloat16 with those in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """What a labelling run did."""

    path: str
    steps: int
    shards: int
    reused: int
    """Shards that an earlier run had finished."""
    health: CodebookHealth
    """Over all labels."""


def label(
    dataset_path: Path,
    model_path: Path,
    *,
    name: str | None = None,
    codes_only: bool = False,
    workers: Workers | None = None,
    device: Device = "auto",
    precision: Precision = "float32",
    cache_dir: Path | None = None,
    shard_steps: int = SHARD_STEPS,
    progress: Callable[[int, int], None] = lambda done, total: None,
    log: Callable[[str], None] = lambda text: None,
) -> LabelReport:
    """Write z_t and c_t (``codes_only``: z_t alone) of every step into ``DATASET/latent/NAME``.

    ``name``: default is the model's kind. What an earlier run of the same inputs finished is kept; labels of other
    inputs under this name are replaced. ``cache_dir``: where features of the dataset's images may lie already
    (default ``DATASET/latent/features``); what is not there is computed and not kept. ``progress(done, total)``
    counts shards. The labels are the same for any number of workers of one kind of device. ``precision``: of an image
    model, whose codes in bfloat16 are first held against those in float32; action models are computed in float32.

    Raises LabelError for labels that can't be made, CheckpointError, ConfigError or DatasetError for a model or a
    dataset that can't be used, RoomError when the disk is too small, PoolError when the workers fail.
    """
    model = load_latent_model(model_path, LatentModel)
    _require_labeller(model_path, model)
    dataset = EpisodeDataset(dataset_path, model.contract)
    if precision == "bfloat16":
        resolve_dtype(precision, resolve_device(device))
    manifest = _plan(dataset, model_path.resolve(), model, codes_only, shard_steps)
    if isinstance(model, ImageLatentModel):
        manifest = replace(manifest, precision=precision)
    if name is not None and (not name or "/" in name or name in ("features", "..", ".")):
        raise LabelError(f"{name!r} can't be a label set's name; use letters and digits, not 'features'")
    folder = dataset_path / FOLDER / (name or manifest.kind)
    with sole_writer(folder):
        _begin(folder, manifest, log)
        left = [shard for shard in manifest.shards if not _is_done(folder, manifest, shard)]
        bytes_per_step = 8 + sum(info.bytes_per_step for info in manifest.keys.values())
        needed = bytes_per_step * sum(shard.steps for shard in left)
        require_disk(needed, folder, f"labels of {manifest.steps} steps", "Label with --codes-only, or free some")
        features = _cached_features(dataset, model, cache_dir) if isinstance(model, ImageLatentModel) else None
        tasks = [
            ShardTask(
                dataset=dataset_path.resolve(),
                folder=folder.resolve(),
                model_hash=manifest.model_hash,
                shard=number,
                device=device,
                features=features,
            )
            for number, shard in enumerate(manifest.shards)
            if shard in left
        ]
        workers = workers or Workers()
        if workers.jobs is None and workers.ray is None and resolve_device(device).type == "cuda":
            workers = replace(workers, jobs=1)  # several processes on one GPU would only share it
        try:
            if tasks and manifest.precision == "bfloat16":
                _require_agreement(tasks[0], model_path.resolve(), log)
            for _ in run_tasks(tasks, label_shard, workers, name=task_name, progress=progress, log=log):
                pass
        finally:
            close_labeller()
        counts = np.zeros(manifest.codebook_size, np.int64)
        (codes,) = (key for key in manifest.keys if key.startswith("z_"))
        for shard in manifest.shards:
            z = read_shard(folder, manifest, shard, [codes])[codes]
            counts += CodebookHealth.of_codes(z, manifest.codebook_size).counts_K
        layout.write_json(folder / MANIFEST, to_plain(replace(manifest, complete=True)))
    return LabelReport(
        path=str(folder),
        steps=manifest.steps,
        shards=len(manifest.shards),
        reused=len(manifest.shards) - len(left),
        health=CodebookHealth(counts),
    )


def _require_agreement(task: ShardTask, model: Path, log: Callable[[str], None]) -> None:
    share = agreement(task, model)
    close_labeller()  # workers have their own
    if share < LEAST_AGREEMENT:
        raise LabelError(
            f"in bfloat16 {1 - share:.1%} of the first episode's codes are others than in float32; at most "
            f"{1 - LEAST_AGREEMENT:.0%} are accepted: label with precision float32"
        )
    log(f"in bfloat16 {share:.1%} of the first episode's codes are those of float32")


def _require_labeller(path: Path, model: LatentModel) -> None:
    if isinstance(model, ImageLatentModel) and model.target != CONTROLLABLE:
        raise LabelError(
            f"{path} is stage {model.config.stage} of an image model, whose codes are what is not controllable; "
            "labels are made by stage 2"
        )


def _plan(dataset: EpisodeDataset, path: Path, model: LatentModel, codes_only: bool, shard_steps: int) -> Manifest:
    """The manifest of a set that is yet to be made. Does not depend on the number of workers."""
    config, size = model.config, quantizer_of(model).size
    record = load_training_record(path)
    known = (key for key in ("seed", "fraction", "action_weight") if isinstance(record.get(key), (int, float)))
    settings: dict[str, str | int | float] = {key: record[key] for key in known}
    if isinstance(model, ActionLatentModel):
        kind: Literal["action", "image"] = "action"
        codebook = None
        suffix, tokens, width = "act", model.contract.chunk_size, config.width
        settings |= {"chunk_size": model.contract.chunk_size}
    else:
        assert isinstance(model, ImageLatentModel)
        kind, suffix, tokens, width = "image", "img", config.tokens, config.latent_width
        settings |= {"camera": model.cameras[0], "delta": config.delta}
        vectors_Kd = quantizer_of(model).codes_to_values(torch.arange(size))
        codebook = tuple(tuple(vector) for vector in vectors_Kd.tolist())
    keys = {f"z_{suffix}": KeyInfo(dtype="int16", shape=(tokens,))}
    if not codes_only:
        keys[f"c_{suffix}"] = KeyInfo(dtype="float16", shape=(tokens, width))
    return Manifest(
        kind=kind,
        model=str(path),
        model_hash=content_hash(path),
        data_hash=dataset_hash(dataset),
        codebook_size=size,
        settings=settings,
        steps=len(dataset),
        keys=keys,
        shards=tuple(_cut(dataset.episodes, shard_steps)),
        codebook=codebook,
    )


def _cut(episodes: Sequence[Episode], shard_steps: int) -> Iterator[Shard]:
    """Consecutive episodes, until they have ``shard_steps`` steps."""
    begin = number = 0
    while begin < len(episodes):
        end, steps = begin, 0
        while end < len(episodes) and steps < shard_steps:
            steps += episodes[end].length
            end += 1
        yield Shard(
            file=f"part-{number:05d}.parquet",
            first_episode=begin,
            episodes=end - begin,
            first_step=episodes[begin].first,
            steps=steps,
        )
        begin, number = end, number + 1


def _begin(folder: Path, manifest: Manifest, log: Callable[[str], None]) -> None:
    """Write the manifest; remove what a killed run left half-written and what belongs to other inputs."""
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()
    before = load_manifest(folder) if (folder / MANIFEST).exists() else None
    if before is not None and before.identity != manifest.identity:
        log(f"{folder}: labels of another model or of other data are replaced")
    layout.write_json(folder / MANIFEST, to_plain(manifest))
    wanted = {shard.file for shard in manifest.shards}
    for file in folder.glob("part-*.parquet"):
        if file.name not in wanted:
            file.unlink()


def _is_done(folder: Path, manifest: Manifest, shard: Shard) -> bool:
    """A shard appears whole, so that it is there and belongs to this set is enough."""
    try:
        read = pq.read_metadata(folder / shard.file)
    except (OSError, pa.ArrowException):
        return False
    return bool(read.num_rows == shard.steps and (read.metadata or {}).get(IDENTITY) == manifest.identity.encode())


def _cached_features(dataset: EpisodeDataset, model: ImageLatentModel, cache_dir: Path | None) -> Path | None:
    """The features that training has left for this camera and encoder, if any."""
    camera = model.cameras[0]
    folder = cache_dir or dataset.path / FOLDER / "features"
    if not any(folder.glob(f"{camera}-*.npy")):
        return None
    file = folder / f"{camera}-{feature_key(dataset, camera, load_features(model.config.features))}.npy"
    return file.resolve() if file.exists() else None
