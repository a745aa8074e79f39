"""A JAKA arm whose gripper is a controller of ros2_control: the emulated controller, and one that keeps to the topics'
documented semantics."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mock_controllers import MockController
from rclpy.node import Node
from ros_harness import World, refusal, running, wait_until
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.config import ConfigError
from lavla_ros.contract import ActionChunk, load_contract
from lavla_ros.control.arm import ArmDriver, DriverError
from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.jaka.driver_config import JakaDriverConfig
from lavla_ros.nodes.executor_node import ExecutorNode
from lavla_ros.ros.messages import CHUNK_QOS, LATCHED_INPUT_QOS, STATE_QOS, chunk_to_trajectory
from sim_bridges.jaka_controller.config import ControllerConfig, EmulatorOptions
from sim_bridges.jaka_controller.emulator import ControllerEmulator
from sim_bridges.jaka_controller.plant import KinematicPlant

OPEN, CLOSED = 0.0, 0.7
STATES = "/gripper/joint_states"


@pytest.fixture
def emulator() -> Iterator[ControllerEmulator]:
    quick = ControllerConfig(power_on_s=0.0, enable_s=0.0)
    options = EmulatorOptions(port=0, status_port=0, controller=quick)
    with ControllerEmulator(KinematicPlant(), options, realtime=False) as running:
        yield running


def gripper(make: Callable[..., MockController]) -> MockController:
    return make("gripper_controller", ("finger_joint",), start=(OPEN,), states=STATES)


@pytest.fixture
def driver(emulator: ControllerEmulator) -> Iterator[Callable[..., ArmDriver]]:
    """Makes the arm's driver as its file names it, with times that a busy machine keeps."""
    made: list[ArmDriver] = []

    def of(**given: Any) -> ArmDriver:
        options = {
            "host": "127.0.0.1",
            "port": emulator.port,
            "status_port": emulator.status_port,
            "power_on": True,
            "status_timeout_s": 4.0,
            "connect_timeout_s": 10.0,
            "network_timeout_s": 0.0,  # these tests command now and then
            "gripper_type": "joint_trajectory",
            "gripper_joint": "finger_joint",
            "gripper_state_topic": STATES,
            "gripper_open": OPEN,
            "gripper_closed": CLOSED,
            "gripper_time_s": 0.05,
        }
        made.append(MINICOBO.driver(JakaDriverConfig(**{**options, **given}), MINICOBO.limits))
        return made[-1]

    yield of
    for each in made:
        each.close()


def test_opens_and_closes_by_topic_while_the_arm_is_commanded_over_tcp(
    make: Callable[..., MockController], driver: Callable[..., ArmDriver], emulator: ControllerEmulator
) -> None:
    fingers, arm = gripper(make), driver()
    arm.connect()
    arm.enter_servo()
    assert arm.read().gripper == pytest.approx(1.0) and arm.read().servo_mode
    for wanted in (0.0, 0.5, 1.0):
        arm.set_gripper(wanted)
        at = CLOSED + wanted * (OPEN - CLOSED)
        wait_until(lambda at=at: abs(fingers.position[0] - at) < 1e-6, f"the finger at {at}")
        wait_until(lambda wanted=wanted: abs(arm.read().gripper - wanted) < 1e-3, f"measured at {wanted}")
        arm.command(arm.read().position_rad)
    assert arm.read().fault is None and fingers.rejected == []
    assert not any(emulator.snapshot.tool_outputs), "the digital output is not the gripper's"
    arm.exit_servo()


def test_a_gripper_that_falls_silent_is_a_fault_of_the_arm(
    make: Callable[..., MockController], driver: Callable[..., ArmDriver], emulator: ControllerEmulator
) -> None:
    fingers, arm = gripper(make), driver()
    arm.connect()
    arm.enter_servo()
    fingers.frozen = True  # the same message again and again says nothing new
    concern = wait_until(lambda: arm.read().concern, "a concern")
    assert concern.startswith(f"gripper: {STATES} has told nothing new of finger_joint for 2 s")
    assert arm.read().fault is None, "the arm is brought to rest before it is a fault"
    fault = wait_until(lambda: arm.read().fault, "a fault")
    assert fault.startswith(f"gripper: {STATES} has told nothing new of finger_joint for 4 s")
    assert not arm.read().servo_mode and emulator.snapshot.servo_mode, "the arm can still be commanded to rest"
    arm.command(arm.read().position_rad)
    arm.exit_servo()
    with pytest.raises(DriverError, match=r"gripper: .*nothing new of"):
        arm.clear_fault()
    fingers.frozen = False
    time.sleep(0.1)
    assert arm.read().fault == fault, "latched"
    with pytest.raises(DriverError, match="must be acknowledged first"):
        arm.enter_servo()
    arm.clear_fault()
    assert arm.read().fault is None
    arm.enter_servo()
    assert arm.report()["gripper_states_repeated"] > 0


def test_one_may_command_the_gripper(
    world: World, make: Callable[..., MockController], driver: Callable[..., ArmDriver]
) -> None:
    arm = driver()
    gripper(make)
    arm.connect()
    arm.enter_servo()
    rival = Node("moveit", context=world.context)
    rival.create_publisher(JointTrajectory, "/gripper_controller/joint_trajectory", 1)
    assert "/moveit too" in wait_until(lambda: arm.read().fault, "a fault that names the rival")
    rival.destroy_node()


