"""A person's wish → chunks of the contract's action space, each of which ends at rest.

The person steers a reference: a pose of the tool (or joints) that goes on from chunk to chunk with its velocity and
acceleration, so that a held stick is a steady motion however short the chunks are. Every chunk holds where the
reference goes if the wish stays as it is for ``LOOK_S``, and then its way to rest; it is sent only if the arm can
follow all of it, within its joints' limits. Where it cannot, the wish is slowed down, and at last the way to rest of
the chunk before is followed. So no posture is entered that the arm could not come to rest in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from ruckig import ControlInterface, InputParameter, Result, Ruckig, Trajectory

from lavla_ros.config import check
from lavla_ros.contract import ActionChunk, Contract
from lavla_ros.control.arm import KinematicsError
from lavla_ros.control.config import ExecutorConfig
from lavla_ros.control.kinematics import rotation_vector
from lavla_ros.control.rotations import orthonormal, rotation_from_vector, rpy_from_rotation
from lavla_ros.teleop.config import TWIST, TeleopOptions
from lavla_ros.teleop.operator import Wish
from lavla_ros.typing import FloatArray

LOOK_S = 0.2
"""A chunk's motion goes on for this long before it comes to rest: later chunks must not be later than that."""
SLOWER = (1.0, 0.7, 0.45, 0.25, 0.1, 0.0)
"""Parts of the wish that are tried, until the arm can follow."""
JOINT_SHARE = 0.8
"""Of a joint's speed limit, which a wish may use; the executor needs the rest to catch up."""
LIMIT_MARGIN_RAD = 0.02
"""Room that a wish leaves to the position limits."""
STEP_S = 0.05
"""A turning tool's way is put together from pieces of at most this."""
GENTLEST = 0.2
"""Part of the acceleration that is left if the joints' limits ask for less."""
RELEASED_LEAD_RAD = 0.02
"""How far ahead of the arm the reference may be when it comes to rest: more than the executor ever needs."""
STILL = 1e-3
"""A reference slower than this, m/s and rad/s, stands."""
FOLLOW_S = 0.15
"""What follows a leader's joint, or a hand, closes its distance in about this time, if its speed allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmMotion:
    """The commanded motion of the arm at a time, joints in the order of ``ExecutorConfig.joint_names``."""

    at_ns: int
    position_rad: FloatArray
    velocity_rad_s: FloatArray
    gripper_open: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """How the reference goes on, from ``start_ns`` until it is at rest."""

    start_ns: int
    start: FloatArray
    """Pose (4, 4), or joints (J,)."""
    seed_rad: FloatArray
    """Joints (J,) at the start."""
    state: Callable[[float], tuple[FloatArray, FloatArray, FloatArray]]
    """Seconds after the start → way gone since then (the integral of the velocity), velocity and acceleration, in
    ``frame``."""
    rest_s: float
    frame: str


class Motion:
    """Makes the chunks of one arm and contract. Not thread-safe."""

    def __init__(
        self, contract: Contract, config: ExecutorConfig, options: TeleopOptions, moves: tuple[str, ...]
    ) -> None:
        """``moves``: TWIST, or the arm's joints (:attr:`Operator.moves`). Raises ConfigError if the contract's commands
        cannot be made of such a wish."""
        self._contract, self._config, self._options = contract, config, options
        self._tool = moves == TWIST
        self._kinematics = kinematics = config.kinematics
        in_space = contract.action.space == "end_effector"
        if kinematics is None and (self._tool or in_space):
            what = "a device that moves the tool" if self._tool else "a contract that commands the end effector"
            check(
                False,
                f"{what} with the robot {contract.robot!r} of contract {contract.name!r}",
                "an arm without kinematics",
                "joints (a mapping that moves joint names and a contract in joint space), or an arm whose file gives "
                "its geometry",
            )
        grippers = [d for d in contract.action.dims if d.kind == "gripper"]
        check(len(grippers) <= 1, f"grippers of contract {contract.name!r}", [d.name for d in grippers], "one at most")
        check(contract.step == "period", f"step of contract {contract.name!r}", contract.step, "period")
        self._gripper = grippers[0] if grippers else None
        self._delta = contract.action.mode == "delta"
        self.period_s = contract.dt_s if self._delta else 1.0 / options.chunk_rate_hz
        """From one chunk to the next."""
        size = 6 if self._tool else len(config.joint_names)
        linear = np.array([options.acceleration_m_s2] * 3 + [options.acceleration_rad_s2] * 3)
        joints = np.minimum(options.acceleration_rad_s2, 0.7 * np.array(config.limits.acceleration_rad_s2))
        self._acceleration = linear if self._tool else joints
        self._ruckig, self._input = Ruckig(size), InputParameter(size)
        self._input.control_interface = ControlInterface.Velocity
        self._input.max_velocity = [1e3] * size
        self._lower = config.limits.lower() + LIMIT_MARGIN_RAD
        self._upper = config.limits.upper() - LIMIT_MARGIN_RAD
        self._braking = 0.6 * np.array(config.limits.acceleration_rad_s2)
        self._fastest = JOINT_SHARE * np.array(config.limits.velocity_rad_s)
        self._course: _Course | None = None
        self._press = 0
        self._origin = np.zeros(size)
        """Pose (4, 4), or joints (J,), of the reference when the dead-man was pressed."""
        self._newest_ns: int | None = None
        self._let_go = False
        """The newest chunk was made after the dead-man was released."""
        self.slowed = ""
        """Why the arm moves more slowly than the person wishes, or not at all; empty: it does as it is told."""
        self.restarts = 0
        """How often the reference began again where the arm was, since it had run ahead of it."""

    def drop(self) -> None:
        """Forget the motion; the next one begins where the arm is."""
        self._course = None

    def chunk(self, wish: Wish, arm: ArmMotion, now_ns: int) -> ActionChunk | None:
        """What to send now, stamped ``now_ns`` (chunks of deltas: with the next place of their grid); None: nothing,
        since the dead-man is released and the motion is over, or since the next chunk of deltas is not due."""
        stamp_ns = now_ns
        if self._delta and self._course is not None and self._newest_ns is not None:
            stamp_ns = self._newest_ns + self._contract.dt_ns
            if now_ns < stamp_ns:
                return None
            if now_ns - stamp_ns > self._contract.dt_ns:
                stamp_ns = now_ns
        course = self._course
        if not wish.held and (course is None or (self._let_go and self._over(course, stamp_ns))):
            self._course, self.slowed = None, ""
            return None
        self._let_go = not wish.held
        pose, joints, velocity, acceleration = self._now(arm, stamp_ns, wish)
        if wish.press != self._press:
            self._press, self._origin = wish.press, pose
        points, self.slowed = self._plan(wish, pose, joints, velocity, acceleration, stamp_ns)
        if not points:  # no way of the tool can be followed from here: the joints come to rest, each on its own
            self._course = None
            stop = 0.5 * arm.velocity_rad_s * np.abs(arm.velocity_rad_s) / self._braking
            rest = np.clip(joints + stop, self._config.limits.lower(), self._config.limits.upper())
            place = self._kinematics.forward(rest) if self._kinematics is not None and self._tool else rest
            points = [(pose, joints)] + [(place, rest)] * 5
        self._newest_ns = stamp_ns
        return ActionChunk(
            stamp_ns=stamp_ns,
            dt_ns=self._contract.dt_ns,
            actions_HA=self._actions(points, arm.gripper_open if wish.gripper_open is None else wish.gripper_open),
            names=self._contract.action.names,
        )

    def _over(self, course: _Course, now_ns: int) -> bool:
        """Whether the reference stands; what is left of its way to rest the newest chunk holds."""
        return bool(np.abs(course.state((now_ns - course.start_ns) * 1e-9)[1]).max() < STILL)

    def _now(self, arm: ArmMotion, now_ns: int, wish: Wish) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Reference at this time: pose (or joints), joints, velocity and acceleration in ``frame``."""
        course, frame = self._course, wish.frame
        # Who lets go wants the arm to stand, not to go where it was ahead of it.
        lead_rad = self._options.lead_rad if wish.held else min(RELEASED_LEAD_RAD, self._options.lead_rad)
        if course is not None:
            passed_s = (now_ns - course.start_ns) * 1e-9
            place = self._walk(course, [passed_s])[0]
            joints = self._joints_of(place, course.seed_rad)
            ahead = np.abs(joints - arm.position_rad).max() if joints is not None else math.inf
            if joints is not None and ahead <= lead_rad:
                _, velocity, acceleration = course.state(passed_s)
                if self._tool and frame != course.frame:
                    turn = place[:3, :3] if frame == "base" else place[:3, :3].T
                    velocity, acceleration = _turned(turn, velocity), _turned(turn, acceleration)
                return place, joints, velocity, acceleration
            self.restarts += 1
        return self._begin(arm, now_ns, frame)

    def _begin(self, arm: ArmMotion, now_ns: int, frame: str) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """The reference is where the arm is commanded to be, and moves as it does."""
        late_s = min(max((now_ns - arm.at_ns) * 1e-9, 0.0), 0.05)
        joints = np.clip(
            arm.position_rad + late_s * arm.velocity_rad_s, self._config.limits.lower(), self._config.limits.upper()
        )
        if not self._tool:
            return joints, joints, arm.velocity_rad_s, np.zeros(len(joints))
        assert self._kinematics is not None
        pose = self._kinematics.forward(joints)
        velocity = _twist(pose, self._kinematics.forward(joints + 1e-5 * arm.velocity_rad_s), 1e-5)
        if frame == "tool":
            velocity = _turned(pose[:3, :3].T, velocity)
        return pose, joints, velocity, np.zeros(6)

    def _plan(
        self,
        wish: Wish,
        place: FloatArray,
        joints: FloatArray,
        velocity: FloatArray,
        acceleration: FloatArray,
        now_ns: int,
    ) -> tuple[list[tuple[FloatArray, FloatArray]], str]:
        """(place, joints) now and at every step of the chunk, none if there is no way; why it is slower than wished."""
        wanted = self._wanted(wish, place) if wish.held else np.zeros(len(velocity))
        why = ""
        for part in SLOWER:
            course = self._shape(part * wanted, place, joints, velocity, acceleration, now_ns, wish.frame)
            points, fault = self._follow(course)
            if not fault:
                self._course = course
                return points, why
            why = why or fault
            if not wanted.any():
                break
        before = self._course
        if before is not None:
            points, fault = self._follow(before, now_ns)
            if not fault:
                return points, why
        return [], why

    def _wanted(self, wish: Wish, place: FloatArray) -> FloatArray:
        """Velocity of the joints, or of the tool in the wish's frame."""
        wanted, options = np.array(wish.velocity), self._options
        if self._tool and wish.follow:
            moved = np.array(wish.follow, dtype=np.float64)
            target = _moved(self._origin, moved, "base")
            error = _twist(place, target, 1.0)
            for part, fastest in ((slice(3), options.speed_m_s), (slice(3, 6), options.turn_rad_s)):
                distance = float(np.linalg.norm(error[part]))
                speed = self._approach(distance, self._acceleration[part].min(), wish.pace * fastest)
                wanted[part] = error[part] * (speed / max(distance, 1e-9))
            return _turned(place[:3, :3].T, wanted) if wish.frame == "tool" else wanted
        for j, moved_rad in enumerate(wish.follow):
            if moved_rad is not None:
                error_rad = self._origin[j] + moved_rad - place[j]
                speed = self._approach(abs(error_rad), self._acceleration[j], options.joint_rad_s)
                wanted[j] = math.copysign(speed, error_rad)
        return wanted

    @staticmethod
    def _approach(distance: float, acceleration: float, fastest: float) -> float:
        """Speed towards what is followed, from which there is still time to brake."""
        return min(distance / FOLLOW_S, math.sqrt(2.0 * 0.5 * acceleration * distance), fastest)

    def _shape(
        self,
        wanted: FloatArray,
        place: FloatArray,
        joints: FloatArray,
        velocity: FloatArray,
        acceleration: FloatArray,
        now_ns: int,
        frame: str,
    ) -> _Course:
        """Towards the wanted velocity for LOOK_S, and to rest from there."""
        size, none = len(wanted), np.zeros(len(wanted))
        go = self._ramp(none, velocity, acceleration, wanted, joints, frame, place)
        at = [np.array(values) for values in go.at_time(LOOK_S)[:3]]
        rest = self._ramp(at[0], at[1], at[2], none, joints, frame, place)
        rest_s = LOOK_S + rest.duration

        def state(t_s: float) -> tuple[FloatArray, FloatArray, FloatArray]:
            t_s = min(t_s, rest_s)
            gone, v, a = go.at_time(t_s)[:3] if t_s < LOOK_S else rest.at_time(t_s - LOOK_S)[:3]
            over = t_s >= rest_s
            return np.array(gone), np.zeros(size) if over else np.array(v), np.zeros(size) if over else np.array(a)

        return _Course(start_ns=now_ns, start=place, seed_rad=joints, state=state, rest_s=rest_s, frame=frame)

    def _ramp(
        self,
        gone: FloatArray,
        velocity: FloatArray,
        acceleration: FloatArray,
        wanted: FloatArray,
        joints: FloatArray,
        frame: str,
        place: FloatArray,
    ) -> Trajectory:
        """From a velocity to the wanted one, as fast as the options and the joints' limits allow."""
        bound, change = self._acceleration, wanted - velocity
        if self._tool and change.any():
            turned = _turned(place[:3, :3], change) if frame == "tool" else change
            joint_changes = np.abs(np.linalg.lstsq(self._jacobian(joints), turned, rcond=1e-3)[0])
            needed_s = float((joint_changes / self._braking).max())
            bound = np.clip(np.abs(change) / max(needed_s, 1e-9), GENTLEST * bound, bound)
        given = self._input
        given.current_position, given.current_velocity = gone.tolist(), velocity.tolist()
        given.max_acceleration, given.max_jerk = bound.tolist(), (bound / self._options.rise_s).tolist()
        given.current_acceleration = np.clip(acceleration, -bound, bound).tolist()
        given.target_velocity = wanted.tolist()
        ramp = Trajectory(len(wanted))
        result = self._ruckig.calculate(given, ramp)
        assert result in (Result.Working, Result.Finished), f"ruckig: {result} for {velocity} to {wanted}"
        return ramp

    def _jacobian(self, joints: FloatArray) -> FloatArray:
        """(6, J) in the base frame; by differences, since an arm's own kinematics need not have one."""
        pose, h = self._forward(joints), 1e-6
        columns = []
        for j in range(len(joints)):
            moved = joints.copy()
            moved[j] += h
            columns.append(_twist(pose, self._forward(moved), h))
        return np.stack(columns, axis=1)

    def _walk(self, course: _Course, times_s: list[float]) -> list[FloatArray]:
        """Where the reference is at each of the times, in order: poses (4, 4) or joints (J,)."""
        if not self._tool:
            return [course.start + course.state(time_s)[0] for time_s in times_s]
        place, at_s, places = course.start, 0.0, []
        gone = np.zeros(6)
        for time_s in times_s:
            span_s = min(time_s, course.rest_s) - at_s
            steps = max(math.ceil(span_s / STEP_S - 1e-9), 0)
            for k in range(steps):
                before, gone = gone, course.state(at_s + (k + 1) * span_s / steps)[0]
                place = _moved(place, gone - before, course.frame)
            at_s += max(span_s, 0.0)
            places.append(place)
        return places

    def _joints_of(self, place: FloatArray, seed_rad: FloatArray) -> FloatArray | None:
        if not self._tool:
            return place
        assert self._kinematics is not None
        try:
            return self._kinematics.inverse(place, seed_rad, self._config.limits)
        except KinematicsError:
            return None

    def _follow(self, course: _Course, from_ns: int | None = None) -> tuple[list[tuple[FloatArray, FloatArray]], str]:
        """(place, joints) at ``from_ns`` (the course's start) and at every step after it; why that is impossible."""
        dt = self._contract.dt_s
        begin_s = 0.0 if from_ns is None else (from_ns - course.start_ns) * 1e-9
        count = min(max(math.ceil((course.rest_s - begin_s) / dt), 2) + 1, self._contract.chunk_size)
        times = [begin_s + h * dt for h in range(count + 1)]
        seed, points = course.seed_rad, list[tuple[FloatArray, FloatArray]]()
        lower, upper = np.minimum(self._lower, seed), np.maximum(self._upper, seed)
        for place in self._walk(course, times):
            joints = self._joints_of(place, seed)
            if joints is None:
                return [], self._unreachable(seed)
            beyond = np.flatnonzero((joints < lower) | (joints > upper))
            if len(beyond):
                return [], f"{self._config.joint_names[beyond[0]]} is at its limit ({joints[beyond[0]]:.2f} rad)"
            excess = np.abs(joints - seed) / dt - self._fastest if points else np.zeros(1)
            if excess.max() > 0.0:
                j = int(np.argmax(excess))
                return [], (
                    f"{self._config.joint_names[j]} would have to turn at {self._fastest[j] + excess[j]:.1f} rad/s "
                    f"(at most {self._fastest[j]:.1f})" + (": the posture is near a singular one" if self._tool else "")
                )
            points.append((place, joints))
            seed = joints
        return points, ""

    def _unreachable(self, joints: FloatArray) -> str:
        room = np.minimum(joints - self._lower, self._upper - joints)
        j = int(np.argmin(room))
        if room[j] < 0.1:
            return f"{self._config.joint_names[j]} is at its limit ({joints[j]:.2f} rad)"
        return "the tool cannot be moved further that way: the arm is stretched out, or in a singular posture"

    def _actions(self, points: list[tuple[FloatArray, FloatArray]], gripper_open: float) -> FloatArray:
        """(H, A) in the contract's order. ``points``: (place, joints) now, and at the end of each step."""
        action = self._contract.action
        names: tuple[str, ...]
        if action.space == "joint":
            names = tuple(self._config.joint_names)
            joints = np.array([joints for _, joints in points])
            values = np.diff(joints, axis=0) if self._delta else joints[1:]
        else:
            rpy = "roll" in action.names
            names = ("x", "y", "z", *(("roll", "pitch", "yaw") if rpy else ("rx", "ry", "rz")))
            poses = [place if self._tool else self._forward(joints) for place, joints in points]
            values = np.array(
                [_pose_values(before if self._delta else None, pose, rpy) for before, pose in pairwise(poses)]
            )
        columns = dict(zip(names, values.T, strict=True))
        if self._gripper is not None:
            low, high = self._gripper.low, self._gripper.high
            columns[self._gripper.name] = np.full(len(values), low + gripper_open * (high - low))
        return np.stack([columns[name] for name in action.names], axis=1)

    def _forward(self, joints: FloatArray) -> FloatArray:
        assert self._kinematics is not None
        return self._kinematics.forward(joints)


