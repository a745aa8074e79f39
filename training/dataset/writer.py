"""Append whole episodes to a LeRobotDataset v3.0; a crash loses at most the one being appended."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lavla_ros.contract import Contract, ContractError, require_same_contract
from training.dataset import layout, stats
from training.dataset.layout import DatasetError
from training.dataset.video import CODEC_NAMES, Codec, VideoReader


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeArrays:
    """The numbers of one episode of L steps."""

    state_LS: NDArray[np.float32]
    action_LA: NDArray[np.float32]
    capture_ns_LK: NDArray[np.int64]
    """Columns as in :func:`layout.stream_names`."""
    instructions: tuple[str, ...]
    """One per step."""
    phrasings: tuple[str, ...] = ()
    """Ways to say the one instruction of all steps, beginning with that one; none: there is no other."""
    intervention_L: NDArray[np.int64] | None = None
    """1 if a person commanded the step, else 0; None: nothing says who did."""
    histograms: Mapping[str, NDArray[np.int64]]
    """Camera → (3, 256) counts of the sampled frames."""

    def __post_init__(self) -> None:
        lengths = {len(self.state_LS), len(self.action_LA), len(self.capture_ns_LK), len(self.instructions)}
        lengths |= set() if self.intervention_L is None else {len(self.intervention_L)}
        if len(lengths) != 1 or 0 in lengths:
            raise DatasetError(f"an episode's columns have lengths {sorted(lengths)}; expected one length above 0")
        if self.phrasings and set(self.instructions) != {self.phrasings[0]}:
            raise DatasetError(
                f"an episode has the instructions {sorted(set(self.instructions))} and the phrasings "
                f"{list(self.phrasings)}; expected one instruction, the first of the phrasings"
            )
        if not all(text.strip() for text in self.phrasings):
            raise DatasetError(f"an episode has an empty phrasing: {list(self.phrasings)}")

    @property
    def length(self) -> int:
        return len(self.instructions)


class DatasetWriter:
    """Writes ``root``; see :meth:`append` and :meth:`finish`. A context manager: leaving it gives up the lock."""

    def __init__(
        self,
        root: Path,
        contract: Contract,
        *,
        codec: Codec = "libx264",
        append: bool = False,
        interventions: bool = False,
    ) -> None:
        """``append``: go on with the dataset that is there, finished or not; begin one if there is none.
        ``interventions``: a new one gets the column that says which steps a person commanded; one that is there stays
        as it is.

        An episode that was being written when its writer died is not there: its place is taken by the next one.
        Raises DatasetError when another process writes ``root``; without ``append`` when it exists and is not empty;
        with it when it is no dataset of this contract, rate and codec, or its metadata are damaged.
        """
        self.root = Path(root)
        self.contract = contract
        self.fps = layout.stored_fps(contract)
        self.encoder = codec
        self.codec = CODEC_NAMES[codec]
        self.interventions = interventions
        self.episodes = 0
        self.frames = 0
        self.found = 0
        """Episodes that were there at the beginning."""
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._next_file = 0
        self._histograms = {name: np.zeros((3, 256), np.int64) for name in contract.camera_names}
        self._sampled = 0
        begins = not self.root.exists() or (
            self.root.is_dir() and (not any(self.root.iterdir()) or (append and _is_skeleton(self.root)))
        )
        if not begins and not (append and self.root.is_dir()):
            raise DatasetError(f"{self.root} exists already; choose another folder or remove it first")
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = DatasetLock(self.root)
        try:
            if begins:
                layout.write_contract(self.root, contract)
                self._write_info()
            else:
                self._go_on()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write the dataset; what is committed stays."""
        self._lock.release()

    def _go_on(self) -> None:
        """Take over what info.json counts."""
        info = layout.read_json(self.root / layout.INFO)
        embedded = layout.read_contract(self.root)
        if embedded is None:
            raise DatasetError(f"{self.root} has no {layout.CONTRACT}: episodes are added to datasets of lavla only")
        try:
            require_same_contract(self.contract, embedded, ours_from="this run", theirs_from=str(self.root))
        except ContractError as error:
            raise DatasetError(str(error)) from None
        depth = sorted(spec.name for spec in self.contract.depth)
        if info["total_episodes"] and list(layout.depth_names(self.root)) != depth:
            raise DatasetError(
                f"{self.root} has the depth cameras {list(layout.depth_names(self.root))}; ours are {depth}"
            )
        self.interventions = layout.INTERVENTION in info.get("features", {})
        wanted = layout.features(self.contract, fps=self.fps, codec=self.codec, interventions=self.interventions)
        if info.get("features") != wanted or info.get("fps") != self.fps:
            differing = sorted(k for k in wanted if info.get("features", {}).get(k) != wanted[k])
            raise DatasetError(
                f"{self.root} cannot be added to: fps is {info.get('fps')}, ours {self.fps}; features {differing} "
                f"differ from those of codec {self.codec!r} and this contract"
            )
        count = int(info["total_episodes"])
        by_index = {int(row["episode_index"]): row for row in layout.read_episodes(self.root, with_stats=True)}
        self._rows = [by_index[i] for i in range(count) if i in by_index]
        self.frames = sum(int(row["length"]) for row in self._rows)
        if len(self._rows) != count or self.frames != info["total_frames"]:
            raise DatasetError(
                f"{self.root}: {layout.INFO} counts {count} episodes of {info['total_frames']} steps; meta/episodes "
                f"has {len(self._rows)} of {self.frames}; run `lavla dataset repair` first"
            )
        self.episodes = self.found = count
        # after a repair, episodes lie in files of higher numbers than their own
        self._next_file = 1 + max((file_number(row) for row in self._rows), default=-1)
        layout.write_sums(self.root, layout.read_sums(self.root))
        if count:
            self._tasks = {text: number for number, text in sorted(layout.read_tasks(self.root).items())}
            if list(self._tasks.values()) != list(range(len(self._tasks))):
                raise DatasetError(
                    f"{self.root / layout.TASKS} does not number its tasks from 0; run `lavla dataset repair`"
                )

    def append(self, arrays: EpisodeArrays, videos: Mapping[str, Path]) -> int:
        """Commit one episode; its video files (camera → path) are moved in. Returns its index.

        Order: videos, data, checksums, tasks, episode row, info.json; what info.json does not count is not there.
        """
        episode = self.episodes
        for text in arrays.instructions:
            self._tasks.setdefault(text, len(self._tasks))
        keys = [layout.video_key(name) for name in self.contract.camera_names]
        texts = sorted(set(arrays.instructions), key=arrays.instructions.index)
        row = layout.episode_row(episode, self.frames, arrays.length, texts, self._next_file, keys, self.fps)
        if len(arrays.phrasings) > 1:
            row[layout.PHRASINGS] = list(arrays.phrasings)
        files = []
        for name in self.contract.camera_names:
            key = layout.video_key(name)
            target = layout.video_file(self.root, {}, row, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(videos[name], target)
            files.append(target)
            self._histograms[name] += arrays.histograms[name]
        for spec in self.contract.depth:
            files.append(layout.depth_file(self.root, row, spec.name))
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            shutil.move(videos[spec.name], files[-1])
        table = self._table(arrays, episode)
        files.append(layout.data_file(self.root, {}, row))
        layout.write_table(files[-1], table)
        layout.add_sums(self.root, files)
        sampled = len(stats.sample_frames(arrays.length))
        self._sampled += sampled
        row |= stats.flatten(
            {
                **column_stats(table),
                **{layout.video_key(n): stats.from_histogram(h, sampled) for n, h in arrays.histograms.items()},
            }
        )
        layout.write_tasks(self.root, list(self._tasks))
        layout.write_episodes(self.root, [row], file_index=self._next_file)
        self._rows.append(row)
        self._next_file += 1
        self.episodes += 1
        self.frames += arrays.length
        self._write_info()
        return episode

    def finish(self) -> None:
        """Write the statistics over all episodes and gather the episode rows into one file."""
        if not self.episodes:
            raise DatasetError(f"{self.root} has no episode to finish")
        found = whole_stats(self.root, self._rows)
        for name, histogram in self._histograms.items():
            key = layout.video_key(name)
            earlier, sampled = image_histogram(self.root, self.fps, self._rows[: self.found], key)
            found[key] = stats.from_histogram(histogram + earlier, self._sampled + sampled)
        layout.write_json(self.root / layout.STATS, stats.to_json(found))
        gather_episodes(self.root, self._rows)
        layout.write_sums(self.root, layout.read_sums(self.root))
        shutil.rmtree(self.root / layout.STAGING, ignore_errors=True)
        self.close()

    def _table(self, arrays: EpisodeArrays, episode: int) -> pa.Table:
        length = arrays.length
        frame = np.arange(length, dtype=np.int64)
        told: dict[str, Any] = {}
        if self.interventions:
            told[layout.INTERVENTION] = np.zeros_like(frame) if arrays.intervention_L is None else arrays.intervention_L
        return pa.table(
            told
            | {
                layout.STATE: _lists(arrays.state_LS, pa.float32()),
                layout.ACTION: _lists(arrays.action_LA, pa.float32()),
                layout.CAPTURE: _lists(arrays.capture_ns_LK, pa.int64()),
                "timestamp": (frame / self.fps).astype(np.float32),
                "frame_index": frame,
                "episode_index": np.full(length, episode, np.int64),
                "index": frame + self.frames,
                "task_index": np.array([self._tasks[text] for text in arrays.instructions], np.int64),
            },
            schema=layout.data_schema(self.contract, interventions=self.interventions),
        )

    def _write_info(self) -> None:
        codec = self.codec
        layout.write_json(
            self.root / layout.INFO,
            layout.info(
                self.contract,
                fps=self.fps,
                codec=codec,
                episodes=self.episodes,
                frames=self.frames,
                tasks=len(self._tasks),
                interventions=self.interventions,
            ),
        )


class DatasetLock:
    """One process at a time writes a dataset, or several read it (``shared``) that must not change meanwhile.

    Raises DatasetError when another one writes it; ends with the process.
    """

    def __init__(self, root: Path, *, shared: bool = False) -> None:
        self._handle: int | None = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise DatasetError(f"{root} is being written by another process; wait until it has ended") from None
        except OSError:
            pass  # a file system without locks

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.release()


def _is_skeleton(root: Path) -> bool:
    """Is there no more than what a writer leaves that was killed while it began?"""
    if (root / layout.INFO).exists():
        return False
    ours = (layout.CONTRACT, layout.INFO, layout.STAGING)  # and temporary files beside them
    files = [p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir()]
    return all(name.startswith(ours) for name in files)


def file_number(row: Mapping[str, Any]) -> int:
    """The highest number of the files that an episode lies in; see :func:`layout.place`."""
    chunks = [key for key in row if key.endswith("/chunk_index") and not key.startswith("meta/")]
    return max(int(row[k]) * layout.FILES_PER_CHUNK + int(row[k.replace("chunk_", "file_")]) for k in chunks)


def _lists(values: NDArray[Any], kind: pa.DataType) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel(), kind), values.shape[1])


