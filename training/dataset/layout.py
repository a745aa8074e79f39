"""LeRobotDataset v3.0 on disk: names, features and metadata files.

Every episode has its own data and video files (``chunk-CCC/file-FFF``, 1000 files per chunk), which
the format allows: an episode is on disk, whole, as soon as it is committed. ``info.json`` is replaced
atomically after each one. Depth, for which LeRobot has no lossless place, is beside the videos: ``depth/NAME``, 16-bit
millimetres in FFV1, under the number of the episode's data file. Three files of ours are beside LeRobot's:
``meta/contract.yaml``, ``meta/conversion.json`` and ``meta/SHA256SUMS``. A row of meta/episodes may have a column of
ours, ``phrasings``: all ways to say the episode's instruction, beginning with the one that its steps have. The extra
column ``capture_ns`` carries the true capture stamps; its name does not begin with ``observation`` because LeRobot
feeds every such column to its policies. ``meta/SHA256SUMS`` has a line for every data, video and depth file, written
when its episode was committed: ``sha256sum -c meta/SHA256SUMS`` checks them too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lavla_ros.contract import Contract, ContractError, load_contract
from lavla_ros.errors import UserError
from lavla_ros.outputs import replacing
from lavla_ros.yaml_text import dump_yaml

CODEBASE_VERSION = "v3.0"
FILES_PER_CHUNK = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
DEPTH_PATH = "depth/{name}/chunk-{chunk_index:03d}/file-{file_index:03d}.mkv"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
CONTRACT, CONVERSION, SUMS = "meta/contract.yaml", "meta/conversion.json", "meta/SHA256SUMS"
DERIVED = "derived_from"
"""Key of conversion.json: the datasets that the episodes were picked from."""
FIRST_FRAMES = "meta/first_frames.png"
STAGING, REPAIRING = ".staging", ".repair"
"""Unfinished work of a writer, and of a repair."""
REMOVED = "removed"
"""Where repair puts what it takes out of a dataset."""

STATE, ACTION, CAPTURE = "observation.state", "action", "capture_ns"
INTERVENTION = "intervention"
"""Column of 1 if a person commanded the step, else 0; of datasets of which some recordings say who commanded."""
PHRASINGS = "phrasings"
"""Column of meta/episodes."""
_INDEX_COLUMNS = ("frame_index", "episode_index", "index", "task_index")


class DatasetError(UserError, ValueError):
    """A dataset is missing, incomplete, damaged, or does not fit the contract."""


def video_key(camera: str) -> str:
    return f"observation.images.{camera}"


def place(number: int) -> tuple[int, int]:
    """(chunk, file) of the files with this number."""
    return number // FILES_PER_CHUNK, number % FILES_PER_CHUNK


def stored_fps(contract: Contract) -> float:
    """The contract's rate as info.json has it: a whole one as LeRobot's tools that write videos need it, any other with
    its fraction, which LeRobot reads."""
    return int(contract.rate_hz) if contract.rate_hz == int(contract.rate_hz) else contract.rate_hz


def fps_of(info: Mapping[str, Any]) -> float:
    """Frames per second, of info.json. Raises DatasetError for what is no rate."""
    fps = info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= 1000:
        raise DatasetError(f"{INFO} has fps {fps!r}; expected a number above 0, at most 1000")
    return fps


def frame_rate(fps: float) -> Fraction:
    """The exact rate that a video has for ``fps``: 12.5 → 25/2, 29.97 → 2997/100.

    Videos count in fractions of a second; a rate of more digits is kept to a millionth of a frame per second."""
    return Fraction(fps).limit_denominator(1_000_000)


def episode_row(
    episode: int, first: int, length: int, tasks: Sequence[str], number: int, cameras: Sequence[str], fps: float
) -> dict[str, Any]:
    """The row of meta/episodes, without statistics, of an episode that lies in files of its own with this number."""
    chunk, file = place(number)
    row: dict[str, Any] = {
        "episode_index": episode,
        "tasks": list(tasks),
        "length": length,
        "data/chunk_index": chunk,
        "data/file_index": file,
        "dataset_from_index": first,
        "dataset_to_index": first + length,
    }
    for key in cameras:
        row |= {
            f"videos/{key}/chunk_index": chunk,
            f"videos/{key}/file_index": file,
            f"videos/{key}/from_timestamp": 0.0,
            f"videos/{key}/to_timestamp": length / fps,
        }
    return row


def data_file(root: Path, info: Mapping[str, Any], row: Mapping[str, Any]) -> Path:
    """Where the numbers of an episode are, by its ``row`` of meta/episodes and the ``info`` of its dataset."""
    template = str(info.get("data_path") or DATA_PATH)
    return root / template.format(chunk_index=int(row["data/chunk_index"]), file_index=int(row["data/file_index"]))


def video_file(root: Path, info: Mapping[str, Any], row: Mapping[str, Any], key: str) -> Path:
    """Where the pictures of one camera in an episode are; they begin with :func:`first_frame` there."""
    chunk, file = int(row[f"videos/{key}/chunk_index"]), int(row[f"videos/{key}/file_index"])
    template = str(info.get("video_path") or VIDEO_PATH)
    return root / template.format(video_key=key, chunk_index=chunk, file_index=file)


def depth_names(root: Path) -> tuple[str, ...]:
    """Depth cameras of a dataset of ours."""
    return tuple(sorted(p.name for p in (root / "depth").glob("*") if p.is_dir()))


def depth_file(root: Path, row: Mapping[str, Any], name: str) -> Path:
    """Where the depth of one camera in an episode is."""
    chunk, file = int(row["data/chunk_index"]), int(row["data/file_index"])
    return root / DEPTH_PATH.format(name=name, chunk_index=chunk, file_index=file)


def depth_files(root: Path, row: Mapping[str, Any]) -> list[Path]:
    """Those of an episode, of every depth camera of the dataset."""
    return [depth_file(root, row, name) for name in depth_names(root)]


def first_frame(row: Mapping[str, Any], key: str, fps: float) -> int:
    """Number of an episode's first frame in its video file."""
    return round(float(row[f"videos/{key}/from_timestamp"]) * fps)


