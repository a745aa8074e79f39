"""LIBERO's assets, where this machine has them; everything that needs a scene is skipped without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[4] / "shared" / "libero_assets"


@pytest.fixture(scope="session")
def libero_assets() -> str:
    """Folder of LIBERO's scene assets."""
    pytest.importorskip("libero", reason="LIBERO is not installed")
    named = os.environ.get("LAVLA_LIBERO_ASSETS", "")
    if named:
        return named
    if not SHARED.is_dir():
        pytest.skip(f"no LIBERO assets: LAVLA_LIBERO_ASSETS is not set and {SHARED} does not exist")
    return str(SHARED)
