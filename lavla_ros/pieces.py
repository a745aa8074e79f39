"""Pieces: which numbers of which messages are which dimensions of the state or the action.

A robot's numbers come on one topic or on several, by name or in a fixed order, in this unit or in that. A
:class:`Piece` says it for one field of one message type, and a :class:`Decoder` reads messages so, live and from bags.
A message is anything that has the attributes of its ROS type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lavla_ros.config import check, check_settings, setting
from lavla_ros.typing import NS_PER_S

JOINTS, TRAJECTORY = "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory"

_JOINT_FIELDS = ("position", "velocity", "effort")
_FIELDS: dict[str, tuple[str, ...]] = {
    JOINTS: _JOINT_FIELDS,
    TRAJECTORY: _JOINT_FIELDS,
    **dict.fromkeys((f"std_msgs/msg/{name}" for name in ("Float64MultiArray", "Float32MultiArray")), ("data",)),
    **dict.fromkeys((f"std_msgs/msg/{name}" for name in ("Float64", "Float32", "Bool")), ("data",)),
    **{
        f"geometry_msgs/msg/{name}{stamped}": (name.lower(),)
        for name in ("Pose", "Twist", "Wrench")
        for stamped in ("", "Stamped")
    },
}
"""Message type → its fields; the first is taken if none is said."""
MESSAGE_TYPES = tuple(_FIELDS)
PLURAL = {"position": "positions", "velocity": "velocities", "effort": "efforts"}
"""What the points of a JointTrajectory call these fields."""

_CONVERSIONS: dict[str, tuple[str, float]] = {
    **{unit: (unit, 1.0) for unit in ("rad", "m", "fraction", "rad/s", "m/s", "N", "Nm", "1")},
    "deg": ("rad", math.pi / 180),
    "mm": ("m", 1e-3),
    "percent": ("fraction", 1e-2),
    "deg/s": ("rad/s", math.pi / 180),
    "mm/s": ("m/s", 1e-3),
}
"""Unit of messages → the contract's unit, and the factor to it."""
_LENGTH, _ANGLE, _SPEED, _TURN = ("m", "mm", "1"), ("rad", "deg", "1"), ("m/s", "mm/s", "1"), ("rad/s", "deg/s", "1")
_UNITS: dict[str, tuple[str, ...]] = {
    "position": ("rad", "deg", "m", "mm", "fraction", "percent", "1"),
    "velocity": ("rad/s", "deg/s", "m/s", "mm/s", "1"),
    "effort": ("Nm", "N", "1"),
    "data": tuple(_CONVERSIONS),
}
"""Field → units that its numbers may have."""
_COMPONENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "pose": {
        **dict.fromkeys(("x", "y", "z"), _LENGTH),
        **dict.fromkeys(("qx", "qy", "qz", "qw"), ("1",)),
        **dict.fromkeys(("rx", "ry", "rz", "roll", "pitch", "yaw"), _ANGLE),
    },
    "twist": {**dict.fromkeys(("vx", "vy", "vz"), _SPEED), **dict.fromkeys(("wx", "wy", "wz"), _TURN)},
    "wrench": {**dict.fromkeys(("fx", "fy", "fz"), ("N", "1")), **dict.fromkeys(("tx", "ty", "tz"), ("Nm", "1"))},
}
"""Field → the names that its numbers have, with their units. ``rx``, ``ry``, ``rz``: rotation vector."""