def stream_names(contract: Contract) -> tuple[str, ...]:
    """Columns of ``capture_ns``."""
    return (*contract.camera_names, "state")


def features(contract: Contract, *, fps: float, codec: str, interventions: bool = False) -> dict[str, Any]:
    """The ``features`` of info.json; ``interventions``: with that column."""
    found: dict[str, Any] = {
        STATE: {"dtype": "float32", "shape": [contract.state_dim], "names": list(contract.state.names)},
        ACTION: {"dtype": "float32", "shape": [contract.action_dim], "names": list(contract.action.names)},
        CAPTURE: {"dtype": "int64", "shape": [len(stream_names(contract))], "names": list(stream_names(contract))},
    }
    for spec in contract.cameras:
        found[video_key(spec.name)] = {
            "dtype": "video",
            "shape": [spec.height, spec.width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": spec.height,
                "video.width": spec.width,
                "video.codec": codec,
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": 3,
                "has_audio": False,
            },
        }
    found["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for name in (INTERVENTION, *_INDEX_COLUMNS) if interventions else _INDEX_COLUMNS:
        found[name] = {"dtype": "int64", "shape": [1], "names": None}
    return found


def names_of(feature: Mapping[str, Any]) -> list[str] | None:
    """Of a feature's columns; LeRobot's own have them in a list, or in one within a mapping: ``{"motors": [...]}``."""
    names = feature.get("names")
    names = next(iter(names.values()), None) if isinstance(names, Mapping) else names
    return [str(name) for name in names] if isinstance(names, Sequence) and not isinstance(names, str) else None


def camera_of(key: str) -> str:
    """The camera of a :func:`video_key`."""
    return key.removeprefix(video_key(""))


def info(
    contract: Contract,
    *,
    fps: float,
    codec: str,
    episodes: int,
    frames: int,
    tasks: int,
    interventions: bool = False,
) -> dict[str, Any]:
    """The content of info.json."""
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": contract.robot,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": features(contract, fps=fps, codec=codec, interventions=interventions),
    }


def data_schema(contract: Contract, *, interventions: bool = False) -> pa.Schema:
    """Columns of data files; videos are absent."""
    return pa.schema(
        [
            (STATE, pa.list_(pa.float32(), contract.state_dim)),
            (ACTION, pa.list_(pa.float32(), contract.action_dim)),
            (CAPTURE, pa.list_(pa.int64(), len(stream_names(contract)))),
            ("timestamp", pa.float32()),
            *((name, pa.int64()) for name in ((INTERVENTION,) if interventions else ()) + _INDEX_COLUMNS),
        ]
    )


