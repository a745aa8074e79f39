"""A scripted expert with privileged state for LIBERO's pick-and-place tasks, of one object or several in turn.

A small state machine: approach, descend, grip, lift, carry, lower, release, retreat, or, for a stove's knob, turn and
release after the grip. Each phase steers towards a place that depends on nothing but the present geometry, so that
pushes are answered at once; a phase that finds its ground gone (the object slipped, was moved, or is out of the
fingers' reach) goes back to the approach and plans another grasp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import mujoco
import numpy as np

from lavla_ros.config import ConfigError
from lavla_ros.typing import FloatArray
from sim_bridges.worlds.libero.expert.grasp import Grasp, GraspConfig, down, nearest_half_turn, plan_grasps
from sim_bridges.worlds.libero.expert.scene import Scene
from sim_bridges.worlds.libero.jobs import Job

METRES_PER_ACTION = 0.05
"""LIBERO's controller moves its goal this far from where the gripper is for an action of 1."""
RADIANS_PER_ACTION = 0.5
OPEN, CLOSE = -1.0, 1.0
"""Gripper commands of the environment."""


class Phase(StrEnum):
    APPROACH = "approach"
    DESCEND = "descend"
    GRIP = "grip"
    TURN = "turn"
    LIFT = "lift"
    CARRY = "carry"
    LOWER = "lower"
    RELEASE = "release"
    RETREAT = "retreat"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertConfig:
    """How the expert moves. Lengths in metres, times in 20 Hz steps."""

    grasp: GraspConfig = field(default_factory=GraspConfig)
    hover_m: float = 0.08
    """Height above the grasp at which the hand arrives, if nothing taller is in its way."""
    clearance_m: float = 0.03
    """What is moved sideways passes this far above everything below it."""
    way_m: float = 0.07
    """What is further than this from the way, seen from above, is not in it."""
    near_m: float = 0.02
    """Sideways miss at which the hand starts to descend."""
    reach_m: float = 0.006
    """A place closer than this is reached."""
    slip_m: float = 0.08
    """A held object that has moved this far in the hand has been lost."""
    empty_gap_m: float = 0.0015
    """Fingers closed further than this hold nothing: the bowl's wall is 2.6 mm."""
    open_gap_m: float = 0.07
    """Fingers at least this far open are put around an object."""
    moved_m: float = 0.015
    """An object that has moved this far since the grasp was planned gets a new plan."""
    grip_steps: int = 9
    """The fingers close for at least this long, and for up to twice as long while they still move."""
    release_steps: int = 7
    stall_steps: int = 12
    """A hand that has come no nearer to its grasp for this long is held up by something."""
    patience_steps: int = 45
    """A phase that should have ended after this long has got stuck."""
    knob_rad: float = 1.2
    """A stove's knob is turned by this much at the most."""
    knob_step_rad: float = 0.05
    """In a step."""
    turn_limit: float = 0.5
    """Largest rotation command (of 1)."""
    lower_limit: float = 0.5
    """Largest downward command (of 1) at the end of lowering."""

    def __post_init__(self) -> None:
        lengths = ("hover_m", "clearance_m", "way_m", "near_m", "reach_m", "slip_m", "moved_m")
        for key in (*lengths, "empty_gap_m", "open_gap_m"):
            if not 0 < getattr(self, key) < 1:
                raise ConfigError(f"{key} is {getattr(self, key)}; expected metres between 0 and 1")
        for key in ("grip_steps", "release_steps", "stall_steps", "patience_steps"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} is {getattr(self, key)}; expected at least 1 step")
        for key in ("turn_limit", "lower_limit"):
            if not 0 < getattr(self, key) <= 1:
                raise ConfigError(f"{key} is {getattr(self, key)}; expected more than 0, at most 1")
        if not 0 < self.knob_step_rad <= self.knob_rad < math.pi:
            raise ConfigError(
                f"knob_step_rad is {self.knob_step_rad}, knob_rad {self.knob_rad}; expected 0 < step <= π"
            )


@dataclass(frozen=True, slots=True)
class _Look:
    """What a decision depends on; positions (3,) in the world frame."""

    grip: FloatArray
    rotation: FloatArray
    gap_m: float
    item: FloatArray
    """Position of the object to be moved."""
    bottom_m: float
    """Height of its lowest point."""
    target: FloatArray


@dataclass(frozen=True, slots=True)
class _Aim:
    """Where the grip point is wanted, and the fingers."""

    place: FloatArray
    gripper: float
    sink_limit: float = 1.0