Clock = Literal["header", "log"]
HEADER: Clock = "header"
"""What stamps a message if nothing is said: its own header."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some dimensions, out of one field of the messages on one topic.

    A number is ``scale`` times the message's number plus ``offset``, both in the message's unit, and is then converted
    to the unit of the dimension.
    """

    topic: str
    """As in bags, with a slash before it."""
    type: str = JOINTS
    """Message type."""
    field: str = ""
    """position, velocity or effort of joints; other types have one field, which need not be said."""
    names: tuple[str, ...]
    """The dimensions, in the contract's words. They give the order of an array, whose messages have no names."""
    message_names: tuple[str, ...] = ()
    """What the messages call them, in the same order; empty: the same. Of a pose x, y, z, qx, qy, qz, qw, rx, ry, rz
    (rotation vector), roll, pitch, yaw; of a twist vx, vy, vz, wx, wy, wz; of a wrench fx, fy, fz, tx, ty, tz."""
    unit: str = ""
    """Unit in the messages; empty: the dimensions' own."""
    scale: float | tuple[float, ...] = 1.0
    """One for all, or one for each name."""
    offset: float | tuple[float, ...] = 0.0
    """One for all, or one for each name."""
    clock: Clock = HEADER
    """What stamps the numbers: the header, or the time at which they arrived. Types without a header: the latter."""
    time_offset_s: float = setting(0.0, low=-60.0, high=60.0, unit="s")
    """Added to the stamps: negative for numbers that are older than their stamps say."""
    hold_s: float = setting(0.0, low=0.0, high=60.0, unit="s")
    """How long a number stays in force, of a topic that is published when something changes. Steps do not wait for it.
    0: the contract's tolerance, and steps wait."""

    @property
    def has_header(self) -> bool:
        """Whether its messages say when they were made."""
        return has_header(self.type)

    @property
    def by_log(self) -> bool:
        """Whether its numbers are stamped when they arrive."""
        return self.clock == "log" or not self.has_header

    @property
    def read_field(self) -> str:
        """The field that is read."""
        return self.field or _FIELDS[self.type][0]

    @property
    def there(self) -> tuple[str, ...]:
        """Names in the messages."""
        return self.message_names or self.names

    def only(self, names: Sequence[str]) -> Piece | None:
        """The part that gives these dimensions; None if there is none of them. An array keeps all."""
        kept = [i for i, name in enumerate(self.names) if name in names]
        if not kept or len(kept) == len(self.names) or self.read_field == "data":
            return self if kept else None

        def some(value: Any) -> Any:
            return tuple(value[i] for i in kept) if isinstance(value, tuple) and value else value

        return replace(
            self,
            names=some(self.names),
            message_names=some(self.message_names),
            scale=some(self.scale),
            offset=some(self.offset),
        )

    def check(self, where: str, units: Mapping[str, str]) -> None:
        """Raise ConfigError, with ``where`` before the key at fault, unless it fits dimensions of these ``units``."""
        check_settings(self, f"{where}.")
        check(self.type in _FIELDS, f"{where}.type", self.type, f"one of {list(_FIELDS)}")
        fields = _FIELDS[self.type]
        check(self.field in ("", *fields), f"{where}.field", self.field, f"one of {list(fields)} for a {self.type}")
        for key, names in (("names", self.names), ("message_names", self.message_names)):
            repeated = sorted({name for name in names if names.count(name) > 1})
            check(not repeated, f"{where}.{key}", list(names), f"every name once; repeated: {repeated}")
        check(bool(self.names), f"{where}.names", list(self.names), "at least one name")
        unknown = sorted(set(self.names) - set(units))
        check(not unknown, f"{where}.names", list(self.names), f"names among {list(units)}; unknown: {unknown}")
        count = len(self.names)
        for key in ("message_names", "scale", "offset"):
            value = getattr(self, key)
            fits = not isinstance(value, tuple) or len(value) == count or (key == "message_names" and not value)
            check(fits, f"{where}.{key}", value, f"{count} values, one for each of {list(self.names)}")
        numbers = np.array([*np.atleast_1d(self.scale), *np.atleast_1d(self.offset), self.time_offset_s])
        check(bool(np.isfinite(numbers).all()), f"{where}: scale, offset", (self.scale, self.offset), "finite numbers")
        check(bool(np.all(np.asarray(self.scale) != 0)), f"{where}.scale", self.scale, "a factor that is not 0")
        in_future = self.by_log and self.time_offset_s > 0
        wanted = "at most 0 for numbers that are stamped when they arrive: they cannot be of later"
        check(not in_future, f"{where}.time_offset_s", self.time_offset_s, wanted)
        field, components = self.read_field, _COMPONENTS.get(self.read_field)
        if self.type in ("std_msgs/msg/Float64", "std_msgs/msg/Float32", "std_msgs/msg/Bool"):
            check(count == 1, f"{where}.names", list(self.names), f"one name: a {self.type} is one number")
        if field == "data":
            wanted = "nothing: these messages have no names"
            check(not self.message_names, f"{where}.message_names", list(self.message_names), wanted)
        for name, there in zip(self.names, self.there, strict=True):
            if components is not None:
                check(there in components, f"{where}.message_names", there, f"one of {list(components)} for a {field}")
            allowed = _UNITS[field] if components is None else components[there]
            known = tuple(dict.fromkeys(_CONVERSIONS[unit][0] for unit in allowed))
            what = f"the {field} of a {self.type}"
            check(units[name] in known, f"unit of {name!r}", units[name], f"one of {list(known)} for {what}")
            fitting = [unit for unit in allowed if _CONVERSIONS[unit][0] == units[name]]
            wanted = f"one of {fitting} for {what} that gives {name!r} in {units[name]}"
            check(self.unit in ("", *fitting), f"{where}.unit", self.unit, wanted)


