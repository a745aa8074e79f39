"""What experts' scripts are made of: picking blocks up and putting them down."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lavla_ros.typing import FloatArray
from sim_bridges.worlds.robotwin.standin.expert import Expert, Lost, Reach, Stage
from sim_bridges.worlds.robotwin.standin.robot import HOME_M, Side

if TYPE_CHECKING:
    from sim_bridges.worlds.robotwin.standin.task import Block


ABOVE_M = 0.09
"""How far above a block a hand opens, and how far it lifts it."""
TRIES = 3


class Grip:
    """Where a block is to be gripped: at a place along its x edge, across it."""

    def __init__(self, block: Block, *, along_m: float = 0.0, prefer_yaw_rad: float = 0.0, turns: int = 4) -> None:
        """``turns``: in how many directions around the vertical it can be gripped: 4, or 2 (opposite ones, along its y
        edge). Of them, the one nearest to ``prefer_yaw_rad`` is taken."""
        self.block = block
        self.turns = turns
        self._along_m, self._prefer_yaw_rad = along_m, prefer_yaw_rad

    @property
    def point_m(self) -> FloatArray:
        return self.block.at_m + self._along_m * self.block.axes[:, 0]

    @property
    def yaw_rad(self) -> float:
        edge = yaw_of(self.block) + math.pi / 2
        between = math.tau / self.turns
        return edge + between * round((self._prefer_yaw_rad - edge) / between)

    def held(self, expert: Expert, side: Side) -> bool:
        """It is between the arm's closed fingers."""
        point, _ = expert.hand(side)
        arm = expert.robot.arm(side)
        return bool(arm.gripper == 0.0 and arm.opening() > 0.1 and np.linalg.norm(self.point_m - point) < 0.03)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a gripped block is to be put."""

    grip: Grip
    at_m: FloatArray
    """(3,) its middle."""
    yaw_rad: float
    """Direction of its x edge, or of one that looks the same."""

    def hand(self, expert: Expert, side: Side) -> Reach:
        """Where the arm's hand is to be for that, the block being as it now is in the hand."""
        turn = math.remainder(self.yaw_rad - yaw_of(self.grip.block), math.tau / self.grip.turns)
        point, yaw = expert.hand(side)
        x, y, z = point - self.grip.block.at_m
        c, s = math.cos(turn), math.sin(turn)
        offset = np.array([c * x - s * y, s * x + c * y, z])
        return Reach(point_m=self.at_m + offset, yaw_rad=yaw + turn, gripper=0.0)


def yaw_of(block: Block) -> float:
    """Direction of the block's x edge, rad from the world's x."""
    axes = block.axes
    return math.atan2(axes[1, 0], axes[0, 0])


def pick(expert: Expert, grips: Mapping[Side, Grip], *, lift: bool = True) -> Iterator[Stage]:
    """Grip blocks and lift them, each with the arm named, all at the same time. Raises Lost after some attempts."""
    for _ in range(TRIES):
        missing = {side: grip for side, grip in grips.items() if not grip.held(expert, side)}
        if not missing:
            return
        grasp = {s: Reach(point_m=g.point_m, yaw_rad=g.yaw_rad, gripper=1.0) for s, g in missing.items()}
        yield stage({side: lifted(reach) for side, reach in grasp.items()})
        yield stage(grasp)
        closed = {side: with_gripper(reach, 0.0) for side, reach in grasp.items()}
        yield stage(closed)
        if lift:
            yield stage({side: lifted(reach) for side, reach in closed.items()})
    if missing := {side: grip for side, grip in grips.items() if not grip.held(expert, side)}:
        raise Lost(f"could not pick up {', '.join(grip.block.entity.name for grip in missing.values())}")


def put_down(
    expert: Expert, places: Mapping[Side, Place], meanwhile: Mapping[Side, Reach] | None = None
) -> Iterator[Stage]:
    """Bring held blocks over their places, put them down and let go; ``meanwhile``: where a free arm goes first."""
    yield stage({side: lifted(place.hand(expert, side)) for side, place in places.items()} | dict(meanwhile or {}))
    for side, place in places.items():
        if not place.grip.held(expert, side):
            raise Lost(f"dropped {place.grip.block.entity.name}")
    # Anew: on the way the block may have moved in the hand.
    down = {side: place.hand(expert, side) for side, place in places.items()}
    yield stage(down)
    opened = {side: with_gripper(reach, 1.0) for side, reach in down.items()}
    yield stage(opened)
    yield stage({side: lifted(reach) for side, reach in opened.items()})


def lifted(reach: Reach, by_m: float = ABOVE_M) -> Reach:
    return Reach(point_m=reach.point_m + np.array([0.0, 0.0, by_m]), yaw_rad=reach.yaw_rad, gripper=reach.gripper)


def with_gripper(reach: Reach, gripper: float) -> Reach:
    return Reach(point_m=reach.point_m, yaw_rad=reach.yaw_rad, gripper=gripper)


def home(side: Side) -> Reach:
    return Reach(point_m=np.array(HOME_M[side]), yaw_rad=0.0, gripper=1.0)


def stage(goals: Mapping[Side, Reach]) -> Stage:
    return Stage(left=goals.get("left"), right=goals.get("right"))
