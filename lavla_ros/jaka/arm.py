"""The JAKA MiniCobo as an arm of the control layer."""

from __future__ import annotations

from lavla_ros.control.arm import Arm, JointLimits
from lavla_ros.jaka.driver import JakaDriverConfig, JakaTcpDriver, leave_servo_mode
from lavla_ros.jaka.kinematics import forward, inverse
from lavla_ros.jaka.limits import JOINT_NAMES, MINICOBO_LIMITS, SERVO_PERIOD_S
from lavla_ros.typing import FloatArray


class _Kinematics:
    """Implements :class:`~lavla_ros.control.arm.Kinematics`; the end effector is the tool flange."""

    def forward(self, position_rad: FloatArray) -> FloatArray:
        return forward(position_rad)

    def inverse(self, target_44: FloatArray, seed_rad: FloatArray, limits: JointLimits) -> FloatArray:
        return inverse(target_44, seed_rad, limits=limits)


MINICOBO = Arm(
    joint_names=JOINT_NAMES,
    limits=MINICOBO_LIMITS,
    servo_period_ns=round(SERVO_PERIOD_S * 1e9),
    options=JakaDriverConfig,
    driver=JakaTcpDriver,
    kinematics=_Kinematics(),
    leave_servo=leave_servo_mode,
    start_rad=(0.0, 0.0, 1.5708, 0.0, 1.5708, 0.0),
)
