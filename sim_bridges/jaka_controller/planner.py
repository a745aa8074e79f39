"""Planned motion of the emulated controller: trapezoidal speed along joint and straight paths, sampled at 8 ms."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from lavla_ros.control.arm import JointLimits, Kinematics, KinematicsError
from lavla_ros.control.kinematics import rotation_vector
from lavla_ros.control.rotations import rotation_from_vector
from lavla_ros.jaka.limits import SERVO_MAX_SPEED_RAD_S, SERVO_PERIOD_S
from lavla_ros.typing import FloatArray

LONGEST_MOTION_S = 600.0
_STOP_CYCLES = 12
"""Cycles in which stop_program brings a path to rest: 96 ms."""
_WAY_PER_TURN_M = 0.2


class MotionError(ValueError):
    """A motion that cannot be planned; the message says why."""


def trapezoid(distance: float, speed: float, acceleration: float, period_s: float = SERVO_PERIOD_S) -> FloatArray:
    """Path lengths (N,) after 1, 2, … N periods, ending exactly at ``distance`` (≥ 0, any unit).

    Speed rises at ``acceleration`` to ``speed``, stays, and falls; a short path never reaches ``speed``.
    Raises MotionError for limits that are not positive and for motions above ten minutes.
    """
    if not (math.isfinite(distance) and distance >= 0.0):
        raise MotionError(f"a path length must be 0 or more, got {distance}")
    if not (math.isfinite(speed) and speed > 0.0 and math.isfinite(acceleration) and acceleration > 0.0):
        raise MotionError(f"speed and acceleration must be above 0, got {speed} and {acceleration}")
    ramp_s = min(speed / acceleration, math.sqrt(distance / acceleration))
    top_speed = ramp_s * acceleration
    cruise_s = (distance - top_speed * ramp_s) / top_speed if top_speed > 0.0 else 0.0
    duration_s = 2.0 * ramp_s + cruise_s
    if duration_s > LONGEST_MOTION_S:
        raise MotionError(f"the motion would take {duration_s:.0f} s, above {LONGEST_MOTION_S:.0f} s")
    count = max(1, math.ceil(duration_s / period_s - 1e-9))
    t = np.minimum(np.arange(1, count + 1) * period_s, duration_s)
    rising = 0.5 * acceleration * np.minimum(t, ramp_s) ** 2
    cruising = top_speed * np.clip(t - ramp_s, 0.0, cruise_s)
    left = np.clip(duration_s - t, 0.0, ramp_s)
    falling = 0.5 * acceleration * (ramp_s**2 - left**2)
    length = rising + cruising + falling
    length[-1] = distance
    return np.asarray(length, dtype=np.float64)


def plan_joint_motion(
    start_rad: FloatArray, goal_rad: FloatArray, speed_rad_s: float, acceleration_rad_s2: float, limits: JointLimits
) -> FloatArray:
    """Joint positions (N, 6), rad, one per period; the joint with the longest way moves at the given speed.

    Raises MotionError if the goal is outside the limits or the speed above 180 deg/s.
    """
    _inside(goal_rad, limits)
    if speed_rad_s > SERVO_MAX_SPEED_RAD_S * (1 + 1e-9):
        raise MotionError(f"joint speed {math.degrees(speed_rad_s):.1f} deg/s is above 180 deg/s")
    delta = goal_rad - start_rad
    longest = float(np.abs(delta).max())
    length = trapezoid(longest, speed_rad_s, acceleration_rad_s2)
    fraction = length / longest if longest > 0.0 else np.ones_like(length)
    path = start_rad + fraction[:, None] * delta
    path[-1] = goal_rad
    return path


def plan_linear_motion(
    start_rad: FloatArray,
    goal_44: FloatArray,
    speed_m_s: float,
    acceleration_m_s2: float,
    limits: JointLimits,
    kinematics: Kinematics,
) -> FloatArray:
    """Joint positions (N, 6), rad, whose flange moves straight to ``goal_44`` while turning evenly.

    Turning counts as 0.2 m of way per rad, so that a motion that only turns is bounded as well. Raises MotionError
    where a point of the line cannot be reached, or only above 180 deg/s (near a singular posture).
    """
    start_44 = kinematics.forward(start_rad)
    shift = goal_44[:3, 3] - start_44[:3, 3]
    turn = rotation_vector(goal_44[:3, :3] @ start_44[:3, :3].T)
    distance, angle = float(np.linalg.norm(shift)), float(np.linalg.norm(turn))
    longest = max(distance, angle * _WAY_PER_TURN_M)
    length = trapezoid(longest, speed_m_s, acceleration_m_s2)
    fractions = length / longest if longest > 0.0 else np.ones_like(length)
    path = np.empty((len(fractions), len(start_rad)))
    q = start_rad
    for i, fraction in enumerate(fractions):
        pose = np.eye(4)
        pose[:3, :3] = rotation_from_vector(turn * fraction) @ start_44[:3, :3]
        pose[:3, 3] = start_44[:3, 3] + fraction * shift
        try:
            path[i] = kinematics.inverse(pose, q, limits)
        except KinematicsError as error:
            raise MotionError(f"the line cannot be followed beyond {fraction:.0%}: {error}") from error
        if float(np.abs(path[i] - q).max()) > SERVO_MAX_SPEED_RAD_S * SERVO_PERIOD_S:
            raise MotionError(f"the line needs more than 180 deg/s at {fraction:.0%} (singular posture)")
        q = path[i]
    return path


def _inside(q_rad: FloatArray, limits: JointLimits) -> None:
    for i, (q, lower, upper) in enumerate(zip(q_rad, limits.lower_rad, limits.upper_rad, strict=True), start=1):
        if not lower <= q <= upper:
            raise MotionError(
                f"joint {i} at {math.degrees(q):.2f} deg is outside its soft limits "
                f"{math.degrees(lower):.2f} to {math.degrees(upper):.2f} deg"
            )


class MotionPlayer:
    """Plays queued paths one period at a time; speed scaling and stopping slow the time along the path down."""

    def __init__(self) -> None:
        self._paths: deque[FloatArray] = deque()
        self._index = -1.0
        self._brake = 1.0
        self._stopping = False

    @property
    def busy(self) -> bool:
        """Whether a path is being played or waits."""
        return bool(self._paths)

    def end(self, default_rad: FloatArray) -> FloatArray:
        """Where the last queued path ends, (6,), rad; ``default_rad`` where none is queued."""
        return self._paths[-1][-1] if self._paths else default_rad

    def add(self, start_rad: FloatArray, path: FloatArray) -> None:
        """Queue a path (N, 6) that begins one period after ``start_rad`` (6,)."""
        self._paths.append(np.vstack((start_rad, path)))
        if len(self._paths) == 1:
            self._index, self._brake, self._stopping = 0.0, 1.0, False

    def stop(self) -> None:
        """Come to rest on the path within about 0.1 s and forget the rest of it."""
        self._stopping = True

    def abort(self) -> None:
        """Forget everything at once; the arm stands where it was commanded last."""
        self._paths.clear()

    def next(self, rate: float) -> FloatArray | None:
        """Joint positions (6,), rad, for the next period at ``rate`` (0 to 1) of the planned speed; None: idle."""
        if not self._paths:
            return None
        if self._stopping:
            self._brake -= 1.0 / _STOP_CYCLES
            if self._brake <= 0.0:
                self._paths.clear()
                return None
        path = self._paths[0]
        self._index += rate * self._brake
        if self._index >= len(path) - 1:
            self._paths.popleft()
            self._index = 0.0
            if self._stopping:
                self._paths.clear()
            position: FloatArray = path[-1]
            return position
        low = int(self._index)
        weight = self._index - low
        return np.asarray((1.0 - weight) * path[low] + weight * path[low + 1], dtype=np.float64)
