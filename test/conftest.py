"""What tests of several tiers ask of the machine."""

from __future__ import annotations

import pytest

from sim_bridges.worlds.robotwin.vulkan import SapienError, render_system


@pytest.fixture(scope="session")
def vulkan() -> None:
    """Skips, saying what to install, where SAPIEN is not there or cannot draw."""
    try:
        render_system()
    except SapienError as error:
        pytest.skip(str(error))
