"""Is a dataset whole, and if not, make it so from what is on disk."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from training.dataset import layout, stats
from training.dataset.layout import DatasetError
from training.dataset.video import VideoReader, probe
from training.dataset.writer import column_array, gather_episodes, image_histogram, whole_stats

_INFO_KEYS = ("codebase_version", "fps", "total_episodes", "total_frames", "features", "data_path")


def validate(path: Path | str) -> list[str]:
    """Every problem of a v3.0 dataset in readable lines; empty when it is whole. Decodes no video."""
    root = Path(path)
    try:
        info = layout.read_json(root / layout.INFO)
        missing = [key for key in _INFO_KEYS if key not in info]
        if missing:
            return [f"{layout.INFO} lacks {missing}"]
        if info["codebase_version"] != layout.CODEBASE_VERSION:
            return [f"codebase_version is {info['codebase_version']!r}; expected {layout.CODEBASE_VERSION!r}"]
        rows = layout.read_episodes(root)
        tasks = layout.read_tasks(root)
    except DatasetError as error:
        return [str(error)]
    problems = _check_rows(info, rows)
    for row in rows:
        problems += check_episode(root, info, row, tasks)
    problems += _check_stats(root, info)
    problems += _check_contract(root, info)
    if (root / layout.STAGING).exists():
        problems.append(f"{layout.STAGING} was left behind: the conversion was interrupted")
    referenced = _referenced(root, info, rows)
    orphans = [
        p for pattern in ("data/*/*.parquet", "videos/*/*/*.mp4") for p in root.glob(pattern) if p not in referenced
    ]
    problems += [f"{p.relative_to(root)} belongs to no episode" for p in sorted(orphans)]
    return problems


def _check_rows(info: Mapping[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    problems = []
    numbers = [int(row["episode_index"]) for row in rows]
    if numbers != list(range(len(rows))):
        twice = sorted(n for n, count in Counter(numbers).items() if count > 1)
        gaps = sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers))
        problems.append(f"episode indices are not 0 to {len(rows) - 1}: missing {gaps[:10]}, repeated {twice[:10]}")
    if info["total_episodes"] != len(rows):
        problems.append(f"{layout.INFO} counts {info['total_episodes']} episodes; meta/episodes has {len(rows)}")
    frames = sum(int(row["length"]) for row in rows)
    if info["total_frames"] != frames:
        problems.append(f"{layout.INFO} counts {info['total_frames']} frames; the episodes have {frames}")
    expected = 0
    for row in rows:
        if (row["dataset_from_index"], row["dataset_to_index"]) != (expected, expected + row["length"]):
            problems.append(
                f"episode {row['episode_index']}: steps {row['dataset_from_index']} to "
                f"{row['dataset_to_index']}; expected {expected} to {expected + row['length']}"
            )
        expected += int(row["length"])
    return problems


def check_episode(root: Path, info: Mapping[str, Any], row: Mapping[str, Any], tasks: Mapping[int, str]) -> list[str]:
    """Problems of one episode's data and video files."""
    name = f"episode {row['episode_index']}"
    try:
        table = episode_table(root, info, row)
    except DatasetError as error:
        return [f"{name}: {error}"]
    problems = []
    length = int(row["length"])
    if table.num_rows != length:
        problems.append(f"{name}: {table.num_rows} rows; expected {length}")
    frame = np.arange(table.num_rows)
    if not np.array_equal(column_array(table, "frame_index"), frame):
        problems.append(f"{name}: frame_index is not 0 to {table.num_rows - 1}")
    if not np.array_equal(column_array(table, "index"), frame + int(row["dataset_from_index"])):
        problems.append(f"{name}: index does not begin at {row['dataset_from_index']}")
    if not np.allclose(column_array(table, "timestamp"), frame / info["fps"], atol=1e-4):
        problems.append(f"{name}: timestamp is not frame_index / {info['fps']}")
    unknown = sorted(set(column_array(table, "task_index").tolist()) - set(tasks))
    if unknown:
        problems.append(f"{name}: task indices {unknown} are not in {layout.TASKS}")
    for key, feature in info["features"].items():
        if feature["dtype"] == "video":
            problems += _check_video(root, info, row, key, feature, length)
        elif key not in table.column_names:
            problems.append(f"{name}: column {key} is missing")
        elif feature["dtype"].startswith("float") and not np.isfinite(column_array(table, key)).all():
            problems.append(f"{name}: {key} has non-finite values")
    if layout.CAPTURE in table.column_names and table.num_rows:
        captured = column_array(table, layout.CAPTURE)
        if (np.diff(captured, axis=0) < 0).any():
            problems.append(f"{name}: capture times run backwards")
    return problems


