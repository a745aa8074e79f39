"""A JAKA arm, with its gripper on a digital output or with one that a ros2_control controller moves. Only the latter
loads rclpy, in the servo process.
"""

from __future__ import annotations

from lavla_ros.control.arm import Arm, ArmDriver, DriverKind, JointLimits
from lavla_ros.jaka.driver import JakaDriverConfig, JakaTcpDriver, leave_servo_mode


def _make(options: JakaDriverConfig, limits: JointLimits, arm: Arm) -> ArmDriver:
    driver = JakaTcpDriver(options, limits, arm)
    if not options.has_gripper:
        return driver
    from lavla_ros.ros.gripper import with_gripper  # rclpy

    return with_gripper(
        driver,
        options,
        timeout_s=options.status_timeout_s,
        concern_s=0.5 * options.status_timeout_s,
        connect_timeout_s=options.connect_timeout_s,
    )


JAKA_TCP = DriverKind(
    options=JakaDriverConfig,
    make=_make,
    leave_servo=leave_servo_mode,
    topics=lambda options: options.gripper_topics,
)
