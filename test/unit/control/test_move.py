"""Moves to a pose: they arrive, within every limit, or rest before what is in the way; and who is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from arms import HOME, MS, Bench, chunk_of, cramped, over, variant
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lavla_ros.config import ConfigError
from lavla_ros.control.arm_file import load_arm
from lavla_ros.control.executor import ExecutorError, ExecutorState, NotAtCommandError, StillMovingError
from lavla_ros.control.move import MoveError, goal_of
from lavla_ros.control.servo_config import ServoConfig
from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.resources import config_path

LOWER, UPPER = MINICOBO.limits.lower(), MINICOBO.limits.upper()
POSES = st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6).map(lambda part: LOWER + np.array(part) * (UPPER - LOWER))
NAMES = MINICOBO.joint_names


def move(bench: Bench, goal: np.ndarray | list[float], seconds: float = 120.0, to: str = "there") -> str:
    """Ask for it, and tick until the arm holds."""
    text = bench.executor.move_to(list(goal), bench.now_ns, to=to)
    for _ in range(round(seconds / 0.008)):
        if bench.executor.state is not ExecutorState.TRACKING:
            break
        bench.tick()
    bench.tick(50)
    return text


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    start=POSES,
    goal=POSES,
    scale=st.sampled_from([1.0, 0.3]),
    mode=st.sampled_from(["absolute", "delta"]),
    gaps=st.lists(st.sampled_from([8, 8, 16, 12, 40, 100]), max_size=6),
)
def test_it_arrives_from_anywhere_anywhere_within_every_limit(start, goal, scale, mode, gaps):
    bench = Bench(start=start, contract=variant("joint", mode), move_speed_scale=0.6, speed_scale=scale)
    bench.executor.move_to(goal.tolist(), bench.now_ns, to="there")
    for gap_ms in gaps:  # cycles that bring nothing
        bench.tick(20)
        bench.now_ns += (gap_ms - 8) * MS
    for _ in range(60_000):
        if bench.executor.state is not ExecutorState.TRACKING:
            break
        bench.tick()
    bench.tick(5)
    assert bench.executor.hold_reason == "arrived at there" and bench.executor.at_rest
    assert np.abs(bench.measured - goal).max() < 1e-3
    bench.assert_within_limits(min(scale, 0.6))
    way = goal - start
    part = np.clip((bench.positions - start) @ way / (way @ way + 1e-12), 0.0, 1.0)
    assert np.abs(bench.positions - start - part[:, None] * way).max() < 1e-5, "straight, whatever was missed"
    assert "ticks_catching_up" not in bench.counters


@settings(max_examples=20, deadline=None, derandomize=True)
@given(start=POSES, goal=POSES)
def test_the_way_is_straight_and_takes_as_long_as_it_says(start, goal):
    assume(np.abs(goal - start).max() > 1e-3)
    bench = Bench(start=start, move_speed_scale=0.8)
    text = move(bench, goal)
    moving_s = 0.008 * sum(c.state is ExecutorState.TRACKING for c in bench.commands)
    assert float(text.split("takes ")[1].split(" s")[0]) == pytest.approx(moving_s, abs=0.09)
    way = np.abs(goal - start)
    part = (bench.positions - start) @ (goal - start) / (way @ way)
    assert np.abs(bench.positions - start - part[:, None] * (goal - start)).max() < 1e-6
    assert (np.diff(part) > -1e-9).all(), "no joint turns back"


def test_a_slower_speed_scale_on_the_way_is_obeyed_and_it_still_arrives():
    bench, goal = Bench(), HOME + np.array([1.5, -0.5, 0.4, 1.0, 0.3, -2.0])
    bench.executor.move_to(goal.tolist(), bench.now_ns, to="there")
    bench.tick(150)
    bench.executor.set_speed_scale(0.05)
    bench.tick(100)
    first = len(bench.commands)
    bench.tick(6000)
    speed = np.abs(np.diff(bench.positions[first:], axis=0)).max() / 0.008
    assert 0.0 < speed <= 0.05 * 1.57 + 1e-6
    assert bench.executor.hold_reason == "arrived at there" and np.abs(bench.measured - goal).max() < 1e-3
    bench.assert_within_limits(0.25)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_it_rests_before_what_is_in_the_way_and_says_so(seed):
    random, looked = np.random.default_rng(seed), cramped()
    goal = np.clip(np.array(HOME) + random.uniform(-2.0, 2.0, 6), LOWER, UPPER)
    bench = Bench(clearance=cramped())
    move(bench, goal)
    assert bench.executor.state is ExecutorState.HOLDING and bench.executor.at_rest
    assert min(looked.slacks(position).min() for position in bench.positions[::5]) >= -1e-5
    if np.abs(bench.measured - goal).max() > 1e-3:
        assert bench.executor.hold_reason.startswith("too close: ") and bench.counters["moves"] == 1
        straight = np.linspace(bench.measured, goal, 400)
        assert min(looked.slacks(position).min() for position in straight) < 0.01, "something is in the way"
    bench.assert_within_limits(0.25)


def test_a_move_into_the_table_names_what_is_in_the_way_and_another_one_leads_out():
    start = over(0.06)
    bench = Bench(start=start, clearance=cramped())
    move(bench, over(-0.10))
    assert "table; the margin is" in bench.executor.hold_reason
    assert 0.0 <= cramped().slacks(bench.measured).min() < 0.01
    move(bench, start)
    assert bench.executor.hold_reason == "arrived at there"


def test_the_tool_keeps_its_speed():
    clearance = cramped()
    clearance.tool_speed_m_s = 0.05
    bench, goal = Bench(clearance=clearance), HOME + np.array([0.6, 0.0, 0.0, 0.0, 0.0, 1.0])
    text = move(bench, goal)
    assert "times longer" in text and bench.executor.hold_reason == "arrived at there"
    tips = np.array([clearance.tip(position) for position in bench.positions])
    assert 0.04 < np.linalg.norm(np.diff(tips, axis=0), axis=1).max() / 0.008 <= 0.05


def test_who_is_refused():
    bench, goal = Bench(), np.array(HOME) + 0.2
    executor = bench.executor
    bench.tick()

    def refusal(pose=goal, error=ExecutorError):
        with pytest.raises(error) as caught:
            executor.move_to(list(pose), bench.now_ns, to="there")
        return str(caught.value)

    assert "joint_2 would be at nan rad" in refusal([0.0, np.nan, *HOME[2:]])
    assert "joint_3 would be at 2.2 rad; expected -2.18 to 2.18" in refusal([0.0, 0.0, 2.2, 0.0, 0.0, 0.0])
    assert "5 values for the joints" in refusal(HOME[:5])
    executor.hold("a hand is in there", latch=True)
    assert "held: a hand is in there; resume first" in refusal()
    executor.resume(bench.now_ns)
    bench.now_ns += 8 * MS
    bench.tick()
    assert bench.submit(chunk_of([goal] * 20, bench.now_ns)).accepted
    assert "a policy commands the arm" in refusal()
    bench.tick(20)
    executor.hold("enough")
    assert "ramping" in refusal(error=StillMovingError)
    bench.tick(100)
    executor.submit(chunk_of([bench.measured] * 5, bench.now_ns), bench.now_ns, person=True)
    assert "a person has the arm" in refusal()
    bench.tick(100)
    assert "a person has the arm" in refusal(), "also while it rests"
    executor.hand_back(bench.now_ns)
    bench.tick(2)
    bench.tick(position=bench.measured + 0.05)
    assert "from its command" in refusal(error=NotAtCommandError)
    bench.tick(2)
    executor.fault("something broke")
    assert "a fault is latched: something broke" in refusal()
    bench.clear()
    executor.deactivate()
    assert "not active" in refusal()
    assert executor.counters["moves"] == 0


def test_a_policy_waits_until_it_is_there_and_then_begins_slowly():
    bench, goal = Bench(engage_ramp_s=2.0), np.array(HOME) + 0.5
    executor = bench.executor
    executor.move_to(goal.tolist(), bench.now_ns, to="home")
    command = bench.tick(50)
    assert executor.commander == "move" and command.chunk_stamp_ns is None
    observed_ns = bench.now_ns
    result = bench.submit(chunk_of([bench.measured] * 20, observed_ns))
    assert not result.accepted and result.reason == "the arm is on its way to home"
    with pytest.raises(ExecutorError, match="on its way to home"):
        executor.move_to(HOME, bench.now_ns, to="there")
    while executor.state is ExecutorState.TRACKING:
        bench.tick()
    assert executor.commander == "" and executor.waiting_for == "a chunk"
    assert not bench.submit(chunk_of([goal] * 20, bench.now_ns - 100 * MS)).accepted, "observed on the way"
    bench.tick(3)
    first = len(bench.commands)
    assert bench.submit(chunk_of(goal + np.linspace(0.02, 0.4, 20)[:, None], bench.now_ns)).accepted
    bench.tick(20)
    assert np.abs(np.diff(bench.positions[first:], axis=0)).max() <= 0.1 * 0.008 * 1.57 * 1.7
    bench.assert_within_limits()


@pytest.mark.parametrize("mode", ["absolute", "delta"])
@pytest.mark.parametrize("broken", [False, True])
def test_a_person_takes_the_arm_from_a_move(mode, broken):
    bench, goal = Bench(contract=variant("joint", mode)), np.array(HOME) + 0.85
    executor = bench.executor
    executor.move_to(goal.tolist(), bench.now_ns, to="there")
    bench.tick(100)
    rows = np.zeros((5, 6)) if mode == "delta" else np.array([bench.measured] * 5)
    chunk = chunk_of(rows + (20.0 if broken else 0.0), bench.now_ns, contract=bench.contract)
    assert executor.submit(chunk, bench.now_ns, person=True).accepted is not broken
    assert executor.commander == "person"
    bench.tick(150)
    assert executor.at_rest and np.abs(bench.measured - goal).max() > 0.4, "the move is over"
    bench.assert_within_limits()


def test_a_hold_and_a_fault_end_it_at_rest():
    for stop in ("hold", "fault"):
        bench = Bench()
        bench.executor.move_to([1.5, *HOME[1:]], bench.now_ns, to="there")
        bench.tick(100)
        getattr(bench.executor, stop)("enough")
        bench.tick(100)
        assert bench.executor.at_rest and 0.1 < bench.measured[0] < 1.0
        bench.assert_within_limits(0.25)


def test_there_already():
    bench = Bench()
    bench.tick()
    assert "already" in move(bench, HOME) and bench.executor.state is ExecutorState.HOLDING
    assert "takes" in move(bench, [2e-5, *HOME[1:]]) and bench.executor.hold_reason == "arrived at there"


def test_a_goal_is_matched_by_name():
    poses = {"home": tuple(HOME)}
    shuffled = [(name, float(i)) for i, name in enumerate(NAMES)][::-1]
    assert goal_of(shuffled, NAMES, poses)[0] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert goal_of([("pose", "home")], NAMES, poses) == (HOME, "home")
    for asked, text in [
        ([("pose", "hone")], r"there is no pose 'hone'; there are \['home'\]"),
        ([("pose", 3)], "there is no pose 3"),
        (shuffled[1:], "expected each of"),
        ([*shuffled, ("joint_1", 0.0)], "expected each of"),
        ([*shuffled, ("pose", "home")], "expected each of"),
        ([("pose", "home"), ("pose", "home")], "expected each of"),
        ([("joint_7", 0.0), *shuffled[1:]], "joint_7"),
        ([*shuffled[1:], ("joint_6", "1.0")], "joint_6 is '1.0'; expected a number"),
        ([*shuffled[1:], ("joint_6", True)], "joint_6 is True"),
        ([], "expected each of"),
    ]:
        with pytest.raises(MoveError, match=text):
            goal_of(asked, NAMES, poses)


def test_poses_come_from_the_cell_before_the_arms_file(tmp_path):
    assert "home" in MINICOBO.poses
    mine = [0.1, 0.0, 1.0, 0.0, 1.0, 0.0]

    def poses(cells):
        config = ServoConfig.from_dict(
            {"contract": "jaka_minicobo", "loopback": True, "poses": cells}, source="mine.yaml"
        )
        config = ServoConfig.from_dict(json.loads(json.dumps(config.to_dict())), source="the servo process")
        contract = config.load_contract()
        return config.named_poses(config.executor_config(contract), contract)

    assert poses({"bin": mine}) == {"bin": tuple(mine), "home": MINICOBO.poses["home"]}
    assert poses({"home": mine})["home"] == tuple(mine)
    for wrong, text in [({"bin": mine[1:]}, "poses.bin"), ({"bin": [9.0] * 6}, "positions within")]:
        with pytest.raises(ConfigError, match=text):
            poses(wrong)

    file = yaml.safe_load(config_path("arms/jaka_minicobo.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**file, "poses": {"rest": [9.0] * 6}}))
    with pytest.raises(ConfigError, match=r"poses\.rest"):
        load_arm(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=r"poses\.rest"):
        replace(MINICOBO, poses={"rest": (0.0,)})
