"""Every parameter of the JAKA driver, described once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lavla_ros.config import ConfigError, check, check_settings, setting
from lavla_ros.control.arm import STILL_RAD, JointLimits
from lavla_ros.control.gripper_options import GripperOptions
from lavla_ros.jaka.connection import COMMAND_PORT, STATUS_PORT
from lavla_ros.jaka.limits import SERVO_MAX_SPEED_RAD_S

FILTER_VELOCITY_FACTOR = 1.2
"""Faster than the limit is only an arm that catches up after a gap in the commands: it is not to race."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JakaDriverConfig(GripperOptions):
    """Where the controller is, how it is set up, and when the stream of commands counts as troubled.

    Raises ConfigError for a value out of range.
    """

    host: str = setting(help="Address of the controller; 10.5.5.100 as delivered.")
    port: int = setting(COMMAND_PORT, "Command port of the controller.", low=1, high=65535)
    status_port: int = setting(STATUS_PORT, "Status port of the controller.", low=1, high=65535)
    connect_timeout_s: float = setting(3.0, "Longest time to connect.", low=0.001, high=600.0, unit="s")
    reply_timeout_s: float = setting(2.0, "Longest time to a reply.", low=0.001, high=600.0, unit="s")
    power_timeout_s: float = setting(
        20.0, "Longest time to switch the power on, and to release the brakes.", low=0.001, high=600.0, unit="s"
    )
    command_timeout_s: float = setting(
        0.002, "Longest time that one servo command may block.", low=0.0001, high=1.0, unit="s"
    )
    power_on: bool = setting(
        False,
        "Connecting also powers on and enables the arm. Otherwise a person does that, at the pendant or by a service.",
    )
    accept_manual_mode: bool = setting(
        False,
        "Enter servo mode even if the status says manual mode, for controllers that take servo commands in it.",
    )

    other_geometry: str = setting(
        "refuse",
        "What connecting does if the controller reports other Denavit-Hartenberg parameters (1 mm, 0.5 deg) than the "
        "contract's arm has.",
        choices=("refuse", "accept"),
    )

    # ---- set in the controller before servo mode ----
    filter_factor: float = setting(
        2.0,
        "The controller's servo filter bounds acceleration and jerk at this factor times the largest limit, and "
        "velocity at 1.2 times: it leaves alone what we command, and rounds off what must not arrive. 0: no filter.",
        low=0.0,
        high=20.0,
    )
    network_timeout_s: float = setting(
        0.2,
        "The controller aborts the motion after the network has been silent for this long. 0: left as it is set there.",
        low=0.0,
        high=600.0,
        unit="s",
    )
    collision_sensitivity: int = setting(
        1,
        "Collision detection, from 1 (most sensitive, 25 N) to 5 (least, 125 N). It is never switched off here.",
        low=1,
        high=5,
    )
    payload_kg: float | None = setting(
        None,
        "Mass of tool and load for the controller's collision detection. Not given: left as it is set at the pendant.",
        low=0.0,
        high=50.0,
        unit="kg",
    )
    payload_centroid_m: tuple[float, ...] = setting(
        (0.0, 0.0, 0.0), "Centre of mass of tool and load in the flange frame, x, y, z.", unit="m"
    )

    # ---- supervision: the first sign of trouble is a concern, the second a fault ----
    status_timeout_s: float = setting(
        0.5,
        "Age at which the status push counts as stale, a fault; at half of it: a concern.",
        low=0.001,
        high=600.0,
        unit="s",
    )
    still_rad: float = setting(
        STILL_RAD, "An arm whose joints change by less within 0.1 s stands still.", low=1e-6, high=1.0, unit="rad"
    )
    entry_error_rad: float = setting(
        0.02,
        "Servo mode is refused if the controller's own command is further from the arm: a first command more than "
        "0.025 rad away has no effect.",
        low=1e-6,
        high=1.0,
        unit="rad",
    )
    unanswered_concern: int = setting(6, "This many servo commands without a reply are a concern.", low=1, high=10000)
    unanswered_fault: int = setting(24, "This many servo commands without a reply are a fault.", low=1, high=10000)
    refused_fault: int = setting(
        3, "One refused servo command is a concern; this many within window_s are a fault.", low=2, high=10000
    )
    window_s: float = setting(1.0, "How long a refusal counts.", low=0.001, high=600.0, unit="s")
    lag_concern_s: float = setting(
        0.1,
        "The controller carries out commands this long after they were sent: a concern. Seen in the commanded position "
        "of the status; the arm needs 0.02 to 0.03 s if all is well.",
        low=0.001,
        high=600.0,
        unit="s",
    )
    lag_fault_s: float = setting(
        0.25,
        "The controller carries out commands this long after they were sent: a fault.",
        low=0.001,
        high=600.0,
        unit="s",
    )
    measured_lag_factor: float = setting(
        3.0,
        "If the status has no commanded position, the measured one is compared, with this many times the lag allowed.",
        low=1.0,
        high=20.0,
    )
    path_error_rad: float = setting(
        0.02,
        "The controller's commanded position is further than this from every command of the last second, so commands "
        "have no effect: a concern, and a fault if it lasts twice lag_fault_s.",
        low=1e-6,
        high=1.0,
        unit="rad",
    )

    # ---- force sensor at the flange ----
    force_sensor: bool = setting(
        False,
        "The arm has a force sensor at its flange that the controller reads; what the status says of it is published. "
        "Firmwares send zeros without one, so it has to be said.",
    )

    # ---- gripper on a tool output, unless gripper_type names a controller ----
    tool_output: int = setting(
        0,
        "Index of the tool digital output that works the gripper. The index base depends on the firmware.",
        low=0,
        high=1000,
    )
    output_closes: bool = setting(True, "The output closes the gripper; false for a gripper wired the other way.")
    output_in_status: bool = setting(
        True, "The status shows the tool outputs as they are. False: what was commanded last is taken for the truth."
    )
    output_timeout_s: float = setting(
        1.0,
        "The status still shows another output this long after it was switched: a fault.",
        low=0.001,
        high=600.0,
        unit="s",
    )
    close_below: float = setting(0.4, "Opening, 0 to 1, below which the gripper is closed.", low=0.0, high=1.0)
    open_above: float = setting(
        0.6,
        "Opening above which the gripper is opened; in between it stays, so that a noisy command does not chatter.",
        low=0.0,
        high=1.0,
    )

    def __post_init__(self) -> None:
        check(bool(self.host), "host", self.host, "the address of the controller, e.g. 10.5.5.100")
        check_settings(self)
        self.check_gripper()
        check(
            self.network_timeout_s == 0 or self.network_timeout_s >= 0.05,
            "network_timeout_s",
            self.network_timeout_s,
            "0 (left alone) or 0.05 s and more, six servo cycles",
        )
        check(
            self.filter_factor == 0 or self.filter_factor >= 1.2,
            "filter_factor",
            self.filter_factor,
            "0 (no filter) or 1.2 to 20: the filter must not act on what we command",
        )
        check(
            len(self.payload_centroid_m) == 3 and all(map(math.isfinite, self.payload_centroid_m)),
            "payload_centroid_m",
            self.payload_centroid_m,
            "three finite lengths",
        )
        for first, second in (("unanswered_concern", "unanswered_fault"), ("lag_concern_s", "lag_fault_s")):
            limit = getattr(self, second)
            check(getattr(self, first) < limit, first, getattr(self, first), f"less than {second} ({limit})")
        check(
            self.close_below <= self.open_above,
            "close_below",
            self.close_below,
            f"at most open_above ({self.open_above})",
        )

    def filter_limits(self, limits: JointLimits) -> tuple[float, float, float] | None:
        """(rad/s, rad/s², rad/s³) of the controller's servo filter, one for all joints; None without it.

        ``limits``: what the commands keep. Raises ValueError if they are faster than servo commands can be.
        """
        if not self.filter_factor:
            return None
        fastest = max(limits.velocity_rad_s)
        if fastest > SERVO_MAX_SPEED_RAD_S:
            raise ConfigError(
                f"velocity limits must not exceed {SERVO_MAX_SPEED_RAD_S:.3f} rad/s, above which servo commands have "
                f"no effect, got {fastest}"
            )
        velocity = FILTER_VELOCITY_FACTOR * max(limits.velocity_rad_s)
        acceleration = self.filter_factor * max(limits.acceleration_rad_s2)
        return min(velocity, SERVO_MAX_SPEED_RAD_S), acceleration, self.filter_factor * max(limits.jerk_rad_s3)
