"""What the emulated controller moves: a physical simulation, or the arm's kinematics alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavla_ros.config import ConfigError
from lavla_ros.control.arm import Arm
from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.jaka.limits import JOINTS


class ArmPlant(Protocol):
    """An arm that follows joint position targets. Called from the emulator's cycle thread only."""

    def joint_position_rad(self) -> NDArray[np.float64]:
        """Measured joint positions (6,), rad."""

    def command_joints_rad(self, q_rad: NDArray[np.float64]) -> None:
        """Joint position targets (6,), rad, for the next cycle."""

    def set_tool_output(self, index: int, value: bool) -> None:
        """Switch a tool output; the gripper is on output 0, True closes it."""

    def advance(self, dt_s: float) -> None:
        """Let the given time pass."""


@runtime_checkable
class ForceSensing(Protocol):
    """A plant whose controller feels what the arm runs into."""

    def external_force_n(self) -> float:
        """Force with which something outside presses against the arm now, N."""


class KinematicPlant:
    """An arm without physics: it is where it was told to be, unless a table is in the way of its flange."""

    def __init__(
        self,
        position_rad: ArrayLike = (0.0,) * JOINTS,
        *,
        table_z_m: float = -math.inf,
        table_stiffness_n_m: float = 5000.0,
        arm: Arm = MINICOBO,
    ) -> None:
        """``table_z_m``: height above the base below which the flange does not get; what presses it down is then
        felt as the way that it was told to go further, times the stiffness. ``arm``: whose flange that is."""
        self._table_z_m, self._table_stiffness_n_m = table_z_m, table_stiffness_n_m
        self._force_n = 0.0
        self._kinematics = arm.kinematics
        self._position_rad = np.array(position_rad, dtype=np.float64)
        if self._position_rad.shape != (JOINTS,) or not np.isfinite(self._position_rad).all():
            raise ConfigError(f"the arm starts at {JOINTS} finite joint positions (rad), got {position_rad!r}")
        self._target_rad = self._position_rad
        self._tool_outputs: dict[int, bool] = {}
        self.elapsed_s = 0.0

    @property
    def tool_outputs(self) -> Mapping[int, bool]:
        """Outputs that were set so far."""
        return self._tool_outputs

    def joint_position_rad(self) -> NDArray[np.float64]:
        """See :class:`ArmPlant`."""
        return self._position_rad

    def command_joints_rad(self, q_rad: NDArray[np.float64]) -> None:
        """See :class:`ArmPlant`."""
        self._target_rad = q_rad.copy()

    def set_tool_output(self, index: int, value: bool) -> None:
        """See :class:`ArmPlant`."""
        self._tool_outputs[index] = value

    def advance(self, dt_s: float) -> None:
        """See :class:`ArmPlant`."""
        self.elapsed_s += dt_s
        self._force_n = 0.0
        if self._kinematics is not None and math.isfinite(self._table_z_m):
            depth_m = self._table_z_m - float(self._kinematics.forward(self._target_rad)[2, 3])
            if depth_m > 0.0:
                self._force_n = depth_m * self._table_stiffness_n_m
                return
        self._position_rad = self._target_rad

    def external_force_n(self) -> float:
        """See :class:`ForceSensing`."""
        return self._force_n
