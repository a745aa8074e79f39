"""The geometry of an arm as data: its joints one after the other, and the tool at its end.

Reading it needs no library of kinematics; :mod:`lavla_ros.control.kinematics` computes with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from lavla_ros.config import ConfigError
from lavla_ros.control.rotations import rotation_from_rpy
from lavla_ros.typing import FloatArray

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Revolute joints in a row, in the convention of URDF: translate, then Rz(yaw) Ry(pitch) Rx(roll), then turn.

    Raises ConfigError if the lengths differ, a number is not finite or an axis is no unit vector.
    """

    joint_names: tuple[str, ...]
    """From the base to the flange."""
    origin_xyz_m: tuple[Vector, ...]
    """Origin of each joint in the frame before it, m. The first one is the base frame's."""
    origin_rpy_rad: tuple[Vector, ...]
    """Roll, pitch, yaw of each joint in the frame before it, rad."""
    axis: tuple[Vector, ...] = ()
    """Unit vector that each joint turns about, in its own frame; empty: z for every joint."""
    flange_xyz_m: Vector = (0.0, 0.0, 0.0)
    """The flange in the frame of the last joint, m."""
    flange_rpy_rad: Vector = (0.0, 0.0, 0.0)
    tool_xyz_m: Vector = (0.0, 0.0, 0.0)
    """The end effector in the frame of the flange, m: what poses are the poses of."""
    tool_rpy_rad: Vector = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        joints = len(self.joint_names)
        if not joints or len(set(self.joint_names)) != joints:
            raise ConfigError(f"joint_names of a chain is {self.joint_names}; expected one or more, each name once")
        if not self.axis:
            object.__setattr__(self, "axis", ((0.0, 0.0, 1.0),) * joints)
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "joint_names":
                continue
            each = value if isinstance(value[0], tuple) else (value,)
            if isinstance(value[0], tuple) and len(value) != joints:
                raise ConfigError(f"{f.name}: {len(value)} values for the {joints} joints {self.joint_names}")
            if not all(len(vector) == 3 and all(map(math.isfinite, vector)) for vector in each):
                raise ConfigError(f"{f.name} is {value}; expected three finite numbers each")
        for name, axis in zip(self.joint_names, self.axis, strict=True):
            if abs(math.hypot(*axis) - 1.0) > 1e-6:
                raise ConfigError(f"axis of joint {name!r} is {axis}; expected a unit vector")

    def fixed_J44(self) -> FloatArray:
        """Each joint's frame in the one before it at joint position 0, (J, 4, 4)."""
        return np.array([transform(xyz, rpy) for xyz, rpy in zip(self.origin_xyz_m, self.origin_rpy_rad, strict=True)])

    def flange_44(self) -> FloatArray:
        """The flange in the frame of the last joint, (4, 4)."""
        return transform(self.flange_xyz_m, self.flange_rpy_rad)

    def tip_44(self) -> FloatArray:
        """The end effector in the frame of the last joint, (4, 4)."""
        tip: FloatArray = self.flange_44() @ transform(self.tool_xyz_m, self.tool_rpy_rad)
        return tip


def transform(xyz_m: Vector, rpy_rad: Vector) -> FloatArray:
    """The homogeneous transform (4, 4) of an origin in URDF. Right angles have exact zeros."""
    out = np.eye(4)
    out[:3, :3] = rotation_from_rpy(*rpy_rad)
    out[:3, 3] = xyz_m
    return out
