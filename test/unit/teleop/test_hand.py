"""The tool goes where a hand goes while the dead-man is held: a headset's controller, as the console's page says it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from arms import HOME
from drive import REST_S, Drive
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lavla_ros.config import ConfigError
from lavla_ros.control.kinematics import rotation_vector
from lavla_ros.control.rotations import rotation_from_vector
from lavla_ros.teleop.config import Binding, Mapping, load_mapping
from lavla_ros.teleop.devices import Messages
from lavla_ros.teleop.operator import Event

BROWSER = load_mapping("browser")
INPUTS = ("hand_x", "hand_y", "hand_z", "hand_rx", "hand_ry", "hand_rz")
SOMEWHERE = (2.3, -0.4, 1.2, 1.9, 2.1, -0.6)
"""Where the hand is in its room when the button is pressed: more than a half turn from the room's axes."""


class Hand:
    """What a page says of a hand, each time that it is read."""

    def __init__(self) -> None:
        self.device = Messages(BROWSER)
        self.place = np.eye(4)
        self.place[:3, 3], self.place[:3, :3] = SOMEWHERE[:3], rotation_from_vector(np.array(SOMEWHERE[3:]))
        self.held, self.seen, self.also = False, True, dict[str, float]()

    def moves(self, x=0.0, y=0.0, z=0.0, turn=(0.0, 0.0, 0.0)) -> None:
        self.place[:3, 3] += (x, y, z)
        self.place[:3, :3] = rotation_from_vector(np.array(turn)) @ self.place[:3, :3]

    def read(self, now_ns: int) -> list[Event]:
        pose = (*self.place[:3, 3], *rotation_vector(self.place[:3, :3]))
        said = dict(zip(INPUTS, pose, strict=True)) if self.seen else {}
        self.device.take(json.dumps({"deadman": 1, **said, **self.also} if self.held else self.also), now_ns)
        return self.device.read(now_ns)

    def close(self) -> None:
        self.device.close()


class Following(Drive):
    def __init__(self, **options) -> None:
        super().__init__(mapping=BROWSER, **options)
        self.hand = Hand()
        self.run(0.1, device=self.hand)
        self.begin = self.tool()

    def tool(self) -> np.ndarray:
        kinematics = self.bench.config.kinematics
        joints = self.bench.commands[-1].position_rad if self.bench.commands else np.array(HOME)
        return kinematics.forward(np.array(joints))

    def goes(self, seconds: float, **way) -> None:
        """Moves evenly, a step each 50 ms."""
        steps = round(seconds / 0.05)
        for _ in range(steps):
            self.hand.moves(**{name: np.array(value) / steps for name, value in way.items()})
            self.run(0.05, device=self.hand)

    def gone(self) -> np.ndarray:
        """Way (m) and turn (rad) of the tool since the begin, in the base frame."""
        now = self.tool()
        turned = rotation_vector(now[:3, :3] @ self.begin[:3, :3].T)
        return np.concatenate((now[:3, 3] - self.begin[:3, 3], turned))


@pytest.mark.parametrize("frame", ["base", "tool"])
def test_the_tool_goes_and_turns_as_the_hand_does_and_no_further(frame):
    drive = Following(frame=frame)
    drive.goes(0.5, x=1.0, turn=(0.0, 1.0, 0.0))
    assert np.abs(drive.gone()).max() < 1e-6, "nothing is held"
    drive.hand.held = True
    drive.run(0.3, device=drive.hand)
    assert np.abs(drive.gone()).max() < 1e-4, "what counts is how far the hand moves, not where it is"
    drive.goes(1.0, x=0.03, y=-0.06, z=-0.05, turn=(0.1, -0.15, 0.3))
    farthest = 0.0
    for _ in range(20):
        drive.run(0.05, device=drive.hand)
        farthest = max(farthest, float(np.linalg.norm(drive.gone()[:3])))
    expected = np.concatenate(([0.03, -0.06, -0.05], [0.1, -0.15, 0.3]))
    assert np.abs(drive.gone() - expected).max() < 0.004, drive.gone()
    assert farthest < 1.03 * np.linalg.norm(expected[:3]), "it does not overshoot"
    assert not drive.refused and drive.teleop.why == ""
    drive.bench.assert_within_limits()


def test_where_the_hand_goes_on_is_where_the_arm_goes_on_after_another_press():
    """So a short arm reaches far: let go, take the hand back, press again."""
    drive = Following()
    for _ in range(2):
        drive.hand.held = True
        drive.run(0.05, device=drive.hand)
        drive.goes(0.6, z=-0.05)
        drive.run(0.8, device=drive.hand)
        drive.hand.held = False
        drive.run(0.1, device=drive.hand)
        drive.goes(0.6, z=0.05)
        drive.run(REST_S, device=drive.hand)
    assert np.abs(drive.gone() - [0, 0, -0.1, 0, 0, 0]).max() < 0.006, drive.gone()


@pytest.mark.parametrize("level", [1, 3])
def test_a_hand_that_is_faster_than_the_level_is_followed_at_its_speed(level):
    drive, fastest_m_s = Following(level=level), {1: 0.025, 3: 0.125}[level]
    drive.hand.held = True
    drive.goes(0.5, y=0.25)
    drive.run(0.4, device=drive.hand)
    assert np.linalg.norm(drive.velocities(last=20), axis=1).max() == pytest.approx(fastest_m_s, rel=0.03)


