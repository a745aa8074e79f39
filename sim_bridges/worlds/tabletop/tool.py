"""Where the gripper is and how to get it there, for a tool that points straight down: closed-form kinematics.

The grasp point is the point between the finger pads. Yaw 0: the fingers close along the base's y.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from lavla_ros.control.kinematics import ChainKinematics
from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.typing import FloatArray
from sim_bridges.worlds.tabletop.robot import TOOL_LENGTH_M

assert MINICOBO.chain is not None
_ARM = ChainKinematics(MINICOBO.chain)
_ORIGINS_M = MINICOBO.chain.origin_xyz_m
SHOULDER_Z_M = _ORIGINS_M[0][2]
WRIST_ABOVE_GRASP_M = TOOL_LENGTH_M + _ORIGINS_M[5][1]
_SIDE_M = _ORIGINS_M[1][1]
_UPPER_M, _FORE_M = _ORIGINS_M[2][0], _ORIGINS_M[3][1]


def tool_down_joints(grasp_m: ArrayLike, yaw_rad: float) -> FloatArray:
    """(6,) joint positions with the tool straight down, elbow up, joint 4 at 0, the grasp point (3,) at ``grasp_m``.

    At yaw 0 the fingers close along the base's y; ``yaw_rad`` turns them about the vertical. Closed form: with
    the tool down the arm is a planar two-link one in the plane of joint 1. :func:`tool_of` is the inverse.
    Raises ValueError for a point out of reach.
    """
    x, y, z = (float(v) for v in np.asarray(grasp_m, dtype=np.float64))
    wrist_z = z + WRIST_ABOVE_GRASP_M
    side = _SIDE_M
    radial = math.sqrt(max(0.0, x * x + y * y - side * side))
    turn = math.atan2(y, x) - math.atan2(side, -radial)
    rise = wrist_z - SHOULDER_Z_M
    distance = math.hypot(radial, rise)
    bend = (distance * distance - _UPPER_M**2 - _FORE_M**2) / (2 * _UPPER_M * _FORE_M)
    if not -1.0 <= bend <= 1.0:
        raise ValueError(f"the grasp point {(x, y, z)} is out of reach: wrist {distance:.3f} m from the shoulder")
    elbow = math.acos(bend)
    shoulder = math.atan2(radial, rise) - math.atan2(_FORE_M * math.sin(elbow), _UPPER_M + _FORE_M * math.cos(elbow))
    turn = math.atan2(math.sin(turn), math.cos(turn))
    return np.array([turn, shoulder, elbow, 0.0, math.pi - shoulder - elbow, turn - yaw_rad])


def tool_of(q_rad: ArrayLike) -> tuple[FloatArray, float]:
    """Grasp point (3,) and yaw (rad) of the tool at joint positions (6,): inverse of :func:`tool_down_joints`."""
    pose = _ARM.forward(q_rad)
    return np.asarray(pose[:3, 3] + TOOL_LENGTH_M * pose[:3, 2]), math.atan2(-float(pose[0, 1]), float(pose[1, 1]))


def upright_tool_of(q_rad: ArrayLike) -> tuple[FloatArray, float]:
    """Grasp point (3,) and yaw the tool would have if only joints 4 and 5 were moved to point it straight down.

    The inverse of :func:`tool_down_joints`; a tool that leans keeps its wrist, so that straightening it up
    does not move the rest of the arm.
    """
    turn, shoulder, elbow, _, _, last = (float(v) for v in np.asarray(q_rad, dtype=np.float64))
    radial = _UPPER_M * math.sin(shoulder) + _FORE_M * math.sin(shoulder + elbow)
    height = SHOULDER_Z_M + _UPPER_M * math.cos(shoulder) + _FORE_M * math.cos(shoulder + elbow)
    c, s = math.cos(turn), math.sin(turn)
    point = np.array([-radial * c - _SIDE_M * s, -radial * s + _SIDE_M * c, height - WRIST_ABOVE_GRASP_M])
    return point, turn - last