def column_array(table: pa.Table, name: str) -> NDArray[Any]:
    """A column as (N,) or (N, D). Raises DatasetError for rows of different lengths."""
    column = table[name].combine_chunks()
    if not pa.types.is_fixed_size_list(column.type) and not pa.types.is_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(column.type):
        width = int(column.type.list_size)
    else:
        width = len(flat) // max(len(column), 1)
    if len(flat) != len(column) * width or column.null_count:
        raise DatasetError(f"column {name} has rows of different lengths")
    return np.asarray(flat.reshape(len(column), width))


def steps_digest(*columns: NDArray[Any]) -> str:
    """Of an episode's states, actions and capture times: tells it from all others, whatever its number."""
    found = hashlib.sha256()
    for column in columns:
        found.update(np.ascontiguousarray(column).data)
    return found.hexdigest()[:16]


def table_digest(table: pa.Table) -> str:
    """:func:`steps_digest` of an episode's rows."""
    return steps_digest(*(column_array(table, key) for key in (layout.STATE, layout.ACTION, layout.CAPTURE)))


def column_stats(table: pa.Table) -> dict[str, stats.Stats]:
    return {
        name: stats.numeric(column_array(table, name))
        for name in table.column_names
        if not pa.types.is_string(table.schema.field(name).type)
    }


