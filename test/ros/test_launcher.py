"""Bring-up: a stack comes up in order, one Ctrl-C ends it, a death stops the arm first; stack files are checked."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ros_harness import wait_until

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.bringup.stack import StackError, load_stack, read_arguments, stack_names

UP = """
import sys
from pathlib import Path
from lavla_ros.bringup.launcher import LaunchError, up
try:
    sys.exit(up(Path(sys.argv[1]), dict(a.split(":=", 1) for a in sys.argv[2:])))
except LaunchError as error:
    sys.exit(f"error: {error}")
"""

ARM_STACK = """
description: The emulated controller without physics, the executor, and a recorder.
arguments:
  port: {default: 10001, description: Command port.}
  status_port: {default: 10000, description: Status port.}
  bags: {default: bags, description: Folder of the bags.}
processes:
  - name: emulator
    module: lavla_ros.jaka.emulator
    arguments: [--port, "${port}", --status-port, "${status_port}"]
    ready: commands on
  - name: executor
    node: lavla_ros.nodes.executor_node
    after: [emulator]
    stop_first: true
    parameters: {port: "${port}", status_port: "${status_port}"}
  - name: recorder
    node: lavla_ros.nodes.recorder_node
    after: [executor]
    parameters: {root: "${bags}", auto_start: true}
"""


class Up:
    """``lavla up`` on the arm stack, in a process of its own."""

    def __init__(self, tmp_path: Path, **arguments: object) -> None:
        stack = tmp_path / "arm.yaml"
        stack.write_text(ARM_STACK)
        with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
            ports = {"port": a.getsockname()[1], "status_port": b.getsockname()[1]}
        given = {**ports, "bags": tmp_path / "bags", **arguments}
        self._log = tmp_path / "up.log"
        with self._log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", UP, str(stack), *(f"{k}:={v}" for k, v in given.items())],
                env=ros_environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_ready(self) -> None:
        wait_until(lambda: "3 processes are ready" in self.output or self.popen.poll() is not None, "readiness", 40.0)
        assert self.popen.poll() is None, self.output

    def child(self, name: str) -> int:
        """Process id of one of the stack's processes."""
        pid = self.popen.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if name.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        raise AssertionError(f"no process {name} below {pid}")

    def wait_exit(self) -> int:
        try:
            return self.popen.wait(40.0)
        finally:
            if self.popen.poll() is None:
                os.killpg(self.popen.pid, signal.SIGKILL)


def test_one_interrupt_ends_everything_with_status_0(tmp_path: Path) -> None:
    up = Up(tmp_path)
    up.wait_ready()
    assert up.output.index("commands on") < up.output.index("executor | INFO: active")
    children = [up.child(n) for n in ("emulator", "executor_node", "recorder_node")]
    up.popen.send_signal(signal.SIGINT)
    up.popen.send_signal(signal.SIGINT)  # an impatient second one changes nothing
    assert up.wait_exit() == 0, up.output
    assert "Traceback" not in up.output, up.output
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert (tmp_path / "bags" / "episode_000000" / "metadata.yaml").exists(), "the episode was closed in order"


def test_a_killed_node_stops_the_arm_first_and_is_reported(tmp_path: Path) -> None:
    up = Up(tmp_path)
    up.wait_ready()
    os.kill(up.child("recorder_node"), signal.SIGKILL)
    assert up.wait_exit() == 1
    text = up.output
    assert "recorder died with status -9; its last lines:" in text
    assert "Traceback" not in text, text
    assert "executor ended with status" not in text, "the executor ended in order"


