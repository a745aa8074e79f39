"""A stand-in for RoboTwin 2.0 that needs none of its assets: the interface of its tasks on a SAPIEN scene of boxes.

SAPIEN itself is imported when a task is set up.
"""

from __future__ import annotations

from sim_bridges.worlds.robotwin.standin.disturbance import DisturbanceConfig, DisturbanceSource
from sim_bridges.worlds.robotwin.standin.expert import Expert
from sim_bridges.worlds.robotwin.standin.instructions import instruction_of
from sim_bridges.worlds.robotwin.standin.task import StandinTask, UnStableError
from sim_bridges.worlds.robotwin.standin.tasks import TASK_TYPES, make_task

TASKS: tuple[str, ...] = tuple(TASK_TYPES)
"""Names of the tasks."""
STEP_LIMITS: dict[str, int] = {name: task.step_limit for name, task in TASK_TYPES.items()}
"""Commands of an evaluated episode, at most."""

__all__ = [
    "STEP_LIMITS",
    "TASKS",
    "DisturbanceConfig",
    "DisturbanceSource",
    "Expert",
    "StandinTask",
    "UnStableError",
    "instruction_of",
    "make_task",
]
