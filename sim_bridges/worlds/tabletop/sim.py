"""The tabletop's physics: a small, deterministic wrapper around MuJoCo.

Time is simulated and counted in integer nanoseconds from 0 at :meth:`TabletopSim.reset`. Targets act as on
the real controller: a target set now is reached at the end of its 8 ms servo period, along a straight ramp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavla_ros.control.scene import Box
from lavla_ros.errors import InputError
from lavla_ros.jaka.limits import JOINT_NAMES, SERVO_MAX_SPEED_RAD_S
from lavla_ros.typing import FloatArray
from sim_bridges.worlds.tabletop.names import LayoutName, TaskName
from sim_bridges.worlds.tabletop.robot import FINGER_TRAVEL_M, ROBOT_BITS
from sim_bridges.worlds.tabletop.scene import (
    CLOTH_TILES,
    OBJECTS,
    OBSTACLE,
    TABLE_Z_M,
    TIMESTEP_S,
    build_spec,
    stain_cells,
)
from sim_bridges.worlds.tabletop.tasks import (
    CLOTH_COLOURS,
    PICKED_HEIGHT_M,
    REST_SPEED_M_S,
    REST_TIME_S,
    REST_TURN_RAD_S,
    TASKS,
    WIPED,
    Outcome,
    Put,
    inside,
    nesting_score,
    spill,
    table_pose,
)
from sim_bridges.worlds.tabletop.tool import tool_down_joints

STEP_NS = 4_000_000
SERVO_STEPS = 2
JUDGE_EVERY_STEPS = 5
"""The progress of the task is looked at on a fixed 20 ms grid, however ``advance`` is called."""
_REST_JUDGEMENTS = round(REST_TIME_S / (JUDGE_EVERY_STEPS * TIMESTEP_S))
_SETTLE_STEPS = 75
_SPILL = (7, 11)
"""Begins the seeds of the stains' shapes."""

_FINGER_STEP_M = 0.15 * TIMESTEP_S
"""The fingers open or close in about 0.27 s."""
_SQUEEZE_M = -0.010
"""The closed command lies beyond contact, so that the fingers press; the actuator limits the force."""

HOME_GRASP_M = (-0.29, -0.01, TABLE_Z_M + 0.17)
"""The grasp point at home, tool straight down."""
HOME_SPREAD_M = 0.02

_LAYOUT_CODES: dict[str, int] = {"id": 0, "ood": 1}
_EXTRA = 28  # numbers of our own in a snapshot, before the rubric's and MuJoCo's
_WIPING_SPEED_M_S = 0.01
"""A cloth that lies still wipes nothing."""
_WIPING_GAP_M = 0.003
"""A cell is touched by a part of the cloth whose underside is this near, if that part touches the table."""