def test_without_its_gripper_the_arm_is_not_connected(
    make: Callable[..., MockController], driver: Callable[..., ArmDriver], emulator: ControllerEmulator
) -> None:
    arm = driver(connect_timeout_s=0.3)
    with pytest.raises(DriverError, match=f"gripper: {STATES} says nothing new .*no node publishes it"):
        arm.connect()
    assert not emulator.snapshot.powered and arm.read().fault == "not connected"
    gripper(make)
    plain = driver(gripper_type="none")
    plain.connect()  # nobody holds the controller
    plain.close()
    make("other", ("finger_joint", "thumb_joint"), start=(0.0, 0.0), states=STATES)
    with pytest.raises(DriverError, match=r"/other moves the joints .*unknown here \['thumb_joint'\]"):
        driver(gripper_controller="/other").connect()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gripper_joint": "finger"}, "gripper_state_topic is ''; expected a full name"),
        ({"gripper_joint": "finger", "gripper_state_topic": "/s"}, "gripper_closed is 0.0; expected another"),
        ({"gripper_state_topic": "/s", "gripper_closed": 1.0}, "gripper_joint is ''"),
        ({"gripper_controller": "hand"}, "gripper_controller is 'hand'; expected a full name"),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        JakaDriverConfig(host="127.0.0.1", gripper_type="joint_trajectory", **given)
    assert said in str(refused.value)


def cell(folder: Path, controller: dict[str, Any]) -> Path:
    """The servo configuration of docs/real_arm.md, with times that a busy machine keeps."""
    page = (Path(__file__).parents[2] / "docs" / "real_arm.md").read_text()
    (block,) = re.findall(r"^```yaml\n(extends: control/jaka_minicobo\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (folder / "cell.yaml").write_text(block)
    ports = {key.removeprefix("arm."): value for key, value in controller.items()}
    slow = {
        "extends": "cell.yaml",
        "arm": {**ports, "host": "127.0.0.1", "status_timeout_s": 4.0, "connect_timeout_s": 10.0},
        "executor": {"engage_ramp_s": 0.0, "state_timeout_s": 2.0},
    }
    (folder / "slow.yaml").write_text(yaml.safe_dump(slow))
    return folder / "slow.yaml"


def test_a_chunk_closes_the_gripper_and_its_silence_stops_the_arm(
    world: World, tmp_path: Path, make: Callable[..., MockController], controller: dict[str, Any]
) -> None:
    fingers = gripper(make)
    states = world.collect(JointState, "/joint_states", STATE_QOS)
    announced = world.collect(String, "/executor/state", LATCHED_INPUT_QOS)

    def state() -> dict[str, Any]:
        return json.loads(announced[-1].data) if announced else {"state": "", "fault": None}

    def now() -> dict[str, float]:
        return dict(zip(states[-1].name, states[-1].position, strict=True))

    contract = load_contract("jaka_minicobo")
    config = cell(tmp_path, controller)
    with running("lavla_ros.nodes.executor_node", "executor", tmp_path, config=str(config)):
        wait_until(lambda: state()["state"] == "holding" and states, "holding after activation")
        assert now()["gripper"] == pytest.approx(1.0)
        chunks = world.publisher(JointTrajectory, "/action_chunk", CHUNK_QOS)
        sent = [0.0]

        def closed() -> bool:
            assert state()["fault"] is None, state()["fault"]
            if time.monotonic() - sent[0] > 2.0:  # again: a busy machine may be too late with one
                sent[0] = time.monotonic()
                row = [0.0 if name == "gripper" else now()[name] for name in contract.action.names]
                rows = np.tile(row, (10, 1))
                made = ActionChunk(
                    stamp_ns=time.time_ns(), dt_ns=contract.dt_ns, actions_HA=rows, names=contract.action.names
                )
                chunks.publish(chunk_to_trajectory(made))
            return now()["gripper"] < 0.01

        wait_until(closed, "a closed gripper on /joint_states")
        assert fingers.position[0] == pytest.approx(CLOSED) and fingers.rejected == []
        fingers.silent = True
        wait_until(lambda: state()["state"] == "fault", "a fault")
        assert f"gripper: {STATES} has told nothing new of finger_joint" in state()["fault"]
        refused = world.call("/executor/acknowledge")
        assert not refused.success and "gripper" in refused.message
        fingers.silent = False
        wait_until(lambda: world.call("/executor/acknowledge").success, "acknowledged")
        assert world.call("/executor/resume").success
        wait_until(lambda: state()["state"] == "holding" and state()["fault"] is None, "holding again")


def test_the_executor_does_not_publish_where_the_gripper_does(
    world: World, tmp_path: Path, controller: dict[str, Any]
) -> None:
    config = cell(tmp_path, controller)
    (tmp_path / "cell.yaml").write_text((tmp_path / "cell.yaml").read_text().replace(STATES, "/joint_states"))
    said = refusal(world, ExecutorNode, config=str(config))
    assert "the topic /joint_states its own, which the arm's driver uses" in said
