"""What an arm is to the executor and the servo loop: its joints and limits, its kinematics, its driver.

A new arm is one :class:`Arm` in a module of its own; a contract names it as its ``robot``
(:mod:`lavla_ros.control.arms`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Protocol

import numpy as np

from lavla_ros.config import ConfigError, check
from lavla_ros.control.chain import Chain
from lavla_ros.control.scene import Capsule
from lavla_ros.errors import UserError
from lavla_ros.typing import FloatArray

STILL_RAD = 0.002
"""An arm whose joints change by less within 0.1 s stands still, unless its driver is told another value."""


class DriverError(UserError, RuntimeError):
    """The arm refused or could not be reached; the message names the cause and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointLimits:
    """One value per joint, in the order of the arm's joint names; tuples, so that instances can be compared.

    Raises ValueError if the lengths differ, a value is not finite, a lower limit is not below its
    upper one, or a limit of a derivative is not positive.
    """

    lower_rad: tuple[float, ...]
    """Smallest joint position, rad."""
    upper_rad: tuple[float, ...]
    """Largest joint position, rad."""
    velocity_rad_s: tuple[float, ...]
    """Largest absolute velocity, rad/s."""
    acceleration_rad_s2: tuple[float, ...]
    """Largest absolute acceleration, rad/s²."""
    jerk_rad_s3: tuple[float, ...]
    """Largest absolute jerk, rad/s³."""

    def __post_init__(self) -> None:
        for f in fields(self):
            values = getattr(self, f.name)
            if len(values) != len(self.lower_rad):
                raise ConfigError(f"{f.name}: {len(values)} values, but lower_rad has {len(self.lower_rad)} joints")
            if not all(math.isfinite(v) for v in values):
                raise ConfigError(f"{f.name}: every value must be finite, got {values}")
            if f.name not in ("lower_rad", "upper_rad") and not all(v > 0 for v in values):
                raise ConfigError(f"{f.name}: every value must be positive, got {values}")
        if not all(lo < hi for lo, hi in zip(self.lower_rad, self.upper_rad, strict=True)):
            raise ConfigError(f"lower_rad {self.lower_rad} must lie below upper_rad {self.upper_rad}")

    def lower(self) -> FloatArray:
        """Lower position limits, (J,), rad: a fresh array."""
        return np.array(self.lower_rad, dtype=np.float64)

    def upper(self) -> FloatArray:
        """Upper position limits, (J,), rad: a fresh array."""
        return np.array(self.upper_rad, dtype=np.float64)

    def contains(self, position_rad: FloatArray, tolerance_rad: float = 1e-9) -> bool:
        """Whether every joint position (J,) is finite and within its limits."""
        above = np.all(position_rad >= self.lower() - tolerance_rad)
        below = np.all(position_rad <= self.upper() + tolerance_rad)
        return bool(above and below)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmState:
    """The newest thing known of the arm. Whatever moves an arm (driver or simulator) makes these."""

    stamp_ns: int
    """When the state was measured, on the clock that the executor is ticked with."""
    position_rad: FloatArray
    """(dof,) measured joint positions in the order of ``ExecutorConfig.joint_names``."""
    gripper: float
    """1 open, 0 closed: as the arm reports it, not as it was commanded last."""
    enabled: bool
    """Powered on and enabled."""
    servo_mode: bool
    """The controller acts on servo commands. False while commands are wanted is a fault."""
    fault: str | None
    """Why the arm cannot move (protective stop, E-stop, connection lost …), or None. Latched by the driver from
    :meth:`ArmDriver.enter_servo` on, until :meth:`ArmDriver.clear_fault`."""
    powered_on: bool = True
    """The arm has power; the brakes may still be closed (see ``enabled``)."""
    concern: str | None = None
    """The first sign of trouble in the stream of commands (one refused, some unanswered), or None once it is over:
    the motion is brought to rest while that is still possible. A second sign is a ``fault``."""
    commanded_rad: FloatArray | None = None
    """(dof,) where the controller itself believes to have been commanded to, or None if it does not say."""
    moving: bool | None = None
    """Whether the controller says that the arm moves, or None if it does not say."""
    taken: str | None = None
    """What else has the arm outside servo mode, in words (a person who guides it by hand, the pendant), or None."""
    tool_wrench: FloatArray | None = None
    """(6,) what presses on the tool: force in N, then torque in Nm, in the sensor's frame; None without a sensor."""


