"""docs/how_to/your_arm.md, done: every file of the page, and every command."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from random_policy import write_random_checkpoint
from ros_harness import World, ros_environment, wait_until
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from lavla_ros.contract import load_contract
from lavla_ros.control.arms import arm_named, arm_of
from lavla_ros.episode import ExecutorReport
from lavla_ros.ros.messages import LATCHED_INPUT_QOS, STATE_QOS

PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "your_arm.md"
FILES = (
    "my_arm.urdf", "my_arm.yaml", "my_contract.yaml", "my_servo.yaml", "my_stack.yaml", "move.py", "zu5.yaml",
    "my_zu5.yaml",
)  # fmt: skip
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("#")[0].split()
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.splitlines()
    if not line.startswith("export ")
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, block in zip(FILES, [b for kind, b in BLOCKS if kind != "bash"], strict=True):
        (tmp_path / name).write_text(block)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    program = {"lavla": [sys.executable, "-m", "lavla_ros.cli"], "python": [sys.executable]}[command[0]]
    with log.open("wb") as file:
        return subprocess.Popen([*program, *command[1:]], env=ros_environment(), stdout=file, stderr=file)


@contextmanager
def up(command: list[str], log: Path) -> Iterator[None]:
    stack = started(command, log)
    try:
        wait_until(lambda: "processes are ready" in log.read_text() or stack.poll() is not None, "the stack", 90.0)
        assert stack.poll() is None, log.read_text()
        yield
    finally:
        stack.send_signal(signal.SIGINT)
        stack.wait(40.0)


def test_every_command_of_the_page(folder: Path, world: World) -> None:
    mine, turn, zu5, lift, refused, policy = COMMANDS
    for stack, program in ((mine, turn), (zu5, lift)):
        log = folder / "move.log"
        with up(stack, folder / "up.log"):
            moved = started(program, log).wait(40.0)
            assert moved == 0 and f"{program[3]} is at" in log.read_text(), log.read_text()
    log = folder / "refused.log"
    assert started(refused, log).wait(60.0) == 1
    said = log.read_text()
    assert "for a jaka_zu5, but the controller has another arm" in said and "those of minicobo" in said, said

    write_random_checkpoint(folder / "my_policy", robot="zu5.yaml", home=(*arm_named("jaka_zu5").start_rad, 1.0))
    with up(policy, folder / "up.log"):
        said = world.collect(String, "/executor/state", LATCHED_INPUT_QOS)
        states = world.collect(JointState, "/joint_states", STATE_QOS)
        wait_until(lambda: any(ExecutorReport.from_json(each.data).state == "tracking" for each in said), "motion", 60)
        wait_until(lambda: abs(np.diff([states[0].position, states[-1].position], axis=0)).max() > 1e-3, "motion", 60)
        assert "is not approved" in ExecutorReport.from_json(said[-1].data).slow
        assert arm_named("jaka_zu5").limits.contains(np.array(states[-1].position[:6]))


def test_the_files_of_the_page(folder: Path) -> None:
    arm = arm_of(load_contract("my_contract.yaml"))
    assert arm.limits.velocity_rad_s == (1.0,) * 6 and arm.limits.upper_rad[2] == 2.6
    assert arm.kinematics.forward([0.0] * 6)[2, 3] == pytest.approx(0.16 + 0.4 + 0.2 + 0.2 + 0.1 + 0.05 + 0.12)
    mine, shipped = arm_named("my_zu5.yaml"), arm_named("jaka_zu5")
    assert mine.limits == shipped.limits and mine.payload.tool_kg == 0.9
    ahead = mine.kinematics.forward(mine.start_rad) - shipped.kinematics.forward(shipped.start_rad)
    assert ahead[2, 3] == pytest.approx(-0.14, abs=1e-5)
