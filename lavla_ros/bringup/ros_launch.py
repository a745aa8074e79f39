"""A stack file as a launch description, for ``ros2 launch``. Needs launch (a ROS distribution).

launch starts one process, ``lavla up``, which starts, watches and stops the stack's own: launch stops all of its
processes at once and lets go of them when it is terminated itself, and neither will do if an arm has to come to
rest first.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, ExecuteProcess, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnShutdown
from launch.events import Shutdown, matches_action
from launch.events.process import SignalProcess

from lavla_ros.bringup.interpreter import stack_python
from lavla_ros.bringup.stack import read_arguments
from lavla_ros.lifeline import lifeline
from lavla_ros.resources import share_path


def launch_description(stack: str) -> LaunchDescription:
    """The launch description of one of ``config/stacks``; its arguments are launch arguments."""
    arguments = read_arguments(stack)
    declared = [
        DeclareLaunchArgument(
            a.name,
            default_value=str(a.default).lower() if isinstance(a.default, bool) else str(a.default),
            description=a.description,
            **({"choices": list(a.choices)} if a.choices else {}),
        )
        for a in arguments
    ]

    def start(context: LaunchContext) -> list[Any]:
        given = [f"{a.name}:={context.launch_configurations[a.name]}" for a in arguments]
        # A checkout, and the packages of this interpreter's overlay, are found by the other one as well.
        path = os.pathsep.join([str(share_path()), *filter(None, [os.environ.get("PYTHONPATH")])])
        up = ExecuteProcess(
            cmd=[stack_python(os.environ | {"PYTHONPATH": path}), "-m", "lavla_ros.bringup", stack, *given],
            name=stack,
            additional_env={"PYTHONPATH": path, **lifeline()},
            output="screen",
            sigterm_timeout="60",  # the arm comes to rest, bags are closed
            sigkill_timeout="10",
        )
        # By itself launch takes it that the terminal has sent its SIGINT to all.
        stop = EmitEvent(event=SignalProcess(signal_number=signal.SIGINT, process_matcher=matches_action(up)))
        return [
            RegisterEventHandler(OnProcessExit(target_action=up, on_exit=_on_exit)),
            RegisterEventHandler(OnShutdown(on_shutdown=[stop])),
            up,
        ]

    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def _on_exit(event: Any, context: LaunchContext) -> list[Any]:
    if context.is_shutdown:
        return []
    if event.returncode != 0:
        raise RuntimeError(f"the stack ended with status {event.returncode}")  # and launch with a non-zero one
    return [EmitEvent(event=Shutdown(reason="the stack has finished"))]
