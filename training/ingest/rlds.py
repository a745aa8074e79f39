"""RLDS datasets: TFDS folders of TFRecord shards, one ``tf.train.Example`` per episode, read without TensorFlow.

``features.json`` says what a step has, and how it is encoded; in the records the features are flattened
(``steps/observation/state`` has the numbers of all steps, one after the other). ``dataset_info.json`` says which shards
there are, and how many episodes each has. Two layouts are known by their features (:data:`LAYOUTS`): OpenVLA's modified
LIBERO, whose pictures were turned upright, and the paper's recordings of a JAKA arm. Any other one needs a mapping, in
the format of ``training.ingest.lerobot``, with the names of the features below ``steps/``::

    cameras: {front: {column: observation/head_camera_image, rotate_deg: 0}}
    state: {joint_1: observation/state/0}             # columns are numbered, unless names: gives them names
    action: {joint_1: {column: action/0, scale: 0.017453292519943295}}

RLDS does not tell the rate of its steps. It is taken to be the contract's, unless the mapping has ``rate_hz``.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import CameraSpec, Contract
from training.ingest.build import Episode, EpisodeReport, IngestError, Kind, Rejected, Step
from training.ingest.lerobot import (
    Camera,
    LeRobotMapping,
    camera_of,
    check_turned,
    column_of,
    load_mapping,
    same_names,
)
from training.ingest.libero import ACTION_COLUMNS, STATE_COLUMNS
from training.ingest.table import Numbers, Stored, Table, TableEpisode, columns_by_name
from training.ingest.tfrecord import RecordError, parse_example, records

INFO, FEATURES = "dataset_info.json", "features.json"
INSTRUCTION = "language_instruction"
_JAKA = (*(f"joint_{i}" for i in range(1, 7)), "gripper")


def _layout(cameras: Mapping[str, Camera], state: Sequence[str], action: Sequence[str], **more: Any) -> LeRobotMapping:
    return LeRobotMapping(
        cameras=cameras,
        state={name: f"observation/state/{name}" for name in state},
        action={name: f"action/{name}" for name in action},
        names={"observation/state": tuple(state), "action": tuple(action)},
        **more,
    )


LAYOUTS = {
    "OpenVLA's modified LIBERO": _layout(
        {
            "agentview": Camera(column="observation/image", rotate_deg=0),
            "wrist": Camera(column="observation/wrist_image", rotate_deg=0),
        },
        STATE_COLUMNS["ee_states"] + STATE_COLUMNS["gripper_states"],
        ACTION_COLUMNS,
        rate_hz=20.0,
    ),
    "the paper's JAKA recordings": _layout(
        {
            "front": Camera(column="observation/head_camera_image", rotate_deg=0),
            "wrist": Camera(column="observation/low_cam_image", rotate_deg=0),
        },
        _JAKA,
        _JAKA,
    ),
}
"""Layouts that need no mapping: what they are → how their names are the contract's."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a step, as ``features.json`` has it."""

    kind: str
    """Class of TFDS: Tensor, Scalar, Text, Image, …"""
    shape: tuple[int | None, ...] = ()
    dtype: str = ""
    encoding: str = ""
    """Of a tensor: none, bytes or zlib; of an image: jpeg or png, or empty: either."""

    def __str__(self) -> str:
        return f"{self.kind}{list(self.shape)} {self.dtype}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class RldsEpisode(Table):
    """One episode, whose record was read."""

    file: Path
    part: int
    """Its number in the file, from 1."""
    values: Mapping[str, Sequence[Any]]
    """Feature of the record → its values."""
    features: Mapping[str, Feature]
    """Feature of a step → what it is."""
    mapping: LeRobotMapping
    instruction: str | None

    @property
    def name(self) -> str:
        return f"{self.file}: episode {self.part}"

    def numbers(self, contract: Contract) -> Numbers:
        wanted = {"state": self.mapping.state, "action": self.mapping.action}
        found: dict[str, NDArray[np.float64]] = {}
        for feature in sorted({_feature_of(column_of(c).column) for part in wanted.values() for c in part.values()}):
            values = self._tensor(feature)
            names = _columns(feature, self.features[feature], self.mapping)
            found |= {f"{feature}/{name}": values[:, i] for i, name in enumerate(names)}
        named = {part: {name: column_of(c).of(found) for name, c in cs.items()} for part, cs in wanted.items()}
        counts = {key.rpartition("/")[0]: len(values) for key, values in found.items()}
        if len(set(counts.values())) > 1:
            raise Rejected(Kind.SHAPE, f"its features have different numbers of steps: {counts}")
        count = next(iter(counts.values()))
        return Numbers(
            states_LS=columns_by_name(contract.state.fields, named["state"], "state"),
            actions_LA=columns_by_name(contract.action.dims, named["action"], "action"),
            instructions=self._instructions(count),
        )

    def frames(self, camera: str) -> Iterator[NDArray[np.uint8]]:
        column = camera_of(self.mapping.cameras[camera]).column
        shape = self.features[column].shape
        for step, code in enumerate(self._values(column)):
            bgr = cv2.imdecode(np.frombuffer(code, np.uint8), cv2.IMREAD_COLOR) if code else None
            if bgr is None:
                raise Rejected(Kind.IMAGE, f"{column} of step {step} cannot be decoded ({len(code)} bytes)")
            if any(said not in (None, size) for said, size in zip(shape, bgr.shape, strict=False)):
                raise Rejected(
                    Kind.SHAPE, f"{column} of step {step} is {list(bgr.shape)}; {FEATURES} says {list(shape)}"
                )
            yield np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)

    def prepared_as(self, spec: CameraSpec) -> CameraSpec:
        return replace(spec, rotate_deg=camera_of(self.mapping.cameras[spec.name]).rotate_deg or 0)

    def _values(self, feature: str) -> Sequence[Any]:
        key = f"steps/{feature}"
        if key not in self.values:
            raise Rejected(Kind.CONTRACT, f"the record has no {key!r}; it has {sorted(self.values)}")
        return self.values[key]

    def _tensor(self, feature: str) -> NDArray[np.float64]:
        """(L, columns) of a feature of numbers."""
        stored, said = self._values(feature), self.features[feature]
        values = _decoded(stored, said, feature) if stored and isinstance(stored[0], bytes) else np.asarray(stored)
        width = _width(said)
        if len(values) % width:
            raise Rejected(
                Kind.SHAPE, f"steps/{feature} has {len(values)} numbers; {FEATURES} says {width} for each step"
            )
        return values.astype(np.float64).reshape(-1, width)

    def _instructions(self, count: int) -> tuple[str, ...]:
        if self.instruction is not None:
            return (self.instruction,) * count
        key = f"steps/{INSTRUCTION}"
        texts = self.values.get(key) or self.values.get(f"episode_metadata/{INSTRUCTION}", ())
        try:
            said = tuple(text.decode() for text in texts)
        except (AttributeError, UnicodeDecodeError) as error:
            raise Rejected(Kind.INSTRUCTION, f"{key} is no text: {error}") from None
        if len(said) == 1:
            return said * count
        if len(said) not in (0, count):
            raise Rejected(Kind.SHAPE, f"{key} has {len(said)} texts for {count} steps")
        return said or ("",) * count


