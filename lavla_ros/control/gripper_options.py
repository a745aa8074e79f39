"""Options of a gripper that a ros2_control controller moves, whatever moves the arm."""

from __future__ import annotations

from dataclasses import dataclass

from lavla_ros.config import check, setting

JOINT_TRAJECTORY, FORWARD_POSITION, NONE = "joint_trajectory", "forward_position", "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class GripperOptions:
    """To be extended by the options of a driver; :mod:`lavla_ros.ros.gripper` is the gripper itself."""

    gripper_type: str = setting(
        NONE,
        "joint_trajectory (trajectories of one point on CONTROLLER/joint_trajectory) or forward_position (positions on "
        "CONTROLLER/commands), for a gripper that has a controller of its own; none: it has none.",
        choices=(NONE, JOINT_TRAJECTORY, FORWARD_POSITION),
    )
    gripper_controller: str = setting("/gripper_controller", "Controller that moves the gripper, with its namespace.")
    gripper_joint: str = setting("", "The gripper's joint, as its controller and its states name it.")
    gripper_state_topic: str = setting("", "Where the gripper's joint is published, as sensor_msgs/JointState.")
    gripper_open: float = setting(0.0, "Position of the gripper's joint if it is open, rad or m.")
    gripper_closed: float = setting(0.0, "Position of the gripper's joint if it is closed, rad or m.")
    gripper_time_s: float = setting(
        0.5, "Time that the gripper's joint_trajectory_controller is given.", low=0.01, high=60.0, unit="s"
    )

    @property
    def has_gripper(self) -> bool:
        """Whether a controller moves the gripper."""
        return self.gripper_type != NONE

    @property
    def gripper_topics(self) -> tuple[str, ...]:
        """What is read and written for the gripper, by its full names; empty without a controller."""
        if not self.has_gripper:
            return ()
        return (self.gripper_state_topic, command_topic(self.gripper_type, self.gripper_controller))

    def check_gripper(self) -> None:
        """Raise ConfigError for values that contradict one another."""
        if not self.has_gripper:
            return
        for name in ("gripper_controller", "gripper_state_topic"):
            check_full_name(name, getattr(self, name))
        check(bool(self.gripper_joint), "gripper_joint", self.gripper_joint, "the joint of the gripper")
        check(
            self.gripper_open != self.gripper_closed,
            "gripper_closed",
            self.gripper_closed,
            f"another position than gripper_open ({self.gripper_open})",
        )


def check_full_name(option: str, name: str) -> None:
    """Raise ConfigError for a name that would need a namespace."""
    wanted = "a full name, with a slash before it: the driver runs in no namespace"
    check(name.startswith("/"), option, name, wanted)


def command_topic(kind: str, controller: str) -> str:
    """Where a controller of this type takes its commands."""
    return f"{controller}/{'joint_trajectory' if kind == JOINT_TRAJECTORY else 'commands'}"