def _turned(rotation_33: FloatArray, twist_6: FloatArray) -> FloatArray:
    return np.concatenate((rotation_33 @ twist_6[:3], rotation_33 @ twist_6[3:]))


def _moved(pose_44: FloatArray, by_6: FloatArray, frame: str) -> FloatArray:
    """The pose after a small motion (m, rad) along and about the axes of the base, or of the tool."""
    rotation = pose_44[:3, :3]
    turned = np.eye(4)
    if frame == "tool":
        turned[:3, 3] = pose_44[:3, 3] + rotation @ by_6[:3]
        turned[:3, :3] = rotation @ rotation_from_vector(by_6[3:])
    else:
        turned[:3, 3] = pose_44[:3, 3] + by_6[:3]
        turned[:3, :3] = rotation_from_vector(by_6[3:]) @ rotation
    if by_6[3:].any():
        turned[:3, :3] = orthonormal(turned[:3, :3])
    return turned


def _twist(pose_44: FloatArray, after_44: FloatArray, h: float) -> FloatArray:
    """Velocity and angular velocity (6,) in the base frame that lead from one pose to the other in ``h``."""
    turned = rotation_vector(after_44[:3, :3] @ pose_44[:3, :3].T)
    return np.concatenate((after_44[:3, 3] - pose_44[:3, 3], turned)) / h


def _pose_values(before: FloatArray | None, pose: FloatArray, rpy: bool) -> FloatArray:
    """x y z and the rotation of ``pose``, or what leads to it from ``before``."""
    rotation = pose[:3, :3] if before is None else pose[:3, :3] @ before[:3, :3].T
    moved = pose[:3, 3] if before is None else pose[:3, 3] - before[:3, 3]
    turned = rpy_from_rotation(rotation) if rpy else rotation_vector(rotation)
    return np.concatenate((moved, turned))
