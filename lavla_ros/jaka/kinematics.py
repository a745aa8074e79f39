"""Kinematics of the MiniCobo: forward, Jacobian, inverse. Pure functions over numpy arrays.

Geometry: joint origins of the vendor's URDF (JAKARobotics/jaka_ros2, ``jaka_minicobo.urdf``), right angles
exact instead of rounded to 1.5708. All joint axes are the local z axis. Frame ``6`` is the tool flange, z
out of the flange. Poses are (4, 4) homogeneous transforms in the base frame, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from lavla_ros.control.arm import JointLimits, KinematicsError
from lavla_ros.control.rotations import rotation_from_rpy
from lavla_ros.jaka.limits import JOINTS, MINICOBO_LIMITS
from lavla_ros.typing import FloatArray

HALF_PI = math.pi / 2


class IKError(KinematicsError):
    """No joint position within the limits reaches the target from the given seed.

    ``best_rad`` (6,) is the closest position found; ``position_error_m`` and ``rotation_error_rad`` say by
    how much its pose misses the target.
    """

    def __init__(self, reason: str, best_rad: FloatArray, position_error_m: float, rotation_error_rad: float) -> None:
        super().__init__(
            f"no inverse kinematics solution: {reason}; the closest pose misses the target by "
            f"{position_error_m * 1e3:.3f} mm and {math.degrees(rotation_error_rad):.3f} deg"
        )
        self.best_rad = best_rad
        self.position_error_m = position_error_m
        self.rotation_error_rad = rotation_error_rad


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmGeometry:
    """Fixed transforms between consecutive joints, URDF convention: translate, then Rz(yaw) Ry(pitch) Rx(roll)."""

    origin_xyz_m: tuple[tuple[float, float, float], ...]
    """Origin of each joint in the frame before it, m."""
    origin_rpy_rad: tuple[tuple[float, float, float], ...]
    """Roll, pitch, yaw of each joint in the frame before it, rad."""
    fixed_J44: FloatArray = field(init=False, repr=False, compare=False)
    """The same as homogeneous transforms (6, 4, 4); read-only."""

    def __post_init__(self) -> None:
        if not len(self.origin_xyz_m) == len(self.origin_rpy_rad) == JOINTS:
            raise ValueError(f"{JOINTS} origins are needed, got {len(self.origin_xyz_m)}, {len(self.origin_rpy_rad)}")
        fixed = np.tile(np.eye(4), (JOINTS, 1, 1))
        for transform, xyz, rpy in zip(fixed, self.origin_xyz_m, self.origin_rpy_rad, strict=True):
            transform[:3, :3] = rotation_from_rpy(*rpy)
            transform[:3, 3] = xyz
        fixed.setflags(write=False)
        object.__setattr__(self, "fixed_J44", fixed)


MINICOBO = ArmGeometry(
    origin_xyz_m=(
        (0.0, 0.0, 0.187),
        (0.0, -0.006, 0.0),
        (0.21, 0.0, 0.0),
        (0.0, 0.2105, 0.0),
        (0.0, 0.0, 0.0),
        (0.0, 0.1593, 0.0),
    ),
    origin_rpy_rad=(
        (0.0, 0.0, 0.0),
        (HALF_PI, -HALF_PI, 0.0),
        (0.0, 0.0, -HALF_PI),
        (-HALF_PI, 0.0, 0.0),
        (HALF_PI, 0.0, 0.0),
        (-HALF_PI, 0.0, 0.0),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DhParameters:
    """Modified (Craig) Denavit-Hartenberg: T_i = Rx(alpha_i) Tx(a_i) Rz(q_i + home_offset_i) Tz(d_i)."""

    alpha_rad: tuple[float, ...]
    a_m: tuple[float, ...]
    d_m: tuple[float, ...]
    home_offset_rad: tuple[float, ...]


MINICOBO_DH = DhParameters(
    alpha_rad=(0.0, HALF_PI, 0.0, -HALF_PI, HALF_PI, -HALF_PI),
    a_m=(0.0, 0.0, 0.21, 0.0, 0.0, 0.0),
    d_m=(0.187, 0.006, 0.0, 0.2105, 0.0, 0.1593),
    home_offset_rad=(0.0, HALF_PI, -HALF_PI, 0.0, 0.0, 0.0),
)
"""The same arm as :data:`MINICOBO`, as the controller's get_dh_param reports it."""


