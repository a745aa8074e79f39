"""What the expert may know: goal, gripper and objects, read from robosuite's environment under LIBERO's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lavla_ros.errors import UserError
from lavla_ros.typing import FloatArray
from sim_bridges.worlds.libero.expert.boxes import Boxes, bodies_below, collision_boxes, sample_points

EXPERT_SUITES = ("libero_object", "libero_spatial")
"""Suites that the expert was made for and measured on."""

_OPEN_M = 0.04
"""Travel of each of the Panda's fingers."""
_POINTS_APART_M = 0.02


class NoExpertError(UserError, ValueError):
    """There is no scripted expert for this suite or goal."""


def require_expert(suite: str) -> None:
    """Raises NoExpertError if ``suite`` has no scripted expert."""
    if suite not in EXPERT_SUITES:
        raise NoExpertError(f"suite {suite!r} has no scripted expert; those that have one: {', '.join(EXPERT_SUITES)}")


@dataclass(frozen=True, slots=True)
class Goal:
    """Put ``moved`` into the basket or onto the plate."""

    kind: Literal["basket", "plate"]
    moved: str
    """The object's name in LIBERO's problem, such as ``milk_1``."""
    target: str
    """Name of the site (basket) or of the object (plate)."""


def parse_goal(problem: dict[str, Any]) -> Goal:
    """The goal of a parsed BDDL problem. Raises NoExpertError if the expert does not know how to reach it."""
    states = [[str(word) for word in state] for state in problem["goal_state"]]
    if len(states) == 1 and len(states[0]) == 3:
        predicate, moved, target = states[0]
        if predicate.lower() == "in" and target.startswith("basket_") and target.endswith("_contain_region"):
            return Goal("basket", moved, target)
        if predicate.lower() == "on" and "bowl" in moved and target.startswith("plate_"):
            return Goal("plate", moved, target)
    raise NoExpertError(
        f"no scripted expert reaches the goal {states}: it puts one object into the basket or one bowl onto the plate "
        f"(the suites {', '.join(EXPERT_SUITES)})"
    )


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
    """Privileged view of a LIBERO environment. Always the present state; nothing is kept but the names.

    Positions are (3,) in metres in the world frame.
    """

    def __init__(self, env: Any) -> None:
        self._env = robosuite_env(env)
        self.goal = parse_goal(self._env.parsed_problem)

    @property
    def success(self) -> bool:
        return bool(self._env._check_success())

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
        """Of an object's body, as LIBERO's predicates take it."""
        return np.array(self._data.body_xpos[self._env.obj_body_id[name]])

    def boxes(self, name: str) -> Boxes:
        """An object's or fixture's collision geometry."""
        model = self._model
        return collision_boxes(model, self._data, bodies_below(model, self._env.obj_body_id[name]))

    def obstacles(self) -> Boxes:
        """Everything on the table but the object to be moved."""
        model = self._model
        bodies: set[int] = set()
        for name, root in self._env.obj_body_id.items():
            if name != self.goal.moved:
                bodies |= bodies_below(model, root)
        return collision_boxes(model, self._data, bodies)

    def target_position(self) -> FloatArray:
        """Where the moved object's body must get to: centre of the basket's region, or the plate's body."""
        if self.goal.kind == "basket":
            site = self._model.site_name2id(self.goal.target)
            return np.array(self._data.site_xpos[site])
        return self.position(self.goal.target)

    def open_gripper_points(self) -> FloatArray:
        """(P, 3) points on the hand and the wide open fingers, in the gripper's frame (see ``grip_rotation``)."""
        model, data = self._model, self._data
        points = []
        for body in sorted(bodies_below(model, model.body_name2id("gripper0_right_gripper"))):
            world = sample_points(collision_boxes(model, data, {body}), _POINTS_APART_M)
            local = (world - self.grip_position) @ self.grip_rotation
            if len(local) and "finger" in model.body_id2name(body):
                # As if open: the side of the middle that a finger is on tells which way it opens.
                local[:, 1] += np.sign(local[:, 1].mean()) * (_OPEN_M - self.finger_gap_m / 2)
            points.append(local)
        return np.concatenate(points)

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
