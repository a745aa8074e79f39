"""What the expert may know: goal, gripper and objects, read from robosuite's environment under LIBERO's."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np

from lavla_ros.typing import FloatArray
from sim_bridges.worlds.libero.expert.boxes import Boxes, bodies_below, collision_boxes, footprint, sample_points
from sim_bridges.worlds.libero.jobs import Job, parse_jobs

_OPEN_M = 0.04
"""Travel of each of the Panda's fingers."""
_POINTS_APART_M = 0.02
_ABOVE_M = 0.05
"""LIBERO calls an object on a region if its position is up to 10 cm above it, measured across the region: this is the
middle."""
_EDGE_M = 0.012
_GAP_M = 0.004
"""Between things that are put on the same region, and from its edge."""
_OBLONG = 1.5
"""What is longer than it is wide by this factor fits into a narrow region in one direction only."""


def robosuite_env(env: Any) -> Any:
    """The robosuite environment inside ``env``: itself, LIBERO's wrapper around it, or something around that.

    Raises TypeError if there is none.
    """
    inner = env
    for _ in range(4):
        if hasattr(inner, "parsed_problem") and hasattr(inner, "obj_body_id"):
            return inner
        inner = getattr(inner, "env", None)
    raise TypeError(f"{type(env).__name__} holds no LIBERO environment: looked for .parsed_problem along .env")


