"""The stand-in's experts. The full measurement is ``python -m sim_bridges.robotwin.standin.measure``."""

from __future__ import annotations

import numpy as np
import pytest

from sim_bridges.robotwin.standin import TASKS, DisturbanceConfig, make_task
from sim_bridges.robotwin.standin.expert import MAX_COMMANDS, Expert, Reach, Stage
from sim_bridges.robotwin.standin.measure import MeasureConfig, main, run_episode

pytestmark = pytest.mark.sim


@pytest.mark.parametrize("name", TASKS)
def test_experts_solve_their_tasks(name: str) -> None:
    episodes = [run_episode(make_task(name), seed) for seed in range(5)]
    assert [e.success for e in episodes] == [True] * 5
    assert all(30 <= e.commands <= 100 for e in episodes)


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
    task = make_task("move_blocks_to_pads")
    calm = run_episode(task, 0, "commands")
    pushed = run_episode(task, 0, "commands", DisturbanceConfig(start_probability=0.15))
    assert calm.success and pushed.success and pushed.commands > calm.commands


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
    command = ["measure", "--task", "move_blocks_to_pads", "--episodes", "2", "--out", str(out)]
    monkeypatch.setattr("sys.argv", command)
    main()
    assert "move_blocks_to_pads (play): 2/2" in capsys.readouterr().out
    assert '"seed": 100001' in out.read_text()
    for wrong in ({"task": "x"}, {"task": TASKS[0], "episodes": 0}, {"task": TASKS[0], "disturb": True}):
        with pytest.raises(ValueError, match=r"task is|nothing to measure|needs --mode commands"):
            MeasureConfig(**wrong)
