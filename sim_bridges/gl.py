"""Which OpenGL MuJoCo renders with, chosen without the user. Imports nothing of MuJoCo: it must run before it."""

from __future__ import annotations

import ctypes.util
import os
import sys
from pathlib import Path

from lavla_ros.errors import UserError

GL_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libosmesa6"
"""Debian and Ubuntu packages that let MuJoCo render on a machine without a GPU or display."""
_VENDORS = (Path("/usr/share/glvnd/egl_vendor.d"), Path("/etc/glvnd/egl_vendor.d"))


class NoGLError(UserError, RuntimeError):
    """No OpenGL back end works on this machine."""


def choose_gl_backend() -> str | None:
    """Set ``MUJOCO_GL`` to ``egl``, else ``osmesa``, whichever is installed; leaves a user's choice alone.

    Returns the choice, None where neither is installed: physics works all the same, rendering says what is missing.
    """
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        _let_pyopengl_follow(chosen)
        return chosen
    if sys.platform != "linux":
        return None
    # libEGL alone is only a dispatcher: without a vendor's driver it has no device to render on.
    vendor = any(folder.is_dir() and any(folder.glob("*.json")) for folder in _VENDORS)
    backend = "egl" if vendor and ctypes.util.find_library("EGL") else None
    if backend is None and ctypes.util.find_library("OSMesa"):
        backend = "osmesa"
    if backend is not None:
        os.environ["MUJOCO_GL"] = backend
        _let_pyopengl_follow(backend)
    return backend


def _let_pyopengl_follow(backend: str) -> None:
    """MuJoCo refuses where PyOpenGL was told another platform (a shell often still has robosuite's advice)."""
    if backend in ("egl", "osmesa"):
        os.environ["PYOPENGL_PLATFORM"] = backend


def no_gl_error(whose: str, cause: str) -> NoGLError:
    """The error that names the cause, the setting in force and the packages to install."""
    return NoGLError(
        f"{whose} cameras need OpenGL, but {cause}. MUJOCO_GL is {os.environ.get('MUJOCO_GL', 'not set')!r} "
        f"(egl and osmesa need no display). On Debian or Ubuntu: apt-get install {GL_PACKAGES}"
    )
