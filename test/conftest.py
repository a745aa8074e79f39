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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take a minute and more come first: begun last, one would leave the other cores with nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
