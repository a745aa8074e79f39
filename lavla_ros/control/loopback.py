"""An arm that is not there: it reaches every command at once. For dry runs without a controller."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavla_ros.config import setting
from lavla_ros.control.arm import Arm, ArmState, DriverError, DriverKind, JointLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackOptions:
    """Options of a dry run."""

    start_rad: tuple[float, ...] = setting((), "Joint positions at the start, rad; empty: those that the arm declares.")
    power_on: bool = setting(True, "Powered and enabled from the start, as there is no brake to be released.")


def _make(options: LoopbackOptions, limits: JointLimits, arm: Arm) -> LoopbackDriver:
    start_rad = options.start_rad or arm.start_rad
    if len(start_rad) != len(arm.joint_names):
        raise ValueError(f"start_rad is {start_rad}; expected one value for each of {list(arm.joint_names)}")
    return LoopbackDriver(start_rad=start_rad, power_on=options.power_on)


LOOPBACK = DriverKind(options=LoopbackOptions, make=_make)


def loopback(arm: Arm) -> Arm:
    """``arm`` with a driver that reaches every command at once, in place of its own."""

    def driver(options: LoopbackOptions, limits: JointLimits) -> LoopbackDriver:
        return _make(options, limits, arm)

    return replace(arm, options=LoopbackOptions, driver=driver, leave_servo=None, topics=None)


class LoopbackDriver:
    """Implements :class:`~lavla_ros.control.arm.ArmDriver`."""

    def __init__(self, *, start_rad: ArrayLike, power_on: bool = True) -> None:
        """``power_on``: powered and enabled from the start, as no brake has to be released."""
        self._position = np.array(start_rad, dtype=np.float64)
        self._gripper = 1.0
        self._powered = self._enabled = power_on
        self._servo_mode = False

    def connect(self) -> None:
        pass

    def power_on(self) -> None:
        self._powered = True

    def enable(self) -> None:
        if not self._powered:
            raise DriverError("the arm has no power: power it on first")
        self._enabled = True

    def enter_servo(self) -> None:
        if not self._enabled:
            raise DriverError("the arm is not enabled")
        self._servo_mode = True

    def read(self) -> ArmState:
        return ArmState(
            stamp_ns=time.time_ns(),
            position_rad=self._position,
            gripper=self._gripper,
            enabled=self._enabled,
            servo_mode=self._servo_mode,
            fault=None,
            powered_on=self._powered,
            commanded_rad=self._position,
            moving=False,
        )

    def command(self, position_rad: NDArray[np.float64]) -> None:
        if self._servo_mode:
            self._position = position_rad.copy()

    def set_gripper(self, open_fraction: float) -> None:
        self._gripper = open_fraction

    def report(self) -> dict[str, int]:
        return {}

    def exit_servo(self) -> None:
        self._servo_mode = False

    def close(self) -> None:
        self._servo_mode = False

    def clear_fault(self) -> None:
        pass
