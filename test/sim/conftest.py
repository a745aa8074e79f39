"""Simulators in one process."""

from __future__ import annotations

import sim_bridges  # noqa: F401  # chooses the OpenGL before a test imports MuJoCo
