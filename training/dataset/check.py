"""Is a dataset whole, and does it look like a robot's?

Always: files, counts, checksums, columns, numbers, capture times, statistics; every file is read once, so it costs what
reading the dataset costs. ``deep`` decodes every video as well (see :mod:`training.dataset.video_checks`).

What cannot be seen: two cameras that are exchanged in all episodes alike, a picture turned upside down in all of them,
a joint whose sign is wrong everywhere. A person has to look at the pictures once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lavla_ros.contract import Contract
from training.dataset import layout, stats
from training.dataset.findings import CheckReport, Findings
from training.dataset.layout import DatasetError
from training.dataset.number_checks import Dim, EpisodeNumbers, check_numbers, dims_of
from training.dataset.video import probe
from training.dataset.video_checks import Segment, check_pictures
from training.dataset.writer import column_array

_INFO_KEYS = ("codebase_version", "fps", "total_episodes", "total_frames", "features", "data_path")
_ROW_KEYS = ("episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index")
_INDEX_COLUMNS = ("episode_index", "frame_index", "index", "timestamp", "task_index")
_COMPARED = ("min", "max", "mean", "std")


def validate(path: Path | str) -> list[str]:
    """What is wrong with a v3.0 dataset in readable lines (errors only); empty when it is whole. Decodes no video."""
    return check(path).errors


def check(
    path: Path | str,
    *,
    deep: bool = False,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CheckReport:
    """Everything that is wrong with a v3.0 dataset, strange, or could not be looked at.

    ``jobs``: threads that decode (default: one per core); ``progress`` is called with videos decoded and their number.
    """
    root = Path(path)
    found = _Check(root)
    try:
        if found.open():
            found.run(deep, jobs, progress)
    except DatasetError as error:
        found.findings.error("metadata", str(error))
    return CheckReport(
        path=str(path),
        deep=deep,
        episodes=len(found.rows),
        steps=sum(int(row["length"]) for row in found.rows),
        findings=tuple(found.findings.all),
    )


class _Check:
    """One pass over a dataset."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.findings = Findings()
        self.info: dict[str, Any] = {}
        self.fps = 0.0
        self.rows: list[dict[str, Any]] = []
        self.tasks: dict[int, str] | None = None
        self.contract: Contract | None = None
        self.own = False
        """Written by us: its metadata must be exact."""
        self.numbers: dict[int, EpisodeNumbers] = {}
        self.columns: dict[str, list[NDArray[Any]]] = defaultdict(list)

    @property
    def videos(self) -> list[str]:
        return [key for key, feature in self.info["features"].items() if feature["dtype"] == "video"]

    def open(self) -> bool:
        """Read the metadata; False if nothing else can be looked at."""
        add = self.findings
        own_files = (layout.CONTRACT, layout.CONVERSION, layout.SUMS)
        self.own = any((self.root / name).exists() for name in own_files)
        self.info = layout.read_json(self.root / layout.INFO)
        missing = [key for key in _INFO_KEYS if key not in self.info]
        if missing:
            add.error("metadata", f"{layout.INFO} lacks {missing}")
            return False
        if (version := self.info["codebase_version"]) != layout.CODEBASE_VERSION:
            add.error("metadata", f"codebase_version is {version!r}; expected {layout.CODEBASE_VERSION!r}")
            return False
        try:
            self.fps = layout.fps_of(self.info)
        except DatasetError as error:
            add.error("metadata", str(error))
            return False
        needed = [*_ROW_KEYS, *(f"videos/{k}/{n}" for k in self.videos for n in ("chunk_index", "file_index"))]
        needed += [f"videos/{key}/from_timestamp" for key in self.videos]
        for file in layout.episode_files(self.root):
            try:
                rows = layout.read_episode_file(file, with_stats=True)
            except DatasetError as error:
                add.error("metadata", str(error))
                continue
            for row in rows:
                lacks = [key for key in needed if row.get(key) is None]
                if lacks:
                    add.error("metadata", f"{file.relative_to(self.root)}: a row lacks {lacks}")
                else:
                    self.rows.append(row)
        self.rows.sort(key=lambda row: int(row["episode_index"]))
        if not self.rows and not self.findings.all:
            add.error("metadata", f"{self.root} has no episode: it was ended before the first was committed")
            return False
        return True

    def run(self, deep: bool, jobs: int | None, progress: Callable[[int, int], None]) -> None:
        try:
            self.tasks = layout.read_tasks(self.root)
        except DatasetError as error:
            self.findings.error("tasks", str(error))
        self._contract()
        self._rows()
        for file, rows in self._by_file(self.data_file).items():
            self._data_file(file, rows)
        cameras = {key: self._by_file(partial(self.video_file, key)) for key in self.videos}
        whole = {key: self._video_files(key, files) for key, files in cameras.items()}
        self._checksums()
        self._tasks()
        self._stats()
        self._left_behind(cameras)
        names = {key: layout.names_of(self.info["features"].get(key, {})) for key in (layout.STATE, layout.ACTION)}
        widths = {key: self._width(key) for key in (layout.STATE, layout.ACTION)}
        state_dims, action_dims = dims_of(self.contract, names, widths)
        if (len(state_dims), len(action_dims)) == (widths[layout.STATE], widths[layout.ACTION]):
            self._numbers(state_dims, action_dims)
        if not deep:
            self.findings.note("videos", "the videos were not decoded: --deep does")
            return
        check_pictures(
            {
                layout.camera_of(key): {f: self._segments(key, rows) for f, rows in files.items()}
                for key, files in whole.items()
            },
            self.numbers,
            state_dims,
            root=self.root,
            fps=self.fps,
            own=self.own,
            findings=self.findings,
            jobs=jobs,
            progress=progress,
        )

    # ------------------------------------------------------------------ files

    def data_file(self, row: Mapping[str, Any]) -> Path:
        return layout.data_file(self.root, self.info, row)

    def video_file(self, key: str, row: Mapping[str, Any]) -> Path:
        return layout.video_file(self.root, self.info, row, key)

    def _by_file(self, place: Callable[[dict[str, Any]], Path]) -> dict[Path, list[dict[str, Any]]]:
        files: dict[Path, list[dict[str, Any]]] = {}
        for row in self.rows:
            files.setdefault(place(row), []).append(row)
        return files

    def _contract(self) -> None:
        self.contract = layout.read_contract(self.root)
        if self.contract is None:
            if not self.own and layout.CAPTURE not in self.info["features"]:
                self.findings.note("contract", f"no {layout.CONTRACT}: units, bounds and times were not checked")
                return
            (self.findings.error if self.own else self.findings.warning)(
                "contract",
                f"{layout.CONTRACT} is missing: units, bounds and times cannot be checked; put the contract there that "
                "the dataset was made with",
            )
            return
        wanted = layout.features(self.contract, fps=self.fps, codec="")
        for key, feature in wanted.items():
            given = self.info["features"].get(key, {})
            if any(given.get(part) != feature[part] for part in ("dtype", "shape", "names")):
                self.findings.error("contract", f"{layout.CONTRACT} and {layout.INFO} disagree about {key}")
        if self.fps != self.contract.rate_hz:
            self.findings.error(
                "contract", f"{layout.INFO} has {self.fps} fps; {layout.CONTRACT} has {self.contract.rate_hz}"
            )

    def _rows(self) -> None:
        add, info, rows = self.findings, self.info, self.rows
        numbers = [int(row["episode_index"]) for row in rows]
        if numbers != list(range(len(rows))):
            twice = sorted(n for n, count in Counter(numbers).items() if count > 1)
            gaps = sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers))
            add.error(
                "counts",
                f"episode indices are not 0 to {len(rows) - 1}: missing {gaps[:10]}, repeated {twice[:10]}",
            )
        there = {
            "episodes": ("meta/episodes has", len(rows)),
            "frames": ("the episodes have", sum(int(row["length"]) for row in rows)),
        }
        if self.tasks is not None:
            there["tasks"] = (f"{layout.TASKS} has", len(self.tasks))
        for what, (place, count) in there.items():
            counted = info.get(f"total_{what}", count)
            if counted != count:
                add.error("counts", f"{layout.INFO} counts {counted} {what}; {place} {count}")
        expected = 0
        for row in rows:
            length = int(row["length"])
            if (row["dataset_from_index"], row["dataset_to_index"]) != (expected, expected + length):
                add.error(
                    "counts",
                    f"steps {row['dataset_from_index']} to {row['dataset_to_index']}; expected {expected} to "
                    f"{expected + length}",
                    int(row["episode_index"]),
                )
            expected += length

    def _data_file(self, file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        name = file.relative_to(self.root).as_posix()
        numeric = {k: f for k, f in self.info["features"].items() if f["dtype"] not in ("video", "image", "string")}
        try:
            present = layout.column_names(file)
            table = layout.read_table(file, [k for k in dict.fromkeys((*numeric, *_INDEX_COLUMNS)) if k in present])
            columns = {key: column_array(table, key) for key in table.column_names}
        except DatasetError as error:
            for row in rows:
                self.findings.error("data", str(error).replace(f"{self.root}/", ""), int(row["episode_index"]))
            return
        missing = [k for k in (*numeric, *_INDEX_COLUMNS) if k not in columns]
        images = [k for k, f in self.info["features"].items() if f["dtype"] in ("image", "string") and k not in present]
        if missing or images:
            self.findings.error("data", f"{name}: columns {sorted({*missing, *images})} are missing")
            if {"episode_index", *_INDEX_COLUMNS} & set(missing):
                return
        for key, feature in numeric.items():
            if key in columns and columns[key].ndim == 2 and columns[key].shape[1] != int(np.prod(feature["shape"])):
                if len(columns[key]):
                    self.findings.error(
                        "data", f"{name}: {key} has {columns[key].shape[1]} numbers a row; expected {feature['shape']}"
                    )
                del columns[key]
        where = _places(columns["episode_index"])
        listed = {int(row["episode_index"]) for row in rows}
        for number in sorted(set(where) - listed):
            self.findings.error(
                "data", f"{name} has {len(where[number])} rows of episode {number}, which is listed elsewhere"
            )
        for row in rows:
            number = int(row["episode_index"])
            if number not in where:
                held = f"rows of episodes {sorted(where)[:10]}" if where else "no row at all"
                self.findings.error("data", f"{name} holds none of its rows; it holds {held}", number)
                continue
            self._episode(name, row, {key: values[where[number]] for key, values in columns.items()})
        for key, values in columns.items():
            self.columns[key].append(values)

    def _episode(self, name: str, row: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]) -> None:
        number, length = int(row["episode_index"]), int(row["length"])

        def wrong(text: str, kind: str = "data") -> None:
            self.findings.error(kind, f"{name}: {text}", number)

        count = len(columns["episode_index"])
        if count != length:
            wrong(f"{count} rows; expected {length}")
        frame = np.arange(count)
        if not np.array_equal(columns["frame_index"], frame):
            wrong(f"frame_index is not 0 to {count - 1}")
        if not np.array_equal(columns["index"], frame + int(row["dataset_from_index"])):
            wrong(f"index does not begin at {row['dataset_from_index']}")
        if not np.allclose(columns["timestamp"], frame / self.fps, atol=1e-4):
            wrong(f"timestamp is not frame_index / {self.fps}")
        self._episode_tasks(name, row, columns["task_index"])
        for key, values in columns.items():
            if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
                wrong(f"{key} has non-finite values")
        self._episode_stats(row, columns)
        if layout.STATE in columns and layout.ACTION in columns:
            captured = columns.get(layout.CAPTURE)
            self.numbers[number] = EpisodeNumbers(
                index=number,
                state_LS=_table(columns[layout.STATE]),
                action_LA=_table(columns[layout.ACTION]),
                capture_ns_LK=None if captured is None else captured.astype(np.int64),
            )

    def _episode_tasks(self, name: str, row: Mapping[str, Any], used: NDArray[Any]) -> None:
        number = int(row["episode_index"])
        if self.tasks is None:
            return
        indices = sorted({int(i) for i in used})
        unknown = [i for i in indices if i not in self.tasks]
        if unknown:
            self.findings.error("tasks", f"{name}: task indices {unknown} are not in {layout.TASKS}", number)
            return
        texts = {self.tasks[i] for i in indices}
        if not all(text.strip() for text in texts):
            self.findings.error("tasks", "its task has no text", number)
        elif row.get("tasks") is not None and set(row["tasks"]) != texts:
            self.findings.error(
                "tasks", f"meta/episodes has the tasks {sorted(row['tasks'])}; {name} has {sorted(texts)}", number
            )
        elif (phrasings := row.get(layout.PHRASINGS)) and (
            {phrasings[0]} != texts or not all(map(str.strip, phrasings))
        ):
            told = f"meta/episodes has the phrasings {list(phrasings)} of {sorted(texts)}; expected that one first"
            self.findings.error("tasks", f"{told}, and none empty", number)

    def _episode_stats(self, row: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]) -> None:
        for key in (layout.STATE, layout.ACTION):
            given = {n: row[f"stats/{key}/{n}"] for n in _COMPARED if row.get(f"stats/{key}/{n}") is not None}
            if key in columns and given and len(columns[key]):
                bad = _unlike(given, _exact(columns[key]), columns[key])
                if bad:
                    text = f"meta/episodes: {', '.join(bad)} of {key} are not those of its rows"
                    self._say_unlike(text, int(row["episode_index"]))

    def _video_files(self, key: str, files: Mapping[Path, list[dict[str, Any]]]) -> dict[Path, list[dict[str, Any]]]:
        """Check sizes and places; returns the files that can be decoded."""
        feature, fps = self.info["features"][key], self.fps
        readable = {}
        for file, rows in files.items():
            name = file.relative_to(self.root).as_posix()
            try:
                frames, width, height = probe(file)
            except DatasetError as error:
                for row in rows:
                    text = str(error).replace(f"{self.root}/", "")
                    self.findings.error("video", f"{key}: {text}", int(row["episode_index"]))
                continue
            readable[file] = rows
            if [height, width] != list(feature["shape"])[:2]:
                self.findings.error(
                    "video", f"{name} is {width}x{height}; expected {feature['shape'][1]}x{feature['shape'][0]}"
                )
            end = 0
            for row in sorted(rows, key=lambda r: float(r[f"videos/{key}/from_timestamp"])):
                number, first = int(row["episode_index"]), layout.first_frame(row, key, fps)
                if first < end:
                    self.findings.error(
                        "video", f"{name}: its frames begin at {first}, within another episode's", number
                    )
                end = first + int(row["length"])
                if frames < end:
                    self.findings.error("video", f"{name} has {frames} frames; expected at least {end}", number)
            if frames > end:
                episode = int(rows[0]["episode_index"]) if len(rows) == 1 else None
                self.findings.error("video", f"{name} has {frames} frames; expected {end}", episode)
        return readable

    def _segments(self, key: str, rows: Sequence[Mapping[str, Any]]) -> list[Segment]:
        return [
            Segment(
                episode=int(row["episode_index"]),
                first=layout.first_frame(row, key, self.fps),
                length=int(row["length"]),
                stats={n: v for n in ("mean", "std", "count") if (v := row.get(f"stats/{key}/{n}")) is not None},
            )
            for row in rows
        ]

    def _checksums(self) -> None:
        sums = layout.read_sums(self.root)
        if not sums:
            if self.own:
                self.findings.note(
                    "checksums", f"no {layout.SUMS}: single wrong bytes are found by --deep only, if at all"
                )
            return
        for file, text in changed_files(self.root, self.info, self.rows, sums).items():
            self.findings.error("checksum", f"{file}: {text}")

    def _left_behind(self, cameras: Mapping[str, Mapping[Path, Any]]) -> None:
        for name, what in ((layout.STAGING, "conversion"), (layout.REPAIRING, "repair")):
            if (self.root / name).exists():
                self.findings.error("left", f"{name} was left behind: the {what} was interrupted")
        known = {self.data_file(row) for row in self.rows} | {file for files in cameras.values() for file in files}
        depth = {file: row["episode_index"] for row in self.rows for file in layout.depth_files(self.root, row)}
        for file, episode in depth.items():
            if not file.exists():
                self.findings.error("depth", f"episode {episode}: {file.relative_to(self.root)} is missing")
        for file in stored_files(self.root):
            if file not in known | depth.keys():
                self.findings.error("left", f"{file.relative_to(self.root)} belongs to no episode")

    # ------------------------------------------------------------------ contents

    def _tasks(self) -> None:
        texts = Counter((self.tasks or {}).values())
        for text, count in texts.items():
            if count > 1:
                self.findings.warning("tasks", f"{layout.TASKS} has {text!r} {count} times")
        if any(not text.strip() for text in texts):
            self.findings.error("tasks", f"{layout.TASKS} has a task without text")

    def _width(self, key: str) -> int:
        return int(np.prod(self.info["features"].get(key, {}).get("shape", [0])))

    def _numbers(self, state_dims: Sequence[Dim], action_dims: Sequence[Dim]) -> None:
        allow_gaps = False
        if (self.root / layout.CONVERSION).exists():
            options = layout.read_json(self.root / layout.CONVERSION).get("options") or {}
            allow_gaps = bool(options.get("allow_gaps"))
        check_numbers(
            [self.numbers[i] for i in sorted(self.numbers)],
            self.contract,
            state_dims,
            action_dims,
            fps=self.fps,
            allow_gaps=allow_gaps,
            findings=self.findings,
        )

    def _stats(self) -> None:
        try:
            found = layout.read_json(self.root / layout.STATS)
        except DatasetError as error:
            self.findings.error("statistics", str(error))
            return
        for key, feature in self.info["features"].items():
            if feature["dtype"] == "string":
                continue
            given = found.get(key)
            if given is None:
                self.findings.error("statistics", f"{layout.STATS} lacks {key}")
                continue
            problem = _shape_problem(given, feature)
            if problem:
                self.findings.error("statistics", f"{layout.STATS}: {key}: {problem}")
            elif feature["dtype"] in ("video", "image"):
                self._image_stats(key, given)
            elif self.columns[key] and (self.own or feature["dtype"].startswith("float")):
                values = np.concatenate(self.columns[key])
                bad = _unlike(given, _exact(values), values)
                if bad:
                    self.findings.error(
                        "statistics", f"{layout.STATS}: {', '.join(bad)} of {key} are not those of the data"
                    )

    def _image_stats(self, key: str, given: Mapping[str, Any]) -> None:
        """Against those of the episodes, which add up; black and over-exposed cameras show in them too."""
        prefix = f"stats/{key}/"
        rows = [row for row in self.rows if None not in (row.get(f"{prefix}mean"), row.get(f"{prefix}count"))]
        for row in rows:
            dark, bright = row.get(f"{prefix}q99"), row.get(f"{prefix}q10")
            for what, told in (
                ("black", dark is not None and np.max(dark) < 0.06),
                ("over-exposed", bright is not None and np.min(bright) > 0.96),
            ):
                if told:
                    text = f"camera {layout.camera_of(key)!r} is {what}, by the episode's statistics"
                    self.findings.error(what, text, int(row["episode_index"]))
        if len(rows) != len(self.rows) or not rows:
            return
        means = np.stack([np.ravel(row[f"{prefix}mean"]) for row in rows])
        squares = np.stack([np.ravel(row[f"{prefix}std"]) for row in rows]) ** 2 + means**2
        weights = np.array([float(np.ravel(row[f"{prefix}count"])[0]) for row in rows])
        mean = np.average(means, axis=0, weights=weights)
        std = np.sqrt(np.maximum(np.average(squares, axis=0, weights=weights) - mean**2, 0))
        off = max(np.abs(np.ravel(given["mean"]) - mean).max(), np.abs(np.ravel(given["std"]) - std).max())
        if off > 0.015:
            self._say_unlike(f"{layout.STATS}: mean or std of {key} differ by {off:.3f} from those of the episodes")

    def _say_unlike(self, text: str, episode: int | None = None) -> None:
        """Statistics that do not fit what they are of: ours are exact, others' may be samples."""
        (self.findings.error if self.own else self.findings.warning)("statistics", text, episode)


