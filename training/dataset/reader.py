"""Read LeRobotDataset v3.0 for training: random access, and frames in order for a cache.

Numbers (tens of bytes per step) are in memory; images come from the videos through a bounded
number of open decoders. Works for our one-file-per-episode datasets and for LeRobot's files of
many episodes alike: every episode says where it lies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract, ContractError, require_same_contract
from training.dataset import layout, stats
from training.dataset.layout import DatasetError
from training.dataset.video import VideoReader
from training.dataset.writer import column_array

_BLOCK = 128
"""Frames that one bulk-decoding task yields: 19 MB at 224×224."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One training step."""

    images: dict[str, NDArray[np.uint8]]
    """Camera → (H, W, 3) RGB."""
    state: NDArray[np.float32]
    """(S,)"""
    actions_HA: NDArray[np.float32]
    """Labels of this step and the H - 1 following; past the episode's end the last one repeats."""
    action_mask: NDArray[np.bool_]
    """(H,) True where the label is real."""
    instruction: str
    index: int
    episode_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """Where one episode lies."""

    index: int
    first: int
    """Index of its first step in the dataset."""
    length: int
    videos: dict[str, tuple[Path, int]]
    """Camera → (file, number of the episode's first frame in it)."""
    phrasings: tuple[str, ...] = ()
    """Ways to say the instruction of all its steps, beginning with that one; empty if there is one way only."""


