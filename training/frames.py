"""Reduced camera frames by sample index, at a bounded cost in memory whatever the size of the data.

What one process holds of N samples with C cameras at s × s pixels:

- ``MemoryFrames``: all of them, N · C · 3 s² bytes;
- ``FileFrames``: nothing but the batch it was asked for. It reads with ``pread``, so the frames that it has read are
  the kernel's file cache (one for all processes of a machine), never this process's memory;
- ``VideoFrames``: the batch, and ``threads`` × ``open_videos`` open decoders (about 2 MB each at 224 × 224).
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract
from lavla_ros.errors import UserError
from lavla_ros.outputs import sole_writer
from lavla_ros.policy.images import shrink
from training.config import DataConfig
from training.dataset import EpisodeDataset
from training.dataset.layout import write_text
from training.system_resources import free_disk, processes_here, require_disk, require_memory

T = TypeVar("T")
OnFrame = Callable[[int, int], None]
"""Called with (frames done, frames in all) while videos are decoded."""


class FrameError(UserError, ValueError):
    """Frames are missing, damaged, or not of the contract's size."""


class FrameReader(Protocol):
    """What is read of a dataset; ``training.dataset.EpisodeDataset`` has it."""

    @property
    def path(self) -> Path: ...

    def frames(self, camera: str, *, threads: int = 2) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(index, (H, W, 3) RGB) of every step, in order."""


class Frames(Protocol):
    """Frames of N samples."""

    @property
    def count(self) -> int:
        """N"""

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(B,) → (B, cameras, s, s, 3), cameras in the contract's order."""


class MemoryFrames:
    """All frames in an array (N, cameras, s, s, 3)."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array = array

    @property
    def count(self) -> int:
        return len(self.array)

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.array[indices]


class FileFrames:
    """Frames in one file of equal records; a description beside it is written when the file is whole."""

    def __init__(self, folder: Path) -> None:
        """Raises FrameError when the folder holds no whole frame file."""
        try:
            self.shape = tuple(json.loads((folder / "frames.json").read_text(encoding="utf-8"))["shape"])
            self._file = os.open(folder / "frames.bin", os.O_RDONLY)
        except (OSError, ValueError, KeyError) as error:
            raise FrameError(f"{folder} holds no whole frame file ({error}); delete it") from None
        self.path = folder / "frames.bin"
        self._record = int(np.prod(self.shape[1:]))
        if os.fstat(self._file).st_size != self._record * self.shape[0]:
            raise FrameError(f"{self.path} was cut off or replaced; delete {folder}")

    @property
    def count(self) -> int:
        return int(self.shape[0])

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for row, index in zip(found, indices.tolist(), strict=True):
            if os.preadv(self._file, [row], index * self._record) != self._record:
                raise FrameError(f"{self.path} ends before sample {index}; delete {self.path.parent}")
        return found

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class VideoFrames:
    """Frames decoded from the dataset's videos whenever they are asked for, by a few threads."""

    def __init__(self, dataset: EpisodeDataset, contract: Contract, size: int, threads: int) -> None:
        self._contract, self._size = contract, size
        # every thread has decoders of its own; the numbers are shared
        self._readers = []
        for _ in range(threads):
            reader = copy.copy(dataset)
            reader.__dict__.update(dataset.__getstate__())
            self._readers.append(reader)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="frames")
        self._count = len(dataset)

    @property
    def count(self) -> int:
        return self._count

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = np.empty((len(indices), len(self._contract.cameras), self._size, self._size, 3), np.uint8)

        def decode(reader: EpisodeDataset, rows: range) -> None:
            for row in rows:
                images = reader[int(indices[row])].images
                for c, spec in enumerate(self._contract.cameras):
                    found[row, c] = shrink(images[spec.name], self._size)

        shares = [range(i, len(indices), len(self._readers)) for i in range(len(self._readers))]
        for done in [self._pool.submit(decode, r, rows) for r, rows in zip(self._readers, shares, strict=True)]:
            done.result()
        return found


class JoinedFrames:
    """The frames of several datasets, one after the other."""

    def __init__(self, parts: Sequence[Frames]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(part.count for part in parts)])

    @property
    def count(self) -> int:
        return int(self._starts[-1])

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        if len(self._parts) == 1:
            return self._parts[0].take(indices)
        owner = np.searchsorted(self._starts, indices, side="right") - 1
        rows = [(np.flatnonzero(owner == i), part, self._starts[i]) for i, part in enumerate(self._parts)]
        found = [(where, part.take(indices[where] - start)) for where, part, start in rows if len(where)]
        whole = np.empty((len(indices), *found[0][1].shape[1:]), np.uint8)
        for where, images in found:
            whole[where] = images
        return whole