class TabletopSim:
    """One task on the table. Not thread-safe; one instance per process or lock around it."""

    def __init__(
        self, task: TaskName = "pick_place", *, layout: LayoutName = "id", obstacles: Sequence[Box] = ()
    ) -> None:
        """``obstacles``: boxes that stand in the arm's way, in its base frame; the cameras do not see them."""
        if task not in TASKS:
            raise InputError(f"unknown tabletop task {task!r}; known: {sorted(TASKS)}")
        if layout not in _LAYOUT_CODES:
            raise InputError(f"unknown layout {layout!r}; known: {sorted(_LAYOUT_CODES)}")
        self.task = TASKS[task]
        self.layout: LayoutName = layout
        self.objects = self.task.objects(layout)
        self.model: Any = build_spec(self.objects, obstacles).compile()
        self.data: Any = mujoco.MjData(self.model)
        model = self.model
        self._q = np.array([model.joint(n).qposadr[0] for n in JOINT_NAMES])
        self._v = np.array([model.joint(n).dofadr[0] for n in JOINT_NAMES])
        self._position_act = np.array([model.actuator(f"{n}_position").id for n in JOINT_NAMES])
        self._velocity_act = np.array([model.actuator(f"{n}_velocity").id for n in JOINT_NAMES])
        self._fingers = np.array([model.joint(f"finger_{s}").qposadr[0] for s in ("left", "right")])
        self._finger_dofs = np.array([model.joint(f"finger_{s}").dofadr[0] for s in ("left", "right")])
        self._finger_act = np.array([model.actuator(f"finger_{s}_position").id for s in ("left", "right")])
        self._pads = [model.geom(f"pad_{s}").id for s in ("left", "right")]
        self._grasp = model.site("grasp").id
        self._obstacles = [model.geom(OBSTACLE + box.name).id for box in obstacles]
        self.obstacle_contacts = 0
        """Physics steps of the episode in which a part of the robot touched an obstacle."""
        self._body_of = {name: model.body(name).id for name in self.objects}
        self._mocap = {name: int(model.body_mocapid[body]) for name, body in self._body_of.items()}
        free = [name for name in self.objects if self._mocap[name] < 0]
        self._free_q = {name: int(model.joint(name).qposadr[0]) for name in free}
        self._free_v = {name: int(model.joint(name).dofadr[0]) for name in free}
        if self.task.wipes:
            self._tiles = np.array([model.geom(name).id for name in CLOTH_TILES])
            self._cells = np.flatnonzero(model.geom_bodyid == self._body_of["stain"])
            self._table = model.geom("table").id
            self._coloured = np.flatnonzero(model.body_rootid[model.geom_bodyid] == self._body_of["cloth"])
            self._coloured = self._coloured[model.geom_group[self._coloured] == 0]
        self._state_kind = mujoco.mjtState.mjSTATE_INTEGRATION
        self._state_size = mujoco.mj_stateSize(model, self._state_kind)
        self.seed = 0
        self.reset(0)

    def reset(self, seed: int, start_shift_rad: FloatArray | None = None) -> None:
        """A fresh episode: layout and home pose are functions of (task, layout, seed) alone.

        ``start_shift_rad``: (6,) how far from home the arm begins.
        """
        if seed < 0:
            raise InputError(f"the seed is {seed}; expected an integer >= 0")
        self.seed, self.obstacle_contacts = seed, 0
        rng = np.random.default_rng([seed, self.task.code, _LAYOUT_CODES[self.layout]])
        mujoco.mj_resetData(self.model, self.data)
        for name, (x, y, yaw) in self.task.sample(self.layout, rng).items():
            pose = table_pose(name, x, y, yaw)
            if (mocap := self._mocap[name]) >= 0:
                self.data.mocap_pos[mocap], self.data.mocap_quat[mocap] = pose[:3], pose[3:]
            else:
                start = self._free_q[name]
                self.data.qpos[start : start + 7] = pose
        grasp = np.array(HOME_GRASP_M) + rng.uniform(-HOME_SPREAD_M, HOME_SPREAD_M, size=3)
        home = tool_down_joints(grasp, 0.0)
        if start_shift_rad is not None:
            home = home + start_shift_rad
        self.data.qpos[self._q] = home
        self.data.qpos[self._fingers] = FINGER_TRAVEL_M
        self.data.ctrl[self._finger_act] = FINGER_TRAVEL_M
        self._from, self._to = home.copy(), home.copy()
        self._ramp_done, self._ramp_steps, self._speed_before = 0, 0, np.zeros(6)
        self._gripper_open = True
        self._dirty = self._spill()
        self._spilt = int(self._dirty.sum())
        self._begin()
        self._run(_SETTLE_STEPS)
        self._begin()
        self.data.time = 0.0
        self._paint()

    def _begin(self) -> None:
        """Nothing is done yet, at time 0."""
        count = len(self.task.handled)
        self._steps = 0
        self._picked, self._rest_count = np.zeros(count, bool), np.zeros(count, np.int64)
        self._seated = np.zeros(count - 1)

    def _spill(self) -> NDArray[np.bool_]:
        """(cells,) the stain of the episode's seed."""
        # A stream of its own: the places stay as they are, whatever is drawn here.
        return spill(np.random.default_rng([*_SPILL, self.seed])) if self.task.wipes else np.zeros(0, bool)

    def _paint(self) -> None:
        """Give the cloth the colour of the episode, and show the cells that are dirty."""
        if self.task.wipes:
            colours = CLOTH_COLOURS[self.layout]
            self.model.geom_rgba[self._coloured] = (*colours[self.seed % len(colours)], 1.0)
            self.model.geom_rgba[self._cells, 3] = np.where(self._dirty, 1.0, 0.0)

    @property
    def concerned(self) -> dict[str, int]:
        """Body of each thing that the task is about."""
        return {name: self._body_of[name] for name in dict.fromkeys((*self.task.handled, *self.task.targets))}

    @property
    def instruction(self) -> str:
        return self.task.instruction

    @property
    def time_ns(self) -> int:
        """Simulated time since the reset."""
        return self._steps * STEP_NS

    @property
    def joint_position_rad(self) -> FloatArray:
        """(6,) measured joint positions, a copy."""
        return np.array(self.data.qpos[self._q])

    @property
    def joint_velocity_rad_s(self) -> FloatArray:
        """(6,) measured joint velocities, a copy."""
        return np.array(self.data.qvel[self._v])

    @property
    def joint_target_rad(self) -> FloatArray:
        """(6,) the target set last, a copy."""
        return self._to.copy()

    @property
    def setpoint(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Where the servo's target is on its ramp now: position (6,) rad, velocity rad/s, acceleration rad/s²."""
        speed = self.data.ctrl[self._velocity_act]
        return self._ramp_position(), np.array(speed), (speed - self._speed_before) / (SERVO_STEPS * TIMESTEP_S)

    @property
    def gripper_opening(self) -> float:
        """Measured: 1 fully open, 0 closed."""
        qpos = self.data.qpos
        travel = 0.5 * float(qpos[self._fingers[0]] + qpos[self._fingers[1]])
        return min(1.0, max(0.0, travel / FINGER_TRAVEL_M))

    @property
    def gripper_steady(self) -> bool:
        """The fingers have stopped moving."""
        return float(np.abs(self.data.qvel[self._finger_dofs]).max()) < 0.008

    @property
    def gripper_target_open(self) -> bool:
        """What the tool output says: a digital gripper knows no position in between."""
        return self._gripper_open

    def set_targets(self, q_rad: ArrayLike, gripper_open: float) -> None:
        """Joint targets (6,) for the end of the next servo period (8 ms); the gripper opens from 0.5 on.

        A target further away than the joints' top speed allows is approached at that speed.
        Raises ValueError for anything but six finite numbers and a finite gripper command.
        """
        q = np.asarray(q_rad, dtype=np.float64)
        if q.shape != (6,) or not np.isfinite(q).all() or not math.isfinite(gripper_open):
            raise InputError(f"targets must be six finite joints and a finite gripper, got {q_rad!r}, {gripper_open!r}")
        self._speed_before = np.array(self.data.ctrl[self._velocity_act])
        self._from = self._ramp_position()
        self._to = q.copy()
        furthest = float(np.abs(self._to - self._from).max())
        self._ramp_steps = max(SERVO_STEPS, math.ceil(furthest / (SERVO_MAX_SPEED_RAD_S * TIMESTEP_S)))
        self._ramp_done = 0
        self._gripper_open = gripper_open >= 0.5

    def advance(self, duration_ns: int) -> None:
        """Simulate ``duration_ns``. Raises ValueError unless it is a non-negative multiple of 4 ms."""
        steps, rest = divmod(duration_ns, STEP_NS)
        if rest or steps < 0:
            raise InputError(f"cannot advance by {duration_ns} ns: not a multiple of the {STEP_NS} ns time step")
        self._run(steps)

    def _ramp_position(self) -> FloatArray:
        if self._ramp_done >= self._ramp_steps:
            return self._to.copy()
        return np.asarray(self._from + (self._to - self._from) * (self._ramp_done / self._ramp_steps))

    def _run(self, steps: int) -> None:
        data, ctrl = self.data, self.data.ctrl
        finger_goal = FINGER_TRAVEL_M if self._gripper_open else _SQUEEZE_M
        for _ in range(steps):
            if self._ramp_done < self._ramp_steps:
                self._ramp_done += 1
                ctrl[self._position_act] = self._ramp_position()
                ctrl[self._velocity_act] = (self._to - self._from) / (self._ramp_steps * TIMESTEP_S)
            else:
                ctrl[self._position_act] = self._to
                ctrl[self._velocity_act] = 0.0
            finger = ctrl[self._finger_act[0]]
            ctrl[self._finger_act] = finger + min(_FINGER_STEP_M, max(-_FINGER_STEP_M, finger_goal - finger))
            mujoco.mj_step(self.model, data)
            self._steps += 1
            if self._obstacles:
                self._count_contacts()
            if self._steps % JUDGE_EVERY_STEPS == 0:
                self._judge()
        # A step leaves poses and contacts as they were before it: bring them up to date for a reader.
        mujoco.mj_fwdPosition(self.model, data)

    def _count_contacts(self) -> None:
        pairs = self.data.contact.geom
        at_obstacle = np.isin(pairs, self._obstacles)
        robots = self.model.geom_contype[pairs] == ROBOT_BITS["contype"]
        self.obstacle_contacts += bool((at_obstacle.any(1) & robots.any(1)).any())

    def _judge(self) -> None:
        """Latch the picks, count how long what is moved has been at rest on its own, see what is nested and wiped."""
        for i, name in enumerate(self.task.handled):
            height_m = float(self.data.xpos[self._body_of[name]][2]) - TABLE_Z_M - OBJECTS[name].stand_m
            if height_m > PICKED_HEIGHT_M and not self._picked[i]:
                self._picked[i] = self.held(*self.task.handled[: i + 1])  # a bowl, and what is in it
            start = self._free_v[name]
            speed, turn = self.data.qvel[start : start + 3], self.data.qvel[start + 3 : start + 6]
            slow = float(np.linalg.norm(speed)) < REST_SPEED_M_S and float(np.linalg.norm(turn)) < REST_TURN_RAD_S
            self._rest_count[i] = self._rest_count[i] + 1 if slow and not self.touched(name) else 0
        for i in range(len(self._seated)):
            now = self._nesting(i)
            # What is carried keeps what it was worth when it last stood, unless it falls out.
            self._seated[i] = now if self._rest_count[i] >= _REST_JUDGEMENTS else self._seated[i] * (now > 0.0)
        if self.task.wipes:
            self._wipe()

    def _nesting(self, index: int) -> float:
        """The rubric for how a task's object stands in its target now."""
        return nesting_score(self.object_pose(self.task.handled[index]), self.object_pose(self.task.targets[index]))

    def _wipe(self) -> None:
        """Clean the cells that a part of the cloth slides over while it touches the table."""
        start = self._free_v["cloth"]
        if float(np.linalg.norm(self.data.qvel[start : start + 2])) < _WIPING_SPEED_M_S or not self._dirty.any():
            return
        pairs = self.data.contact.geom
        touching = set(pairs[(pairs == self._table).any(axis=1)].ravel().tolist())
        cells = self.dirty_m
        gone = np.zeros(len(cells), bool)
        for tile in self._tiles:
            if int(tile) in touching:
                local = (cells - self.data.geom_xpos[tile]) @ self.data.geom_xmat[tile].reshape(3, 3)
                half = self.model.geom_size[tile]
                over = (np.abs(local[:, :2]) < half[:2]).all(axis=1)
                gone |= over & (np.abs(local[:, 2] + half[2]) < _WIPING_GAP_M)
        if gone.any():
            self._dirty[np.flatnonzero(self._dirty)[gone]] = False
            self._paint()

    @property
    def dirty_m(self) -> FloatArray:
        """(n, 3) the middles of the stain's cells that are still dirty, in the base frame."""
        pose = self.object_pose("stain")
        flat = stain_cells()[self._dirty]
        return np.asarray(np.column_stack([flat, np.zeros(len(flat))]) @ pose[:3, :3].T + pose[:3, 3])

    def seated(self, index: int) -> bool:
        """Whether the task's object of this number was let go in its target, and is still there."""
        last = index == len(self._seated)
        return self.outcome().placed if last else bool(self._seated[index] > 0.0)

    def object_pose(self, name: str) -> FloatArray:
        """(4, 4) pose of an object in the base frame. Raises KeyError naming the objects there are."""
        if name not in self._body_of:
            raise KeyError(f"no object {name!r} in this scene; it has {list(self.objects)}")
        body = self._body_of[name]
        pose = np.eye(4)
        pose[:3, :3] = self.data.xmat[body].reshape(3, 3)
        pose[:3, 3] = self.data.xpos[body]
        return pose

    def held(self, *names: str) -> bool:
        """Whether both finger pads touch the object; of several, any of them."""
        return all(self._touching(pad, names) for pad in self._pads)

    def touched(self, *names: str) -> bool:
        """Whether a finger pad touches the object, or one of several."""
        return any(self._touching(pad, names) for pad in self._pads)

    def external_force_n(self) -> float:
        """What presses against the arm, N: the force at the grasp point that explains the torques of its joints.

        As a controller estimates it, from the joints alone: what two fingers do to the thing between them is not felt.
        """
        jacobian = np.zeros((6, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], self._grasp)
        torque = self.data.qfrc_constraint[self._v]
        # In a singular posture a torque may be explained by a huge force: tiny ones of it are not.
        wrench = np.linalg.lstsq(jacobian[:, self._v].T, torque, rcond=0.03)[0]
        return float(np.linalg.norm(wrench[:3]))

    def _touching(self, geom: int, names: tuple[str, ...]) -> bool:
        pairs = self.data.contact.geom
        if len(pairs) == 0:
            return False
        # The parts of an object are below its body.
        bodies = self.model.body_rootid[self.model.geom_bodyid[pairs]]
        ours = np.isin(bodies, [self._body_of[name] for name in names])
        return bool(np.any(((pairs[:, 0] == geom) & ours[:, 1]) | ((pairs[:, 1] == geom) & ours[:, 0])))

    def outcome(self) -> Outcome:
        """The state of the task by the rubric of the paper's Appendix F.2."""
        last = self.task.handled[-1]
        picked = bool(self._picked[-1])
        released, at_rest = not self.touched(last), bool(self._rest_count[-1] >= _REST_JUDGEMENTS)
        if self.task.wipes:
            score = 1.0 - int(self._dirty.sum()) / self._spilt
            placed, success = False, score >= WIPED
        elif self.task.nests:
            nested = [*self._seated, self._nesting(-1) if released and at_rest else 0.0]
            placed = nested[-1] > 0.0
            score, success = float(np.mean(nested)), min(nested) >= 0.8
        else:
            job = self.task.does[0]
            moved, target = self.object_pose(job.moved), self.object_pose(job.target)
            stands = isinstance(job, Put) and job.grip == "upright"
            upright = float(target[2, 2]) > 0.9 and (not stands or float(moved[2, 2]) > 0.9)
            placed = released and at_rest and upright and inside(job.target, target, moved[:3, 3])
            score = 0.5 * picked + 0.5 * placed
            success = picked and placed
        return Outcome(success=success, score=score, picked=picked, placed=placed, released=released, at_rest=at_rest)

    def snapshot(self) -> FloatArray:
        """Everything that the future and the pictures depend on, flat; :meth:`restore` continues bit for bit."""
        own = np.zeros(_EXTRA)
        own[0], own[1] = self.task.code, _LAYOUT_CODES[self.layout]
        own[2], own[3], own[4], own[5] = self.seed, self._steps, self._ramp_done, self._ramp_steps
        own[6], own[7], own[8] = self._gripper_open, self._picked[0], self._rest_count[0]
        own[9:15], own[15:21], own[21:27] = self._from, self._to, self._speed_before
        physics = np.zeros(self._state_size)
        mujoco.mj_getState(self.model, self.data, physics, self._state_kind)
        return np.concatenate([own, *self._rubric(), physics])

    def _rubric(self) -> tuple[NDArray[Any], ...]:
        """What the rubric remembers beyond the first object's pick and rest: views, to be written and read."""
        return self._picked[1:], self._rest_count[1:], self._seated, self._dirty

    @property
    def snapshot_size(self) -> int:
        """Numbers in a snapshot of this scene."""
        return _EXTRA + sum(part.size for part in self._rubric()) + int(self._state_size)

    def restore(self, state: FloatArray) -> None:
        """Continue from a snapshot of the same task and layout; ValueError names what differs."""
        if state.shape != (self.snapshot_size,):
            raise InputError(f"a snapshot of this scene has {self.snapshot_size} numbers, got shape {state.shape}")
        if (state[0], state[1]) != (self.task.code, _LAYOUT_CODES[self.layout]):
            raise InputError(f"the snapshot is of another scene than task {self.task.name!r}, layout {self.layout!r}")
        self.seed, self._steps, self._ramp_done, self._ramp_steps = (int(x) for x in state[2:6])
        self._gripper_open, self._picked[0], self._rest_count[0] = bool(state[6]), bool(state[7]), int(state[8])
        self._from, self._to, self._speed_before = state[9:15].copy(), state[15:21].copy(), state[21:27].copy()
        at = _EXTRA
        for part in self._rubric():
            part[:] = state[at : (at := at + part.size)]
        if self.task.wipes:
            self._spilt = int(self._spill().sum())
        mujoco.mj_setState(self.model, self.data, state[at:], self._state_kind)
        mujoco.mj_fwdPosition(self.model, self.data)
        self._paint()
