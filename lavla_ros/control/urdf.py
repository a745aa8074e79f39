"""The chain of joints between two links of a URDF file, with their limits.

Read with the standard library: messages name the joint at fault, and an arm can be described where nothing is computed.
Only joints are read: inertias, visual and collision shapes are not, so files of meshes may be missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from lavla_ros.config import ConfigError
from lavla_ros.control.chain import Chain, Vector, transform
from lavla_ros.control.rotations import rpy_from_rotation
from lavla_ros.typing import FloatArray

_MOVING = "revolute"


@dataclass(frozen=True, slots=True, kw_only=True)
class UrdfArm:
    """What a URDF says of an arm: geometry, and per joint in the chain's order the limits (rad, rad/s)."""

    chain: Chain
    lower_rad: tuple[float, ...]
    upper_rad: tuple[float, ...]
    velocity_rad_s: tuple[float, ...]
    skipped: tuple[str, ...]
    """What the file has besides, in words."""


def read_urdf(path: Path, *, base: str = "", tip: str = "") -> UrdfArm:
    """The revolute joints between the links ``base`` and ``tip``; fixed joints become part of the geometry.

    ``base``: empty: the root link. ``tip``: empty: the only link without children. Raises ConfigError naming the file,
    and the link or joint at fault: no such link, no way from base to tip, a joint that is continuous, prismatic or
    mimics another, limits that are missing or no numbers.
    """
    try:
        return _read(path, base, tip)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path, base: str, tip: str) -> UrdfArm:
    root = _parsed(path)
    links = [_name(link, "link") for link in root.findall("link")]
    if not links:
        raise ConfigError("there is no link in this file; is it a URDF?")
    above: dict[str, ElementTree.Element] = {}
    for joint in root.findall("joint"):
        child = _end(joint, "child", links)
        _end(joint, "parent", links)
        if child in above:
            raise ConfigError(
                f"link {child!r} is the child of two joints, {_name(above[child], 'joint')!r} and "
                f"{_name(joint, 'joint')!r}"
            )
        above[child] = joint
    parents = {_end(joint, "parent", links) for joint in above.values()}
    base = base or _only([link for link in links if link not in above], "root links", "base")
    tip = tip or _only([link for link in links if link not in parents], "links without children", "tip")
    for key, link in (("base", base), ("tip", tip)):
        if link not in links:
            raise ConfigError(f"{key} is {link!r}; expected a link of this file: {links}")
    way: list[ElementTree.Element] = []
    link = tip
    while link != base:
        if link not in above or len(way) > len(above):
            raise ConfigError(f"there is no way from base {base!r} to tip {tip!r}; it ends above {link!r}")
        way.append(above[link])
        link = _end(above[link], "parent", links)
    return _chain(root, way[::-1])


def _chain(root: ElementTree.Element, way: list[ElementTree.Element]) -> UrdfArm:
    names, xyz, rpy, axes, limits = [], [], [], [], []
    before: FloatArray | None = None
    for joint in way:
        name, kind = _name(joint, "joint"), joint.get("type", "")
        here_xyz, here_rpy = _origin(joint, name)
        if kind == "fixed":
            here = transform(here_xyz, here_rpy)
            before = here if before is None else before @ here
            continue
        _require_plain(joint, name, kind)
        if before is not None:
            here_xyz, here_rpy = _split(before @ transform(here_xyz, here_rpy))
            before = None
        names.append(name)
        xyz.append(here_xyz)
        rpy.append(here_rpy)
        axes.append(_axis(joint, name))
        limits.append(_limits(joint, name))
    flange_xyz, flange_rpy = _split(np.eye(4) if before is None else before)
    lower, upper, velocity = zip(*limits, strict=True) if limits else ((), (), ())
    return UrdfArm(
        chain=Chain(
            joint_names=tuple(names),
            origin_xyz_m=tuple(xyz),
            origin_rpy_rad=tuple(rpy),
            axis=tuple(axes),
            flange_xyz_m=flange_xyz,
            flange_rpy_rad=flange_rpy,
        ),
        lower_rad=lower,
        upper_rad=upper,
        velocity_rad_s=velocity,
        skipped=_skipped(root, way),
    )


