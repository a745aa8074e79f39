"""Forward, Jacobian and inverse kinematics of a :class:`~lavla_ros.control.chain.Chain`, on Pinocchio.

Poses are (4, 4) homogeneous transforms of the end effector in the base frame, metres; joint positions are in the
chain's order. Pinocchio is imported when something is computed: an arm can be read without it.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lavla_ros.control.arm import JointLimits, KinematicsError
from lavla_ros.control.chain import Chain
from lavla_ros.typing import FloatArray

TIP = "tip"
"""Name of the end effector's frame in :func:`model_of`."""


class IKError(KinematicsError):
    """No joint position within the limits reaches the target from the given seed.

    ``best_rad`` (J,) is the closest position found; ``position_error_m`` and ``rotation_error_rad`` say by
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
class IKConfig:
    """Settings of :meth:`ChainKinematics.inverse`."""

    position_tolerance_m: float = 1e-6
    rotation_tolerance_rad: float = 1e-6
    max_iterations: int = 100
    """Per start."""
    rotation_weight_m: float = 0.2
    """Length that makes a rotation error (rad) comparable with a position error (m)."""
    damping_bias: float = 1e-7
    """Smallest damping, m²; the rest is the error's energy, which vanishes at the solution."""
    max_step_rad: float = 0.5
    """Longest step of a joint in one iteration."""
    restarts: int = 0
    """Further starts from fixed pseudo-random positions. 0 if the arm must stay on the seed's branch."""


@lru_cache(maxsize=32)
def model_of(chain: Chain) -> Any:
    """The ``pinocchio.Model`` of a chain, without masses: joints in the chain's order, and the frame :data:`TIP`.

    The same object for equal chains: copy it before adding to it.
    """
    import pinocchio as pin

    model = pin.Model()
    parent = 0
    for name, fixed, axis in zip(chain.joint_names, chain.fixed_J44(), chain.axis, strict=True):
        joint = pin.JointModelRZ() if axis == (0.0, 0.0, 1.0) else pin.JointModelRevoluteUnaligned(np.array(axis))
        parent = model.addJoint(parent, joint, pin.SE3(fixed), name)
        model.addJointFrame(parent)
    model.addFrame(pin.Frame(TIP, parent, pin.SE3(chain.tip_44()), pin.FrameType.OP_FRAME))
    return model


