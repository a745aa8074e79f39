"""The bridge's environment on anything with RoboTwin's interface."""

from __future__ import annotations

import numpy as np
import pytest
from swing_task import LIMIT, SwingTask, goal_of

from lavla_ros.contract import Contract, load_contract
from sim_bridges.worlds.robotwin.environment import JOINTS, RobotwinEnvironment, RobotwinError
from sim_bridges.worlds.robotwin.interface import Task

CONTRACT = load_contract("robotwin_aloha")
SEED = 100_001


def made(fault: str = "", seed: int = SEED) -> tuple[RobotwinEnvironment, SwingTask]:
    task: Task = SwingTask(fault)
    environment = RobotwinEnvironment(task, {"eval_mode": True})
    environment.reset(seed, instruction="swing")
    assert isinstance(task, SwingTask)
    return environment, task


def command(**joints: float) -> np.ndarray:
    values = np.zeros(14)
    for name, value in joints.items():
        values[JOINTS.index(name)] = value
    return values


def test_time_is_what_the_physics_took() -> None:
    environment, task = made()
    assert environment.time_ns == 0 and environment.observe().stamp_ns == 0
    environment.step(command(left_joint_1=0.05))
    assert environment.physics_steps == 25 and environment.time_ns == 100_000_000
    task.scene.step()  # whoever makes it, it is counted
    assert environment.time_ns == 104_000_000
    environment.step(command(left_joint_1=0.05))
    assert environment.observe().stamp_ns == environment.time_ns == 116_000_000
    environment.reset(SEED)
    assert environment.time_ns == 0 and environment.steps == 0


def test_a_scene_that_is_set_up_again_is_not_counted_twice() -> None:
    environment, task = made()
    scene = task.scene
    task.setup_demo = lambda **kwargs: None  # type: ignore[method-assign]  # some tasks may keep their scene
    task.step_lim = 100
    environment.reset(SEED)
    assert task.scene is scene and environment.physics_steps == 0
    environment.step(command(left_joint_1=0.05))
    assert environment.physics_steps == 25


def test_the_observation_is_the_contracts() -> None:
    environment, task = made()
    environment.step(command(left_joint_1=0.1, right_gripper=0.5))
    task.scene.targets[3] = 0.7  # commanded, not reached
    seen = environment.observe()
    assert seen.instruction == "swing" and seen.state.dtype == np.float32
    assert {name: image.shape for name, image in seen.images.items()} == dict.fromkeys(
        CONTRACT.camera_names, (224, 224, 3)
    )
    by_name = dict(zip(CONTRACT.state.names, seen.state, strict=True))
    assert by_name["left_joint_4"] == pytest.approx(0.7) and by_name["right_gripper"] == pytest.approx(0.5)
    assert environment.measured()[3] == 0.0
    without = environment.observe(images=False)
    assert without.images == {} and np.array_equal(without.state, seen.state)


def test_quaternions_are_turned_into_rvizs_order() -> None:
    view = made()[0].view()
    assert view.endposes["left"].tolist() == [0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 1.0]
    assert view.endposes["right"].tolist() == [0.4, 0.5, 0.6, 0.1, 0.2, 0.3, 0.5]
    assert view.images["right_wrist"].shape == (240, 320, 3) and view.intrinsics["head"][0, 0] == 358.6


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.zeros(7), r"shape \(7,\); expected \(14,\)"),
        (np.zeros((1, 14)), r"shape \(1, 14\)"),
        (command(left_joint_3=np.nan), "left_joint_3.*nan"),
        (command(right_joint_6=np.inf), "right_joint_6.*inf"),
        (command(left_joint_2=2.1), r"left_joint_2': '2.1 not in \[-2, 2\]"),
        (command(right_gripper=1.2), r"right_gripper': '1.2 not in \[0, 1\]"),
        (command(left_gripper=-0.1), "left_gripper"),
    ],
)
def test_a_bad_command_never_reaches_the_task(action: np.ndarray, words: str) -> None:
    environment, task = made()
    before, trajectory = environment.states(), environment.trajectory
    with pytest.raises(RobotwinError, match=words):
        environment.step(action)
    assert (environment.steps, task.take_action_cnt, environment.physics_steps) == (0, 0, 0)
    assert np.array_equal(environment.states(), before) and environment.trajectory == trajectory
    environment.step(np.zeros(14))  # and the episode goes on


def test_a_command_after_success_is_refused() -> None:
    environment, task = made()
    assert environment.step(goal_of(task))
    counted = environment.steps, task.take_action_cnt, environment.physics_steps
    with pytest.raises(RobotwinError, match="over after 1 steps: the goal is reached"):
        environment.step(np.zeros(14))
    assert (environment.steps, task.take_action_cnt, environment.physics_steps) == counted


def test_a_command_at_the_step_limit_is_refused() -> None:
    environment, task = made()
    assert not any(environment.step(np.zeros(14)) for _ in range(LIMIT))
    with pytest.raises(RobotwinError, match=f"limit of {LIMIT} steps"):
        environment.step(np.zeros(14))
    assert environment.steps == task.take_action_cnt == LIMIT


