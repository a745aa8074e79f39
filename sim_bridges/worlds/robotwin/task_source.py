"""What tasks come from; :mod:`.sources` opens one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from lavla_ros.contract import Contract
from sim_bridges.world import Disturbance
from sim_bridges.worlds.robotwin.environment import RobotwinEnvironment, RobotwinError

Instructions = Literal["seen", "unseen"]
"""Which of RoboTwin's two sets of instruction templates: ``seen`` for training, ``unseen`` for evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What the episodes are made of."""

    source: str
    hash: str
    """Over what decides an episode beside the seed."""
    comparable: bool
    """Whether it is RoboTwin itself."""
    statement: str


class TaskSource(Protocol):
    """Making one is cheap: no simulator, no pictures."""

    @property
    def suite(self) -> str:
        """Name that its episodes are known by."""

    @property
    def tasks(self) -> tuple[str, ...]: ...

    def step_limit(self, task: str) -> int:
        """Commands after which an episode has failed."""

    def environment(self, task: str, contract: Contract) -> RobotwinEnvironment:
        """Raises RobotwinError for an unknown task, or naming what this machine lacks."""

    def instruction(self, task: str, seed: int, info: Mapping[str, Any], kind: Instructions) -> str:
        """The instruction of an episode, a function of its seed: equal arguments give equal words."""

    def disturbance(self, seed: int) -> Disturbance:
        """Pushes for an expert's commands. Raises RobotwinError if its expert does not act through commands."""

    def provenance(self) -> Provenance: ...

    @property
    def distributions(self) -> tuple[str, ...]:
        """Those whose versions decide the bits of an episode."""


@runtime_checkable
class KnowsSeen(Protocol):
    """A source that can tell an episode's instructions without playing it."""

    def seen_instructions(self, task: str, seed: int) -> tuple[str, ...]:
        """All from the templates to train with."""
        ...


def require_task(source: TaskSource, task: str) -> None:
    """Raises RobotwinError naming the tasks that there are."""
    if task not in source.tasks:
        raise RobotwinError(f"there is no task {task!r}; there are {', '.join(source.tasks)}")
