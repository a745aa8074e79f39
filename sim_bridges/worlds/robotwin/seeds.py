"""Which seeds are episodes: those that the expert solves, each with its instruction. RoboTwin's rule.

The list is a JSON file, so that another checkpoint meets the same episodes::

    {"schema": 1, "source": "…", "hash": "…", "instructions": "unseen",
     "tasks": {"stack_blocks_two": [{"seed": 100000, "instruction": "…"}, {"seed": 100001, "rejected": "no plan …"}]}}

Every seed that was tried is in it, in order, so that a search goes on where it stopped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim_bridges.files import write_json
from sim_bridges.worlds.robotwin.environment import RobotwinEnvironment, RobotwinError
from sim_bridges.worlds.robotwin.task_source import Instructions, Provenance, TaskSource

SCHEMA = 1
MOST_REJECTED_IN_A_ROW = 50
"""After as many the search gives up: something is wrong with more than a seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A seed that the expert was let loose on."""

    seed: int
    instruction: str = ""
    rejected: str = ""
    """Why it is no episode; empty if it is one."""

    def to_dict(self) -> dict[str, Any]:
        words = {"rejected": self.rejected} if self.rejected else {"instruction": self.instruction}
        return {"seed": self.seed, **words}


def first_seed(seed: int) -> int:
    """The first that RoboTwin tries in an evaluation of this seed."""
    return 100_000 * (1 + seed)


def try_seed(
    environment: RobotwinEnvironment, source: TaskSource, seed: int, kind: Instructions, task: str = ""
) -> Tried:
    """Let the expert try it. The environment must be reset afterwards."""
    try:
        environment.reset(seed)
        played = environment.demonstrate()
    except RobotwinError as error:
        return Tried(seed=seed, rejected=str(error))
    if not played.solved:
        return Tried(seed=seed, rejected=played.reason)
    words = source.instruction(task or environment.name, seed, played.info, kind)
    return Tried(seed=seed, instruction=words)


def accepted(
    task: str,
    first: int,
    known: Iterable[Tried],
    tries: Callable[[int], Generator[Tried]],
    *,
    most_rejected: int = MOST_REJECTED_IN_A_ROW,
    on_tried: Callable[[Tried], None] = lambda tried: None,
) -> Generator[Tried]:
    """The episodes of a task in order, without end: of ``known``, then of ``tries(seed)``, which goes on from there.

    Raises RobotwinError after ``most_rejected`` seeds in a row, saying what became of them.
    """
    in_a_row: list[Tried] = []

    def all_tried() -> Generator[Tried]:
        following = first
        for tried in known:
            following = tried.seed + 1
            yield tried
        with closing(tries(following)) as new:
            for tried in new:
                on_tried(tried)
                yield tried

    with closing(all_tried()) as rows:
        for tried in rows:
            if not tried.rejected:
                in_a_row = []
                yield tried
                continue
            in_a_row.append(tried)
            if len(in_a_row) >= most_rejected:
                reasons = Counter(each.rejected for each in in_a_row)
                words = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common(3))
                raise RobotwinError(
                    f"the expert solves none of {len(in_a_row)} seeds of {task} in a row, {in_a_row[0].seed} to "
                    f"{in_a_row[-1].seed} ({words}); episodes that were found before are kept"
                )


class SeedFile:
    """The list on the disk."""

    def __init__(self, path: Path, provenance: Provenance, kind: Instructions) -> None:
        """Reads what is there. Raises RobotwinError for a list of another source or kind of instructions, or none."""
        self.path = path
        self.tasks: dict[str, list[Tried]] = {}
        self._head: dict[str, Any] = {
            "schema": SCHEMA,
            "source": provenance.source,
            "hash": provenance.hash,
            "instructions": kind,
        }
        if path.exists():
            self._read()

    def accepted(self, task: str) -> list[Tried]:
        return [tried for tried in self.tasks.get(task, []) if not tried.rejected]

    def add(self, task: str, tried: Tried) -> None:
        """Keep it, durably. Raises RobotwinError if the disk does not take it."""
        self.tasks.setdefault(task, []).append(tried)
        self.write()

    def write(self) -> None:
        tasks = {task: [tried.to_dict() for tried in rows] for task, rows in self.tasks.items()}
        try:
            write_json(self.path, {**self._head, "tasks": tasks})
        except OSError as error:
            raise RobotwinError(f"cannot write {self.path}: {error.strerror or error}; what it held is kept") from error

    def _read(self) -> None:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            rows = {str(task): [_tried(row) for row in tried] for task, tried in data["tasks"].items()}
            head: Mapping[str, Any] = {key: data[key] for key in self._head}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RobotwinError(f"{self.path} is no list of seeds ({type(error).__name__}: {error})") from None
        wrong = [key for key in ("schema", "hash", "instructions") if head[key] != self._head[key]]
        if wrong:
            words = "; ".join(f"{key} {head[key]!r} there, {self._head[key]!r} now" for key in wrong)
            raise RobotwinError(f"{self.path} is a list of other episodes ({words}); give another file or folder")
        self.tasks = rows


def _tried(row: Mapping[str, Any]) -> Tried:
    return Tried(
        seed=int(row["seed"]), instruction=str(row.get("instruction", "")), rejected=str(row.get("rejected", ""))
    )
