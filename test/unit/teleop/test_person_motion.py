"""A held stick is a steady motion of the tool, its release is rest, and no wish is more than the arm can follow."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from arms import CONTRACT, HOME, variant
from drive import REST_S, Drive, mapping_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lavla_ros.config import ConfigError
from lavla_ros.teleop.config import TWIST, Binding, Mapping, TeleopOptions
from lavla_ros.teleop.motion import Motion
from lavla_ros.teleop.operator import GONE, Event
from lavla_ros.teleop.teleoperator import Teleoperator

JOINTS = tuple(f"joint_{i}" for i in range(1, 7))
BOUNDED = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.generate),
)


@pytest.mark.parametrize("space", ["joint", "end_effector"])
@pytest.mark.parametrize(("frame", "axis", "sign"), [("base", 2, -1.0), ("base", 1, 1.0), ("tool", 2, 1.0)])
def test_a_held_stick_is_a_steady_tool_velocity(space, frame, axis, sign):
    drive = Drive(variant(space, "absolute"), frame=frame, level=3)
    drive.run(0.9, deadman=1.0, **{"xyz"[axis]: sign})
    wanted = np.zeros(3)
    wanted[axis] = sign * 0.125
    if frame == "tool":
        wanted = drive.bench.config.kinematics.forward(np.array(HOME))[:3, :3] @ wanted
    steady = drive.velocities(last=40)
    assert np.abs(steady - wanted).max() < 0.003, steady[::8]
    assert not drive.refused and drive.teleop.why == ""
    assert drive.bench.counters["ticks_catching_up"] == 0, "the arm is always on the way of the chunks"
    drive.run(REST_S, deadman=0.0)
    assert drive.joint_speed(last=5) < 1e-3 and not drive.refused
    drive.bench.assert_within_limits()


@pytest.mark.parametrize("space", ["joint", "end_effector"])
def test_chunks_of_deltas_move_as_far_as_the_stick_asks(space):
    """A goal per step is approached and reached, so that only the mean velocity is steady."""
    drive = Drive(variant(space, "delta"), level=2)
    drive.run(0.6, deadman=1.0, z=-1.0)
    drive.run(0.8)
    mean = drive.velocities(last=100).mean(axis=0)
    assert np.abs(mean - [0.0, 0.0, -0.0625]).max() < 0.006, mean
    drive.run(REST_S, deadman=0.0)
    assert drive.joint_speed(last=5) < 1e-3 and not drive.refused
    drive.bench.assert_within_limits()


wishes = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 1.0]),
        st.lists(st.sampled_from([-1.0, -0.4, 0.0, 0.0, 1.0]), min_size=6, max_size=6),
        st.sampled_from([0.05, 0.2, 0.7]),
        st.booleans(),
    ),
    min_size=2,
    max_size=5,
)


@BOUNDED
@given(
    wishes=wishes,
    space=st.sampled_from(["joint", "end_effector"]),
    moves=st.sampled_from([TWIST, TWIST, JOINTS]),
    scale=st.sampled_from([1.0, 0.2]),
)
def test_whatever_is_wished_the_limits_hold_and_release_is_rest(wishes, space, moves, scale):
    drive = Drive(variant(space, "absolute"), moves, executor={"speed_scale": scale})
    for deadman, values, seconds, frame in wishes:
        drive.run(seconds, deadman=deadman, frame=float(frame), **dict(zip(moves, values, strict=True)))
    drive.run(REST_S, deadman=0.0)
    assert drive.joint_speed(last=3) < 2e-3
    drive.bench.assert_within_limits(scale)
    assert not drive.refused, "no chunk was more than the arm can follow"


@pytest.mark.parametrize(
    ("moves", "inputs", "said"),
    [
        (TWIST, {"x": -1.0, "z": 1.0}, "stretched out|singular|limit"),
        (JOINTS, {"joint_3": 1.0}, r"joint_3 is at its limit \(2.1"),
    ],
)
def test_at_the_end_of_its_reach_the_arm_slows_down_stops_and_says_why(moves, inputs, said):
    drive = Drive(moves=moves)
    drive.run(2.6, deadman=1.0, **inputs)
    assert re.search(said, drive.teleop.why), drive.whys
    assert drive.joint_speed(last=3) < 0.1 and not drive.refused
    back = {name: -value for name, value in inputs.items()}
    drive.run(0.6, **back)
    assert drive.joint_speed(last=3) > 0.1, "it can be steered out again"
    drive.bench.assert_within_limits()


def test_a_joint_follows_a_leader_from_where_both_are():
    drive = Drive(moves=("joint_1", "joint_2"), follows=True)
    drive.run(0.2, joint_1=2.0, joint_2=-1.0)
    drive.run(0.1, deadman=1.0)
    assert drive.joint_speed(last=3) < 1e-3, "what counts is how far the leader moves, not where it is"
    for step in range(20):
        drive.run(0.05, joint_1=2.0 + 0.01 * step, joint_2=-1.0)
    drive.run(1.2, joint_1=2.2)
    moved = drive.bench.positions[-1] - np.array(HOME)
    assert np.abs(moved - [0.2, 0.0, 0.0, 0.0, 0.0, 0.0]).max() < 0.01, moved
    drive.bench.assert_within_limits()


def test_a_leader_that_falls_silent_is_a_dead_man_that_is_released():
    drive = Drive(moves=("joint_1",), follows=True)
    drive.run(0.1, joint_1=0.0)
    drive.run(0.2, deadman=1.0)
    assert drive.teleop.why == ""
    drive.leader_speaks = False
    drive.run(0.5)
    assert "leader has been silent" in drive.teleop.why


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("release", "dead-man is not held"),
        ("silence", "silent for 0.25 s"),
        ("unplugged", "device is gone"),
        ("stop", "stopped"),
        ("flood", "floods: 500"),
        ("not a number", "expected a number"),
    ],
)
def test_whatever_ends_the_wish_at_full_speed_the_arm_comes_to_rest(what, said):
    drive = Drive()
    drive.run(0.6, deadman=1.0, z=-1.0)
    assert np.abs(drive.velocities(last=3)[:, 2] + 0.25).max() < 0.01
    now_ns = drive.bench.now_ns
    ways = {
        "release": {"deadman": 0.0},
        "silence": {"alive": False},
        "unplugged": {"events": (Event(now_ns, GONE),)},
        "stop": {"stop": 1.0},
        "flood": {"events": tuple(Event(now_ns, "z", -1.0 + i % 2) for i in range(5000))},
        "not a number": {"z": float("nan")},
    }
    drive.run(REST_S + (0.25 if what == "silence" else 0.0), **ways[what])
    assert said in drive.teleop.why
    assert drive.joint_speed(last=3) < 1e-3 and not drive.refused
    drive.run(0.3, z=-1.0, **({} if what in ("release", "unplugged") else {"deadman": 1.0}))
    assert drive.joint_speed(last=3) < 1e-3, "it does not go on by itself: the dead-man has to be pressed again"
    drive.run(0.1, deadman=0.0, stop=0.0)
    drive.run(0.3, deadman=1.0)
    assert drive.joint_speed(last=3) > 0.05
    drive.bench.assert_within_limits()


def test_the_gripper_stays_as_it_is_and_moves_by_its_button_while_the_dead_man_is_held():
    drive = Drive()
    drive.run(0.1, gripper=1.0)
    drive.run(0.2, deadman=1.0, gripper=0.0)
    assert drive.bench.commands[-1].gripper == 1.0, "the button did nothing without the dead-man"
    drive.run(0.2, gripper=1.0)
    assert drive.bench.commands[-1].gripper == 0.0
    drive.run(0.3, deadman=0.0, gripper=0.0)
    drive.run(0.2, deadman=1.0)
    assert drive.bench.commands[-1].gripper == 0.0


def test_a_blocked_arm_is_not_steered_and_the_dead_man_has_to_be_pressed_again():
    drive = Drive()
    drive.run(0.2, deadman=1.0)
    teleop, now_ns = drive.teleop, drive.bench.now_ns
    assert teleop.step([], None, now_ns) is None and "not known" in teleop.why
    drive.run(0.2, z=-1.0, deadman=1.0)
    assert drive.joint_speed(last=3) < 1e-3


def test_who_runs_ahead_of_the_arm_begins_again_where_it_is():
    drive = Drive(executor={"speed_scale": 0.05})
    drive.run(1.5, deadman=1.0, z=-1.0)
    assert drive.teleop.restarts > 0 and not drive.refused
    drive.run(REST_S, deadman=0.0)
    assert drive.joint_speed(last=3) < 2e-3
    drive.bench.assert_within_limits(0.05)


def test_a_device_that_moves_the_tool_needs_kinematics():
    config = dataclasses.replace(Drive().bench.config, kinematics=None)
    with pytest.raises(ConfigError, match=r"moves the tool with the robot 'jaka_minicobo'.*without kinematics"):
        Teleoperator(CONTRACT, config, mapping_of(*TWIST))
    assert Motion(CONTRACT, config, TeleopOptions(), JOINTS)


@pytest.mark.parametrize(
    ("bindings", "said"),
    [
        ([("a", "joint_9"), ("b", "deadman")], "what a does is 'joint_9'; expected one of"),
        ([("a", "x"), ("b", "joint_1"), ("c", "deadman")], "either the tool or joints"),
        ([("b", "deadman")], "either the tool or joints"),
        ([("a", "x")], "an input that does deadman"),
    ],
)
def test_a_mapping_that_means_nothing_is_refused(bindings, said):
    with pytest.raises(ConfigError, match=said):
        Mapping(name="mine", bindings=tuple(Binding(input=a, does=b) for a, b in bindings)).moves(JOINTS)