@pytest.mark.parametrize(("status", "words"), [(0, ""), (3, "work died with status 3")])
def test_a_stack_ends_with_the_process_that_finishes(tmp_path: Path, status: int, words: str) -> None:
    (tmp_path / "work.py").write_text(f"import sys, time\nprint('at work')\ntime.sleep(1.0)\nsys.exit({status})\n")
    stack = tmp_path / "work.yaml"
    recorder = {"name": "recorder", "node": "lavla_ros.nodes.recorder_node", "parameters": {"root": str(tmp_path)}}
    work = {"name": "work", "module": "work", "after": ["recorder"], "finishes": True}
    stack.write_text(yaml.safe_dump({"description": "Some work.", "processes": [recorder, work]}))
    ended = subprocess.run(
        [sys.executable, "-c", UP, str(stack)],
        env={**ros_environment(), "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == (1 if status else 0), ended.stderr
    assert words in ended.stderr and "Traceback" not in ended.stderr


def test_a_process_that_does_not_come_up_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        up = Up(tmp_path, port=taken.getsockname()[1])
        assert up.wait_exit() == 1
    assert re.search(r"emulator ended with status 1 at start-up; its last lines:\n.*in use", up.output), up.output


def test_shipped_stacks_resolve(tmp_path: Path) -> None:
    assert {"jaka_policy", "record_demos"} <= set(stack_names())
    for name in stack_names():
        assert all(a.description for a in read_arguments(name))
    simulated = load_stack("jaka_policy", {}, run_dir=tmp_path)
    assert [p.name for p in simulated.processes][:2] == ["emulator", "tabletop_camera"]
    real = load_stack("jaka_policy", {"simulate": "false", "robot_ip": "10.5.5.100"}, run_dir=tmp_path)
    assert "emulator" not in [p.name for p in real.processes]
    executor = next(p for p in real.processes if p.name == "executor")
    assert executor.parameters["host"] == "10.5.5.100" and executor.stop_first
    assert isinstance(executor.parameters["port"], int) and isinstance(executor.parameters["speed_scale"], float)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"simulate": "false"}, "needs robot_ip:=… unless simulate"),
        ({"simulate": "perhaps"}, "expected true or false"),
        ({"blend": "none"}, "expected one of"),
        ({"nope": "1"}, "has no arguments ['nope']"),
        ({"port": "ten"}, "expected int"),
    ],
)
def test_wrong_arguments(arguments: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=re.escape(message)):
        load_stack("jaka_policy", arguments, run_dir=tmp_path)


@pytest.mark.parametrize(
    ("process", "message"),
    [
        ({"name": "a", "node": "m", "colour": 1}, "unknown keys ['colour']"),
        ({"name": "a"}, "one of node, module"),
        ({"name": "a", "node": "m", "after": ["b"]}, "expected names of earlier processes"),
        ({"name": "a", "node": "m", "parameters": {"x": "${y}"}}, "unknown ['y']"),
        ({"name": "a", "node": "m", "when": "y"}, "expected a true/false argument"),
        ({"name": "a", "node": "m", "parameter_file": "nope"}, "available: "),
    ],
)
def test_wrong_stack_files(process: dict[str, object], message: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump({"processes": [process]}))
    with pytest.raises(StackError, match=re.escape(message)):
        load_stack(file, {}, run_dir=tmp_path)


def test_a_stack_that_extends_another_has_less_in_it(tmp_path: Path) -> None:
    demos, whole = (
        load_stack(name, {"port": "10001", "status_port": "10000"}, run_dir=tmp_path)
        for name in ("record_demos", "jaka_policy")
    )
    assert demos.processes == tuple(p for p in whole.processes if p.name != "policy")
    assert set(whole.arguments) - set(demos.arguments) == {"policy", "replan_steps", "device"}
    file = tmp_path / "wrong.yaml"
    file.write_text("extends: jaka_policy\ndescription: x\nwithout: {processes: [nobody]}\n")
    with pytest.raises(StackError, match="leaves out 'nobody' of processes"):
        load_stack(file, {}, run_dir=tmp_path)


@pytest.mark.parametrize("name", ["jaka_policy", "record_demos"])
def test_launch_files_have_the_stacks_arguments(name: str) -> None:
    """Under the real launch_ros, where it is installed (no wheels exist)."""
    pytest.importorskip("launch_ros")
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    from lavla_ros.resources import share_path

    description = get_launch_description_from_python_launch_file(str(share_path() / "launch" / f"{name}.launch.py"))
    assert [a.name for a in description.get_launch_arguments()] == [a.name for a in read_arguments(name)]
