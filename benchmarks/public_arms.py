"""Five arms by public figures: two of ours, and two from other vendors' tables of Denavit-Hartenberg parameters."""

from __future__ import annotations

import math
from dataclasses import replace

from lavla_ros.control.arm import Arm, JointLimits
from lavla_ros.control.arms import arm_named
from lavla_ros.control.chain import Chain

_QUARTER, _TURN = math.pi / 2, 2 * math.pi


def _chain(
    rows: list[tuple[tuple[float, float, float], float]], flange_xyz_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Chain:
    """Rows of origin (m) and roll (rad): what modified Denavit-Hartenberg parameters come to without offsets."""
    return Chain(
        joint_names=tuple(f"joint_{i + 1}" for i in range(len(rows))),
        origin_xyz_m=tuple(xyz for xyz, _ in rows),
        origin_rpy_rad=tuple((roll, 0.0, 0.0) for _, roll in rows),
        flange_xyz_m=flange_xyz_m,
    )


def _limits(lower: tuple[float, ...], upper: tuple[float, ...]) -> JointLimits:
    joints = len(lower)
    return JointLimits(
        lower_rad=lower,
        upper_rad=upper,
        velocity_rad_s=(2.0,) * joints,
        acceleration_rad_s2=(5.0,) * joints,
        jerk_rad_s3=(50.0,) * joints,
    )


UR5E = _chain(
    # Universal Robots' parameters of the UR5e (d1 162.5, a2 -425, a3 -392.2, d4 133.3, d5 99.7, d6 99.6 mm), with x
    # turned by half a turn so that the arm lies along +x at 0.
    [
        ((0.0, 0.0, 0.1625), 0.0),
        ((0.0, 0.0, 0.0), -_QUARTER),
        ((0.425, 0.0, 0.0), 0.0),
        ((0.3922, 0.0, 0.1333), 0.0),
        ((0.0, 0.0997, 0.0), -_QUARTER),
        ((0.0, -0.0996, 0.0), _QUARTER),
    ]
)
PANDA = _chain(
    # Franka's modified parameters of the Panda: d1 333, d3 316, a4 82.5, a5 -82.5, d5 384, a7 88, flange 107 mm.
    [
        ((0.0, 0.0, 0.333), 0.0),
        ((0.0, 0.0, 0.0), -_QUARTER),
        ((0.0, -0.316, 0.0), _QUARTER),
        ((0.0825, 0.0, 0.0), _QUARTER),
        ((-0.0825, 0.384, 0.0), -_QUARTER),
        ((0.0, 0.0, 0.0), _QUARTER),
        ((0.088, 0.0, 0.0), _QUARTER),
    ],
    flange_xyz_m=(0.0, 0.0, 0.107),
)
FIGURES = {
    "ur5e": (UR5E, _limits((-_TURN,) * 2 + (-math.pi,) + (-_TURN,) * 3, (_TURN,) * 2 + (math.pi,) + (_TURN,) * 3)),
    "panda": (
        PANDA,
        _limits(
            (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
            (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
        ),
    ),
}
"""By name: what no arm of ours is."""


def as_arm(chain: Chain, limits: JointLimits) -> Arm:
    """An arm of this chain and these limits, and otherwise a MiniCobo."""
    like, names = arm_named("jaka_minicobo"), chain.joint_names
    return replace(like, joint_names=names, limits=limits, chain=chain, start_rad=(), poses={}, capsules=())


ARMS = {
    **{name: (arm.chain, arm.limits) for name in ("jaka_minicobo", "jaka_zu5", "jaka_a5") if (arm := arm_named(name))},
    **FIGURES,
}
