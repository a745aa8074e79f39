"""From an action chunk to joint space: validation, matching by name, inverse kinematics.

Nothing here knows the executor's state but what it is given (the joints to start from and the time that is due), so
that it can run outside the servo loop: inverse kinematics take longer than a servo cycle has.

Which defects latch a fault and which only cost the chunk:
- malformed (wrong names, shape, step length, NaN or infinite): the policy or its wiring is broken and
  nothing that it sends can be trusted → FAULT.
- inadmissible (out of range beyond the tolerance, huge step or start jump, no inverse kinematics):
  the chunk is refused and counted; the one before goes on until it is exhausted, then HOLDING.
- late, duplicate, out of order, expired, from the future: refused and counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavla_ros.config import ConfigError
from lavla_ros.contract import ActionChunk, Contract
from lavla_ros.control.arm import Kinematics, KinematicsError
from lavla_ros.control.config import ExecutorConfig
from lavla_ros.control.rotations import orthonormal, rotation_from_rpy, rotation_from_vector
from lavla_ros.errors import UserError
from lavla_ros.typing import FloatArray

FARTHEST_M, LARGEST_TURN_RAD = 10.0, 13.0
"""End-effector values beyond these are no pose of an arm, whatever range the contract gives (13 rad: two turns)."""


class ChunkRejected(UserError, ValueError):
    """The chunk is not executed; ``counter`` is the name it is counted under."""

    def __init__(self, counter: str, reason: str, *, malformed: bool = False) -> None:
        super().__init__(reason)
        self.counter = counter
        self.malformed = malformed
        """Latches a fault."""
        self.person = False
        """A person's chunk, not the policy's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmActions:
    """A validated chunk, clipped into range, arm and gripper apart."""

    arm_HA: FloatArray
    """(H, A): arm dimensions. Joint space: in ``ExecutorConfig.joint_names`` order; else x y z and rotation."""
    gripper_H: FloatArray | None
    """(H,): opening as a fraction of the contract's range, 1 open; None if the contract has no gripper."""
    clipped: int
    """Values that were out of range within the tolerance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedChunk:
    """A chunk in joint space, ready for :meth:`ChunkExecutor.submit_prepared`. Row h belongs to step h.

    Exactly one of ``points_HJ`` and ``increments_HJ`` is given. Raises ValueError if the arrays do not fit.
    """

    stamp_ns: int
    dt_ns: int
    points_HJ: FloatArray | None = None
    """(H, dof) rad: absolute joint points; rows before ``from_step`` repeat that one."""
    increments_HJ: FloatArray | None = None
    """(H, dof) rad: joint increment of each step; rows before ``from_step`` are zero."""
    gripper_H: FloatArray | None = None
    """(H,): opening, 1 open, 0 closed; None if the contract has no gripper."""
    from_step: int = 0
    """The first step that was prepared: what was due already is not."""
    clipped: int = 0
    """Values that were out of range within the tolerance."""
    person: bool = False
    """A person's chunk, which comes before the policy's."""
    most_speed: float = 1.0
    """The largest speed scale at which it may be followed."""

    def __post_init__(self) -> None:
        if not 0.01 <= self.most_speed <= 1.0:
            raise ValueError(f"most_speed of a prepared chunk is {self.most_speed}; expected 0.01 to 1")
        if (self.points_HJ is None) == (self.increments_HJ is None):
            raise ValueError("a prepared chunk has either points or increments")
        for name in ("points_HJ", "increments_HJ", "gripper_H"):
            rows = getattr(self, name)
            shape = (self.horizon,) if name == "gripper_H" else (self.horizon, self.rows_HJ.shape[-1])
            if rows is not None and (rows.shape != shape or not np.isfinite(rows).all()):
                raise ValueError(f"{name} of a prepared chunk has shape {rows.shape}; expected {shape}, all finite")
        if not 0 <= self.from_step < self.horizon:
            raise ValueError(f"from_step of a prepared chunk is {self.from_step}; it has {self.horizon} steps")

    @property
    def rows_HJ(self) -> FloatArray:
        """The points or the increments."""
        rows = self.points_HJ if self.points_HJ is not None else self.increments_HJ
        assert rows is not None
        return rows

    @property
    def horizon(self) -> int:
        return len(self.rows_HJ)


def first_step(stamp_ns: int, dt_ns: int, due_ns: int, consumed_until_ns: int | None = None) -> int:
    """The step that is due at ``due_ns``, 0 before the chunk; none that begins before ``consumed_until_ns``.

    ``consumed_until_ns`` (delta chunks): a period whose action has begun is not begun again from another base.
    """
    step = max(0, (due_ns - stamp_ns) // dt_ns)
    if consumed_until_ns is not None:
        step = max(step, -((stamp_ns - consumed_until_ns + dt_ns // 2) // dt_ns))
    return step


class ActionDecoder:
    """Knows the contract's action space. Stateless after construction."""

    def __init__(self, contract: Contract, config: ExecutorConfig) -> None:
        """Raises ConfigError if the contract's action space cannot be executed by this arm."""
        action = contract.action
        self._contract, self._config = contract, config
        self.absolute = action.mode == "absolute"
        self.joint_space = action.space == "joint"
        grippers = [d for d in action.dims if d.kind == "gripper"]
        if len(grippers) > 1:
            raise ConfigError(f"contract {contract.name!r} has grippers {[d.name for d in grippers]}; one is supported")
        self._gripper = grippers[0] if grippers else None
        arm = {d.name: d for d in action.dims if d.kind == "arm"}
        if self.joint_space:
            order = list(config.joint_names)
            if set(order) != set(arm):
                raise ConfigError(f"contract {contract.name!r} commands {sorted(arm)}, the arm has {sorted(order)}")
        else:
            if config.kinematics is None:
                raise ConfigError(
                    f"contract {contract.name!r} commands the end effector, but its robot {contract.robot!r} has no "
                    "kinematics; command joints instead, or give the arm its own kinematics"
                )
            # What kinematics load when they are asked first is loaded now, not while the arm moves.
            config.kinematics.forward((config.limits.lower() + config.limits.upper()) / 2)
            rotations = [["roll", "pitch", "yaw"], ["rx", "ry", "rz"]]
            names = [n for n in arm if n not in ("x", "y", "z")]
            known = [r for r in rotations if set(r) == set(names)]
            if not known or len(arm) != 6:
                raise ConfigError(
                    f"contract {contract.name!r}: end-effector dimensions {sorted(arm)}; expected x, y, z "
                    "and either roll, pitch, yaw or rx, ry, rz (rotation vector)"
                )
            self._rpy = known[0] == rotations[0]
            order = ["x", "y", "z", *known[0]]
        self._arm_names = order
        self._low = np.array([arm[n].low for n in order])
        self._high = np.array([arm[n].high for n in order])
        if self.joint_space and self.absolute:
            self._low = np.maximum(self._low, config.limits.lower())
            self._high = np.minimum(self._high, config.limits.upper())

    def prepare(
        self, chunk: ActionChunk, seed_rad: list[float], due_ns: int, consumed_until_ns: int | None = None
    ) -> PreparedChunk:
        """The chunk in joint space, from the step on that is due at ``due_ns``. Raises ChunkRejected, nothing else.

        ``seed_rad`` (dof,): the newest commanded position, where inverse kinematics start and what deltas of an
        end effector are applied to. ``consumed_until_ns``: see :func:`first_step`.
        """
        actions = self.decode(chunk)
        horizon = len(actions.arm_HA)
        step = first_step(chunk.stamp_ns, chunk.dt_ns, due_ns, consumed_until_ns)
        if step >= horizon:
            raise ChunkRejected("rejected_expired", f"all {horizon} steps of the chunk lie in the past")
        points = self._absolute_points(actions.arm_HA, step, seed_rad) if self.absolute else None
        return PreparedChunk(
            stamp_ns=chunk.stamp_ns,
            dt_ns=chunk.dt_ns,
            points_HJ=points,
            increments_HJ=None if self.absolute else self._increments(actions.arm_HA, step, seed_rad),
            gripper_H=actions.gripper_H,
            from_step=step,
            clipped=actions.clipped,
        )

    def decode(self, chunk: ActionChunk) -> ArmActions:
        """Validate and split. Raises ChunkRejected naming the offending value."""
        expected, longest = self._contract.action.names, self._contract.chunk_size
        times: tuple[tuple[str, object], ...] = (("stamp", chunk.stamp_ns), ("step", chunk.dt_ns))
        for what, value in times:
            if not isinstance(value, int | np.integer):
                raise ChunkRejected(
                    "rejected_rate", f"the chunk's {what} is {value!r}; expected whole nanoseconds", malformed=True
                )
        names = tuple(chunk.names) if isinstance(chunk.names, tuple | list) else (chunk.names,)
        if sorted(map(str, names)) != sorted(expected):
            raise ChunkRejected(
                "rejected_names",
                f"the chunk names its dimensions {list(names)}; the contract "
                f"{self._contract.name!r} has {list(expected)}",
                malformed=True,
            )
        try:
            values = np.asarray(chunk.actions_HA)
            # Text that reads like a number, or a complex one, is not what a policy of this contract sends.
            if values.dtype.kind not in "fiu":
                raise TypeError(f"they are {values.dtype}")
            values = values.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ChunkRejected(
                "rejected_shape", f"the chunk's actions are not an array of numbers: {error}", malformed=True
            ) from None
        if values.ndim != 2 or values.shape[1] != len(expected) or not 1 <= values.shape[0] <= longest:
            raise ChunkRejected(
                "rejected_shape",
                f"the chunk has shape {values.shape}; expected (1 to {longest}, {len(expected)}), as contract "
                f"{self._contract.name!r} says (chunk_size)",
                malformed=True,
            )
        if abs(chunk.dt_ns - self._contract.dt_ns) > 0.01 * self._contract.dt_ns:
            raise ChunkRejected(
                "rejected_rate",
                f"the chunk's step is {chunk.dt_ns} ns; the contract's is "
                f"{self._contract.dt_ns} ns ({self._contract.rate_hz} Hz)",
                malformed=True,
            )
        if not np.isfinite(values).all():
            h, a = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise ChunkRejected("rejected_not_finite", f"{names[a]} is {values[h, a]} at step {h}", malformed=True)
        column = {name: i for i, name in enumerate(names)}
        arm = values[:, [column[n] for n in self._arm_names]]
        clipped = np.clip(arm, self._low, self._high)
        excess = np.abs(arm - clipped)
        if excess.max() > self._config.range_tolerance:
            h, a = (int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
            raise ChunkRejected(
                "rejected_range",
                f"{self._arm_names[a]} is {arm[h, a]:.4f} at step {h}; allowed "
                f"{self._low[a]:.4f} to {self._high[a]:.4f}",
            )
        if not self.joint_space:
            self._check_pose(arm)
        count = int((excess > 0).sum())
        gripper = None
        if self._gripper is not None:
            low, high = self._gripper.low, self._gripper.high
            gripper = (values[:, column[self._gripper.name]] - low) / (high - low)
            if gripper.min() < -0.5 or gripper.max() > 1.5:
                raise ChunkRejected(
                    "rejected_range",
                    f"{self._gripper.name} reaches from {gripper.min():.2f} to "
                    f"{gripper.max():.2f} of its range; allowed -0.5 to 1.5",
                )
            count += int(((gripper < 0) | (gripper > 1)).sum())
            gripper = np.clip(gripper, 0.0, 1.0)
        return ArmActions(arm_HA=clipped, gripper_H=gripper, clipped=count)

    def _absolute_points(self, arm_HA: FloatArray, from_step: int, seed_rad: list[float]) -> FloatArray:
        """Absolute joint points (H, J). Raises ChunkRejected on a huge step or IK failure.

        End effector: inverse kinematics from ``from_step`` on, each point seeded with the one before, the
        first with ``seed_rad``; earlier points repeat the first one.
        """
        points = arm_HA if self.joint_space else self._solve_poses(arm_HA, from_step, np.array(seed_rad))
        self._check_steps(np.abs(np.diff(points[from_step:], axis=0)), from_step + 1)
        return points

    def check_start(self, points_HJ: FloatArray, step: int, command_rad: list[float], allowed_rad: float) -> None:
        """Raises ChunkRejected if the point of ``step`` is further than allowed from the present command (dof,)."""
        start = np.abs(points_HJ[step] - np.array(command_rad))
        if start.max() > allowed_rad:
            j = int(np.argmax(start))
            raise ChunkRejected(
                "rejected_jump",
                f"{self._config.joint_names[j]} is commanded to "
                f"{points_HJ[step, j]:.4f} rad at step {step}, {start[j]:.4f} rad from the present "
                f"command; allowed {allowed_rad} rad",
            )

    def _increments(self, arm_HA: FloatArray, from_step: int, base_rad: list[float]) -> FloatArray:
        """Joint increments (H, J) per step of a delta chunk; rows before ``from_step`` are zero.

        End effector: the pose of ``base_rad`` moved by each delta in turn (translation in the base
        frame; rotation applied from the left), solved step by step.
        """
        increments = np.zeros((len(arm_HA), len(base_rad)))
        if self.joint_space:
            increments[from_step:] = arm_HA[from_step:]
        else:
            joints = np.array(base_rad)
            pose = self._kinematics.forward(joints)
            for h in range(from_step, len(arm_HA)):
                pose = pose.copy()
                pose[:3, 3] += arm_HA[h, :3]
                pose[:3, :3] = orthonormal(self._rotation(arm_HA[h, 3:]) @ pose[:3, :3])
                solved = self._inverse(pose, joints, h)
                increments[h] = solved - joints
                joints = solved
        self._check_steps(np.abs(increments[from_step:]), from_step)
        return increments

    @property
    def _kinematics(self) -> Kinematics:
        kinematics = self._config.kinematics
        assert kinematics is not None, "refused at construction"
        return kinematics

    def _solve_poses(self, poses_H6: FloatArray, from_step: int, seed: FloatArray) -> FloatArray:
        points = np.empty((len(poses_H6), len(seed)))
        for h in range(from_step, len(poses_H6)):
            target = np.eye(4)
            target[:3, 3] = poses_H6[h, :3]
            target[:3, :3] = self._rotation(poses_H6[h, 3:])
            seed = points[h] = self._inverse(target, seed, h)
        points[:from_step] = points[from_step]
        return points

    def _inverse(self, target_44: FloatArray, seed: FloatArray, step: int) -> FloatArray:
        try:
            return self._kinematics.inverse(target_44, seed, self._config.limits)
        except (KinematicsError, ValueError, np.linalg.LinAlgError) as error:
            raise ChunkRejected(
                "rejected_ik", f"step {step}, position {target_44[:3, 3].round(4).tolist()} m: {error}"
            ) from None

    def _check_pose(self, arm_HA: FloatArray) -> None:
        """Raises ChunkRejected for end-effector values that no pose can have."""
        bound = np.array([FARTHEST_M] * 3 + [LARGEST_TURN_RAD] * 3)
        if (np.abs(arm_HA) > bound).any():
            h, a = (int(i) for i in np.argwhere(np.abs(arm_HA) > bound)[0])
            raise ChunkRejected(
                "rejected_range",
                f"{self._arm_names[a]} is {arm_HA[h, a]:.4g} at step {h}; no arm gets beyond {bound[a]}",
            )

    def _rotation(self, values_3: FloatArray) -> FloatArray:
        return rotation_from_rpy(*values_3) if self._rpy else rotation_from_vector(values_3)

    def _check_steps(self, steps_HJ: FloatArray, first: int) -> None:
        if steps_HJ.size and steps_HJ.max() > self._config.max_step_rad:
            h, j = (int(i) for i in np.unravel_index(int(np.argmax(steps_HJ)), steps_HJ.shape))
            raise ChunkRejected(
                "rejected_jump",
                f"{self._config.joint_names[j]} moves {steps_HJ[h, j]:.4f} rad in "
                f"step {first + h}; allowed {self._config.max_step_rad} rad",
            )
