"""Pictures of the tabletop, without a display.

Real shadow maps would cost five times the rest on a CPU, so soft contact shadows are drawn as flat discs
instead: the depth cue stays.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim_bridges.gl import GL_PACKAGES, NoGLError, no_gl_error
from sim_bridges.worlds.tabletop.scene import OBJECTS, TABLE_Z_M

if TYPE_CHECKING:
    from sim_bridges.worlds.tabletop.sim import TabletopSim

__all__ = ["CAMERAS", "GL_PACKAGES", "NoGLError", "TabletopRenderer"]
CAMERAS = ("front", "wrist", "overview")


class TabletopRenderer:
    """Renders the cameras of one scene. One instance per process and thread; ``close`` frees the context."""

    def __init__(self, sim: TabletopSim, size: int | tuple[int, int] = 224) -> None:
        """``sim``: a TabletopSim. ``size``: edge or (height, width), pixels.

        Raises NoGLError with the packages to install if no OpenGL works.
        """
        height, width = (size, size) if isinstance(size, int) else size
        if os.environ.get("MUJOCO_GL", "").lower() in ("disable", "disabled", "off", "false", "0"):
            raise no_gl_error("the tabletop's", "rendering is switched off")
        self._sim = sim
        # The context takes its buffer sizes from the model: no larger than needed, clearing them costs time.
        sim.model.vis.global_.offwidth, sim.model.vis.global_.offheight = width, height
        sim.model.vis.quality.offsamples = 0
        sim.model.vis.quality.numslices = 16
        try:
            self._renderer: Any = mujoco.Renderer(sim.model, height, width)
        except (ImportError, RuntimeError, AttributeError, OSError, TypeError, mujoco.FatalError) as error:
            # PyOpenGL turns a missing library or an unusable driver into any of these.
            raise no_gl_error("the tabletop's", f"no context could be made ({error})") from error
        # Freed while Python still stands: the EGL bindings cannot be called during interpreter shutdown.
        self._finalizer = weakref.finalize(self, self._renderer.close)
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False  # slow: see _add_contact_shadows
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        model = sim.model
        shadows = [(name, OBJECTS[name].shadow_m) for name in sim.objects]
        self._blobs = [(model.body(name).id, radius) for name, radius in shadows if radius > 0.0]
        self._blobs += [
            (model.body(name).id, radius)
            for name, radius in (("gripper", 0.040), ("finger_left", 0.014), ("finger_right", 0.014))
        ]

    def render(self, camera: str) -> NDArray[np.uint8]:
        """(height, width, 3) RGB of ``front``, ``wrist`` or ``overview`` as the sim is now; KeyError for others."""
        if camera not in CAMERAS:
            raise KeyError(f"the tabletop has no camera {camera!r}; it has {list(CAMERAS)}")
        self._renderer.update_scene(self._sim.data, camera)
        self._add_contact_shadows()
        return np.array(self._renderer.render())

    def _add_contact_shadows(self) -> None:
        scene = self._renderer.scene
        for body, radius in self._blobs:
            x, y, z = self._sim.data.xpos[body]
            height = max(0.0, float(z) - TABLE_Z_M)
            # The higher the thing, the wider and fainter its shadow.
            size = np.array([radius * (1.0 + 0.8 * height), 0.0002, 0.0])
            alpha = 0.42 / (1.0 + 6.0 * height)
            mujoco.mjv_initGeom(
                scene.geoms[scene.ngeom],
                mujoco.mjtGeom.mjGEOM_CYLINDER,
                size,
                np.array([float(x), float(y), TABLE_Z_M + 0.0006]),
                np.eye(3).reshape(9),
                np.array([0.08, 0.09, 0.10, alpha], dtype=np.float32),
            )
            scene.ngeom += 1

    def close(self) -> None:
        """Free the OpenGL context; calling it again does nothing."""
        self._finalizer()
