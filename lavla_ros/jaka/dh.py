"""The Denavit-Hartenberg parameters that a controller reports, and whether they are those of an arm's geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lavla_ros.config import ConfigError
from lavla_ros.control.chain import Chain
from lavla_ros.typing import FloatArray

SAME_M, SAME_RAD = 1e-3, math.radians(0.5)
"""Parameters further apart are those of another arm. Arms of one model differ by less, as they are calibrated each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DhParameters:
    """Modified (Craig) Denavit-Hartenberg: T_i = Rx(alpha_i) Tx(a_i) Rz(q_i + home_offset_i) Tz(d_i)."""

    alpha_rad: tuple[float, ...]
    a_m: tuple[float, ...]
    d_m: tuple[float, ...]
    home_offset_rad: tuple[float, ...]

    def frames(self) -> FloatArray:
        """Poses (J, 4, 4) of the frames at joint position 0."""
        frames, pose = [], np.eye(4)
        for alpha, a, d, offset in zip(self.alpha_rad, self.a_m, self.d_m, self.home_offset_rad, strict=True):
            ca, sa, co, so = math.cos(alpha), math.sin(alpha), math.cos(offset), math.sin(offset)
            pose = pose @ np.array(
                [
                    [co, -so, 0.0, a],
                    [ca * so, ca * co, -sa, -sa * d],
                    [sa * so, sa * co, ca, ca * d],
                    [0.0, 0.0, 0.0, 1.0],
                ]
            )
            frames.append(pose)
        return np.array(frames)


def dh_of(chain: Chain) -> DhParameters:
    """The parameters of a chain whose frames are as the convention wants them: z along the axis, x along the way to it.

    Raises ConfigError naming the joint at which they are not, or if the flange is not in the last joint's frame.
    """
    alpha, a, d, offset = [], [], [], []
    for name, axis, fixed in zip(chain.joint_names, chain.axis, chain.fixed_J44(), strict=True):
        r, (x, y, z) = fixed[:3, :3], fixed[:3, 3]
        twist = math.atan2(-r[1, 2], r[2, 2])
        sine, cosine = math.sin(twist), math.cos(twist)
        if axis != (0.0, 0.0, 1.0) or abs(r[0, 2]) > 1e-9 or abs(cosine * y + sine * z) > 1e-9:
            raise ConfigError(f"joint {name!r} has no Denavit-Hartenberg parameters: its frame is not along its axis")
        alpha.append(twist)
        a.append(float(x))
        d.append(float(cosine * z - sine * y))
        offset.append(math.atan2(cosine * r[1, 0] + sine * r[2, 0], r[0, 0]))
    if any(chain.flange_xyz_m + chain.flange_rpy_rad):
        raise ConfigError("the flange of an arm with Denavit-Hartenberg parameters is the frame of its last joint")
    return DhParameters(alpha_rad=tuple(alpha), a_m=tuple(a), d_m=tuple(d), home_offset_rad=tuple(offset))


def differences(chain: Chain, reported: DhParameters) -> list[str]:
    """In words, which parameters of the chain are another arm's than the ``reported`` ones; none if it is the same arm.

    The convention leaves some frames open (where axes are parallel or meet): those of the chain are taken as the
    reported ones are, so that the same arm described otherwise is the same.
    """
    if len(reported.d_m) != len(chain.joint_names):
        return [f"{len(reported.d_m)} joints, not {len(chain.joint_names)}"]
    ours = _frames_like(chain, reported.frames())
    theirs = np.concatenate((np.eye(4)[None], reported.frames()))
    found = []
    for i in range(1, len(ours)):
        for symbol, unit, factor, same, get in (
            ("alpha", "deg", math.degrees(1.0), SAME_RAD, _twist),
            ("a", "mm", 1e3, SAME_M, _length),
            ("d", "mm", 1e3, SAME_M, _shift),
            ("offset", "deg", math.degrees(1.0), SAME_RAD, _turn),
        ):
            mine, other = get(ours[i - 1], ours[i]), get(theirs[i - 1], theirs[i])
            apart = other - mine
            if unit == "deg":
                apart = math.remainder(apart, 2 * math.pi)
            if abs(apart) > same:
                found.append(f"joint {i}: {symbol} {other * factor:.2f} {unit}, not {mine * factor:.2f} {unit}")
    return found


def _frames_like(chain: Chain, reported_J44: FloatArray) -> FloatArray:
    """Frames (J + 1, 4, 4) of the convention at joint position 0, from the base on; what it leaves open as reported."""
    poses, pose = [], np.eye(4)
    for fixed in chain.fixed_J44():
        pose = pose @ fixed
        poses.append(pose)
    points = [p[:3, 3] for p in poses]
    axes = [p[:3, :3] @ np.array(axis) for p, axis in zip(poses, chain.axis, strict=True)]
    flange = poses[-1] @ chain.flange_44()
    frames = [np.eye(4)]
    for i, (point, axis) in enumerate(zip(points, axes, strict=True)):
        their_x, their_origin = reported_J44[i, :3, 0], reported_J44[i, :3, 3]
        if i + 1 == len(points):
            x, origin = flange[:3, 0], point + axis * float((flange[:3, 3] - point) @ axis)
        else:
            way, across = points[i + 1] - point, np.cross(axis, axes[i + 1])
            if (size := float(np.linalg.norm(across))) > math.sin(SAME_RAD):
                x = across / size
                # The point of this axis that is nearest to the next one.
                origin = point + axis * float(np.cross(way, axes[i + 1]) @ across) / size**2
            else:
                x = way - axis * float(way @ axis)
                if float(np.linalg.norm(x)) < SAME_M:
                    x = their_x - axis * float(their_x @ axis)
                x = x / max(float(np.linalg.norm(x)), 1e-12)
                origin = point + axis * float((their_origin - point) @ axis)
            if float(x @ their_x) < 0.0:
                x = -x
        frame = np.eye(4)
        frame[:3, :3] = np.column_stack((x, np.cross(axis, x), axis))
        frame[:3, 3] = origin
        frames.append(frame)
    return np.array(frames)


def _twist(before: FloatArray, here: FloatArray) -> float:
    x, z, there = before[:3, 0], before[:3, 2], here[:3, 2]
    return math.atan2(float(np.cross(z, there) @ x), float(z @ there))


def _turn(before: FloatArray, here: FloatArray) -> float:
    x, z, there = before[:3, 0], here[:3, 2], here[:3, 0]
    return math.atan2(float(np.cross(x, there) @ z), float(x @ there))


def _length(before: FloatArray, here: FloatArray) -> float:
    return float((here[:3, 3] - before[:3, 3]) @ before[:3, 0])


def _shift(before: FloatArray, here: FloatArray) -> float:
    return float((here[:3, 3] - before[:3, 3]) @ here[:3, 2])
