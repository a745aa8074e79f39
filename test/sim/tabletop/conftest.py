"""Shared by the tabletop's tests: building a scene takes longer than an episode's physics."""

from __future__ import annotations

import pytest

from lavla_ros.contract import Contract, load_contract
from sim_bridges.worlds.tabletop.sim import TabletopSim
from sim_bridges.worlds.tabletop.suite import TabletopEnvironment, TabletopSuite


@pytest.fixture(scope="session")
def contract() -> Contract:
    return load_contract("jaka_minicobo")


@pytest.fixture(scope="session")
def pick_sim() -> TabletopSim:
    """Reset it before use."""
    return TabletopSim("pick_place")


@pytest.fixture(scope="session")
def stack_sim() -> TabletopSim:
    """Reset it before use."""
    return TabletopSim("stack_bowls")


@pytest.fixture(scope="session")
def wipe_sim() -> TabletopSim:
    """Reset it before use."""
    return TabletopSim("wipe_stain")


@pytest.fixture(scope="module")
def environment() -> TabletopEnvironment:
    """Without pictures. Reset it before use."""
    return TabletopSuite().environment("pick_place", images=False)
