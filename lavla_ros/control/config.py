"""Every parameter of the executor, described once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from lavla_ros.config import ConfigError, check, check_settings, setting
from lavla_ros.contract import Contract
from lavla_ros.control.arm import Arm, JointLimits, Kinematics
from lavla_ros.control.arms import arm_of

_WHERE = "executor parameter "


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorOptions:
    """What a person may set: the keys of the servo configuration's ``executor`` section, and node parameters.

    Raises ConfigError for a value out of range.
    """

    speed_scale: float = setting(
        1.0,
        "Factor on the joint velocity limits; 0.1 for the first motions of a new policy or a new cell.",
        low=0.01,
        high=1.0,
        settable=True,
    )
    blend: str = setting(
        "latest",
        "How overlapping chunks of absolute actions are joined: the newest alone, ACT's temporal ensemble, or the soft "
        "mask of real-time chunking. Chunks of deltas are never blended; the gripper always follows the newest chunk.",
        choices=("latest", "temporal_ensemble", "soft_mask"),
    )
    ensemble_m: float = setting(
        0.01, "temporal_ensemble: the weights are exp(-m i), i = 0 for the oldest chunk.", low=0.0, high=100.0
    )
    ensemble_size: int = setting(16, "temporal_ensemble: at most this many chunks are averaged.", low=1, high=1000)
    execution_horizon: int = setting(
        10,
        "soft_mask: steps executed per chunk; the mask ends that many steps before the chunk does.",
        low=1,
        high=1000,
    )
    max_chunk_age_s: float = setting(
        2.0,
        "An older chunk is refused on arrival, and ends in a hold while it is executed.",
        low=0.05,
        high=60.0,
        unit="s",
    )
    max_future_s: float = setting(
        0.02,
        "A chunk or a measured state that is stamped further ahead comes from another clock.",
        low=0.0,
        high=100.0,
        unit="s",
    )
    range_tolerance: float = setting(
        0.05,
        "Absolute joint targets out of range by at most this are clipped and counted; a chunk beyond is refused.",
        low=0.0,
        high=100.0,
        unit="rad",
    )
    max_start_jump_rad: float = setting(
        0.6,
        "A chunk whose first due point is further from the commanded position is refused.",
        low=1e-6,
        high=100.0,
        unit="rad",
    )
    max_engage_jump_rad: float = setting(
        0.3,
        "The same for the first chunk after the arm was activated, resumed or acknowledged: a policy that sees another "
        "pose than the arm's is found before anything moves.",
        low=1e-6,
        high=100.0,
        unit="rad",
    )
    engage_ramp_s: float = setting(
        0.0,
        "With the first chunk after the arm was activated, resumed or acknowledged, and with a person's first chunk or "
        "the policy's next one, the speed scale begins at 0.1. It rises to its value over this time; 0: at once.",
        low=0.0,
        high=60.0,
        unit="s",
    )
    move_speed_scale: float = setting(
        0.25,
        "Factor on the joint velocity limits of a move to a pose, unless speed_scale is smaller.",
        low=0.01,
        high=1.0,
    )
    max_step_rad: float = setting(
        0.6,
        "A chunk in which a joint moves further in one step is refused.",
        low=1e-6,
        high=100.0,
        unit="rad",
    )
    max_goal_lead_rad: float = setting(
        0.3,
        "Chunks of deltas: the accumulated goal stays within this of the command, without winding up at a limit.",
        low=1e-6,
        high=100.0,
        unit="rad",
    )
    gripper_threshold: float = setting(
        0.5, "The gripper opens above and closes below this fraction of the contract's range.", low=0.0, high=1.0
    )
    gripper_hysteresis: float = setting(
        0.05, "Half of the dead band around gripper_threshold, in which the gripper stays as it is.", low=0.0, high=0.5
    )
    state_timeout_s: float = setting(
        0.5,
        "A measured state older than this is a fault. Controllers push it at 10 to 125 Hz.",
        low=0.02,
        high=2.0,
        unit="s",
    )
    tracking_error_rad: float = setting(
        0.25,
        "Measured and commanded position further apart than this for tracking_error_ticks are a fault.",
        low=1e-6,
        high=100.0,
        unit="rad",
    )
    tracking_error_ticks: int = setting(
        5, "Consecutive ticks of excessive tracking error that latch the fault.", low=1, high=1000
    )
    max_clock_gap_s: float = setting(
        0.5, "A tick later than this after the one before, or before it, is a fault.", low=1e-3, high=100.0, unit="s"
    )
    bridged_ticks: int = setting(
        1,
        "The motion goes on as planned over this many consecutive skipped servo cycles. After more of them the arm "
        "has stopped where it was told to be last, and the motion restarts from rest there.",
        low=0,
        high=10,
    )
    chunk_timeout_s: float = setting(
        0.0,
        "The arm is held if no newer chunk has been accepted for this long, however much is left of the last one; 0: "
        "never.",
        low=0.0,
        high=100.0,
        unit="s",
    )
    resume_error_rad: float = setting(
        0.02,
        "Resuming in place is refused if a joint is further from its command; servo mode is then entered again.",
        low=1e-6,
        high=100.0,
        unit="rad",
    )

    def __post_init__(self) -> None:
        check_settings(self, _WHERE)
        check(
            self.gripper_hysteresis < min(self.gripper_threshold, 1 - self.gripper_threshold),
            f"{_WHERE}gripper_hysteresis",
            self.gripper_hysteresis,
            "less than the distance of gripper_threshold to 0 and 1",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """Narrower limits than the arm's: one value for all joints or one per joint; null leaves the arm's."""

    lower_rad: float | tuple[float, ...] | None = None
    upper_rad: float | tuple[float, ...] | None = None
    velocity_rad_s: float | tuple[float, ...] | None = None
    acceleration_rad_s2: float | tuple[float, ...] | None = None
    jerk_rad_s3: float | tuple[float, ...] | None = None

    def applied(self, limits: JointLimits) -> JointLimits:
        """``limits`` with what is given here in place of theirs. Raises ConfigError if it does not fit or is wider."""
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        joints = len(limits.lower_rad)
        each = {name: value if isinstance(value, tuple) else (value,) * joints for name, value in given.items()}
        try:
            narrowed = replace(limits, **each)
        except ValueError as error:
            raise ConfigError(f"limits {given}: {error}") from None
        for name, ours in each.items():
            sign, side = (-1.0, "least") if name == "lower_rad" else (1.0, "most")
            for joint, (value, arms) in enumerate(zip(ours, getattr(limits, name), strict=True), start=1):
                if sign * value > sign * arms:
                    raise ConfigError(
                        f"limits.{name} is {value} for joint {joint}; expected at {side} the arm's own {arms}: it is "
                        "the arm's file that says more (docs/how_to/your_arm.md)"
                    )
        return narrowed


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorConfig(ExecutorOptions):
    """The options with what the arm and the contract say. Build it with :meth:`from_contract`."""

    limits: JointLimits
    """Position, velocity, acceleration and jerk limits per joint, (dof,) each, in ``joint_names`` order."""
    joint_names: tuple[str, ...]
    """The driver's joints, in its order. Chunks are matched to them by name."""
    tick_ns: int
    """Servo cycle. Limits hold for consecutive commands one cycle apart."""
    kinematics: Kinematics | None
    """The arm's own; None: a contract in the end effector's space is refused."""

    def __post_init__(self) -> None:
        ExecutorOptions.__post_init__(self)
        check(
            self.max_clock_gap_s > 2e-9 * self.tick_ns,
            f"{_WHERE}max_clock_gap_s",
            self.max_clock_gap_s,
            f"more than two servo cycles of {self.tick_ns} ns",
        )

    @classmethod
    def from_contract(
        cls, contract: Contract, arm: Arm | None = None, limits: JointLimits | None = None, **options: Any
    ) -> ExecutorConfig:
        """``options`` are those of :class:`ExecutorOptions`. Limits are intersected with the contract's action range.

        ``arm``: None: the contract's robot. ``limits``: None: the arm's. Raises ConfigError for an unknown robot, an
        unknown option, a contract whose joints are not the arm's, or values out of range.
        """
        known = [f.name for f in fields(ExecutorOptions)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ConfigError(f"unknown executor parameters {unknown}; known: {known}")
        arm = arm or arm_of(contract)
        config = cls(
            **options,
            limits=limits or arm.limits,
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
        narrow = LimitOptions(
            lower_rad=tuple(max(a, ranges[n].low) for a, n in zip(config.limits.lower_rad, names, strict=True)),
            upper_rad=tuple(min(a, ranges[n].high) for a, n in zip(config.limits.upper_rad, names, strict=True)),
        )
        return replace(config, limits=narrow.applied(config.limits))