# ---------------------------------------------------------------------- shared with repair


def episode_table(root: Path, info: Mapping[str, Any], row: Mapping[str, Any]) -> pa.Table:
    """The rows of one episode in its data file. Raises DatasetError."""
    table = layout.read_table(layout.data_file(root, info, row))
    mask = column_array(table, "episode_index") == int(row["episode_index"])
    return table if mask.all() else table.filter(pa.array(mask))


def stored_files(root: Path) -> list[Path]:
    """Every file below data/, videos/ and depth/."""
    return sorted(
        p for pattern in ("data/*/*", "videos/*/*/*", "depth/*/*/*") for p in root.glob(pattern) if p.is_file()
    )


def changed_files(
    root: Path, info: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], sums: Mapping[str, str]
) -> dict[str, str]:
    """File of an episode → how it differs from what was committed."""
    keys = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    owner: dict[Path, list[int]] = {}
    for row in rows:
        videos = [layout.video_file(root, info, row, key) for key in keys]
        for file in (layout.data_file(root, info, row), *videos, *layout.depth_files(root, row)):
            owner.setdefault(file, []).append(int(row["episode_index"]))
    committed = {found: name for name, found in sums.items()}
    changed = {}
    for file in owner:
        name = file.relative_to(root).as_posix()
        if name not in sums or not file.exists():
            continue  # a missing file is reported for itself
        found = layout.digest(file)
        if found != sums[name]:
            other = committed.get(found)
            changed[name] = (
                f"it holds what was committed as {other}"
                if other
                else "its bytes are not those that were committed (if that is meant, remove its line from "
                f"{layout.SUMS})"
            )
    return changed


