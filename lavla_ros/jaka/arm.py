"""The JAKA MiniCobo as an arm of the control layer."""

from __future__ import annotations

from lavla_ros.control.arm import Arm
from lavla_ros.control.chain import Chain
from lavla_ros.control.kinematics import ChainKinematics
from lavla_ros.jaka.driver import JakaDriverConfig, JakaTcpDriver, leave_servo_mode
from lavla_ros.jaka.kinematics import MINICOBO as GEOMETRY
from lavla_ros.jaka.limits import JOINT_NAMES, MINICOBO_LIMITS, SERVO_PERIOD_S

_CHAIN = Chain(joint_names=JOINT_NAMES, origin_xyz_m=GEOMETRY.origin_xyz_m, origin_rpy_rad=GEOMETRY.origin_rpy_rad)

MINICOBO = Arm(
    joint_names=JOINT_NAMES,
    limits=MINICOBO_LIMITS,
    servo_period_ns=round(SERVO_PERIOD_S * 1e9),
    options=JakaDriverConfig,
    driver=JakaTcpDriver,
    kinematics=ChainKinematics(_CHAIN),
    chain=_CHAIN,
    leave_servo=leave_servo_mode,
    start_rad=(0.0, 0.0, 1.5708, 0.0, 1.5708, 0.0),
)
