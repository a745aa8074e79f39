"""A client that sends the commands of the vendor's protocol that the driver does not need: the emulator answers all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavla_ros.jaka.client import JakaClient
from lavla_ros.jaka.limits import JOINTS
from lavla_ros.jaka.units import (
    joints_to_deg,
    joints_to_rad,
    m_to_mm,
    pose_from_wire,
    pose_to_wire,
    rad_to_deg,
)


class EveryCommand(JakaClient):
    """Errors as those of JakaClient."""

    def power_off(self) -> None:
        """Switch the arm's power off."""
        self.request("power_off")

    def disable_robot(self) -> None:
        """Close the brakes."""
        self.request("disable_robot")

    def joint_move(
        self, position_rad: ArrayLike, *, speed_rad_s: float, acceleration_rad_s2: float, relative: bool = False
    ) -> None:
        """Queue a joint motion; returns when it is accepted, not when it is done."""
        self.request(
            "joint_move",
            {
                "relFlag": int(relative),
                "jointPosition": joints_to_deg(_six(position_rad)),
                "speed": rad_to_deg(speed_rad_s),
                "accel": rad_to_deg(acceleration_rad_s2),
            },
        )

    def end_move(self, pose_44: NDArray[np.float64], *, speed_rad_s: float, acceleration_rad_s2: float) -> None:
        """Queue a joint motion to a flange pose (4, 4), m; the controller solves the inverse kinematics."""
        self.request(
            "end_move",
            {
                "endPosition": pose_to_wire(pose_44),
                "speed": rad_to_deg(speed_rad_s),
                "accel": rad_to_deg(acceleration_rad_s2),
            },
        )

    def move_linear(
        self,
        pose_44: NDArray[np.float64],
        *,
        speed_m_s: float,
        acceleration_m_s2: float,
        tolerance_m: float = 0.0,
        relative: bool = False,
    ) -> None:
        """Queue a straight motion of the flange (moveL). ``relative``: offset in the base frame."""
        self.request(
            "moveL",
            {
                "relFlag": int(relative),
                "cartPosition": pose_to_wire(pose_44),
                "speed": m_to_mm(speed_m_s),
                "accel": m_to_mm(acceleration_m_s2),
                "tol": m_to_mm(tolerance_m),
            },
        )

    def stop_program(self) -> None:
        """Stop a program or a queued motion."""
        self.request("stop_program")

    def rapid_rate(self, fraction: float) -> None:
        """Scale the speed of planned motions, 0 to 1. Servo commands are not scaled."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"the rapid rate must lie in 0 to 1, got {fraction}")
        self.request("rapid_rate", {"rate_value": fraction})

    def servo_j(self, position_rad: Sequence[float], *, steps: int = 1, relative: bool = False) -> None:
        """One servo target, waiting for the reply. For tools; a servo loop uses :meth:`post_servo_j`."""
        self.request(
            "servo_j",
            {"relFlag": int(relative), "jointPosition": joints_to_deg(_six(position_rad)), "stepNum": steps},
        )

    def servo_p(self, pose_44: NDArray[np.float64], *, steps: int = 1, relative: bool = False) -> None:
        """One Cartesian servo target (flange pose (4, 4), m), waiting for the reply."""
        # The misspelt key is the vendor's.
        self.request("servo_p", {"catPosition": pose_to_wire(pose_44), "relFlag": int(relative), "stepNum": steps})

    def get_joint_position(self) -> NDArray[np.float64]:
        """Joint positions (6,), rad."""
        return joints_to_rad(self.numbers("get_joint_pos", self.request("get_joint_pos"), "joint_pos"))

    def get_tcp_pose(self) -> NDArray[np.float64]:
        """Flange pose (4, 4), m."""
        return pose_from_wire(self.numbers("get_tcp_pos", self.request("get_tcp_pos"), "tcp_pos"))

    def kine_forward(self, position_rad: ArrayLike) -> NDArray[np.float64]:
        """The controller's forward kinematics: (6,) rad → (4, 4) m."""
        reply = self.request("kine_forward", {"jointPosition": joints_to_deg(_six(position_rad))})
        return pose_from_wire(self.numbers("kine_forward", reply, "cartPosition"))

    def kine_inverse(self, pose_44: NDArray[np.float64], reference_rad: ArrayLike) -> NDArray[np.float64]:
        """The controller's inverse kinematics near a reference position: (4, 4) m → (6,) rad."""
        reply = self.request(
            "kine_inverse",
            {"jointPosition": joints_to_deg(_six(reference_rad)), "cartPosition": pose_to_wire(pose_44)},
        )
        return joints_to_rad(self.numbers("kine_inverse", reply, "jointPosition"))

    def set_digital_output(self, kind: Literal["cabinet", "tool", "extension"], index: int, value: bool) -> None:
        """Set a digital output. The index base depends on the firmware: see the driver's parameter."""
        number = {"cabinet": 0, "tool": 1, "extension": 2}[kind]
        self.request("set_digital_output", {"type": number, "index": index, "value": int(value)})


def _six(position_rad: ArrayLike) -> NDArray[np.float64]:
    q = np.asarray(position_rad, dtype=np.float64)
    if q.shape != (JOINTS,) or not np.isfinite(q).all():
        raise ValueError(f"joint positions must be {JOINTS} finite numbers (rad), got {position_rad!r}")
    return q