def _places(episode_index: NDArray[Any]) -> dict[int, NDArray[np.int64]]:
    """Episode → its rows, in order."""
    if not len(episode_index):
        return {}
    order = np.argsort(episode_index, kind="stable")
    values, first = np.unique(episode_index[order], return_index=True)
    return {int(v): part for v, part in zip(values, np.split(order, first[1:]), strict=True)}


def _table(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(values, np.float64).reshape(len(values), -1)


def _exact(values: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    table = _table(values)
    return {"min": table.min(0), "max": table.max(0), "mean": table.mean(0), "std": table.std(0)}


def _unlike(given: Mapping[str, Any], exact: Mapping[str, NDArray[Any]], values: NDArray[Any]) -> list[str]:
    """Names of given statistics that are not those of the values, but for rounding."""
    table = _table(values)
    if not np.isfinite(table).all() or not len(table):
        return []
    slack = 1e-3 * np.ptp(table, axis=0) + 1e-5 * (1 + np.abs(table).max(0))
    bad = []
    for name, wanted in exact.items():
        found = np.ravel(np.asarray(given.get(name, np.nan), np.float64))
        if found.shape != wanted.shape or not (np.abs(found - wanted) <= slack).all():
            bad.append(name)
    if "count" in given and int(np.ravel(given["count"])[0]) != len(table):
        bad.append("count")
    return bad


def _shape_problem(given: Mapping[str, Any], feature: Mapping[str, Any]) -> str:
    """What is wrong with the form of a feature's statistics; empty if nothing is."""
    is_image = feature["dtype"] in ("video", "image")
    shape = (3, 1, 1) if is_image else (int(np.prod(feature["shape"])),)
    for name in (*_COMPARED, *(q for q in stats.QUANTILES if q in given)):
        if name not in given:
            return f"{name} is missing"
        try:
            values = np.asarray(given[name], np.float64)
        except (TypeError, ValueError):
            return f"{name} is no array of numbers"
        if not np.isfinite(values).all():
            return f"non-finite {[name]}"
        if values.shape != shape:
            return f"{name} has shape {list(values.shape)}; expected {list(shape)}"
        if is_image and (values.min() < -1e-6 or values.max() > 1 + 1e-6):
            return f"{name} is {values.max():.3g}; pictures are scaled to 0 to 1"
    return ""