def _decoded(stored: Sequence[bytes], said: Feature, feature: str) -> NDArray[Any]:
    """The numbers of a feature whose steps are stored as bytes. Raises Rejected."""
    undo = zlib.decompress if said.encoding == "zlib" else bytes
    try:
        return np.concatenate([np.frombuffer(undo(each), said.dtype) for each in stored])
    except (zlib.error, ValueError, TypeError) as error:
        raise Rejected(Kind.DAMAGED, f"steps/{feature}, encoded as {said.encoding}: {error}") from None


@dataclass(frozen=True, slots=True)
class _Damaged:
    """An episode of which nothing can be read."""

    part: int
    reason: str

    def steps(self) -> Iterator[Step]:
        raise Rejected(Kind.DAMAGED, self.reason)

    def describe(self, report: EpisodeReport) -> EpisodeReport:
        return report


@dataclass(frozen=True, slots=True, kw_only=True)
class RldsShard(Stored):
    """One file of a dataset."""

    file: Path
    count: int | None
    """How many episodes it has; None if nothing says so."""
    features: Mapping[str, Feature]
    mapping: LeRobotMapping
    instruction: str | None

    @property
    def name(self) -> str:
        return str(self.file)

    def episodes(self, contract: Contract) -> Iterator[Episode]:
        """Those before a cut are kept; what follows it is one rejection, which says how many are lost."""
        if not self.file.exists():
            raise Rejected(Kind.DAMAGED, f"the file is missing{self._lost(0)}")
        part = 0
        try:
            for part, record in enumerate(records(self.file), 1):
                yield self._episode(part, record.data, record.error, contract)
        except RecordError as error:
            raise Rejected(Kind.DAMAGED, f"{error}{self._lost(part)}") from None
        if self.count is not None and part != self.count:
            raise Rejected(Kind.DAMAGED, f"it has {part} episodes{self._lost(part)}; {INFO} says {self.count}")

    def _episode(self, part: int, data: bytes, error: str, contract: Contract) -> Episode:
        if error:
            return _Damaged(part, error)
        try:
            values = parse_example(data)
        except ValueError as failed:
            return _Damaged(part, str(failed))
        episode = RldsEpisode(
            file=self.file,
            part=part,
            values=values,
            features=self.features,
            mapping=self.mapping,
            instruction=self.instruction,
            enlarge=self.enlarge,
        )
        return TableEpisode(episode, contract, part)

    def _lost(self, read: int) -> str:
        if self.count is None:
            return f"; what follows its first {read} episodes is lost"
        if self.count <= read:
            return ""
        return f"; its episodes {read + 1} to {self.count} are lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class RldsDatasets:
    """What is said of an RLDS dataset."""

    default_contract: ClassVar[str | None] = None
    first_frames: ClassVar[bool] = True

    mapping: Path | None = None
    """YAML file of a LeRobotMapping; None: the layout is known by its features."""
    instruction: str | None = None
    """In place of the dataset's own."""
    split: str = "train"
    """Which of the dataset's splits is read."""

    def find(self, paths: Sequence[Path], contract: Contract) -> list[RldsShard]:
        """The shards of folders (also of those below them) and single shards, each checked against the contract.

        Raises IngestError for a folder that is no dataset, another file format, a split that there is not, features
        that are missing, have another shape or an unknown encoding, or another rate.
        """
        given = load_mapping(self.mapping) if self.mapping is not None else None
        found: list[RldsShard] = []
        for path in paths:
            roots = [path.parent] if path.is_file() else sorted({file.parent for file in path.rglob(FEATURES)})
            if not roots:
                raise IngestError(f"{path} holds no {FEATURES}: not the folder of an RLDS dataset")
            for root in roots:
                shards = _shards(root, self.split)
                if path.is_file():
                    shards = {path: shards.get(path)}
                features = _features(root)
                mapping = given or _known_layout(root, features)
                _check(root, features, contract, mapping)
                found += [
                    RldsShard(file=file, count=count, features=features, mapping=mapping, instruction=self.instruction)
                    for file, count in shards.items()
                ]
        return found


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IngestError(f"cannot read {file}: {error}") from None


