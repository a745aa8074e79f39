"""Latent labels of a dataset: z_t and c_t of every step, kept beside it, and refused when they don't fit (Sec. 3.2).

    DATASET/latent/NAME/manifest.json      which model and which data they were made of, keys and shapes, shards
    DATASET/latent/NAME/part-00000.parquet the steps of a range of episodes: index, z_*, c_*

Keys: ``z_img`` (N, P) and ``c_img`` (N, P, d) of an image model, ``z_act`` (N, H) and ``c_act`` (N, H, d) of an action
model; N are the dataset's steps in order, z int16, c float16 before quantisation. In a shard z_* is a list per step,
c_* its bytes (little-endian, row by row: lists of numbers are read at a tenth of the speed). ``labelling`` makes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lavla_ros.config import ConfigError, from_plain, to_plain
from lavla_ros.errors import UserError
from lavla_ros.policy.folder import CheckpointError
from training.dataset import layout
from training.latent_actions.checkpoint import content_hash
from training.system_resources import require_memory

MANIFEST, FOLDER = "manifest.json", "latent"
SCHEMA = 1
CODE_VECTORS = "e_img"
"""Key of what is read beside the stored labels: the codes' vectors."""
IDENTITY = b"lavla.identity"
"""Key of a shard's metadata: which label set it belongs to."""


class LabelError(UserError, ValueError):
    """Labels are missing, partial, stale, damaged or cannot be made; the message says which and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """One array of labels."""

    dtype: Literal["int16", "float16"]
    shape: tuple[int, ...]
    """Without the leading number of steps."""

    @property
    def bytes_per_step(self) -> int:
        return 2 * int(np.prod(self.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The steps of consecutive episodes, in one file."""

    file: str
    first_episode: int
    episodes: int
    first_step: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What manifest.json says."""

    schema: int = SCHEMA
    kind: Literal["action", "image"]
    model: str
    """Folder of the model."""
    model_hash: str
    data_hash: str
    codebook_size: int
    settings: Mapping[str, str | int | float]
    """Of the model, for people: camera and delta, or chunk_size; seed, share of the episodes and weight of the action
    supervision that it was trained with."""
    steps: int
    keys: Mapping[str, KeyInfo]
    shards: tuple[Shard, ...]
    codebook: tuple[tuple[float, ...], ...] | None = None
    """e(z) of every code of an image model, (K, d); None in sets of before it was kept."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the networks computed in."""
    complete: bool = False
    """Written last: true only when every shard is there."""

    @property
    def identity(self) -> str:
        """Of everything that decides what a shard holds; each shard carries it."""
        plain = to_plain(self)
        decisive = {key: plain[key] for key in ("schema", "kind", "model_hash", "data_hash", "keys", "shards")}
        if self.precision != "float32":  # which sets of before do not say
            decisive["precision"] = self.precision
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


class _HasPath(Protocol):
    """A dataset that is open."""

    @property
    def path(self) -> Path: ...


def read_labels(
    dataset_path: Path,
    keys: Sequence[str],
    data_hash: str | None = None,
    *,
    sets: Sequence[str] | None = None,
    codebooks: Mapping[str, int] | None = None,
) -> dict[str, NDArray[Any]]:
    """Labels by key, one row per step of the dataset, z as int16 and c as float16.

    ``data_hash``: :func:`dataset_hash` of the data as they are now; None computes it. ``sets``: label sets to choose
    from, where several have a key. ``codebooks``: number of codes that the reader expects of a key.

    Raises LabelError when a key's labels are missing, partial, of other data, of a model that has changed since, of
    another codebook size, damaged, or in several sets; RoomError when they do not fit into memory.
    """
    dataset_path = Path(dataset_path)
    if CODE_VECTORS in keys:
        return _with_code_vectors(dataset_path, keys, data_hash, sets, codebooks)
    owners: dict[Path, list[str]] = {}
    for key in keys:
        owners.setdefault(_set_with(dataset_path, key, sets), []).append(key)
    if not owners:
        return {}
    current = data_hash if data_hash is not None else dataset_hash(dataset_path)
    found: dict[str, NDArray[Any]] = {}
    for folder, wanted in owners.items():
        manifest = load_manifest(folder)
        require_usable(folder, manifest, dataset_path, current)
        for key in wanted:
            expected = (codebooks or {}).get(key, manifest.codebook_size)
            if expected != manifest.codebook_size:
                raise LabelError(
                    f"labels {key!r} in {folder} have a codebook of {manifest.codebook_size} codes; expected "
                    f"{expected}: use the model's size, or label with another model"
                )
        found |= _read_shards(folder, manifest, wanted)
    return {key: found[key] for key in keys}


