"""Prints every new warning and error of a stack's diagnostics once, in its terminal."""

from __future__ import annotations

import signal
import sys

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from lavla_ros.bringup.environment import enter_ros
from lavla_ros.errors import one_line_errors
from lavla_ros.ros.client import spin, watch_problems
from lavla_ros.ros.process import secured


def main() -> int:
    """Until SIGINT or SIGTERM."""
    watching: list[bool] = []

    def interrupt(*_: object) -> None:
        if not watching:  # from then on rclpy ends the spinning; an exception would come in the middle of a message
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    enter_ros()
    try:
        with one_line_errors("problems"), secured():
            rclpy.init()
            node = Node("problems")
        watch_problems(node, lambda line: print(line, flush=True))
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        watching.append(True)
        spin(executor)
    except KeyboardInterrupt:
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
