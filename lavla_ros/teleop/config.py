"""What a device's inputs do, and how fast: the mapping of a device and the options of teleoperation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lavla_ros.config import check, check_settings, read_config, setting
from lavla_ros.resources import config_file

TWIST = ("x", "y", "z", "roll", "pitch", "yaw")
"""Directions of the tool: along and about the axes of the frame in force."""
TURNS = TWIST[3:]
DEADMAN, GRIPPER, FRAME, FASTER, SLOWER, HAND_BACK, STOP = ACTIONS = (
    "deadman",
    "gripper",
    "frame",
    "faster",
    "slower",
    "hand_back",
    "stop",
)
"""What a button does: enable motion while it is held, open or close the gripper, change between the frames of base and
tool, change the speed level, give the arm back to the policy, end motion until the dead-man is pressed again."""
GRIPPER_FOLLOWS = "gripper_position"
"""An input that gives the gripper's opening, 0 closed to 1 open."""

TOPIC = "topic"
"""Device of which a program sends the events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What one input of a device does."""

    input: str
    """Name of the input, as the device gives it: ABS_Y, BTN_TL, a key, a joint of a leader."""
    does: str
    """x, y, z, roll, pitch, yaw, a joint of the arm, gripper_position, or an action: deadman, gripper, frame, faster,
    slower, hand_back, stop."""
    factor: float = 1.0
    """Of the input's value; negative turns its direction."""
    follows: bool = False
    """The input is a position that the arm follows, from where both are when the dead-man is pressed: for a joint, of a
    leader's joint, rad; for the tool, of a hand along an axis of the base, m, or about it, rad (roll, pitch and yaw:
    its rotation vector). Else it is a velocity, as a fraction of the level's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """All inputs of a device. Raises ConfigError for one that means nothing."""

    name: str
    bindings: tuple[Binding, ...]
    device: str = "keyboard"
    """keyboard, topic (a program sends the events), or words of which one is in the name of the input device, with |
    between them."""
    dead_zone: float = setting(0.1, "Deflections below this are none.", low=0.0, high=0.9)
    silence_s: float = setting(
        0.25,
        "The dead-man counts as released when the device has shown no sign of life for this long.",
        low=0.02,
        high=2.0,
        unit="s",
    )

    still_s: float = setting(
        4.0,
        "The same when nothing has changed on a deflected device for this long: without a wire it may be out of reach, "
        "of which Linux learns late.",
        low=0.1,
        high=60.0,
        unit="s",
    )

    def __post_init__(self) -> None:
        check_settings(self, f"mapping {self.name}: ")
        does = [binding.does for binding in self.bindings]
        check(DEADMAN in does, f"mapping {self.name}", sorted(set(does)), "an input that does deadman")
        followed = [b.input for b in self.bindings if b.follows and b.does in (*ACTIONS, GRIPPER_FOLLOWS)]
        where = f"mapping {self.name}: follows of {followed}"
        check(not followed, where, True, "false: only the arm follows positions")
        hand = [b.does for b in self.bindings if b.follows and b.does in TWIST]
        check(len(hand) == len(set(hand)), f"mapping {self.name} follows", hand, "each direction once")
        turns = {b.does: b.factor for b in self.bindings if b.follows and b.does in TURNS}
        # What is followed is a rotation: it has no parts, and the axes of the hand may be turned, but not mirrored.
        whole = set(turns) == set(TURNS) and math.prod(turns.values()) == 1.0 and set(turns.values()) <= {1.0, -1.0}
        expected = "none of roll, pitch and yaw, or all three with factor 1.0, two of them or none turned round (-1.0)"
        check(whole or not turns, f"mapping {self.name} follows with factors", turns, expected)

    @property
    def leads(self) -> frozenset[str]:
        """Inputs that are another arm's joints, which come by a topic of their own."""
        return frozenset(b.input for b in self.bindings if b.follows and b.does not in TWIST)

    def moves(self, joint_names: Sequence[str]) -> tuple[str, ...]:
        """What the inputs move: :data:`TWIST`, or ``joint_names``, those of the arm.

        Raises ConfigError for inputs that move neither, both, or nothing.
        """
        known = {*TWIST, *ACTIONS, GRIPPER_FOLLOWS, *joint_names}
        for binding in self.bindings:
            where = f"mapping {self.name}: what {binding.input} does"
            check(binding.does in known, where, binding.does, f"one of {sorted(known)}")
        moved = {b.does for b in self.bindings} - {*ACTIONS, GRIPPER_FOLLOWS}
        mixed = bool(moved & set(TWIST)) and bool(moved & set(joint_names))
        check(bool(moved) and not mixed, f"mapping {self.name} moves", sorted(moved), "either the tool or joints")
        return TWIST if moved & set(TWIST) else tuple(joint_names)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeleopOptions:
    """How a person's wishes become motion: node parameters. Raises ConfigError for a value out of range."""

    speed_m_s: float = setting(
        0.25, "Speed of the tool at full deflection and the highest level.", low=0.005, high=1.0, unit="m/s"
    )
    turn_rad_s: float = setting(
        0.8, "Angular speed of the tool at full deflection and the highest level.", low=0.01, high=3.0, unit="rad/s"
    )
    joint_rad_s: float = setting(
        0.8, "Speed of a joint at full deflection and the highest level.", low=0.01, high=3.0, unit="rad/s"
    )
    level: int = setting(2, "Speed level at the start: 1 is a tenth, 2 a quarter, 3 half, 4 full speed.", low=1, high=4)
    frame: str = setting("base", "Frame of the tool's directions at the start.", choices=("base", "tool"))
    acceleration_m_s2: float = setting(
        1.0, "How fast the tool's speed changes, also on its way to rest.", low=0.05, high=5.0, unit="m/s²"
    )
    acceleration_rad_s2: float = setting(
        3.0, "How fast the tool's and the joints' angular speeds change.", low=0.1, high=20.0, unit="rad/s²"
    )
    rise_s: float = setting(0.1, "Time in which an acceleration reaches its full value.", low=0.01, high=1.0, unit="s")
    chunk_rate_hz: float = setting(
        20.0, "Chunks a second; chunks of deltas come at the contract's rate.", low=2.0, high=100.0, unit="Hz"
    )
    lead_rad: float = setting(
        0.1,
        "What the person steers begins again where the arm is if it is further ahead of the arm than this.",
        low=0.01,
        high=0.5,
        unit="rad",
    )

    def __post_init__(self) -> None:
        check_settings(self, "teleoperation parameter ")


LEVELS = (0.1, 0.25, 0.5, 1.0)
"""Speed levels, as fractions of the speeds of :class:`TeleopOptions`."""


def load_mapping(name: str) -> Mapping:
    """A mapping of config/teleop by its name, or a YAML file. Raises ConfigError."""
    return read_config(Mapping, config_file(name, "teleop"))
