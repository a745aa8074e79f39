"""Distances between the shapes of an arm and of its cell, by Pinocchio and coal.

Every arm capsule is grown by its margin, so that a *slack* is a distance less the margin: below 0 the pair is closer
than it may be. Two capsules of the arm are compared unless they are on the same link or on neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import coal
import eigenpy
import numpy as np
import pinocchio as pin

from lavla_ros.config import ConfigError
from lavla_ros.control.arm import Arm
from lavla_ros.control.chain import Chain
from lavla_ros.control.kinematics import model_of
from lavla_ros.control.scene import BASE, SINGULAR, Capsule, Scene, load_scene
from lavla_ros.typing import FloatArray

TIP = "tool tip"
_TIP_RADIUS_M = 0.001


def capsules_of(chain: Chain) -> tuple[Capsule, ...]:
    """A capsule along each link, from a joint to the next one: a guess, to be looked at by a person.

    Its radius is 6% of the arm's length, about that of the cobots that we know. A link without length has none.
    """
    ends = [*chain.origin_xyz_m, chain.flange_xyz_m]
    radius_m = 0.06 * sum(math.hypot(*end) for end in ends)
    return tuple(
        Capsule(name=name, link=link, start_m=(0.0, 0.0, 0.0), end_m=end, radius_m=radius_m)
        for name, link, end in zip(
            [BASE, *(f"link of {name}" for name in chain.joint_names)], [BASE, *chain.joint_names], ends, strict=True
        )
        if math.hypot(*end) > 1e-3
    )


def clearance_of(arm: Arm, scene: str | Path) -> Clearance:
    """The arm in a scene (:func:`lavla_ros.control.scene.load_scene`).

    Raises ConfigError for an arm without a chain, for a scene that does not fit it, and if shapes are closer than
    their margin where the arm starts: such shapes would never let it move.
    """
    if arm.chain is None:
        raise ConfigError(
            f"scene {str(scene)!r}: the arm has no chain, so that no distance is known; run without a scene"
        )
    try:
        clearance = Clearance(arm.chain, arm.capsules, load_scene(scene))
    except ConfigError as error:
        raise ConfigError(f"scene {str(scene)!r}: {error}") from None
    slacks = clearance.slacks(arm.start_rad)
    solid = np.array(
        [second != SINGULAR for _, second in clearance.pairs], dtype=bool
    )  # an arm may start in such a one
    close = [clearance.told(int(pair), float(slacks[pair])) for pair in np.flatnonzero((slacks < 0.0) & solid)]
    if close:
        raise ConfigError(
            f"scene {str(scene)!r}: where the arm starts, {'; '.join(close)}. Correct the shapes, or name pairs that "
            "cannot touch under ignore"
        )
    return clearance


class Clearance:
    """Slacks of one arm in one scene. Not thread-safe: it has one place to compute in."""

    def __init__(self, chain: Chain, capsules: Sequence[Capsule], scene: Scene) -> None:
        """``capsules``: those of the arm; empty: :func:`capsules_of` the chain. The scene adds the tool's.

        Raises ConfigError for a link that the model does not have, a name that two shapes share, or a pair of
        ``scene.ignore`` that names nothing.
        """
        model = model_of(chain).copy()
        last = model.njoints - 1
        place = pin.SE3(np.eye(3), np.array(scene.tip_m))
        self._tip_frame = model.addFrame(pin.Frame(TIP, last, place, pin.FrameType.OP_FRAME))
        self._model, self._data = model, model.createData()
        self._guessed = not capsules
        self._shapes = pin.GeometryModel()
        self._links = {BASE: 0, **{name: i for i, name in enumerate(model.names) if i}}
        self.pairs: list[tuple[str, str]] = []
        """Names of the two shapes of each pair."""
        self._margins: list[float] = []
        self._ends: list[tuple[Capsule | None, Capsule]] = []
        capsules = (*(capsules or capsules_of(chain)), *scene.tool)
        names = [c.name for c in capsules] + [plane.name for plane in scene.planes] + [box.name for box in scene.boxes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"the arm and the scene both have shapes named {twice}; a name may stand once")
        self.tool_speed_m_s = scene.tool_speed_m_s
        self._tip_m = np.array(scene.tip_m)
        self._ignore = {frozenset(pair) for pair in scene.ignore}
        unknown = sorted({name for pair in scene.ignore for name in pair} - set(names))
        if unknown:
            raise ConfigError(f"scene: ignore names {unknown}; the shapes are {names}")
        self._add_self_pairs(chain, capsules, scene.self_margin_m)
        self._add_scene_pairs(capsules, scene)
        self._add_workspace(scene)
        self._results = self._shapes.createData()
        self.reach_PJ = np.array([self._reach(*ends) for ends in self._ends]).reshape(-1, model.njoints - 1)
        """m per radian (1 per radian of the singular posture): the slack of a pair does not change by more when a joint
        moves."""
        tip = Capsule(name=TIP, link=model.names[last], start_m=scene.tip_m, end_m=scene.tip_m, radius_m=_TIP_RADIUS_M)
        self.tip_reach_J = self._reach(None, tip)
        """(J,) m per radian: the tool's tip does not move further when a joint moves."""
        self._at, self._length_m = np.zeros(last), float(self.tip_reach_J[0])
        self._per_length_61 = np.array([[1.0 / self._length_m]] * 3 + [[1.0]] * 3)
        if scene.singular_margin > 0.0:
            self.pairs.append(("the arm", SINGULAR))
            self._margins.append(scene.singular_margin)
            self.reach_PJ = np.vstack((self.reach_PJ, self._singular_reach()))

    def place(self, position_rad: Sequence[float] | FloatArray) -> None:
        """The arm is at these joint positions (J,), rad, for :meth:`slack_of`."""
        self._at = np.asarray(position_rad, dtype=np.float64)
        pin.updateGeometryPlacements(self._model, self._data, self._shapes, self._results, self._at)

    def slack_of(self, pair: int) -> float:
        """The slack of one pair, m, where the arm was placed."""
        if pair == len(self._ends):
            return self._singular_value() - self._margins[pair]
        return float(pin.computeDistance(self._shapes, self._results, pair).min_distance)

    def tip(self, position_rad: Sequence[float] | FloatArray) -> FloatArray:
        """(3,) the tool's tip in the base frame, m."""
        pin.forwardKinematics(self._model, self._data, np.asarray(position_rad, dtype=np.float64))
        return np.array(self._data.oMi[self._model.njoints - 1].act(self._tip_m))

    def slacks(self, position_rad: Sequence[float] | FloatArray) -> FloatArray:
        """(P,) slack of every pair, m."""
        self.place(position_rad)
        return np.array([self.slack_of(pair) for pair in range(len(self.pairs))])

    def told(self, pair: int, slack_m: float) -> str:
        """What is too close to what, for a person."""
        first, second = self.pairs[pair]
        if second == SINGULAR:
            least = self._margins[pair]
            return f"{first} would be {slack_m + least:.3f} (singular value) from a {second}; the margin is {least:g}"
        margin_mm = 1e3 * self._margins[pair]
        if first == TIP:
            return f"the {TIP} would be {-1e3 * slack_m:.0f} mm outside of the workspace ({second})"
        return f"{first} would be {1e3 * slack_m + margin_mm:.0f} mm from {second}; the margin is {margin_mm:.0f} mm"

    def _singular_value(self) -> float:
        """The smallest singular value of the tip's Jacobian where the arm was placed, lengths in those of the arm."""
        jacobian_6J = pin.computeFrameJacobian(self._model, self._data, self._at, self._tip_frame, pin.LOCAL)
        jacobian_6J *= self._per_length_61
        # The eigenvalues of the smaller product are the squares of the singular values, in a third of their time.
        few = jacobian_6J.shape[1] < 6
        gram = jacobian_6J.T @ jacobian_6J if few else jacobian_6J @ jacobian_6J.T
        squares = eigenpy.SelfAdjointEigenSolver(gram, eigenpy.DecompositionOptions.EigenvaluesOnly).eigenvalues()
        return math.sqrt(max(0.0, float(squares[0])))

    def _singular_reach(self) -> FloatArray:
        """(J,) how much the smallest singular value changes at most by a joint: no more than the Jacobian does.

        Seen from the base a joint moves the axes behind it, and the tip under those before; seen from behind it, the
        axes before it. Singular values are the same in both frames: the smaller one of the two Frobenius norms.
        """
        reach_J = self.tip_reach_J / self._length_m
        bounds = []
        for joint, reach in enumerate(reach_J):
            behind, before = reach_J[joint + 1 :], reach_J[:joint]
            seen_from_base = float((behind**2 + 1.0).sum()) + (joint + 1) * float(reach**2)
            seen_from_behind = float((before**2 + 1.0).sum())
            bounds.append(math.sqrt(min(seen_from_base, seen_from_behind)))
        return np.array(bounds)

    def _add(self, name: str, joint: int, shape: object, placement: pin.SE3) -> int:
        return int(self._shapes.addGeometryObject(pin.GeometryObject(name, joint, placement, shape)))

    def _add_capsule(self, capsule: Capsule, grown_m: float, suffix: str) -> int:
        if capsule.link not in self._links:
            raise ConfigError(f"capsule {capsule.name}: link is {capsule.link!r}; expected one of {list(self._links)}")
        start, end = np.array(capsule.start_m), np.array(capsule.end_m)
        length = float(np.linalg.norm(end - start))
        up = np.array([0.0, 0.0, 1.0])
        along = (end - start) / length if length > 1e-9 else up
        turn = pin.Quaternion.FromTwoVectors(up, along).matrix()
        shape = coal.Capsule(capsule.radius_m + grown_m, length)
        return self._add(capsule.name + suffix, self._links[capsule.link], shape, pin.SE3(turn, (start + end) / 2))

    def _compare(
        self, near: Capsule | None, far: Capsule, shapes: tuple[int, int], names: tuple[str, str], margin_m: float
    ) -> None:
        self._shapes.addCollisionPair(pin.CollisionPair(*shapes))
        self._ends.append((near, far))
        self.pairs.append(names)
        self._margins.append(margin_m)

    def _add_self_pairs(self, chain: Chain, capsules: Sequence[Capsule], margin_m: float) -> None:
        lengths = [math.hypot(*origin) for origin in chain.origin_xyz_m]
        indices = [self._add_capsule(capsule, margin_m / 2, " (self)") for capsule in capsules]
        for k, far in enumerate(capsules):
            for i, near in enumerate(capsules[:k]):
                first, last = sorted((self._links[near.link], self._links[far.link]))
                apart = last - first > 1
                if self._guessed:  # a guess has no wrist: what is so near along the arm always touches
                    apart &= sum(lengths[first + 1 : last]) > near.radius_m + far.radius_m + margin_m
                if apart and frozenset((near.name, far.name)) not in self._ignore:
                    self._compare(near, far, (indices[i], indices[k]), (near.name, far.name), margin_m)

    def _add_scene_pairs(self, capsules: Sequence[Capsule], scene: Scene) -> None:
        solids: list[tuple[str, int, float]] = []
        for plane in scene.planes:
            normal = np.array(plane.normal) / np.linalg.norm(plane.normal)
            half_space = coal.Halfspace(normal, float(normal @ np.array(plane.point_m)))
            index = self._add(plane.name, 0, half_space, pin.SE3.Identity())
            solids.append((plane.name, index, scene.margin_m if plane.margin_m is None else plane.margin_m))
        for box in scene.boxes:
            placement = pin.SE3(pin.rpy.rpyToMatrix(*box.rpy_rad), np.array(box.centre_m))
            index = self._add(box.name, 0, coal.Box(*box.size_m), placement)
            solids.append((box.name, index, scene.margin_m if box.margin_m is None else box.margin_m))
        for capsule in capsules:
            if capsule.link == BASE:
                continue
            for margin in sorted({margin for _, _, margin in solids}):
                index = self._add_capsule(capsule, margin, f" + {margin:g} m")
                for name, solid, own in solids:
                    if own == margin and frozenset((capsule.name, name)) not in self._ignore:
                        self._compare(None, capsule, (index, solid), (capsule.name, name), margin)

    def _add_workspace(self, scene: Scene) -> None:
        if scene.workspace is None:
            return
        last = self._model.names[self._model.njoints - 1]
        tip = Capsule(name=TIP, link=last, start_m=scene.tip_m, end_m=scene.tip_m, radius_m=_TIP_RADIUS_M)
        point = self._add_capsule(tip, 1e-6 - _TIP_RADIUS_M, "")
        for axis, letter in enumerate("xyz"):
            for sign, bound in ((1.0, scene.workspace.low_m[axis]), (-1.0, scene.workspace.high_m[axis])):
                normal = np.zeros(3)
                normal[axis] = sign
                name = f"{letter} {'≥' if sign > 0 else '≤'} {bound:g} m"
                wall = self._add(name, 0, coal.Halfspace(normal, sign * bound), pin.SE3.Identity())
                self._compare(None, tip, (point, wall), (TIP, name), 0.0)

    def _reach(self, near: Capsule | None, far: Capsule) -> FloatArray:
        """(J,) of a capsule against another one, or against something that does not move."""
        first, last = 0 if near is None else self._links[near.link], self._links[far.link]
        first, last, far = (first, last, far) if near is None or first <= last else (last, first, near)
        reach = np.zeros(self._model.njoints - 1)
        span = max(math.hypot(*far.start_m), math.hypot(*far.end_m))
        for joint in range(last, first, -1):
            reach[joint - 1] = span
            span += float(np.linalg.norm(self._model.jointPlacements[joint].translation))
        return reach
