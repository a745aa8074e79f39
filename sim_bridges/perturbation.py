"""What an evaluation changes in a scene that a policy knows, after the robustness benchmarks of others.

One mechanism for every suite on MuJoCo: its options extend :class:`PerturbationOptions`, its environment asks a
:class:`Perturbation`. Directions are drawn from the episode's seed and from nothing else, so that a scene without
perturbations keeps its bits, and equal options give equal episodes. Success is judged as ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from lavla_ros.config import check
from lavla_ros.typing import FloatArray
from sim_bridges.world import SuiteError

Wording = Literal["known", "polite", "other_verbs", "embedded"]
_VERBS = {"pick up": "grab", "put": "set", "place": "set", "stack": "pile up", "wipe": "clean", "turn on": "switch on"}
_CAMERA, _POSE = 101, 102
"""Begin the seeds of what is drawn here."""
_SEEN = 0.96
"""A thing is in the picture if its middle is within this part of it, in both directions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbationOptions:
    """What a suite may be told to change in its scenes; the defaults change nothing."""

    light: float = 1.0
    """Factor of the brightness of all lights."""
    camera_shift_m: float = 0.0
    """How far the static camera is moved in each episode, in a direction of the episode's own, m."""
    start_shift_rad: float = 0.0
    """How far each joint of the arm begins from its usual place, to one or the other side, rad."""
    wording: Wording = "known"
    """How the instruction is put: as in the demonstrations, politely, with other verbs, or within other words."""

    def __post_init__(self) -> None:
        check(0.1 <= self.light <= 3.0, "light", self.light, "0.1 to 3: beyond, nothing can be seen")
        check(0.0 <= self.camera_shift_m <= 0.5, "camera_shift_m", self.camera_shift_m, "0 to 0.5")
        check(0.0 <= self.start_shift_rad <= 0.3, "start_shift_rad", self.start_shift_rad, "0 to 0.3")


UNPERTURBED = PerturbationOptions()


def perturbed(options: PerturbationOptions) -> dict[str, Any]:
    """Name → value of what is changed; empty if nothing is."""
    given = {f.name: (getattr(options, f.name), f.default) for f in fields(PerturbationOptions)}
    return {name: value for name, (value, usual) in given.items() if value != usual}


def perturbations_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Name → value, from the settings that a results.json holds; empty if nothing was changed."""
    options = settings.get("options")
    names = {f.name: str(f.default) for f in fields(PerturbationOptions)}
    given = options if isinstance(options, Mapping) else {}
    return {name: str(given[name]) for name, usual in names.items() if name in given and str(given[name]) != usual}


def reworded(instruction: str, wording: Wording) -> str:
    """The instruction in other words of the same meaning."""
    text = instruction.strip()
    plain = text[:1].lower() + text[1:].rstrip(".")
    if wording == "polite":
        return f"Could you please {plain}?"
    if wording == "embedded":
        return f"There is something to do on this table: {plain}, and nothing else."
    if wording == "other_verbs":
        for verb, other in _VERBS.items():
            plain = f" {plain} ".replace(f" {verb} ", f" {other} ").strip()
        return plain
    return instruction


class Perturbation:
    """The perturbations of one environment."""

    def __init__(self, options: PerturbationOptions, model: Any, camera: str) -> None:
        """``model``: its compiled MuJoCo model, which is changed; ``camera``: the static one."""
        self.options = options
        self._model = model
        self._camera = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        self._name = camera
        self._usual = np.array(model.cam_pos[self._camera])
        if options.light != 1.0:
            headlight = model.vis.headlight
            for light in (model.light_ambient, model.light_diffuse, headlight.ambient, headlight.diffuse):
                light[:] = np.asarray(light) * options.light

    def start_shift(self, seed: Sequence[int], joints: int) -> FloatArray | None:
        """(joints,) rad, of this episode; None: there is none."""
        if not self.options.start_shift_rad:
            return None
        signs = np.random.default_rng([_POSE, *seed]).choice([-1.0, 1.0], joints)
        shift: FloatArray = self.options.start_shift_rad * signs
        return shift

    def move_camera(self, seed: Sequence[int], data: Any, things: Mapping[str, int]) -> None:
        """Put the camera where it stands in this episode; ``things``: name → body of what the task is about.

        Raises SuiteError if it sees one of them no more that it saw from its usual place.
        """
        shift = self.options.camera_shift_m
        if not shift:
            return
        direction = np.random.default_rng([_CAMERA, *seed]).normal(size=3)
        seen = self._seen(data, things)
        try:
            self._model.cam_pos[self._camera] = self._usual + shift * direction / np.linalg.norm(direction)
            hidden = sorted(seen - self._seen(data, things))
        except BaseException:
            self._model.cam_pos[self._camera] = self._usual
            raise
        if hidden:
            self._model.cam_pos[self._camera] = self._usual
            raise SuiteError(
                f"camera_shift_m={shift:g} hides {', '.join(hidden)} from camera {self._name!r} in the episode of seed "
                f"{'/'.join(map(str, seed))}: no policy could do the task. Take a smaller one"
            )

    def _seen(self, data: Any, things: Mapping[str, int]) -> set[str]:
        """Which of the things have their middle in the picture, with nothing of another thing before it."""
        return {name for name, body in things.items() if self._sees(data, body)}

    def _sees(self, data: Any, body: int) -> bool:
        model, camera = self._model, self._camera
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        eye, turned = np.array(data.cam_xpos[camera]), np.array(data.cam_xmat[camera]).reshape(3, 3)
        target = np.array(data.xipos[body])
        right, up, back = turned.T @ (target - eye)
        reach = -back * np.tan(np.radians(model.cam_fovy[camera]) / 2)
        if back >= 0 or max(abs(right), abs(up)) > _SEEN * reach:
            return False
        line = target - eye
        hit: NDArray[np.int32] = np.full(1, -1, np.int32)
        mujoco.mj_ray(model, data, eye, line / np.linalg.norm(line), None, 1, -1, hit)
        if hit[0] < 0:
            return True
        owner = int(model.geom_bodyid[hit[0]])
        # a table that shines through a bowl's middle hides nothing
        return int(model.body_rootid[owner]) in (int(model.body_rootid[body]), 0)
