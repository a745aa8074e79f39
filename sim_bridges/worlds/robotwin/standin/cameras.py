"""Three cameras, as RoboTwin's (D435: 320x240, 37 degrees high).

Everything is drawn in a scene of its own, which copies the bodies' poses when a picture is asked for: physics neither
waits for nor depends on it, and needs no Vulkan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim_bridges.worlds.robotwin.standin.body import Body
from sim_bridges.worlds.robotwin.vulkan import import_sapien, render_system

WIDTH_PX, HEIGHT_PX, FOVY_RAD = 320, 240, math.radians(37)
NEAR_M, FAR_M = 0.1, 100.0
HEAD_EYE_M, HEAD_LOOKS_AT_M = (0.0, -0.60, 1.58), (0.0, -0.05, 0.76)
AMBIENT = (0.5, 0.5, 0.5)
LAMP_DIRECTION, LAMP_COLOUR = (0.35, 0.5, -0.8), (0.45, 0.45, 0.45)
SHADERS = Path(__file__).parent / "shaders"


class Cameras:
    """``head_camera``, and ``left_camera`` and ``right_camera`` on the hands."""

    def __init__(self, bodies: Sequence[Body], hands: Sequence[tuple[str, Callable[[], Any]]]) -> None:
        """``hands``: name of a wrist camera and what gives its SAPIEN pose (x forward, y left, z up).

        Raises NoVulkanError if nothing can be drawn here, SapienMissing.
        """
        sapien = import_sapien()
        self._scene = sapien.Scene([render_system()])
        self._scene.set_ambient_light(AMBIENT)
        self._scene.add_directional_light(LAMP_DIRECTION, LAMP_COLOUR, shadow=False)
        self._bodies = [(self._draw(sapien, body), body) for body in bodies]
        self._cameras = {"head_camera": self._camera(sapien)}
        self._cameras["head_camera"].entity.set_pose(looking(HEAD_EYE_M, HEAD_LOOKS_AT_M))
        self._hands = []
        for name, pose in hands:
            self._cameras[name] = camera = self._camera(sapien)
            self._hands.append((camera.entity, pose))

    def observe(self, *, rgb: bool) -> dict[str, dict[str, Any]]:
        """By camera: ``intrinsic_cv`` (3, 3), ``extrinsic_cv`` (3, 4), ``cam2world_gl`` (4, 4), and, if asked for,
        ``rgb`` (240, 320, 3) uint8."""
        for entity, pose in self._hands:
            entity.set_pose(pose())
        if rgb:
            for entity, body in self._bodies:
                entity.set_pose(body.pose())
        self._scene.update_render()
        seen: dict[str, dict[str, Any]] = {}
        for name, camera in self._cameras.items():
            seen[name] = {
                "intrinsic_cv": camera.get_intrinsic_matrix(),
                "extrinsic_cv": camera.get_extrinsic_matrix(),
                "cam2world_gl": camera.get_model_matrix(),
            }
            if rgb:
                camera.take_picture()
        if rgb:  # all of them are drawn before the first one is waited for
            for name, camera in self._cameras.items():
                seen[name]["rgb"] = _to_uint8(camera.get_picture("Color"))
        return seen

    def _draw(self, sapien: Any, body: Body) -> Any:
        component = sapien.render.RenderBodyComponent()
        for part in body.parts:
            shape = sapien.render.RenderShapeBox(
                part.half_size_m, sapien.render.RenderMaterial(base_color=[*part.colour, 1.0])
            )
            shape.local_pose = sapien.Pose(part.at_m)
            component.attach(shape)
        entity = sapien.Entity()
        entity.add_component(component)
        entity.set_pose(body.pose())
        self._scene.add_entity(entity)
        return entity

    def _camera(self, sapien: Any) -> Any:
        camera = sapien.render.RenderCameraComponent(WIDTH_PX, HEIGHT_PX, str(SHADERS))
        camera.set_fovy(FOVY_RAD, compute_x=True)
        camera.near, camera.far = NEAR_M, FAR_M
        entity = sapien.Entity()
        entity.add_component(camera)
        self._scene.add_entity(entity)
        return camera


def looking(eye_m: Sequence[float], at_m: Sequence[float]) -> Any:
    """SAPIEN pose of a camera (x forward, y left, z up) at ``eye_m`` that looks at ``at_m``, the horizon level."""
    forward = np.subtract(at_m, eye_m)
    forward = forward / np.linalg.norm(forward)
    left = np.cross([0.0, 0.0, 1.0], forward)
    left /= np.linalg.norm(left)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([forward, left, np.cross(forward, left)], axis=1)
    matrix[:3, 3] = eye_m
    return import_sapien().Pose(matrix)


def _to_uint8(colour: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (np.clip(colour[..., :3], 0.0, 1.0) * 255).astype(np.uint8)
