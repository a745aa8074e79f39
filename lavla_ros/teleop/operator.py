"""What the person wants, from the events of a device: nothing, unless the dead-man is held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lavla_ros.control.kinematics import rotation_vector
from lavla_ros.control.rotations import rotation_from_vector
from lavla_ros.teleop.config import (
    DEADMAN,
    FASTER,
    FRAME,
    GRIPPER,
    GRIPPER_FOLLOWS,
    HAND_BACK,
    LEVELS,
    SLOWER,
    STOP,
    TWIST,
    Binding,
    Mapping,
    TeleopOptions,
)
from lavla_ros.typing import NS_PER_S, FloatArray

GONE = "gone"
"""Input of an event that says that the device is not there any more."""
PRESSED = 0.5
"""From this value on, a button is pressed."""
JUMP_M, JUMP_RAD = 0.3, 1.0
"""Further than this from one chunk to the next, 6 m/s and 20 rad/s, no hand moves that an arm is to follow."""
FLOOD = 1000
"""More events between two chunks than this are no person's: all are dropped."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a device said."""

    stamp_ns: int
    input: str = ""
    """Which input; empty: a sign of life and nothing more; :data:`GONE`: the last one."""
    value: float = 0.0
    """Axes -1 to 1, buttons 0 or 1, joints of a leader rad, a gripper 0 to 1 (open)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the person wants the arm to do now."""

    held: bool
    """The dead-man is held; else the arm is to come to rest, and everything else here is void."""
    velocity: tuple[float, ...]
    """Of the tool (6,), m/s and rad/s, in ``frame``; or of the joints (dof,), rad/s."""
    follow: tuple[float | None, ...] = ()
    """Positions of a leader's joints (dof,), rad, relative to those at which the dead-man was pressed; None: a joint
    that follows nothing. Or of a hand (6,): its way and its turn (rotation vector) since then along and about the axes
    of the base, m and rad. Empty: nothing is followed."""
    pace: float = 1.0
    """The speed level, as a fraction, which bounds how fast the tool follows."""
    frame: str
    gripper_open: float | None = None
    """1 open, 0 closed; None: as it is."""
    press: int = 0
    """Counts the times that the dead-man was pressed."""


