"""Any LeRobot dataset of format v2.0, v2.1 or v3.0, by an explicit mapping from its names to the contract's.

The mapping is a YAML file::

    cameras: {front: observation.images.top, wrist: observation.images.wrist}
    state:
      joint_1: observation.state/shoulder_pan.pos
      gripper: {column: observation.state/gripper.pos, scale: 0.01}      # value · scale + offset
    action:
      joint_1: {column: action/shoulder_pan.pos, scale: 0.017453292519943295}     # degrees → rad
      gripper: {column: action/gripper.pos, scale: 0.01}
    names:                       # only for features that carry no names of their own
      observation.state: [shoulder_pan.pos, gripper.pos]

Pictures of a dataset may have been turned before, so under a contract that turns a camera's the mapping says how far
they still have to be turned::

    cameras: {agentview: {column: observation.images.image, rotate_deg: 0}}      # they stand as the policy sees them

``rate_hz: 20`` in the mapping is for datasets whose ``fps`` is not the rate of their steps. ``resample: true`` takes
steps at the contract's rate out of a faster dataset, see :func:`resampled`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from lavla_ros.config import ConfigError, from_plain
from lavla_ros.contract import CameraSpec, Contract
from lavla_ros.yaml_text import load_yaml
from training.dataset import DatasetError, layout
from training.dataset.video import VideoReader
from training.dataset.writer import column_array
from training.ingest.build import IngestError, Kind, Rejected
from training.ingest.table import Numbers, Table, columns_by_name

VERSIONS = ("v2.0", "v2.1", "v3.0")
"""v2.0 and v2.1 differ in where their statistics are, which are made again here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One number of the source: ``feature/name``; a feature of one number needs no name."""

    column: str
    scale: float = 1.0
    offset: float = 0.0

    def of(self, found: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """(L,) in the contract's unit, from the columns of a source."""
        return found[self.column] * self.scale + self.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """One camera of the source."""

    column: str
    rotate_deg: Literal[0, 90, 180, 270] | None = None
    """Clockwise, how far its pictures have to be turned to stand as the policy sees them; None: not at all, which has
    to be said if the contract turns the driver's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeRobotMapping:
    """Contract name → source name; all names of the contract, no others."""

    cameras: Mapping[str, str | Camera]
    state: Mapping[str, str | Column]
    action: Mapping[str, str | Column]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Feature → names of its columns, for features that carry none."""
    rate_hz: float | None = None
    """Steps per second, if the dataset's ``fps`` is not that."""
    resample: bool = False
    """Whether a dataset that is faster than the contract is taken, at the contract's rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeRobotEpisode(Table):
    """One episode of a LeRobot dataset."""

    root: Path
    index: int
    length: int
    data: Path
    videos: Mapping[str, tuple[Path, int]]
    """Feature of a camera → (file, number of the episode's first frame in it)."""
    fps: float
    columns: Mapping[str, tuple[str, ...]]
    """Feature → names of its columns."""
    mapping: LeRobotMapping
    instruction: str | None
    picked: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    """Rows of the steps' observations, and of their actions; None: all rows are steps."""

    @property
    def name(self) -> str:
        return f"{self.root}: episode {self.index}"

    def numbers(self, contract: Contract) -> Numbers:
        wanted = {"state": self.mapping.state, "action": self.mapping.action}
        features = sorted({column_of(c).column.split("/", 1)[0] for part in wanted.values() for c in part.values()})
        table = self._rows([*features, "task_index"])
        if table.num_rows != self.length:
            raise Rejected(Kind.DAMAGED, f"{self.data} has {table.num_rows} rows for {self.length} steps")
        found: dict[str, NDArray[np.float64]] = {}
        for feature in features:
            values = column_array(table, feature).astype(np.float64).reshape(self.length, -1)
            found |= {f"{feature}/{name}": values[:, i] for i, name in enumerate(self.columns[feature])}
            if values.shape[1] == 1:
                found[feature] = values[:, 0]
        named = {
            part: {
                name: found[column_of(c).column] * column_of(c).scale + column_of(c).offset
                for name, c in columns.items()
            }
            for part, columns in wanted.items()
        }
        if self.instruction is not None:
            instructions: tuple[str, ...] = (self.instruction,) * self.length
        else:
            tasks = _tasks(self.root)
            instructions = tuple(tasks.get(int(i), "") for i in column_array(table, "task_index"))
        states_LS = columns_by_name(contract.state.fields, named["state"], "state")
        actions_LA = columns_by_name(contract.action.dims, named["action"], "action")
        if self.picked is not None:
            observed, commanded = map(list, self.picked)
            states_LS, actions_LA = states_LS[observed], actions_LA[commanded]
            instructions = tuple(instructions[i] for i in observed)
        return Numbers(states_LS=states_LS, actions_LA=actions_LA, instructions=instructions)

    def frames(self, camera: str) -> Iterator[NDArray[np.uint8]]:
        taken = range(self.length) if self.picked is None else frozenset(self.picked[0])
        return (frame for row, frame in enumerate(self._frames(camera)) if row in taken or row >= self.length)

    def _frames(self, camera: str) -> Iterator[NDArray[np.uint8]]:
        feature = camera_of(self.mapping.cameras[camera]).column
        if feature in self.videos:
            file, first = self.videos[feature]
            with closing(VideoReader(file, self.fps)) as video:
                yield from video.frames(first, self.length)
            return
        with pq.ParquetFile(self.data) as opened:
            for batch in opened.iter_batches(batch_size=32, columns=[feature, "episode_index"]):
                for row in batch.to_pylist():
                    if row["episode_index"] == self.index:
                        yield self._decoded(row[feature])

    def prepared_as(self, spec: CameraSpec) -> CameraSpec:
        return replace(spec, rotate_deg=camera_of(self.mapping.cameras[spec.name]).rotate_deg or 0)

    def _decoded(self, cell: Mapping[str, Any]) -> NDArray[np.uint8]:
        """An embedded image, or one in a file of its own."""
        code = cell["bytes"] if cell.get("bytes") else (self.root / cell["path"]).read_bytes()
        bgr = cv2.imdecode(np.frombuffer(code, np.uint8), cv2.IMREAD_COLOR)
        if bgr is None:
            raise Rejected(Kind.IMAGE, f"an image of {len(code)} bytes cannot be decoded")
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)

    def _rows(self, columns: Sequence[str]) -> Any:
        return pq.read_table(self.data, columns=list(columns), filters=[("episode_index", "=", self.index)])


