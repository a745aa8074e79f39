"""From rest to rest, as RoboTwin moves: the joints go along a straight line as fast as the limits of the one with the
longest way allow, speeding up and slowing down evenly."""

from __future__ import annotations

import math

import numpy as np

from lavla_ros.typing import FloatArray

VELOCITY_RAD_S = 1.0
ACCELERATION_RAD_S2 = 1.0
"""What RoboTwin's time parametrisation takes if a robot states no limits."""
STEPS_PER_S = 250
STILL_STEPS = 50
"""Physics steps of a command that moves no joint of an arm (its gripper may move)."""


def duration_s(distance_rad: float) -> float:
    """Seconds that the joint with the longest way takes from rest to rest."""
    speeding_up = VELOCITY_RAD_S / ACCELERATION_RAD_S2
    if distance_rad <= VELOCITY_RAD_S * speeding_up:
        return 2.0 * math.sqrt(distance_rad / ACCELERATION_RAD_S2)
    return distance_rad / VELOCITY_RAD_S + speeding_up


def physics_steps(start: FloatArray, goal: FloatArray) -> int:
    """Physics steps from ``start`` to ``goal``, joints in rad; ``STILL_STEPS`` if nothing moves."""
    longest = float(np.abs(goal - start).max())
    steps = math.ceil(duration_s(longest) * STEPS_PER_S)
    return steps or STILL_STEPS


def rest_to_rest(start: FloatArray, goal: FloatArray, steps: int) -> tuple[FloatArray, FloatArray]:
    """Positions and velocities (steps, J), rad and rad/s, at the ends of the physics steps; the last is the goal.

    ``steps`` may be more than the motion needs: it is then slower, and still ends at rest.
    """
    way = goal - start
    longest = float(np.abs(way).max())
    if longest == 0.0:
        return np.tile(goal, (steps, 1)), np.zeros((steps, len(goal)))
    total_s = duration_s(longest)
    times_s = np.arange(1, steps + 1) / steps * total_s
    ramp_s = min(VELOCITY_RAD_S / ACCELERATION_RAD_S2, total_s / 2)
    left_s = total_s - times_s
    top = ACCELERATION_RAD_S2 * ramp_s
    distance = np.where(
        times_s < ramp_s,
        ACCELERATION_RAD_S2 * times_s**2 / 2,
        np.where(left_s < ramp_s, longest - ACCELERATION_RAD_S2 * left_s**2 / 2, top * (times_s - ramp_s / 2)),
    )
    speed = ACCELERATION_RAD_S2 * np.minimum(np.minimum(times_s, left_s), ramp_s)
    positions = start + (distance / longest)[:, None] * way
    positions[-1] = goal
    slower = total_s * STEPS_PER_S / steps
    return positions, (speed * slower / longest)[:, None] * way