def joint_frames(q_rad: ArrayLike, geometry: ArmGeometry = MINICOBO) -> FloatArray:
    """Poses of the frames after joints 1 to 6 in the base frame, (6, 4, 4); the last one is the tool flange.

    Raises ValueError if ``q_rad`` is not six finite numbers.
    """
    q = _joints(q_rad)
    cos, sin = np.cos(q)[:, None], np.sin(q)[:, None]
    frames = geometry.fixed_J44.copy()
    x, y = geometry.fixed_J44[:, :, 0], geometry.fixed_J44[:, :, 1]
    # fixed @ Rz(q): only the first two columns change.
    frames[:, :, 0] = cos * x + sin * y
    frames[:, :, 1] = cos * y - sin * x
    for i in range(1, JOINTS):
        frames[i] = frames[i - 1] @ frames[i]
    return frames


def forward(q_rad: ArrayLike, geometry: ArmGeometry = MINICOBO) -> FloatArray:
    """Pose (4, 4) of the tool flange in the base frame, m, for joint positions (6,), rad."""
    pose: FloatArray = joint_frames(q_rad, geometry)[-1].copy()
    return pose


def jacobian(frames: FloatArray) -> FloatArray:
    """Geometric Jacobian (6, 6) of the flange in the base frame: rows 0–2 linear (m/rad), 3–5 angular (rad/rad).

    ``frames``: those of :func:`joint_frames`.
    """
    axis, arm = frames[:, :3, 2], frames[-1, :3, 3] - frames[:, :3, 3]
    jac = np.empty((6, JOINTS))
    # axis × arm, written out: np.cross costs 30 µs on arrays this small.
    jac[0] = axis[:, 1] * arm[:, 2] - axis[:, 2] * arm[:, 1]
    jac[1] = axis[:, 2] * arm[:, 0] - axis[:, 0] * arm[:, 2]
    jac[2] = axis[:, 0] * arm[:, 1] - axis[:, 1] * arm[:, 0]
    jac[3:] = axis.T
    return jac


