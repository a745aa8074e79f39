"""Every parameter of the JAKA driver, described once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from lavla_ros.control.arm import JointLimits
from lavla_ros.jaka.connection import COMMAND_PORT, STATUS_PORT
from lavla_ros.jaka.limits import SERVO_MAX_SPEED_RAD_S

FILTER_VELOCITY_FACTOR = 1.2
"""Faster than the limit is only an arm that catches up after a gap in the commands: it is not to race."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JakaDriverConfig:
    """Where the controller is, how it is set up, and when the stream of commands counts as troubled."""

    host: str
    """Address of the controller; 10.5.5.100 as delivered."""
    port: int = COMMAND_PORT
    status_port: int = STATUS_PORT
    connect_timeout_s: float = 3.0
    reply_timeout_s: float = 2.0
    power_timeout_s: float = 20.0
    """Longest time from power_on to powered_on, and from enable_robot to robot_enabled."""
    command_timeout_s: float = 0.002
    """Longest time that one servo command may block."""
    power_on: bool = False
    """Connecting also powers on and enables the arm. Otherwise a person does that, at the pendant or by a request."""
    accept_manual_mode: bool = False
    """Enter servo mode also where the status says manual mode, for controllers that take servo commands in it."""

    # ---- set in the controller before servo mode ----
    filter_factor: float = 2.0
    """The controller's servo filter bounds acceleration and jerk at this factor times the largest limit, and
    velocity at 1.2 times: it leaves alone what we command, and rounds off what should never arrive. 0: none."""
    network_timeout_s: float = 0.2
    """The controller aborts the motion where the network is silent for this long. 0: left as it is set there."""
    collision_sensitivity: int = 1
    """1 most sensitive (25 N) to 5 least (125 N). There is no value for "off"."""
    payload_kg: float | None = None
    """Mass of tool and load for the controller's collision detection. None: left as it is set at the pendant."""
    payload_centroid_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Its centre of mass in the flange frame."""

    # ---- supervision: the first sign of trouble is a concern, the second a fault ----
    status_timeout_s: float = 0.5
    """Age at which the status push counts as stale: a fault. At half of it: a concern."""
    still_rad: float = 0.002
    """An arm whose joints change by less within 0.1 s stands still."""
    entry_error_rad: float = 0.02
    """Servo mode is refused where the controller's own command is further from the arm: a first command more than
    0.025 rad away has no effect."""
    unanswered_concern: int = 6
    """So many servo commands without a reply are a concern …"""
    unanswered_fault: int = 24
    """… and so many a fault."""
    refused_fault: int = 3
    """One refused servo command is a concern; so many within ``window_s`` are a fault."""
    window_s: float = 1.0
    """How long a refusal counts."""
    lag_concern_s: float = 0.1
    """The controller carries out commands so long after they were sent: a concern. From the commanded position in the
    status; the arm needs 0.02 to 0.03 s where all is well."""
    lag_fault_s: float = 0.25
    """The same: a fault."""
    measured_lag_factor: float = 3.0
    """Where the status has no commanded position, the measured one is compared: these times so many."""
    path_error_rad: float = 0.02
    """The controller's commanded position further than this from every command of the last second: commands have no
    effect, a concern; a fault where it lasts twice ``lag_fault_s``."""

    # ---- gripper ----
    tool_output: int = 0
    """Index of the tool digital output that closes the gripper. The index base depends on the firmware."""
    output_closes: bool = True
    """Output on = gripper closed. False for a gripper wired the other way."""
    output_in_status: bool = True
    """The status shows the tool outputs as they are. False: what was commanded last is taken for the truth."""
    output_timeout_s: float = 1.0
    """The status still shows another output so long after it was switched: a fault."""
    close_below: float = 0.4
    """The output closes the gripper below this opening …"""
    open_above: float = 0.6
    """… and opens it above this one; in between it stays, so that a noisy command does not chatter."""

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("host must name the controller, e.g. 10.5.5.100")
        for name in ("port", "status_port"):
            if not 1 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name} must lie in 1 to 65535, got {getattr(self, name)}")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name.endswith(("_s", "_rad")) and f.name != "network_timeout_s":
                _check(_finite(value) and value > 0, f.name, value, "above 0")
        _check(
            self.network_timeout_s == 0 or self.network_timeout_s >= 0.05,
            "network_timeout_s",
            self.network_timeout_s,
            "0 (left alone) or 0.05 s and more, six servo cycles",
        )
        _check(
            self.filter_factor == 0 or 1.2 <= self.filter_factor <= 20,
            "filter_factor",
            self.filter_factor,
            "0 (no filter) or 1.2 to 20: the filter must not act on what we command",
        )
        _check(
            self.collision_sensitivity in range(1, 6),
            "collision_sensitivity",
            self.collision_sensitivity,
            "1 (most sensitive) to 5; collision detection is never switched off here",
        )
        if self.payload_kg is not None:
            _check(_finite(self.payload_kg) and 0 <= self.payload_kg <= 50, "payload_kg", self.payload_kg, "0 to 50")
        # A list comes from YAML.
        object.__setattr__(self, "payload_centroid_m", tuple(self.payload_centroid_m))
        _check(
            len(self.payload_centroid_m) == 3 and all(map(_finite, self.payload_centroid_m)),
            "payload_centroid_m",
            self.payload_centroid_m,
            "three finite lengths",
        )
        _check(self.refused_fault >= 2, "refused_fault", self.refused_fault, "2 or more")
        _check(1 <= self.measured_lag_factor < 20, "measured_lag_factor", self.measured_lag_factor, "1 to 20")
        for first, second in (("unanswered_concern", "unanswered_fault"), ("lag_concern_s", "lag_fault_s")):
            if not 0 < getattr(self, first) < getattr(self, second):
                raise ValueError(
                    f"{first} ({getattr(self, first)}) must be above 0 and below {second} ({getattr(self, second)})"
                )
        if not 0.0 <= self.close_below <= self.open_above <= 1.0:
            raise ValueError(
                f"close_below ({self.close_below}) and open_above ({self.open_above}) must satisfy "
                "0 <= close_below <= open_above <= 1"
            )
        _check(self.tool_output >= 0, "tool_output", self.tool_output, "0 or more")

    def filter_limits(self, limits: JointLimits) -> tuple[float, float, float] | None:
        """(rad/s, rad/s², rad/s³) of the controller's servo filter, one for all joints; None without it.

        ``limits``: what the commands keep. Raises ValueError if they are faster than servo commands can be.
        """
        if not self.filter_factor:
            return None
        fastest = max(limits.velocity_rad_s)
        if fastest > SERVO_MAX_SPEED_RAD_S:
            raise ValueError(
                f"velocity limits must not exceed {SERVO_MAX_SPEED_RAD_S:.3f} rad/s, above which servo commands have "
                f"no effect, got {fastest}"
            )
        velocity = FILTER_VELOCITY_FACTOR * max(limits.velocity_rad_s)
        acceleration = self.filter_factor * max(limits.acceleration_rad_s2)
        return min(velocity, SERVO_MAX_SPEED_RAD_S), acceleration, self.filter_factor * max(limits.jerk_rad_s3)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"{name} must be {expected}, got {value}")