# ---------------------------------------------------------------------- files, written whole or not at all


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_table(path: Path, table: pa.Table) -> None:
    """Replace a parquet file atomically (snappy)."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="snappy")


def read_json(path: Path) -> dict[str, Any]:
    """Raises DatasetError when the file is missing or is no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise DatasetError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Raises DatasetError when the file is missing, truncated or lacks a column."""
    try:
        return pq.ParquetFile(path).read(columns=list(columns) if columns is not None else None)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DatasetError(f"cannot read {path}: {error}") from None


def column_names(path: Path) -> list[str]:
    """Of a parquet file. Raises DatasetError when it is missing or truncated."""
    try:
        return list(pq.ParquetFile(path).schema_arrow.names)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"cannot read {path}: {error}") from None


def write_tasks(root: Path, tasks: Sequence[str]) -> None:
    """tasks.parquet as pandas writes a frame indexed by ``task``; the list position is the task's index."""
    columns = [
        {
            "name": "task_index",
            "field_name": "task_index",
            "pandas_type": "int64",
            "numpy_type": "int64",
            "metadata": None,
        },
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.2.0"}
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(pandas)})
    write_table(root / TASKS, pa.table({"task_index": list(range(len(tasks))), "task": list(tasks)}, schema=schema))


def read_tasks(root: Path) -> dict[int, str]:
    """Task index → text."""
    table = read_table(root / TASKS)
    name = "task" if "task" in table.column_names else "__index_level_0__"
    if name not in table.column_names:
        raise DatasetError(f"{root / TASKS} has columns {table.column_names}; expected task and task_index")
    return dict(zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True))


def episode_files(root: Path) -> list[Path]:
    return sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet"))


def read_episodes(root: Path, *, with_stats: bool = False) -> list[dict[str, Any]]:
    """Rows of meta/episodes, by episode index. Raises DatasetError when a file is damaged."""
    rows: list[dict[str, Any]] = []
    for file in episode_files(root):
        rows += read_episode_file(file, with_stats=with_stats)
    return sorted(rows, key=lambda row: int(row["episode_index"]))


def read_episode_file(file: Path, *, with_stats: bool = False) -> list[dict[str, Any]]:
    names = [name for name in column_names(file) if with_stats or not name.startswith("stats/")]
    rows: list[dict[str, Any]] = read_table(file, names).to_pylist()
    return rows


def write_episodes(root: Path, rows: Sequence[Mapping[str, Any]], file_index: int = 0) -> Path:
    """Write rows to one file of meta/episodes; nested lists become list columns.

    Where no row has phrasings there is no column for them.
    """
    chunk, file = place(file_index)
    path = root / EPISODES_PATH.format(chunk_index=chunk, file_index=file)
    if any(row.get(PHRASINGS) for row in rows):
        rows = [{**row, PHRASINGS: list(row.get(PHRASINGS) or ())} for row in rows]
    else:
        rows = [{key: value for key, value in row.items() if key != PHRASINGS} for row in rows]
    placed = [{**row, "meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file} for row in rows]
    write_table(path, pa.Table.from_pylist(placed))
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_sums(root: Path, files: Sequence[Path]) -> None:
    """Note what these files hold. A later line of a file counts."""
    with (root / SUMS).open("a", encoding="utf-8") as out:
        out.writelines(f"{digest(file)}  {file.relative_to(root).as_posix()}\n" for file in files)


def read_sums(root: Path) -> dict[str, str]:
    """Path of a file in the dataset → its SHA-256 when it was committed; lines that a crash cut off are left out."""
    if not (root / SUMS).exists():
        return {}
    lines = (line.split("  ", 1) for line in (root / SUMS).read_text(encoding="utf-8").splitlines())
    return {parts[1]: parts[0] for parts in lines if len(parts) == 2 and len(parts[0]) == 64}


def write_sums(root: Path, sums: Mapping[str, str]) -> None:
    write_text(root / SUMS, "".join(f"{found}  {name}\n" for name, found in sorted(sums.items())))


def read_contract(root: Path) -> Contract | None:
    """The embedded contract; None if another tool wrote the dataset."""
    path = root / CONTRACT
    if not path.exists():
        return None
    try:
        return load_contract(path)
    except ContractError as error:
        raise DatasetError(str(error)) from None


def write_contract(root: Path, contract: Contract) -> None:
    write_text(root / CONTRACT, dump_yaml(contract.to_dict()))