class Operator:
    """Keeps the inputs of one device. Not thread-safe."""

    def __init__(self, mapping: Mapping, options: TeleopOptions, joint_names: Sequence[str]) -> None:
        """Raises ConfigError if the mapping moves what this arm does not have."""
        self.moves = mapping.moves(joint_names)
        self._mapping, self._options = mapping, options
        self._values = {binding.input: 0.0 for binding in mapping.bindings}
        self._seen: set[str] = set()
        self._stuck: set[str] = set()
        """Inputs that were held when the person's wish ended without their release: they count when pressed again."""
        self._origin: dict[str, float] = {}
        """Positions of what is followed when the dead-man was pressed."""
        self._leader = mapping.leads
        self._hand = {b.does: b for b in mapping.bindings if b.follows and b.does in TWIST}
        self._way = np.zeros(len(TWIST))
        """Of the hand since the dead-man was pressed, at the last :meth:`feed`."""
        self._alive_ns: dict[bool, int] = {}
        """Newest sign of life: of the leader (True), of all else (False)."""
        self._changed_ns = 0
        """When an input was said last."""
        self._held = False
        self._press = 0
        self.level, self.frame = options.level, options.frame
        self.gripper_open: float | None = None
        self.gripper_is = 1.0
        """How the gripper is commanded; where the person's wish begins when the dead-man is pressed."""
        self.why = "the dead-man is not held"
        """Why nothing moves; empty while the dead-man is held."""
        self._hand_backs = 0

    @property
    def held(self) -> bool:
        return self._held

    def take_hand_back(self) -> bool:
        """Whether the person has given the arm back to the policy since this was asked last."""
        asked, self._hand_backs = bool(self._hand_backs), 0
        return asked

    def feed(self, events: Iterable[Event], now_ns: int) -> None:
        """Events since the last call, oldest first. What lies in the future, or is too old, is no sign of life."""
        events = list(events)
        if len(events) > FLOOD:
            self.release(f"the device floods: {len(events)} events at once; at most {FLOOD} are read")
            self._seen.clear()
            for event in events:  # only what was let go counts
                if event.input in self._values and event.value < PRESSED:
                    self._note(event)
            return
        for event in events:
            if event.input == GONE:
                self.release("the device is gone; plug it in again")
                self._values = dict.fromkeys(self._values, 0.0)
                self._seen.clear()
                self._stuck.clear()
                self._alive_ns.clear()
                continue
            if event.stamp_ns <= now_ns:
                which = event.input in self._leader
                self._alive_ns[which] = max(event.stamp_ns, self._alive_ns.get(which, event.stamp_ns))
            if event.input in self._values:
                self._changed_ns = now_ns
                self._note(event)
        self._check_hand()
        self._check_silence(now_ns)

    def release(self, why: str) -> None:
        """The dead-man counts as released, until it is pressed again."""
        self._stuck |= {b.input for b in self._bound(DEADMAN) if self._values[b.input] >= PRESSED}
        self._held, self.why = False, why

    def wish(self, now_ns: int) -> Wish:
        """What the person wants at this time."""
        self._check_silence(now_ns)
        options, level = self._options, LEVELS[self.level - 1]
        velocity = dict.fromkeys(self.moves, 0.0)
        for binding in self._mapping.bindings:
            if binding.does in velocity and not binding.follows:
                velocity[binding.does] += binding.factor * self._deflection(self._values[binding.input])
        speeds = {name: options.speed_m_s if name in "xyz" else options.turn_rad_s for name in TWIST}
        return Wish(
            held=self._held,
            velocity=tuple(
                min(max(value, -1.0), 1.0) * level * speeds.get(name, options.joint_rad_s)
                for name, value in velocity.items()
            ),
            follow=self._follow(),
            pace=level,
            frame=self.frame,
            gripper_open=self.gripper_open,
            press=self._press,
        )

    def _follow(self) -> tuple[float | None, ...]:
        if self._follows_hand:
            return tuple(self._hands_way().tolist())
        follow: dict[str, float | None] = dict.fromkeys(self.moves)
        for binding in self._mapping.bindings:
            if binding.input in self._leader and binding.input in self._origin:
                follow[binding.does] = binding.factor * (self._values[binding.input] - self._origin[binding.input])
        return tuple(follow.values()) if self._leader else ()

    @property
    def _follows_hand(self) -> bool:
        """Where the hand was is known of the moment at which the dead-man was pressed."""
        return bool(self._hand) and all(b.input in self._origin for b in self._hand.values())

    def _hands_way(self) -> FloatArray:
        """Of the hand since the dead-man was pressed (6,): its way, and its turn about the axes of the base."""

        def at(values: dict[str, float]) -> FloatArray:
            bound = (self._hand.get(does) for does in TWIST)
            return np.array([0.0 if b is None else b.factor * values[b.input] for b in bound])

        now, origin = at(self._values), at(self._origin)
        turned = rotation_from_vector(now[3:]) @ rotation_from_vector(origin[3:]).T
        return np.concatenate((now[:3] - origin[:3], rotation_vector(turned)))

    def _check_hand(self) -> None:
        """A hand is not at another place at once: what says so has lost it."""
        if not (self._held and self._follows_hand):
            return
        before, self._way = self._way, self._hands_way()
        turns = [rotation_from_vector(way[3:]) for way in (self._way, before)]
        gone_m = float(np.linalg.norm(self._way[:3] - before[:3]))
        turned_rad = float(np.linalg.norm(rotation_vector(turns[0] @ turns[1].T)))
        if gone_m > JUMP_M or turned_rad > JUMP_RAD:
            self.release(f"the hand has jumped by {gone_m:.2f} m and {turned_rad:.1f} rad; press the dead-man again")

    def _deflection(self, value: float) -> float:
        """The value, from 0 at the edge of the dead zone on."""
        beyond = max(0.0, abs(value) - self._mapping.dead_zone) / (1.0 - self._mapping.dead_zone)
        return beyond if value > 0 else -beyond

    def _bound(self, does: str) -> Iterator[Binding]:
        return (binding for binding in self._mapping.bindings if binding.does == does)

    def _note(self, event: Event) -> None:
        if not abs(event.value) < 1e6:  # NaN, too
            self._seen.discard(event.input)
            if event.input in (bound.input for bound in self._hand.values()):
                if self._held and self._follows_hand:
                    self.release("where the hand is is not known any more; press the dead-man again")
                return
            self.release(f"{event.input} is {event.value}; expected a number")
            return
        before, self._values[event.input] = self._values[event.input], event.value
        self._seen.add(event.input)
        pressed = before < PRESSED <= event.value
        if event.value < PRESSED:
            self._stuck.discard(event.input)
        for binding in self._mapping.bindings:
            if binding.input != event.input:
                continue
            if binding.does == DEADMAN:
                self._judge_deadman()
            elif binding.does == GRIPPER_FOLLOWS:
                if self._held:
                    self.gripper_open = min(max(binding.factor * event.value, 0.0), 1.0)
            elif pressed:
                self._press_button(binding.does)

    def _judge_deadman(self) -> None:
        held = any(b.input not in self._stuck and self._values[b.input] >= PRESSED for b in self._bound(DEADMAN))
        if held and not self._held:
            self._press += 1
            self.gripper_open = self.gripper_is
            self._origin = {
                b.input: self._values[b.input] for b in self._mapping.bindings if b.follows and b.input in self._seen
            }
            self._way = np.zeros(len(TWIST))
        if held != self._held:
            self._held, self.why = held, "" if held else "the dead-man is not held"

    def _press_button(self, does: str) -> None:
        if does == GRIPPER:
            if self._held:
                self.gripper_open = 0.0 if (self.gripper_open or 0.0) >= 0.5 else 1.0
        elif does == FRAME:
            self.frame = "tool" if self.frame == "base" else "base"
        elif does == FASTER:
            self.level = min(self.level + 1, len(LEVELS))
        elif does == SLOWER:
            self.level = max(self.level - 1, 1)
        elif does == HAND_BACK:
            self._hand_backs += 1
            self.release("the arm was handed back")
        elif does == STOP:
            self.release("stopped; press the dead-man again")

    def _check_silence(self, now_ns: int) -> None:
        silence_s = self._mapping.silence_s
        for leader in (False, True) if self._held else ():
            alive_ns = self._alive_ns.get(leader)
            if (self._leader or not leader) and (alive_ns is None or now_ns - alive_ns > silence_s * NS_PER_S):
                self.release(f"the {'leader' if leader else 'device'} has been silent for {silence_s} s")
        steered = any(
            binding.does in self.moves and not binding.follows and self._deflection(self._values[binding.input])
            for binding in self._mapping.bindings
        )
        if self._held and steered and now_ns - self._changed_ns > self._mapping.still_s * NS_PER_S:
            self.release(f"nothing has changed on the device for {self._mapping.still_s} s; press the dead-man again")
