"""docs/how_to/add_an_arm.md, done: an arm from outside the tree, with other joints, driven by the servo process."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from lavla_ros.bringup.stack import load_stack
from lavla_ros.config import ConfigError
from lavla_ros.contract import ActionChunk, load_contract
from lavla_ros.control.executor import ExecutorState
from lavla_ros.control.servo_link import ServoLink, ServoLinkError
from lavla_ros.nodes.executor_parameters import ExecutorParameters
from lavla_ros.ros.parameters import ParameterError, declare

PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "add_an_arm.md"
FILES = ("crane.py", "crane.yaml", "crane_servo.yaml", "crane_stack.yaml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The blocks of the page as files, in the working folder and on the path of this process and its children."""
    blocks = re.findall(r"^```\w+\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    for name, block in zip(FILES, blocks, strict=True):
        (tmp_path / name).write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return tmp_path


def flat(tree: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return found


def executor_parameters(folder: Path, **arguments: str) -> tuple[ExecutorParameters, str]:
    """What the executor node has when the stack starts it, and how it describes the arm's option."""
    (executor,) = load_stack("crane_stack.yaml", arguments, run_dir=folder).processes
    context = Context()
    context.init()
    given = [Parameter(name, value=value) for name, value in flat(dict(executor.parameters)).items()]
    node = Node("executor", context=context, parameter_overrides=given)
    try:
        return declare(node, ExecutorParameters), node.describe_parameter("arm.gain").description
    finally:
        node.destroy_node()
        context.shutdown()


def test_an_arm_from_outside_is_driven(folder: Path) -> None:
    parameters, description = executor_parameters(folder, gain="0.8")
    assert description == "Share of the way to the command that one cycle covers."
    config, contract = parameters.servo_config(), load_contract("crane.yaml")
    assert (config.arm.device, config.arm.gain) == ("/dev/ttyUSB0", 0.8)
    executor = config.executor_config(contract)
    assert executor.limits.velocity_rad_s == (0.25, 0.2, 0.5) and executor.limits.upper_rad == (3.0, 1.2, 5.0)
    link = ServoLink(config)
    try:
        link.start()
        assert link.activate(), link.reason
        goal = {"slew": 0.05, "luff": -0.04, "hoist": 0.1}
        names = contract.action.names
        rows = np.linspace(0.1, 1.0, 10)[:, None] * [goal[n] for n in names]
        link.submit(ActionChunk(stamp_ns=time.time_ns(), dt_ns=contract.dt_ns, actions_HA=rows, names=names))
        until, ticks = time.monotonic() + 10.0, []
        wanted = [goal[n] for n in executor.joint_names]
        while time.monotonic() < until and (not ticks or np.abs(ticks[-1].measured_rad - wanted).max() > 0.005):
            link.heartbeat()
            ticks += link.drain()
            time.sleep(0.02)
        np.testing.assert_allclose(ticks[-1].measured_rad, wanted, atol=0.005)
        assert ExecutorState.TRACKING in {t.state for t in ticks} and ticks[-1].fault is None
        speeds = np.abs([t.command_velocity_rad_s for t in ticks]).max(axis=0)
        assert (speeds > 0.02).all() and (speeds <= np.array(executor.limits.velocity_rad_s) + 1e-6).all()
    finally:
        assert link.stop() == 0


def test_its_driver_its_options_and_its_missing_kinematics_are_its_own(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"arm\.gain is 7\.0.*0\.1 to 1\.0|arm\.gain"):
        executor_parameters(folder, gain="7.0")
    servo = folder / "crane_servo.yaml"
    text = servo.read_text()
    servo.rename(folder / "first.yaml")
    stack = (folder / "crane_stack.yaml").read_text()
    for name, change in (("tcp", ("device:", "host:")), ("nowhere", ("/dev/ttyUSB0", "COM1"))):
        (folder / f"{name}.yaml").write_text(text.replace(*change))
        (folder / "crane_stack.yaml").write_text(stack.replace("crane_servo.yaml", f"{name}.yaml"))
        if name == "tcp":
            with pytest.raises(ParameterError, match=r"arm\.device must be given: Serial device"):
                executor_parameters(folder)
        else:
            with pytest.raises(ServoLinkError, match="no crane at COM1"):
                ServoLink(executor_parameters(folder)[0].servo_config()).start()
    contract = folder / "crane.yaml"
    pose = ("x", "y", "z", "rx", "ry", "rz")
    dims = "".join(f"    - {{name: {n}, unit: {'m' if n in 'xyz' else 'rad'}, low: -1.0, high: 1.0}}\n" for n in pose)
    joint = contract.read_text()
    begin, end = joint.index("  dims:\n") + len("  dims:\n"), joint.index("alignment:")
    contract.write_text(joint[:begin].replace("space: joint", "space: end_effector") + dims + joint[end:])
    with pytest.raises(ConfigError, match=r"end effector.*crane:CRANE.*no kinematics"):
        ServoLink(executor_parameters(folder)[0].servo_config())
