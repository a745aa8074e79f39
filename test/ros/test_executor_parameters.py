"""The executor node's configuration: a file gives everything, parameters come before it. And who may command."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from lavla_ros import topics
from lavla_ros.config import ConfigError
from lavla_ros.control.config import ExecutorOptions
from lavla_ros.control.servo_config import ServoConfig
from lavla_ros.jaka.driver_config import JakaDriverConfig
from lavla_ros.nodes.executor_node import ExecutorNode
from lavla_ros.nodes.executor_parameters import ExecutorParameters
from lavla_ros.resources import config_path
from lavla_ros.ros.arbitration import DISCOVERY_S, NAMELESS, UNNAMED, CommandSources, rivals_of
from lavla_ros.ros.executor_services import ExecutorServices
from lavla_ros.ros.parameters import ParameterError, declare, describe
from lavla_ros.ros.scope import Scope

SHIPPED: dict[str, Any] = yaml.safe_load(config_path("control/jaka_minicobo.yaml").read_text())
OTHER = {
    "contract": None,  # set below: a copy of the shipped one
    "loopback": True,
    "scene": "tabletop",
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
    if path == ("loopback",):
        del tree["arm"]  # a dry run has other options
    file = tmp_path / "control.yaml"
    file.write_text(yaml.safe_dump(tree))
    assert leaf(told(str(file)), path) == new
    assert leaf(told("jaka_minicobo"), path) == old


def test_a_given_parameter_comes_before_the_file() -> None:
    found = told("jaka_minicobo", **{"arm.host": "10.0.0.7"}, speed_scale=0.1, blend="soft_mask", replan_steps=4)
    assert found["arm"]["host"] == "10.0.0.7" and found["arm"]["tool_output"] == SHIPPED["arm"]["tool_output"]
    assert found["executor"]["speed_scale"] == 0.1 and found["executor"]["blend"] == "soft_mask"
    assert found["executor"]["chunk_timeout_s"] == pytest.approx(1.5 * 4 * 0.1)
    assert told("jaka_minicobo")["executor"]["chunk_timeout_s"] == 0.0
    assert told("jaka_minicobo", chunk_timeout_s=0.7)["executor"]["chunk_timeout_s"] == 0.7
    assert told("jaka_minicobo", loopback=True)["arm"] == {"start_rad": [], "power_on": True}
    assert told("jaka_minicobo", loopback=True, **{"arm.start_rad": [0.1] * 6})["arm"]["start_rad"] == [0.1] * 6
    assert found["arm"]["payload_kg"] is None
    assert told("jaka_minicobo", **{"arm.payload_kg": 0.4})["arm"]["payload_kg"] == 0.4
    assert found["activate"] is False


@pytest.mark.parametrize(
    ("change", "text"),
    [({"hots": 1}, "hots"), ({"executor": {"speed_scael": 0.1}}, "speed_scael"),
     ({"limits": {"velocity": 1.0}}, "velocity"), ({"executor": {"speed_scale": 7.0}}, "speed_scale"),
     ({"arm": {"host": "h", "power_on": "yes"}}, "power_on"), ({"arm": {"hots": "h"}}, "host must be given"),
     ({"arm": ["h"]}, "a mapping"), ({"contract": "no_such_robot"}, "no_such_robot")],
)  # fmt: skip
def test_what_is_wrong_in_the_file_is_refused_by_name(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    file = tmp_path / "control.yaml"
    file.write_text(yaml.safe_dump({"contract": "jaka_minicobo", "arm": {"host": "h"}} | change))

    def use() -> None:
        config = ServoConfig.from_dict(told(str(file)), source="here")
        config.executor_config(config.load_contract())

    with pytest.raises((ConfigError, ParameterError), match=text):
        use()


@pytest.mark.parametrize(
    ("given", "text"),
    [({"arm.tool_output": -1}, r"arm\.tool_output"), ({"speed_scale": 7.0}, "speed_scale"), ({"blend": "all"}, "blend"),
     ({"arm.power_on": "yes"}, r"arm\.power_on"), ({"state_timeout_s": float("nan")}, "state_timeout_s")],
)  # fmt: skip
def test_a_parameter_out_of_its_bounds_is_refused_by_name(given: dict[str, Any], text: str) -> None:
    with pytest.raises((ConfigError, ParameterError), match=text):
        told("jaka_minicobo", **given)


def test_no_default_is_written_twice() -> None:
    """The node declares what the dataclasses say, unless the file says otherwise."""
    empty = told("jaka_emulator")
    assert empty["executor"]["state_timeout_s"] == ExecutorOptions().state_timeout_s
    own = {f.name for f in fields(ExecutorParameters)}
    for kind in (ExecutorOptions, ServoConfig, JakaDriverConfig):
        assert not own & {name for name, _, _ in describe(kind)}


class Endpoint:
    def __init__(self, name: str, gid: int = 0, namespace: str = "/") -> None:
        self.node_namespace, self.node_name, self.endpoint_gid = namespace, name, [gid] * 16


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


def test_a_name_without_a_slash_is_of_the_executors_namespace() -> None:
    policy, stranger = Endpoint("policy", namespace="/left"), Endpoint("policy")
    for allowed in ("policy", "/left/policy"):
        sources = CommandSources(allowed, namespace="/left", topic="/left/action_chunk")
        assert sources.conflict([policy], 0) is None
        assert "/policy may not publish /left/action_chunk" in str(sources.conflict([stranger], 0))


def test_what_the_servo_process_answers_names_services_in_the_nodes_namespace() -> None:
    context = Context()
    context.init()
    node = ExecutorNode(context=context, namespace="/left")
    try:
        link: Any = SimpleNamespace(alive=True, reason="next: /executor/resume")
        services = ExecutorServices(Scope(node), link, lambda: None, (), {})
        answer = services._serve(topics.EXECUTOR_ACKNOWLEDGE, lambda _: True, None, Trigger.Response())
        assert answer.success and answer.message == "next: /left/executor/resume"
    finally:
        node.destroy_node()
        context.shutdown()


@pytest.mark.parametrize(("age_s", "rivals"), [(0.0, ["/policy"]), (DISCOVERY_S, [NAMELESS])])
def test_a_rival_is_waited_for_until_it_has_a_name(
    age_s: float, rivals: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([[], [NAMELESS], ["/policy"]] if not age_s else [[NAMELESS]])
    found = lambda *_: [SimpleNamespace(node=name) for name in next(looks)]  # noqa: E731
    monkeypatch.setattr("lavla_ros.ros.arbitration.publishers_of", found)
    assert rivals_of(SimpleNamespace(made_s=time.monotonic() - age_s), "action_chunk") == rivals


def test_a_publisher_without_a_node_counts_once_it_had_time_to_get_one() -> None:
    sources, both = CommandSources("*"), [Endpoint("policy"), Endpoint(UNNAMED, 7)]
    assert sources.conflict(both, 0) is None
    assert sources.conflict(both, 1_000_000_000) is None
    assert "without a node" in str(sources.conflict(both, 3_000_000_000))
