"""The stand-in's experts. The full measurement is ``python -m sim_bridges.measure robotwin_standin``."""

from __future__ import annotations

import numpy as np
import pytest

from lavla_ros.contract import load_contract
from sim_bridges.episode import ExpertActor, run_episode
from sim_bridges.measure import MeasureConfig, main, measure, show
from sim_bridges.world import EpisodePlan, SuiteError
from sim_bridges.worlds.robotwin.standin import TASKS, DisturbanceConfig, DisturbanceSource, make_task
from sim_bridges.worlds.robotwin.standin.expert import MAX_COMMANDS, Expert, Reach, Stage
from sim_bridges.worlds.robotwin.suite import RobotwinTaskEnvironment, robotwin_standin

pytestmark = pytest.mark.sim
CONTRACT = load_contract("robotwin_aloha")


def environment_of(name: str) -> RobotwinTaskEnvironment:
    return robotwin_standin().environment(name, images=False)


def plan(name: str, seed: int) -> EpisodePlan:
    return EpisodePlan(index=0, task=name, trial=0, seed=seed, state_index=None, max_steps=400)


@pytest.mark.parametrize("name", TASKS)
def test_experts_solve_their_tasks(name: str) -> None:
    environment = environment_of(name)
    episodes = [show(environment, plan(name, seed), CONTRACT, play=True) for seed in range(5)]
    assert [e.success for e in episodes] == [True] * 5
    assert all(30 <= e.steps <= 100 for e in episodes)
    environment.close()


@pytest.mark.parametrize("name", TASKS)
def test_what_was_shown_can_be_repeated_command_by_command(name: str) -> None:
    task = make_task(name)
    task.setup_demo(seed=5, eval_mode=True, data_type={"rgb": False})
    expert = task.expert()
    frames: list[np.ndarray] = []
    task.play(expert, lambda: frames.append(task.get_obs()["joint_action"]["vector"]))
    # Frames are at 15 Hz, and each is the command before it.
    assert len(frames) == expert.commands + 1
    assert abs(task.physics_steps - expert.commands * 250 / 15) < 1
    task.setup_demo(seed=5, eval_mode=True, data_type={"rgb": False})
    for command in frames[1:]:
        task.take_action(command)
    assert task.eval_success and task.take_action_cnt <= expert.commands
    assert expert.commands <= 0.6 * task.step_limit
    task.close_env()


def test_pushed_aside_the_expert_goes_on() -> None:
    name = "move_blocks_to_pads"
    environment = environment_of(name)
    calm = show(environment, plan(name, 0), CONTRACT)
    pushes = DisturbanceSource(DisturbanceConfig(start_probability=0.15), 0)
    expert = ExpertActor(environment.expert(), gives_up=True)
    pushed = run_episode(environment, expert, plan(name, 0), contract=CONTRACT, disturbance=pushes)
    assert calm.success and pushed.success and pushed.steps > calm.steps
    environment.close()


def test_commands_are_even_and_within_the_limits() -> None:
    task = make_task("handover_block")
    task.setup_demo(seed=2)
    commands: list[np.ndarray] = []
    task.play(task.expert(), lambda: commands.append(np.array(task.robot.get_left_arm_jointState())))
    moved = np.abs(np.diff(np.array(commands), axis=0))
    assert moved[:, :6].max() < 0.3 and moved[:, 6].max() <= 0.25 + 1e-9
    for joint, values in zip(task.robot.left_arm_joints, np.array(commands).T, strict=False):
        ((low, high),) = joint.get_limits()
        assert low <= values.min() and values.max() <= high
    task.close_env()


def test_an_expert_that_cannot_go_on_says_why_and_stays_where_it_is() -> None:
    task = make_task("stack_two_blocks")
    task.setup_demo(seed=0)
    far = Reach(point_m=np.array([0.0, 2.0, 0.8]), yaw_rad=0.0, gripper=1.0)
    expert = Expert(task.robot, lambda _: iter([Stage(left=far)]))
    commands = 0
    while not expert.done and commands < MAX_COMMANDS:
        task.take_action(expert.act())
        commands += 1
    assert "from the shoulder" in expert.lost and 0 < commands < 40
    np.testing.assert_array_equal(expert.act()[:6], task.robot.left.targets)
    task.close_env()


def test_a_block_out_of_reach_is_no_plan() -> None:
    import sapien

    task = make_task("handover_block")
    task.setup_demo(seed=0)
    task._bar.entity.set_pose(sapien.Pose((-0.55, 0.30, 0.76)))
    task.play_once()
    assert task.plan_success is False and not task.check_success()
    task.close_env()


def test_measure_reports(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    out = tmp_path / "m.json"
    command = ["measure", "robotwin_standin", "--tasks", "move_blocks_to_pads"]
    command += ["--episodes", "2", "--play", "--out", str(out)]
    monkeypatch.setattr("sys.argv", command)
    main()
    assert "move_blocks_to_pads: 2/2" in capsys.readouterr().out
    assert '"seed": 100001' in out.read_text()
    for wrong in ({"episodes": 0}, {"play": True, "disturb": True}):
        with pytest.raises(ValueError, match=r"nothing to measure|choose one of them"):
            MeasureConfig(suite="robotwin_standin", **wrong)
    with pytest.raises(SuiteError, match="no task 'x'"):
        measure(MeasureConfig(suite="robotwin_standin", tasks=("x",)))
