"""An emulator on loopback, its ports chosen by the system; puts this folder on the import path (``jaka_peers``)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jaka_peers import ON_FREE_PORTS

from sim_bridges.jaka_controller.emulator import ControllerEmulator
from sim_bridges.jaka_controller.plant import KinematicPlant


@pytest.fixture
def plant() -> KinematicPlant:
    return KinematicPlant()


@pytest.fixture
def emulator(plant: KinematicPlant) -> Iterator[ControllerEmulator]:
    with ControllerEmulator(plant, ON_FREE_PORTS, realtime=False) as running:
        yield running
        assert running.failure is None