def has_header(kind: str) -> bool:
    """Whether messages of this type, a piece's, have a header."""
    return kind in (JOINTS, TRAJECTORY) or kind.endswith("Stamped")


def stamp_ns(msg: Any) -> int:
    """Capture stamp of a message with a header, in integer nanoseconds."""
    stamp = msg.header.stamp
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def check_pieces(where: str, pieces: Sequence[Piece], units: Mapping[str, str]) -> None:
    """Raise ConfigError unless the pieces give each dimension (name → unit) once, and a topic has one type."""
    types: dict[str, str] = {}
    given: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        key = f"{where}[{number}]"
        check(piece.topic.startswith("/"), f"{key}.topic", piece.topic, "a topic with a slash before it, as in bags")
        piece.check(key, units)
        other = types.setdefault(piece.topic, piece.type)
        check(other == piece.type, f"{key}.type", piece.type, f"{other}, which another piece says of {piece.topic}")
        for name in piece.names:
            before = given.setdefault(name, number)
            check(before == number, f"{key}.names", list(piece.names), f"no {name!r}: {where}[{before}] gives it")
    missing = [name for name in units if name not in given]
    check(not missing, where, [list(piece.names) for piece in pieces], f"every dimension once; missing: {missing}")


class RefusedError(Exception):
    """A message cannot be used."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(text)


def shifted_ns(stamp_ns: int, offset_s: float, received_ns: int) -> int:
    """A stamp with an offset. Raises RefusedError if that is after the message arrived: time would run backwards."""
    shifted = stamp_ns + round(offset_s * NS_PER_S)
    if offset_s > 0 and shifted > received_ns:
        late_ms = (shifted - received_ns) / 1e6
        raise RefusedError(
            "from_the_future", f"time_offset_s {offset_s:g} puts a message {late_ms:.1f} ms after its own arrival"
        )
    return shifted


class Decoder:
    """Messages on the topics of some pieces → numbers, in the contract's units."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        units: Mapping[str, str],
        refuse: Callable[[str, str], None],
        count: Callable[[str], None],
    ) -> None:
        """``refuse`` gets what a refusal is called (``missing_name``, …), and the case in words; ``count`` gets
        ``unknown_name`` for a message that has more names than all pieces together.
        """
        self.pieces = tuple(pieces)
        self.names_seen: set[str] = set()
        """Names in messages that lacked some of a piece's."""
        self._refuse, self._count = refuse, count
        self._of_topic: dict[str, list[int]] = {}
        for i, piece in enumerate(self.pieces):
            self._of_topic.setdefault(piece.topic, []).append(i)
        factors = [
            np.array([1.0 if not piece.unit else _CONVERSIONS[piece.unit][1] for _ in piece.names])
            for piece in self.pieces
        ]
        self._scale = [f * np.asarray(piece.scale) for f, piece in zip(factors, self.pieces, strict=True)]
        self._offset = [f * np.asarray(piece.offset) for f, piece in zip(factors, self.pieces, strict=True)]
        self._plain = [bool(np.all(s == 1) and np.all(o == 0)) for s, o in zip(self._scale, self._offset, strict=True)]
        self._order: dict[int, tuple[Sequence[str], NDArray[np.intp]]] = {}
        self.places = [np.array([list(units).index(name) for name in piece.names], np.intp) for piece in self.pieces]
        """Of each piece, where its numbers are among all dimensions."""

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(self._of_topic)

    def read(self, topic: str, msg: Any) -> list[tuple[int, NDArray[np.float64]]]:
        """(number of a piece, its numbers) for every piece that the message serves; what is unusable is refused.

        If several pieces share the topic, a message may have the names of some of them only.
        """
        found: list[tuple[int, NDArray[np.float64]]] = []
        numbers = self._of_topic[topic]
        there: Sequence[str] = ()
        refused = False
        for i in numbers:
            piece = self.pieces[i]
            try:
                there, values = _numbers(piece, msg)
                order = self._find(i, there, several=len(numbers) > 1)
                if order is None:
                    continue
                values = values[order]
                if not np.isfinite(values).all():
                    bad = [n for n, v in zip(piece.there, values, strict=True) if not np.isfinite(v)]
                    raise RefusedError("non_finite", f"{piece.read_field} of {bad} is not finite")
            except RefusedError as error:
                refused = True
                self._refuse(error.kind, str(error) if len(self._of_topic) == 1 else f"on {topic}: {error}")
                continue
            found.append((i, values if self._plain[i] else self._scale[i] * values + self._offset[i]))
        wanted = [name for i in numbers for name in self.pieces[i].there]
        if not found and not refused:
            self.names_seen.update(there)
            self._refuse("missing_name", _lacking(self.pieces[numbers[0]], there, wanted))
        elif found and self.pieces[numbers[0]].type in (JOINTS, TRAJECTORY) and len(there) > len(set(wanted)):
            self._count("unknown_name")  # not used, but said
        return found

    def stamp_ns(self, number: int, msg: Any, received_ns: int, *, by_log: bool = False) -> int | None:
        """When the numbers of a piece are in force; ``by_log``: as if the piece said so. None: it was refused."""
        piece = self.pieces[number]
        stamp = received_ns if by_log or piece.by_log else stamp_ns(msg)
        try:
            stamp = shifted_ns(stamp, piece.time_offset_s, received_ns)
        except RefusedError as error:
            self._refuse(error.kind, f"on {piece.topic}: {error}")
            return None
        if piece.type == TRAJECTORY:
            after = msg.points[0].time_from_start
            stamp += int(after.sec) * NS_PER_S + int(after.nanosec)
        return stamp

    def _find(self, number: int, there: Sequence[str], *, several: bool) -> NDArray[np.intp] | slice | None:
        """Where a piece's numbers are in a message; None if it is not for this piece."""
        piece = self.pieces[number]
        if piece.read_field == "data":
            return slice(None)
        known = self._order.get(number)
        if known is not None and known[0] == there:
            return known[1]
        if len(set(there)) != len(there):
            text = f"{_short(piece.type)} names {list(there)}: one of them twice"
            raise RefusedError("duplicate_name", text)
        index = {name: i for i, name in enumerate(there)}
        missing = [name for name in piece.there if name not in index]
        if len(missing) == len(piece.names) and several:
            return None
        if missing:
            self.names_seen.update(there)
            raise RefusedError("missing_name", _lacking(piece, there, missing))
        order = np.array([index[name] for name in piece.there], np.intp)
        self._order[number] = (type(there)(there), order)  # type: ignore[call-arg]
        return order


