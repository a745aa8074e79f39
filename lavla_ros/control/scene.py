"""The solid shapes around an arm, and of the arm itself: what a cell is, as data (``config/scenes/*.yaml``).

Lengths are metres in the arm's base frame unless a field says otherwise. :mod:`lavla_ros.control.clearance` computes
distances between these shapes; :mod:`lavla_ros.control.shield` keeps them above the margins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavla_ros.config import ConfigError, check, check_settings, read_config, setting
from lavla_ros.resources import config_file

Point = tuple[float, float, float]
BASE = "base"
"""The link that does not move."""
SINGULAR = "singular posture"
"""What the arm is compared with if ``Scene.singular_margin`` is set."""
_FARTHEST_M = 100.0


def _own_margin() -> Any:
    return setting(None, "Least distance of the arm from this one; null: the scene's.", low=0.0, high=1.0, unit="m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capsule:
    """A cylinder with round ends that moves with a link. Raises ConfigError for a radius that is not positive."""

    name: str
    """Named in messages and by ``Scene.ignore``."""
    link: str
    """The joint that carries it: it is fixed in the frame after that joint. ``base``: it does not move."""
    start_m: Point
    """One end of the middle line, in the link's frame."""
    end_m: Point
    """The other end; the same point makes a sphere."""
    radius_m: float = setting(help="Radius around the middle line.", low=0.001, high=1.0, unit="m")

    def __post_init__(self) -> None:
        check_settings(self, f"capsule {self.name}: ")
        for what in ("start_m", "end_m"):
            _check_point(f"capsule {self.name}: {what}", getattr(self, what))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Everything behind it is solid: a table, a wall, a ceiling."""

    name: str
    point_m: Point
    """Any point of the plane."""
    normal: Point
    """Points into the free space; any length."""
    margin_m: float | None = _own_margin()

    def __post_init__(self) -> None:
        check_settings(self, f"plane {self.name}: ")
        _check_point(f"plane {self.name}: point_m", self.point_m)
        _check_point(f"plane {self.name}: normal", self.normal)
        check(math.hypot(*self.normal) > 1e-6, f"plane {self.name}: normal", self.normal, "a vector that is not zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A solid box: a fixture, a camera stand, a zone to be kept out of."""

    name: str
    centre_m: Point
    size_m: Point
    """Full lengths of the edges."""
    rpy_rad: Point = (0.0, 0.0, 0.0)
    """Roll, pitch and yaw of the edges: R = Rz(yaw) Ry(pitch) Rx(roll)."""
    margin_m: float | None = _own_margin()

    def __post_init__(self) -> None:
        check_settings(self, f"box {self.name}: ")
        for what in ("centre_m", "size_m", "rpy_rad"):
            _check_point(f"box {self.name}: {what}", getattr(self, what))
        check(min(self.size_m) > 0, f"box {self.name}: size_m", self.size_m, "three positive lengths")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The tool's tip stays inside of this box."""

    low_m: Point
    high_m: Point

    def __post_init__(self) -> None:
        for what in ("low_m", "high_m"):
            _check_point(f"workspace: {what}", getattr(self, what))
        below = all(low < high for low, high in zip(self.low_m, self.high_m, strict=True))
        check(below, "workspace: low_m", self.low_m, f"below high_m {self.high_m} in every coordinate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One cell. Raises ConfigError for values that contradict one another."""

    planes: tuple[Plane, ...] = ()
    boxes: tuple[Box, ...] = ()
    workspace: Workspace | None = None
    tool: tuple[Capsule, ...] = ()
    """The gripper, its cables and what it carries, beside the capsules of the arm."""
    tip_m: Point = (0.0, 0.0, 0.0)
    """The tool's tip in the frame after the last joint; the workspace is kept by it."""
    tool_speed_m_s: float | None = setting(
        None,
        "Largest speed of the tip: a faster plan is followed more slowly. 0.25 is what standards call reduced speed. "
        "null: the joints' limits alone.",
        low=0.01,
        high=10.0,
        unit="m/s",
    )
    singular_margin: float = setting(
        0.0,
        "Least smallest singular value of the tip's Jacobian, whose rows in m/rad are divided by the arm's length (the "
        "sum of its links), so that it has no unit: an arm near 0 cannot move its tip in some direction. It is kept as "
        "the margins are. 0: singular postures are allowed.",
        low=0.0,
        high=0.5,
    )
    margin_m: float = setting(0.01, "Least distance of the arm from planes and boxes.", low=0.0, high=1.0, unit="m")
    self_margin_m: float = setting(
        0.01, "Least distance of the arm's parts from one another.", low=0.0, high=1.0, unit="m"
    )
    ignore: tuple[tuple[str, str], ...] = ()
    """Pairs of names that are not compared: capsules, planes, boxes."""

    def __post_init__(self) -> None:
        check_settings(self, "scene: ")
        _check_point("scene: tip_m", self.tip_m)
        names = [plane.name for plane in self.planes] + [box.name for box in self.boxes] + [c.name for c in self.tool]
        twice = sorted({name for name in names if names.count(name) > 1})
        check(not twice, "scene: the names", twice, "each name once")
        check(all(names), "scene: a name", "", "a name for every shape")


def load_scene(name: str | Path) -> Scene:
    """A YAML file by its path, or the shipped ``config/scenes/NAME.yaml``. Raises ConfigError."""
    try:
        return read_config(Scene, config_file(name, "scenes"))
    except FileNotFoundError as error:
        raise ConfigError(f"scene {str(name)!r}: {error}; or give a YAML file") from None


def _check_point(key: str, value: Point) -> None:
    ok = len(value) == 3 and all(math.isfinite(v) and abs(v) <= _FARTHEST_M for v in value)
    check(ok, key, value, f"three finite numbers of at most {_FARTHEST_M:g}")
