"""Rotations (3, 3) of what commands give: roll, pitch, yaw or a rotation vector. Pure functions."""

from __future__ import annotations

import math

import numpy as np

from lavla_ros.typing import FloatArray


def rotation_from_rpy(roll_rad: float, pitch_rad: float, yaw_rad: float) -> FloatArray:
    """Rotation (3, 3) = Rz(yaw) Ry(pitch) Rx(roll). Exact zeros for right angles."""
    (cr, sr), (cp, sp), (cy, sy) = (_cos_sin(a) for a in (roll_rad, pitch_rad, yaw_rad))
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def _cos_sin(angle_rad: float) -> tuple[float, float]:
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    return (0.0 if abs(cos) < 1e-15 else cos), (0.0 if abs(sin) < 1e-15 else sin)


def rotation_from_vector(vector_3: FloatArray) -> FloatArray:
    """The rotation about ``vector_3`` by its length, rad."""
    angle = float(np.linalg.norm(vector_3))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector_3 / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    rotation: FloatArray = np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
    return rotation


def orthonormal(rotation_33: FloatArray) -> FloatArray:
    """The nearest rotation, so that rounding does not build up over a chunk."""
    u, _, vt = np.linalg.svd(rotation_33)
    nearest: FloatArray = u @ vt
    return nearest


def rpy_from_rotation(rotation_33: FloatArray) -> tuple[float, float, float]:
    """Roll, pitch, yaw, rad, of which :func:`rotation_from_rpy` makes the rotation; yaw is 0 at a pitch of 90°."""
    r = np.asarray(rotation_33, dtype=np.float64)
    level = math.hypot(r[0, 0], r[1, 0])
    pitch = math.atan2(-r[2, 0], level)
    if level < 1e-9:
        return math.atan2(-r[1, 2], r[1, 1]), pitch, 0.0
    return math.atan2(r[2, 1], r[2, 2]), pitch, math.atan2(r[1, 0], r[0, 0])