def _shards(root: Path, split: str) -> dict[Path, int | None]:
    """Shard → how many episodes it has."""
    if not (root / INFO).exists():
        files: dict[Path, int | None] = dict.fromkeys(sorted(root.glob(f"*-{split}.tfrecord*")))
        if not files:
            raise IngestError(f"{root} has neither {INFO} nor a file *-{split}.tfrecord*")
        return files
    info = _read(root / INFO)
    try:
        if (form := info.get("fileFormat", "tfrecord")) != "tfrecord":
            raise IngestError(f"{root} has the file format {form!r}; only 'tfrecord' can be read")
        splits = {each["name"]: each for each in info["splits"]}
        if split not in splits:
            raise IngestError(f"{root} has no split {split!r}; it has {sorted(splits)}: choose with -o split=NAME")
        counts = [int(count) for count in splits[split]["shardLengths"]]
        template = splits[split].get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        for key, value in {"DATASET": info["name"], "SPLIT": split, "FILEFORMAT": "tfrecord"}.items():
            template = template.replace(f"{{{key}}}", value)
        width = max(5, len(str(len(counts))))
        places = [f"{number:0{width}d}-of-{len(counts):0{width}d}" for number in range(len(counts))]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IngestError(f"{root / INFO} is not what TFDS writes: {type(error).__name__}: {error}") from None
    return {root / template.replace("{SHARD_X_OF_Y}", p): c for p, c in zip(places, counts, strict=True)}


