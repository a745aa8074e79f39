"""What there is to do for a goal: one object after another to be picked up and put down."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from sim_bridges.world import SuiteError
from sim_bridges.worlds.libero.tasks import LiberoTask

_OPEN_FROM_ABOVE = "_contain_region"
"""Regions of baskets, trays and caddies end so; those of drawers, shelves and microwaves do not."""
_NOT_GRIPPED = ("plate",)
"""Objects of these kinds are too flat and too wide for the fingers."""


class NoExpertError(SuiteError):
    """There is no scripted expert for this goal."""


@dataclass(frozen=True, slots=True)
class Job:
    """Put one object into a region that is open from above, or onto an object or a region; or turn a stove on."""

    predicate: Literal["in", "on", "turnon"]
    moved: str
    """The object's name in LIBERO's problem, such as ``milk_1``."""
    target: str = ""
    """Name of an object or of a site (a region)."""

    @property
    def state(self) -> list[str]:
        """As LIBERO writes it in a goal."""
        return [self.predicate, self.moved, *([self.target] if self.target else [])]

    def __str__(self) -> str:
        return " ".join(self.state)


def parse_jobs(problem: dict[str, Any]) -> tuple[Job, ...]:
    """The jobs of a parsed BDDL problem (its ``goal_state`` and ``initial_state``), in an order that can be kept.

    What the goal asks for and the initial state has already is no job. Raises NoExpertError, naming the reason, if
    something else remains than to put things that can be gripped where a hand reaches from above, or to turn on stoves.
    """
    begins = {_words(state) for state in problem["initial_state"]}
    jobs = [_job(state) for state in map(_words, problem["goal_state"]) if state not in begins]
    if not jobs:
        raise NoExpertError(f"no scripted expert: nothing is to be done for the goal {problem['goal_state']}")
    return tuple(_ordered(jobs))


def read_jobs(task: LiberoTask) -> tuple[Job, ...]:
    """The jobs of a task, from its file: LIBERO is not imported. Raises NoExpertError as :func:`parse_jobs` does."""
    parsing: Any = importlib.import_module("bddl.parsing")
    sections = {group[0]: group[1:] for group in parsing.scan_tokens(filename=str(task.bddl_file))[1:]}
    goal = sections[":goal"][0]
    return parse_jobs({"goal_state": goal[1:] if goal[0] == "and" else [goal], "initial_state": sections[":init"]})


def has_expert(task: LiberoTask) -> bool:
    try:
        return bool(read_jobs(task))
    except NoExpertError:
        return False


def _words(state: Sequence[object]) -> tuple[str, ...]:
    return tuple(str(word).lower() for word in state)


def _job(state: tuple[str, ...]) -> Job:
    predicate, *names = state
    wanted = " ".join(state)
    if predicate == "turnon":
        return Job("turnon", *names)
    if predicate not in ("in", "on") or len(names) != 2:
        raise NoExpertError(f"no scripted expert: {wanted!r} opens, closes or turns off something")
    moved, target = names
    if moved.rsplit("_", 1)[0] in _NOT_GRIPPED:
        raise NoExpertError(f"no scripted expert: {wanted!r} moves what is too flat and wide to be gripped")
    if predicate == "in" and not target.endswith(_OPEN_FROM_ABOVE):
        raise NoExpertError(f"no scripted expert: {wanted!r} puts something where no hand reaches from above")
    return Job(cast("Literal['in', 'on']", predicate), moved, target)


def _ordered(jobs: list[Job]) -> list[Job]:
    """As the goal names them, but what another object is put on or into is put in its own place before."""
    left, ordered = list(jobs), []
    while left:
        moved = [job.moved for job in left]
        ready = next((j for j in left if not any(_belongs(j.target, name) for name in moved if name != j.moved)), None)
        if ready is None:
            raise NoExpertError(f"no scripted expert: {', '.join(map(str, left))} cannot be done one after another")
        left.remove(ready)
        ordered.append(ready)
    return ordered


def _belongs(target: str, name: str) -> bool:
    """Whether a target is the object of that name or a region of it."""
    return target == name or target.startswith(f"{name}_")