def rotation_vector(rotation_33: FloatArray) -> FloatArray:
    """Axis times angle (3,), rad, angle in [0, π], of a rotation matrix (3, 3)."""
    r = rotation_33
    twice_sine = np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    sine, cosine = 0.5 * math.sqrt(float(twice_sine @ twice_sine)), 0.5 * (float(r[0, 0] + r[1, 1] + r[2, 2]) - 1.0)
    angle = math.atan2(sine, cosine)
    if sine > 1e-7:
        return twice_sine * (0.5 * angle / sine)
    if cosine > 0.0:
        return 0.5 * twice_sine
    # Half a turn: R = 2 a aᵀ − 1; the longest column of R + 1 is the best conditioned multiple of a.
    columns = r + np.eye(3)
    column = columns[:, int(np.argmax(np.diag(columns)))]
    return np.asarray(column * (angle / math.sqrt(float(column @ column))), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class IKConfig:
    """Settings of :func:`inverse`."""

    position_tolerance_m: float = 1e-6
    rotation_tolerance_rad: float = 1e-6
    max_iterations: int = 100
    """Per start."""
    rotation_weight_m: float = 0.2
    """Length that makes a rotation error (rad) comparable with a position error (m): about half the reach."""
    damping_bias: float = 1e-7
    """Smallest damping, m²; the rest is the error's energy, which vanishes at the solution."""
    max_step_rad: float = 0.5
    """Longest step of a joint in one iteration."""
    restarts: int = 0
    """Further starts from fixed pseudo-random positions. 0 if the arm must stay on the seed's branch."""


def inverse(
    target_44: ArrayLike,
    seed_rad: ArrayLike,
    *,
    limits: JointLimits = MINICOBO_LIMITS,
    config: IKConfig | None = None,
    geometry: ArmGeometry = MINICOBO,
) -> FloatArray:
    """Joint positions (6,), rad, within ``limits`` whose flange pose is ``target_44`` (4, 4), m.

    Levenberg-Marquardt with the damping of Sugihara ("Solvability-unconcerned inverse kinematics by the
    Levenberg-Marquardt method", IEEE T-RO 2011): the error's energy plus a small bias, so that it is stable near
    singular postures and outside the workspace. Joints that push against a limit are held there for
    the iteration. Starts at ``seed_rad`` clipped to the limits and converges to its branch.

    Raises IKError (with the residual) if no start converges, ValueError for a target that is not a
    rigid transform or a seed that is not six finite numbers.
    """
    cfg = config or IKConfig()
    target = _rigid(target_44)
    lower, upper = limits.lower(), limits.upper()
    starts = [np.clip(_joints(seed_rad), lower, upper)]
    if cfg.restarts:
        # The middle half of each range: the outer half of the ±360° joints only repeats it.
        samples = np.random.default_rng(0).uniform(0.25, 0.75, size=(cfg.restarts, JOINTS))
        starts += list(lower + samples * (upper - lower))
    failures: list[IKError] = []
    for start in starts:
        try:
            return _inverse_from(target, start, lower, upper, cfg, geometry)
        except IKError as failure:
            failures.append(failure)
    try:
        raise min(failures, key=lambda f: f.position_error_m + cfg.rotation_weight_m * f.rotation_error_rad)
    finally:
        # The error's traceback leads to this frame: a list of errors in it would keep both alive until a
        # garbage collection, which the servo process has switched off.
        del failures


def _inverse_from(
    target: FloatArray, start: FloatArray, lower: FloatArray, upper: FloatArray, cfg: IKConfig, geometry: ArmGeometry
) -> FloatArray:
    q, best, best_energy, stalled = start, start, math.inf, 0
    best_errors = (math.inf, math.inf)
    weights = np.array([1.0, 1.0, 1.0] + [cfg.rotation_weight_m] * 3)
    error = np.empty(6)
    for _ in range(cfg.max_iterations):
        frames = joint_frames(q, geometry)
        error[:3] = target[:3, 3] - frames[-1, :3, 3]
        error[3:] = rotation_vector(target[:3, :3] @ frames[-1, :3, :3].T)
        position_error = math.sqrt(float(error[:3] @ error[:3]))
        rotation_error = math.sqrt(float(error[3:] @ error[3:]))
        if position_error <= cfg.position_tolerance_m and rotation_error <= cfg.rotation_tolerance_rad:
            return q
        weighted = error * weights
        energy = float(weighted @ weighted)
        stalled = 0 if energy < 0.999 * best_energy else stalled + 1
        if energy < best_energy:
            best, best_energy, best_errors = q, energy, (position_error, rotation_error)
        if stalled >= 15:
            raise IKError("the search stalled (unreachable, or against a joint limit)", best, *best_errors)
        jac = jacobian(frames) * weights[:, None]
        gradient = jac.T @ weighted
        free = ~(((q <= lower) & (gradient < 0.0)) | ((q >= upper) & (gradient > 0.0)))
        if not free.any():
            raise IKError("every joint is against a limit", best, *best_errors)
        jac = jac * free
        normal = jac.T @ jac
        normal[np.diag_indices(JOINTS)] += 0.5 * energy + cfg.damping_bias
        step = np.linalg.solve(normal, gradient * free)
        longest = float(np.abs(step).max())
        if longest > cfg.max_step_rad:
            step *= cfg.max_step_rad / longest
        q = np.minimum(np.maximum(q + step, lower), upper)
    raise IKError(f"not converged after {cfg.max_iterations} iterations", best, *best_errors)


def _joints(q_rad: ArrayLike) -> FloatArray:
    q = np.asarray(q_rad, dtype=np.float64)
    if q.shape != (JOINTS,) or not np.isfinite(q).all():
        raise ValueError(f"joint positions must be {JOINTS} finite numbers (rad), got {q_rad!r}")
    return q


def _rigid(target_44: ArrayLike) -> FloatArray:
    target = np.asarray(target_44, dtype=np.float64)
    if target.shape != (4, 4) or not np.isfinite(target).all():
        raise ValueError(f"the target must be a finite (4, 4) transform, got {target_44!r}")
    rotation = target[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-6 or np.linalg.det(rotation) < 0.0:
        raise ValueError(f"the target's upper left (3, 3) block is not a rotation: {rotation.tolist()}")
    return target
