"""The arm's geometry: where its hand is for given joints, and the joints that bring it to a place.

Six revolute joints: yaw, shoulder, elbow, forearm roll, wrist, hand roll. The last three axes meet in one point (the
wrist), so that there is a closed solution: no iteration, no start value, the same answer every time.

Frames: the base's x points right, y forward, z up; all joints at zero, the arm stands upright and every link's frame is
parallel to the base's. The hand's z axis points out of the hand, its fingers open along x, its camera sits on +y.
"""

from __future__ import annotations

import math

import numpy as np

from lavla_ros.typing import FloatArray

SHOULDER_M = 0.16
"""Height of the shoulder above the base."""
UPPER_ARM_M = 0.33
FOREARM_M = 0.33
HAND_M = 0.165
"""From the wrist to the point between the fingertips that grips (the tool point)."""
LIMITS_RAD: tuple[tuple[float, float], ...] = (
    (-2.6, 2.6),
    (-1.6, 2.2),
    (0.05, 2.8),
    (-2.9, 2.9),
    (-0.2, 3.0),
    (-3.2, 3.2),
)
"""Lowest and highest position of each joint. The elbow stays bent forwards, so that there is one solution only."""


class OutOfReach(ValueError):
    """No joints within their limits bring the hand there."""


def forward(joints: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Tool point (3,) in metres and the hand's axes as columns (3, 3), in the base's frame, for joints (6,) in rad."""
    q1, q2, q3, q4, q5, q6 = (float(q) for q in joints)
    forearm = _about_z(q1) @ _about_x(-(q2 + q3))
    hand = forearm @ _about_z(q4) @ _about_x(-q5) @ _about_z(q6)
    reach = UPPER_ARM_M * math.sin(q2) + FOREARM_M * math.sin(q2 + q3)
    height = SHOULDER_M + UPPER_ARM_M * math.cos(q2) + FOREARM_M * math.cos(q2 + q3)
    wrist = np.array([-math.sin(q1) * reach, math.cos(q1) * reach, height])
    return wrist + HAND_M * hand[:, 2], hand


def inverse(point_m: FloatArray, hand: FloatArray) -> FloatArray:
    """Joints (6,) in rad that bring the tool point (3,) and the hand's axes (3, 3) there, in the base's frame.

    Raises OutOfReach.
    """
    wrist = point_m - HAND_M * hand[:, 2]
    q1 = math.atan2(-wrist[0], wrist[1])
    reach, height = math.hypot(wrist[0], wrist[1]), float(wrist[2]) - SHOULDER_M
    cosine = (reach**2 + height**2 - UPPER_ARM_M**2 - FOREARM_M**2) / (2 * UPPER_ARM_M * FOREARM_M)
    if not -1.0 <= cosine <= 1.0:
        raise OutOfReach(f"the wrist would be {math.hypot(reach, height):.3f} m from the shoulder, at {wrist} m")
    q3 = math.acos(cosine)
    q2 = math.atan2(reach, height) - math.atan2(FOREARM_M * math.sin(q3), UPPER_ARM_M + FOREARM_M * cosine)
    # The hand as the forearm sees it is a turn about z, one about -x and one about z again.
    seen = _about_x(q2 + q3) @ _about_z(-q1) @ hand
    q4 = math.atan2(-seen[0, 2], seen[1, 2])
    q5 = math.atan2(math.hypot(seen[0, 2], seen[1, 2]), seen[2, 2])
    q6 = math.atan2(-seen[2, 0], -seen[2, 1])
    joints = np.array([q1, q2, q3, q4, q5, q6])
    for index, (q, (low, high)) in enumerate(zip(joints, LIMITS_RAD, strict=True)):
        if not low <= q <= high:
            raise OutOfReach(f"joint {index + 1} would be at {q:.3f} rad; it goes from {low} to {high}")
    return joints


def hand_down(yaw_rad: float) -> FloatArray:
    """Axes (3, 3) of a hand that points down, its fingers opening along ``yaw_rad`` from x."""
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    return np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])


def _about_z(angle: float) -> FloatArray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _about_x(angle: float) -> FloatArray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
