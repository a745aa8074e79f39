"""Options of the ros2_control driver."""

from __future__ import annotations

from dataclasses import dataclass

from lavla_ros.config import check, check_settings, setting
from lavla_ros.control.arm import STILL_RAD
from lavla_ros.control.gripper_options import (
    FORWARD_POSITION,
    JOINT_TRAJECTORY,
    GripperOptions,
    check_full_name,
    command_topic,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ros2ControlOptions(GripperOptions):
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
    gripper_state_topic: str = setting(
        "", "Where the gripper's joint is published, as sensor_msgs/JointState; empty: on state_topic."
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.gripper_state_topic:
            object.__setattr__(self, "gripper_state_topic", self.state_topic)
        for name in ("controller", "state_topic", *(("enabled_topic",) if self.enabled_topic else ())):
            check_full_name(name, getattr(self, name))
        check(len(set(self.joints)) == len(self.joints), "joints", self.joints, "each name once")
        self.check_gripper()

    @property
    def topics(self) -> tuple[str, ...]:
        """What the driver reads and writes, by its full names."""
        arm = (self.state_topic, command_topic(self.controller_type, self.controller))
        return tuple(dict.fromkeys((*arm, *self.gripper_topics)))
