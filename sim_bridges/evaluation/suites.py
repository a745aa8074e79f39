"""Which suites there are, and the episodes of an evaluation of one.

The harness knows nothing about a simulator but what :mod:`sim_bridges.world` says, so that one joins by adding a line
to ``SUITES``, or from outside without changing the package: wherever a suite's name is expected,
``package.module:factory`` is one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence

from sim_bridges.world import Options, Plan, Start, Suite, SuiteError

SUITES = {
    "tabletop": "sim_bridges.evaluation.tabletop:TabletopSuite",
    "libero_spatial": "sim_bridges.evaluation.libero:libero_spatial",
    "libero_object": "sim_bridges.evaluation.libero:libero_object",
    "libero_goal": "sim_bridges.evaluation.libero:libero_goal",
    "libero_10": "sim_bridges.evaluation.libero:libero_10",
    "libero_90": "sim_bridges.evaluation.libero:libero_90",
    "robotwin": "sim_bridges.evaluation.robotwin:robotwin",
    "robotwin_standin": "sim_bridges.evaluation.robotwin:robotwin_standin",
}
"""Name → factory of the suites that come with the package."""


def load_suite(name: str, options: Options | None = None) -> Suite:
    """The suite of this name, or of a ``module:factory``; ``options`` go to the factory as keyword arguments.

    Raises SuiteError naming the suites that there are, or the option that this one does not have.
    """
    target = SUITES.get(name, name)
    if ":" not in target:
        raise SuiteError(f"there is no suite {name!r}; there are {sorted(SUITES)}, or give your own as module:factory")
    module, _, attribute = target.partition(":")
    try:
        factory: Callable[..., Suite] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is not None and not module.startswith(error.name):
            raise  # something that the module itself needs
        raise SuiteError(f"suite {name!r}: there is no module {module!r} on this Python's path") from None
    except AttributeError:
        raise SuiteError(f"suite {name!r}: module {module!r} has no {attribute!r}") from None
    given = {key: value for key, value in (options or {}).items() if value}
    try:
        return factory(**given)
    except TypeError as error:
        if given:
            raise SuiteError(f"suite {name} does not take {sorted(given)} as they are: {error}") from None
        raise


def choose_tasks(suite: Suite, wanted: Sequence[str]) -> tuple[str, ...]:
    """Tasks by name, by number or by the name of a set of them (``suite.task_sets``), in the suite's order; the suite's
    default ones where none is wanted.

    Raises SuiteError naming the tasks that there are.
    """
    sets: Mapping[str, Sequence[str]] = getattr(suite, "task_sets", {})
    wanted = [task for text in wanted for task in sets.get(text, (text,))]
    if not wanted:
        return suite.default_tasks
    names = []
    for text in wanted:
        if text in suite.tasks:
            names.append(text)
        elif text.isdecimal() and int(text) < len(suite.tasks):
            names.append(suite.tasks[int(text)])
        else:
            known = "\n  ".join(f"{i}: {name}" for i, name in enumerate(suite.tasks))
            raise SuiteError(f"suite {suite.name} has no task {text!r}; it has\n  {known}")
    return tuple(task for task in suite.tasks if task in names)


def protocol_starts(suite: Suite, tasks: Sequence[str], *, episodes: int, seed: int) -> dict[str, list[Start]]:
    """``episodes`` of every task. Raises SuiteError where the suite has fewer initial states than that."""
    return {task: [suite.plan(task, trial, seed) for trial in range(episodes)] for task in tasks}


def make_plans(starts: Mapping[str, Sequence[Start]], *, max_steps: int) -> tuple[Plan, ...]:
    """One episode for each start, numbered task by task; ``max_steps``, or a task's own limit where that is less."""
    listed = [(task, trial, start) for task, of_task in starts.items() for trial, start in enumerate(of_task)]
    return tuple(
        Plan(
            index=index,
            task=task,
            trial=trial,
            seed=start.seed,
            state_index=start.state_index,
            max_steps=min(max_steps, start.max_steps or max_steps),
            instruction=start.instruction,
        )
        for index, (task, trial, start) in enumerate(listed)
    )
