"""Every parameter of the executor, described once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from lavla_ros.contract import Contract
from lavla_ros.control.arm import Arm, ConfigError, JointLimits, Kinematics
from lavla_ros.control.arms import arm_of

Blend = Literal["latest", "temporal_ensemble", "soft_mask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorConfig:
    """Parameters of :class:`~lavla_ros.control.executor.ChunkExecutor`. Build with :meth:`from_contract`."""

    limits: JointLimits
    """Position, velocity, acceleration and jerk limits per joint, (dof,) each, in ``joint_names`` order."""
    joint_names: tuple[str, ...]
    """The driver's joints, in its order. Chunks are matched to them by name."""
    tick_ns: int
    """Servo cycle. Limits hold for consecutive commands one cycle apart."""
    kinematics: Kinematics | None = None
    """The arm's own; None: a contract in the end effector's space is refused."""
    speed_scale: float = 1.0
    """Factor on the velocity limits, 0.01 to 1.0; use 0.1 for the first motions of a new policy."""
    blend: Blend = "latest"
    """Overlapping absolute chunks: the newest alone, ACT's temporal ensemble, or the soft mask of
    real-time chunking. Delta chunks are never blended; the gripper always follows the newest chunk."""
    ensemble_m: float = 0.01
    """temporal_ensemble: w_i = exp(-m i), i = 0 the oldest chunk."""
    ensemble_size: int = 16
    """temporal_ensemble: chunks averaged at most (the newest ones)."""
    execution_horizon: int = 10
    """soft_mask: s, steps executed per chunk; the mask ends at H - s."""
    max_chunk_age_s: float = 2.0
    """A chunk older than this (now minus stamp) is refused on arrival and dropped in execution → HOLDING."""
    max_future_s: float = 0.02
    """A chunk or a measured state stamped further ahead than this comes from another clock."""
    range_tolerance: float = 0.05
    """Absolute joint values out of range by at most this (rad) are clipped and counted; beyond, rejected."""
    max_start_jump_rad: float = 0.6
    """Largest distance from the commanded position to the first due point; a chunk beyond is rejected."""
    max_step_rad: float = 0.6
    """Largest joint distance between consecutive points (or size of one delta); a chunk beyond is rejected."""
    max_goal_lead_rad: float = 0.3
    """Delta chunks: the accumulated goal stays within this of the command (no wind-up at a limit)."""
    gripper_threshold: float = 0.5
    """Open above, closed below, as a fraction of the contract's range."""
    gripper_hysteresis: float = 0.05
    """Dead band on either side of the threshold, in which the gripper stays as it is."""
    state_timeout_s: float = 0.5
    """A measured state older than this → FAULT. Controllers push their state at 10 to 125 Hz."""
    tracking_error_rad: float = 0.25
    """Measured and commanded position further apart than this for ``tracking_error_ticks`` → FAULT."""
    tracking_error_ticks: int = 5
    """Consecutive ticks of excessive tracking error that latch the fault."""
    max_clock_gap_s: float = 0.5
    """A tick later than this after the one before, or before it, is a clock jump → FAULT."""
    bridged_ticks: int = 1
    """Up to this many skipped servo cycles in a row the motion goes on as planned. After more of them the arm has
    stopped where it was told to be last: the motion restarts from rest there."""
    chunk_timeout_s: float = 0.0
    """No newer chunk accepted for this long while TRACKING → HOLDING, however much is left of the last one.
    0: never (lock-step, where time stands still while the policy thinks)."""
    resume_error_rad: float = 0.02
    """Resuming is refused where a joint is further from its command than this: start anew where the arm is."""

    def __post_init__(self) -> None:
        _check(0.01 <= self.speed_scale <= 1.0, "speed_scale", self.speed_scale, "0.01 to 1.0")
        _check(1_000_000 <= self.tick_ns <= 100_000_000, "tick_ns", self.tick_ns, "1 ms to 100 ms")
        _check(
            self.blend in ("latest", "temporal_ensemble", "soft_mask"),
            "blend",
            self.blend,
            "latest, temporal_ensemble or soft_mask",
        )
        _check(len(set(self.joint_names)) == len(self.joint_names), "joint_names", self.joint_names, "no repetition")
        size = len(self.joint_names)
        _check(len(self.limits.lower_rad) == size, "limits", self.limits, f"{size} joints, one per joint_names entry")
        for name in (
            "max_chunk_age_s",
            "state_timeout_s",
            "max_clock_gap_s",
            "max_start_jump_rad",
            "max_step_rad",
            "max_goal_lead_rad",
            "tracking_error_rad",
            "resume_error_rad",
        ):
            value = getattr(self, name)
            _check(0 < value < 100, name, value, "a value in (0, 100)")
        for name in ("ensemble_m", "range_tolerance", "max_future_s", "chunk_timeout_s"):
            _check(0 <= getattr(self, name) < 100, name, getattr(self, name), "a value in [0, 100)")
        _check(0 <= self.bridged_ticks <= 10, "bridged_ticks", self.bridged_ticks, "0 to 10")
        for name in ("ensemble_size", "execution_horizon", "tracking_error_ticks"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _check(
            0 <= self.gripper_hysteresis < min(self.gripper_threshold, 1 - self.gripper_threshold),
            "gripper_hysteresis",
            self.gripper_hysteresis,
            "less than the distance of gripper_threshold to 0 and 1",
        )
        _check(
            self.max_clock_gap_s > 2e-9 * self.tick_ns,
            "max_clock_gap_s",
            self.max_clock_gap_s,
            "more than two ticks (tick_ns)",
        )

    @classmethod
    def from_contract(cls, contract: Contract, arm: Arm | None = None, **overrides: Any) -> ExecutorConfig:
        """Limits of ``arm`` (None: the contract's robot) intersected with the contract's action range.

        ``overrides`` replace fields but for those that the arm alone can know. Raises ConfigError for an unknown robot,
        an unknown parameter, a contract whose joints are not the arm's, or values out of range.
        """
        known = [f.name for f in fields(cls) if f.name not in ("joint_names", "tick_ns", "kinematics")]
        unknown = sorted(set(overrides) - set(known))
        if unknown:
            raise ConfigError(f"unknown executor parameters {unknown}; known: {known}")
        arm = arm or arm_of(contract)
        config = cls(
            **{"limits": arm.limits} | overrides,
            joint_names=arm.joint_names,
            tick_ns=arm.servo_period_ns,
            kinematics=arm.kinematics,
        )
        names = config.joint_names
        if contract.action.space != "joint":
            return config
        ranges = {d.name: d for d in contract.action.dims if d.kind == "arm"}
        if set(ranges) != set(names):
            raise ConfigError(
                f"contract {contract.name!r} commands joints {sorted(ranges)}, the arm has {sorted(names)}"
            )
        if contract.action.mode != "absolute":
            return config
        limits = config.limits
        return replace(
            config,
            limits=replace(
                limits,
                lower_rad=tuple(max(a, ranges[n].low) for a, n in zip(limits.lower_rad, names, strict=True)),
                upper_rad=tuple(min(a, ranges[n].high) for a, n in zip(limits.upper_rad, names, strict=True)),
            ),
        )


def _check(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok or (isinstance(value, float) and math.isnan(value)):
        raise ConfigError(f"executor parameter {name} is {value!r}; expected {expected}")
