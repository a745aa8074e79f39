"""A default is written once: what several programs take has its default in one of them, or by a name."""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lavla_ros.bringup.stack import load_stack, read_arguments
from lavla_ros.yaml_text import load_yaml
from sim_bridges.suites import load_suite
from sim_bridges.worlds import DEFAULT_SUITE

ROOT = Path(__file__).parents[2]
PACKAGES = ("lavla_ros", "training", "sim_bridges", "benchmarks")
PLAIN = {repr(value) for value in (0, 1, 0.0, 1.0, "", True, False, None, (), [], {})}
"""Values that say only that nothing is set, or the neutral one."""
DIFFERENT_THINGS = {
    "batch_size", "commit_weight", "connect_timeout_s", "embedding", "episodes", "heads", "host", "hover_m",
    "image_size", "learning_rate", "log_every", "precision", "reach_m", "revision", "save_every", "seed",
    "silent_after_s", "step_limit", "steps", "timeout_s", "tokens", "validate_every", "validation_fraction", "weight",
    "weight_decay", "width",
}  # fmt: skip
"""Names that stand for another thing in each place: the models' widths, the trainings' steps, and so on."""

CHOSEN_BY_THE_STACK = {
    "approved", "contract", "episodes", "exit_when_done", "gamepad", "policy", "port", "replan_steps", "status_port",
    "timeout_s",
}  # fmt: skip
"""What depends on the robot, on the benchmark's protocol, or on whether somebody watches."""


def literal(node: ast.expr) -> str | None:
    try:
        return repr(ast.literal_eval(node))
    except ValueError:
        return None  # an expression: what it refers to is the one place


def defaults_of(file: Path) -> Iterator[tuple[str, str | None, int]]:
    """(name, default, line) of every dataclass field, node parameter and option of a command line."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None:
                    value = item.value
                    if isinstance(value, ast.Call) and getattr(value.func, "id", "") in ("parameter", "setting"):
                        if not value.args:
                            continue
                        value = value.args[0]
                    yield item.target.id, literal(value), item.lineno
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument" and node.args:
            name = (literal(node.args[0]) or "").strip("'-").replace("-", "_")
            yield from ((name, literal(k.value), node.lineno) for k in node.keywords if k.arg == "default")


def places() -> dict[tuple[str, str], set[str]]:
    """(name, default) → where it is written."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for name, value, line in defaults_of(file):
            if value is not None and value not in PLAIN and name not in DIFFERENT_THINGS:
                found[name, value].add(f"{file.relative_to(ROOT)}:{line}")
    return found


def test_no_default_is_written_twice() -> None:
    twice = {f"{name} = {value}": sorted(where) for (name, value), where in places().items() if len(where) > 1}
    assert twice == {}


def handed_on() -> Iterator[tuple[str, str, Any, Any]]:
    """(stack, argument, its default, the node's) of every argument that a stack gives to a node as it is."""
    for file in sorted((ROOT / "config" / "stacks").glob("*.yaml")):
        stack = load_yaml(file.read_text(encoding="utf-8"))
        declared = {argument.name: argument for argument in read_arguments(file)}
        for process in (
            process for process in stack.get("processes", ()) if "node" in process and "parameters" in process
        ):
            module = importlib.import_module(process["node"])
            (node,) = (
                value
                for value in vars(module).values()
                if isinstance(value, type) and value.__module__ == module.__name__ and hasattr(value, "parameters_type")
            )
            known = node.parameters_type.__dataclass_fields__
            for name, value in process["parameters"].items():
                argument = str(value).removeprefix("${").removesuffix("}")
                if value == f"${{{argument}}}" and argument in declared and name in known:
                    yield file.stem, argument, declared[argument].default, known[name].default


def test_a_stack_and_its_nodes_have_the_same_defaults() -> None:
    """A stack shows its defaults to people without loading a node; they are the node's own."""
    different = {(stack, name): (ours, nodes) for stack, name, ours, nodes in handed_on() if ours != nodes}
    assert {key: value for key, value in different.items() if key[1] not in CHOSEN_BY_THE_STACK} == {}


@pytest.mark.parametrize("name", ["lockstep", "libero_policy", "robotwin_policy", "jaka_policy"])
def test_a_stack_plans_as_often_as_its_suite(name: str) -> None:
    """The policy node of a stack has to be told; how often is the suite's rule, of the live stack the tabletop's."""
    processes = load_stack(name, {"policy": "runs/x"}, run_dir=Path("/nowhere")).processes
    told = {p.name: p.parameters for p in processes if p.parameters.get("replan_steps")}
    (suite,) = {parameters["suite"] for parameters in told.values() if "suite" in parameters} or {DEFAULT_SUITE}
    suite = {"robotwin": "robotwin_standin"}.get(suite, suite)  # the same rules, without a checkout
    steps = {process: parameters["replan_steps"] for process, parameters in told.items()}
    assert set(steps.values()) == {load_suite(suite).rules.replan_steps}, steps
