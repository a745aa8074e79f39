"""Bring-up: a stack comes up in order, one Ctrl-C ends it, a death stops the arm first; stack files are checked."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import hypothesis
import hypothesis.strategies as st
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.node import Node
from ros_harness import World, fails_to_start, running, wait_until

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.bringup.launcher import Launcher, LaunchError, notices, other_users, stack_domain
from lavla_ros.bringup.stack import Process, Stack, StackError, load_stack, read_arguments
from lavla_ros.resources import config_path, share_path

pytestmark = pytest.mark.long

UP = """
import sys
from pathlib import Path
from lavla_ros.bringup.domain import DomainError
from lavla_ros.bringup.launcher import LaunchError, up
try:
    sys.exit(up(Path(sys.argv[1]), dict(a.split(":=", 1) for a in sys.argv[2:])))
except (LaunchError, DomainError) as error:
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
    module: sim_bridges.jaka_controller.emulator
    arguments: [--port, "${port}", --status-port, "${status_port}"]
    ready: commands on
  - name: executor
    node: lavla_ros.nodes.executor_node
    after: [emulator]
    stop_first: true
    parameters: {arm: {port: "${port}", status_port: "${status_port}", power_on: true}}
  - name: recorder
    node: lavla_ros.nodes.recorder_node
    after: [executor]
    parameters: {contract: jaka_minicobo, root: "${bags}", auto_start: true}
