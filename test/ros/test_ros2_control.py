"""The ros2_control driver against controllers that behave on their topics as documented."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mock_controllers import PERIOD_S, MockController
from rclpy.node import Node
from ros_harness import World, refusal, running, wait_until
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.config import ConfigError
from lavla_ros.contract import ActionChunk, load_contract
from lavla_ros.control.arm import DriverError
from lavla_ros.nodes.executor_node import ExecutorNode
from lavla_ros.ros.gripper import with_gripper
from lavla_ros.ros.messages import CHUNK_QOS, LATCHED_INPUT_QOS, STATE_QOS, chunk_to_trajectory
from lavla_ros.ros.ros2_control_driver import Ros2ControlDriver
from lavla_ros.ros.ros2_control_options import Ros2ControlOptions

OURS = ("a", "b", "c")
START = (0.1, -0.2, 0.3)
PERIOD_NS = 8_000_000


@pytest.fixture
def make(make: Callable[..., MockController]) -> Callable[..., MockController]:
    """The arm's controller, unless another is asked for."""

    def controller(name: str = "arm_controller", joints: tuple[str, ...] = ("c", "a", "b"), **given: Any) -> Any:
        start = given.pop("start", tuple(dict(zip(OURS, START, strict=True)).get(j, 0.0) for j in joints))
        return make(name, joints, start=start, **given)

    return controller


def options(**given: Any) -> Ros2ControlOptions:
    """Time-outs that a busy machine keeps."""
    slow = {"connect_timeout_s": 20.0, "state_timeout_s": 5.0}
    return Ros2ControlOptions(**{"controller": "/arm_controller", **slow, **given})


def driver(**given: Any) -> Ros2ControlDriver:
    return Ros2ControlDriver(options(**given), OURS, PERIOD_NS)


def stream(arm: Ros2ControlDriver, rows: np.ndarray) -> None:
    """A row every 8 ms, as the servo loop does."""
    due = time.monotonic()
    for row in rows:
        due += PERIOD_NS * 1e-9
        time.sleep(max(0.0, due - time.monotonic()))
        assert arm.read().fault is None
        arm.command(row)


def ramp(by: tuple[float, float, float], cycles: int = 50) -> np.ndarray:
    return np.array(START) + np.linspace(0.0, 1.0, cycles)[:, None] * np.array(by)


@pytest.mark.parametrize("forward", [False, True])
def test_commands_and_states_go_by_name(make: Callable[..., MockController], forward: bool) -> None:
    mock = make(**({"interface_name": "position"} if forward else {}))
    arm = driver(controller_type="forward_position" if forward else "joint_trajectory")
    arm.connect()
    try:
        arm.enter_servo()
        assert arm.read().position_rad == pytest.approx(START) and arm.read().servo_mode
        stream(arm, ramp((0.2, -0.1, 0.05)))
        goal = dict(zip(OURS, ramp((0.2, -0.1, 0.05))[-1], strict=True))
        wait_until(lambda: np.allclose(mock.position, [goal[j] for j in mock.joints], atol=1e-6), "the goal")
        wait_until(lambda: np.allclose(arm.read().position_rad, list(goal.values()), atol=1e-6), "its measurement")
        assert mock.rejected == [] and mock.received >= 25
        arm.exit_servo()
        with pytest.raises(RuntimeError, match="outside servo mode"):
            arm.command(np.array(START))
    finally:
        arm.close()
        arm.close()
    assert arm.read().fault == "not connected"


def test_a_stream_that_ends_leaves_the_arm_at_its_last_command(make: Callable[..., MockController]) -> None:
    mock = make()
    arm = driver()
    arm.connect()
    arm.enter_servo()
    rows = ramp((0.2, 0.2, 0.2))[:30]
    stream(arm, rows)
    arm.close()
    time.sleep(0.1)
    assert mock.position[mock.joints.index("a")] == pytest.approx(rows[-1][0], abs=1e-9)
    moved = np.abs(np.diff([row[mock.joints.index("a")] for row in mock.history]))
    assert moved.max() <= 0.2 * PERIOD_S * 20 and max(row[1] for row in mock.history) <= rows[-1][0] + 1e-9


@pytest.mark.parametrize(
    ("joints", "given", "said"),
    [
        (("c", "a", "x"), {}, "missing there ['b'], unknown here ['x']"),
        (("c", "a", "b", "x"), {}, "unknown here ['x']"),
        (("c", "a", "b"), {"interface_name": "velocity"}, "takes 'velocity' commands"),
        (("c", "a", "b"), {"states": "/elsewhere"}, "no node publishes it"),
    ],
)
def test_refuses_a_controller_that_is_not_the_arms(
    make: Callable[..., MockController], joints: tuple[str, ...], given: dict[str, Any], said: str
) -> None:
    make(joints=joints, **given)
    if "x" in joints:  # the states are complete, the controller is another one
        make("other", states="/joint_states")
    arm = driver(
        controller_type="forward_position" if "interface_name" in given else "joint_trajectory",
        connect_timeout_s=20.0 if "states" not in given else 0.3,
    )
    with pytest.raises(DriverError) as refused:
        arm.connect()
    assert said in str(refused.value), refused.value
    assert arm.read().fault == "not connected"


