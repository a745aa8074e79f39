"""A task of the stand-in, under the interface that RoboTwin's tasks have (:mod:`..interface`).

Where it differs from RoboTwin's own tasks:

- Robot, objects, pictures and tasks are others: made of boxes, without textures, with a rasteriser and no shadows. An
  end-effector pose is that of the point between the fingertips, z pointing out of the hand.
- ``take_action``: a command that is not 14 finite numbers raises ValueError and counts as nothing (RoboTwin takes NaN,
  and counts a short command before it fails); only ``"qpos"`` is known. An arm with the shorter way moves slower, so
  that both arrive together (RoboTwin holds back its steps, but drives it with the velocities of the faster motion). A
  command that moves no arm takes 50 steps, as there.
- Success must last 25 physics steps (0.1 s), with all blocks at rest; RoboTwin takes the first step on which objects
  are in place and grippers open, whatever moves.
- ``play_once`` streams commands at 15 Hz; RoboTwin's experts follow trajectories of a motion planner.
- Everything random comes from a generator of this episode's seed; the process's global ones are left alone.
- ``close_env`` frees the scene. ``check_success`` and the counters keep answering for the episode that ended.
- ``setup_demo`` knows ``seed``, ``now_ep_num``, ``eval_mode`` and ``data_type`` (``rgb``, ``endpose``, ``qpos``: all
  observed unless false); RoboTwin's other settings (embodiment, domain randomisation, planning) change nothing.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from lavla_ros.errors import InputError
from lavla_ros.typing import FloatArray
from sim_bridges.worlds.robotwin.interface import ARM_JOINTS, COMMAND_SIZE
from sim_bridges.worlds.robotwin.standin import motion
from sim_bridges.worlds.robotwin.standin.body import Body, Part, Vector
from sim_bridges.worlds.robotwin.standin.cameras import Cameras
from sim_bridges.worlds.robotwin.standin.engine import physics_scene
from sim_bridges.worlds.robotwin.standin.expert import Expert, Lost, Stage
from sim_bridges.worlds.robotwin.standin.robot import CAMERA_M, CAMERA_TILT_RAD, SIDES, Robot, Side
from sim_bridges.worlds.robotwin.vulkan import import_sapien

TABLE_TOP_M = 0.74
SETTLING_STEPS = 50
"""Physics steps before an episode begins."""
LASTING_STEPS = 25
"""Physics steps for which the goal must hold."""
AT_REST_M_S, AT_REST_RAD_S = 0.02, 0.3
EXPERT_HZ = 15
"""Commands of the expert a second where it does not stop at each: the rate at which RoboTwin samples demonstrations."""

_TABLE = Body(
    parts=(
        Part(half_size_m=(0.62, 0.42, 0.02), at_m=(0, -0.06, TABLE_TOP_M - 0.02), colour=(0.42, 0.36, 0.30)),
        Part(half_size_m=(0.04, 0.04, 0.35), at_m=(-0.55, 0.28, 0.36), colour=(0.2, 0.17, 0.15), solid=False),
        Part(half_size_m=(0.04, 0.04, 0.35), at_m=(0.55, 0.28, 0.36), colour=(0.2, 0.17, 0.15), solid=False),
    ),
    pose=lambda: import_sapien().Pose(),
)
_ROOM = Body(
    parts=(
        Part(half_size_m=(4, 4, 0.05), at_m=(0, 0, -0.05), colour=(0.25, 0.26, 0.28)),
        Part(half_size_m=(4, 0.05, 2), at_m=(0, 1.5, 2), colour=(0.62, 0.62, 0.60), solid=False),
    ),
    pose=lambda: import_sapien().Pose(),
)


class UnStableError(RuntimeError):
    """The blocks of this seed do not come to rest where they were put. (RoboTwin's name.)"""


class Block:
    """A box that can be moved."""

    def __init__(
        self, scene: Any, name: str, half_size_m: Vector, colour: Vector, at_m: Vector, yaw_rad: float
    ) -> None:
        sapien = import_sapien()
        self.half_size_m, self.colour = half_size_m, colour
        builder = scene.create_actor_builder()
        material = scene.create_physical_material(0.8, 0.8, 0.0)
        builder.add_box_collision(sapien.Pose(), half_size_m, material, density=500)
        builder.set_initial_pose(sapien.Pose(at_m, [np.cos(yaw_rad / 2), 0, 0, np.sin(yaw_rad / 2)]))
        self.entity = builder.build(name)
        self._rigid = self.entity.find_component_by_type(sapien.physx.PhysxRigidDynamicComponent)
        self.body = Body(parts=(Part(half_size_m=half_size_m, colour=colour),), pose=self.entity.get_pose)

    @property
    def at_m(self) -> FloatArray:
        """(3,) its middle."""
        return np.asarray(self.entity.get_pose().p, np.float64)

    @property
    def axes(self) -> FloatArray:
        """(3, 3) its edges' directions as columns."""
        return np.asarray(self.entity.get_pose().to_transformation_matrix()[:3, :3], np.float64)

    @property
    def at_rest(self) -> bool:
        slow = np.abs(self._rigid.get_linear_velocity()).max() < AT_REST_M_S
        return bool(slow and np.abs(self._rigid.get_angular_velocity()).max() < AT_REST_RAD_S)

    def state(self) -> FloatArray:
        """(13,) position, quaternion w, x, y, z, and both velocities."""
        pose, rigid = self.entity.get_pose(), self._rigid
        return np.concatenate([pose.p, pose.q, rigid.get_linear_velocity(), rigid.get_angular_velocity()], dtype=float)


class StandinTask(ABC):
    """What all tasks share. Made once, set up for every episode."""

    name: ClassVar[str]
    step_limit: ClassVar[int]
    """Commands of an evaluated episode, at most: ``step_lim`` in ``eval_mode``."""

    scene: Any
    robot: Robot
    take_action_cnt: int
    step_lim: int | None
    eval_success: bool
    plan_success: bool

    # ------------------------------------------------------------------ what a task says of itself

    @abstractmethod
    def _lay_out(self, coin: int, rng: np.random.Generator) -> None:
        """Put blocks and pads on the table. ``coin`` (0 or 1) decides what the instruction's words depend on, ``rng``
        everything else."""

    @abstractmethod
    def _in_place(self) -> bool:
        """Blocks are where the task wants them and the grippers that matter are open."""

    @abstractmethod
    def _script(self, expert: Expert) -> Iterator[Stage]:
        """The expert's stages, each made of what is seen when it begins. Raises Lost, OutOfReach."""

    @classmethod
    @abstractmethod
    def _words(cls, coin: int) -> dict[str, str]:
        """What the placeholders of the instruction templates stand for."""

    # ------------------------------------------------------------------ RoboTwin's interface

    def setup_demo(self, **kwargs: Any) -> None:
        """Build the scene of ``seed`` (an int >= 0, default 0). Raises UnStableError, SapienMissing, ValueError."""
        seed = kwargs.get("seed", 0)
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise InputError(f"seed is {seed!r}; expected a whole number >= 0")
        data = kwargs.get("data_type") or {}
        self._observed = {key: bool(data.get(key, True)) for key in ("rgb", "endpose", "qpos")}
        self.seed, self.ep_num = int(seed), int(kwargs.get("now_ep_num", 0))
        self.eval_mode = bool(kwargs.get("eval_mode", False))
        self.step_lim = self.step_limit if self.eval_mode else None
        self.take_action_cnt, self.physics_steps = 0, 0
        self.eval_success, self.plan_success = False, True
        self.instruction: str | None = None
        self.now_obs: dict[str, Any] = {}
        self._lasted, self._final = 0, False
        self._blocks: list[Block] = []
        self._pads: list[Body] = []
        self._cameras: Cameras | None = None
        self._drew = False
        """Since SAPIEN's cache was last cleared, which takes a driver."""

        self.scene = physics_scene()
        self._build_room()
        self.robot = Robot(self.scene)
        self._lay_out(*self._draw(self.seed))
        put = [block.at_m for block in self._blocks]
        for _ in range(SETTLING_STEPS):
            self.scene.step()
        moved = [b for b, at in zip(self._blocks, put, strict=True) if not b.at_rest or abs(b.at_m - at).max() > 0.005]
        if moved:
            names = ", ".join(block.entity.name for block in moved)
            raise UnStableError(f"in {self.name}, seed {self.seed}, these do not stay where they were put: {names}")

    def get_obs(self) -> dict[str, Any]:
        """RoboTwin's observation; pictures are drawn now. Raises NoVulkanError if there is nothing to draw with."""
        seen: dict[str, Any] = {"observation": {}, "pointcloud": [], "joint_action": {}, "endpose": {}}
        if self._observed["rgb"]:
            seen["observation"] = self._studio().observe(rgb=True)
        left, right = self.robot.get_left_arm_jointState(), self.robot.get_right_arm_jointState()
        if self._observed["endpose"]:
            seen["endpose"] = {
                "left_endpose": self.robot.left.endpose(),
                "left_gripper": left[-1],
                "right_endpose": self.robot.right.endpose(),
                "right_gripper": right[-1],
            }
        if self._observed["qpos"]:
            seen["joint_action"] = {
                "left_arm": left[:-1],
                "left_gripper": left[-1],
                "right_arm": right[:-1],
                "right_gripper": right[-1],
                "vector": np.array(left + right),
            }
        self.now_obs = seen
        return seen

    def take_action(self, action: ArrayLike, action_type: str = "qpos") -> None:
        """Move to ``action`` (14,): left arm, left gripper, right arm, right gripper; from rest to rest, as many
        physics steps as that takes. Does nothing at the step limit and after success.

        Raises ValueError, before anything moves or counts, for another shape or type, or values that are not finite.
        """
        if self.take_action_cnt == self.step_lim or self.eval_success:
            return
        if action_type != "qpos":
            raise InputError(f"action_type is {action_type!r}; the stand-in takes joint positions only ('qpos')")
        command = np.array(action, np.float64)
        if command.shape != (COMMAND_SIZE,) or not np.isfinite(command).all():
            raise InputError(f"the action is {command}, of shape {command.shape}; expected 14 finite numbers")
        self.take_action_cnt += 1
        for _ in self._follow(*self._rest_to_rest(command)):
            if self.check_success():
                self.eval_success = True
                return

    def check_success(self) -> bool:
        """The goal has held for the last 25 physics steps."""
        return self._lasted >= LASTING_STEPS if self.scene is not None else self._final

    def play_once(self) -> dict[str, Any]:
        """The scripted expert to its end, without stops: its commands follow one another at 15 Hz.

        Sampled at that rate, drive targets are its commands, and so make a demonstration of the length that
        ``take_action`` needs to repeat it. ``plan_success`` is false if it could not go on. Returns
        ``{"info": placeholders}``.
        """
        self.plan_success = self.play(self.expert())
        return {"info": self.words_of(self.seed)}

    def set_instruction(self, instruction: str | None = None) -> None:
        self.instruction = instruction

    def get_instruction(self, instruction: str | None = None) -> str | None:
        return self.instruction

    def close_env(self, clear_cache: bool = False) -> None:
        """Free the scene. ``clear_cache``: also the pictures' meshes and materials, which SAPIEN keeps."""
        self._final = self.check_success()
        self._cameras = None
        self._blocks, self._pads = [], []
        self.scene = None
        if clear_cache and self._drew:
            import_sapien().render.clear_cache()
            self._drew = False

    # ------------------------------------------------------------------ beyond RoboTwin's interface

    def expert(self) -> Expert:
        """The scripted expert of this episode, command by command: for recordings, disturbed or not."""
        return Expert(self.robot, self._script)

    def play(self, expert: Expert, on_frame: Callable[[], None] = lambda: None) -> bool:
        """Let it act to its end, as :meth:`play_once` does; whether it was not lost. ``on_frame`` is called before
        every command and at the end: whenever the drives' targets are one of the commands."""
        begun, before = self.physics_steps, expert.commands
        while not expert.done:
            on_frame()
            command = expert.act()
            due = begun + round((expert.commands - before) * motion.STEPS_PER_S / EXPERT_HZ)
            for _ in self._follow(*self._streamed(command, due - self.physics_steps)):
                pass
        on_frame()
        return not expert.lost

    @classmethod
    def words_of(cls, seed: int) -> dict[str, str]:
        """What the instruction templates' placeholders (``{A}``, …) stand for in the episode of this seed."""
        return cls._words(cls._draw(seed)[0])

    def state(self) -> FloatArray:
        """(32 + 13 B,) positions and velocities of all joints, then of the B blocks: everything that moves."""
        return np.concatenate([*(arm.state() for arm in self.robot.arms), *(block.state() for block in self._blocks)])

    # ------------------------------------------------------------------ inside

    @classmethod
    def _draw(cls, seed: int) -> tuple[int, np.random.Generator]:
        rng = np.random.default_rng([seed, zlib.crc32(cls.name.encode())])
        return int(rng.integers(2)), rng

    def _rest_to_rest(self, command: FloatArray) -> tuple[list[FloatArray], list[FloatArray], list[FloatArray]]:
        """Of both arms: positions (N, 6), velocities (N, 6) and gripper values (N,) by physics step."""
        arms, goals = self.robot.arms, _by_arm(command)
        steps = max(motion.physics_steps(arm.targets, goal[:-1]) for arm, goal in zip(arms, goals, strict=True))
        ways = [motion.rest_to_rest(arm.targets, goal[:-1], steps) for arm, goal in zip(arms, goals, strict=True)]
        grippers = [_evenly(arm.gripper, goal[-1], steps) for arm, goal in zip(arms, goals, strict=True)]
        return [way[0] for way in ways], [way[1] for way in ways], grippers

    def _streamed(self, command: FloatArray, steps: int) -> tuple[list[FloatArray], list[FloatArray], list[FloatArray]]:
        """Likewise, at an even speed."""
        arms, goals = self.robot.arms, _by_arm(command)
        positions = [_evenly(arm.targets, goal[:-1], steps) for arm, goal in zip(arms, goals, strict=True)]
        speeds = [(goal[:-1] - arm.targets) * motion.STEPS_PER_S / steps for arm, goal in zip(arms, goals, strict=True)]
        grippers = [_evenly(arm.gripper, goal[-1], steps) for arm, goal in zip(arms, goals, strict=True)]
        return positions, [np.tile(speed, (steps, 1)) for speed in speeds], grippers

    def _follow(
        self, positions: list[FloatArray], velocities: list[FloatArray], grippers: list[FloatArray]
    ) -> Iterator[None]:
        """Drive both arms along, one physics step at a time, and look after each whether the goal has lasted."""
        for step in range(len(grippers[0])):
            for index, arm in enumerate(self.robot.arms):
                arm.drive(positions[index][step], velocities[index][step])
                arm.drive_gripper(float(grippers[index][step]))
            self.scene.step()
            self.physics_steps += 1
            self._lasted = self._lasted + 1 if self._goal_holds() else 0
            yield

    def _goal_holds(self) -> bool:
        return self._in_place() and all(block.at_rest for block in self._blocks)

    def _add_block(self, name: str, half_size_m: Vector, colour: Vector, xy_m: ArrayLike, yaw_rad: float) -> Block:
        x, y = np.asarray(xy_m, float).tolist()
        at = (x, y, TABLE_TOP_M + half_size_m[2])
        block = Block(self.scene, name, half_size_m, colour, at, yaw_rad)
        self._blocks.append(block)
        return block

    def _add_pad(self, half_x_m: float, half_y_m: float, colour: Vector, xy_m: ArrayLike) -> None:
        """A mark on the table: thin, and only seen."""
        x, y = np.asarray(xy_m, float).tolist()
        pose = import_sapien().Pose((x, y, TABLE_TOP_M))
        part = Part(half_size_m=(half_x_m, half_y_m, 0.001), colour=colour, solid=False)
        self._pads.append(Body(parts=(part,), pose=lambda: pose))

    def _build_room(self) -> None:
        sapien = import_sapien()
        material = self.scene.create_physical_material(0.6, 0.6, 0.0)
        for name, body in (("table", _TABLE), ("ground", _ROOM)):
            builder = self.scene.create_actor_builder()
            for part in body.parts:
                if part.solid:
                    builder.add_box_collision(sapien.Pose(part.at_m), part.half_size_m, material)
            builder.build_static(name)

    def _studio(self) -> Cameras:
        if self._cameras is None:
            bodies = [_ROOM, _TABLE, *self._pads, *(block.body for block in self._blocks)]
            bodies += [body for arm in self.robot.arms for body in arm.bodies]
            self._cameras = Cameras(bodies, [(f"{side}_camera", self._wrist_camera(side)) for side in SIDES])
            self._drew = True
        return self._cameras

    def _wrist_camera(self, side: Side) -> Any:
        sapien = import_sapien()
        hand = self.robot.arm(side).links["link6"]
        # SAPIEN's camera looks along x, its picture's top is z: here away from the robot when the hand points down.
        c, s = np.cos(CAMERA_TILT_RAD), np.sin(CAMERA_TILT_RAD)
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([(0.0, -s, c), (-1.0, 0.0, 0.0), (0.0, -c, -s)], axis=1)
        matrix[:3, 3] = CAMERA_M
        mount = sapien.Pose(matrix)
        return lambda: hand.get_entity_pose() * mount


def _by_arm(command: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(7,) of each arm."""
    return command[: ARM_JOINTS + 1], command[ARM_JOINTS + 1 :]


def _evenly(start: FloatArray | float, goal: FloatArray | float, steps: int) -> FloatArray:
    """(steps, ...) from ``start``, which is left out, to ``goal``."""
    return np.asarray(np.linspace(start, goal, steps + 1)[1:], np.float64)


__all__ = ["TABLE_TOP_M", "Block", "Lost", "StandinTask", "UnStableError"]