def _check_video(
    root: Path, info: Mapping[str, Any], row: Mapping[str, Any], key: str, feature: Mapping[str, Any], length: int
) -> list[str]:
    name = f"episode {row['episode_index']}"
    try:
        file = _video_file(root, info, row, key)
        frames, width, height = probe(file)
    except (DatasetError, KeyError) as error:
        return [f"{name}: {key}: {error}"]
    problems = []
    needed = round(float(row[f"videos/{key}/from_timestamp"]) * info["fps"]) + length
    if frames < needed:
        problems.append(f"{name}: {file.relative_to(root)} has {frames} frames; expected at least {needed}")
    if [height, width] != list(feature["shape"])[:2]:
        problems.append(
            f"{name}: {file.relative_to(root)} is {width}x{height}; expected "
            f"{feature['shape'][1]}x{feature['shape'][0]}"
        )
    return problems


def _check_stats(root: Path, info: Mapping[str, Any]) -> list[str]:
    try:
        found = layout.read_json(root / layout.STATS)
    except DatasetError as error:
        return [str(error)]
    problems = [f"{layout.STATS} lacks {key}" for key in info["features"] if key not in found]
    for key, values in found.items():
        bad = [n for n, v in values.items() if not np.isfinite(np.asarray(v, np.float64)).all()]
        if bad:
            problems.append(f"{layout.STATS}: {key} has non-finite {bad}")
    return problems


def _check_contract(root: Path, info: Mapping[str, Any]) -> list[str]:
    try:
        contract = layout.read_contract(root)
    except DatasetError as error:
        return [str(error)]
    if contract is None:
        return []  # another tool's dataset
    wanted = layout.features(contract, fps=int(info["fps"]), codec="")
    return [
        f"{layout.CONTRACT} and {layout.INFO} disagree about {key}"
        for key, feature in wanted.items()
        if any(info["features"].get(key, {}).get(part) != feature[part] for part in ("dtype", "shape", "names"))
    ]


def _video_file(root: Path, info: Mapping[str, Any], row: Mapping[str, Any], key: str) -> Path:
    template = str(info.get("video_path") or layout.VIDEO_PATH)
    return root / template.format(
        video_key=key,
        chunk_index=int(row[f"videos/{key}/chunk_index"]),
        file_index=int(row[f"videos/{key}/file_index"]),
    )


def _data_file(root: Path, info: Mapping[str, Any], row: Mapping[str, Any]) -> Path:
    return root / str(info["data_path"]).format(
        chunk_index=int(row["data/chunk_index"]), file_index=int(row["data/file_index"])
    )


def _referenced(root: Path, info: Mapping[str, Any], rows: list[dict[str, Any]]) -> set[Path]:
    keys = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    return {_data_file(root, info, row) for row in rows} | {
        _video_file(root, info, row, key) for row in rows for key in keys if f"videos/{key}/chunk_index" in row
    }


def episode_table(root: Path, info: Mapping[str, Any], row: Mapping[str, Any]) -> pa.Table:
    """The rows of one episode in its data file."""
    table = layout.read_table(_data_file(root, info, row))
    mask = column_array(table, "episode_index") == int(row["episode_index"])
    return table if mask.all() else table.filter(pa.array(mask))


