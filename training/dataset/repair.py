"""Make a dataset whole again from what is whole on disk. What is taken out is moved aside, never deleted.

First everything is looked at, then what has to be written is written beside the dataset, then it takes its place file
by file. An error before that (a full disk) leaves the dataset as it was; a crash in between leaves one that the next
repair takes up.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from training.dataset import layout, stats
from training.dataset.check import changed_files, check, stored_files
from training.dataset.layout import DatasetError, data_file, video_file
from training.dataset.video import VideoReader, codec_of, probe
from training.dataset.writer import DatasetLock, column_array, column_stats, image_histogram, whole_stats


def repair(path: Path | str, *, dry_run: bool = False, removed: Path | None = None) -> list[str]:
    """Mend one of our datasets; returns what was done, or with ``dry_run`` what would be.

    Episodes whose files are damaged or incomplete are taken out (and named), the rest is numbered again without gaps,
    counts, task texts, checksums and statistics are made from what is there. Files that belong to no whole episode go
    to ``removed`` (default: the dataset's folder removed/), together with the metadata as they were; only unfinished
    work of a killed writer is deleted. Pictures and numbers are not judged: an episode with a black camera stays.

    Raises DatasetError, with nothing changed: for datasets of other tools (several episodes in one file), where no
    episode is whole, if neither info.json nor the contract can be read, and if there is no room.
    """
    root = Path(path)
    if not root.is_dir():
        raise DatasetError(f"{root} does not exist, or is no folder")
    lock = DatasetLock(root)
    try:
        plan = _Plan(root)
        if not dry_run and plan.done:
            plan.carry_out(_next_folder(removed or root / layout.REMOVED))
        return plan.done
    finally:
        lock.release()


class _Plan:
    """What is to be done; finding it out changes nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.done: list[str] = []
        self.info, self.codec = self._info()
        self.keys = [key for key, feature in self.info["features"].items() if feature["dtype"] == "video"]
        self.fps = layout.fps_of(self.info)
        rows = self._rows()
        if not rows and not any(stored_files(root)):
            raise DatasetError(
                f"{root} has no episode: it was ended before the first was committed; convert into it again, or "
                "remove it"
            )
        self.tasks = self._tasks(rows)
        self.sums = layout.read_sums(root)
        changed = changed_files(root, self.info, rows, self.sums)
        self.rows: list[dict[str, Any]] = []
        self.tables: dict[int, pa.Table] = {}
        """New number of an episode → its data, if they have to be written again."""
        self._take_whole(rows, changed)
        self._say_the_rest(rows)

    # ------------------------------------------------------------------ looking

    def _info(self) -> tuple[dict[str, Any], str]:
        """info.json; if it cannot be read, what the contract and the videos say it was."""
        try:
            info = layout.read_json(self.root / layout.INFO)
            lacks = [k for k in ("codebase_version", "fps", "features", "data_path") if k not in info]
            if lacks:
                raise DatasetError(f"{layout.INFO} lacks {lacks}")
            if info["codebase_version"] != layout.CODEBASE_VERSION:
                raise DatasetError(
                    f"{self.root} has codebase_version {info['codebase_version']!r}: nothing was changed"
                )
            return info, ""
        except DatasetError as error:
            contract = layout.read_contract(self.root)
            videos = sorted(self.root.glob("videos/*/*/*.mp4"))
            if contract is None or not videos or "codebase_version" in str(error):
                raise
            self.done.append(f"made {layout.INFO} from {layout.CONTRACT}: {error}")
            codec = next((c for c in map(_codec_or_none, videos) if c), "h264")
            fps = layout.stored_fps(contract)
            return layout.info(contract, fps=fps, codec=codec, episodes=0, frames=0, tasks=0), codec

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        taken: set[Path] = set()
        lost = False
        for file in layout.episode_files(self.root):
            try:
                found = layout.read_episode_file(file, with_stats=True)
            except DatasetError as error:
                self.done.append(f"ignored a damaged file: {error}")
                lost = True
                continue
            places = Counter(data_file(self.root, self.info, row) for row in found)
            if any(count > 1 for count in places.values()):
                raise DatasetError(
                    f"{self.root} keeps several episodes in one data file: repair serves datasets of `lavla convert` "
                    "and `lavla import`; nothing was changed"
                )
            # rows that are there twice: the first file is the one that a writer gathers them in
            rows += [row for row in found if data_file(self.root, self.info, row) not in taken]
            taken |= set(places)
        if lost or (not rows and self.info.get("total_episodes")):
            rows += self._rows_without_metadata(taken)
        return sorted(rows, key=lambda row: (int(row["episode_index"]), int(row["dataset_from_index"])))

    def _rows_without_metadata(self, taken: set[Path]) -> list[dict[str, Any]]:
        """Rows of the episodes whose data and videos are there under one number."""
        rows = []
        for file in sorted(self.root.glob("data/chunk-*/file-*.parquet")):
            chunk, number = int(file.parent.name.split("-")[1]), int(file.stem.split("-")[1])
            number += chunk * layout.FILES_PER_CHUNK
            try:
                table = layout.read_table(file)
                if file in taken or not table.num_rows:
                    continue
                episode = int(table["episode_index"][0].as_py())
                first = int(table["index"][0].as_py())
            except (DatasetError, KeyError):
                continue  # told as a file that belongs to no whole episode
            row = layout.episode_row(episode, first, table.num_rows, [], number, self.keys, self.fps)
            if all(video_file(self.root, self.info, row, key).exists() for key in self.keys):
                rows.append(row)
                self.done.append(f"made the row of episode {episode} in meta/episodes from its files")
        return rows

    def _tasks(self, rows: list[dict[str, Any]]) -> dict[int, str]:
        """tasks.parquet; if it cannot be read, what episodes of one task say of theirs."""
        try:
            return layout.read_tasks(self.root)
        except DatasetError as error:
            tasks: dict[int, str] = {}
            for row in rows:
                try:
                    used = column_array(layout.read_table(data_file(self.root, self.info, row)), "task_index")
                except (DatasetError, KeyError):
                    continue
                order = list(dict.fromkeys(int(i) for i in used))  # by first use, as the row has them
                if len(order) == len(row["tasks"]):
                    tasks |= dict(zip(order, row["tasks"], strict=True))
            if sorted(tasks) != list(range(len(tasks))) or not tasks:
                raise DatasetError(f"{error}; the episodes do not say all tasks either: nothing was changed") from None
            self.done.append(f"made {layout.TASKS} from the episodes: {error}")
            return tasks

    def _take_whole(self, rows: list[dict[str, Any]], changed: Mapping[str, str]) -> None:
        first = 0
        reasons = []
        for row in rows:
            number = int(row["episode_index"])
            files = [data_file(self.root, self.info, row)]
            files += [video_file(self.root, self.info, row, key) for key in self.keys]
            deep = layout.depth_files(self.root, row)
            files += deep
            names = [file.relative_to(self.root).as_posix() for file in files]
            try:
                if problems := [f"{name}: {changed[name]}" for name in names if name in changed]:
                    raise DatasetError("; ".join(problems))
                if missing := [str(file) for file in deep if not file.exists()]:
                    raise DatasetError(f"{missing[0]} is missing")
                table = self._sound(row)
            except (DatasetError, KeyError) as error:
                reasons.append(f"removed episode {number}: {str(error).replace(f'{self.root}/', '')}")
                continue
            self._number(row, table, first)
            first += table.num_rows
        self.done += reasons
        if not self.rows:
            raise DatasetError(
                f"{self.root} holds no whole episode, so nothing was changed; copy or convert it again "
                f"({'; '.join(reasons[:3])})"
            )

    def _sound(self, row: Mapping[str, Any]) -> pa.Table:
        """The episode's data. Raises DatasetError or KeyError for what is wrong with its files that new numbers cannot
        mend."""
        length, file = int(row["length"]), data_file(self.root, self.info, row)
        table = layout.read_table(file)
        if table.num_rows != length:
            raise DatasetError(f"{file} has {table.num_rows} rows; expected {length}")
        for key, feature in self.info["features"].items():
            if feature["dtype"] == "video":
                self._check_video(row, key, feature, length)
            elif key not in table.column_names:
                raise DatasetError(f"{file} lacks the column {key}")
            elif feature["dtype"].startswith("float") and not np.isfinite(column_array(table, key)).all():
                raise DatasetError(f"{file}: {key} has non-finite values")
        if not np.array_equal(column_array(table, "frame_index"), np.arange(length)):
            raise DatasetError(f"{file}: frame_index is not 0 to {length - 1}")
        unknown = sorted(set(column_array(table, "task_index").tolist()) - set(self.tasks))
        if unknown:
            raise DatasetError(f"{file}: task indices {unknown} are not in {layout.TASKS}")
        return table

    def _check_video(self, row: Mapping[str, Any], key: str, feature: Mapping[str, Any], length: int) -> None:
        file = video_file(self.root, self.info, row, key)
        frames, width, height = probe(file)
        if (frames, height, width) != (length, *list(feature["shape"])[:2]):
            raise DatasetError(
                f"{file} has {frames} frames of {width}x{height}; expected {length} of "
                f"{feature['shape'][1]}x{feature['shape'][0]}"
            )
        with closing(VideoReader(file, self.fps)) as video:
            video.frame(length - 1)

    def _number(self, row: dict[str, Any], table: pa.Table, first: int) -> None:
        """Take an episode in as the next one."""
        number, before = len(self.rows), int(row["episode_index"])
        frame = np.arange(table.num_rows, dtype=np.int64)
        wanted = {"episode_index": np.full(len(frame), number, np.int64), "index": frame + first}
        if before != number:
            self.done.append(f"episode {before} is now episode {number}")
        if any(not np.array_equal(column_array(table, name), values) for name, values in wanted.items()):
            for name, values in wanted.items():
                table = table.set_column(table.column_names.index(name), table.schema.field(name), pa.array(values))
            self.tables[number] = table
            if before == number:
                self.done.append(f"episode {number}: its rows are renumbered")
        texts = [self.tasks[int(i)] for i in dict.fromkeys(column_array(table, "task_index").tolist())]
        if row["tasks"] != texts:
            self.done.append(f"episode {number}: its tasks are {texts}, as its rows say")
        row |= {
            **stats.flatten(column_stats(table)),
            "episode_index": number,
            "tasks": texts,
            "dataset_from_index": first,
            "dataset_to_index": first + table.num_rows,
        }
        self.rows.append(row)

    def _say_the_rest(self, rows: list[dict[str, Any]]) -> None:
        frames = sum(int(row["length"]) for row in self.rows)
        counts = {"total_episodes": len(self.rows), "total_frames": frames, "total_tasks": len(self.tasks)}
        for name, value in counts.items():
            if self.info.get(name) != value:
                self.done.append(f"{name}: {self.info.get(name)} → {value}")
        self.info |= {**counts, "splits": {"train": f"0:{len(self.rows)}"}}
        kept, listed = self._files(self.rows), self._files(rows)
        self.out_of_episodes = sorted(f for f in listed - kept if f.exists())
        self.strays = [f for f in stored_files(self.root) if f not in listed]
        for file in [*self.strays, *self.out_of_episodes]:
            self.done.append(f"moved {file.relative_to(self.root)} aside: it belongs to no whole episode")
        if len(layout.episode_files(self.root)) != 1:
            self.done.append("gathered the rows of meta/episodes in one file")
        for name in (layout.STAGING, layout.REPAIRING):
            if (self.root / name).exists():
                self.done.append(f"deleted {name}: unfinished work")
        names = {f.relative_to(self.root).as_posix() for f in kept}
        if self.sums and set(self.sums) != names:
            self.done.append(f"{layout.SUMS} has the files that are there")
        if self.done or any(f.kind == "statistics" for f in check(self.root).findings):
            self.done.append("recomputed the statistics")

    def _files(self, rows: list[dict[str, Any]]) -> set[Path]:
        return {data_file(self.root, self.info, row) for row in rows} | {
            file
            for row in rows
            for file in (
                *(video_file(self.root, self.info, row, key) for key in self.keys),
                *layout.depth_files(self.root, row),
            )
        }

    # ------------------------------------------------------------------ doing

    def carry_out(self, aside: Path) -> None:
        """Raises DatasetError if it cannot be written; the dataset is then as it was, but for what was of no use."""
        new = self.root / layout.REPAIRING
        try:
            for name in (layout.STAGING, layout.REPAIRING):  # makes room on a full disk
                if (self.root / name).exists():
                    shutil.rmtree(self.root / name)
            for file in self.strays:  # of no episode, whatever comes
                self._move_aside(file, aside)
            written = self._write(new)
            self._keep_metadata(aside)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            raise DatasetError(
                f"repairing {self.root} failed: {error}. The dataset is as it was; --removed DIR on another disk "
                "makes room"
            ) from error
        rewritten = {name for name in written if name.startswith("data/")}
        if self.sums and rewritten:  # no line: not judged, should this end in the middle
            layout.write_sums(self.root, {n: s for n, s in self.sums.items() if n not in rewritten})
        for name in written:
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (new / name).replace(target)
        for file in layout.episode_files(self.root):
            if file.relative_to(self.root).as_posix() not in written:
                file.unlink()  # its rows are in the first file, and it is among the metadata set aside
        for file in self.out_of_episodes:
            self._move_aside(file, aside)
        shutil.rmtree(new, ignore_errors=True)

    def _write(self, new: Path) -> list[str]:
        """Write everything that changes below ``new``; returns the names in the order in which they go in."""
        names = []
        for number, table in self.tables.items():
            name = data_file(self.root, self.info, self.rows[number]).relative_to(self.root).as_posix()
            layout.write_table(new / name, table)
            names.append(name)
        found = whole_stats(self.root, self.rows, self.info, new)
        for key in self.keys:
            histogram, count = image_histogram(self.root, self.fps, self.rows, key)
            found[key] = stats.from_histogram(histogram, count)
            self._image_rows(key)
        episodes = layout.write_episodes(new, self.rows, file_index=0).relative_to(new).as_posix()
        layout.write_tasks(new, [self.tasks[i] for i in sorted(self.tasks)])
        layout.write_json(new / layout.INFO, self.info)
        layout.write_json(new / layout.STATS, stats.to_json(found))
        kept = sorted(file.relative_to(self.root).as_posix() for file in self._files(self.rows))
        layout.write_sums(
            new,
            {
                name: layout.digest(new / name if name in names else self.root / name)
                if name in names or name not in self.sums
                else self.sums[name]
                for name in kept
            },
        )
        return [*names, episodes, layout.TASKS, layout.INFO, layout.STATS, layout.SUMS]

    def _image_rows(self, key: str) -> None:
        """Statistics of pictures for rows that have none of their own."""
        for row in self.rows:
            if row.get(f"stats/{key}/mean") is None:
                histogram, count = image_histogram(self.root, self.fps, [row], key)
                row |= stats.flatten({key: stats.from_histogram(histogram, count)})

    def _keep_metadata(self, aside: Path) -> None:
        for file in sorted(p for p in (self.root / "meta").rglob("*") if p.is_file()):
            target = aside / file.relative_to(self.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)  # needs no room; what replaces the file is another one
            except OSError:
                shutil.copy2(file, target)

    def _move_aside(self, file: Path, aside: Path) -> None:
        target = aside / file.relative_to(self.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, target)


def _codec_or_none(file: Path) -> str | None:
    try:
        return codec_of(file)
    except DatasetError:
        return None


def _next_folder(parent: Path) -> Path:
    number = 1
    while (parent / f"{number:03d}").exists():
        number += 1
    return parent / f"{number:03d}"