class ArmDriver(Protocol):
    """An arm that takes one joint position per servo cycle. Called from one thread only.

    ``read``, ``command`` and ``set_gripper`` are called every cycle and must not block; a failure
    in them is reported by ``ArmState.fault``, not by an exception, unless it is a programming error.
    Each of ``power_on``, ``enable``, ``enter_servo`` and ``clear_fault`` does what its name says and nothing
    besides: a person asks for each of them separately.
    """

    def connect(self) -> None:
        """Connect and look at the arm. Powers on and enables only if the driver is configured to.

        An arm without power, disabled or in protective stop is no error: ``read`` says so. Raises DriverError
        naming the cause (never half connected).
        """

    def power_on(self) -> None:
        """Give the arm power. Blocks until confirmed. Raises DriverError; done already is no error."""

    def enable(self) -> None:
        """Release the brakes. Blocks until confirmed. Raises DriverError; done already is no error."""

    def enter_servo(self) -> None:
        """Make the controller act on :meth:`command`. Blocks until confirmed.

        Raises DriverError for an arm that has a fault, is not enabled or moves. Nothing is cleared or switched on.
        """

    def read(self) -> ArmState:
        """The newest state, without blocking."""

    def command(self, position_rad: FloatArray) -> None:
        """Joint positions (dof,) to be reached at the end of the next cycle."""

    def set_gripper(self, open_fraction: float) -> None:
        """1 open, 0 closed. Called when the wanted value changes, and again while the arm reports another one."""

    def report(self) -> dict[str, int]:
        """How the stream of commands goes, by name: counts and measures worth showing. Only what is not 0."""

    def exit_servo(self) -> None:
        """Leave servo mode; the arm must be at rest. Safe to call when not in servo mode, and after a fault.

        Raises DriverError if servo mode stays on.
        """

    def close(self) -> None:
        """Close every connection. Safe to call twice."""

    def clear_fault(self) -> None:
        """Clear a latched fault of the controller on a person's request, connecting again where needed.

        Neither powers on nor enables nor enters servo mode. Raises DriverError if the fault stays.
        """


class KinematicsError(UserError, RuntimeError):
    """No joint position within the limits reaches the pose; the message says by how much the closest one misses it."""


