"""The stand-in's three tasks. In all of them blocks lie on both sides, so that neither arm can do it alone in time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from lavla_ros.errors import InputError
from lavla_ros.typing import FloatArray
from sim_bridges.worlds.robotwin.standin.body import Vector
from sim_bridges.worlds.robotwin.standin.expert import Expert, Lost, Reach, Stage
from sim_bridges.worlds.robotwin.standin.moves import ABOVE_M, Grip, Place, home, lifted, pick, put_down, stage, yaw_of
from sim_bridges.worlds.robotwin.standin.robot import SIDES, Side
from sim_bridges.worlds.robotwin.standin.task import TABLE_TOP_M, Block, StandinTask

CUBE_M: Vector = (0.025, 0.025, 0.025)
BAR_M: Vector = (0.10, 0.016, 0.02)
RED: Vector = (0.75, 0.03, 0.03)
BLUE: Vector = (0.03, 0.10, 0.70)
GREEN: Vector = (0.05, 0.45, 0.08)
YELLOW: Vector = (0.80, 0.60, 0.03)


class StackTwoBlocks(StandinTask):
    """The red block to the middle, and the blue one onto it. One lies left and one right; which is which is drawn."""

    name: ClassVar[str] = "stack_two_blocks"
    step_limit: ClassVar[int] = 150
    MIDDLE_M: ClassVar[tuple[float, float]] = (0.0, -0.03)

    def _lay_out(self, coin: int, rng: np.random.Generator) -> None:
        self._side: Side = SIDES[coin]
        sides = (self._side, _other(self._side))
        places = {side: _place(rng, side, x_m=(0.13, 0.28), y_m=(-0.09, 0.09)) for side in SIDES}
        yaws = {side: float(rng.uniform(-0.6, 0.6)) for side in SIDES}
        colours = _shade(rng, RED), _shade(rng, BLUE)
        self._bottom, self._top = (
            self._add_block(name, CUBE_M, colour, places[side], yaws[side])
            for name, colour, side in zip(("red_block", "blue_block"), colours, sides, strict=True)
        )

    def _in_place(self) -> bool:
        if not (self.robot.is_left_gripper_open() and self.robot.is_right_gripper_open()):
            return False
        apart = self._top.at_m - self._bottom.at_m
        return bool(np.abs(apart[:2]).max() < CUBE_M[0] and abs(apart[2] - 2 * CUBE_M[2]) < 0.01)

    def _script(self, expert: Expert) -> Iterator[Stage]:
        first, second = self._side, _other(self._side)
        grips = {first: Grip(self._bottom), second: Grip(self._top)}
        yield from pick(expert, grips)
        middle = np.array([*self.MIDDLE_M, TABLE_TOP_M + CUBE_M[2]])
        yield from put_down(expert, {first: Place(grip=grips[first], at_m=middle, yaw_rad=0.0)})
        meanwhile = {first: home(first)}
        for _ in range(2):
            onto = self._bottom.at_m + np.array([0.0, 0.0, 2 * CUBE_M[2]])
            place = Place(grip=grips[second], at_m=onto, yaw_rad=yaw_of(self._bottom))
            yield from put_down(expert, {second: place}, meanwhile=meanwhile)
            if self._in_place():
                return
            yield from pick(expert, {second: grips[second]})  # it fell off
        raise Lost("the blue block fell off the red one twice")

    @classmethod
    def _words(cls, coin: int) -> dict[str, str]:
        return {"{A}": "red block", "{B}": "blue block", "{a}": SIDES[coin], "{b}": _other(SIDES[coin])}


class HandoverBlock(StandinTask):
    """The bar on the left is handed to the right arm, which lays it on the pad on the right."""

    name: ClassVar[str] = "handover_block"
    step_limit: ClassVar[int] = 150
    MEETING_M: ClassVar[Vector] = (0.0, -0.06, TABLE_TOP_M + 0.16)
    GRIP_M: ClassVar[float] = 0.065
    """From the bar's middle to where either hand grips it."""

    def _lay_out(self, coin: int, rng: np.random.Generator) -> None:
        self._bar = self._add_block(
            "bar",
            BAR_M,
            _shade(rng, YELLOW),
            _place(rng, "left", x_m=(0.16, 0.26), y_m=(-0.10, 0.08)),
            float(rng.uniform(-0.35, 0.35)),
        )
        self._pad_m = _place(rng, "right", x_m=(0.16, 0.26), y_m=(-0.10, 0.08))
        self._add_pad(0.12, 0.045, _shade(rng, GREEN), self._pad_m)

    def _in_place(self) -> bool:
        if not self.robot.is_right_gripper_open():
            return False
        at = self._bar.at_m
        along = abs(float(self._bar.axes[0, 0]))
        on_pad = np.abs(at[:2] - self._pad_m).max() < 0.03 and along > math.cos(0.3)
        return bool(on_pad and abs(at[2] - TABLE_TOP_M - BAR_M[2]) < 0.005)

    def _script(self, expert: Expert) -> Iterator[Stage]:
        # Cameras outwards: the hands meet with their bare sides.
        left, right = (
            Grip(self._bar, along_m=sign * self.GRIP_M, prefer_yaw_rad=sign * math.pi / 2, turns=2) for sign in (-1, 1)
        )
        yield from pick(expert, {"left": left})
        meeting = Place(grip=left, at_m=np.array(self.MEETING_M), yaw_rad=0.0)
        waiting = Reach(point_m=np.add(self.MEETING_M, (self.GRIP_M, 0.0, ABOVE_M)), yaw_rad=math.pi / 2, gripper=1.0)
        yield stage({"left": meeting.hand(expert, "left"), "right": waiting})
        yield from pick(expert, {"right": right}, lift=False)
        point, yaw = expert.hand("left")
        let_go = Reach(point_m=point, yaw_rad=yaw, gripper=1.0)
        yield stage({"left": let_go})
        yield stage({"left": lifted(let_go)})
        on_pad = np.array([*self._pad_m, TABLE_TOP_M + BAR_M[2]])
        place = Place(grip=right, at_m=on_pad, yaw_rad=0.0)
        yield from put_down(expert, {"right": place}, meanwhile={"left": home("left")})

    @classmethod
    def _words(cls, coin: int) -> dict[str, str]:
        return {"{A}": "yellow bar", "{B}": "green pad", "{a}": "left", "{b}": "right"}


