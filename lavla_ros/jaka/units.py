"""The only place where the controller's degrees and millimetres meet our radians and metres.

On the wire (vendor document "TCP protocol", v2.0.4): degrees, deg/s, deg/s², mm, mm/s, mm/s².
Everywhere else in this package: rad, m and their derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

DEG_PER_RAD = 180.0 / math.pi
RAD_PER_DEG = math.pi / 180.0
MM_PER_M = 1000.0


def rad_to_deg(value_rad: float) -> float:
    """One angle, angular speed or angular acceleration: rad → deg."""
    return value_rad * DEG_PER_RAD


def deg_to_rad(value_deg: float) -> float:
    """One angle, angular speed or angular acceleration: deg → rad."""
    return value_deg * RAD_PER_DEG


def m_to_mm(value_m: float) -> float:
    """One length, speed or acceleration: m → mm."""
    return value_m * MM_PER_M


def mm_to_m(value_mm: float) -> float:
    """One length, speed or acceleration: mm → m."""
    return value_mm / MM_PER_M


def joints_to_deg(joints_rad: Iterable[float]) -> list[float]:
    """Joint angles in rad → list of Python floats in deg, ready for JSON."""
    return [float(q) * DEG_PER_RAD for q in joints_rad]


def joints_to_rad(joints_deg: Iterable[float]) -> NDArray[np.float64]:
    """Joint angles in deg, as they came from JSON → array in rad, same length."""
    return np.array([float(q) * RAD_PER_DEG for q in joints_deg], dtype=np.float64)


def pose_to_wire(pose_44: NDArray[np.float64]) -> list[float]:
    """Homogeneous transform (4, 4), m → ``[x, y, z, rx, ry, rz]``, mm and deg, R = Rz(rz) Ry(ry) Rx(rx).

    At ry = ±90° only rx ∓ rz is defined; rz is 0 then.
    """
    r = pose_44[:3, :3]
    cos_ry = math.hypot(r[0, 0], r[1, 0])
    ry = math.atan2(-r[2, 0], cos_ry)
    if cos_ry > 1e-9:
        rx, rz = math.atan2(r[2, 1], r[2, 2]), math.atan2(r[1, 0], r[0, 0])
    else:
        rx, rz = math.atan2(-r[1, 2], r[1, 1]), 0.0
    return [m_to_mm(float(v)) for v in pose_44[:3, 3]] + joints_to_deg((rx, ry, rz))


def pose_from_wire(pose: Iterable[float]) -> NDArray[np.float64]:
    """``[x, y, z, rx, ry, rz]`` in mm and deg → homogeneous transform (4, 4) in m. Inverse of :func:`pose_to_wire`.

    Raises ValueError if there are not six finite numbers.
    """
    values = [float(v) for v in pose]
    if len(values) != 6 or not all(math.isfinite(v) for v in values):
        raise ValueError(f"a Cartesian pose is six finite numbers [x, y, z mm, rx, ry, rz deg], got {values}")
    cx, cy, cz = (math.cos(deg_to_rad(v)) for v in values[3:])
    sx, sy, sz = (math.sin(deg_to_rad(v)) for v in values[3:])
    pose_44 = np.eye(4)
    pose_44[:3, :3] = (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )
    pose_44[:3, 3] = [mm_to_m(v) for v in values[:3]]
    return pose_44
