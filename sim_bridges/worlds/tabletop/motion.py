"""How the expert's tool moves: a state with two derivatives, and a jerk-limited planner over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ruckig import InputParameter, Result, Ruckig, RuckigError, Synchronization, Trajectory

from lavla_ros.typing import FloatArray
from sim_bridges.worlds.tabletop.tool import SHOULDER_Z_M, WRIST_ABOVE_GRASP_M, tool_down_joints

_LEAN_STEPS = 8
"""A pushed arm's tool is straight again after this many steps."""
_RECOVERY = 2.2
"""Acceleration of a pushed arm that is too fast, as a multiple of the usual one."""
_WRIST_REACH_M = (0.205, 0.413)
"""Distance of the wrist's centre from the shoulder: from the elbow's limit to short of the stretched arm."""


def within_reach(tool_m: FloatArray) -> FloatArray:
    """The nearest grasp point, along the line from the shoulder, that the arm reaches with the tool down."""
    shoulder = np.array([0.0, 0.0, SHOULDER_Z_M - WRIST_ABOVE_GRASP_M])
    way = tool_m - shoulder
    distance = float(np.linalg.norm(way))
    return np.asarray(shoulder + way * (min(_WRIST_REACH_M[1], max(_WRIST_REACH_M[0], distance)) / distance))


@dataclass(frozen=True, slots=True)
class Motion:
    """How the tool moves: x, y, z of the grasp point (m) and yaw (rad), with two derivatives."""

    position: list[float]
    velocity: list[float]
    acceleration: list[float]
    lean_rad: tuple[float, float] = (0.0, 0.0)
    """By how much joints 4 and 5 were off the upright tool when the arm was last pushed; it fades out."""
    lean_age: int = 0
    """Steps since then."""
    pushed: bool = False
    """The arm is faster than the expert would move it."""

    @property
    def joints_rad(self) -> FloatArray:
        """(6,) joint positions of this motion."""
        q = tool_down_joints(within_reach(np.array(self.position[:3])), self.position[3])
        left = max(0.0, 1.0 - self.lean_age / _LEAN_STEPS)
        q[3:5] += np.array(self.lean_rad) * (left**3 * (10.0 - 15.0 * left + 6.0 * left**2))
        return q


class Planner:
    """Time-optimal motion to rest at a goal, every axis on its own, from any state (ruckig)."""

    def __init__(self, speed: list[float], acceleration: list[float], jerk: list[float]) -> None:
        self.speed, self.acceleration, self.jerk = speed, acceleration, jerk
        self._ruckig, self._request = Ruckig(len(speed)), InputParameter(len(speed))
        self._request.synchronization = Synchronization.No
        self._request.max_velocity, self._request.max_acceleration, self._request.max_jerk = speed, acceleration, jerk

    def is_usual(self, velocity: list[float]) -> bool:
        """Whether this velocity is one that the planner would plan, or a little more."""
        return all(abs(v) <= 1.2 * top for v, top in zip(velocity, self.speed, strict=True))

    def step(self, motion: Motion, goal: list[float], dt_s: float) -> Motion:
        """``motion`` after ``dt_s`` on the way to ``goal``."""
        request = self._request
        request.current_position, request.target_position = motion.position, goal
        request.current_velocity = motion.velocity
        # A pushed arm is first brought under control again: it may brake harder than the expert moves.
        harder = _RECOVERY if motion.pushed else 1.0
        request.max_acceleration = [harder * a for a in self.acceleration]
        request.max_jerk = [harder * j for j in self.jerk]
        request.current_acceleration = [
            _clip(a, top) for a, top in zip(motion.acceleration, request.max_acceleration, strict=True)
        ]
        trajectory = Trajectory(len(goal))
        for share in (1.0, 2.0, 4.0):
            request.max_velocity = [share * v for v in self.speed]
            if self._solved(trajectory):
                break
        else:
            # No motion from this state: end it here, the executor brakes within its limits.
            still = [0.0] * len(goal)
            return Motion(motion.position, still, still, motion.lean_rad, motion.lean_age + 1)
        position, velocity, acceleration = trajectory.at_time(dt_s)
        return Motion(position, velocity, acceleration, motion.lean_rad, motion.lean_age + 1, motion.pushed)

    def _solved(self, trajectory: Trajectory) -> bool:
        try:
            return self._ruckig.calculate(self._request, trajectory) in (Result.Working, Result.Finished)
        except (RuckigError, ValueError):
            return False


def _clip(value: float, size: float) -> float:
    return max(-size, min(size, value))
