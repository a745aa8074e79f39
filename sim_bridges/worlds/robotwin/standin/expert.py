"""A scripted expert for both arms, one command at a time.

A script yields stages: where the hands are to be, and how far open. A stage ends when both have been commanded there.
On the way, every command is worked out from where the arms are: pushed aside, the expert goes on from there.
Commands are evenly spaced, so that a command depends on what is seen and not on how long a stage has lasted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lavla_ros.typing import FloatArray
from sim_bridges.worlds.robotwin.standin.kinematics import OutOfReach, hand_down
from sim_bridges.worlds.robotwin.standin.robot import SIDES, Arm, Robot, Side

STEP_M, STEP_RAD, STEP_GRIPPER = 0.025, 0.25, 0.25
"""Farthest that a hand moves, turns and opens in one command: at 15 Hz, 0.4 m/s."""
MAX_COMMANDS = 400
"""An expert that has not finished by then is lost."""
_REACHED_M, _REACHED_RAD = 0.001, 0.01


class Lost(RuntimeError):
    """The expert cannot go on from here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where a hand is to be, pointing down."""

    point_m: FloatArray
    """(3,) the tool point, in the world."""
    yaw_rad: float
    """Direction in which the fingers open, from x."""
    gripper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Goals of both hands; a hand without one stays where it is."""

    left: Reach | None = None
    right: Reach | None = None

    def of(self, side: Side) -> Reach | None:
        return self.left if side == "left" else self.right


class Expert:
    """The expert of one episode."""

    def __init__(self, robot: Robot, script: Callable[[Expert], Iterator[Stage]]) -> None:
        self.robot = robot
        self.lost = ""
        """Why it could not go on, or empty."""
        self.commands = 0
        self._script = script(self)
        self._stage: Stage | None = None
        self._ended = False

    @property
    def done(self) -> bool:
        """There is no command left: all stages are reached, or the expert is lost."""
        try:
            while not self._ended and (self._stage is None or self._reached(self._stage)):
                self._stage = next(self._script, None)
                self._ended = self._stage is None
            if not self._ended and self.commands >= MAX_COMMANDS:
                raise Lost(f"not finished after {self.commands} commands")
        except (Lost, OutOfReach) as error:
            self.lost, self._ended = str(error), True
        return self._ended

    def act(self) -> FloatArray:
        """The next command (14,): from where the arms' drives are now. If there is none, they stay there."""
        stay = np.array(self.robot.get_left_arm_jointState() + self.robot.get_right_arm_jointState())
        if self.done or self._stage is None:
            return stay
        self.commands += 1
        goals = [(self.robot.arm(side), self._stage.of(side)) for side in SIDES]
        steps = max(self._steps(arm, goal) for arm, goal in goals if goal is not None)
        try:
            return np.concatenate([self._toward(arm, goal, steps) for arm, goal in goals])
        except OutOfReach as error:
            self.lost, self._ended = str(error), True
            return stay

    def hand(self, side: Side) -> tuple[FloatArray, float]:
        """Tool point (3,) and yaw (rad) that the arm was last commanded to."""
        point, axes = self.robot.arm(side).tool(self.robot.arm(side).targets)
        return point, math.atan2(axes[1, 0], axes[0, 0])

    def _reached(self, stage: Stage) -> bool:
        for side in SIDES:
            goal, arm = stage.of(side), self.robot.arm(side)
            if goal is not None:
                way, turn, _ = self._way(arm, goal)
                tilt = math.acos(min(1.0, -float(arm.tool(arm.targets)[1][2, 2])))
                if np.linalg.norm(way) > _REACHED_M or abs(turn) > _REACHED_RAD or tilt > _REACHED_RAD:
                    return False
                if abs(goal.gripper - arm.gripper) > 1e-6:
                    return False
        return True

    def _way(self, arm: Arm, goal: Reach) -> tuple[FloatArray, float, float]:
        """From the arm's targets to the goal: (3,) metres, rad, and how far the gripper has to move."""
        point, yaw = self.hand(arm.side)
        return goal.point_m - point, math.remainder(goal.yaw_rad - yaw, math.tau), goal.gripper - arm.gripper

    def _steps(self, arm: Arm, goal: Reach) -> int:
        way, turn, open_ = self._way(arm, goal)
        needed = max(float(np.linalg.norm(way)) / STEP_M, abs(turn) / STEP_RAD, abs(open_) / STEP_GRIPPER)
        return max(1, math.ceil(needed - 1e-6))

    def _toward(self, arm: Arm, goal: Reach | None, steps: int) -> FloatArray:
        """(7,) the arm's part of the first of ``steps`` commands. Raises OutOfReach."""
        if goal is None:
            return np.array([*arm.targets, arm.gripper])
        way, turn, open_ = self._way(arm, goal)
        point, yaw = self.hand(arm.side)
        joints = arm.solve(point + way / steps, hand_down(yaw + turn / steps))
        return np.array([*joints, goal.gripper if steps == 1 else arm.gripper + open_ / steps])
