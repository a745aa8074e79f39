"""Any arm that ros2_control moves: our stream of limited commands into one of its controllers, its state from
``/joint_states``. The driver itself (:mod:`lavla_ros.ros.ros2_control_driver`) loads rclpy; this file does not, so that
an arm's file is read without ROS.
"""

from __future__ import annotations

from lavla_ros.config import check
from lavla_ros.control.arm import Arm, ArmDriver, DriverKind, JointLimits
from lavla_ros.ros.ros2_control_options import Ros2ControlOptions


def _make(options: Ros2ControlOptions, limits: JointLimits, arm: Arm) -> ArmDriver:
    from lavla_ros.ros.gripper import with_gripper  # rclpy
    from lavla_ros.ros.ros2_control_driver import Ros2ControlDriver

    names = options.joints or arm.joint_names
    check(
        len(names) == len(arm.joint_names),
        "joints",
        names,
        f"one name for each of {list(arm.joint_names)}, in this order",
    )
    if options.has_gripper:
        check(
            options.gripper_joint not in names, "gripper_joint", options.gripper_joint, "a joint that is not the arm's"
        )
    driver = Ros2ControlDriver(options, names, arm.servo_period_ns)
    return with_gripper(driver, options, timeout_s=options.state_timeout_s, connect_timeout_s=options.connect_timeout_s)


ROS2_CONTROL = DriverKind(options=Ros2ControlOptions, make=_make, topics=lambda options: options.topics)
