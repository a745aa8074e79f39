"""A policy in any simulator, or its expert: ``ros2 launch lavla_ros lockstep.launch.py --show-args``."""

from launch import LaunchDescription

from lavla_ros.bringup.ros_launch import launch_description


def generate_launch_description() -> LaunchDescription:
    return launch_description("lockstep")
