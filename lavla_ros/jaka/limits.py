"""Joints of the MiniCobo and their limits."""

from __future__ import annotations

from lavla_ros.control.arm import JointLimits
from lavla_ros.jaka.units import deg_to_rad

JOINTS = 6
JOINT_NAMES = ("joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "joint_6")

SERVO_PERIOD_S = 0.008
"""Cycle of the controller's servo queue (125 Hz)."""
SERVO_MAX_SPEED_RAD_S = deg_to_rad(180.0)
"""A servo_j step faster than this has no effect (vendor document); 1.44° per 8 ms."""


MINICOBO_LIMITS = JointLimits(
    # Hardware manual; joint 3 is ±2.18 there and ±2.27 in the vendor's URDF: the narrower one holds.
    lower_rad=(-6.28, -2.09, -2.18, -6.28, -2.09, -6.28),
    upper_rad=(6.28, 2.09, 2.18, 6.28, 2.09, 6.28),
    # The URDF's 1.57 rad/s, half of what the manual allows (180 deg/s).
    velocity_rad_s=(1.57,) * JOINTS,
    # Not published. Chosen on the gentle side: full speed after about 0.4 s.
    acceleration_rad_s2=(5.0,) * JOINTS,
    jerk_rad_s3=(50.0,) * JOINTS,
)
