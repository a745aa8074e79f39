"""The MiniCobo and its gripper as MuJoCo bodies, built from the published joint frames.

Kinematics and link masses: ``jaka_description/urdf/jaka_minicobo.urdf`` and the hardware manual, through
``config/arms/jaka_minicobo.yaml``. The shapes are our own cylinders and boxes, no vendor meshes. World and
robot base coincide; at the home pose the tool is over the workspace in front of the arm, towards ``-x``.

Joints are driven like an industrial servo: a stiff position loop plus a velocity loop that is fed the
target's velocity (no lag behind a smooth target) and gravity compensation of the arm's own weight.
"""

from __future__ import annotations

import math

import mujoco
import numpy as np

from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.jaka.limits import JOINT_NAMES

LINK_MASSES_KG = (0.762, 3.157, 1.014, 2.018, 0.412, 1.679, 0.312)
"""Base and links 1 to 6 (vendor's URDF)."""

TOOL_LENGTH_M = 0.140
"""Flange to the grasp point between the finger pads, along the flange's z."""
FINGER_TRAVEL_M = 0.040
"""Each finger moves this far from closed to open: 80 mm between the pads when open."""
FINGERTIP_BELOW_GRASP_M = 0.012
"""The fingertips reach this far beyond the grasp point."""

# Contacts are wanted between robot and world, never within the robot: a geom pair collides when the
# contype of one meets the conaffinity of the other.
WORLD_BITS = {"contype": 1, "conaffinity": 3}
ROBOT_BITS = {"contype": 2, "conaffinity": 1}
NO_CONTACT = {"contype": 0, "conaffinity": 0}

WHITE = (0.93, 0.94, 0.95, 1.0)
BLUE_GREY = (0.30, 0.40, 0.53, 1.0)
DARK = (0.13, 0.14, 0.16, 1.0)
STEEL = (0.62, 0.65, 0.68, 1.0)
PAD = (0.20, 0.21, 0.23, 1.0)

_KP = (9000.0, 9000.0, 6000.0, 2500.0, 2500.0, 1500.0)
_ARMATURE = (0.60, 0.60, 0.40, 0.15, 0.15, 0.08)
"""Rotor inertia seen through the gear (kg m²). It dominates the links', as in real harmonic drives, so
that one pair of gains fits every pose."""
_LINK_INERTIA_GUESS = (0.45, 0.45, 0.15, 0.01, 0.03, 0.002)


def _quat(rotation_33: np.ndarray) -> np.ndarray:
    """Quaternion (4,), w first, of a rotation (3, 3)."""
    out = np.zeros(4)
    mujoco.mju_mat2Quat(out, np.ascontiguousarray(rotation_33).reshape(9))
    return out


def _cylinder(
    body: mujoco.MjsBody,
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radius: float,
    rgba: tuple[float, ...],
    *,
    mass: float = 0.0,
    collide: bool = False,
    capsule: bool = False,
) -> None:
    kind = mujoco.mjtGeom.mjGEOM_CAPSULE if capsule else mujoco.mjtGeom.mjGEOM_CYLINDER
    bits = ROBOT_BITS if collide else NO_CONTACT
    body.add_geom(type=kind, fromto=[*start, *end], size=[radius, 0, 0], rgba=list(rgba), mass=mass, **bits)


def _box(
    body: mujoco.MjsBody,
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    rgba: tuple[float, ...],
    *,
    mass: float = 0.0,
    collide: bool = False,
    **extra: object,
) -> None:
    bits = ROBOT_BITS if collide else NO_CONTACT
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, pos=list(centre), size=list(half), rgba=list(rgba), mass=mass, **bits, **extra
    )


