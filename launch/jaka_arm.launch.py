"""A JAKA arm of any model and its executor: ``ros2 launch lavla_ros jaka_arm.launch.py --show-args``."""

from launch import LaunchDescription

from lavla_ros.bringup.ros_launch import launch_description


def generate_launch_description() -> LaunchDescription:
    return launch_description("jaka_arm")