class Kinematics(Protocol):
    """Joint positions (dof,), rad, in the order of ``Arm.joint_names`` ⇄ poses (4, 4) of the end effector in the base
    frame, m. Called from any thread."""

    def forward(self, position_rad: FloatArray) -> FloatArray:
        """The pose (4, 4) of the end effector."""

    def inverse(self, target_44: FloatArray, seed_rad: FloatArray, limits: JointLimits) -> FloatArray:
        """The joint positions within ``limits`` on the branch of ``seed_rad``.

        Raises KinematicsError if there are none, ValueError for a target that is no rigid transform.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """What an arm may carry, and what is mounted on it."""

    limit_kg: float = math.inf
    """Tool and load together."""
    tool_kg: float = 0.0
    tool_centroid_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Centre of mass of the tool in the frame of the flange, m."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One kind of arm. Raises ValueError if the parts do not fit together."""

    joint_names: tuple[str, ...]
    """The driver's joints, in its order. A contract in joint space commands exactly these, in any order."""
    limits: JointLimits
    """What every command keeps; a contract's range and the configuration may be narrower."""
    servo_period_ns: int
    """Time from one command to the next."""
    options: type[Any]
    """A frozen dataclass: the options of the driver. Its fields are the keys of the servo configuration's ``arm``
    section and the executor node's parameters ``arm.*``. Its ``__post_init__`` raises ValueError for values out of
    range."""
    driver: Callable[[Any, JointLimits], ArmDriver]
    """Makes the driver from an instance of ``options`` and the limits that the commands keep; connects to nothing yet.
    Raises ValueError if the two do not fit."""
    kinematics: Kinematics | None = None
    """None: a contract in the end effector's space is refused."""
    chain: Chain | None = None
    """Geometry, joints in the order of ``joint_names``; None: not known, so that nothing can be checked in space."""
    name: str = ""
    """How messages name it."""
    payload: Payload = Payload()
    capsules: tuple[Capsule, ...] = ()
    """The shape of its links; empty: made from the chain (:func:`lavla_ros.control.clearance.capsules_of`)."""
    leave_servo: Callable[[Any], bool] | None = None
    """Leaves servo mode over a connection of its own, after the process that entered it has died; takes an instance of
    ``options`` and returns whether it was on. Blocks for some seconds at most. Raises DriverError if servo mode may
    still be on. None: servo mode ends by itself with the process."""
    start_rad: tuple[float, ...] = ()
    """Where a dry run without an arm begins; empty: the middle of the limits."""
    poses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Joint positions by name, rad, for moves (:mod:`lavla_ros.control.move`)."""
    topics: Callable[[Any], tuple[str, ...]] | None = None
    """ROS topics, by their full names, that the driver itself uses, given an instance of ``options``: nothing of ours
    may publish them. None: none."""

    def __post_init__(self) -> None:
        joints = len(self.joint_names)
        if not joints or len(set(self.joint_names)) != joints:
            raise ConfigError(f"joint_names of an arm is {self.joint_names}; expected one or more, each name once")
        if len(self.limits.lower_rad) != joints:
            raise ConfigError(f"limits of an arm have {len(self.limits.lower_rad)} joints; joint_names has {joints}")
        if not 1_000_000 <= self.servo_period_ns <= 100_000_000:
            raise ConfigError(f"servo_period_ns of an arm is {self.servo_period_ns}; expected 1 ms to 100 ms")
        if self.chain is not None and self.chain.joint_names != self.joint_names:
            raise ConfigError(f"chain of an arm has the joints {self.chain.joint_names}; expected {self.joint_names}")
        if not is_dataclass(self.options):
            raise ConfigError(f"options of an arm is {self.options!r}; expected a dataclass")
        if not self.start_rad:
            middle = tuple((a + b) / 2 for a, b in zip(self.limits.lower_rad, self.limits.upper_rad, strict=True))
            object.__setattr__(self, "start_rad", middle)
        if len(self.start_rad) != joints or not self.limits.contains(np.array(self.start_rad)):
            raise ConfigError(f"start_rad of an arm is {self.start_rad}; expected {joints} positions within its limits")
        check_poses(self.poses, self.joint_names, self.limits, "poses")


def check_poses(
    poses: Mapping[str, tuple[float, ...]], joint_names: Sequence[str], limits: JointLimits, where: str
) -> None:
    """Raises ConfigError for a pose that the arm does not have."""
    for name, pose in poses.items():
        check(len(pose) == len(joint_names), f"{where}.{name}", pose, f"one value for each of {list(joint_names)}")
        bounds = f"positions within {limits.lower_rad} and {limits.upper_rad}"
        check(limits.contains(np.array(pose)), f"{where}.{name}", pose, bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverKind:
    """A way to drive an arm, which an arm's file names as its ``driver``; see :class:`Arm` for the parts."""

    options: type[Any]
    make: Callable[[Any, JointLimits, Arm], ArmDriver]
    """As ``Arm.driver``, for the arm that is given last."""
    leave_servo: Callable[[Any], bool] | None = None
    topics: Callable[[Any], tuple[str, ...]] | None = None