def add_robot(spec: mujoco.MjSpec, *, table_z_m: float) -> None:
    """Add plinth, arm, gripper, wrist camera and actuators to ``spec``."""
    world = spec.worldbody
    base = world.add_body(name="base_link")
    _cylinder(base, (0, 0, table_z_m), (0, 0, 0), 0.075, DARK, collide=True)
    _cylinder(base, (0, 0, 0), (0, 0, 0.018), 0.066, BLUE_GREY)
    _cylinder(base, (0, 0, 0.018), (0, 0, 0.105), 0.052, WHITE, mass=LINK_MASSES_KG[0], collide=True)

    bodies: list[mujoco.MjsBody] = []
    parent = base
    assert MINICOBO.chain is not None
    for index, (name, frame) in enumerate(zip(JOINT_NAMES, MINICOBO.chain.fixed_J44(), strict=True)):
        body = parent.add_body(name=f"link_{index + 1}", pos=frame[:3, 3], quat=_quat(frame[:3, :3]), gravcomp=1.0)
        body.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=[0, 0, 1],
            limited=True,
            range=[MINICOBO.limits.lower_rad[index], MINICOBO.limits.upper_rad[index]],
            armature=_ARMATURE[index],
        )
        bodies.append(body)
        parent = body
        inertia = _ARMATURE[index] + _LINK_INERTIA_GUESS[index]
        kp, kv = _KP[index], 2.0 * 0.9 * math.sqrt(_KP[index] * inertia)
        position = spec.add_actuator(name=f"{name}_position", trntype=mujoco.mjtTrn.mjTRN_JOINT, target=name)
        position.set_to_position(kp=kp)
        velocity = spec.add_actuator(name=f"{name}_velocity", trntype=mujoco.mjtTrn.mjTRN_JOINT, target=name)
        velocity.set_to_velocity(kv=kv)
    _shape_links(bodies)
    _add_gripper(spec, bodies[5])


def _shape_links(links: list[mujoco.MjsBody]) -> None:
    one, two, three, four, five, six = links
    # Shoulder: a vertical drum that carries the housing of joint 2 (whose axis is -y here).
    _cylinder(one, (0, 0, -0.080), (0, 0, -0.045), 0.055, BLUE_GREY)
    _cylinder(one, (0, 0, -0.045), (0, 0, 0.0), 0.050, WHITE)
    _cylinder(one, (0, 0.052, 0), (0, -0.046, 0), 0.048, WHITE, mass=LINK_MASSES_KG[1])
    _cylinder(one, (0, 0.062, 0), (0, 0.052, 0), 0.044, BLUE_GREY)
    # Upper arm, beside the shoulder; x runs along it.
    _cylinder(two, (0, 0, 0.040), (0, 0, 0.110), 0.047, WHITE)
    _cylinder(two, (0, 0, 0.110), (0, 0, 0.120), 0.043, BLUE_GREY)
    _cylinder(two, (0, 0, 0.078), (0.21, 0, 0.078), 0.035, WHITE, mass=LINK_MASSES_KG[2], collide=True)
    _cylinder(two, (0.21, 0, 0.044), (0.21, 0, 0.108), 0.042, WHITE)
    _cylinder(two, (0.21, 0, 0.108), (0.21, 0, 0.118), 0.038, BLUE_GREY)
    # Elbow and forearm; y runs along it.
    _cylinder(three, (0, 0, 0.044), (0, 0, -0.036), 0.042, WHITE)
    _cylinder(three, (0, 0, -0.036), (0, 0, -0.046), 0.038, BLUE_GREY)
    _cylinder(three, (0, 0, 0), (0, 0.135, 0), 0.033, WHITE, mass=LINK_MASSES_KG[3], collide=True)
    _cylinder(three, (0, 0.135, 0), (0, 0.145, 0), 0.0335, BLUE_GREY)
    # Wrist: joint 4 turns about the forearm, joint 5 across it, joint 6 about the flange's normal.
    _cylinder(four, (0, 0, -0.0655), (0, 0, 0.0), 0.032, WHITE, mass=LINK_MASSES_KG[4])
    _cylinder(four, (0, -0.036, 0), (0, 0.036, 0), 0.034, WHITE)
    _cylinder(four, (0, 0.036, 0), (0, 0.043, 0), 0.030, BLUE_GREY)
    _cylinder(four, (0, -0.043, 0), (0, -0.036, 0), 0.030, BLUE_GREY)
    _cylinder(five, (0, 0.030, 0), (0, 0.118, 0), 0.031, WHITE, mass=LINK_MASSES_KG[5], collide=True)
    _cylinder(five, (0, 0.118, 0), (0, 0.126, 0), 0.0315, BLUE_GREY)
    _cylinder(six, (0, 0, -0.0333), (0, 0, -0.006), 0.030, WHITE, mass=LINK_MASSES_KG[6])
    _cylinder(six, (0, 0, -0.006), (0, 0, 0), 0.0315, STEEL)