"""


def _hear_signals() -> None:
    """What runs the tests may ignore some, as nohup and jobs in the background do; a child would too."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """A stack that a failed test leaves behind would take its processor from the tests that follow."""
    yield
    for popen in Up.started:
        popen.kill()
        popen.wait(10.0)
    Up.started.clear()


class Up:
    """``lavla up`` on the arm stack, in a process of its own."""

    started: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, tmp_path: Path, *, log: int | None = None, **arguments: object) -> None:
        stack = tmp_path / "arm.yaml"
        stack.write_text(ARM_STACK)
        with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
            ports = {"port": a.getsockname()[1], "status_port": b.getsockname()[1]}
        given = {**ports, "bags": tmp_path / "bags", **arguments}
        self._log = tmp_path / "up.log"
        with self._log.open("wb") as file:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", UP, str(stack), *(f"{k}:={v}" for k, v in given.items())],
                env=ros_environment(),
                stdout=file if log is None else log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_hear_signals,
            )
        self.started.append(self.popen)

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


def test_a_second_stack_is_refused_and_one_interrupt_ends_everything_with_status_0(tmp_path: Path) -> None:
    up = Up(tmp_path)
    up.wait_ready()
    second = tmp_path / "second"
    second.mkdir()
    refused = Up(second)
    assert refused.wait_exit() == 1
    domain = os.environ["ROS_DOMAIN_ID"]
    assert f"ROS domain {domain} already has the executor of another lavla stack" in refused.output, refused.output
    assert "emulator" not in refused.output.replace("jaka_controller.emulator", ""), "nothing was started"
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
    recorder = {"name": "recorder", "node": "lavla_ros.nodes.recorder_node", "parameters": {}}
    recorder["parameters"] = {"contract": "jaka_minicobo", "root": str(tmp_path)}
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


def test_a_process_yields_to_the_others(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text("import os\nprint('niceness', os.getpriority(os.PRIO_PROCESS, 0))\n")
    stack, told = tmp_path / "work.yaml", io.StringIO()
    stack.write_text("processes: [{name: work, module: work, nice: 3, finishes: true}]")
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    launcher = Launcher(load_stack(stack, {}, run_dir=tmp_path), log=told, environment=path)
    launcher.start()
    assert launcher.wait(30.0)
    launcher.stop()
    assert f"niceness {min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)}" in told.getvalue(), told.getvalue()


def test_what_the_start_waits_for_is_told_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavla_ros.bringup.launcher.READY_NOTICE_S", 0.1)
    arguments = ("0", "--bind", "127.0.0.1")
    slow = Process(name="slow", module="http.server", is_node=False, arguments=arguments, ready="never said")
    told = io.StringIO()
    stack = Stack(name="waits", description="", arguments={}, processes=(slow,), run_dir=tmp_path)
    with pytest.raises(LaunchError, match=r"\['slow'\] not ready after 0 s"):
        Launcher(stack, log=told, ready_timeout_s=0.5).start()
    assert told.getvalue().count("waiting for slow") >= 2, told.getvalue()


def test_a_simulated_stack_is_brought_up_twice_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_DOMAIN_ID")
    arm = tmp_path / "arm.yaml"
    executor = {"name": "executor", "node": "lavla_ros.nodes.executor_node", "parameters": {"loopback": True}}
    arm.write_text(yaml.safe_dump({"description": "An arm.", "simulated": True, "processes": [executor]}))
    logs = [tmp_path / f"up_{i}.log" for i in range(2)]
    stacks = []
    for log in logs:
        command = [sys.executable, "-m", "lavla_ros.cli", "up", str(arm)]
        with log.open("wb") as file:
            stacks.append(subprocess.Popen(command, env=ros_environment(), stdout=file, stderr=file))
    try:
        wait_until(lambda: all("processes are ready" in log.read_text() for log in logs), "two stacks", 90.0)
        domains = [re.findall(r"ROS_DOMAIN_ID=(\d+)", log.read_text()) for log in logs]
        assert all(domains) and domains[0] != domains[1]
        assert all(stack.poll() is None for stack in stacks)
    finally:
        for stack in stacks:
            stack.send_signal(signal.SIGINT)
        assert [stack.wait(40.0) for stack in stacks] == [0, 0], [log.read_text() for log in logs]


def test_shipped_stacks_resolve(tmp_path: Path) -> None:
    names = [file.stem for file in config_path("stacks").iterdir()]
    assert {"jaka_policy", "record_demos"} <= set(names)
    assert all(a.description for name in names for a in read_arguments(name))
    simulated = load_stack("jaka_policy", {}, run_dir=tmp_path)
    assert [p.name for p in simulated.processes][:2] == ["emulator", "tabletop_camera"]
    real = load_stack("jaka_policy", {"simulate": "false", "robot_ip": "10.5.5.100"}, run_dir=tmp_path)
    assert "emulator" not in [p.name for p in real.processes]
    executor = next(p for p in real.processes if p.name == "executor")
    assert executor.parameters["arm"]["host"] == "10.5.5.100" and executor.stop_first
    assert executor.parameters["arm"]["power_on"] is False and executor.parameters["replan_steps"] == 10
    assert next(p for p in simulated.processes if p.name == "executor").parameters["arm"]["power_on"] is True
    assert isinstance(executor.parameters["arm"]["port"], int) and isinstance(executor.parameters["speed_scale"], float)


def test_a_bad_checkpoint_ends_the_launch_before_the_arm_is_touched(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as commands, socket.create_server(("127.0.0.1", 0)) as status:
        ports = [f"port:={commands.getsockname()[1]}", f"status_port:={status.getsockname()[1]}"]
        words = ["simulate:=false", "robot_ip:=127.0.0.1", *ports, f"policy:={tmp_path}", f"bags:={tmp_path / 'bags'}"]
        ended = subprocess.run(
            [sys.executable, "-m", "lavla_ros.cli", "up", "jaka_policy", *words],
            env=ros_environment(),
            capture_output=True,
            text=True,
            timeout=90.0,
            check=False,
        )
        assert ended.returncode == 1, ended.stderr
        assert "policy ended with status 1 at start-up" in ended.stderr, ended.stderr
        for controller in (commands, status):
            controller.setblocking(False)
            with pytest.raises(BlockingIOError):
                controller.accept()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"simulate": "false"}, "needs robot_ip:=… unless simulate"),
        ({"simulate": "perhaps"}, "expected true or false"),
        ({"blend": "none"}, "expected one of"),
        ({"nope": "1"}, "has no arguments ['nope']"),
        ({"port": "ten"}, "expected int"),
        ({"namespace": "left arm"}, "expected a name like left"),
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
        ({"name": "a", "node": "m", "nice": -5}, "a: nice is -5; expected an integer from 0 to 19"),
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
    others = {p.name: p for p in whole.processes if p.name != "policy"}
    executor = others["executor"]
    waited_for = tuple(name for name in executor.after if name != "policy")
    anyone = dict(executor.parameters) | {"approved": ""}  # a person commands, whom no list names
    others["executor"] = replace(executor, after=waited_for, parameters=anyone)
    assert demos.processes == tuple(others.values())
    assert set(whole.arguments) - set(demos.arguments) == {"policy", "device", "approved"}
    file = tmp_path / "wrong.yaml"
    file.write_text("extends: jaka_policy\ndescription: x\nwithout: {processes: [nobody]}\n")
    with pytest.raises(StackError, match="leaves out 'nobody' of processes"):
        load_stack(file, {}, run_dir=tmp_path)


def test_a_stack_that_extends_another_says_what_differs(tmp_path: Path) -> None:
    file, extends = tmp_path / "mine.yaml", "extends: lockstep\ndescription: x\n"
    file.write_text(
        f"{extends}arguments: {{episodes: {{default: 3}}, mass_kg: {{default: 1.0, description: Of the cart.}}}}\n"
        'processes: {simulator: {name: slider, parameters: {suite: "slider:Suite", options: "mass_kg=${mass_kg}"}}}\n'
    )
    arguments = {"expert": "true", "mass_kg": "2"}
    ours, base = (
        load_stack(name, values, run_dir=tmp_path)
        for name, values in ((file, arguments), ("lockstep", {"expert": "true", "episodes": "3"}))
    )
    assert [p.name for p in ours.processes] == ["camera", "slider"] and ours.processes[0] == base.processes[0]
    differs = {"suite": "slider:Suite", "options": "mass_kg=2.0"}
    assert ours.processes[1].parameters == {**base.processes[1].parameters, **differs}
    described = {a.name: a for a in read_arguments(file)}
    assert described["episodes"].default == 3 and described["episodes"].description.startswith("Episodes, one after")
    for wrong, words in (
        (
            "processes: {nobody: {}}",
            "changes process 'nobody'; lockstep has ['camera', 'policy', 'recorder', ",
        ),
        ("processes: [{name: a, node: b}]", "processes of a stack that extends another is a mapping"),
        ("variables: {}", "has ['description', 'extends', 'variables']"),
    ):
        file.write_text(f"{extends}{wrong}\n")
        with pytest.raises(StackError, match=re.escape(words)):
            load_stack(file, {}, run_dir=tmp_path)


@pytest.mark.parametrize("name", ["jaka_policy", "record_demos"])
def test_launch_files_have_the_stacks_arguments(name: str) -> None:
    """Under the real launch, where it is installed (no wheels exist)."""
    pytest.importorskip("launch.actions")
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    description = get_launch_description_from_python_launch_file(str(share_path() / "launch" / f"{name}.launch.py"))
    assert [a.name for a in description.get_launch_arguments()] == [a.name for a in read_arguments(name)]


# Every way out: the arm comes to rest, the processes end.


class Alone:
    """The arm stack's processes, so that one can tell that nothing of it is left."""

    def __init__(self, up: Up) -> None:
        self.up = up
        self.pids = [up.child(n) for n in ("jaka_controller.emulator", "executor_node", "recorder_node")]
        executor = self.pids[1]
        self.servo = int(Path(f"/proc/{executor}/task/{executor}/children").read_text().split()[0])

    def wait_gone(self) -> None:
        wait_until(lambda: not any(_runs(p) for p in [*self.pids, self.servo]), "the end of every process", 20.0)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP])