def test_a_partial_goal_is_for_a_controller_that_allows_it(make: Callable[..., MockController]) -> None:
    mock = make(joints=("c", "a", "b", "x"), allow_partial_joints_goal=True)
    arm = driver()
    arm.connect()
    arm.enter_servo()
    stream(arm, ramp((0.1, 0.1, 0.1), 20))
    wait_until(lambda: abs(mock.position[1] - 0.2) < 1e-6, "a at its goal")
    arm.close()
    assert mock.rejected == [] and mock.position[3] == 0.0


def test_states_that_stop_are_a_fault_until_they_are_back(make: Callable[..., MockController]) -> None:
    mock = make()
    arm = driver(connect_timeout_s=8.0, state_timeout_s=2.0)
    arm.connect()
    arm.enter_servo()
    mock.frozen = True  # the same message again and again says nothing new
    fault = wait_until(lambda: arm.read().fault, "a fault")
    assert "a, b, c" in fault and not arm.read().servo_mode
    with pytest.raises(DriverError, match="nothing new of"):
        arm.clear_fault()
    assert arm.report()["states_repeated"] > 0
    mock.frozen = False
    time.sleep(0.1)
    assert arm.read().fault == fault, "latched"
    with pytest.raises(DriverError, match="acknowledged first"):
        arm.enter_servo()
    arm.clear_fault()
    assert arm.read().fault is None
    arm.close()


def test_one_may_command_and_the_arm_has_to_stand(world: World, make: Callable[..., MockController]) -> None:
    mock = make()
    arm = driver()
    arm.connect()
    mock.create_timer(0.004, lambda: setattr(mock, "desired", mock.desired + 0.001))
    with pytest.raises(DriverError, match="the arm moves"):
        arm.enter_servo()
    mock.destroy_timer(next(t for t in list(mock.timers) if t.callback != mock._update))
    arm.enter_servo()
    rival = Node("moveit", context=world.context)
    rival.create_publisher(JointTrajectory, "/arm_controller/joint_trajectory", 1)
    assert "/moveit too" in wait_until(lambda: arm.read().fault, "a fault that names the rival")
    rival.destroy_node()
    arm.close()


def test_an_arm_that_does_not_obey_says_so_on_its_topic(world: World, make: Callable[..., MockController]) -> None:
    make()
    said = world.node.create_publisher(Bool, "/robot_program_running", 1)
    arm = driver(enabled_topic="/robot_program_running", connect_timeout_s=8.0)
    with pytest.raises(DriverError, match="nothing arrives on /robot_program_running"):
        arm.connect()
    beat = world.node.create_timer(0.02, lambda: said.publish(Bool(data=running_now[0])))
    running_now = [False]
    arm = driver(enabled_topic="/robot_program_running")
    arm.connect()
    assert not arm.read().enabled
    for call in (arm.enable, arm.power_on, arm.enter_servo):
        with pytest.raises(DriverError, match="not enabled, says /robot_program_running"):
            call()
    running_now[0] = True
    wait_until(lambda: arm.read().enabled, "enabled")
    arm.enter_servo()
    arm.close()
    world.node.destroy_timer(beat)


@pytest.mark.parametrize("forward", [False, True])
def test_a_gripper_with_a_controller_of_its_own(make: Callable[..., MockController], forward: bool) -> None:
    make()
    kind = {"interface_name": "position"} if forward else {}
    fingers = make("gripper_controller", ("finger",), start=(0.04,), states="/gripper/states", **kind)
    gripper = options(
        gripper_state_topic="/gripper/states",
        gripper_type="forward_position" if forward else "joint_trajectory",
        gripper_joint="finger",
        gripper_open=0.04,
        gripper_closed=0.0,
        gripper_time_s=0.05,
    )
    arm = with_gripper(driver(), gripper, timeout_s=5.0, connect_timeout_s=20.0)
    arm.connect()
    arm.enter_servo()
    assert arm.read().gripper == pytest.approx(1.0)
    arm.set_gripper(0.0)
    wait_until(lambda: fingers.position[0] < 1e-6, "closed")
    wait_until(lambda: arm.read().gripper < 1e-3, "measured closed")
    arm.set_gripper(0.5)
    wait_until(lambda: arm.read().gripper == pytest.approx(0.5, abs=1e-3), "half open")
    arm.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"controller": "jtc"}, "controller is 'jtc'; expected a full name"),
        ({"gripper_type": "joint_trajectory"}, "gripper_joint is ''"),
        (
            {"gripper_type": "joint_trajectory", "gripper_state_topic": "s"},
            "gripper_state_topic is 's'; expected a full",
        ),
        ({"gripper_type": "joint_trajectory", "gripper_joint": "f"}, "gripper_closed is 0.0; expected another"),
        ({"joints": ("a", "a")}, "joints is ('a', 'a'); expected each name once"),
        ({"reach_periods": 0.5}, "reach_periods is 0.5"),
        ({"controller_type": "effort"}, "controller_type is 'effort'"),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Ros2ControlOptions(**given)
    assert said in str(refused.value)


