"""Two six-joint arms with parallel grippers, of boxes, under the names that RoboTwin's ``Robot`` has.

Joints are driven by springs (PD) towards targets, as RoboTwin's; gravity does not pull at the arms, which there is
compensated on every step. A gripper's value is 0 closed to 1 open.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from lavla_ros.typing import FloatArray
from sim_bridges.worlds.robotwin.standin.body import Body, Part, Vector
from sim_bridges.worlds.robotwin.standin.kinematics import (
    FOREARM_M,
    HAND_M,
    LIMITS_RAD,
    SHOULDER_M,
    UPPER_ARM_M,
    forward,
    hand_down,
    inverse,
)
from sim_bridges.worlds.robotwin.vulkan import import_sapien

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")
BASES_M: dict[Side, Vector] = {"left": (-0.30, -0.36, 0.74), "right": (0.30, -0.36, 0.74)}
HOME_M: dict[Side, Vector] = {"left": (-0.30, -0.22, 0.92), "right": (0.30, -0.22, 0.92)}
"""Tool points of the hands at the start, pointing down: where they hide nothing from the head camera."""
FINGER_TRAVEL_M = 0.045
"""Way of each finger between closed and open."""
CAMERA_M: Vector = (0.0, 0.11, -0.03)
CAMERA_TILT_RAD = 0.48
"""Wrist camera in the hand's frame, and how far it leans towards the fingertips."""

STIFFNESS, DAMPING, TORQUE_LIMIT_NM = 1000.0, 200.0, 150.0
FINGER_STIFFNESS, FINGER_DAMPING, FINGER_FORCE_LIMIT_N = 1000.0, 30.0, 40.0
FINGER_FRICTION = 1.5

_SHELL: Vector = (0.55, 0.57, 0.60)
_DARK: Vector = (0.07, 0.07, 0.08)
_BAND: dict[Side, Vector] = {"left": (0.55, 0.30, 0.03), "right": (0.10, 0.12, 0.45)}
_AXES = ("z", "-x", "-x", "z", "-x", "z")
_ORIGINS_M: tuple[Vector, ...] = (
    (0.0, 0.0, 0.0),
    (0.0, 0.0, SHOULDER_M),
    (0.0, 0.0, UPPER_ARM_M),
    (0.0, 0.0, FOREARM_M),
    (0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0),
)
# SAPIEN turns and slides joints about and along their frame's x axis: (w, x, y, z) that bring it there.
_X_TO = {"x": (1.0, 0.0, 0.0, 0.0), "-x": (0.0, 0.0, 0.0, 1.0), "z": (math.sqrt(0.5), 0.0, -math.sqrt(0.5), 0.0)}


