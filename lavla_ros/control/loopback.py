"""An arm that is not there: it reaches every command at once. For dry runs without a controller."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavla_ros.control.arm import ArmState, DriverError


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
