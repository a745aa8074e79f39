"""Prints every new warning and error of a stack's diagnostics once, in its terminal."""

from __future__ import annotations

import sys

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from lavla_ros.bringup.environment import enter_ros
from lavla_ros.ros.client import watch_problems


def main() -> int:
    """Until SIGINT or SIGTERM."""
    enter_ros()
    try:
        rclpy.init()
        node = Node("problems")
        watch_problems(node, lambda line: print(line, flush=True))
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