@dataclass(frozen=True, slots=True, kw_only=True)
class LeRobotDatasets:
    """What is said of a LeRobot dataset."""

    default_contract: ClassVar[str | None] = None
    first_frames: ClassVar[bool] = True

    mapping: Path
    """YAML file of a LeRobotMapping."""
    instruction: str | None = None
    """In place of the dataset's own."""

    def find(self, paths: Sequence[Path], contract: Contract) -> list[LeRobotEpisode]:
        mapping = load_mapping(self.mapping)
        return [e for path in paths for e in find_lerobot(path, contract, mapping, instruction=self.instruction)]


def load_mapping(path: Path) -> LeRobotMapping:
    """Read a mapping file. Raises IngestError naming the key and the value at fault."""
    try:
        return from_plain(LeRobotMapping, load_yaml(path.read_text(encoding="utf-8")), source=str(path))
    except (OSError, yaml.YAMLError, ConfigError) as error:
        raise IngestError(f"mapping {path}: {error}") from None


def find_lerobot(
    root: Path, contract: Contract, mapping: LeRobotMapping, *, instruction: str | None = None
) -> list[LeRobotEpisode]:
    """All episodes of the dataset, in order, with the mapping checked against both sides.

    Raises IngestError for another format version, another rate than the contract's (but for a higher one that is to be
    resampled), or a name that either side lacks.
    """
    try:
        info = layout.read_json(root / layout.INFO)
        version = info.get("codebase_version")
        if version not in VERSIONS:
            raise IngestError(f"{root} has format {version!r}; expected one of {VERSIONS}")
        rate_hz = mapping.rate_hz if mapping.rate_hz is not None else layout.fps_of(info)
        resample = mapping.resample and rate_hz != contract.rate_hz
        if resample and (rate_hz < contract.rate_hz or contract.action.mode != "absolute"):
            raise IngestError(
                f"{root} has {rate_hz:.12g} steps per second and {contract.action.mode} actions; `resample` takes "
                f"absolute ones at a rate above the contract's {contract.rate_hz:.12g}: it makes up no steps, adds up "
                "no deltas"
            )
        if rate_hz != contract.rate_hz and not resample:
            said = "its mapping says" if mapping.rate_hz is not None else "says"
            raise IngestError(
                f"{root} {said} {rate_hz:.12g} steps per second; contract {contract.name!r} has rate_hz "
                f"{contract.rate_hz:.12g}. Use a contract of the dataset's rate, or write in the mapping `resample: "
                f"true` to take steps at the lower rate of the contract; where its fps is wrong (public LIBERO sets "
                f"say 10 of steps at 20 Hz), write in the mapping: rate_hz: {contract.rate_hz:.12g}"
            )
        columns = _check_mapping(root, info["features"], contract, mapping)
        columns_of_cameras = [camera_of(given).column for given in mapping.cameras.values()]
        cameras = [f for f in columns_of_cameras if info["features"][f]["dtype"] == "video"]
        places = _episodes_v30(root, info, cameras) if version == "v3.0" else _episodes_v2(root, info, cameras)
    except DatasetError as error:
        raise IngestError(str(error)) from None
    except (KeyError, TypeError) as error:
        raise IngestError(f"{root}: the metadata lack {error}") from None
    return [
        LeRobotEpisode(
            root=root,
            index=index,
            length=length,
            data=data,
            videos=videos,
            fps=layout.fps_of(info),
            columns=columns,
            mapping=mapping,
            instruction=instruction,
            picked=resampled(length, rate_hz, contract.rate_hz) if resample else None,
        )
        for index, length, data, videos in places
    ]