def whole_stats(
    root: Path, rows: Sequence[Mapping[str, Any]], info: Mapping[str, Any] | None = None, newer: Path | None = None
) -> dict[str, stats.Stats]:
    """Exact statistics of every number column over all data files (about 100 bytes per step in memory).

    ``info``: of a dataset whose files lie elsewhere than ours; files below ``newer`` stand in for those of ``root``.
    """
    columns: dict[str, list[NDArray[Any]]] = {}
    for file in dict.fromkeys(layout.data_file(root, info or {}, row) for row in rows):
        other = (newer or root) / file.relative_to(root)
        table = layout.read_table(other if other.exists() else file)
        for name in table.column_names:
            columns.setdefault(name, []).append(column_array(table, name))
    return {name: stats.numeric(np.concatenate(parts)) for name, parts in columns.items()}


def image_histogram(
    root: Path, fps: float, rows: Sequence[Mapping[str, Any]], key: str
) -> tuple[NDArray[np.int64], int]:
    """(3, 256) counts of the sampled frames of these episodes' videos, decoded; and how many frames that were."""
    histogram, count = np.zeros((3, 256), np.int64), 0
    for row in rows:
        first = layout.first_frame(row, key, fps)
        with closing(VideoReader(layout.video_file(root, {}, row, key), fps)) as video:
            for number in sorted(stats.sample_frames(int(row["length"]))):
                histogram += stats.image_histogram(video.frame(first + number))
                count += 1
    return histogram, count


def gather_episodes(root: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All rows into the first file of meta/episodes, then remove the others (repair copes with a crash between)."""
    kept = layout.write_episodes(root, rows, file_index=0)
    for file in layout.episode_files(root):
        if file != kept:
            file.unlink()
    for folder in (root / "meta/episodes").iterdir():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