class Arm:
    """One arm in a scene."""

    def __init__(self, scene: Any, side: Side) -> None:
        self.side = side
        self.base_m = np.array(BASES_M[side])
        sapien = import_sapien()
        builder = scene.create_articulation_builder()
        builder.set_initial_pose(sapien.Pose(BASES_M[side]))
        material = scene.create_physical_material(0.8, 0.8, 0.0)
        grippy = scene.create_physical_material(FINGER_FRICTION, FINGER_FRICTION, 0.0)
        parts = _parts(side)
        group = [1, 1, 1, 1 + SIDES.index(side)]  # an arm's own links do not stop one another

        def link(name: str, parent: Any, mass_kg: float, surface: Any) -> Any:
            made = builder.create_link_builder(parent)
            made.set_name(f"{side}_{name}")
            made.collision_groups = group
            for part in parts[name]:
                if part.solid:
                    made.add_box_collision(sapien.Pose(part.at_m), part.half_size_m, surface)
            inertia = 0.004 * mass_kg
            made.set_mass_and_inertia(mass_kg, sapien.Pose(), (inertia, inertia, inertia))
            return made

        parent = link("base", None, 5.0, material)
        for index in range(6):
            child = link(f"link{index + 1}", parent, 1.0 if index < 5 else 0.5, material)
            child.set_joint_name(f"{side}_joint_{index + 1}")
            turn = _X_TO[_AXES[index]]
            child.set_joint_properties(
                "revolute", [LIMITS_RAD[index]], sapien.Pose(_ORIGINS_M[index], turn), sapien.Pose((0, 0, 0), turn)
            )
            parent = child
        for name, axis in (("finger1", "x"), ("finger2", "-x")):
            finger = link(name, parent, 0.1, grippy)
            finger.set_joint_name(f"{side}_{name}")
            turn = _X_TO[axis]
            finger.set_joint_properties(
                "prismatic", [(0.0, FINGER_TRAVEL_M)], sapien.Pose((0, 0, 0), turn), sapien.Pose((0, 0, 0), turn)
            )
        self._articulation = builder.build(fix_root_link=True)
        self._articulation.set_name(f"{side}_arm")
        self.links = {entity.name.removeprefix(f"{side}_"): entity for entity in self._articulation.get_links()}
        for made_link in self.links.values():
            made_link.set_disable_gravity(True)

        self.joints = [self._articulation.find_joint_by_name(f"{side}_joint_{i + 1}") for i in range(6)]
        self.fingers = [self._articulation.find_joint_by_name(f"{side}_finger{i}") for i in (1, 2)]
        for joint in self.joints:
            joint.set_drive_properties(STIFFNESS, DAMPING, TORQUE_LIMIT_NM)
        for joint in self.fingers:
            joint.set_drive_properties(FINGER_STIFFNESS, FINGER_DAMPING, FINGER_FORCE_LIMIT_N)
        active = self._articulation.get_active_joints()
        self._order = [active.index(joint) for joint in self.joints]
        self._finger_order = [active.index(joint) for joint in self.fingers]
        self.targets = self.solve(np.array(HOME_M[side]), hand_down(0.0))
        """(6,) drive targets, rad."""
        self.gripper = 1.0
        """Drive target, 0 closed to 1 open."""
        positions = np.zeros(len(active))
        positions[self._order] = self.targets
        positions[self._finger_order] = FINGER_TRAVEL_M
        self._articulation.set_qpos(positions)
        self.drive(self.targets, np.zeros(6))
        self.drive_gripper(1.0)
        self.bodies = [Body(parts=parts[name], pose=entity.get_entity_pose) for name, entity in self.links.items()]

    def drive(self, targets: FloatArray, velocities: FloatArray) -> None:
        """Where the joints are to be at the end of the next physics step, rad, and how fast, rad/s."""
        self.targets = targets
        for joint, target, velocity in zip(self.joints, targets.tolist(), velocities.tolist(), strict=True):
            joint.set_drive_target(target)
            joint.set_drive_velocity_target(velocity)

    def drive_gripper(self, value: float) -> None:
        """Likewise for the gripper, 0 to 1; beyond is cut off."""
        self.gripper = min(max(value, 0.0), 1.0)
        for joint in self.fingers:
            joint.set_drive_target(self.gripper * FINGER_TRAVEL_M)

    def positions(self) -> FloatArray:
        """(6,) where the joints are, rad."""
        return np.asarray(self._articulation.get_qpos(), np.float64)[self._order]

    def opening(self) -> float:
        """How far the gripper is open, 0 to 1, measured."""
        return float(self._articulation.get_qpos()[self._finger_order].mean()) / FINGER_TRAVEL_M

    def state(self) -> FloatArray:
        """(16,) positions and velocities of joints and fingers."""
        return np.concatenate([self._articulation.get_qpos(), self._articulation.get_qvel()]).astype(np.float64)

    def solve(self, point_m: FloatArray, hand: FloatArray) -> FloatArray:
        """Joints (6,) in rad for a tool point (3,) and hand axes (3, 3) in the world. Raises OutOfReach."""
        return inverse(point_m - self.base_m, hand)

    def tool(self, joints: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Tool point (3,) and hand axes (3, 3) in the world for joints (6,)."""
        point, hand = forward(joints)
        return point + self.base_m, hand

    def endpose(self) -> list[float]:
        """x, y, z (m), qw, qx, qy, qz of the tool point and the hand's axes, where they are."""
        pose = self.links["link6"].get_entity_pose() * import_sapien().Pose((0, 0, HAND_M))
        return [*map(float, pose.p), *map(float, pose.q)]


class Robot:
    """Both arms, under RoboTwin's names."""

    def __init__(self, scene: Any) -> None:
        self.left, self.right = Arm(scene, "left"), Arm(scene, "right")
        self.left_arm_joints, self.right_arm_joints = self.left.joints, self.right.joints

    @property
    def arms(self) -> tuple[Arm, Arm]:
        return self.left, self.right

    def arm(self, side: Side) -> Arm:
        return self.left if side == "left" else self.right

    def get_left_arm_jointState(self) -> list[float]:  # RoboTwin's name, as below
        """Drive targets: six joints (rad) and the gripper."""
        return [*self.left.targets.tolist(), self.left.gripper]

    def get_right_arm_jointState(self) -> list[float]:
        return [*self.right.targets.tolist(), self.right.gripper]

    def get_left_arm_real_jointState(self) -> list[float]:
        """Where the six joints are (rad), and, as in RoboTwin, the gripper's target."""
        return [*self.left.positions().tolist(), self.left.gripper]

    def get_right_arm_real_jointState(self) -> list[float]:
        return [*self.right.positions().tolist(), self.right.gripper]

    def get_left_gripper_val(self) -> float:
        return self.left.gripper

    def get_right_gripper_val(self) -> float:
        return self.right.gripper

    def is_left_gripper_open(self) -> bool:
        return self.left.gripper > 0.8

    def is_right_gripper_open(self) -> bool:
        return self.right.gripper > 0.8

    def get_left_tcp_pose(self) -> list[float]:
        return self.left.endpose()

    def get_right_tcp_pose(self) -> list[float]:
        return self.right.endpose()


def _parts(side: Side) -> dict[str, tuple[Part, ...]]:
    """Boxes of each link. Shoulder and elbow housings are not solid: they overlap what they turn against."""
    finger = {
        "finger1": Part(half_size_m=(0.009, 0.013, 0.0375), at_m=(0.009, 0.0, 0.1375), colour=_DARK),
        "finger2": Part(half_size_m=(0.009, 0.013, 0.0375), at_m=(-0.009, 0.0, 0.1375), colour=_DARK),
    }
    half_arm, half_forearm = UPPER_ARM_M / 2, FOREARM_M / 2
    return {
        "base": (
            Part(half_size_m=(0.07, 0.07, 0.03), at_m=(0, 0, 0.03), colour=_DARK),
            Part(half_size_m=(0.045, 0.045, 0.03), at_m=(0, 0, 0.09), colour=_SHELL),
        ),
        "link1": (Part(half_size_m=(0.05, 0.045, 0.045), at_m=(0, 0, SHOULDER_M), colour=_SHELL, solid=False),),
        "link2": (
            Part(half_size_m=(0.035, 0.035, half_arm), at_m=(0, 0, half_arm), colour=_SHELL),
            Part(half_size_m=(0.038, 0.038, 0.02), at_m=(0, 0, half_arm), colour=_BAND[side], solid=False),
        ),
        "link3": (
            Part(half_size_m=(0.045, 0.04, 0.04), colour=_DARK, solid=False),
            Part(half_size_m=(0.028, 0.028, half_forearm - 0.02), at_m=(0, 0, half_forearm - 0.02), colour=_SHELL),
        ),
        "link4": (Part(half_size_m=(0.03, 0.03, 0.03), colour=_DARK, solid=False),),
        "link5": (Part(half_size_m=(0.025, 0.025, 0.035), at_m=(0, 0, 0.03), colour=_SHELL, solid=False),),
        "link6": (
            Part(half_size_m=(0.065, 0.024, 0.0175), at_m=(0, 0, 0.0825), colour=_BAND[side]),
            Part(half_size_m=(0.02, 0.01, 0.01), at_m=CAMERA_M, colour=_DARK, solid=False),
        ),
        "finger1": (finger["finger1"],),
        "finger2": (finger["finger2"],),
    }
