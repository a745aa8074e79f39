"""An arm as a YAML file (``config/arms/*.yaml``): geometry, limits, tool, and how it is driven.

.. code-block:: yaml

    urdf: my_arm.urdf             # beside this file; or joints: a list of name, xyz_m, rpy_deg and axis
    tip: flange                   # link of the URDF; empty: its only link without children
    tool: {xyz_m: [0, 0, 0.14], mass_kg: 0.4}
    payload_kg: 5.0               # what the arm carries at most, the tool included
    limits: {velocity_rad_s: 1.0, acceleration_rad_s2: 5.0, jerk_rad_s3: 50.0}   # the rest is the URDF's
    servo_period_s: 0.008
    driver: jaka_tcp              # a name of DRIVERS, or module:attribute of a DriverKind
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from lavla_ros.config import ConfigError, check, check_settings, read_config, setting
from lavla_ros.control.arm import Arm, ArmDriver, DriverKind, JointLimits, Payload
from lavla_ros.control.chain import Chain, Vector
from lavla_ros.control.kinematics import ChainKinematics
from lavla_ros.control.scene import Capsule
from lavla_ros.control.urdf import UrdfArm, read_urdf
from lavla_ros.plugins import find

_log = logging.getLogger(__name__)

DRIVERS = {
    "jaka_tcp": "lavla_ros.ros.jaka_tcp:JAKA_TCP",
    "loopback": "lavla_ros.control.loopback:LOOPBACK",
    "ros2_control": "lavla_ros.ros.ros2_control:ROS2_CONTROL",
}
"""Name → ``module:attribute`` of a :class:`~lavla_ros.control.arm.DriverKind`, imported when it is asked for."""
JOINT_COUNTS = (6, 7)
_NONE = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class JointOrigin:
    """A revolute joint, as a URDF describes it."""

    name: str
    xyz_m: tuple[float, ...]
    """Origin in the frame of the joint before it (of the base), m."""
    rpy_deg: tuple[float, ...] = _NONE
    """Roll, pitch, yaw of its frame there, degrees, so that right angles are exact."""
    axis: tuple[float, ...] = (0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """What is mounted on the flange."""

    xyz_m: tuple[float, ...] = _NONE
    """The end effector in the frame of the flange, m: what poses are the poses of."""
    rpy_deg: tuple[float, ...] = _NONE
    mass_kg: float = setting(0.0, low=0.0, high=1000.0, unit="kg")
    centroid_m: tuple[float, ...] = _NONE
    """Centre of mass in the frame of the flange, m."""

    def __post_init__(self) -> None:
        check_settings(self, "tool.")
        for name in ("xyz_m", "rpy_deg", "centroid_m"):
            _vector(getattr(self, name), f"tool.{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitFigures:
    """Limits, one value for all joints or one per joint. Position and velocity not given are the URDF's."""

    lower_rad: float | tuple[float, ...] | None = None
    upper_rad: float | tuple[float, ...] | None = None
    velocity_rad_s: float | tuple[float, ...] | None = None
    acceleration_rad_s2: float | tuple[float, ...] | None = None
    jerk_rad_s3: float | tuple[float, ...] | None = None
    source: Mapping[str, str] = field(default_factory=dict)
    """Where the figures are from, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFile:
    """The keys of the file. Raises ConfigError for values that contradict one another."""

    urdf: str = ""
    """URDF file, relative to this one."""
    joints: tuple[JointOrigin, ...] = ()
    """The geometry, if there is no URDF."""
    base: str = ""
    """Link of the URDF that poses are relative to; empty: its root."""
    tip: str = ""
    """Link of the URDF that is the flange; empty: its only link without children."""
    tool: Tool = field(default_factory=Tool)
    capsules: tuple[Capsule, ...] = ()
    """The shape of the links, for what must not be touched (``scene``); empty: a guess from the geometry."""
    payload_kg: float | None = setting(None, low=0.0, high=1000.0, unit="kg")
    """What the arm carries at most, the tool included; not given: not checked."""
    limits: LimitFigures = field(default_factory=LimitFigures)
    start_rad: tuple[float, ...] = ()
    """Where a dry run begins; empty: the middle of the limits."""
    poses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Joint positions by name, rad: what the arm can be told to go to."""
    servo_period_s: float = setting(0.008, low=0.001, high=0.1, unit="s")
    """Time from one command to the next."""
    driver: str

    def __post_init__(self) -> None:
        check_settings(self)
        check(bool(self.urdf) != bool(self.joints), "urdf", self.urdf, "a URDF file, or joints, and not both")
        for name in ("base", "tip"):
            check(not (self.joints and getattr(self, name)), name, getattr(self, name), "nothing: it is for a URDF")
        if self.payload_kg is not None:
            check(
                self.tool.mass_kg <= self.payload_kg,
                "tool.mass_kg",
                self.tool.mass_kg,
                f"at most the arm's payload_kg ({self.payload_kg} kg)",
            )


