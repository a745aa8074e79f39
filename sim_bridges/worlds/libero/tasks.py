"""LIBERO's suites and tasks, read from the installed package's files: nothing of it is imported.

Importing it loads torch, writes a configuration into the user's home, and asks questions on the terminal.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lavla_ros.errors import UserError

STEP_LIMITS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Suite → actions after which an episode has failed; the waiting steps come on top. The limits are those of OpenVLA's,
OpenVLA-OFT's and openpi's evaluations."""

SUITES = tuple(STEP_LIMITS)

PROTOCOL_SEED = 7
PROTOCOL_TRIALS = 50
"""Of each task: its recorded initial states, in order."""

_INSTALL = "run `make`, or pip install --no-deps hf-libero==0.1.4 robosuite==1.4.0 bddl==1.0.1 (docs/libero.md)"


class LiberoError(UserError, ValueError):
    """LIBERO cannot do what was asked; the message names the value at fault and what there is instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiberoTask:
    """One task of a suite."""

    suite: str
    index: int
    """Its number in the suite."""
    name: str
    instruction: str
    bddl_file: Path
    """The scene and the goal."""
    initial_states_file: Path

    @property
    def step_limit(self) -> int:
        return STEP_LIMITS[self.suite]


def find_task(suite: str, task: int | str) -> LiberoTask:
    """The task of this number (also as text) or name. Raises LiberoError naming those that there are."""
    tasks = suite_tasks(suite)
    text = str(task)
    for found in tasks:
        if text in (found.name, str(found.index)):
            return found
    known = "\n  ".join(f"{t.index}: {t.name}" for t in tasks)
    raise LiberoError(f"suite {suite} has no task {task!r}; expected 0 to {len(tasks) - 1} or a name:\n  {known}")


@cache
def suite_tasks(suite: str) -> tuple[LiberoTask, ...]:
    """The tasks of a suite, in the benchmark's order. Raises LiberoError for an unknown suite, or without LIBERO."""
    if suite not in STEP_LIMITS:
        raise LiberoError(f"there is no suite {suite!r} in LIBERO; there are {list(SUITES)}")
    package = package_folder()
    names = runpy.run_path(str(package / "benchmark" / "libero_suite_task_map.py"))["libero_task_map"][suite]
    return tuple(
        LiberoTask(
            suite=suite,
            index=index,
            name=name,
            instruction=instruction_of(name),
            bddl_file=package / "bddl_files" / suite / f"{name}.bddl",
            initial_states_file=package / "init_files" / suite / f"{name}.pruned_init",
        )
        for index, name in enumerate(names)
    )


def instruction_of(name: str) -> str:
    """``KITCHEN_SCENE3_turn_on_the_stove`` → "turn on the stove": the instruction of the standard protocol."""
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", name).replace("_", " ")


def package_folder() -> Path:
    """Where ``libero.libero`` is installed. Raises LiberoError if it is not."""
    spec = importlib.util.find_spec("libero")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        if (Path(folder) / "libero" / "bddl_files").is_dir():
            return Path(folder) / "libero"
    raise LiberoError(f"LIBERO is not installed in this environment: {_INSTALL}")