def cell(folder: Path, state: str = "/arm/joint_states") -> Path:
    """The files of docs/how_to/ros2_control.md; the servo configuration, with time-outs that a busy machine keeps."""
    page = (Path(__file__).parents[2] / "docs" / "how_to" / "ros2_control.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    for name, block in zip(("arm", "contract", "servo"), blocks, strict=True):
        (folder / f"{name}.yaml").write_text(block.replace("/arm/joint_states", state))
    slow = {
        "extends": "servo.yaml",
        "arm": {"state_timeout_s": 2.0},
        "executor": {"engage_ramp_s": 0.0, "state_timeout_s": 2.0, "tracking_error_rad": 0.1, "speed_scale": 1.0},
    }
    (folder / "slow.yaml").write_text(yaml.safe_dump(slow))
    return folder / "slow.yaml"


def test_chunks_move_the_arm_through_the_servo_process(
    world: World, tmp_path: Path, make: Callable[..., MockController], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"ur_{i}" for i in (3, 0, 5, 1, 4, 2))
    mock = make(joints=names, start=(0.0, 0.1, 0.0, 0.2, 0.5, 1.0), tolerance_rad=0.05)
    states = world.collect(JointState, "/arm/joint_states", STATE_QOS)
    announced = world.collect(String, "/executor/state", LATCHED_INPUT_QOS)

    def state() -> dict[str, Any]:
        return json.loads(announced[-1].data) if announced else {"state": ""}

    config = cell(tmp_path)
    monkeypatch.chdir(tmp_path)
    contract = load_contract("contract.yaml")
    with running("lavla_ros.nodes.executor_node", "executor", tmp_path, config=str(config)):
        wait_until(lambda: state()["state"] == "holding" and states, "holding after activation")
        now = dict(zip(states[-1].name, states[-1].position, strict=True)) | {"gripper": 1.0}
        assert [now[f"joint_{i + 1}"] for i in range(6)] == pytest.approx([0.1, 0.2, 1.0, 0.0, 0.5, 0.0])
        chunks = world.publisher(JointTrajectory, "/action_chunk", CHUNK_QOS)

        sent = [0.0]

        def send(goal_rad: float) -> None:
            """A chunk of a second that brings ur_0 there, again every 2 s: a busy machine may be too late with one."""
            if time.monotonic() - sent[0] < 2.0:
                return
            sent[0] = time.monotonic()
            start = np.array([mock.position[names.index(f"ur_{i}")] for i in range(6)] + [1.0])
            goal = np.array([goal_rad, *start[1:]])
            rows = start + np.linspace(0.1, 1.0, 10)[:, None] * (goal - start)
            chunk = ActionChunk(
                stamp_ns=time.time_ns(), dt_ns=contract.dt_ns, actions_HA=rows, names=contract.action.names
            )
            chunks.publish(chunk_to_trajectory(chunk))

        def there() -> bool:
            assert state()["state"] != "fault", state()["fault"]
            send(0.25)
            return abs(mock.position[1] - 0.25) < 0.03

        wait_until(there, "ur_0 at its goal")
        wait_until(lambda: state()["state"] == "holding", "holding at the chunk's end")
        assert mock.rejected == [] and mock.held == 0
        assert mock.position[[0, 2, 3, 4, 5]] == pytest.approx([0.0, 0.0, 0.2, 0.5, 1.0], abs=1e-6)
        mock.blocked = True  # as an emergency stop of the hardware: states go on, and nothing moves
        wait_until(lambda: send(0.5) or state()["state"] == "fault", "a fault")
        assert "from its command" in state()["fault"] and mock.held > 0


def test_the_executor_does_not_publish_what_its_driver_reads(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(world, ExecutorNode, config=str(cell(tmp_path, "/joint_states")))
    assert "the topic /joint_states its own, which the arm's driver uses" in said