def test_a_task_that_raises_in_get_obs_is_named() -> None:
    environment, task = made()
    environment.step(np.zeros(14))
    task.fault = "get_obs"
    for look in (environment.view, environment.observe):
        with pytest.raises(RobotwinError, match=r"get_obs of SwingTask failed after 1 commands.*ErrorDeviceLost"):
            look()
    assert (environment.steps, task.take_action_cnt) == (1, 1)


def test_after_an_error_inside_a_command_only_a_reset_helps() -> None:
    environment, task = made("take_action")
    with pytest.raises(RobotwinError, match=r"command 0 of SwingTask failed in RoboTwin.*TOPP"):
        environment.step(np.zeros(14))
    assert environment.steps == 0
    with pytest.raises(RobotwinError, match="reset to go on"):
        environment.step(np.zeros(14))
    task.fault = ""
    environment.reset(SEED)
    assert not environment.step(np.zeros(14)) and environment.steps == 1


def test_bad_resets() -> None:
    environment, _ = made()
    with pytest.raises(RobotwinError, match=r"seed 100001 cannot be set up|the seed is -1"):
        environment.reset(-1)
    with pytest.raises(RobotwinError, match="seed 103 cannot be set up: UnStableError"):
        environment.reset(103)
    with pytest.raises(RobotwinError, match="not reset"):
        environment.step(np.zeros(14))
    fresh = RobotwinEnvironment(SwingTask(), {})
    for use in (fresh.view, fresh.measured, lambda: fresh.step(np.zeros(14)), fresh.demonstrate):
        with pytest.raises(RobotwinError, match="not reset"):
            use()


def test_scenes_are_closed_and_the_cache_cleared_as_robotwin_does() -> None:
    task = SwingTask()
    environment = RobotwinEnvironment(task, {"clear_cache_freq": 2, "eval_mode": True})
    for seed in (1, 2, 4, 6):
        environment.reset(seed)
    assert task.caches_cleared == [False, True, False]
    assert task.setups[0] == {"now_ep_num": 0, "seed": 1, "is_test": True, "clear_cache_freq": 2, "eval_mode": True}
    environment.close()
    environment.close()
    assert task.caches_cleared == [False, True, False, True]


def test_equal_seeds_and_commands_give_equal_episodes() -> None:
    commands = np.random.default_rng(0).uniform(-0.05, 0.05, (5, 14)).clip([-1] * 6 + [0] + [-1] * 6 + [0], 1)

    def run(seed: int, actions: np.ndarray) -> str:
        environment, _ = made(seed=seed)
        for action in actions:
            environment.observe()
            environment.step(action)
        return environment.trajectory

    assert run(SEED, commands) == run(SEED, commands) != run(SEED, commands[::-1])


def test_a_demonstration_has_a_frame_every_contract_period() -> None:
    environment, task = made()
    stamps: list[int] = []
    shown = environment.demonstrate(lambda: stamps.append(environment.time_ns))
    assert shown.solved and shown.reason == "" and shown.info == {"{A}": "left mark", "{B}": "right mark"}
    assert np.abs(np.array(stamps) - np.arange(len(stamps)) * CONTRACT.dt_ns).max() <= 2_000_000
    assert len(stamps) == len(shown.targets_NA) == 18  # 270 physics steps, and on to the next frame
    np.testing.assert_allclose(shown.targets_NA[0], np.zeros(14))
    np.testing.assert_allclose(shown.targets_NA[-1], goal_of(task))


@pytest.mark.parametrize(("seed", "words"), [(100_007, "no plan"), (100_005, "the goal does not hold")])
def test_what_the_expert_cannot_do_is_told(seed: int, words: str) -> None:
    environment, _ = made(seed=seed)
    shown = environment.demonstrate()
    assert not shown.solved and words in shown.reason


def test_an_expert_that_raises_has_not_solved_it() -> None:
    environment, task = made()
    task.play_once = lambda: 1 / 0  # type: ignore[method-assign, return-value]
    assert environment.demonstrate().reason == "ZeroDivisionError: division by zero"
    assert environment.step(goal_of(task))  # nothing watches any more


def test_what_a_frames_receiver_raises_goes_through_the_expert() -> None:
    environment, task = made()
    play = task.play_once

    def careless() -> dict[str, object]:
        try:
            return play()
        except (RuntimeError, OSError):
            return {}

    def stop() -> None:
        if environment.time_ns > 0:
            raise ConnectionError("stopped")

    task.play_once = careless  # type: ignore[method-assign]
    with pytest.raises(ConnectionError, match="stopped"):
        environment.demonstrate(stop)


def test_contracts_that_are_not_robotwins_are_refused() -> None:
    for name, words in (("jaka_minicobo", "front"), ("libero", "agentview")):
        with pytest.raises(RobotwinError, match=words):
            RobotwinEnvironment(SwingTask(), {}, contract=name)
    data = CONTRACT.to_dict()
    data["action"]["dims"].reverse()
    with pytest.raises(RobotwinError, match="right_gripper"):
        RobotwinEnvironment(SwingTask(), {}, contract=Contract.from_dict(data))