def _features(root: Path) -> dict[str, Feature]:
    """Feature of a step → what it is."""
    found = _read(root / FEATURES)
    try:
        return dict(_walk(found["featuresDict"]["features"]["steps"]["sequence"]["feature"], ""))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise IngestError(f"{root / FEATURES} describes no episodes of steps: it lacks {error}") from None


def _walk(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Feature]]:
    if "featuresDict" in node:
        for name, inner in node["featuresDict"]["features"].items():
            yield from _walk(inner, f"{path}/{name}" if path else name)
        return
    said = node.get("tensor") or node.get("image") or {}
    sizes = said.get("shape", {}).get("dimensions", ())
    yield (
        path,
        Feature(
            kind=str(node.get("pythonClassName", "")).rpartition(".")[2],
            shape=tuple(int(size) if int(size) > 0 else None for size in sizes),
            dtype=said.get("dtype", ""),
            encoding=said.get("encodingFormat", "") if "image" in node else said.get("encoding", "none"),
        ),
    )


def _known_layout(root: Path, features: Mapping[str, Feature]) -> LeRobotMapping:
    """The layout of LAYOUTS whose features the dataset has. Raises IngestError if there is none."""
    for mapping in LAYOUTS.values():
        if not {camera_of(c).column for c in mapping.cameras.values()} - features.keys():
            return mapping
    told = {name: str(feature) for name, feature in features.items()}
    raise IngestError(
        f"{root} has the layout of none of {list(LAYOUTS)}: its steps have {told}. Say with --mapping which of "
        "them are the contract's"
    )


def _check(root: Path, features: Mapping[str, Feature], contract: Contract, mapping: LeRobotMapping) -> None:
    """Raise IngestError for whatever the contract, the mapping and the dataset do not agree on."""
    same_names("cameras", contract.camera_names, mapping.cameras)
    for name, stated in mapping.cameras.items():
        camera = camera_of(stated)
        feature = _known(root, features, camera.column, ("Image",))
        if feature.encoding not in ("", "jpeg", "png"):
            raise IngestError(
                f"{root}: the pictures of {camera.column!r} are encoded as {feature.encoding!r}; jpeg and png are known"
            )
        check_turned(name, camera, contract)
    for what, wanted, given in (
        ("state", contract.state.names, mapping.state),
        ("action", contract.action.names, mapping.action),
    ):
        same_names(what, wanted, given)
        for column in given.values():
            key = _feature_of(column_of(column).column)
            feature = _known(root, features, key, ("Tensor", "Scalar"))
            if feature.encoding not in ("none", "bytes", "zlib"):
                raise IngestError(f"{root}: {key!r} is encoded as {feature.encoding!r}; none, bytes and zlib are known")
            names = _columns(key, feature, mapping)
            if len(names) != _width(feature):
                raise IngestError(
                    f"{root}: {key!r} has the shape {list(feature.shape)}; expected {len(names)}: {names}"
                )
            if column_of(column).column.rpartition("/")[2] not in names:
                raise IngestError(f"mapping: {what} is {column_of(column).column!r}, but {key!r} has {list(names)}")
    if mapping.rate_hz not in (None, contract.rate_hz):
        raise IngestError(
            f"{root} has {mapping.rate_hz:.12g} steps per second; contract {contract.name!r} has rate_hz "
            f"{contract.rate_hz:.12g}, and steps are not resampled"
        )


def _known(root: Path, features: Mapping[str, Feature], name: str, kinds: Sequence[str]) -> Feature:
    if name not in features or features[name].kind not in kinds:
        told = {key: str(feature) for key, feature in features.items()}
        raise IngestError(f"{root}: the steps have no {kinds[0]} {name!r}; they have {told}")
    return features[name]


def _feature_of(column: str) -> str:
    return column.rpartition("/")[0]


def _columns(key: str, feature: Feature, mapping: LeRobotMapping) -> Sequence[str]:
    """Names of a feature's columns: the mapping's, else their numbers."""
    return mapping.names.get(key) or tuple(str(i) for i in range(_width(feature)))


def _width(feature: Feature) -> int:
    """Numbers per step."""
    return math.prod(size or 0 for size in feature.shape) or 1
