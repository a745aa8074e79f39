"""A policy in RoboTwin 2.0, or its expert: ``ros2 launch lavla_ros robotwin_policy.launch.py --show-args``."""

from launch import LaunchDescription

from lavla_ros.bringup.ros_launch import launch_description


def generate_launch_description() -> LaunchDescription:
    return launch_description("robotwin_policy")
