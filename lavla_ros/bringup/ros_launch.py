"""A stack file as a launch description, for ``ros2 launch``. Needs launch and launch_ros (a ROS distribution).

What ``lavla up`` does is expressed with launch's own means: processes start once those they come
after are ready, and when one dies the ``stop_first`` ones (the executor) are stopped before all others.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, ExecuteProcess, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events import Shutdown, matches_action
from launch.events.process import SignalProcess
from launch_ros.actions import Node

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.bringup.stack import Process, load_stack, read_arguments


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
        given = {a.name: context.launch_configurations[a.name] for a in arguments}
        folder = Path(tempfile.mkdtemp(prefix="lavla-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # launch returns when every process has ended
        return _Supervisor(load_stack(stack, given, run_dir=folder).processes, folder).begin()

    return LaunchDescription([*declared, OpaqueFunction(function=start)])


class _Supervisor:
    """Turns events of processes (ready, dead) into the next actions."""

    def __init__(self, processes: tuple[Process, ...], run_dir: Path) -> None:
        self._waiting = list(processes)
        self._present = {p.name for p in processes}
        self._ready = {p.name for p in processes if p.ready is None}
        self._output: dict[str, str] = {}
        self._actions = {p.name: _action(p, run_dir) for p in processes}
        self._processes = {p.name: p for p in processes}
        self._dead: str | None = None

    def begin(self) -> list[Any]:
        handlers: list[Any] = []
        for name, action in self._actions.items():
            process = self._processes[name]

            def on_io(event: Any, process: Process = process) -> list[Any]:
                return self._on_output(process, event)

            def on_exit(event: Any, context: LaunchContext, process: Process = process) -> list[Any]:
                return self._on_exit(process, event, context)

            if process.ready is not None:
                handlers.append(
                    RegisterEventHandler(OnProcessIO(target_action=action, on_stdout=on_io, on_stderr=on_io))
                )
            handlers.append(RegisterEventHandler(OnProcessExit(target_action=action, on_exit=on_exit)))
        return [*handlers, *self._startable()]

    def _startable(self) -> list[Any]:
        found = [p for p in self._waiting if all(n in self._ready for n in p.after if n in self._present)]
        self._waiting = [p for p in self._waiting if p not in found]
        return [self._actions[p.name] for p in found]

    def _on_output(self, process: Process, event: Any) -> list[Any]:
        if process.name in self._ready or process.ready is None:
            return []
        self._output[process.name] = self._output.get(process.name, "") + event.text.decode(errors="replace")
        if not re.search(process.ready, self._output[process.name], re.MULTILINE):
            return []
        self._ready.add(process.name)
        return self._startable() if self._dead is None else []

    def _on_exit(self, process: Process, event: Any, context: LaunchContext) -> list[Any]:
        if context.is_shutdown:
            return []
        if self._dead is None and process.finishes and event.returncode == 0:
            return [EmitEvent(event=Shutdown(reason=f"{process.name} has finished"))]
        if self._dead is None:
            self._dead = f"{process.name} died with status {event.returncode}"
            self._waiting = []
            first = [
                self._actions[p.name]
                for p in self._processes.values()
                if p.stop_first and p is not process and self._actions[p.name].process_details is not None
            ]
            if first:
                return [
                    EmitEvent(event=SignalProcess(signal_number=signal.SIGINT, process_matcher=matches_action(action)))
                    for action in first
                ]
        # The arm is at rest: an exception here ends everything else, and launch with a non-zero status.
        raise RuntimeError(f"{self._dead}; the other processes are being stopped, the arm first")


def _action(process: Process, run_dir: Path) -> ExecuteProcess:
    environment = {k: v for k, v in ros_environment().items() if os.environ.get(k) != v} | dict(process.environment)
    common: dict[str, Any] = {
        "additional_env": environment,
        "output": "screen",
        "sigterm_timeout": "15",
        "sigkill_timeout": "5",
    }
    if not process.is_node:
        return ExecuteProcess(cmd=process.command(run_dir), name=process.name, **common)
    files = [str(process.parameter_file)] if process.parameter_file is not None else []
    values = [dict(process.parameters)] if process.parameters else []
    return Node(
        executable=sys.executable,
        name=process.name,
        exec_name=process.name,
        arguments=["-m", process.module, *process.arguments],
        parameters=[*files, *values],
        **common,
    )
