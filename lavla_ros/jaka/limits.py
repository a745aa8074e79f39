"""What all arms of the JAKA family have in common."""

from __future__ import annotations

from lavla_ros.jaka.units import deg_to_rad

JOINTS = 6
JOINT_NAMES = ("joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "joint_6")

SERVO_PERIOD_S = 0.008
"""Cycle of the controller's servo queue (125 Hz)."""
SERVO_MAX_SPEED_RAD_S = deg_to_rad(180.0)
"""A servo_j step faster than this has no effect (vendor document); 1.44° per 8 ms."""
