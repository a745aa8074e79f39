"""How the emulated controller behaves where the vendor's documents leave it open: one option each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from lavla_ros.config import check, check_settings, setting
from lavla_ros.jaka.connection import COMMAND_PORT, STATUS_PORT
from sim_bridges.jaka_controller.servo import Overflow

COLLISION_FORCE_N = (math.inf, 25.0, 50.0, 75.0, 100.0, 125.0)
"""Force that trips the protective stop, by ``set_clsn_sensitivity`` (vendor document): 0 is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerConfig:
    """The defaults are a controller with the newest firmware in a quiet cell; every option is a less kind one."""

    model: str = "minicobo"
    """The arm: a model of the JAKA family (minicobo, zu5, a12, ...; config/arms), or the YAML file of your own."""
    without_commands: Literal["stop", "coast"] = setting("stop", choices=("stop", "coast"))
    """What the arm does in servo mode if no command is left: stop dead at the last one, or go on at its velocity."""
    coast_s: float = setting(0.5, low=0.0, high=60.0)
    """With coast, number of seconds until the arm stops dead."""
    clock_drift: float = setting(0.0, low=-0.5, high=0.5)
    """Fraction by which a cycle of the controller is longer than 8 ms; shorter if negative."""
    servo_depth: int = setting(100, low=1)
    """Number of periods (8 ms) of servo motion that the queue holds."""
    overflow: Overflow = setting("refuse", choices=get_args(Overflow))  # noqa: RUF009 (a Literal cannot change)
    """What happens to a servo command that does not fit: an error is answered, or it is lost, or the oldest is."""
    servo_lead_periods: int = 1
    """Number of periods (8 ms) between the first servo target and its execution."""
    outside_servo: Literal["refuse", "ignore"] = setting("refuse", choices=("refuse", "ignore"))
    """Whether servo commands outside servo mode are answered with an error, or acknowledged without effect."""
    modes_refuse: bool = True
    """Whether motion commands are refused in drag and in manual mode, or carried out."""
    filter_acts: bool = True
    """Whether the servo filter of type 2 limits velocity, acceleration and jerk, or is accepted without effect."""
    network_exception_acts: bool = True
    """Whether set_network_exception_handle acts in servo mode, or in planned motion only."""
    collision_sensitivity: int = setting(0, low=0, high=5)
    """Collision sensitivity before set_clsn_sensitivity is called: 0 is off, 1 is 25 N, 5 is 125 N."""
    power_loss_clears_outputs: bool = False
    """Whether the tool outputs fall with the arm's power."""
    reports_safety: bool = True
    """Whether the status push has protective_stop, emergency_stop and on_soft_limit; older firmware has not."""
    reports_commanded: bool = True
    """Whether the status push has the commanded joint_position; older firmware has not."""
    reports_modes: bool = True
    """Whether the status push has drag_status and task_mode; older firmware has not."""
    force_sensor: bool = False
    """Whether the status push has torqsensor, as with a force sensor at the flange."""
    power_on_s: float = setting(0.05, low=0.0, high=600.0)
    """Number of seconds that switching the power on takes."""
    enable_s: float = setting(0.05, low=0.0, high=600.0)
    """Number of seconds that enabling takes."""
    log_size: int = setting(131072, low=1, high=10**8)
    """Number of servo commands, and of cycles of motion, that are kept (17 minutes at 125 Hz)."""

    def __post_init__(self) -> None:
        check_settings(self)
        lead, depth = self.servo_lead_periods, self.servo_depth
        check(0 <= lead < depth, "servo_lead_periods", lead, f"0 or more, and less than servo_depth ({depth})")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorOptions:
    """Where an emulator listens, and how its controller behaves."""

    host: str = "127.0.0.1"
    """Address that the emulator listens on."""
    port: int = COMMAND_PORT
    """Port for commands; 0 takes a free one."""
    status_port: int = STATUS_PORT
    """Port that pushes the status; 0 takes a free one."""
    status_rate_hz: float = setting(125.0, low=0.1, high=500.0)
    """Rate of the status push, in Hz. Controllers push at 10 to 125 Hz."""
    controller: ControllerConfig = field(default_factory=ControllerConfig)

    def __post_init__(self) -> None:
        check_settings(self)
