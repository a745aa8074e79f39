"""The stand-in's tasks under RoboTwin's interface: what they give, take and refuse; they repeat bit for bit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from sim_bridges.worlds.robotwin.interface import Task
from sim_bridges.worlds.robotwin.standin import STEP_LIMITS, TASKS, StandinTask, instruction_of, make_task
from sim_bridges.worlds.robotwin.standin.task import TABLE_TOP_M
from sim_bridges.worlds.robotwin.standin.tasks import HandoverBlock, MoveBlocksToPads, StackTwoBlocks

pytestmark = [pytest.mark.sim, pytest.mark.long]


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Iterator[StandinTask]:
    made = make_task(request.param)
    made.setup_demo(now_ep_num=0, seed=7, is_test=True, eval_mode=True)
    yield made
    made.close_env()


def stay(task: StandinTask) -> np.ndarray:
    return np.array(task.robot.get_left_arm_jointState() + task.robot.get_right_arm_jointState())


def hold_still(task: StandinTask, commands: int = 2) -> None:
    for _ in range(commands):
        task.take_action(stay(task))


def test_names_and_limits() -> None:
    assert TASKS == ("stack_two_blocks", "handover_block", "move_blocks_to_pads") == tuple(STEP_LIMITS)
    with pytest.raises(ValueError, match="no task 'stack_blocks_two'; it has stack_two_blocks"):
        make_task("stack_blocks_two")


def test_a_new_episode_has_robotwins_attributes_and_is_no_success(task: StandinTask) -> None:
    as_robotwins: Task = task
    assert as_robotwins.take_action_cnt == 0 and as_robotwins.step_lim == STEP_LIMITS[task.name]
    assert as_robotwins.eval_success is False and as_robotwins.plan_success is True
    assert as_robotwins.get_instruction() is None
    assert not task.check_success()
    hold_still(task)
    assert not task.check_success() and not task.eval_success
    for joint in (*task.robot.left_arm_joints, *task.robot.right_arm_joints):
        ((low, high),) = joint.get_limits()
        assert low < high
    names = [actor.name for actor in task.scene.get_all_actors()]
    assert {"table", "ground"} < set(names) and len(names) == 2 + (1 if task.name == "handover_block" else 2)


def test_without_eval_mode_there_is_no_limit() -> None:
    task = make_task("stack_two_blocks")
    task.setup_demo(seed=0)
    assert task.step_lim is None
    task.close_env()


def test_observation_without_pictures(task: StandinTask) -> None:
    task.setup_demo(seed=7, data_type={"rgb": False})
    seen = task.get_obs()
    assert seen["observation"] == {}
    action = seen["joint_action"]
    assert action["vector"].shape == (14,) and action["vector"].dtype == np.float64
    assert [*action["left_arm"], action["left_gripper"], *action["right_arm"], action["right_gripper"]] == (
        action["vector"].tolist()
    )
    assert (action["vector"] == stay(task)).all() and action["left_gripper"] == 1.0
    measured = task.robot.get_left_arm_real_jointState()
    np.testing.assert_allclose(measured[:6], action["left_arm"], atol=1e-3)
    for side in ("left", "right"):
        pose = np.array(seen["endpose"][f"{side}_endpose"])
        point, hand = task.robot.arm(side).tool(np.array(action[f"{side}_arm"]))
        np.testing.assert_allclose(pose[:3], point, atol=1e-3)
        w, x, y, z = pose[3:]
        np.testing.assert_allclose(
            [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], hand[:, 2], atol=2e-3
        )


def test_a_command_is_followed_and_takes_the_time_that_it_takes(task: StandinTask) -> None:
    goal = stay(task)
    goal[[0, 3, 9]] += (0.02, -0.01, 0.0)
    goal[6] = 0.25
    before = task.physics_steps
    task.take_action(goal)
    assert task.physics_steps - before == 71 and task.take_action_cnt == 1
    assert (stay(task) == goal).all()
    np.testing.assert_allclose(task.robot.get_left_arm_real_jointState(), goal[:7], atol=2e-3)
    assert task.robot.left.opening() == pytest.approx(0.25, abs=0.1) and task.robot.right.opening() > 0.98
    assert not task.robot.is_left_gripper_open() and task.robot.is_right_gripper_open()
    task.take_action(goal)
    assert task.physics_steps - before == 71 + 50


@pytest.mark.parametrize("bad", [np.zeros(13), np.zeros((1, 14)), np.full(14, np.nan), np.full(14, np.inf)])
def test_a_bad_command_neither_moves_nor_counts(task: StandinTask, bad: np.ndarray) -> None:
    before = task.state()
    with pytest.raises(ValueError, match="expected 14 finite numbers"):
        task.take_action(bad)
    with pytest.raises(ValueError, match="only \\('qpos'\\)"):
        task.take_action(np.zeros(14), action_type="ee")
    assert task.take_action_cnt == 0 and (task.state() == before).all()


def test_at_the_step_limit_and_after_success_nothing_happens(task: StandinTask) -> None:
    goal = stay(task)
    goal[0] += 0.1
    for flag, value in (("take_action_cnt", task.step_lim), ("eval_success", True)):
        task.setup_demo(seed=7, eval_mode=True)
        setattr(task, flag, value)
        before, count = task.state(), task.take_action_cnt
        task.take_action(goal)
        assert task.take_action_cnt == count and (task.state() == before).all()


@pytest.mark.parametrize("seed", [-1, 1.5, "7", None])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(ValueError, match="seed is"):
        make_task("handover_block").setup_demo(seed=seed)


def test_seeds_differ_and_the_global_generator_is_left_alone(task: StandinTask) -> None:
    np.random.seed(0)  # noqa: NPY002
    states = []
    for seed in (7, 8, 7):
        task.setup_demo(seed=seed)
        states.append(task.state())
    assert (states[0] == states[2]).all() and not (states[0] == states[1]).all()
    assert np.random.random() == pytest.approx(0.5488135, abs=1e-6)  # noqa: NPY002


def test_after_close_the_outcome_is_still_known(task: StandinTask) -> None:
    task.play_once()
    assert task.plan_success and task.check_success()
    task.close_env(clear_cache=True)
    assert task.check_success() and task.take_action_cnt == 0
    task.setup_demo(seed=7)
    assert not task.check_success()


def trace(name: str, seed: int = 11) -> list[str]:
    """Hashes of the whole state along an episode with contacts, each command its own."""
    task = make_task(name)
    task.setup_demo(seed=seed, eval_mode=True)
    expert, states = task.expert(), [task.state()]
    while not expert.done and not task.eval_success:
        task.take_action(expert.act())
        states.append(task.state())
    assert task.eval_success
    task.close_env()
    return [hashlib.sha256(state.tobytes()).hexdigest() for state in states]


def test_equal_seeds_and_commands_give_equal_bits_again_and_in_another_process() -> None:
    first = trace("move_blocks_to_pads")
    trace_other = make_task("handover_block")  # what ran in between must not matter
    trace_other.setup_demo(seed=3)
    trace_other.play_once()
    assert trace("move_blocks_to_pads") == first
    trace_other.close_env()
    code = f"import json, sys; sys.path.insert(0, {json.dumps(str(__file__.rsplit('/', 1)[0]))})\n"
    code += "from test_standin_task import trace; print(json.dumps(trace('move_blocks_to_pads')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert json.loads(done.stdout) == first


# ------------------------------------------------------------------ what counts as success


def put(task: StandinTask, block: object, at_m: tuple[float, float, float], yaw_rad: float = 0.0) -> None:
    import sapien

    block.entity.set_pose(sapien.Pose(at_m, [np.cos(yaw_rad / 2), 0, 0, np.sin(yaw_rad / 2)]))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("top_is_red", "aside_m", "closed", "succeeds"),
    [(False, 0.0, False, True), (False, 0.018, False, True), (False, 0.0, True, False), (True, 0.0, False, False)],
)
def test_a_stack_counts_with_the_blue_block_on_top_and_open_grippers(
    top_is_red: bool, aside_m: float, closed: bool, succeeds: bool
) -> None:
    task = StackTwoBlocks()
    task.setup_demo(seed=1, eval_mode=True)
    below, above = (task._top, task._bottom) if top_is_red else (task._bottom, task._top)
    put(task, below, (0, 0, TABLE_TOP_M + 0.025))
    put(task, above, (aside_m, 0, TABLE_TOP_M + 0.0752))
    command = stay(task)
    command[6] = 0.0 if closed else 1.0
    for _ in range(4):
        task.take_action(command)
    assert task.eval_success is succeeds and task.check_success() is succeeds
    task.close_env()


def test_success_waits_until_blocks_rest() -> None:
    task = StackTwoBlocks()
    task.setup_demo(seed=1, eval_mode=True)
    put(task, task._bottom, (0, 0, TABLE_TOP_M + 0.025))
    put(task, task._top, (0, 0, TABLE_TOP_M + 0.0752))
    task._top._rigid.set_linear_velocity([0, 0, 0.6])  # thrown up: in the air for 30 steps, and higher than it may be
    before = task.physics_steps
    hold_still(task, 4)
    assert task.eval_success and task.physics_steps - before >= 30 + 25
    task.close_env()


@pytest.mark.parametrize(
    ("aside_m", "yaw_rad", "succeeds"), [(0.0, 0.1, True), (0.0, np.pi, True), (0.035, 0.0, False), (0.0, 0.8, False)]
)
def test_the_bar_must_lie_along_its_pad(aside_m: float, yaw_rad: float, succeeds: bool) -> None:
    task = HandoverBlock()
    task.setup_demo(seed=1, eval_mode=True)
    x, y = task._pad_m
    put(task, task._bar, (x + aside_m, y, TABLE_TOP_M + 0.0202), yaw_rad)
    hold_still(task)
    assert task.eval_success is succeeds
    task.close_env()


def test_both_blocks_must_be_on_their_pads() -> None:
    for sides, succeeds in ((("left", "right"), True), (("left",), False), (("right",), False)):
        task = MoveBlocksToPads()
        task.setup_demo(seed=1, eval_mode=True)
        for side in sides:
            put(task, task._cubes[side], (*task._pads_m[side], TABLE_TOP_M + 0.0252))
        hold_still(task)
        assert task.eval_success is succeeds, sides
        task.close_env()


# ------------------------------------------------------------------ words


def test_instructions_name_what_is_there_and_follow_from_the_seed(task: StandinTask) -> None:
    words = task.play_once()["info"]
    assert words == task.words_of(7)
    for kind in ("seen", "unseen"):
        every = {instruction_of(task.name, seed, words, kind) for seed in range(60)}
        assert len(every) == {"seen": 5, "unseen": 3}[kind]
        assert all("{" not in text and text for text in every)
        assert instruction_of(task.name, 7, words, kind) == instruction_of(task.name, 7, words, kind)
    with pytest.raises(ValueError, match="no 'new' instructions"):
        instruction_of(task.name, 7, words, "new")
    with pytest.raises(ValueError, match="no word for a placeholder"):
        [instruction_of(task.name, seed, {}, "seen") for seed in range(20)]


def test_colours_in_words_are_those_of_the_blocks() -> None:
    task = MoveBlocksToPads()
    left = set()
    for seed in range(8):
        task.setup_demo(seed=seed)
        red, _, blue = task._cubes["left"].colour
        assert task.words_of(seed)["{A}"] == ("red block" if red > blue else "blue block")
        left.add(task.words_of(seed)["{A}"])
    assert len(left) == 2
    task.close_env()