class Prefetcher(Generic[T]):
    """Reads what the next batch needs while the present one is computed on: two batches in memory, no more."""

    def __init__(self, read: Callable[..., T]) -> None:
        """``read``: takes indices, and what else is given to ``request`` and ``take``."""
        self._read = read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._next: tuple[tuple[bytes, *tuple[range, ...]], Future[T]] | None = None

    def request(self, indices: NDArray[np.int64], *others: range) -> None:
        """Begin to read for these samples."""
        self._next = ((indices.tobytes(), *others), self._pool.submit(self._read, indices, *others))

    def take(self, indices: NDArray[np.int64], *others: range) -> T:
        """What was read for these samples: at once if they were requested, else read now."""
        requested, self._next = self._next, None
        if requested is not None and requested[0] == (indices.tobytes(), *others):
            return requested[1].result()
        return self._read(indices, *others)


def open_frames(
    dataset: FrameReader,
    count: int,
    contract: Contract,
    config: DataConfig,
    *,
    size: int,
    cache_dir: Path,
    memory_left: int,
    on_frame: OnFrame = lambda done, total: None,
) -> Frames:
    """The frames of one dataset, where ``config.frames`` says, decoded now unless that is ``video``.

    ``memory_left``: bytes of ``config.cache_bound_gib`` that other datasets of the mixture did not take.
    Raises FrameError for frames that do not fit the contract, RoomError for too little memory or disk.
    """
    shape = (count, len(contract.cameras), size, size, 3)
    needed = int(np.prod(shape, dtype=np.int64))
    choice = config.frames
    folder = cache_dir / f"frames-{frames_key(dataset, contract, size)}"
    if choice == "auto":
        fits = needed <= memory_left and processes_here() == 1
        choice = "memory" if fits else "file" if _is_whole(folder) or needed < 0.9 * free_disk(folder) else "video"
    if choice == "memory":
        advice = "Set data.frames: file, which needs none"
        require_memory(needed * processes_here(), f"keeping {count} samples' frames", advice)
        array = np.empty(shape, np.uint8)
        for c, index, image in _decoded(dataset, count, contract, config, size, on_frame):
            array[index, c] = image
        return MemoryFrames(array)
    if choice == "file":
        with sole_writer(folder, wait=True):  # another process may be making the same
            if not _is_whole(folder):
                _write_file(folder, shape, _decoded(dataset, count, contract, config, size, on_frame))
        return FileFrames(folder)
    if not isinstance(dataset, EpisodeDataset):
        raise FrameError(f"data.frames is 'video', which needs a dataset on disk, not a {type(dataset).__name__}")
    return VideoFrames(dataset, contract, size, config.decode_threads)


def frames_key(dataset: FrameReader, contract: Contract, size: int) -> str:
    """Changes with every file of the dataset but its labels (by size and time), the cameras and the frame size."""
    files = sorted(f for folder in ("data", "meta", "videos") for f in (dataset.path / folder).rglob("*.*"))
    seen = [(str(f.relative_to(dataset.path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    cameras = [(c.name, c.width, c.height) for c in contract.cameras]
    return hashlib.sha256(json.dumps([seen, cameras, size]).encode()).hexdigest()[:16]


def _decoded(
    dataset: FrameReader, count: int, contract: Contract, config: DataConfig, size: int, on_frame: OnFrame
) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """(camera, sample, reduced frame) of everything, checked."""
    for c, spec in enumerate(contract.cameras):
        seen = 0
        for index, image in dataset.frames(spec.name, threads=config.decode_threads):
            if image.shape != (spec.height, spec.width, 3):
                raise FrameError(
                    f"the image of {spec.name!r} at sample {index} has shape {image.shape}; the contract says "
                    f"{(spec.height, spec.width, 3)}"
                )
            yield c, index, shrink(image, size)
            seen += 1
            on_frame(c * count + seen, count * len(contract.cameras))
        if seen != count:
            raise FrameError(f"camera {spec.name!r} has {seen} frames for {count} steps; run `lavla dataset check`")


def _write_file(folder: Path, shape: tuple[int, ...], frames: Iterator[tuple[int, int, NDArray[np.uint8]]]) -> None:
    size = int(np.prod(shape, dtype=np.int64))
    one = int(np.prod(shape[2:]))
    require_disk(size, folder, f"the frame file of {shape[0]} samples", "Set data.cache_dir, or data.frames: video")
    with (folder / "frames.bin").open("wb") as file:
        if size:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that is too small says so now, not in an hour
        for camera, index, image in frames:
            os.pwrite(file.fileno(), np.ascontiguousarray(image).data, (index * shape[1] + camera) * one)
        os.fsync(file.fileno())
    write_text(folder / "frames.json", json.dumps({"shape": shape}))


def _is_whole(folder: Path) -> bool:
    return (folder / "frames.json").exists()
