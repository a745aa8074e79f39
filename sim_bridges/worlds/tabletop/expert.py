"""A scripted expert with privileged state: what the policy is cloned from.

What it wants (where to, gripper open or closed) depends on nothing but the present geometry and the gripper,
never on a timer or a hidden phase, so that it recovers from whatever happens to the arm or the object. How it
gets there is a jerk-limited motion that goes on from step to step, slow enough for the executor to follow
exactly. Small pushes do not change that motion: the arm is led back to it. A large one makes it start
again from where the arm is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from lavla_ros.config import ConfigError
from lavla_ros.contract import ActionChunk, Contract
from lavla_ros.jaka.limits import JOINT_NAMES
from lavla_ros.typing import FloatArray
from sim_bridges.worlds.tabletop.motion import Motion, Planner, within_reach
from sim_bridges.worlds.tabletop.scene import OBJECTS, STACK_BOWL, TABLE_Z_M
from sim_bridges.worlds.tabletop.sim import TabletopSim
from sim_bridges.worlds.tabletop.tasks import Put, Wipe
from sim_bridges.worlds.tabletop.tool import tool_down_joints, upright_tool_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertConfig:
    """How the expert moves."""

    speed_m_s: float = 0.24
    """Top speed of the grasp point, per horizontal axis."""
    lift_m_s: float = 0.16
    """Top speed of the grasp point, up and down."""
    turn_rad_s: float = 1.0
    """Top speed of the tool's yaw."""
    acceleration_m_s2: float = 0.35
    jerk_m_s3: float = 2.0
    turn_acceleration_rad_s2: float = 1.8
    turn_jerk_rad_s3: float = 9.0
    """Slow enough everywhere in the workspace for the executor to follow exactly: its spline through 10 Hz
    points needs more than the motion that it interpolates."""
    lookahead_steps: int = 6
    """Steps in a chunk."""
    hover_m: float = 0.08
    """Height above the grasp at which the tool arrives over the object."""
    funnel_m: float = 0.05
    """Horizontal miss at which the tool is at hover height; it descends as the miss shrinks."""
    reach_m: float = 0.006
    """A goal closer than this is reached."""

    def __post_init__(self) -> None:
        for key in ("speed_m_s", "lift_m_s", "turn_rad_s", "acceleration_m_s2", "jerk_m_s3"):
            if not 0 < getattr(self, key) < 100:
                raise ConfigError(f"{key} is {getattr(self, key)}; expected a positive limit")
        if self.lookahead_steps < 1:
            raise ConfigError(f"lookahead_steps is {self.lookahead_steps}; expected at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """What a decision depends on. Positions (3,) in the base frame."""

    job: Put | Wipe
    tool_m: FloatArray
    yaw_rad: float
    opening: float
    object_m: FloatArray
    """The place on the object where it is to be gripped."""
    object_yaw_rad: float
    held: bool
    target_m: FloatArray
    """Where the grip must be when the object is to be let go."""
    at_target: bool
    """The object is over, in or on the target, so not to be fetched again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What the expert wants."""

    goal_m: FloatArray
    """(3,) where the grasp point is to go, in the base frame."""
    yaw_rad: float
    open: bool
    """The gripper is to be open."""


class ScriptedExpert:
    """Solves the sim's task. ``chunk`` gives the next few absolute joint targets."""

    def __init__(self, sim: TabletopSim, contract: Contract, config: ExpertConfig | None = None) -> None:
        """Raises ValueError if the contract does not command the six joints and a gripper, absolutely."""
        names = contract.action.names
        if contract.action.mode != "absolute" or sorted(names) != sorted((*JOINT_NAMES, "gripper")):
            raise ConfigError(
                f"the tabletop's expert commands {[*JOINT_NAMES, 'gripper']} as absolute targets; "
                f"contract {contract.name!r} has {list(names)}, {contract.action.mode}"
            )
        self._sim, self._contract = sim, contract
        self.config = config or ExpertConfig()
        cfg = self.config
        self._planner = Planner(
            [cfg.speed_m_s, cfg.speed_m_s, cfg.lift_m_s, cfg.turn_rad_s],
            [cfg.acceleration_m_s2] * 3 + [cfg.turn_acceleration_rad_s2],
            [cfg.jerk_m_s3] * 3 + [cfg.turn_jerk_rad_s3],
        )
        self._expected: tuple[int, Motion] | None = None

    def reset(self) -> None:
        """Forget the motion of the episode before."""
        self._expected = None

    @property
    def done(self) -> bool:
        """The task is solved and the tool is clear of the objects."""
        tool, _ = upright_tool_of(self._sim.joint_target_rad)
        return self._sim.outcome().success and float(tool[2]) > TABLE_Z_M + self._job()[1].carry_m - 0.02

    def wish(self) -> Move:
        """What it wants at present, for whoever moves the arm in another way than its own."""
        return self._decide(self._look())

    def chunk(self) -> ActionChunk:
        """The next steps from the present state: actions (lookahead, A) in the contract's order."""
        contract, stamp_ns = self._contract, self._sim.time_ns
        names = contract.action.names
        columns = [names.index(n) for n in JOINT_NAMES]
        gripper = names.index("gripper")
        scene = self._look()
        motion = self._present_motion(stamp_ns)
        actions = np.zeros((self.config.lookahead_steps, len(names)))
        for step, row in enumerate(actions):
            move = self._decide(scene)
            motion = self._plan(motion, move, contract.dt_s)
            if step == 0:
                self._expected = (stamp_ns + contract.dt_ns, motion)
            q = motion.joints_rad
            row[columns], row[gripper] = q, float(move.open)
            tool, yaw = upright_tool_of(q)
            scene = _foresee(scene, tool, yaw, move.open)
        return ActionChunk(stamp_ns=stamp_ns, dt_ns=contract.dt_ns, actions_HA=actions, names=names)

    def _present_motion(self, stamp_ns: int) -> Motion:
        """How the tool moves now: as planned one step ago while the arm is near there, else as the arm does."""
        q, speed, bend = self._sim.setpoint
        if self._expected is not None and self._expected[0] == stamp_ns:
            planned = self._expected[1]
            if float(np.abs(q - planned.joints_rad).max()) < _AS_PLANNED_RAD:
                return replace(planned, pushed=planned.pushed and not self._planner.is_usual(planned.velocity))
        before, here, after = (
            np.append(*upright_tool_of(q + t * speed + t * t / 2 * bend)) for t in (-_NEAR_S, 0.0, _NEAR_S)
        )
        lean = q - tool_down_joints(within_reach(here[:3]), float(here[3]))
        velocity = (after - before) / (2 * _NEAR_S)
        return Motion(
            here.tolist(),
            velocity.tolist(),
            ((after - 2 * here + before) / _NEAR_S**2).tolist(),
            (float(lean[3]), float(lean[4])),
            pushed=not self._planner.is_usual(velocity.tolist()),
        )

    def _plan(self, motion: Motion, move: Move, dt_s: float) -> Motion:
        """The motion one step later, on the time-optimal way to the move's goal within the expert's limits."""
        return self._planner.step(motion, [*within_reach(move.goal_m).tolist(), move.yaw_rad], dt_s)

    def _job(self) -> tuple[int, Put | Wipe]:
        """What is to be done now, and its number: the first thing that is not where it belongs."""
        does = self._sim.task.does
        index = next((i for i in range(len(does) - 1) if not self._sim.seated(i)), len(does) - 1)
        return index, does[index]

    def _look(self) -> _Scene:
        sim = self._sim
        index, job = self._job()
        tool, yaw = upright_tool_of(sim.setpoint[0])
        moved, target = sim.object_pose(job.moved), sim.object_pose(job.target)
        # A bowl is moved with all that is nested in it.
        group = sim.task.handled[: index + 1]
        flat_m = float(np.linalg.norm(moved[:2, 3] - target[:2, 3]))
        if isinstance(job, Wipe):
            grip, grip_yaw = moved[:3, 3] + (0.0, 0.0, job.grip_m), _nearest_half_turn(_heading(moved))
            goal, at_target = self._dirt(moved, tool), len(sim.dirty_m) == 0
        elif sim.task.nests:
            azimuth = -math.pi / 2 if job.grip == "rim" else self._free_side(moved, target, group)
            rim = self._rim(azimuth, index)
            grip, grip_yaw = moved[:3, 3] + rim, _nearest_half_turn(azimuth + math.pi / 2)
            goal = np.array([target[0, 3] + rim[0], target[1, 3] + rim[1], TABLE_Z_M + job.release_m])
            if sim.held(*group):
                # The bowl hangs askew: aim with its underside's centre, not with its rim.
                goal[:2] = tool[:2] + target[:2, 3] - moved[:2, 3]
            at_target = flat_m < job.over_m and float(moved[2, 3]) > TABLE_Z_M + 0.004
        else:
            grip = moved[:3, 3] + (0.0, 0.0, job.grip_m)
            grip_yaw = 0.0 if job.grip == "upright" else _nearest_half_turn(_heading(moved))
            goal = np.array([target[0, 3], target[1, 3], TABLE_Z_M + job.release_m])
            at_target = flat_m < job.over_m
        # One pad may lose contact for a moment; a grip is one as long as the fingers are kept apart.
        gripped = sim.held(*group) or (sim.touched(*group) and sim.gripper_steady)
        held = gripped and not sim.gripper_target_open and sim.gripper_opening > _EMPTY
        # What was just let go, before the next thing is fetched: the fingers first open completely.
        letting_go = index > 0 and sim.gripper_target_open and sim.gripper_opening < 0.85
        return _Scene(
            job=job,
            tool_m=tool,
            yaw_rad=yaw,
            opening=sim.gripper_opening,
            object_m=grip,
            object_yaw_rad=grip_yaw,
            held=held,
            target_m=goal,
            at_target=at_target or letting_go,
        )

    def _rim(self, azimuth_rad: float, below: int) -> FloatArray:
        """(3,) the point of a bowl's rim, from its frame, where the wall lies between the fingers; ``below`` bowls are
        nested in it, so that their walls lie there too."""
        radius_m = STACK_BOWL.top_radius_m + 0.001 - 0.5 * below * STACK_BOWL.wall_m / math.cos(STACK_BOWL.slope_rad)
        return np.array(
            [radius_m * math.cos(azimuth_rad), radius_m * math.sin(azimuth_rad), STACK_BOWL.height_m - 0.003]
        )

    def _free_side(self, moved: FloatArray, target: FloatArray, group: tuple[str, ...]) -> float:
        """Azimuth of the rim at which the bowl is gripped: within reach here and at the target, the outer finger away
        from everything else, and the tool turned no further than needs be."""
        others = [name for name in self._sim.objects if name not in group]
        best, best_cost = 0.0, math.inf
        for azimuth in np.arange(8) * (math.pi / 4) - math.pi / 2:
            outward = np.array([math.cos(azimuth), math.sin(azimuth)])
            cost = 0.010 * abs(_nearest_half_turn(azimuth + math.pi / 2))
            for pose in (moved, target):
                grip = pose[:2, 3] + STACK_BOWL.top_radius_m * outward
                radius = float(np.linalg.norm(grip))
                cost += 10.0 * max(0.0, _GRIP_REACH_M[0] - radius, radius - _GRIP_REACH_M[1])
                finger = grip + _OUTER_FINGER_M * outward
                for name in others:
                    place = self._sim.object_pose(name)[:2, 3]
                    if pose is moved or float(np.linalg.norm(place - pose[:2, 3])) > 0.03:
                        gap = float(np.linalg.norm(place - finger)) - OBJECTS[name].radius_m
                        cost += max(0.0, 0.025 - gap)
            if cost < best_cost:
                best, best_cost = float(azimuth), cost
        return best

    def _dirt(self, cloth: FloatArray, tool_m: FloatArray) -> FloatArray:
        """Where the grip is to be drawn, for the cloth to lie flat and go over the nearest dirt and a little beyond."""
        # It may have slipped between the fingers.
        height_m = TABLE_Z_M + max(_LOWEST_M, float(tool_m[2] - cloth[2, 3]))
        ways = self._sim.dirty_m[:, :2] - cloth[:2, 3]
        if len(ways) == 0:
            return np.array([*tool_m[:2], height_m])
        way = ways[int(np.argmin(np.linalg.norm(ways, axis=1)))]
        beyond = _BEYOND_M / max(1e-3, float(np.linalg.norm(way)))
        return np.array([*(tool_m[:2] + (1.0 + beyond) * way), height_m])

    def _decide(self, scene: _Scene) -> Move:
        cfg, job = self.config, scene.job
        carry = TABLE_Z_M + job.carry_m
        here, height = scene.tool_m, float(scene.tool_m[2])
        if scene.held:
            goal = scene.target_m
            miss = float(np.linalg.norm(goal[:2] - here[:2]))
            wipes = isinstance(job, Wipe)
            if (scene.at_target if wipes else miss < cfg.reach_m) and height < goal[2] + cfg.reach_m:
                return Move(goal_m=goal, yaw_rad=scene.yaw_rad, open=True)
            # Down over the goal; a cloth stays down from one patch of dirt to the next.
            sink = min(1.0, max(0.0, (miss - (_STROKE_M if wipes else 0.006)) / 0.02))
            # Up first: sideways only once the object has left the table, over the rim only at full height.
            lifted = min(1.0, max(0.0, (height - carry + job.rise_m) / 0.03))
            rise = 1.0 if miss < (_STROKE_M + 0.02 if wipes else 0.02) else lifted
            aside = here[:2] + rise * (goal[:2] - here[:2])
            return Move(
                goal_m=np.array([*aside, goal[2] + sink * (carry - goal[2])]), yaw_rad=scene.yaw_rad, open=False
            )
        if scene.at_target:
            # Let go completely before leaving, or the fingers take the object along.
            away_m = carry + 0.02 if scene.opening > 0.85 else height
            return Move(goal_m=np.array([here[0], here[1], away_m]), yaw_rad=scene.yaw_rad, open=True)
        goal = scene.object_m
        miss = float(np.linalg.norm(goal[:2] - here[:2]))
        turn = abs(scene.object_yaw_rad - scene.yaw_rad)
        near = miss < cfg.reach_m and turn < 0.12 and abs(height - float(goal[2])) < cfg.reach_m
        closing = miss < 0.02 and scene.opening < 0.93 and abs(height - float(goal[2])) < 0.015
        if near or (closing and scene.opening > _EMPTY):
            return Move(goal_m=goal, yaw_rad=scene.yaw_rad, open=False)
        funnel_m = (None if isinstance(job, Wipe) else job.funnel_m) or cfg.funnel_m
        away = min(1.0, max(0.0, (miss + 0.03 * turn - cfg.reach_m) / funnel_m))
        if scene.opening < 0.85:
            away = 1.0
        goal = np.array([goal[0], goal[1], goal[2] + away * cfg.hover_m])
        # From below that height first up, then sideways: fingers must not sweep the object away.
        low = min(1.0, max(0.1, 1.0 - (float(goal[2]) - height) / 0.04))
        goal[:2] = here[:2] + low * (goal[:2] - here[:2])
        return Move(goal_m=goal, yaw_rad=scene.object_yaw_rad, open=True)


_NEAR_S = 0.01
"""Half the interval over which the tool's velocity is differenced."""
_AS_PLANNED_RAD = 0.08
"""A joint further off the plan than this makes the plan start again from where the arm is (about 25 mm)."""
_GRIP_REACH_M = (0.21, 0.37)
"""Distance from the base at which a rim is well gripped, and put down."""
_OUTER_FINGER_M = 0.05
"""The open outer finger is this far from the grip."""
_BEYOND_M = 0.012
"""A stroke goes this far beyond the dirt that it aims at."""
_LOWEST_M = 0.0135
"""Height of the grasp at which the fingertips just clear the table."""
_STROKE_M = 0.09
"""Dirt nearer than this is wiped without lifting the cloth."""
_EMPTY = 0.02
"""Opening below which the closed gripper holds nothing."""


def _foresee(scene: _Scene, tool_m: FloatArray, yaw_rad: float, is_open: bool) -> _Scene:
    """The scene one step later if all goes well: the gripper takes about three steps, a held object moves along."""
    opening = min(1.0, scene.opening + 0.35) if is_open else max(0.0, scene.opening - 0.35)
    moved = tool_m - scene.tool_m if scene.held and not is_open else np.zeros(3)
    held = (scene.held or (opening <= 0.3 and scene.opening > _EMPTY)) and not is_open
    return replace(
        scene,
        tool_m=tool_m,
        yaw_rad=yaw_rad,
        opening=opening,
        object_m=scene.object_m + moved,
        held=held,
        at_target=scene.at_target or (scene.held and is_open),
    )


def _heading(pose_44: FloatArray) -> float:
    """Direction of a pose's x axis on the table."""
    return math.atan2(pose_44[1, 0], pose_44[0, 0])


def _nearest_half_turn(angle_rad: float) -> float:
    """The same line's direction within ±90°."""
    return angle_rad - math.pi * round(angle_rad / math.pi)
