"""The stand-in's tasks as a :class:`sim_bridges.worlds.robotwin.task_source.TaskSource`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lavla_ros.contract import Contract
from sim_bridges.worlds.robotwin import standin
from sim_bridges.worlds.robotwin.environment import RobotwinEnvironment
from sim_bridges.worlds.robotwin.standin.instructions import all_instructions
from sim_bridges.worlds.robotwin.standin.tasks import TASK_TYPES
from sim_bridges.worlds.robotwin.task_source import Instructions, Provenance, require_task


class StandinSource:
    """A TaskSource whose tasks are the stand-in's."""

    suite = "robotwin_standin"
    tasks = standin.TASKS
    distributions = ("sapien", "numpy")

    def step_limit(self, task: str) -> int:
        return standin.STEP_LIMITS[task]

    def environment(self, task: str, contract: Contract) -> RobotwinEnvironment:
        require_task(self, task)
        return RobotwinEnvironment(standin.make_task(task), {"eval_mode": True}, name=task, contract=contract)

    def instruction(self, task: str, seed: int, info: Mapping[str, Any], kind: Instructions) -> str:
        """A template of the kind, drawn with the seed."""
        return standin.instruction_of(task, seed, info, kind)

    def seen_instructions(self, task: str, seed: int) -> tuple[str, ...]:
        return tuple(all_instructions(task, TASK_TYPES[task].words_of(seed), "seen"))

    def disturbance(self, seed: int) -> standin.DisturbanceSource:
        return standin.DisturbanceSource(standin.DisturbanceConfig(), seed)

    def provenance(self) -> Provenance:
        folder = Path(standin.__file__).parent
        digest = hashlib.sha256()
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
        return Provenance(
            source="part of the package",
            hash=digest.hexdigest()[:16],
            comparable=False,
            statement="The stand-in has RoboTwin's interface, but scenes and tasks of its own.",
        )
