"""Reduced camera frames by sample index, at a bounded cost in memory whatever the size of the data.

What one process holds of N samples with C cameras at s × s pixels:

- ``MemoryFrames``: all of them, N · C · 3 s² bytes;
- ``FileFrames``: nothing but the batch it was asked for. It reads with ``pread``, so the frames that it has read are
  the kernel's file cache (one for all processes of a machine), never this process's memory;
- ``PackedFrames``: the same of compressed records, and 8 · N · C bytes that say where each begins;
- ``VideoFrames``: the batch, and ``threads`` × ``open_videos`` open decoders (about 2 MB each at 224 × 224).
"""

from __future__ import annotations

import copy
import errno
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
from training.system_resources import RoomError, free_disk, processes_here, require_disk, require_memory

T = TypeVar("T")
OnFrame = Callable[[int, int], None]
"""Called with (frames done, frames in all) while videos are decoded."""
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)
_RECORDS, _STARTS, _DESCRIPTION = "frames.bin", "starts.npy", "frames.json"
_LESS_DISK = "Set data.cache_dir, data.frames: png, which takes less, or data.frames: video, which takes none"


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
            self.shape = tuple(json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))["shape"])
            self._file = os.open(folder / _RECORDS, os.O_RDONLY)
        except (OSError, ValueError, KeyError) as error:
            raise FrameError(f"{folder} holds no whole frame file ({error}); delete it") from None
        self.path = folder / _RECORDS
        if os.fstat(self._file).st_size != self._bytes(folder):
            raise FrameError(f"{self.path} was cut off or replaced; delete {folder}")

    def _bytes(self, folder: Path) -> int:
        """What the file must have."""
        return int(np.prod(self.shape))

    @property
    def count(self) -> int:
        return int(self.shape[0])

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for row, index in zip(found, indices.tolist(), strict=True):
            if os.preadv(self._file, [row], index * row.nbytes) != row.nbytes:
                raise FrameError(f"{self.path} ends before sample {index}; delete {self.path.parent}")
        return found

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class PackedFrames(FileFrames):
    """Frames in one file of PNG, which loses nothing: the policy learns from the integers that it will see."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(folder)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="frames")

    def _bytes(self, folder: Path) -> int:
        try:
            self._starts = np.load(folder / _STARTS, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FrameError(f"{folder} does not say where its frames begin ({error}); delete it") from None
        if self._starts.shape != (self.shape[1] * self.shape[0] + 1,):
            raise FrameError(f"{folder / _STARTS} has the shape {self._starts.shape}; delete {folder}")
        return int(self._starts[-1])

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = np.empty((len(indices), *self.shape[1:]), np.uint8)

        def decode(row: int) -> None:
            for camera in range(self.shape[1]):
                record = camera * self.count + int(indices[row])
                start, end = self._starts[record : record + 2].tolist()
                found[row, camera] = self._decoded(os.pread(self._file, end - start, start), int(indices[row]))

        list(self._pool.map(decode, range(len(indices))))
        return found

    def _decoded(self, code: bytes, index: int) -> NDArray[np.uint8]:
        import cv2

        image = cv2.imdecode(np.frombuffer(code, np.uint8), cv2.IMREAD_COLOR) if code else None
        if image is None or image.shape != self.shape[2:]:
            raise FrameError(f"{self.path} is damaged at sample {index}; delete {self.path.parent}")
        return np.asarray(image[..., ::-1], np.uint8)


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
    if choice in ("file", "png"):
        folder = folder.with_name(f"{folder.name}.png") if choice == "png" else folder
        with sole_writer(folder, wait=True):  # another process may be making the same
            if not _is_whole(folder):
                write = _write_packed if choice == "png" else _write_file
                write(folder, shape, _decoded(dataset, count, contract, config, size, on_frame))
        if choice == "png":
            return PackedFrames(folder, config.decode_threads)
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
    require_disk(size, folder, f"the frame file of {shape[0]} samples", _LESS_DISK)
    with (folder / _RECORDS).open("wb") as file:
        if size:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that is too small says so now, not in an hour
        for camera, index, image in frames:
            os.pwrite(file.fileno(), np.ascontiguousarray(image).data, (index * shape[1] + camera) * one)
        os.fsync(file.fileno())
    write_text(folder / _DESCRIPTION, json.dumps({"shape": shape}))


def _write_packed(folder: Path, shape: tuple[int, ...], frames: Iterator[tuple[int, int, NDArray[np.uint8]]]) -> None:
    """How many bytes it will be is known only at the end; a full disk leaves nothing that looks whole."""
    import cv2

    starts = np.zeros(shape[0] * shape[1] + 1, np.int64)
    try:
        with (folder / _RECORDS).open("wb") as file:
            for record, (_, _, image) in enumerate(frames):  # in order, camera by camera
                code = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
                file.write(code.data)
                starts[record + 1] = starts[record] + code.nbytes
            file.flush()
            os.fsync(file.fileno())
        np.save(folder / _STARTS, starts, allow_pickle=False)
    except OSError as error:
        if error.errno not in _DISK_IS_FULL:
            raise
        (folder / _RECORDS).unlink(missing_ok=True)
        raise RoomError(
            f"{folder} is on a disk that is full with the frames of {shape[0]} samples. {_LESS_DISK}"
        ) from None
    write_text(folder / _DESCRIPTION, json.dumps({"shape": shape}))


def _is_whole(folder: Path) -> bool:
    return (folder / _DESCRIPTION).exists()