def load_arm(path: Path) -> Arm:
    """The arm that a file describes.

    Raises ConfigError naming the file and what is wrong in it, or in its URDF.
    """
    file = read_config(ArmFile, path)
    try:
        return _arm(file, path)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _arm(file: ArmFile, path: Path) -> Arm:
    urdf = read_urdf(path.parent / file.urdf, base=file.base, tip=file.tip) if file.urdf else None
    chain = _geometry(file, urdf)
    joints = len(chain.joint_names)
    if joints not in JOINT_COUNTS:
        raise ConfigError(
            f"the arm has {joints} joints, {list(chain.joint_names)}; expected 6 or 7. Write any other one as a module "
            "(docs/how_to/add_an_arm.md)"
        )
    if urdf is not None and urdf.skipped:
        _log.info("%s: not needed for kinematics and not read: %s", file.urdf, ", ".join(urdf.skipped))
    limits = _limits(file.limits, chain, urdf)
    kind = find(file.driver, DRIVERS, "driver", ConfigError)
    if not isinstance(kind, DriverKind):
        raise ConfigError(f"driver {file.driver!r} is {kind!r}; expected an instance of {DriverKind.__name__}")

    def driver(options: object, limits: JointLimits) -> ArmDriver:
        return kind.make(options, limits, arm)

    arm = Arm(
        joint_names=chain.joint_names,
        limits=limits,
        servo_period_ns=round(file.servo_period_s * 1e9),
        options=kind.options,
        driver=driver,
        kinematics=ChainKinematics(chain),
        chain=chain,
        capsules=file.capsules,
        name=path.stem,
        payload=Payload(
            limit_kg=math.inf if file.payload_kg is None else file.payload_kg,
            tool_kg=file.tool.mass_kg,
            tool_centroid_m=_vector(file.tool.centroid_m, "tool.centroid_m"),
        ),
        leave_servo=kind.leave_servo,
        topics=kind.topics,
        start_rad=file.start_rad,
        poses=file.poses,
    )
    return arm


def _geometry(file: ArmFile, urdf: UrdfArm | None) -> Chain:
    tool_xyz_m, tool_rpy_rad = _vector(file.tool.xyz_m, "tool.xyz_m"), _radians(file.tool.rpy_deg, "tool.rpy_deg")
    if urdf is not None:
        return replace(urdf.chain, tool_xyz_m=tool_xyz_m, tool_rpy_rad=tool_rpy_rad)
    where = [f"joints[{i}]" for i in range(len(file.joints))]
    return Chain(
        joint_names=tuple(j.name for j in file.joints),
        origin_xyz_m=tuple(_vector(j.xyz_m, f"{w}.xyz_m") for j, w in zip(file.joints, where, strict=True)),
        origin_rpy_rad=tuple(_radians(j.rpy_deg, f"{w}.rpy_deg") for j, w in zip(file.joints, where, strict=True)),
        axis=tuple(_vector(j.axis, f"{w}.axis") for j, w in zip(file.joints, where, strict=True)),
        tool_xyz_m=tool_xyz_m,
        tool_rpy_rad=tool_rpy_rad,
    )


def _limits(figures: LimitFigures, chain: Chain, urdf: UrdfArm | None) -> JointLimits:
    names = chain.joint_names
    values: dict[str, tuple[float, ...]] = {}
    for name in (f.name for f in fields(JointLimits)):
        given, theirs = getattr(figures, name), None if urdf is None else getattr(urdf, name, None)
        if given is None and theirs is None:
            where = "a URDF does not have it" if urdf is not None else "there is no URDF that has it"
            raise ConfigError(f"limits.{name} must be given: {where}")
        each = theirs if given is None else given if isinstance(given, tuple) else (given,) * len(names)
        assert each is not None
        check(len(each) == len(names), f"limits.{name}", given, f"one value, or one for each of {list(names)}")
        values[name] = each
        if theirs is None:
            continue
        sign = -1.0 if name == "lower_rad" else 1.0
        for joint, ours, urdfs in zip(names, each, theirs, strict=True):
            if sign * ours > sign * urdfs:
                raise ConfigError(
                    f"limits.{name} of {joint!r} is {ours}, which is wider than the URDF's {urdfs}; narrow it, or "
                    "correct the URDF if the arm's manual says so"
                )
    try:
        return JointLimits(**values)
    except ConfigError as error:
        raise ConfigError(f"limits: {error}") from None


def _radians(degrees: tuple[float, ...], key: str) -> Vector:
    x, y, z = (math.radians(v) for v in _vector(degrees, key))
    return x, y, z


def _vector(values: tuple[float, ...], key: str) -> Vector:
    check(len(values) == 3 and all(map(math.isfinite, values)), key, values, "three finite numbers")
    x, y, z = values
    return x, y, z
