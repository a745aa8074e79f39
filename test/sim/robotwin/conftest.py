"""SAPIEN, where it is installed; and a driver to draw with, where this machine has one."""

from __future__ import annotations

import pytest

from sim_bridges.robotwin.vulkan import NoVulkanError, SapienMissing, import_sapien, render_system


@pytest.fixture(scope="session", autouse=True)
def sapien() -> object:
    try:
        return import_sapien()
    except SapienMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def vulkan() -> None:
    """Skips, saying what to install, where SAPIEN cannot draw."""
    try:
        render_system()
    except NoVulkanError as error:
        pytest.skip(str(error))
