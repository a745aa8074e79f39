"""Which suites there are, and the episodes of an evaluation of one.

The harness knows nothing about a simulator but what :mod:`sim_bridges.world` says, so that one joins by adding a line
to ``SUITES``, or from outside without changing the package: wherever a suite's name is expected,
``package.module:factory`` is one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from itertools import pairwise
from typing import Any, get_type_hints

from lavla_ros.config import ConfigError, from_plain
from lavla_ros.plugins import find
from lavla_ros.yaml_text import load_yaml
from sim_bridges.world import EpisodePlan, EpisodeStart, HasTasksWithoutExpert, Options, Suite, SuiteError
from sim_bridges.worlds import SUITES


def load_suite(name: str, options: Options | None = None) -> Suite:
    """The suite of this name, or of a ``module:factory``.

    A factory takes nothing, or its options as one frozen dataclass, in a parameter ``options`` with a default.
    Empty ``options`` are those that were not given. Raises SuiteError naming the suites that there are, or the option
    that this one does not have.
    """
    factory: Callable[..., Suite] = find(name, SUITES, "suite", SuiteError)
    given = {key: value for key, value in (options or {}).items() if value}
    kind = _options_of(factory)
    if kind is None:
        if given:
            raise SuiteError(f"suite {name} has no options; {sorted(given)} are given")
        return factory()
    texts = {f.name for f in fields(kind) if get_type_hints(kind)[f.name] is str}
    values = {key: value if key in texts else load_yaml(value) for key, value in given.items()}
    try:
        return factory(from_plain(kind, values, source=f"options of suite {name}"))
    except ConfigError as error:
        raise SuiteError(str(error)) from None


def options_of(name: str) -> dict[str, Any]:
    """The options of a suite and their defaults. Raises SuiteError as :func:`load_suite` does."""
    kind = _options_of(find(name, SUITES, "suite", SuiteError))
    return {} if kind is None else {f.name: f.default for f in fields(kind)}


def spell_options(arguments: Sequence[str], own: Mapping[str, inspect.Parameter]) -> list[str]:
    """A command's arguments with ``--name value`` written as ``-o name=value`` if ``name`` is an option of the suite.

    ``own``: parameters of the command itself, which are left alone. The suite is what ``--suite`` says, if that is one
    of them, else the first argument that names one, else the command's default; if there is none of that name, the
    command is left to say so.
    """
    if "suite" in own and own["suite"].kind is not inspect.Parameter.POSITIONAL_ONLY:
        given = [text for flag, text in pairwise(arguments) if flag == "--suite"]
    else:
        given = [text for text in arguments if text in SUITES or (":" in text and "=" not in text)]
    default = own["suite"].default if "suite" in own else ""
    suite = given[0] if given else default if isinstance(default, str) else ""
    try:
        names = set(options_of(suite)) - set(own)
    except SuiteError:
        return list(arguments)
    spelt: list[str] = []
    rest = iter(arguments)
    for text in rest:
        flag, equals, value = text.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in names:
            spelt.append(text)
        elif equals or (value := next(rest, "")):
            spelt += ["-o", f"{name}={value}"]
        else:
            raise SuiteError(f"{flag} of suite {suite} needs a value")
    return spelt


def _options_of(factory: Callable[..., Suite]) -> type[Any] | None:
    """The dataclass that the factory's parameter ``options`` is declared to be."""
    target = factory.func if isinstance(factory, partial) else factory
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    return hints.get("options")


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


def require_experts(suite: Suite, tasks: Sequence[str]) -> None:
    """Raises SuiteError if the suite knows that one of the tasks has no scripted expert."""
    if isinstance(suite, HasTasksWithoutExpert):
        for task in tasks:
            suite.require_expert(task)


def protocol_starts(suite: Suite, tasks: Sequence[str], *, episodes: int, seed: int) -> dict[str, list[EpisodeStart]]:
    """``episodes`` of every task. Raises SuiteError if the suite has fewer initial states than that."""
    return {task: [suite.plan(task, trial, seed) for trial in range(episodes)] for task in tasks}


def make_plans(
    starts: Mapping[str, Sequence[EpisodeStart]], *, max_steps: int, patience_steps: int | None = None
) -> tuple[EpisodePlan, ...]:
    """One episode for each start, numbered task by task; ``max_steps``, or a task's own limit if that is less."""
    listed = [(task, trial, start) for task, of_task in starts.items() for trial, start in enumerate(of_task)]
    return tuple(
        EpisodePlan(
            index=index,
            task=task,
            trial=trial,
            seed=start.seed,
            state_index=start.state_index,
            max_steps=min(max_steps, start.max_steps or max_steps),
            patience_steps=patience_steps,
            instruction=start.instruction,
        )
        for index, (task, trial, start) in enumerate(listed)
    )
