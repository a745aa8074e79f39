"""A move: from rest to a pose of the joints and to rest there, all of them on the straight way between the two.

Who asks names every joint, or a pose: of the arm's file (``poses``), or of the cell's servo configuration, whose poses
come before the arm's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from ruckig import InputParameter, Result, Ruckig, Trajectory

from lavla_ros.control.curve import MARGIN, Curve, LimitArrays, Piece
from lavla_ros.errors import UserError
from lavla_ros.typing import NS_PER_S

ARRIVED_RAD = 1e-5
"""A move is over when every joint is as near to its goal as this, and at rest."""
HOME = "home"
"""The pose of the service executor/home."""
POSE = "pose"
"""Given in place of the joints: the name of a pose."""
Poses = Mapping[str, tuple[float, ...]]
"""Joint positions, rad, in the order of the arm's joints, by the name of the pose."""


class MoveError(UserError, ValueError):
    """What was asked for is no pose of this arm; the message says what is."""


def goal_of(asked: Sequence[tuple[str, object]], joint_names: Sequence[str], poses: Poses) -> tuple[list[float], str]:
    """Joint positions in the order of ``joint_names``, rad, and how the pose is called.

    ``asked``: names with values: each joint once, or ``POSE`` alone. Raises MoveError. What is not within limits or
    not finite is the executor's to refuse.
    """
    given = dict(asked)
    if list(given) == [POSE] and len(asked) == 1:
        if (name := given[POSE]) not in poses:
            raise MoveError(
                f"there is no pose {name!r}; there are {sorted(poses)}: name it under poses in the servo configuration "
                "or in the arm's file"
            )
        return list(poses[str(name)]), str(name)
    names = [name for name, _ in asked]
    if sorted(names) != sorted(joint_names):
        raise MoveError(f"the names are {names}; expected each of {list(joint_names)} once, or {POSE} alone")
    for name, value in asked:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise MoveError(f"{name} is {value!r}; expected a number, rad")
    return [float(given[name]) for name in joint_names], "the pose that was asked for"  # type: ignore[arg-type]


def straight(
    start: Sequence[float], goal: Sequence[float], start_ns: int, tick_ns: int, limits: LimitArrays, slower: float = 1.0
) -> Curve:
    """The fastest curve from rest at ``start`` to rest at ``goal``, (J,) rad each and more than ``ARRIVED_RAD`` apart,
    on which every joint is on the same part of its way. It stays at the goal for two ticks.

    ``slower``: how many times longer it takes than within the limits.
    """
    way = np.array(goal) - np.array(start)
    length = float(np.abs(way).max())
    share = np.maximum(np.abs(way) / length, 1e-9)
    given, course = InputParameter(1), Trajectory(1)
    given.target_position = [length]
    for order, (name, bound) in enumerate(
        (("velocity", limits.velocity), ("acceleration", limits.acceleration), ("jerk", limits.jerk)), start=1
    ):
        setattr(given, f"max_{name}", [MARGIN * float((bound / share).min()) / slower**order])
    result = Ruckig(1).calculate(given, course)
    assert result in (Result.Working, Result.Finished), f"ruckig: {result} for {start} to {goal}"
    (profile,) = course.profiles[0]
    pieces, passed_s = [], 0.0
    direction = (way / length).tolist()
    for duration_s, p, v, a, j in zip(profile.t, profile.p[:7], profile.v[:7], profile.a[:7], profile.j, strict=True):
        if duration_s > 0.0:
            at_ns = start_ns + round(passed_s * NS_PER_S)
            terms = [
                (s + d * p, d * v, d * a / 2.0, d * j / 6.0, 0.0, 0.0) for s, d in zip(start, direction, strict=True)
            ]
            pieces.append(Piece(at_ns, at_ns, tuple(terms), True))
            passed_s += duration_s
    there_ns = start_ns + math.ceil(passed_s * NS_PER_S)
    pieces.append(Piece(there_ns, there_ns, tuple((g, 0.0, 0.0, 0.0, 0.0, 0.0) for g in goal), True))
    return Curve(pieces, there_ns + 2 * tick_ns, joined=True, smoothed=False)