def test_what_ends_or_suspends_the_launcher_ends_the_stack_in_order(number: signal.Signals, tmp_path: Path) -> None:
    up = Up(tmp_path)
    up.wait_ready()
    alone = Alone(up)
    up.popen.send_signal(number)
    assert up.wait_exit() == 0, up.output
    alone.wait_gone()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT])
def test_nothing_outlives_a_killed_launcher(number: signal.Signals, tmp_path: Path) -> None:
    up = Up(tmp_path)
    up.wait_ready()
    alone = Alone(up)
    up.popen.send_signal(number)
    up.popen.wait(10.0)
    alone.wait_gone()
    assert "Traceback" not in up.output, up.output


def test_the_servo_process_ends_with_its_executor_node(tmp_path: Path) -> None:
    up = Up(tmp_path)
    up.wait_ready()
    alone = Alone(up)
    os.kill(alone.pids[1], signal.SIGKILL)
    assert up.wait_exit() == 1
    assert "executor died with status -9" in up.output
    assert "servo: " in up.output or not _runs(alone.servo)
    alone.wait_gone()


def test_a_log_that_nobody_reads_does_not_blind_the_launcher(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    up = Up(tmp_path, log=writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as log:
            seen = b""
            while b"3 processes are ready" not in seen:
                seen += os.read(log.fileno(), 4096)
        # The reader is gone: `| head`, a closed viewer.
        alone = Alone(up)
        os.kill(alone.pids[2], signal.SIGKILL)
        assert up.wait_exit() == 1
        alone.wait_gone()
    finally:
        if up.popen.poll() is None:
            up.popen.kill()


def test_an_error_of_the_launcher_itself_at_the_start_stops_what_runs(tmp_path: Path) -> None:
    stack = tmp_path / "arm.yaml"
    stack.write_text(ARM_STACK)
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        ports = {"port": str(a.getsockname()[1]), "status_port": str(b.getsockname()[1])}
    folder = tmp_path / "run"
    folder.mkdir()
    launcher = Launcher(load_stack(stack, {**ports, "bags": str(tmp_path)}, run_dir=folder), log=io.StringIO())
    (folder / "executor.yaml").mkdir()  # as a full disk: its parameters cannot be written
    with pytest.raises(OSError, match="executor"):
        launcher.start()
    assert launcher.statuses["emulator"] == 0
    with socket.create_server(("127.0.0.1", int(ports["port"]))):
        pass  # nobody has it


def test_a_simulated_stack_has_a_domain_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = load_stack("jaka_policy", {}, run_dir=tmp_path)
    real = load_stack("jaka_policy", {"simulate": "false", "robot_ip": "10.5.5.100"}, run_dir=tmp_path)
    assert (simulated.simulated, real.simulated) == (True, False)
    with stack_domain(simulated) as (environment, _):
        assert environment["ROS_DOMAIN_ID"] == os.environ["ROS_DOMAIN_ID"], "the user's own"
    monkeypatch.delenv("ROS_DOMAIN_ID")
    with stack_domain(simulated) as (first, _), stack_domain(simulated) as (second, _):
        assert len({"0", first["ROS_DOMAIN_ID"], second["ROS_DOMAIN_ID"]}) == 3
        assert any(f"export ROS_DOMAIN_ID={first['ROS_DOMAIN_ID']}" in n for n in notices(simulated, first))
    with stack_domain(real) as (environment, _):
        assert environment["ROS_DOMAIN_ID"] == "0"


def test_ports_in_simulation_are_free_ones(tmp_path: Path) -> None:
    first, second = (load_stack("jaka_policy", {}, run_dir=tmp_path).arguments for _ in range(2))
    assert len({first["port"], first["status_port"], second["port"], second["status_port"]}) == 4
    given = load_stack("jaka_policy", {"port": "10001"}, run_dir=tmp_path).arguments
    assert given["port"] == 10001
    real = load_stack("jaka_policy", {"simulate": "false", "robot_ip": "10.5.5.100"}, run_dir=tmp_path).arguments
    assert (real["port"], real["status_port"]) == (10001, 10000)


def test_files_of_another_users_ros_programs_are_spoken_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fastrtps_port7411", "fastrtps_port7661_el", "fastrtps_0123456789abcdef"):
        (tmp_path / name).touch()
    assert other_users(0, tmp_path) == []
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert len(other_users(0, tmp_path)) == len(other_users(1, tmp_path)) == 1
    assert other_users(2, tmp_path) == []


# Parameters on their way from the command line to a node.

AWKWARD = ["1e5", "nan", "infinity", "-.inf", "0x10", "1_000", "yes", "~", "null", "é€", "", "- pick: 'it' #1"]


@hypothesis.given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), max_size=40))
@hypothesis.example(AWKWARD)
@hypothesis.settings(max_examples=8, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_texts_reach_a_node_as_texts(tmp_path: Path, texts: list[str]) -> None:
    values = {f"p{i}": text for i, text in enumerate(texts)} | {"a_float": 1e-5, "an_int": 3, "a_bool": True}
    process = Process(name="taker", module="m", is_node=True, parameters=values)
    context = Context()
    context.init(args=process.command(tmp_path)[3:])
    node = Node("taker", context=context, automatically_declare_parameters_from_overrides=True)
    taken = {name: node.get_parameter(name).value for name in values}
    node.destroy_node()
    context.shutdown()
    assert taken == values


def test_a_parameter_that_a_node_does_not_have_is_refused(tmp_path: Path) -> None:
    output = fails_to_start("lavla_ros.nodes.executor_node", "executor", tmp_path, loopback=True, speed_scael=0.1)
    assert "error: /executor has no parameter speed_scael; did you mean speed_scale?" in output


def test_one_executor_in_a_domain(tmp_path: Path) -> None:
    with running("lavla_ros.nodes.executor_node", "left", tmp_path, loopback=True, standby=True) as first:
        output = fails_to_start("lavla_ros.nodes.executor_node", "right", tmp_path, loopback=True, standby=True)
        assert f"already has the executor of another lavla stack (process {first.popen.pid}: " in output


def test_a_node_started_alone_listens_on_this_machine_only(tmp_path: Path) -> None:
    ours = ("FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_AUTOMATIC_DISCOVERY_RANGE")
    with (tmp_path / "log").open("wb") as log:
        node = subprocess.Popen(
            [sys.executable, "-m", "lavla_ros.nodes.executor_node", "--ros-args", "-p", "loopback:=true"],
            env={name: value for name, value in os.environ.items() if name not in ours},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: b"lavla-ready" in (tmp_path / "log").read_bytes(), "readiness", 60.0)
        first = 7400 + 250 * int(os.environ["ROS_DOMAIN_ID"])
        heard_on = {host for host, port in _udp_sockets(node.pid) if first <= port < first + 250}
        assert heard_on == {"127.0.0.1"}
    finally:
        node.send_signal(signal.SIGINT)
        assert node.wait(20.0) == 0


def _udp_sockets(pid: int) -> list[tuple[str, int]]:
    links = [str(f.readlink()) for f in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]]
    found = [row[1].split(":") for row in rows if row[9] in inodes]
    return [(socket.inet_ntoa(bytes.fromhex(host)[::-1]), int(port, 16)) for host, port in found]


def test_problems_are_shown_once(world: World, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    with shown.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "lavla_ros.nodes.problems"], env=ros_environment(), stdout=file
        )
    try:
        publisher = world.publisher(DiagnosticArray, "/diagnostics")

        def said(text: str) -> bool:
            # Diagnostics are heard with best effort, and repeated as long as they hold.
            status = DiagnosticStatus(level=DiagnosticStatus.ERROR, name="camera: lavla", message=text)
            publisher.publish(DiagnosticArray(status=[status]))
            return f"error: camera: {text}\n" in shown.read_text()

        wait_until(lambda: said("no frame for 1 s"), "the first problem")
        wait_until(lambda: said("no frame for 2 s") or said("all is lost"), "the second problem")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20.0) == 0
    assert shown.read_text().splitlines() == ["error: camera: no frame for 1 s", "error: camera: all is lost"]
