"""Pictures of a LIBERO scene, drawn when they are asked for and not before.

LIBERO samples its cameras within a control step, two physics steps before its end, and draws every one of them. Drawing
costs ten times the physics. Here the simulation is only copied at that moment, and drawn if the picture is used: the
same pixels, for a copy's price.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim_bridges.gl import no_gl_error

CAMERAS: Mapping[str, str] = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
"""Camera of the contract → of the simulation."""
_MAX_GEOMS = 1000
"""robosuite's own limit: beyond it, geometry is left out."""


class Pictures:
    """Draws the newest :meth:`capture`. The OpenGL context belongs to the thread of the first :meth:`draw`."""

    def __init__(self, model: Any, resolution: int) -> None:
        """``model``: a compiled MuJoCo model. ``resolution``: edge of the square pictures, pixels."""
        self._model = model
        self._resolution = resolution
        self._data = mujoco.MjData(model)
        self._site_rgba = np.array(model.site_rgba)
        self._renderer: Any = None
        self._option = mujoco.MjvOption()
        self._option.geomgroup[0] = 0  # collision geometry
        self._option.geomgroup[1] = 1
        # Since 3.3.3 MuJoCo honours the sRGB tags of texture files, and draws LIBERO much darker than its
        # demonstrations and everybody's policies know it.
        model.tex_colorspace[:] = int(mujoco.mjtColorSpace.mjCOLORSPACE_LINEAR)

    def capture(self, data: Any) -> None:
        """Keep what the cameras see of ``data`` now."""
        mujoco.mj_copyData(self._data, self._model, data)
        np.copyto(self._site_rgba, self._model.site_rgba)  # a burner that glows

    def draw(self, camera: str) -> NDArray[np.uint8]:
        """(resolution, resolution, 3) RGB as LIBERO gives it: upside down, row 0 at the bottom.

        ``camera`` is one of :data:`CAMERAS`. Raises NoGLError if no OpenGL works.
        """
        if self._renderer is None:
            self._renderer = self._make_renderer()
        now = np.array(self._model.site_rgba)
        self._model.site_rgba[:] = self._site_rgba
        try:
            self._renderer.update_scene(self._data, CAMERAS[camera], self._option)
        finally:
            self._model.site_rgba[:] = now
        picture: NDArray[np.uint8] = self._renderer.render()
        return picture[::-1]

    def close(self) -> None:
        """Free the OpenGL context, in the thread that drew; the next :meth:`draw` makes another."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _make_renderer(self) -> Any:
        size, buffer = self._resolution, self._model.vis.global_
        buffer.offwidth, buffer.offheight = max(buffer.offwidth, size), max(buffer.offheight, size)
        try:
            return mujoco.Renderer(self._model, size, size, _MAX_GEOMS)
        except (ImportError, RuntimeError, AttributeError, OSError, TypeError, mujoco.FatalError) as error:
            # PyOpenGL turns a missing library or an unusable driver into any of these.
            raise no_gl_error("LIBERO's", f"no context could be made ({error})") from error
