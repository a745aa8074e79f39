"""The contract: one typed description of what a robot observes and how it is commanded.

One YAML file per robot (``config/contracts/*.yaml``) is the single source for the recorder, the
converter, the trainer, the policy, the executor and every simulator. A checkpoint embeds the
contract it was trained under; :func:`require_same_contract` says what differs from another one.

A policy learns from names, units, sizes, rate and so on (:meth:`Contract.learned`), and ``hash`` covers just that.
Topics, tolerances and the arm's limits are wiring: they may be changed at any time without voiding what was recorded
and trained before.

Time convention, the same everywhere: an observation is taken at capture time ``t``; action ``h``
of the chunk predicted from it (``h = 0 … H-1``) is *completed* at ``t + (h + 1) * dt``, with
``dt = 1 / rate_hz``. For an absolute joint action that means: the commanded position at that time.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lavla_ros.config import ConfigError, check, check_settings, from_plain, read_config, setting, to_plain
from lavla_ros.pieces import HEADER, JOINTS, TRAJECTORY, Clock, Piece, check_pieces
from lavla_ros.resources import config_file, share_path
from lavla_ros.typing import NS_PER_S

Unit = Literal["rad", "m", "fraction", "1", "rad/s", "m/s", "N", "Nm"]


class ContractError(ConfigError):
    """A contract file is malformed, or two contracts that must agree do not."""


IMAGE_KINDS = ("observation", "raw", "compressed")
"""What a camera's images can be: as the policy sees them, as its driver sends them, the same compressed."""


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """One camera: where its images come from and what the policy sees of them."""

    name: str
    """Key of the camera; the prepared image is published on ``/observation/<name>``."""
    topic: str
    """Driver topic (sensor_msgs/Image; ``<topic minus /image_raw>/image_raw/compressed`` too). One that is written
    without a slash before it goes with the namespace of the stack; an absolute one is the same in every namespace.
    Either has the slash here, and in bags."""
    width: int = setting(224, low=8, high=4096, unit="pixels")
    """Width of the prepared image, pixels."""
    height: int = setting(224, low=8, high=4096, unit="pixels")
    """Height of the prepared image, pixels."""
    encoding: Literal["rgb8"] = "rgb8"
    """Encoding of the prepared image."""
    rotate_deg: Literal[0, 90, 180, 270] = 0
    """Clockwise rotation applied to the driver's image, before cropping."""
    crop: Literal["none", "center_square"] = "center_square"
    """Cropping applied before resizing; ``none`` lets resizing change the aspect ratio."""
    channel_order: Literal["", "rgb8", "bgr8"] = ""
    """What the driver's images in ``8UC3`` or ``8UC4`` hold, encodings that do not say it; empty: they are refused."""
    clock: Clock = HEADER
    """What stamps the pictures: their headers, or the time at which they arrived."""
    time_offset_s: float = setting(0.0, low=-60.0, high=60.0, unit="s")
    """Added to the stamps: negative for pictures that are older than their stamps say."""
    relative: bool = field(default=False, compare=False, repr=False)
    """Whether ``topic`` was written without a slash; it is no part of what is recorded or hashed."""

    def __post_init__(self) -> None:
        check(bool(self.name) and self.name.isidentifier(), "cameras.name", self.name, "an identifier")
        named = re.fullmatch(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", self.topic)
        check(named is not None, f"cameras.{self.name}.topic", self.topic, "a name like camera/front/image_raw")
        if not self.topic.startswith("/"):
            object.__setattr__(self, "relative", True)
            object.__setattr__(self, "topic", f"/{self.topic}")
        check_settings(self, f"cameras.{self.name}.")
        arrived = self.clock == "header" or self.time_offset_s <= 0
        wanted = "at most 0 for pictures that are stamped when they arrive: they cannot be of later"
        check(arrived, f"cameras.{self.name}.time_offset_s", self.time_offset_s, wanted)

    @property
    def observation_topic(self) -> str:
        """Topic of the prepared image."""
        return f"/observation/{self.name}"

    @property
    def topic_choices(self) -> tuple[str, ...]:
        """Topics that can serve it, best first, in the order of ``IMAGE_KINDS``."""
        return (self.observation_topic, self.topic, f"{self.topic}/compressed")


@dataclass(frozen=True, kw_only=True)
class DepthSpec:
    """One depth camera: recorded and kept in datasets, lossless and at its own size; no policy reads it."""

    name: str
    """Key, in datasets too."""
    topic: str
    """Driver topic, with a slash before it: sensor_msgs/Image in 16UC1 (mm) or 32FC1 (m), or in bags CompressedImage on
    ``<topic>/compressedDepth`` or ``/compressed``, PNG of 16 bits."""

    def __post_init__(self) -> None:
        check(self.name.isidentifier(), "depth.name", self.name, "an identifier")
        check(self.topic.startswith("/"), f"depth.{self.name}.topic", self.topic, "a topic with a slash before it")

    @property
    def topic_choices(self) -> tuple[str, ...]:
        """Topics of a bag that can serve it, best first."""
        return (self.topic, f"{self.topic}/compressedDepth", f"{self.topic}/compressed")


@dataclass(frozen=True, kw_only=True)
class RecordedTopic:
    """A topic that episodes are recorded with, and nothing reads."""

    topic: str
    """With a slash before it."""
    type: str
    """Message type, like sensor_msgs/msg/Imu."""

    def __post_init__(self) -> None:
        check(self.topic.startswith("/"), "record.topic", self.topic, "a topic with a slash before it")
        named = re.fullmatch(r"[a-z]\w*/msg/[A-Z]\w*", self.type) is not None
        check(named, f"record: type of {self.topic}", self.type, "a type like sensor_msgs/msg/Imu")


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One scalar of the state or of the action."""

    name: str
    """Name in JointState.name / JointTrajectory.joint_names, unless a piece says otherwise; values are matched by name,
    never by position."""
    unit: Unit = "rad"
    """rad, m, fraction (0 to 1), rad/s, m/s, N, Nm, or 1 (no unit)."""
    kind: Literal["arm", "gripper"] = "arm"
    """Grippers are normalised and executed apart from the arm."""
    low: float = -math.inf
    """Smallest admissible value (a command below is out of range)."""
    high: float = math.inf
    """Largest admissible value."""

    def __post_init__(self) -> None:
        check(bool(self.name), "name", self.name, "a non-empty name")
        check(self.low < self.high, f"{self.name}: low/high", (self.low, self.high), "low < high")
        if self.kind == "gripper":
            finite = math.isfinite(self.low) and math.isfinite(self.high)
            check(finite, f"{self.name}: low/high", (self.low, self.high), "finite bounds for a gripper")


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """Proprioception: named fields of one sensor_msgs/JointState topic, or of pieces."""

    topic: str = ""
    """JointState topic that has all fields. With ``pieces``: where an executor of ours says what it measures, if one
    drives this robot."""
    fields: tuple[Dimension, ...]
    pieces: tuple[Piece, ...] = ()
    """Where the fields come from, if not all from JointState positions on ``topic``."""

    def __post_init__(self) -> None:
        _unique("state.fields", self.fields)
        _check_sources("state", self)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields)

    @property
    def units(self) -> dict[str, str]:
        """Name → unit, in order."""
        return {f.name: f.unit for f in self.fields}

    @property
    def sources(self) -> tuple[Piece, ...]:
        """The pieces; of a state without them, the one that it is."""
        return self.pieces or (Piece(topic=self.topic, type=JOINTS, names=self.names),)

    @property
    def published(self) -> tuple[str, ...]:
        """Names that a node of ours publishes on ``topic``. Raises ContractError if there is no topic."""
        return _published("state", self, JOINTS)


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """What a policy commands, and where the training labels come from."""

    topic: str = ""
    """trajectory_msgs/JointTrajectory topic that carries the commands (recorded as labels). With ``pieces``: where an
    executor of ours says what it commands, if one drives this robot."""
    dims: tuple[Dimension, ...]
    pieces: tuple[Piece, ...] = ()
    """Where the labels come from, if not all from one JointTrajectory on ``topic``: a leader arm, a gripper."""
    space: Literal["joint", "end_effector"] = "joint"
    """joint: dims name joints. end_effector: x, y, z (m), roll, pitch, yaw or rotation vector (rad)."""
    mode: Literal["absolute", "delta"] = "absolute"
    """absolute: interpolated between steps. delta: executed step by step, never interpolated."""
    source: Literal["command", "next_state"] = "command"
    """command: the label at t is the commanded point for t + dt. next_state: the state at t + dt
    (demonstrations taught by hand, where no command exists); needs action names within the state."""

    def __post_init__(self) -> None:
        _unique("action.dims", self.dims)
        _check_sources("action", self)
        if self.space == "end_effector":
            arm = [d.name for d in self.dims if d.kind == "arm"]
            wanted = "6 arm dimensions (3 translation, 3 rotation) for space: end_effector"
            check(len(arm) == 6, "action.dims", arm, wanted)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(d.name for d in self.dims)

    @property
    def units(self) -> dict[str, str]:
        """Name → unit, in order."""
        return {d.name: d.unit for d in self.dims}

    @property
    def sources(self) -> tuple[Piece, ...]:
        """The pieces; of an action without them, the one that it is."""
        return self.pieces or (Piece(topic=self.topic, type=TRAJECTORY, names=self.names),)

    @property
    def published(self) -> tuple[str, ...]:
        """Names that a node of ours publishes on ``topic``. Raises ContractError if there is no topic."""
        return _published("action", self, TRAJECTORY)

    @property
    def arm_indices(self) -> tuple[int, ...]:
        return tuple(i for i, d in enumerate(self.dims) if d.kind == "arm")

    @property
    def gripper_indices(self) -> tuple[int, ...]:
        return tuple(i for i, d in enumerate(self.dims) if d.kind == "gripper")


@dataclass(frozen=True, kw_only=True)
class AlignmentSpec:
    """How streams are brought to one time base. All times are capture stamps, never arrival times.

    A step is a frame of the reference camera, thinned to ``rate_hz``. Other cameras give the frame
    nearest in time; the state is the newest one not after the step. A stream without a sample
    inside its tolerance makes the step incomplete: it is counted and dropped, never filled in.
    """

    reference: str
    """Camera whose capture stamps are the time base."""
    camera_tolerance_s: float = 0.05
    """Largest |stamp difference| between a camera frame and the step."""
    state_tolerance_s: float = 0.05
    """Largest age of the state at the step."""
    command_tolerance_s: float = 0.05
    """Largest age of the command in force at t + dt (labels)."""
    max_observation_age_s: float = 0.5
    """Live only: an observation older than this at inference time is dropped and counted."""

    def __post_init__(self) -> None:
        for key in ("camera_tolerance_s", "state_tolerance_s", "command_tolerance_s", "max_observation_age_s"):
            value = getattr(self, key)
            check(0 < value < 60, f"alignment.{key}", value, "seconds in (0, 60)")


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Everything two parties must agree on before one may command the other's robot."""

    name: str
    robot: str
    rate_hz: float
    """Rate of policy steps (labels, chunk points); the servo loop runs faster."""
    chunk_size: int = setting(low=1, high=256, unit="steps")
    """H: actions per chunk."""
    cameras: tuple[CameraSpec, ...]
    state: StateSpec
    action: ActionSpec
    alignment: AlignmentSpec
    depth: tuple[DepthSpec, ...] = ()
    record: tuple[RecordedTopic, ...] = ()
    """Topics besides, that are recorded if they come."""
    instruction_topic: str = "/instruction"
    step: Literal["period", "command"] = "period"
    """period: steps are ``1 / rate_hz`` apart. command: a step is one command, carried out to its end, which takes as
    long as it takes: every observation is a step, stamps are unevenly far apart, and an action follows the one before
    it. ``rate_hz`` is then only the spacing at which chunks and labels are written down."""

    def __post_init__(self) -> None:
        check_settings(self)
        check(0 < self.rate_hz <= 1000, "rate_hz", self.rate_hz, "a rate in (0, 1000] Hz")
        _unique("cameras", self.cameras)
        if self.depth:
            _unique("cameras, depth", (*self.cameras, *self.depth))
        read = {*self.read_topics, self.instruction_topic}
        twice = sorted(each.topic for each in self.record if each.topic in read)
        check(not twice, "record", twice, "topics that are not recorded anyway")
        names = [c.name for c in self.cameras]
        reference = self.alignment.reference
        check(reference in names, "alignment.reference", reference, f"one of the cameras {names}")
        if self.action.source == "next_state":
            missing = sorted(set(self.action.names) - set(self.state.names))
            wanted = f"every action name among the state fields; missing: {missing}"
            check(not missing, "action.source", "next_state", wanted)

    @property
    def read_topics(self) -> dict[str, str]:
        """Topic → message type of what state, action and depth are made of, and of what an executor of ours says."""
        own = ((self.state.topic, JOINTS), (self.action.topic, TRAJECTORY))
        return {
            **{topic: kind for topic, kind in own if topic},
            **{piece.topic: piece.type for piece in (*self.state.sources, *self.action.sources)},
            **{spec.topic: "sensor_msgs/msg/Image" for spec in self.depth},
        }

    @property
    def dt_s(self) -> float:
        return 1.0 / self.rate_hz

    @property
    def dt_ns(self) -> int:
        return round(NS_PER_S / self.rate_hz)

    @property
    def action_dim(self) -> int:
        return len(self.action.dims)

    @property
    def state_dim(self) -> int:
        return len(self.state.fields)

    @property
    def camera_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.cameras)

    def camera(self, name: str) -> CameraSpec:
        """The camera called ``name``; KeyError names the known ones."""
        for spec in self.cameras:
            if spec.name == name:
                return spec
        raise KeyError(f"contract {self.name!r} has no camera {name!r}; it has {list(self.camera_names)}")

    def wire(self, topic: str) -> str:
        """The name that a topic of an episode has for a node: relative to the node's namespace, but for an absolute
        topic of a camera's driver. ``topic``: as in this contract and in bags, with a slash before it.
        """
        foreign = {c.topic for c in self.cameras if not c.relative}
        return topic if topic.removesuffix("/compressed") in foreign else topic.removeprefix("/")

    def quiet_s(self, topic: str) -> float:
        """For how long a topic may be silent and is not missed: while its pieces hold; for ever if nothing reads it."""
        if any(each.topic == topic for each in self.record):
            return math.inf
        return min((p.hold_s for p in (*self.state.sources, *self.action.sources) if p.topic == topic), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML/JSON-ready form; :meth:`from_dict` restores an equal contract."""
        plain: dict[str, Any] = to_plain(self)
        if self.step == "period":  # contracts from before there was a choice keep their full_hash
            del plain["step"]
        for camera in plain["cameras"]:
            del camera["relative"]
            for key in ("channel_order", "clock", "time_offset_s"):
                if camera[key] == _CAMERA_DEFAULTS[key]:
                    del camera[key]
        for key in ("depth", "record"):
            if not plain[key]:
                del plain[key]
        for part in (plain["state"], plain["action"]):
            if not part["pieces"]:
                del part["pieces"]
            else:
                part["pieces"] = [_without_defaults(Piece, piece) for piece in part["pieces"]]
        return plain

    @property
    def label_sources(self) -> tuple[Piece, ...]:
        """Where labels come from: the action's pieces, or those of the state that give the action's dimensions."""
        if self.action.source == "command":
            return self.action.sources
        return tuple(piece for each in self.state.sources if (piece := each.only(self.action.names)) is not None)

    def learned(self) -> dict[str, Any]:
        """What a policy learns from, JSON-ready: everything but the wiring (topics, tolerances, the arm's limits)."""

        def dims(dimensions: Sequence[Dimension]) -> list[dict[str, Any]]:
            bounds = ("low", "high")  # a gripper is normalised by its own
            return [
                {key: getattr(d, key) for key in ("name", "unit", "kind", *(bounds if d.kind == "gripper" else ()))}
                for d in dimensions
            ]

        pictures = ("name", "width", "height", "encoding", "rotate_deg", "crop")
        return {
            "robot": self.robot,
            "rate_hz": self.rate_hz,
            "chunk_size": self.chunk_size,
            "step": self.step,
            "reference": self.alignment.reference,
            "cameras": [{key: getattr(camera, key) for key in pictures} for camera in self.cameras],
            "state": dims(self.state.fields),
            "action": {
                "space": self.action.space,
                "mode": self.action.mode,
                "source": self.action.source,
                "dims": dims(self.action.dims),
            },
        }

    @property
    def hash(self) -> str:
        """Hash (16 hex digits) of what a policy learns from; what is recorded and trained carries it."""
        return _digest(self.learned())

    @property
    def full_hash(self) -> str:
        """Hash over every field, wiring included: the same contract to the letter.

        Bags and checkpoints from before there was ``hash`` carry this one.
        """
        return _digest(self.to_dict())

    def has_hash(self, text: object) -> bool:
        """Whether ``text``, out of a bag or a checkpoint, is a hash of this contract."""
        return text in (self.hash, self.full_hash)

    def described(self) -> dict[str, Any]:
        """What a recording says of its contract: ``contract`` (name), ``contract_hash``, ``contract_definition``."""
        return {"contract": self.name, "contract_hash": self.hash, "contract_definition": self.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "contract") -> Contract:
        """Build from plain data. Raises ContractError naming the key, its value and ``source``."""
        try:
            return from_plain(cls, data, source=source)
        except ConfigError as error:
            raise ContractError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One aligned step, ready for a policy. Produced only by ``lavla_ros.observation``."""

    stamp_ns: int
    """Capture stamp of the reference camera."""
    images: Mapping[str, NDArray[np.uint8]]
    """Camera name → (height, width, 3) RGB."""
    state: NDArray[np.float32]
    """(S,) in the contract's order and units."""
    instruction: str
    capture_ns: Mapping[str, int] = field(default_factory=dict)
    """True capture stamp of every stream that went into the step (cameras and ``state``)."""
    depth: Mapping[str, NDArray[np.uint16]] = field(default_factory=dict)
    """Depth camera → (height, width) millimetres, 0 where unknown; from bags, if they are asked for."""


@dataclass(frozen=True, kw_only=True)
class ActionChunk:
    """H future actions, in the contract's order and units (absolute or delta as it says)."""

    stamp_ns: int
    """Stamp of the observation that it was predicted from."""
    dt_ns: int
    actions_HA: NDArray[np.float64]
    names: tuple[str, ...]

    @property
    def horizon(self) -> int:
        return int(self.actions_HA.shape[0])


def load_contract(path: str | Path) -> Contract:
    """Read and validate one contract YAML; a bare name means the one shipped with the package.

    Raises ContractError when the file is missing, is not YAML, or violates a constraint.
    """
    try:
        return read_config(Contract, config_file(path, "contracts"))
    except ConfigError as error:
        raise ContractError(str(error)) from None


def shipped_contract(text: object) -> Contract | None:
    """The contract shipped with the package that has the hash ``text``."""
    shipped = map(load_contract, sorted((share_path() / "config" / "contracts").glob("*.yaml")))
    return next((contract for contract in shipped if contract.has_hash(text)), None)


def contract_differences(ours: Contract, theirs: Contract) -> list[str]:
    """Readable lines ``key: ours != theirs`` for everything a policy learns from that differs; empty when equal."""
    return _differences(ours.learned(), theirs.learned())


def recording_differences(ours: Contract, recorded: Contract) -> list[str]:
    """Lines as of :func:`contract_differences` for what of ``recorded`` makes a recording unusable under ``ours``.

    That is: another robot, meaning of commands, unit or kind of a dimension, or other pictures. Rate, chunk size, label
    source and wiring are free, as is recording more than ``ours`` asks for.
    """
    kept = [{key: value for key, value in c.learned().items() if key not in _CHOSEN_LATER} for c in (ours, recorded)]
    for plain in kept:
        del plain["action"]["source"]
    left, right = _flatten(kept[0]), _flatten(kept[1])
    return [
        f"{key}: {value!r} != {right[key]!r}" for key, value in sorted(left.items()) if right.get(key, value) != value
    ]


def require_same_contract(
    ours: Contract, theirs: Contract, *, ours_from: str, theirs_from: str, by_name: bool = False
) -> None:
    """Raise ContractError listing every difference in what a policy learns from.

    ``by_name``: the caller finds cameras and dimensions by name, so that their order does not matter.
    """
    lines = contract_differences(ours, theirs)
    if by_name:
        lines = [line for line in lines if not line.startswith(_ORDER)]
    if lines:
        raise ContractError(
            f"the contract of {ours_from} does not match that of {theirs_from}; differences:\n  " + "\n  ".join(lines)
        )


_CAMERA_DEFAULTS = {f.name: f.default for f in fields(CameraSpec)}
_CHOSEN_LATER = ("rate_hz", "chunk_size", "reference")
"""What a recording does not depend on: it is chosen when recordings are converted."""
_ORDER = "order of "
_ABSENT = object()


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    left, right = _flatten(ours), _flatten(theirs)
    lines = [
        f"{key}: {left.get(key, '<absent>')!r} != {right.get(key, '<absent>')!r}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key, _ABSENT) != right.get(key, _ABSENT)
    ]
    parts = (("cameras", ours["cameras"], theirs["cameras"]), ("state", ours["state"], theirs["state"]))
    for key, *lists in (*parts, ("action.dims", ours["action"]["dims"], theirs["action"]["dims"])):
        names = [[item["name"] for item in items] for items in lists]
        if names[0] != names[1] and sorted(names[0]) == sorted(names[1]):
            lines.append(f"{_ORDER}{key}: {names[0]} != {names[1]}")
    return lines


def _check_sources(where: str, spec: StateSpec | ActionSpec) -> None:
    """Raise ConfigError unless the spec says where its numbers come from."""
    if not spec.pieces:
        check(bool(spec.topic), f"{where}.topic", spec.topic, f"a topic, or {where}.pieces")
        spec.sources[0].check(where, spec.units)
        return
    check_pieces(f"{where}.pieces", spec.pieces, spec.units)
    own = JOINTS if where == "state" else TRAJECTORY
    other = [piece.type for piece in spec.pieces if piece.topic == spec.topic and piece.type != own]
    check(not other, f"{where}.topic", spec.topic, f"a topic for {own}; {where}.pieces say that it has {other}")


def _published(where: str, spec: StateSpec | ActionSpec, own: str) -> tuple[str, ...]:
    if not spec.topic:
        topics = sorted({piece.topic for piece in spec.pieces})
        raise ContractError(
            f"{where}.topic is missing: the {where} is in pieces on {topics}, which the robot's own drivers publish; "
            f"say under {where}.topic where this node is to publish ({own})"
        )
    on_topic = [piece for piece in spec.pieces if piece.topic == spec.topic]
    return tuple(name for piece in on_topic for name in piece.names) or spec.names


def _without_defaults(cls: type[Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The plain form of a dataclass, without what is as it is by default."""
    defaults = {f.name: list(f.default) if isinstance(f.default, tuple) else f.default for f in fields(cls)}
    return {key: value for key, value in plain.items() if defaults[key] is MISSING or value != defaults[key]}


def _unique(where: str, items: Sequence[Any]) -> None:
    names = [item.name for item in items]
    check(len(names) > 0, where, names, "at least one entry")
    repeated = sorted({n for n in names if names.count(n) > 1})
    check(not repeated, where, names, f"every name once; repeated: {repeated}")


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = {(v["name"] if isinstance(v, dict) and "name" in v else i): v for i, v in enumerate(value)}.items()
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat.update(_flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat
