"""Options of the ros2_control driver."""

from __future__ import annotations

from dataclasses import dataclass

from lavla_ros.config import check, check_settings, setting
from lavla_ros.control.arm import STILL_RAD

JOINT_TRAJECTORY, FORWARD_POSITION, NONE = "joint_trajectory", "forward_position", "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ros2ControlOptions:
    """Which controllers move arm and gripper, and where their state is found. Raises ConfigError."""

    controller: str = setting(
        "/joint_trajectory_controller",
        "Controller that moves the arm, with its namespace: as ros2 control list_controllers names it.",
    )
    controller_type: str = setting(
        JOINT_TRAJECTORY,
        "joint_trajectory: trajectories of one point on CONTROLLER/joint_trajectory; forward_position: "
        "positions on CONTROLLER/commands.",
        choices=(JOINT_TRAJECTORY, FORWARD_POSITION),
    )
    joints: tuple[str, ...] = setting(
        (), "Names that controller and state_topic have for the arm's joints, in the arm's order; empty: the arm's own."
    )
    state_topic: str = setting("/joint_states", "Where joint_state_broadcaster publishes the measured positions.")
    state_timeout_s: float = setting(
        0.2, "A measured position older than this is a fault.", low=0.01, high=10.0, unit="s"
    )
    arrival_stamps: bool = setting(
        False, "A measured position is as old as its arrival says, not as its stamp: for a clock that is not ours."
    )
    connect_timeout_s: float = setting(
        5.0, "Longest time until state and controller are found.", low=0.1, high=600.0, unit="s"
    )
    reach_periods: float = setting(
        2.0,
        "Time that a joint_trajectory_controller is given to reach a command, in servo periods: 1 follows at once, "
        "more evens out messages that come unevenly, at the cost of as much delay.",
        low=1.0,
        high=25.0,
    )
    still_rad: float = setting(
        STILL_RAD, "An arm whose joints change by less within 0.1 s stands still.", low=1e-6, high=1.0, unit="rad"
    )
    enabled_topic: str = setting(
        "",
        "Topic (std_msgs/Bool) that says whether the arm obeys, like a UR's "
        "/io_and_status_controller/robot_program_running. Empty: an arm whose state arrives counts as enabled.",
    )
    gripper_type: str = setting(
        NONE,
        "joint_trajectory or forward_position, as controller_type, for a gripper that has a controller of its own.",
        choices=(NONE, JOINT_TRAJECTORY, FORWARD_POSITION),
    )
    gripper_controller: str = setting("/gripper_controller", "Controller that moves the gripper, with its namespace.")
    gripper_joint: str = setting("", "The gripper's joint, as its controller and state_topic name it.")
    gripper_open: float = setting(0.0, "Position of the gripper's joint if it is open, rad or m.")
    gripper_closed: float = setting(0.0, "Position of the gripper's joint if it is closed, rad or m.")
    gripper_time_s: float = setting(
        0.5, "Time that the gripper's joint_trajectory_controller is given.", low=0.01, high=60.0, unit="s"
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("controller", "state_topic", "enabled_topic", "gripper_controller"):
            value = getattr(self, name)
            check(
                value.startswith("/") or (name == "enabled_topic" and not value),
                name,
                value,
                "a full name, with a slash before it: the driver runs in no namespace",
            )
        check(len(set(self.joints)) == len(self.joints), "joints", self.joints, "each name once")
        if self.gripper_type != NONE:
            check(bool(self.gripper_joint), "gripper_joint", self.gripper_joint, "the joint of the gripper")
            check(
                self.gripper_open != self.gripper_closed,
                "gripper_closed",
                self.gripper_closed,
                f"another position than gripper_open ({self.gripper_open})",
            )
            check(
                self.gripper_joint not in self.joints,
                "gripper_joint",
                self.gripper_joint,
                "a joint that is not the arm's",
            )

    @property
    def topics(self) -> tuple[str, ...]:
        """What the driver reads and writes, by its full names."""
        commands = [_command_topic(self.controller_type, self.controller)]
        if self.gripper_type != NONE:
            commands.append(_command_topic(self.gripper_type, self.gripper_controller))
        return (self.state_topic, *commands)


def _command_topic(kind: str, controller: str) -> str:
    return f"{controller}/{'joint_trajectory' if kind == JOINT_TRAJECTORY else 'commands'}"