def repair(path: Path | str) -> list[str]:
    """Rebuild the metadata of one of our datasets from what is whole on disk; returns what was done.

    Episodes whose data or videos are damaged or incomplete are removed (and named), the rest is
    numbered anew without gaps, files that belong to no episode are deleted, totals and statistics are
    recomputed. Raises DatasetError when info.json or tasks.parquet cannot be read, for datasets of
    other tools (several episodes in one file), and when no episode is whole.
    """
    root = Path(path)
    info = layout.read_json(root / layout.INFO)
    done: list[str] = []
    by_index: dict[int, dict[str, Any]] = {}
    for file in layout.episode_files(root):
        try:
            by_index |= {int(row["episode_index"]): row for row in layout.read_episode_file(file, with_stats=True)}
        except DatasetError as error:
            done.append(f"ignored a damaged file: {error}")
    places = Counter((row["data/chunk_index"], row["data/file_index"]) for row in by_index.values())
    if any(count > 1 for count in places.values()):
        raise DatasetError(f"{root} keeps several episodes in one data file: repair serves datasets of `lavla convert`")
    tasks = layout.read_tasks(root)
    whole: list[dict[str, Any]] = []
    for number in sorted(by_index):
        problems = _unsound(root, info, by_index[number], tasks)
        if problems:
            done.append(f"removed episode {number}: {'; '.join(problems)}")
        else:
            whole.append(by_index[number])
    if not whole:
        raise DatasetError(f"{root} holds no whole episode; convert the bags again ({'; '.join(done)})")
    first = 0
    for number, row in enumerate(whole):
        table = episode_table(root, info, row)
        if (row["episode_index"], row["dataset_from_index"]) != (number, first):
            done.append(f"episode {row['episode_index']} is now episode {number}")
            frame = np.arange(table.num_rows, dtype=np.int64)
            for name, values in (("episode_index", np.full(len(frame), number, np.int64)), ("index", frame + first)):
                table = table.set_column(table.column_names.index(name), table.schema.field(name), pa.array(values))
                row |= stats.flatten({name: stats.numeric(values)})
            layout.write_table(_data_file(root, info, row), table)
        row |= {"episode_index": number, "dataset_from_index": first, "dataset_to_index": first + table.num_rows}
        first += table.num_rows
    for name, value in (("total_episodes", len(whole)), ("total_frames", first)):
        if info[name] != value:
            done.append(f"{name}: {info[name]} → {value}")
    info |= {
        "total_episodes": len(whole),
        "total_frames": first,
        "total_tasks": len(tasks),
        "splits": {"train": f"0:{len(whole)}"},
    }
    gather_episodes(root, whole)
    layout.write_json(root / layout.INFO, info)
    referenced = _referenced(root, info, whole)
    for orphan in [p for pattern in ("data/*/*", "videos/*/*/*") for p in sorted(root.glob(pattern))]:
        if orphan not in referenced:
            orphan.unlink()
            done.append(f"deleted {orphan.relative_to(root)}: belongs to no whole episode")
    if (root / layout.STAGING).exists():
        shutil.rmtree(root / layout.STAGING)
        done.append(f"deleted {layout.STAGING}")
    if done or _check_stats(root, info):
        layout.write_json(
            root / layout.STATS, stats.to_json(whole_stats(root, whole) | _image_stats(root, info, whole))
        )
        done.append("recomputed the statistics")
    return done


def _unsound(root: Path, info: Mapping[str, Any], row: Mapping[str, Any], tasks: Mapping[int, str]) -> list[str]:
    """Problems that renumbering cannot mend; decodes the last frame of every video."""
    problems = [p for p in check_episode(root, info, row, tasks) if "index does not begin" not in p]
    if problems:
        return problems
    for key, feature in info["features"].items():
        if feature["dtype"] == "video":
            try:
                first = round(float(row[f"videos/{key}/from_timestamp"]) * info["fps"])
                video = VideoReader(_video_file(root, info, row, key), int(info["fps"]))
                video.frame(first + int(row["length"]) - 1)
                video.close()
            except DatasetError as error:
                problems.append(str(error))
    return problems


def _image_stats(root: Path, info: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, stats.Stats]:
    template = str(info.get("video_path") or layout.VIDEO_PATH)
    return {
        key: stats.from_histogram(*image_histogram(root, int(info["fps"]), rows, key, template))
        for key, feature in info["features"].items()
        if feature["dtype"] == "video"
    }