def _not_tracked(drive: Following) -> None:
    drive.hand.seen = False


def _silent(drive: Following) -> None:
    drive.hand.held = False  # what was said last stays so; nobody reads it


def _jumps(drive: Following) -> None:
    drive.hand.moves(y=-0.4)


def _flips(drive: Following) -> None:
    drive.hand.moves(turn=(0.0, 0.0, 2.0))


def _released(drive: Following) -> None:
    drive.hand.held = False


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (_released, "the dead-man is not held"),
        (_not_tracked, "where the hand is is not known any more"),
        (_silent, "silent for 0.3 s"),
        (_jumps, "the hand has jumped by 0.40 m"),
        (_flips, r"the hand has jumped by 0.00 m and 2.0 rad"),
    ],
)
def test_a_hand_that_is_not_there_any_more_has_let_go_and_has_to_press_again(ends, said):
    drive = Following()
    drive.hand.held = True
    drive.goes(0.8, z=-0.2)
    assert drive.velocities(last=3)[:, 2].max() < -0.15, "at full speed"
    ends(drive)
    if ends is _silent:
        drive.run(REST_S + 0.35, alive=False)
    else:
        drive.run(REST_S, device=drive.hand)
    assert said in drive.teleop.why and drive.joint_speed(last=3) < 1e-3 and not drive.refused
    still = drive.gone()
    drive.hand.held = ends not in (_released, _silent)
    drive.hand.seen = True
    drive.goes(0.5, z=-0.1)
    assert np.abs(drive.gone() - still).max() < 1e-3, "it does not go on by itself"
    drive.hand.held = False
    drive.run(0.1, device=drive.hand)
    drive.hand.held = True
    drive.goes(0.5, z=0.05)
    assert drive.gone()[2] > still[2] + 0.02
    drive.bench.assert_within_limits()


def test_keys_steer_as_before_once_the_hand_has_let_go():
    drive = Following()
    drive.hand.held = True
    drive.goes(0.3, z=-0.05)
    drive.hand.held = False
    drive.run(REST_S, device=drive.hand)
    before = drive.gone()
    drive.hand.also = {"deadman": 1, "w": 1}
    drive.run(0.6, device=drive.hand)
    assert drive.gone()[0] > before[0] + 0.05 and drive.teleop.why == ""
    drive.hand.also = {}
    drive.run(REST_S, device=drive.hand)
    assert drive.joint_speed(last=3) < 1e-3


def test_the_other_button_works_the_gripper_while_the_hand_holds():
    drive = Following()
    drive.hand.also = {"hand_gripper": 1}
    drive.run(0.2, device=drive.hand)
    drive.hand.also, drive.hand.held = {}, True
    drive.run(0.2, device=drive.hand)
    assert drive.bench.commands[-1].gripper == 1.0
    drive.hand.also = {"hand_gripper": 1}
    drive.run(0.3, device=drive.hand)
    assert drive.bench.commands[-1].gripper == 0.0


steps = st.lists(
    st.tuples(
        st.sampled_from([True, True, False]),
        st.lists(st.sampled_from([-0.25, 0.0, 0.0, 0.2]), min_size=3, max_size=3),
        st.lists(st.sampled_from([-0.8, 0.0, 0.0, 0.8]), min_size=3, max_size=3),
        st.sampled_from([0.1, 0.4]),
    ),
    min_size=2,
    max_size=5,
)


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.generate),
)
@given(steps=steps)
def test_wherever_the_hand_goes_the_limits_hold_and_release_is_rest(steps):
    drive = Following()
    for held, way, turn, seconds in steps:
        drive.hand.held = held
        drive.goes(seconds, **dict(zip("xyz", way, strict=True)), turn=turn)
    drive.hand.held = False
    drive.run(0.05 + REST_S, device=drive.hand)  # the page is asked within 0.05 s
    assert drive.joint_speed(last=3) < 2e-3 and not drive.refused
    drive.bench.assert_within_limits()


@pytest.mark.parametrize(
    ("bindings", "said"),
    [
        ({"roll": 1.0, "pitch": 1.0}, "all three"),
        ({"roll": -1.0, "pitch": 1.0, "yaw": 1.0}, "two of them or none turned round"),
        ({"roll": 0.5, "pitch": 2.0, "yaw": 1.0}, "all three with factor 1.0"),
        ({"gripper": 1.0}, "only the arm follows positions"),
    ],
)
def test_what_cannot_be_followed_is_refused(bindings, said):
    bound = [Binding(input=does, does=does, factor=factor, follows=True) for does, factor in bindings.items()]
    with pytest.raises(ConfigError, match=said):
        Mapping(name="mine", bindings=(*bound, Binding(input="a", does="deadman"), Binding(input="b", does="x")))


def test_who_stands_opposite_the_arm_turns_the_axes_round():
    turned = {"x": -1.0, "y": -1.0, "z": 1.0, "roll": -1.0, "pitch": -1.0, "yaw": 1.0}
    bindings = [Binding(input=does, does=does, factor=factor, follows=True) for does, factor in turned.items()]
    Mapping(name="opposite", bindings=(*bindings, Binding(input="a", does="deadman")))
