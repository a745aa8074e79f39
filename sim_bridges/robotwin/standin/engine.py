"""SAPIEN, imported only where a scene is built: nothing else of the package needs it."""

from __future__ import annotations

import importlib
import warnings
from typing import Any


class StandinError(RuntimeError):
    """The stand-in cannot do that here; the message says why."""


class SapienMissing(StandinError):
    """SAPIEN is not installed, or cannot be loaded."""


def import_sapien() -> Any:
    """The module ``sapien``. Raises SapienMissing."""
    try:
        with warnings.catch_warnings():
            # Without a system libvulkan it warns and takes its own; physics needs neither.
            warnings.simplefilter("ignore", UserWarning)
            return importlib.import_module("sapien")
    except ImportError as error:
        raise SapienMissing(
            f"SAPIEN cannot be loaded ({error}): run `make`, or `pip install -c constraints.txt --no-deps sapien` beside "
            "the extra `robotwin` (docs/robotwin.md)"
        ) from None


def physics_scene() -> Any:
    """A scene of 250 Hz physics on the CPU, without a renderer: it needs no Vulkan."""
    sapien = import_sapien()
    # These are SAPIEN's settings for whatever is built next in the process, not the scene's: set every time.
    sapien.physx.set_scene_config(enable_enhanced_determinism=True)
    sapien.physx.set_body_config(solver_position_iterations=16, solver_velocity_iterations=1)
    sapien.physx.set_shape_config(contact_offset=0.01, rest_offset=0.0)
    scene = sapien.Scene([sapien.physx.PhysxCpuSystem()])
    scene.set_timestep(1 / 250)
    return scene