def _parsed(path: Path) -> ElementTree.Element:
    if path.name.endswith((".xacro", ".xacro.xml")):
        raise ConfigError("this is a xacro file; expand it first: xacro FILE.xacro > FILE.urdf")
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from None
    except ElementTree.ParseError as error:
        raise ConfigError(f"not valid XML: {error}") from None
    if root.tag != "robot":
        raise ConfigError(f"the root element is <{root.tag}>; expected <robot>, as URDF has it")
    return root


def _require_plain(joint: ElementTree.Element, name: str, kind: str) -> None:
    if kind == "continuous":
        raise ConfigError(
            f"joint {name!r} is continuous, so it has no position limits, which every command has to keep; make it "
            "revolute, with the limits of the controller"
        )
    if kind != _MOVING:
        raise ConfigError(f"joint {name!r} between base and tip is {kind!r}; expected revolute or fixed")
    mimic = joint.find("mimic")
    if mimic is not None:
        raise ConfigError(
            f"joint {name!r} between base and tip mimics {mimic.get('joint')!r}; expected a joint that is commanded "
            "itself"
        )


def _limits(joint: ElementTree.Element, name: str) -> tuple[float, float, float]:
    limit = joint.find("limit")
    if limit is None or any(limit.get(key) is None for key in ("lower", "upper", "velocity")):
        raise ConfigError(f"joint {name!r} has no <limit lower=… upper=… velocity=…>: give the arm's own, in rad")
    lower, upper, velocity = (
        _numbers(limit, key, 1, f"joint {name!r}: limit")[0] for key in ("lower", "upper", "velocity")
    )
    if not (lower < upper and velocity > 0.0):
        raise ConfigError(
            f"joint {name!r} has limits {lower} to {upper} rad at {velocity} rad/s; expected lower < upper, and a "
            "velocity above 0"
        )
    return lower, upper, velocity


def _axis(joint: ElementTree.Element, name: str) -> Vector:
    element = joint.find("axis")
    axis = (1.0, 0.0, 0.0) if element is None else _vector(element, "xyz", f"joint {name!r}: axis", "1 0 0")
    length = math.hypot(*axis)
    if length < 1e-6:
        raise ConfigError(f"joint {name!r}: axis is {axis}; expected a direction")
    x, y, z = axis
    return axis if abs(length - 1.0) < 1e-12 else (x / length, y / length, z / length)


def _origin(joint: ElementTree.Element, name: str) -> tuple[Vector, Vector]:
    origin = joint.find("origin")
    if origin is None:
        return (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    where = f"joint {name!r}: origin"
    return _vector(origin, "xyz", where, "0 0 0"), _vector(origin, "rpy", where, "0 0 0")


def _vector(element: ElementTree.Element, key: str, where: str, default: str) -> Vector:
    x, y, z = _numbers(element, key, 3, where, default)
    return x, y, z


def _numbers(element: ElementTree.Element, key: str, count: int, where: str, default: str = "") -> list[float]:
    text = element.get(key, default)
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise ConfigError(f"{where} {key} is {text!r}; expected {count} finite numbers")
    return values


def _name(element: ElementTree.Element, kind: str) -> str:
    name = element.get("name")
    if not name:
        raise ConfigError(f"a {kind} of this file has no name")
    return name


def _end(joint: ElementTree.Element, key: str, links: list[str]) -> str:
    element = joint.find(key)
    link = "" if element is None else element.get("link", "")
    if link not in links:
        raise ConfigError(f"joint {_name(joint, 'joint')!r}: {key} is {link!r}, which is no link of this file")
    return link


def _only(found: list[str], what: str, key: str) -> str:
    if len(found) != 1:
        raise ConfigError(f"{key} must be given: this file has {len(found)} {what}, {found}")
    return found[0]


def _split(transform_44: FloatArray) -> tuple[Vector, Vector]:
    x, y, z = (float(v) for v in transform_44[:3, 3])
    return (x, y, z), rpy_from_rotation(transform_44[:3, :3])


def _skipped(root: ElementTree.Element, way: list[ElementTree.Element]) -> tuple[str, ...]:
    meshes = len({mesh.get("filename") for mesh in root.iter("mesh")})
    others = [_name(joint, "joint") for joint in root.findall("joint") if joint not in way]
    return (*([f"{meshes} files of meshes"] if meshes else []), *([f"the joints {others}"] if others else []))
