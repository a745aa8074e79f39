"""Faults that the emulator can be told to have, in process or by its ``_emulator`` command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lavla_ros.config import check, check_settings, from_plain, setting

Garble = Literal["", "malformed", "truncated", "oversized", "nameless"]


@dataclass(slots=True)
class Faults:
    """Switches; assign to them at any time. Those called "once" switch themselves off after they took effect."""

    drop_connection: bool = False
    """Close the command connection, once."""
    refuse_connections: bool = False
    """Close every new command connection at once."""
    delay_s: float = setting(0.0, low=0, high=1e9)
    """Delay every reply by this much."""
    split_replies: bool = False
    """Send every reply in three pieces, 2 ms apart."""
    glue_replies: int = setting(0, low=0, high=1e9)
    """Hold replies back until this many can be sent at once (or 50 ms have passed); 0 or 1: off."""
    garble: Garble = ""
    """Spoil the next reply, once: malformed (no JSON), truncated (then the connection closes), oversized (above
    64 KiB), nameless (a stray reply to a command that was not sent comes first)."""
    reject: tuple[str, ...] = ()
    """cmdNames answered with errorCode "2" and not executed; "*": every one."""
    silent: tuple[str, ...] = ()
    """cmdNames executed but never answered; "*": every one."""
    lose_servo_frames: int = setting(0, low=0, high=1e9)
    """Acknowledge this many of the next servo commands, but lose them before they reach the queue."""
    pause_commands_s: float = setting(0.0, low=0, high=1e9)
    """Read nothing from the command connections for so long, once: what is sent meanwhile arrives in a burst."""
    swallow_commands: bool = False
    """Half-open: commands are read and neither carried out nor answered."""
    flood: bool = False
    """Small valid objects that were not asked for, as many as the client takes."""
    servo_mode_lost: bool = False
    """Servo mode ends, once; nothing says so."""
    drag: bool = False
    """Drag mode, switched at the arm: guided by hand. Servo mode ends where it was on."""
    tool_wrench: tuple[float, ...] = (0.0,) * 6
    """What the force sensor at the flange reads: force, N, and torque, Nm (if the controller has one)."""
    manual: bool = False
    """Manual mode, switched at the pendant."""
    hand_speed_rad_s: float = setting(0.0, low=0, high=1e9)
    """In drag mode a person moves joint 1 this fast."""
    measured_offset_rad: float = setting(0.0, low=0, high=1e9)
    """Joint 1 is measured this far from where it is."""
    error_text: str = ""
    """errmsg of the next protective stop, in place of the emulator's own words."""
    reboot_s: float = setting(0.0, low=0, high=1e9)
    """Switch off at once and answer on no port for so long, once; then everything is as after switching on."""
    power_on_fails: bool = False
    """power_on is accepted, but the arm stays without power."""
    enable_fails: bool = False
    """enable_robot is accepted, but the arm stays disabled."""
    protective_stop: bool = False
    """Go into protective stop, once, as after a collision. clear_error recovers."""
    emergency_stop: bool = False
    """The E-stop button: pressed while True. Power must be switched on again after its release."""
    status_stalled: bool = False
    """The status push stops; its connections stay open."""

    def __post_init__(self) -> None:
        check_settings(self)
        check(len(self.tool_wrench) == 6, "tool_wrench", self.tool_wrench, "six numbers: three forces, three torques")

    def update(self, changes: Mapping[str, Any]) -> None:
        """Set switches by name, all or none. Raises ConfigError naming what is unknown or wrong, and what there is."""
        checked = from_plain(Faults, dict(changes), source="fault")
        for name in changes:
            setattr(self, name, getattr(checked, name))

    def as_dict(self) -> dict[str, Any]:
        """Every switch and its value, as JSON holds them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def rejects(self, command: str) -> bool:
        """Whether a command is to be refused."""
        return command in self.reject or "*" in self.reject

    def silences(self, command: str) -> bool:
        """Whether a command is to stay without an answer."""
        return command in self.silent or "*" in self.silent
