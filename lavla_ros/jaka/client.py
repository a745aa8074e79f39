"""Client of the controller: typed commands on port 10001, the status push on port 10000.

Angles in rad and lengths in m, in and out; one thread at a time. How replies, time-outs and lost connections are
dealt with: :mod:`lavla_ros.jaka.connection`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lavla_ros.jaka.codec import JakaProtocolError, encode, finite_numbers
from lavla_ros.jaka.connection import COMMAND_PORT, STATUS_PORT, CommandConnection
from lavla_ros.jaka.dh import DhParameters
from lavla_ros.jaka.limits import JOINTS
from lavla_ros.jaka.status import ArmStatus, StatusStream
from lavla_ros.jaka.units import (
    DEG_PER_RAD,
    deg_to_rad,
    m_to_mm,
    mm_to_m,
    rad_to_deg,
)

# 1e-6 deg is 2e-8 rad: far below the arm's repeatability. A template costs a quarter of json.dumps.
_SERVO_J = '{"cmdName":"servo_j","relFlag":%d,"jointPosition":[%.6f,%.6f,%.6f,%.6f,%.6f,%.6f],"stepNum":%d}'


@dataclass(frozen=True, slots=True, kw_only=True)
class RobotState:
    """Answer to get_robot_state."""

    powered_on: bool
    enabled: bool


class JakaClient(CommandConnection):
    """Typed commands.

    Unless said otherwise every command raises JakaError (refused), JakaTimeoutError or JakaConnectionError (no
    answer; both name host:port) and JakaProtocolError (the peer does not speak the protocol).
    """

    def __init__(
        self,
        host: str,
        port: int = COMMAND_PORT,
        status_port: int | None = STATUS_PORT,
        *,
        connect_timeout_s: float = 3.0,
        reply_timeout_s: float = 2.0,
        post_timeout_s: float = 0.002,
    ) -> None:
        """``status_port`` None: no status stream. ``post_timeout_s`` bounds the ``post_…`` methods."""
        super().__init__(
            host,
            port,
            connect_timeout_s=connect_timeout_s,
            reply_timeout_s=reply_timeout_s,
            post_timeout_s=post_timeout_s,
        )
        self.status_port = status_port
        self._status: StatusStream | None = None

    @property
    def status(self) -> StatusStream | None:
        """The status stream; None before :meth:`connect` or without a status port."""
        return self._status

    @property
    def latest_status(self) -> ArmStatus | None:
        """The newest status push, or None if none arrived yet."""
        return self._status.latest if self._status is not None else None

    def connect(self) -> None:
        """Open the command connection and start the status stream. Nothing is sent yet.

        Raises JakaConnectionError naming host:port and the fix.
        """
        self.open()
        self.watch()

    def watch(self) -> None:
        """Start the status stream alone: nothing is sent on it, and no other client is disturbed."""
        if self._status is None and self.status_port is not None:
            self._status = StatusStream(self.host, self.status_port, connect_timeout_s=self._connect_timeout_s)
            self._status.start()

    def close(self) -> None:
        """Close both connections. Safe to call twice; never raises over a dead connection."""
        self.drop()
        if self._status is not None:
            self._status.stop()
            self._status = None
        self.in_servo_mode = False

    # ---- power and state ----

    def power_on(self) -> None:
        """Switch the arm's power on. Accepted is not done: see :meth:`get_robot_state`."""
        self.request("power_on")

    def enable_robot(self) -> None:
        """Release the brakes. Accepted is not done: see :meth:`get_robot_state`."""
        self.request("enable_robot")

    def get_robot_state(self) -> RobotState:
        """Whether the arm is powered and enabled now."""
        reply = self.request("get_robot_state")
        power = self.field("get_robot_state", reply, "power")
        enable = self.field("get_robot_state", reply, "enable")
        if power not in ("powered_on", "powered_off") or enable not in ("robot_enabled", "robot_disabled"):
            raise JakaProtocolError(
                f"the reply of {self.address} to get_robot_state is not understood: power {power!r}, enable {enable!r}"
            )
        return RobotState(powered_on=power == "powered_on", enabled=enable == "robot_enabled")

    def protective_stop(self) -> bool:
        """Whether the arm is in protective stop."""
        value = self.field("protective_stop_status", self.request("protective_stop_status"), "protective_stop")
        if str(value) not in ("0", "1"):
            raise JakaProtocolError(f"protective_stop of {self.address} is neither '0' nor '1': {value!r}")
        return str(value) == "1"

    def get_dh_param(self) -> DhParameters:
        """The arm's Denavit-Hartenberg parameters."""
        reply = self.request("get_dh_param")
        alpha, a, d, home = (self.numbers("get_dh_param", reply, k) for k in ("alpha", "a", "d", "joint_homeoff"))
        return DhParameters(
            alpha_rad=tuple(map(deg_to_rad, alpha)),
            a_m=tuple(map(mm_to_m, a)),
            d_m=tuple(map(mm_to_m, d)),
            home_offset_rad=tuple(map(deg_to_rad, home)),
        )

    def clear_error(self) -> None:
        """Clear an error, protective stop included. Only ever on a person's request."""
        self.request("clear_error")

    # ---- servo mode ----

    def servo_move(self, enter: bool) -> None:
        """Enter or leave servo mode."""
        self.request("servo_move", {"relFlag": int(enter)})
        self.in_servo_mode = enter

    def is_in_servo_move(self) -> bool:
        """Whether the controller is in servo mode."""
        value = self.field("is_in_servomove", self.request("is_in_servomove"), "in_servomove")
        if value not in (True, False, "true", "false", "True", "False", "0", "1"):
            raise JakaProtocolError(f"in_servomove of {self.address} is no flag: {value!r}")
        return value in (True, "true", "True", "1")

    def set_servo_move_filter(self, limits: tuple[float, float, float] | None) -> None:
        """Let every joint follow servo commands within (rad/s, rad/s², rad/s³) only, or filter nothing.

        The controller's "non-linear filter" (type 2). Refused by the controller in servo mode. ValueError for a limit
        that is not above 0.
        """
        if limits is None:
            self.request("set_servo_move_filter", {"filter_type": 0})
            return
        if not all(math.isfinite(v) and v > 0 for v in limits):
            raise ValueError(f"the limits of the servo filter must be finite and above 0, got {limits}")
        velocity, acceleration, jerk = map(rad_to_deg, limits)
        self.request(
            "set_servo_move_filter",
            {"filter_type": 2, "nlf_max_vr": velocity, "nlf_max_ar": acceleration, "nlf_max_jr": jerk},
        )

    def post_servo_j(self, position_rad: Sequence[float], *, steps: int = 1, relative: bool = False) -> None:
        """Send one servo target to be reached ``steps`` × 8 ms later; does not wait for the reply.

        Raises as :meth:`~lavla_ros.jaka.connection.CommandConnection.post`, and ValueError for a target that is
        not six finite numbers.
        """
        q = [float(v) * DEG_PER_RAD for v in position_rad]
        if len(q) != JOINTS or not all(map(math.isfinite, q)):
            raise ValueError(f"a servo target is {JOINTS} finite numbers (rad), got {list(position_rad)}")
        self.post("servo_j", (_SERVO_J % (relative, *q, steps)).encode("ascii"))

    # ---- settings ----

    def post_tool_output(self, index: int, value: bool) -> None:
        """Set a tool output without waiting for the reply. Raises as :meth:`post`."""
        self.post(
            "set_digital_output",
            encode({"cmdName": "set_digital_output", "type": 1, "index": index, "value": int(value)}),
        )

    def set_payload(self, mass_kg: float, centroid_m: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        """Tell the controller what the arm carries, for its collision detection."""
        self.request("set_payload", {"mass": mass_kg, "centroid": [m_to_mm(v) for v in centroid_m]})

    def get_payload(self) -> tuple[float, tuple[float, float, float]]:
        """Mass (kg) and centre of mass (m) as the controller has them."""
        reply = self.request("get_payload")
        mass, centroid = finite_numbers([reply.get("mass")], 1), finite_numbers(reply.get("centroid"), 3)
        if mass is None or centroid is None:
            raise JakaProtocolError(f"the reply of {self.address} to get_payload is not understood: {reply!r}")
        x, y, z = (mm_to_m(v) for v in centroid)
        return mass[0], (x, y, z)

    def set_collision_sensitivity(self, level: int) -> None:
        """0 off, 1 most sensitive (25 N) to 5 least (125 N)."""
        if not 0 <= level <= 5:
            raise ValueError(f"the collision sensitivity must lie in 0 to 5, got {level}")
        self.request("set_clsn_sensitivity", {"sensitivityVal": level})

    def get_collision_sensitivity(self) -> int:
        """0 off, 1 most sensitive to 5 least, as the controller has it."""
        level = self.field("get_clsn_sensitivity", self.request("get_clsn_sensitivity"), "sensitivityVal")
        if level not in range(6):
            raise JakaProtocolError(f"sensitivityVal of {self.address} is not 0 to 5: {level!r}")
        return int(level)

    def set_network_exception_handle(self, limit_s: float, action: Literal["keep", "pause", "abort"]) -> None:
        """What the controller does when the network is silent for ``limit_s``. Its effect in servo mode is unknown."""
        number = {"keep": 0, "pause": 1, "abort": 2}[action]
        self.request("set_network_exception_handle", {"timeLimit": round(limit_s * 1e3), "motType": number})

    def __enter__(self) -> JakaClient:
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            self.connect()
            stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