def _add_gripper(spec: mujoco.MjSpec, flange: mujoco.MjsBody) -> None:
    """Two fingers that slide along the flange's y, coupled, driven by one force-limited actuator."""
    hand = flange.add_body(name="gripper", gravcomp=1.0)
    _cylinder(hand, (0, 0, 0), (0, 0, 0.012), 0.034, DARK, mass=0.05)
    _box(hand, (0, 0, 0.040), (0.026, 0.038, 0.028), BLUE_GREY, mass=0.25, collide=True)
    _box(hand, (0, 0, 0.072), (0.015, 0.060, 0.006), DARK, mass=0.05, collide=True)
    # The camera looks from the base's side between the fingers.
    _box(hand, (-0.050, 0, 0.030), (0.030, 0.008, 0.005), DARK)
    _box(hand, (-0.086, 0, 0.030), (0.010, 0.024, 0.012), DARK)
    _cylinder(hand, (-0.086, 0, 0.042), (-0.084, 0, 0.047), 0.008, STEEL)
    eye, target = np.array([-0.086, 0.0, 0.048]), np.array([0.000, 0.0, TOOL_LENGTH_M + 0.005])
    hand.add_camera(name="wrist", pos=eye, quat=look_at_quat(eye, target, up=np.array([1.0, 0.0, 0.0])), fovy=75)

    length = TOOL_LENGTH_M + FINGERTIP_BELOW_GRASP_M - 0.078
    for side, sign in (("left", 1.0), ("right", -1.0)):
        finger = hand.add_body(name=f"finger_{side}", pos=[0, 0, 0.078], gravcomp=1.0)
        finger.add_joint(
            name=f"finger_{side}",
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, sign, 0],
            limited=True,
            range=[0, FINGER_TRAVEL_M],
            armature=0.10,
            damping=2.0,
        )
        _box(finger, (0, sign * 0.0095, 0.004), (0.013, 0.0095, 0.006), STEEL, mass=0.02)
        _box(finger, (0, sign * 0.0070, length / 2 - 0.004), (0.009, 0.003, length / 2 - 0.004), STEEL, mass=0.02)
        pad_half = 0.018
        _box(
            finger,
            (0, sign * 0.0045, length - pad_half),
            (0.010, 0.0045, pad_half),
            PAD,
            mass=0.01,
            collide=True,
            name=f"pad_{side}",
            friction=[1.6, 0.05, 0.001],
            condim=4,
            priority=1,
            solimp=[0.98, 0.998, 0.0005, 0.5, 2],
            solref=[0.008, 1.0],
        )
    coupling = spec.add_equality(
        name="finger_coupling",
        type=mujoco.mjtEq.mjEQ_JOINT,
        name1="finger_left",
        name2="finger_right",
        objtype=mujoco.mjtObj.mjOBJ_JOINT,
    )
    coupling.data[:5] = [0, 1, 0, 0, 0]
    coupling.solref = [0.01, 1.0]
    for side in ("left", "right"):
        actuator = spec.add_actuator(
            name=f"finger_{side}_position",
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            target=f"finger_{side}",
            forcelimited=True,
            forcerange=[-16.0, 16.0],
        )
        actuator.set_to_position(kp=1500.0, kv=60.0)
    hand.add_site(name="grasp", pos=[0, 0, TOOL_LENGTH_M], size=[0.003, 0.003, 0.003], rgba=[0, 0, 0, 0])


def look_at_quat(eye: np.ndarray, target: np.ndarray, *, up: np.ndarray) -> np.ndarray:
    """Quaternion (w, x, y, z) of a MuJoCo camera (looks along its -z, y up) at ``eye`` towards ``target``."""
    backward = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross(up, backward)
    right /= np.linalg.norm(right)
    return _quat(np.column_stack([right, np.cross(backward, right), backward]))