class MoveBlocksToPads(StandinTask):
    """Each block onto the pad on its side, of its colour; which colour is left is drawn."""

    name: ClassVar[str] = "move_blocks_to_pads"
    step_limit: ClassVar[int] = 120
    PAD_M: ClassVar[float] = 0.05

    def _lay_out(self, coin: int, rng: np.random.Generator) -> None:
        self._colours = self._sides(coin)
        self._pads_m: dict[Side, FloatArray] = {}
        self._cubes: dict[Side, Block] = {}
        for side in SIDES:
            colour = RED if self._colours[side] == "red" else BLUE
            self._pads_m[side] = _place(rng, side, x_m=(0.10, 0.26), y_m=(0.03, 0.09))
            self._add_pad(self.PAD_M, self.PAD_M, _pale(_shade(rng, colour)), self._pads_m[side])
            self._cubes[side] = self._add_block(
                f"{self._colours[side]}_block",
                CUBE_M,
                _shade(rng, colour),
                _place(rng, side, x_m=(0.12, 0.28), y_m=(-0.14, -0.07)),
                float(rng.uniform(-0.6, 0.6)),
            )

    def _in_place(self) -> bool:
        if not (self.robot.is_left_gripper_open() and self.robot.is_right_gripper_open()):
            return False
        return all(
            np.abs(self._cubes[side].at_m[:2] - self._pads_m[side]).max() < 0.03
            and abs(self._cubes[side].at_m[2] - TABLE_TOP_M - CUBE_M[2]) < 0.005
            for side in SIDES
        )

    def _script(self, expert: Expert) -> Iterator[Stage]:
        grips = {side: Grip(self._cubes[side]) for side in SIDES}
        yield from pick(expert, grips)
        height = TABLE_TOP_M + CUBE_M[2]
        places = {s: Place(grip=grips[s], at_m=np.array([*self._pads_m[s], height]), yaw_rad=0.0) for s in SIDES}
        yield from put_down(expert, places)

    @classmethod
    def _sides(cls, coin: int) -> dict[Side, str]:
        return dict(zip(SIDES, ("red", "blue") if coin else ("blue", "red"), strict=True))

    @classmethod
    def _words(cls, coin: int) -> dict[str, str]:
        left, right = (cls._sides(coin)[side] for side in SIDES)
        return {"{A}": f"{left} block", "{B}": f"{right} block", "{C}": f"{left} pad", "{D}": f"{right} pad"}


def _other(side: Side) -> Side:
    return "right" if side == "left" else "left"


def _place(rng: np.random.Generator, side: Side, *, x_m: tuple[float, float], y_m: tuple[float, float]) -> FloatArray:
    """(2,) a place on that side of the table; ``x_m`` counts outwards."""
    x, y = rng.uniform(*x_m), rng.uniform(*y_m)
    return np.array([-x if side == "left" else x, y])


def _shade(rng: np.random.Generator, colour: Vector) -> Vector:
    """The colour a little lighter or darker, and not quite as pure."""
    shaded = np.clip(np.array(colour) * rng.uniform(0.75, 1.2) + rng.uniform(0.0, 0.04, 3), 0.0, 1.0)
    return tuple(shaded.tolist())


def _pale(colour: Vector) -> Vector:
    return tuple((0.5 * np.array(colour) + 0.35).tolist())


TASK_TYPES: dict[str, type[StandinTask]] = {
    task.name: task for task in (StackTwoBlocks, HandoverBlock, MoveBlocksToPads)
}


def make_task(name: str) -> StandinTask:
    """A task that is not set up yet. Raises ValueError for a name that is none of TASKS."""
    if name not in TASK_TYPES:
        raise InputError(f"the stand-in has no task {name!r}; it has {', '.join(TASK_TYPES)}")
    return TASK_TYPES[name]()