def _lacking(piece: Piece, there: Sequence[str], missing: Sequence[str]) -> str:
    return f"{_short(piece.type)} names {list(there)}; the contract also needs {list(missing)}"


def _short(kind: str) -> str:
    return kind.rpartition("/")[2]


def _numbers(piece: Piece, msg: Any) -> tuple[Sequence[str], NDArray[np.float64]]:
    """The names that a message has (none: they are in the piece's order), and the numbers of the piece's field."""
    kind, field = piece.type, piece.read_field
    if kind in (JOINTS, TRAJECTORY):
        if kind == JOINTS:
            names, values = msg.name, getattr(msg, field)
        else:
            if len(msg.points) != 1:  # a plan of several points is not what was executed
                raise RefusedError("wrong_points", f"a trajectory of {len(msg.points)} points; expected 1")
            names = msg.joint_names
            values = getattr(msg.points[0], field if field == "effort" else PLURAL[field])
        found = np.asarray(values, np.float64)
        if len(found) != len(names):
            raise RefusedError(
                "wrong_size", f"{len(names)} names and {len(found)} {PLURAL[field]} in one {_short(kind)}"
            )
        return names, found
    if field == "data":
        found = np.atleast_1d(np.asarray(msg.data, np.float64))
        if len(found) != len(piece.names):
            raise RefusedError(
                "wrong_size",
                f"{len(found)} numbers in one {_short(kind)}; the contract has {len(piece.names)} there: "
                f"{list(piece.names)}",
            )
        return (), found
    inner = getattr(msg, field, msg)
    if field == "pose":
        return tuple(_COMPONENTS["pose"]), _pose(inner)
    parts = (inner.linear, inner.angular) if field == "twist" else (inner.force, inner.torque)
    return tuple(_COMPONENTS[field]), np.array([getattr(part, axis) for part in parts for axis in "xyz"], np.float64)


def _pose(pose: Any) -> NDArray[np.float64]:
    """(13,) in the order of the components; a quaternion of no length gives NaN."""
    place, turn = pose.position, np.array([getattr(pose.orientation, axis) for axis in "xyzw"], np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y, z, w = unit = turn / np.linalg.norm(turn)
    if w < 0:
        x, y, z, w = unit = -unit
    half = math.hypot(x, y, z)
    angle = 2 * math.atan2(half, w)
    rotation = unit[:3] * (angle / half if half > 1e-12 else 2.0)
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = math.asin(max(-1.0, min(1.0, 2 * (w * y - z * x)))) if np.isfinite(w) else math.nan
    yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return np.array([place.x, place.y, place.z, *unit, *rotation, roll, pitch, yaw], np.float64)
