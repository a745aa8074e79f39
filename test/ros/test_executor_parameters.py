"""The executor node's configuration: a file gives everything, parameters come before it. And who may command."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from lavla_ros.control.arm import ConfigError
from lavla_ros.nodes.executor_parameters import ExecutorParameters
from lavla_ros.resources import config_path
from lavla_ros.ros.arbitration import UNNAMED, CommandSources
from lavla_ros.ros.parameters import ParameterError, declare

SHIPPED: dict[str, Any] = yaml.safe_load(config_path("control/jaka_minicobo.yaml").read_text())
OTHER = {
    "contract": None,  # set below: a copy of the shipped one
    "driver": "loopback",
    "host": "10.5.5.100",
    "port": 10011,
    "status_port": 10010,
    "power_on": True,
    "output_closes": False,
    "tool_output": 1,
    "collision_sensitivity": 3,
    "blend": "soft_mask",
    "realtime_priority": 20,
}


def keys(tree: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from keys(value, (*before, key))
        else:
            yield (*before, key)


def leaf(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def told(config: str, **given: Any) -> dict[str, Any]:
    """What the servo process gets from a node with these parameters."""
    context = Context()
    context.init()
    node = Node(
        "executor",
        context=context,
        parameter_overrides=[Parameter(name, value=value) for name, value in {"config": config, **given}.items()],
    )
    try:
        return declare(node, ExecutorParameters).servo_config().to_dict()
    finally:
        node.destroy_node()
        context.shutdown()


@pytest.mark.parametrize("path", list(keys(SHIPPED)), ids=".".join)
def test_every_key_of_the_file_reaches_the_servo_process(tmp_path: Path, path: tuple[str, ...]) -> None:
    tree = copy.deepcopy(SHIPPED)
    branch = tree
    for key in path[:-1]:
        branch = branch[key]
    old = branch[path[-1]]
    if path == ("contract",):
        new: Any = str(tmp_path / "mine.yaml")
        Path(new).write_text(config_path("contracts/jaka_minicobo.yaml").read_text())
    else:
        new = OTHER.get(path[-1], old * 0.9 if isinstance(old, float) else None)
    assert new is not None and new != old
    branch[path[-1]] = new
    file = tmp_path / "control.yaml"
    file.write_text(yaml.safe_dump(tree))
    assert leaf(told(str(file)), path) == new
    assert leaf(told("jaka_minicobo"), path) == old


def test_a_given_parameter_comes_before_the_file() -> None:
    found = told("jaka_minicobo", host="10.0.0.7", speed_scale=0.1, blend="soft_mask", replan_steps=4)
    assert found["driver"]["host"] == "10.0.0.7" and found["driver"]["tool_output"] == SHIPPED["driver"]["tool_output"]
    assert found["executor"]["speed_scale"] == 0.1 and found["executor"]["blend"] == "soft_mask"
    assert found["executor"]["chunk_timeout_s"] == pytest.approx(1.5 * 4 * 0.1)
    assert "chunk_timeout_s" not in told("jaka_minicobo")["executor"]
    assert told("jaka_minicobo", driver="loopback")["driver"] == {"driver": "loopback"}
    assert found["activate"] is False


@pytest.mark.parametrize(
    ("change", "text"),
    [({"hots": 1}, "hots"), ({"executor": {"speed_scael": 0.1}}, "speed_scael"),
     ({"executor": {"limits": {"velocity": 1.0}}}, "velocity"), ({"executor": {"speed_scale": 7.0}}, "speed_scale"),
     ({"driver": {"driver": "jaka_tcp", "host": "h", "power_on": "yes"}}, "power_on")],
)  # fmt: skip
def test_what_is_wrong_in_the_file_is_refused_by_name(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    file = tmp_path / "control.yaml"
    file.write_text(yaml.safe_dump(change))

    def use() -> None:
        from lavla_ros.control.servo_config import ServoConfig

        config = ServoConfig.from_dict(told(str(file)), source="here")
        config.executor_config(config.load_contract())

    with pytest.raises((ConfigError, ParameterError), match=text):
        use()


class Endpoint:
    def __init__(self, name: str, gid: int = 0) -> None:
        self.node_namespace, self.node_name, self.endpoint_gid = "/", name, [gid] * 16


@pytest.mark.parametrize(
    ("allowed", "names", "conflict"),
    [
        ("", ["policy"], ""),
        ("*", [], ""),
        ("*", ["policy", "teleop"], "/policy and /teleop"),
        ("*", ["policy", "policy"], "/policy and /policy"),
        ("policy", ["policy"], ""),
        ("policy", ["teleop"], "/teleop may not publish"),
        ("policy", ["policy", "teleop"], "/teleop may not publish"),
        ("policy, /teleop", ["policy", "teleop"], ""),
        ("policy, *", ["policy", "teleop"], ""),
        ("policy, *", ["policy", "teleop", "third"], "/third"),
        ("policy", ["policy", "policy"], "several nodes of the name /policy"),
    ],
)
def test_one_node_commands_the_arm(allowed: str, names: list[str], conflict: str) -> None:
    found = CommandSources(allowed).conflict([Endpoint(n) for n in names], 0)
    assert conflict in found if conflict else found is None, found


def test_a_publisher_without_a_node_counts_once_it_had_time_to_get_one() -> None:
    sources, both = CommandSources("*"), [Endpoint("policy"), Endpoint(UNNAMED, 7)]
    assert sources.conflict(both, 0) is None
    assert sources.conflict(both, 1_000_000_000) is None
    assert "without a node" in str(sources.conflict(both, 3_000_000_000))
