"""SAPIEN, where it is installed."""

from __future__ import annotations

import pytest

from sim_bridges.worlds.robotwin.vulkan import SapienMissing, import_sapien


@pytest.fixture(scope="session", autouse=True)
def sapien() -> object:
    try:
        return import_sapien()
    except SapienMissing as error:
        pytest.skip(str(error))
