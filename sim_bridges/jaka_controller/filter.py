"""The controller's servo filter of type 2 ("nlf"): velocity, acceleration and jerk of every joint bounded.

Written for positions one period apart: the limits hold for finite differences of what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ruckig import ControlInterface, InputParameter, OutputParameter, Ruckig, Synchronization

from lavla_ros.config import ConfigError
from lavla_ros.jaka.limits import JOINTS, SERVO_PERIOD_S
from lavla_ros.typing import FloatArray

_MARGIN = 1e-9
_AT_REST = 1e-9


@dataclass(frozen=True, slots=True)
class FilterLimits:
    """One value for all joints."""

    velocity_rad_s: float
    acceleration_rad_s2: float
    jerk_rad_s3: float

    def __post_init__(self) -> None:
        for name in ("velocity_rad_s", "acceleration_rad_s2", "jerk_rad_s3"):
            if not 0.0 < getattr(self, name) < 1e6:
                raise ConfigError(f"the filter's {name} must be above 0, got {getattr(self, name)}")


class NonlinearFilter:
    """Follows targets one period apart; those within the limits come out as they went in.

    A target that the limits do not allow is pursued in minimal time (ruckig) in the frame that moves as the targets
    do, until it is met again.
    """

    def __init__(self, limits: FilterLimits) -> None:
        self._limits = limits
        self._ruckig = Ruckig(JOINTS, SERVO_PERIOD_S)
        self._input = InputParameter(JOINTS)
        self._output = OutputParameter(JOINTS)
        self._input.max_acceleration = [limits.acceleration_rad_s2] * JOINTS
        self._input.max_jerk = [limits.jerk_rad_s3] * JOINTS
        self._input.synchronization = Synchronization.No
        self.begin(np.zeros(JOINTS))

    def begin(self, position_rad: FloatArray) -> None:
        """At rest at a position (6,), rad."""
        self._position = np.array(position_rad, dtype=np.float64)
        self._target = self._position
        # Finite differences of what came out: over the last period, and over the last two.
        self._velocity = np.zeros(JOINTS)
        self._acceleration = np.zeros(JOINTS)
        self._state = (self._velocity, self._acceleration)
        """Velocity and acceleration at the end of the last period, where ruckig goes on."""

    @property
    def target(self) -> FloatArray:
        """The newest target, (6,), rad."""
        return self._target

    @property
    def speed_rad_s(self) -> float:
        """Of the fastest joint; exactly 0 at rest."""
        velocity, acceleration = self._state
        fastest = float(np.abs(velocity).max())
        return fastest if max(fastest, float(np.abs(acceleration).max())) > _AT_REST else 0.0

    def follow(self, target_rad: FloatArray) -> FloatArray:
        """The position (6,), rad, one period on, on the way to a target (6,), rad."""
        period, v_max, a_max, j_max = SERVO_PERIOD_S, *self._bounds()
        speed = np.clip((target_rad - self._target) / period, -0.999 * v_max, 0.999 * v_max)
        self._target = target_rad
        velocity = (target_rad - self._position) / period
        acceleration = (velocity - self._velocity) / period
        jerk = (acceleration - self._acceleration) / period
        # From what is taken over, every joint must still be able to let its acceleration fall to zero in time.
        peak = np.abs(velocity + acceleration * np.abs(acceleration) / (2.0 * j_max))
        within = (
            (np.abs(jerk) <= j_max) & (np.abs(acceleration) <= a_max) & (np.maximum(np.abs(velocity), peak) <= v_max)
        )
        position, end_velocity, end_acceleration = target_rad, velocity + 0.5 * period * acceleration, acceleration
        if not within.all():
            pursued = self._solve(ControlInterface.Position, target_rad, speed)
            position = np.where(within, position, pursued[0])
            end_velocity = np.where(within, end_velocity, pursued[1])
            end_acceleration = np.where(within, end_acceleration, pursued[2])
        return self._take(position, end_velocity, end_acceleration)

    def brake(self) -> FloatArray:
        """The position (6,), rad, one period on, on the way to rest."""
        if self.speed_rad_s == 0.0:
            self._target = self._position
            return self._take(self._position, np.zeros(JOINTS), np.zeros(JOINTS))
        return self._take(*self._solve(ControlInterface.Velocity, self._position, np.zeros(JOINTS)))

    def _bounds(self) -> tuple[float, float, float]:
        limits, room = self._limits, 1.0 + _MARGIN
        return limits.velocity_rad_s * room, limits.acceleration_rad_s2 * room, limits.jerk_rad_s3 * room

    def _solve(
        self, control: ControlInterface, frame_rad: FloatArray, speed_rad_s: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Position, velocity and acceleration one period on, towards the origin of a moving frame.

        The frame is at ``frame_rad`` one period on and moves at ``speed_rad_s``.
        """
        given, v_max = self._input, self._limits.velocity_rad_s
        velocity, acceleration = self._state
        given.control_interface = control
        given.current_position = (self._position - frame_rad + speed_rad_s * SERVO_PERIOD_S).tolist()
        given.current_velocity = (velocity - speed_rad_s).tolist()
        given.current_acceleration = acceleration.tolist()
        given.target_position = given.target_velocity = given.target_acceleration = [0.0] * JOINTS
        given.max_velocity, given.min_velocity = (v_max - speed_rad_s).tolist(), (-v_max - speed_rad_s).tolist()
        self._ruckig.reset()
        self._ruckig.update(given, self._output)
        position, velocity = np.array(self._output.new_position), np.array(self._output.new_velocity)
        return frame_rad + position, speed_rad_s + velocity, np.array(self._output.new_acceleration)

    def _take(self, position_rad: FloatArray, end_velocity: FloatArray, end_acceleration: FloatArray) -> FloatArray:
        velocity = (position_rad - self._position) / SERVO_PERIOD_S
        self._acceleration = (velocity - self._velocity) / SERVO_PERIOD_S
        self._velocity, self._position = velocity, position_rad
        self._state = end_velocity, end_acceleration
        return position_rad