class EpisodeDataset:
    """Steps of a v3.0 dataset in the order of ``contract``; chunks have the contract's ``chunk_size``."""

    def __init__(self, path: Path | str, contract: Contract, *, open_videos: int = 8) -> None:
        """Raises DatasetError when files are missing or damaged, or the dataset does not fit the contract."""
        self.path = Path(path)
        self.contract = contract
        if not (self.path / layout.INFO).exists():
            raise DatasetError(f"{self.path} is not a LeRobotDataset: it has no {layout.INFO}")
        self.info = layout.read_json(self.path / layout.INFO)
        self._check_contract()
        self.fps = layout.fps_of(self.info)
        self.episodes = tuple(self._episode(row) for row in layout.read_episodes(self.path))
        self._check_order()
        self.states: NDArray[np.float32]
        """(N, S)"""
        self.actions: NDArray[np.float32]
        """(N, A)"""
        self.episode_of: NDArray[np.int64]
        """(N,) episode index of every step."""
        self.interventions: NDArray[np.bool_] | None
        """(N,) whether a person commanded the step; None: the dataset does not say."""
        self._load_numbers()
        tasks = layout.read_tasks(self.path)
        unknown = sorted(set(self.task_of.tolist()) - set(tasks))
        if unknown:
            raise DatasetError(
                f"{self.path}: task indices {unknown} are not in {layout.TASKS}; run `lavla dataset repair`"
            )
        self._tasks = tasks
        self._last_of = np.repeat([e.first + e.length - 1 for e in self.episodes], [e.length for e in self.episodes])
        self._open: OrderedDict[Path, VideoReader] = OrderedDict()
        self._open_limit = max(open_videos, len(contract.cameras))

    @property
    def stats(self) -> dict[str, stats.Stats]:
        """Feature → min, max, mean, std, count, q01 … q99, as in stats.json."""
        return stats.from_json(layout.read_json(self.path / layout.STATS))

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: int) -> Sample:
        index = self._checked(index)
        episode = self.episodes[int(self.episode_of[index])]
        actions, mask = self.chunk(index)
        images = {}
        for name in self.contract.camera_names:
            file, first = episode.videos[name]
            images[name] = self._video(file).frame(first + index - episode.first)
        return Sample(
            images=images,
            state=self.states[index].copy(),
            actions_HA=actions,
            action_mask=mask,
            instruction=self.instruction(index),
            index=index,
            episode_index=episode.index,
        )

    def chunk(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(H, A) labels and (H,) mask of one step, without touching the videos."""
        index = self._checked(index)
        wanted = index + np.arange(self.contract.chunk_size)
        last = self._last_of[index]
        return self.actions[np.minimum(wanted, last)], wanted <= last

    def instruction(self, index: int) -> str:
        return self._tasks[int(self.task_of[self._checked(index)])]

    def phrasings(self, episode: int) -> tuple[str, ...]:
        """See :attr:`Episode.phrasings`."""
        return self.episodes[episode].phrasings

    def frames(self, camera: str, *, threads: int = 2) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(index, (H, W, 3) RGB) of every step in order, decoded ahead by ``threads`` threads."""
        self.contract.camera(camera)
        blocks = [
            (episode, start, min(_BLOCK, episode.length - start))
            for episode in self.episodes
            for start in range(0, episode.length, _BLOCK)
        ]

        def decode(episode: Episode, start: int, count: int) -> list[NDArray[np.uint8]]:
            file, first = episode.videos[camera]
            with closing(VideoReader(file, self.fps)) as video:
                return list(video.frames(first + start, count))

        with ThreadPoolExecutor(max(threads, 1), thread_name_prefix="decode") as pool:
            ahead: list[Future[list[NDArray[np.uint8]]]] = []
            try:
                for number, (episode, start, _) in enumerate(blocks):
                    for block in blocks[number + len(ahead) : number + threads + 1]:
                        ahead.append(pool.submit(decode, *block))
                    for offset, image in enumerate(ahead.pop(0).result()):
                        yield episode.first + start + offset, image
            finally:
                for future in ahead:
                    future.cancel()

    def close(self) -> None:
        """Close the open videos; reading opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        """Decoders stay behind: a data-loading worker opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    # ------------------------------------------------------------------ inside

    def _checked(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"step {index} of {self.path}, which has {len(self)}")
        return int(index) % len(self)

    def _video(self, file: Path) -> VideoReader:
        reader = self._open.pop(file, None)
        if reader is None:
            reader = VideoReader(file, self.fps)
            if len(self._open) >= self._open_limit:
                self._open.popitem(last=False)[1].close()
        self._open[file] = reader
        return reader

    def _check_contract(self) -> None:
        version = self.info.get("codebase_version")
        if version != layout.CODEBASE_VERSION:
            raise DatasetError(f"{self.path} has codebase_version {version!r}; expected {layout.CODEBASE_VERSION!r}")
        embedded = layout.read_contract(self.path)
        if embedded is not None:
            same_chunk = replace(embedded, chunk_size=self.contract.chunk_size)  # chunks are cut when reading
            try:
                require_same_contract(
                    self.contract, same_chunk, ours_from="this run", theirs_from=str(self.path), by_name=True
                )
            except ContractError as error:
                raise DatasetError(str(error)) from None
        features = self.info.get("features", {})
        if self.info.get("fps") != self.contract.rate_hz:
            raise DatasetError(f"{self.path} has {self.info.get('fps')} fps; the contract has {self.contract.rate_hz}")
        wanted = {layout.STATE: self.contract.state.names, layout.ACTION: self.contract.action.names}
        self._order: dict[str, list[int]] = {}
        """Column of each of the contract's names."""
        for key, names in wanted.items():
            found = layout.names_of(features.get(key, {}))
            if found is None or sorted(found) != sorted(names):
                raise DatasetError(f"{self.path}: {key} has names {found}; the contract has {list(names)}")
            self._order[key] = [found.index(name) for name in names]
        for spec in self.contract.cameras:
            shape = features.get(layout.video_key(spec.name), {}).get("shape")
            if shape is None or list(shape)[:2] != [spec.height, spec.width]:
                raise DatasetError(
                    f"{self.path}: camera {spec.name!r} has shape {shape}; the contract has "
                    f"[{spec.height}, {spec.width}, 3]"
                )

    def _episode(self, row: dict[str, Any]) -> Episode:
        keys = {name: layout.video_key(name) for name in self.contract.camera_names}
        files = {name: layout.video_file(self.path, self.info, row, key) for name, key in keys.items()}
        videos = {name: (files[name], layout.first_frame(row, key, self.fps)) for name, key in keys.items()}
        return Episode(
            index=int(row["episode_index"]),
            first=int(row["dataset_from_index"]),
            length=int(row["length"]),
            videos=videos,
            phrasings=tuple(row.get(layout.PHRASINGS) or ()),
        )

    def _check_order(self) -> None:
        if not self.episodes:
            raise DatasetError(f"{self.path} has no episodes")
        expected = 0
        for number, episode in enumerate(self.episodes):
            if (episode.index, episode.first) != (number, expected):
                raise DatasetError(
                    f"{self.path}: episode {episode.index} begins at step {episode.first}; expected "
                    f"episode {number} at {expected}; run `lavla dataset repair`"
                )
            expected += episode.length

    def _load_numbers(self) -> None:
        files = dict.fromkeys(layout.data_file(self.path, self.info, row) for row in layout.read_episodes(self.path))
        columns = [layout.STATE, layout.ACTION, "episode_index", "index", "task_index"]
        told = layout.INTERVENTION in self.info.get("features", {})
        columns += [layout.INTERVENTION] if told else []
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in columns}
        for file in files:
            table = layout.read_table(file, columns)
            for name in columns:
                parts[name].append(column_array(table, name))
        whole = {name: np.concatenate(found) for name, found in parts.items()}
        total = sum(e.length for e in self.episodes)
        if not np.array_equal(whole["index"], np.arange(total)):
            raise DatasetError(
                f"{self.path}: data files hold {len(whole['index'])} steps that do not number 0 to "
                f"{total - 1} in order; run `lavla dataset check`"
            )
        expected = np.repeat(np.arange(len(self.episodes)), [e.length for e in self.episodes])
        if not np.array_equal(whole["episode_index"], expected):
            raise DatasetError(
                f"{self.path}: data files and meta/episodes disagree about the episodes; run `lavla dataset check`"
            )
        self.interventions = whole[layout.INTERVENTION].reshape(total) != 0 if told else None
        self.states = whole[layout.STATE].astype(np.float32)[:, self._order[layout.STATE]]
        self.actions = whole[layout.ACTION].astype(np.float32)[:, self._order[layout.ACTION]]
        for key, values in ((layout.STATE, self.states), (layout.ACTION, self.actions)):
            if not np.isfinite(values).all():
                raise DatasetError(f"{self.path}: {key} has {int((~np.isfinite(values)).sum())} non-finite values")
        self.episode_of = whole["episode_index"].astype(np.int64)
        self.task_of: NDArray[np.int64] = whole["task_index"].astype(np.int64)