def _with_code_vectors(
    dataset_path: Path,
    keys: Sequence[str],
    data_hash: str | None,
    sets: Sequence[str] | None,
    codebooks: Mapping[str, int] | None,
) -> dict[str, NDArray[Any]]:
    """The same with ``e_img``, (N, P, d) float16: the codebook's vectors of z_img, which are not stored."""
    stored = tuple(dict.fromkeys("z_img" if key == CODE_VECTORS else key for key in keys))
    found = read_labels(dataset_path, stored, data_hash, sets=sets, codebooks=codebooks)
    folder = _set_with(dataset_path, "z_img", sets)
    codebook = load_manifest(folder).codebook
    if codebook is None:
        raise LabelError(
            f"the labels in {folder} do not say which vectors their codes have; `lavla latent label "
            f"{dataset_path}` with the same model adds them, and makes nothing else again"
        )
    found[CODE_VECTORS] = np.asarray(codebook, np.float16)[found["z_img"]]
    return {key: found[key] for key in keys}


def labels_in_use(dataset_path: Path, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Label set → what taught a policy that learns from ``keys``, for its checkpoint: the set, its model, the data."""
    used: dict[str, dict[str, Any]] = {}
    for key in keys:
        folder = _set_with(dataset_path, "z_img" if key == CODE_VECTORS else key, None)
        manifest = load_manifest(folder)
        used[folder.name] = {
            "identity": manifest.identity,
            "model": manifest.model,
            "model_hash": manifest.model_hash,
            "data_hash": manifest.data_hash,
            "settings": dict(manifest.settings),
        }
    return used


def dataset_hash(dataset: Path | _HasPath) -> str:
    """16 hex digits over every byte of a dataset that labels depend on: numbers, videos, order, tasks, contract.

    Files are read, not looked at by time: about 1 GB/s. Raises LabelError for a path that is no dataset.
    """
    root = dataset if isinstance(dataset, Path) else dataset.path
    if not (root / layout.INFO).exists():
        raise LabelError(f"{root} is not a LeRobotDataset: it has no {layout.INFO}")
    places = ("data", "videos", "meta/episodes")
    files = sorted(file for place in places for file in (root / place).rglob("*") if file.is_file())
    files += [root / name for name in (layout.INFO, layout.TASKS, layout.CONTRACT) if (root / name).exists()]
    with ThreadPoolExecutor(8, thread_name_prefix="hash") as pool:  # hashing and reading release the interpreter
        digests = list(pool.map(_file_hash, files))
    listing = [(file.relative_to(root).as_posix(), digest) for file, digest in zip(files, digests, strict=True)]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


def label_sets(dataset_path: Path) -> dict[str, Manifest]:
    """Label sets of a dataset by name, whole or not. Raises LabelError for a damaged manifest."""
    folders = sorted(path.parent for path in (dataset_path / FOLDER).glob(f"*/{MANIFEST}"))
    return {folder.name: load_manifest(folder) for folder in folders}


def load_manifest(folder: Path) -> Manifest:
    """Raises LabelError when it is missing or damaged."""
    try:
        manifest = from_plain(Manifest, layout.read_json(folder / MANIFEST), source=str(folder / MANIFEST))
    except (layout.DatasetError, ConfigError) as error:
        raise LabelError(f"{error}; delete {folder} and label again") from None
    if manifest.schema != SCHEMA:
        raise LabelError(f"{folder / MANIFEST} has schema {manifest.schema}; expected {SCHEMA}: label again")
    return manifest


def _set_with(dataset_path: Path, key: str, sets: Sequence[str] | None) -> Path:
    """Folder of the one label set that has ``key``."""
    known = label_sets(dataset_path)
    unknown = sorted(set(sets or ()) - set(known))
    if unknown:
        raise LabelError(f"{dataset_path} has no label sets {unknown}; it has {sorted(known)}")
    having = [name for name, m in known.items() if key in m.keys and (sets is None or name in sets)]
    if not having:
        kind = "action" if key.endswith("_act") else "image"
        raise LabelError(
            f"{dataset_path} has no labels {key!r} (label sets there: {sorted(known) or 'none'}); make them with "
            f"`lavla latent label {dataset_path} --model DIR`, DIR being an {kind} latent action model"
        )
    if len(having) > 1:
        raise LabelError(f"labels {key!r} are in several sets of {dataset_path}, {having}: delete all but one")
    return dataset_path / FOLDER / having[0]


def labels_of(dataset_path: Path, model_path: Path) -> tuple[Path, Manifest]:
    """The label set that this model made of this dataset as both are now. Raises LabelError when there is none."""
    wanted = content_hash(model_path)
    made = {name: m for name, m in label_sets(dataset_path).items() if m.model_hash == wanted}
    if not made:
        raise LabelError(
            f"{dataset_path} has no labels of the model {model_path}; run `lavla latent label {dataset_path} "
            f"--model {model_path}` first"
        )
    name, manifest = next(iter(made.items()))
    require_usable(dataset_path / FOLDER / name, manifest, dataset_path, dataset_hash(dataset_path))
    return dataset_path / FOLDER / name, manifest


def require_usable(folder: Path, manifest: Manifest, dataset_path: Path, data_hash: str) -> None:
    """Raise LabelError unless the set is complete and made of this data by the model as it is."""
    command = f"run `lavla latent label {dataset_path} --model {manifest.model}`"
    if manifest.data_hash != data_hash:
        raise LabelError(
            f"the labels in {folder} are stale: they were made from data {manifest.data_hash}, the dataset is now "
            f"{data_hash}; {command}"
        )
    if not manifest.complete:
        done = sum((folder / shard.file).exists() for shard in manifest.shards)
        raise LabelError(
            f"the labels in {folder} are partial: {done} of {len(manifest.shards)} shards are there; {command} to go on"
        )
    if Path(manifest.model).is_dir():  # a model may be elsewhere by now; where it is, it must be the same
        try:
            now = content_hash(Path(manifest.model))
        except CheckpointError as error:
            raise LabelError(f"the model of the labels in {folder} is damaged: {error}") from None
        if now != manifest.model_hash:
            raise LabelError(
                f"the labels in {folder} are stale: the model {manifest.model} has changed since "
                f"({manifest.model_hash} then, {now} now); {command}"
            )


def _read_shards(folder: Path, manifest: Manifest, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays of ``keys``; besides them one shard is in memory."""
    needed = manifest.steps * sum(manifest.keys[key].bytes_per_step for key in keys)
    require_memory(needed, f"reading {', '.join(keys)} of {manifest.steps} steps", "Use a machine with more")
    found = {key: np.empty((manifest.steps, *manifest.keys[key].shape), manifest.keys[key].dtype) for key in keys}
    for shard in manifest.shards:
        arrays = read_shard(folder, manifest, shard, keys)
        for key, values in arrays.items():
            found[key][shard.first_step : shard.first_step + shard.steps] = values
    return found


def read_shard(folder: Path, manifest: Manifest, shard: Shard, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """(steps, …) arrays of one shard. Raises LabelError for one that is damaged or does not belong here."""
    file, again = folder / shard.file, f"delete it and run `lavla latent label` with --model {manifest.model}"
    try:
        # checksums of the pages: a file that lost a bit is not read as labels
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            identity = (opened.schema_arrow.metadata or {}).get(IDENTITY, b"").decode()
            rows = opened.metadata.num_rows
            if identity != manifest.identity or rows != shard.steps:
                raise LabelError(
                    f"{file} is not part of this label set ({rows} steps of set {identity or 'unknown'}; expected "
                    f"{shard.steps} of {manifest.identity}): {again}"
                )
            table = opened.read(columns=list(keys))
    except (OSError, pa.ArrowException) as error:
        raise LabelError(f"{file} cannot be read: {error}; {again}") from None
    found = {}
    for key in keys:
        info = manifest.keys[key]
        values = column_to_array(table[key], info, shard.steps)
        if key.startswith("z_") and values.size and not 0 <= values.min() <= values.max() < manifest.codebook_size:
            raise LabelError(
                f"{file}: {key} has codes {values.min()} to {values.max()}; the codebook has "
                f"{manifest.codebook_size}: {again}"
            )
        # of the bits, for numpy takes ten times longer to ask a float16 whether it is finite
        if key.startswith("c_") and values.size and (values.view("<u2") & 0x7C00).max() == 0x7C00:
            raise LabelError(f"{file}: {key} has values that are not finite: {again}")
        found[key] = values
    return found


def array_to_column(values: NDArray[Any], info: KeyInfo) -> pa.Array:
    """(steps, …) array → column of a shard. Raises LabelError for another shape than ``info`` says."""
    if values.shape[1:] != info.shape:
        raise LabelError(f"labels have shape {values.shape}; expected (steps, {info.shape})")
    flat = np.ascontiguousarray(values.astype(f"<{np.dtype(info.dtype).str[1:]}"))
    if info.dtype == "float16":
        kind = pa.binary(info.bytes_per_step)
        return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, pa.py_buffer(flat)])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel(), pa.int16()), int(np.prod(info.shape)))


def column_to_array(column: pa.ChunkedArray, info: KeyInfo, steps: int) -> NDArray[Any]:
    """The way back."""
    whole = column.combine_chunks()
    if info.dtype == "int16":
        return np.asarray(whole.flatten().to_numpy(zero_copy_only=False).reshape(steps, *info.shape))
    _, data = whole.buffers()
    start = whole.offset * info.bytes_per_step
    return np.frombuffer(data, "<f2", steps * int(np.prod(info.shape)), start).reshape(steps, *info.shape)


def _file_hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
