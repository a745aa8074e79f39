"""What holds of every node of the package: it answers, and it leaves rclpy's own attributes alone."""

from __future__ import annotations

import ast
import errno
import importlib
import inspect
import pkgutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import ListParameters
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_harness import NodeProcess, World, wait_until

import lavla_ros.nodes
import sim_bridges
from lavla_ros.bringup.environment import ros_environment
from lavla_ros.config import ConfigError
from lavla_ros.ros.lifecycle import LavlaNode

pytestmark = pytest.mark.long

HOOKS = {"on_configure", "on_activate", "on_deactivate", "on_cleanup", "on_shutdown", "destroy_node"}
"""Methods of rclpy's that are there to be overridden."""


def node_classes() -> list[type[Any]]:
    """Every rclpy node that the package defines."""
    modules = [m.name for m in pkgutil.iter_modules(lavla_ros.nodes.__path__, "lavla_ros.nodes.")]
    modules += [m.name for m in pkgutil.walk_packages(sim_bridges.__path__, "sim_bridges.") if m.name.endswith("node")]
    found = {
        value
        for name in modules
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, type) and issubclass(value, Node) and value.__module__.split(".")[0] != "rclpy"
    }
    return sorted(found, key=lambda c: c.__name__)


CLASSES = node_classes()
LAVLA_NODES = [c for c in CLASSES if issubclass(c, LavlaNode) and c.__subclasses__() == []]


def test_the_nodes_are_found() -> None:
    names = {c.__name__ for c in CLASSES}
    assert {"CameraNode", "ExecutorNode", "PolicyNode", "RecorderNode", "TabletopCameraNode", "Conductor"} <= names
    assert {"LockstepNode", "RecordConsole", "LavlaNode"} <= names


def assigned(cls: type[Any]) -> set[str]:
    """Names that the class and its bases up to rclpy's define, or assign on ``self``."""
    names: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.split(".")[0] not in ("lavla_ros", "sim_bridges"):
            continue
        names |= {name for name in vars(base) if not name.startswith("__")}
        for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(base)))):
            if isinstance(node, ast.ClassDef) and node.name == base.__name__:
                names |= {
                    target.attr
                    for target in ast.walk(node)
                    if isinstance(target, ast.Attribute)
                    and isinstance(target.ctx, ast.Store)
                    and isinstance(target.value, ast.Name)
                    and target.value.id == "self"
                }
    return names


def test_no_attribute_of_rclpys_node_is_overwritten(world: World) -> None:
    plain = LifecycleNode("plain", context=world.context)
    try:
        theirs = set(dir(plain))
    finally:
        plain.destroy_node()
    assert "_services" in theirs
    found = {cls.__name__: names for cls in CLASSES if (names := (assigned(cls) & theirs) - HOOKS)}
    assert not found, f"rclpy needs these itself; name them otherwise: {found}"


@pytest.mark.parametrize("cls", LAVLA_NODES, ids=lambda c: c.__name__)
def test_answers_lifecycle_and_parameter_services(world: World, cls: type[Any]) -> None:
    node = cls(context=world.context, parameter_overrides=[Parameter("contract", value="jaka_minicobo")])
    world.spin(node)
    try:

        def answer(kind: Any, name: str) -> Any:
            client = world.node.create_client(kind, f"{node.get_fully_qualified_name()}/{name}")
            assert client.wait_for_service(10.0), name
            future = client.call_async(kind.Request())
            wait_until(future.done, f"answer of {name}")
            return future.result()

        assert answer(GetState, "get_state").current_state.label == "unconfigured"
        assert set(answer(ListParameters, "list_parameters").result.names) >= {"autostart", "diagnostics_period_s"}
    finally:
        world.forget(node)
        node.destroy_node()


@pytest.mark.parametrize(
    ("error", "traced"),
    [
        (ValueError("shapes (3,) and (4,) do not fit"), True),
        (ConfigError("rate_hz is 0; expected more"), False),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "runs/policy"), False),
    ],
)
def test_only_a_fault_of_the_program_is_logged_with_its_traceback(
    error: Exception, traced: bool, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    class Faulty(LavlaNode):
        def setup(self) -> None:
            raise error

    node = Faulty("faulty", context=world.context)
    try:
        assert not node.bring_up()
        assert node.fault == f"cannot configure: {error}"
        assert ("Traceback" in capfd.readouterr().err) == traced
    finally:
        node.destroy_node()


@pytest.mark.parametrize("module", ["lavla_ros.nodes.recorder_node", "lavla_ros.nodes.problems"])
def test_what_sros_refuses_is_one_line(module: str) -> None:
    """No wheel of Fast DDS has security, so that any node is refused; without a keystore every one is."""
    environment = {name: value for name, value in ros_environment().items() if name != "ROS_SECURITY_KEYSTORE"}
    environment |= {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce"}
    command = [sys.executable, "-m", module]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30.0, check=False)
    assert ended.returncode == 1 and "ROS refuses to start with SROS 2 (" in ended.stderr, ended.stderr
    assert "ROS_SECURITY_KEYSTORE is not set: see docs/network.md" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_any_number_of_signals_at_once_ends_a_node_in_order(tmp_path: Path) -> None:
    """A handler must never wait for what it has interrupted."""
    for _ in range(3):
        process = NodeProcess("lavla_ros.nodes.recorder_node", "recorder", {"root": str(tmp_path)}, tmp_path)
        process.wait_ready()
        for number in (signal.SIGINT, signal.SIGTERM) * 200:
            if process.popen.poll() is None:
                process.popen.send_signal(number)
        assert process.wait_exit() == 0, process.output
