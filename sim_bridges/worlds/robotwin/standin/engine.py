"""The stand-in's physics."""

from __future__ import annotations

from typing import Any

from sim_bridges.worlds.robotwin.vulkan import import_sapien


def physics_scene() -> Any:
    """A scene of 250 Hz physics on the CPU, without a renderer: it needs no Vulkan. Raises SapienMissing."""
    sapien = import_sapien()
    # These are SAPIEN's settings for whatever is built next in the process, not the scene's: set every time.
    sapien.physx.set_scene_config(enable_enhanced_determinism=True)
    sapien.physx.set_body_config(solver_position_iterations=16, solver_velocity_iterations=1)
    sapien.physx.set_shape_config(contact_offset=0.01, rest_offset=0.0)
    scene = sapien.Scene([sapien.physx.PhysxCpuSystem()])
    scene.set_timestep(1 / 250)
    return scene