def resampled(length: int, rate_hz: float, wanted_hz: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(rows of the observations, rows of the actions) of steps at ``wanted_hz``, out of rows at a higher ``rate_hz``.

    Step k is at k / wanted_hz. Its observation is the newest row that is not later; its action the last one that is
    completed when the step is over, at (k + 1) / wanted_hz: action i is completed at (i + 1) / rate_hz. So no step
    sees anything later than it is, and none is labelled with what is commanded after it. What follows the last whole
    step is left out.
    """
    per_step = Fraction(rate_hz).limit_denominator(1_000_000) / Fraction(wanted_hz).limit_denominator(1_000_000)
    steps = range(math.floor(length / per_step))
    return tuple(math.floor(k * per_step) for k in steps), tuple(math.floor((k + 1) * per_step) - 1 for k in steps)


_Place = tuple[int, int, Path, dict[str, tuple[Path, int]]]


def _episodes_v30(root: Path, info: Mapping[str, Any], cameras: Sequence[str]) -> list[_Place]:
    places = []
    for row in layout.read_episodes(root):
        begins = {key: layout.first_frame(row, key, layout.fps_of(info)) for key in cameras}
        videos = {key: (layout.video_file(root, info, row, key), first) for key, first in begins.items()}
        places.append((int(row["episode_index"]), int(row["length"]), layout.data_file(root, info, row), videos))
    return places


def _episodes_v2(root: Path, info: Mapping[str, Any], cameras: Sequence[str]) -> list[_Place]:
    places = []
    for row in sorted(_json_lines(root / "meta/episodes.jsonl"), key=lambda r: int(r["episode_index"])):
        index = int(row["episode_index"])
        where = {"episode_index": index, "episode_chunk": index // int(info["chunks_size"])}
        videos = {key: (root / info["video_path"].format(video_key=key, **where), 0) for key in cameras}
        places.append((index, int(row["length"]), root / info["data_path"].format(**where), videos))
    return places


def _check_mapping(
    root: Path, features: Mapping[str, Any], contract: Contract, mapping: LeRobotMapping
) -> dict[str, tuple[str, ...]]:
    """Column names of every feature of numbers. Raises IngestError for what either side lacks."""
    names = {
        key: tuple(mapping.names.get(key) or _feature_names(feature))
        for key, feature in features.items()
        if feature["dtype"] not in ("video", "image", "string")
    }
    for key, given in mapping.names.items():
        if key not in names or len(given) != int(np.prod(features[key]["shape"])):
            raise IngestError(f"mapping: names of {key!r} are {list(given)}; the dataset has {features.get(key)}")
    known = {f"{key}/{name}" for key, found in names.items() for name in found}
    known |= {key for key, feature in features.items() if key in names and int(np.prod(feature["shape"])) == 1}
    for what, wanted, given_columns in (
        ("state", contract.state.names, mapping.state),
        ("action", contract.action.names, mapping.action),
    ):
        same_names(what, wanted, given_columns)
        for name, column in given_columns.items():
            if column_of(column).column not in known:
                numbers = sorted(k for k in known if not k.split("/")[0].endswith("index"))
                wide = [k for k in names if int(np.prod(features[k]["shape"])) > 1]
                nameless = {k: features[k].get("names") for k in wide if not names[k]}
                hint = f"; under names: give the columns of {nameless}, which carry no usable ones" if nameless else ""
                raise IngestError(
                    f"mapping: {what} {name!r} is {column_of(column).column!r}, which {root} lacks; it has "
                    f"{numbers}{hint}"
                )
    same_names("cameras", contract.camera_names, mapping.cameras)
    images = sorted(key for key, feature in features.items() if feature["dtype"] in ("video", "image"))
    for name, stated in mapping.cameras.items():
        camera = camera_of(stated)
        key = camera.column
        if key not in images:
            raise IngestError(f"mapping: camera {name!r} is {key!r}, which {root} lacks; it has {images}")
        check_turned(name, camera, contract)
    return names


def check_turned(name: str, camera: Camera, contract: Contract) -> None:
    """Raise IngestError if the contract turns a camera's pictures and the mapping does not say how these stand."""
    turned, key = contract.camera(name).rotate_deg, camera.column
    if turned and camera.rotate_deg is None:
        raise IngestError(
            f"mapping: contract {contract.name!r} turns camera {name!r} by {turned}°, and nothing says how the "
            f"pictures of {key!r} stand. Look at one and write {name}: {{column: {key}, rotate_deg: 0}} where they "
            f"stand as the policy is to see them (upright in the public LIBERO sets), rotate_deg: {turned} where "
            "they are as the robot's camera gives them"
        )


def same_names(what: str, wanted: Sequence[str], given: Mapping[str, Any]) -> None:
    """Raise IngestError unless a part of a mapping has the contract's names and no others."""
    missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing or unknown:
        raise IngestError(
            f"mapping: {what} lacks the contract's {missing} and has {unknown}, which the contract does not have"
        )


def _feature_names(feature: Mapping[str, Any]) -> Sequence[str]:
    """A feature's own column names; none if it has no usable ones (too few, or one of them twice)."""
    names = layout.names_of(feature) or []
    return names if len(names) == int(np.prod(feature["shape"])) == len(set(names)) else []


def column_of(given: str | Column) -> Column:
    """A column of a mapping, however it is written."""
    return given if isinstance(given, Column) else Column(column=given)


def camera_of(given: str | Camera) -> Camera:
    """A camera of a mapping, however it is written."""
    return given if isinstance(given, Camera) else Camera(column=given)


@lru_cache(maxsize=4)
def _tasks(root: Path) -> dict[int, str]:
    legacy = root / "meta/tasks.jsonl"
    if legacy.exists():
        return {int(row["task_index"]): str(row["task"]) for row in _json_lines(legacy)}
    return layout.read_tasks(root)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read {path}: {error}") from None