class LiberoExpert:
    """Reaches the environment's goal. Call :meth:`reset` after the environment's, then :meth:`act` once per step.

    ``env`` is LIBERO's ``OffScreenRenderEnv`` or anything that holds one as ``.env``. Raises TypeError for something
    else and NoExpertError (a ValueError) for a goal that it does not know how to reach. Equal states give equal
    actions: nothing is random.
    """

    def __init__(self, env: Any, config: ExpertConfig | None = None) -> None:
        self._scene = Scene(env)
        self.config = config or ExpertConfig()
        self._phases: dict[Phase, Callable[[_Look], Phase]] = {
            Phase.APPROACH: self._after_approach,
            Phase.DESCEND: self._after_descend,
            Phase.GRIP: self._after_grip,
            Phase.TURN: self._after_turn,
            Phase.LIFT: self._after_lift,
            Phase.CARRY: self._after_carry,
            Phase.LOWER: self._after_lower,
            Phase.RELEASE: self._after_release,
            Phase.RETREAT: self._after_retreat,
        }
        self._phase: Phase = Phase.APPROACH
        self._steps = 0
        """In the present phase."""
        self._gap_before = 0.0
        self._nearest_m, self._nearest_at = math.inf, 0
        self.reset()

    def reset(self) -> None:
        """Forget the episode before. The hand's present direction becomes the one that it is turned from."""
        closing = self._scene.grip_rotation[:, 1]
        self._home_yaw = float(np.copysign(np.pi / 2, closing[1]))
        self._shares = self._scene.shares()
        self._job = self._scene.jobs[0]
        self._attempt = 0
        self._start_approach()

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def job(self) -> Job:
        """The present one."""
        return self._job

    @property
    def done(self) -> bool:
        """The goal is reached and the hand is on its way up."""
        return self._phase is Phase.RETREAT and self._scene.success

    def act(self) -> FloatArray:
        """The next action (7,): position (3) and axis-angle (3) commands in the world frame and the gripper's, ±1."""
        look = self._look()
        for _ in Phase:  # one step may pass through several phases
            after = self._phases[self._phase](look)
            if after is self._phase:
                break
            self._enter(after, look)
            look = self._look()  # another object may be next
        self._steps += 1
        return self._action(look, self._aim(look))

    def _look(self) -> _Look:
        scene = self._scene
        return _Look(
            grip=scene.grip_position,
            rotation=scene.grip_rotation,
            gap_m=scene.finger_gap_m,
            item=scene.position(self._gripped),
            bottom_m=float(scene.boxes(self._gripped).corners()[..., 2].min()),
            target=scene.target_position(self._job) + self._shares[self._job],
        )

    # ---- when a phase ends: the next one, or the same

    def _after_approach(self, look: _Look) -> Phase:
        if self._scene.success:
            return Phase.RETREAT
        place = look.item + self._plan(look).offset
        if self._steps > 2 * self.config.patience_steps:
            self._attempt += 1
            self._start_approach()
            self._plan(look)
        above_it = _flat(place - look.grip) < self.config.near_m and self._turn(look) < _ALIGNED_RAD
        return Phase.DESCEND if above_it and look.gap_m > self.config.open_gap_m else Phase.APPROACH

    def _after_descend(self, look: _Look) -> Phase:
        cfg = self.config
        place = look.item + self._plan(look).offset
        miss, above = _flat(place - look.grip), float(look.grip[2] - place[2])
        if miss < cfg.reach_m and above < cfg.reach_m:
            return Phase.GRIP
        if self._stalled(float(np.linalg.norm(place - look.grip))):
            # Something keeps the hand from getting there: near enough, or another grasp.
            if miss < 2 * cfg.reach_m and above < 3 * cfg.reach_m:
                return Phase.GRIP
            self._attempt += 1
            return Phase.APPROACH
        astray = miss > 2 * cfg.near_m or self._turn(look) > 2 * _ALIGNED_RAD
        return Phase.APPROACH if astray else Phase.DESCEND

    def _after_grip(self, look: _Look) -> Phase:
        if _flat(look.item + self._grasp.offset - look.grip) > 2 * self.config.near_m:
            return Phase.APPROACH
        closing = self._gap_before - look.gap_m > _STEADY_M and self._steps < 2 * self.config.grip_steps
        self._gap_before = look.gap_m
        if closing or self._steps < self.config.grip_steps:
            return Phase.GRIP
        return Phase.TURN if self._job.predicate == "turnon" else Phase.LIFT

    def _after_turn(self, look: _Look) -> Phase:
        if self._scene.holds(self._job):
            return Phase.RELEASE
        by_rad = min((self._steps + 1) * self.config.knob_step_rad, self.config.knob_rad)
        self._carry_turn_rad = self._scene.turn_on_sign(self._job) * by_rad
        slipped = look.gap_m < self.config.empty_gap_m or self._steps > self.config.patience_steps
        return Phase.APPROACH if slipped else Phase.TURN

    def _after_lift(self, look: _Look) -> Phase:
        if self._lost(look):
            return Phase.APPROACH
        high = look.bottom_m > self._pass_m - 0.02 or self._steps > self.config.patience_steps
        return Phase.CARRY if high else Phase.LIFT

    def _after_carry(self, look: _Look) -> Phase:
        if self._lost(look) or self._steps > 2 * self.config.patience_steps:
            return Phase.APPROACH
        ready = _flat(look.target - look.item) < self._centred_m
        if self._carry_turn_rad:
            ready = ready and self._turn(look) < _ALIGNED_RAD
        return Phase.LOWER if ready else Phase.CARRY

    def _after_lower(self, look: _Look) -> Phase:
        if self._lost(look):
            return Phase.APPROACH
        if _flat(look.target - look.item) > 3 * self._centred_m:
            return Phase.CARRY
        landed = self._scene.holds(self._job) and (self._job.predicate == "in" or self._scene.touches(self._job.moved))
        return Phase.RELEASE if landed or self._steps > self.config.patience_steps else Phase.LOWER

    def _after_release(self, look: _Look) -> Phase:
        return Phase.RETREAT if self._steps >= self.config.release_steps else Phase.RELEASE

    def _after_retreat(self, look: _Look) -> Phase:
        risen = float(look.grip[2] - self._entered_at[2]) > self.config.hover_m
        stuck = self._steps > self.config.patience_steps
        return Phase.APPROACH if (risen or stuck) and not self._scene.success else Phase.RETREAT

    def _enter(self, phase: Phase, look: _Look) -> None:
        if phase is Phase.APPROACH:
            if self._phase in (Phase.TURN, Phase.LIFT, Phase.CARRY, Phase.LOWER):
                self._attempt += 1
            self._start_approach()
            return
        self._phase, self._steps, self._entered_at, self._gap_before = phase, 0, look.grip, look.gap_m
        self._nearest_m, self._nearest_at = math.inf, 0
        if phase is Phase.LIFT:
            self._held_offset = look.item - look.grip
            # Everything under the way is passed over by what hangs lowest; at the least it leaves the ground.
            self._pass_m = max(self._pass_over(look.item, look.target), look.bottom_m + self.config.clearance_m)
        if phase is Phase.CARRY and (turn := self._scene.turn_into(self._job)):
            wanted = nearest_half_turn(self._yaw_rad + turn, self._home_yaw)
            self._carry_turn_rad = wanted - self._grasp.yaw_rad

    def _start_approach(self) -> None:
        """To the first object that is not where it belongs: a former one may have been pushed away again."""
        job = next((job for job in self._scene.jobs if not self._scene.holds(job)), self._job)
        if job is not self._job:
            self._job, self._attempt = job, 0
        self._gripped = self._scene.gripped(job)
        self._phase, self._steps, self._carry_turn_rad = Phase.APPROACH, 0, 0.0
        self._entered_at = self._scene.grip_position
        self._planned_for: FloatArray | None = None

    # ---- where to, in each phase

    def _aim(self, look: _Look) -> _Aim:
        cfg = self.config
        place = look.item + self._grasp.offset if self._planned_for is not None else look.grip
        match self._phase:
            case Phase.APPROACH:
                height = max(float(place[2]) + cfg.hover_m, self._pass_over(look.grip, place))
                # Up first, sideways as far as that height is reached: the hand must not sweep things away.
                share = float(np.clip(1.0 - (height - look.grip[2]) / 0.04, 0.0, 1.0))
                return _Aim(np.array([*(look.grip[:2] + share * (place[:2] - look.grip[:2])), height]), OPEN)
            case Phase.DESCEND:
                away = float(np.clip((_flat(place - look.grip) - cfg.reach_m) / cfg.near_m, 0.0, 1.0))
                return _Aim(_above(place, away * cfg.hover_m), OPEN)
            case Phase.GRIP:
                return _Aim(self._entered_at, CLOSE)
            case Phase.TURN:
                # On a circle around the knob's axis.
                x, y, z = self._entered_at - look.item
                c, s = math.cos(self._carry_turn_rad), math.sin(self._carry_turn_rad)
                return _Aim(look.item + np.array([c * x - s * y, s * x + c * y, z]), CLOSE)
            case Phase.LIFT:
                return _Aim(np.array([*self._entered_at[:2], self._passing_m(look)]), CLOSE)
            case Phase.CARRY:
                # The held object hangs askew: bring it over the target, not the hand.
                over = look.grip[:2] + look.target[:2] - look.item[:2]
                return _Aim(np.array([*over, self._passing_m(look)]), CLOSE)
            case Phase.LOWER:
                over = look.grip[:2] + look.target[:2] - look.item[:2]
                gently = float(np.clip((look.bottom_m - look.target[2]) / 0.08, cfg.lower_limit, 1.0))
                return _Aim(np.array([*over, look.grip[2] - 1.0]), CLOSE, gently)
            case Phase.RELEASE:
                return _Aim(self._entered_at, OPEN)
            case Phase.RETREAT:
                return _Aim(_above(self._entered_at, 2 * cfg.hover_m), OPEN)

    def _action(self, look: _Look, aim: _Aim) -> FloatArray:
        move = (aim.place - look.grip) / METRES_PER_ACTION
        # Scaled, not clipped, sideways: the way stays straight.
        move[:2] /= max(1.0, float(np.abs(move[:2]).max()))
        move[2] = np.clip(move[2], -aim.sink_limit, 1.0)
        wanted = down(self._yaw_rad if self._planned_for is not None else self._home_yaw)
        turn = _rotation_vector(wanted @ look.rotation.T) / RADIANS_PER_ACTION
        turn /= max(1.0, float(np.abs(turn).max()) / self.config.turn_limit)
        return np.array([*move, *turn, aim.gripper])

    # ---- what the decisions ask

    def _plan(self, look: _Look) -> Grasp:
        """The present grasp, planned again when the object has moved."""
        if self._planned_for is None or np.linalg.norm(look.item - self._planned_for) > self.config.moved_m:
            grasps = plan_grasps(self._scene, self._gripped, self.config.grasp, self._home_yaw)
            self._grasp = _nth_different(grasps, self._attempt)
            self._planned_for = look.item
        return self._grasp

    def _passing_m(self, look: _Look) -> float:
        """Height of the hand at which the held object passes over everything, however far it has tilted down."""
        return float(look.grip[2]) + self._pass_m - look.bottom_m

    def _turn(self, look: _Look) -> float:
        """How far the hand is turned from where it is wanted, rad."""
        return float(np.linalg.norm(_rotation_vector(down(self._yaw_rad) @ look.rotation.T)))

    @property
    def _yaw_rad(self) -> float:
        return self._grasp.yaw_rad + self._carry_turn_rad

    def _stalled(self, miss_m: float) -> bool:
        """Whether a distance that should shrink has not done so for too long."""
        if miss_m < self._nearest_m - _PROGRESS_M:
            self._nearest_m, self._nearest_at = miss_m, self._steps
        return self._steps - self._nearest_at > self.config.stall_steps

    def _lost(self, look: _Look) -> bool:
        slipped = float(np.linalg.norm(look.item - look.grip - self._held_offset)) > self.config.slip_m
        return slipped or look.gap_m < self.config.empty_gap_m

    def _pass_over(self, start: FloatArray, end: FloatArray) -> float:
        """Lowest height at which something may travel from ``start`` to ``end``."""
        obstacles = self._scene.obstacles(self._gripped)
        return obstacles.top_along(start, end, self.config.way_m) + self.config.clearance_m

    @property
    def _centred_m(self) -> float:
        """How well the object must be over its target before it is lowered."""
        return 0.02 if self._job.predicate == "in" and not self._carry_turn_rad else 0.008


_ALIGNED_RAD = 0.15
_PROGRESS_M = 0.001
_STEADY_M = 0.0005
"""Fingers that have closed by less than this within a step have met something."""


def _flat(vector: FloatArray) -> float:
    return float(np.hypot(vector[0], vector[1]))


def _above(point: FloatArray, height_m: float) -> FloatArray:
    return np.array([point[0], point[1], point[2] + height_m])


def _rotation_vector(rotation: FloatArray) -> FloatArray:
    """(3,) axis times angle of a rotation matrix, the angle at most π."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).reshape(9))
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def _nth_different(grasps: list[Grasp], n: int) -> Grasp:
    """The best of the grasps after n failures: each time one that is well apart from those tried before."""
    tried: list[Grasp] = []
    for grasp in grasps:
        if all(np.linalg.norm(grasp.offset - t.offset) > 0.02 or grasp.yaw_rad != t.yaw_rad for t in tried):
            tried.append(grasp)
    return tried[n % len(tried)]