class Scene:
    """Privileged view of a LIBERO environment. Always the present state; nothing is kept but what never changes.

    Positions are (3,) in metres in the world frame.
    """

    def __init__(self, env: Any) -> None:
        self._env = robosuite_env(env)
        self.jobs = parse_jobs(self._env.parsed_problem)
        self._trees: dict[int, frozenset[int]] = {}

    @property
    def success(self) -> bool:
        """The whole goal holds."""
        return bool(self._env._check_success())

    def holds(self, job: Job) -> bool:
        """The goal's part that is this job holds, whether or not the object is still in the hand."""
        return bool(self._env._eval_predicate(job.state))

    def gripped(self, job: Job) -> str:
        """Name of what the hand takes: the object itself, or the knob of one that is to be turned on."""
        if job.predicate != "turnon":
            return job.moved
        return str(self._model.body_id2name(int(self._model.jnt_bodyid[self._hinge(job)])))

    def turn_on_sign(self, job: Job) -> float:
        """1 if the knob is turned on counter-clockwise seen from above, else -1."""
        return float(np.sign(self._data.xaxis[self._hinge(job)][2]))

    def touches(self, name: str) -> bool:
        """Whether the object touches something that is not the robot."""
        model, data = self._model, self._data
        own = self._below(self._root(name))
        for contact in data.contact[: data.ncon]:
            pair = {int(model.geom_bodyid[contact.geom1]), int(model.geom_bodyid[contact.geom2])}
            others = [model.body_id2name(body) for body in pair - own]
            if len(others) == 1 < len(pair) and not others[0].startswith(("robot", "gripper")):
                return True
        return False

    @property
    def base_position(self) -> FloatArray:
        """Of the arm."""
        return np.array(self._data.body_xpos[self._model.body_name2id("robot0_base")])

    @property
    def grip_position(self) -> FloatArray:
        """The point between the fingertips that the controller moves."""
        return np.array(self._data.site_xpos[self._grip_site])

    @property
    def grip_rotation(self) -> FloatArray:
        """(3, 3): columns are sideways, the axis along which the fingers close, and the way the hand points."""
        closing = np.array(self._data.xaxis[self._model.joint_name2id("gripper0_finger_joint1")])
        pointing = np.array(self._data.site_xmat[self._grip_site]).reshape(3, 3)[:, 2]
        return np.stack([np.cross(closing, pointing), closing, pointing], axis=1)

    @property
    def finger_gap_m(self) -> float:
        """Sum of both fingers' travel: 0 closed, 0.08 open."""
        return float(np.abs(self._finger_travel).sum())

    def position(self, name: str) -> FloatArray:
        """Of an object's body, as LIBERO's predicates take it, or a knob's."""
        return np.array(self._data.body_xpos[self._root(name)])

    def boxes(self, name: str) -> Boxes:
        """An object's, fixture's or knob's collision geometry."""
        model = self._model
        return collision_boxes(model, self._data, self._below(self._root(name)))

    def obstacles(self, gripped: str) -> Boxes:
        """Everything on the table but what is gripped."""
        model = self._model
        bodies: set[int] = set()
        for root in self._env.obj_body_id.values():
            bodies |= self._below(root)
        return collision_boxes(model, self._data, bodies - self._below(self._root(gripped)))

    def target_position(self, job: Job) -> FloatArray:
        """Where the moved object's body must get to, were it alone there: another object's, or within a region. A knob
        stays where it is."""
        if job.predicate == "turnon":
            return self.position(self.gripped(job))
        if job.target in self._env.obj_body_id:
            return self.position(job.target)
        centre, turned, half = self._region(job.target)
        if job.predicate == "on":
            centre[:2] += turned[2, :2] * _ABOVE_M  # the region may be tilted
        elif _oblong(half):
            # A narrow place is met by the object's middle.
            centre[:2] += self.position(job.moved)[:2] - footprint(self.boxes(job.moved)).centre
        return centre

    def shares(self) -> dict[Job, FloatArray]:
        """Job → (3,) from its target to where its object is put, for objects that share a region: side by side."""
        shares = {job: np.zeros(3) for job in self.jobs}
        for target in {job.target for job in self.jobs} & set(self._env.object_sites_dict):
            sharing = [job for job in self.jobs if job.target == target]
            if len(sharing) < 2:
                continue
            half = self._region(target)[2]
            sizes = np.array([np.ptp(self.boxes(job.moved).corners().reshape(-1, 3), axis=0) for job in sharing])
            axis = int(sizes[:, :2].sum(axis=0).argmin())
            for job, size, side in zip(sharing, sizes[:, axis], np.linspace(-1.0, 1.0, len(sharing)), strict=True):
                beside = half[axis] - size / 2 if job.predicate == "in" else size / 2 + _GAP_M
                shares[job][axis] = side * np.clip(beside, 0.0, half[axis] - _EDGE_M)
        return shares

    def turn_into(self, job: Job) -> float:
        """Angle about the vertical by which an oblong object must be turned to fit into a narrow region, rad."""
        if job.predicate != "in" or not _oblong(half := self._region(job.target)[2]):
            return 0.0
        shape = footprint(self.boxes(job.moved))
        if shape.long_m < _OBLONG * shape.short_m:
            return 0.0
        return (0.0 if half[0] < half[1] else math.pi / 2) - shape.short_yaw_rad

    def open_gripper_points(self) -> FloatArray:
        """(P, 3) points on the hand and the wide open fingers, in the gripper's frame (see ``grip_rotation``)."""
        model, data = self._model, self._data
        points = []
        for body in sorted(self._below(model.body_name2id("gripper0_right_gripper"))):
            world = sample_points(collision_boxes(model, data, {body}), _POINTS_APART_M)
            local = (world - self.grip_position) @ self.grip_rotation
            if len(local) and "finger" in model.body_id2name(body):
                # As if open: the side of the middle that a finger is on tells which way it opens.
                local[:, 1] += np.sign(local[:, 1].mean()) * (_OPEN_M - self.finger_gap_m / 2)
            points.append(local)
        return np.concatenate(points)

    def _below(self, root: int) -> frozenset[int]:
        """The body and everything attached to it, which never changes."""
        if root not in self._trees:
            self._trees[root] = bodies_below(self._model, root)
        return self._trees[root]

    def _root(self, name: str) -> int:
        """Body of an object of the problem, or of that name in the model."""
        known = self._env.obj_body_id
        return int(known[name] if name in known else self._model.body_name2id(name))

    def _hinge(self, job: Job) -> int:
        model = self._model
        bodies = self._below(self._env.obj_body_id[job.moved])
        return next(
            joint
            for joint, (body, kind) in enumerate(zip(model.jnt_bodyid, model.jnt_type, strict=True))
            if int(body) in bodies and kind == mujoco.mjtJoint.mjJNT_HINGE
        )

    def _region(self, name: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Centre (3,), rotation (3, 3) and half edges in the world's directions (3,), as LIBERO compares with them."""
        site = self._model.site_name2id(name)
        turned = np.array(self._data.site_xmat[site]).reshape(3, 3)
        half = np.abs(turned @ np.asarray(self._env.object_sites_dict[name].size, np.float64))
        return np.array(self._data.site_xpos[site]), turned, half

    @property
    def _model(self) -> Any:
        return self._env.sim.model

    @property
    def _data(self) -> Any:
        return self._env.sim.data

    @property
    def _grip_site(self) -> int:
        return int(self._env.robots[0].eef_site_id)

    @property
    def _finger_travel(self) -> FloatArray:
        return np.array([self._data.qpos[i] for i in self._env.robots[0]._ref_gripper_joint_pos_indexes])


def _oblong(half: FloatArray) -> bool:
    return float(half[:2].max()) > _OBLONG * float(half[:2].min())