class ChainKinematics:
    """Implements :class:`~lavla_ros.control.arm.Kinematics` for a chain. Usable from any thread."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._own = threading.local()
        """Model and scratch space of Pinocchio, one of each thread."""

    def forward(self, position_rad: ArrayLike) -> FloatArray:
        """Pose (4, 4) of the end effector. Raises ValueError if ``position_rad`` is not (J,) finite numbers."""
        pin, model, data, tip = self._parts()
        pin.framesForwardKinematics(model, data, self._joints(position_rad))
        return np.array(data.oMf[tip].homogeneous)

    def joint_frames(self, position_rad: ArrayLike) -> FloatArray:
        """Poses (J, 4, 4) of the frames after each joint. Raises ValueError as :meth:`forward`."""
        pin, model, data, _ = self._parts()
        pin.forwardKinematics(model, data, self._joints(position_rad))
        return np.array([placement.homogeneous for placement in list(data.oMi)[1:]])

    def jacobian(self, position_rad: ArrayLike) -> FloatArray:
        """Geometric Jacobian (6, J) of the end effector in the base frame: rows 0–2 m/rad, rows 3–5 rad/rad."""
        pin, model, data, tip = self._parts()
        q = self._joints(position_rad)
        return np.array(pin.computeFrameJacobian(model, data, q, tip, pin.ReferenceFrame.LOCAL_WORLD_ALIGNED))

    def inverse(
        self, target_44: ArrayLike, seed_rad: ArrayLike, limits: JointLimits, config: IKConfig | None = None
    ) -> FloatArray:
        """Joint positions (J,), rad, within ``limits`` with the end effector at ``target_44`` (4, 4), m.

        Levenberg-Marquardt with the damping of Sugihara ("Solvability-unconcerned inverse kinematics by the
        Levenberg-Marquardt method", IEEE T-RO 2011): the error's energy plus a small bias, so that it is stable near
        singular postures and outside the workspace. Joints that push against a limit are held there for
        the iteration. Starts at ``seed_rad`` clipped to the limits and converges to its branch.

        Raises IKError (with the residual) if no start converges, ValueError for a target that is not a
        rigid transform or a seed that is not (J,) finite numbers.
        """
        cfg = config or IKConfig()
        target = _rigid(target_44)
        lower, upper = limits.lower(), limits.upper()
        starts = [np.clip(self._joints(seed_rad), lower, upper)]
        if cfg.restarts:
            # The middle half of each range: the outer half of the ±360° joints only repeats it.
            samples = np.random.default_rng(0).uniform(0.25, 0.75, size=(cfg.restarts, len(lower)))
            starts += list(lower + samples * (upper - lower))
        failures: list[IKError] = []
        for start in starts:
            try:
                return self._inverse_from(target, start, lower, upper, cfg)
            except IKError as failure:
                failures.append(failure)
        try:
            raise min(failures, key=lambda f: f.position_error_m + cfg.rotation_weight_m * f.rotation_error_rad)
        finally:
            # The error's traceback leads to this frame: a list of errors in it would keep both alive until a
            # garbage collection, which the servo process has switched off.
            del failures

    def _inverse_from(
        self, target: FloatArray, start: FloatArray, lower: FloatArray, upper: FloatArray, cfg: IKConfig
    ) -> FloatArray:
        pin, model, data, tip = self._parts()
        q, best, best_energy, stalled = start, start, math.inf, 0
        best_errors = (math.inf, math.inf)
        weights = np.array([1.0, 1.0, 1.0] + [cfg.rotation_weight_m] * 3)
        error = np.empty(6)
        diagonal = np.diag_indices(len(start))
        for _ in range(cfg.max_iterations):
            jac = pin.computeFrameJacobian(model, data, q, tip, pin.ReferenceFrame.LOCAL_WORLD_ALIGNED)
            pose = pin.updateFramePlacement(model, data, tip)
            error[:3] = target[:3, 3] - pose.translation
            error[3:] = rotation_vector(target[:3, :3] @ pose.rotation.T)
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
            jac = jac * weights[:, None]
            gradient = jac.T @ weighted
            free = ~(((q <= lower) & (gradient < 0.0)) | ((q >= upper) & (gradient > 0.0)))
            if not free.any():
                raise IKError("every joint is against a limit", best, *best_errors)
            jac = jac * free
            normal = jac.T @ jac
            normal[diagonal] += 0.5 * energy + cfg.damping_bias
            step = np.linalg.solve(normal, gradient * free)
            longest = float(np.abs(step).max())
            if longest > cfg.max_step_rad:
                step *= cfg.max_step_rad / longest
            q = np.minimum(np.maximum(q + step, lower), upper)
        raise IKError(f"not converged after {cfg.max_iterations} iterations", best, *best_errors)

    def _parts(self) -> Any:
        parts = getattr(self._own, "parts", None)
        if parts is None:
            import pinocchio as pin

            model = model_of(self.chain)
            parts = self._own.parts = (pin, model, model.createData(), model.getFrameId(TIP))
        return parts

    def _joints(self, position_rad: ArrayLike) -> FloatArray:
        q = np.asarray(position_rad, dtype=np.float64)
        joints = len(self.chain.joint_names)
        if q.shape != (joints,) or not np.isfinite(q).all():
            raise ValueError(f"joint positions must be {joints} finite numbers (rad), got {position_rad!r}")
        return q


def rotation_vector(rotation_33: FloatArray) -> FloatArray:
    """Axis times angle (3,), rad, angle in [0, π], of a rotation matrix (3, 3)."""
    import pinocchio as pin

    return np.asarray(pin.log3(np.asarray(rotation_33)))


def _rigid(target_44: ArrayLike) -> FloatArray:
    target = np.asarray(target_44, dtype=np.float64)
    if target.shape != (4, 4) or not np.isfinite(target).all():
        raise ValueError(f"the target must be a finite (4, 4) transform, got {target_44!r}")
    rotation = target[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-6 or np.linalg.det(rotation) < 0.0:
        raise ValueError(f"the target's upper left (3, 3) block is not a rotation: {rotation.tolist()}")
    return target
