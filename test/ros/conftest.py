"""Every test has a ROS domain of its own, on loopback; logs go to a private folder."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator

import pytest

from lavla_ros.bringup.environment import ros_environment

os.environ.update(ros_environment())
os.environ["ROS_LOG_DIR"] = tempfile.mkdtemp(prefix="lavla-test-log-")

from ros_harness import World

_tests = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/test/ros/" in str(item.path):
            item.add_marker(pytest.mark.ros)


@pytest.fixture(autouse=True)
def domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a ROS domain of its own: what was killed in one is believed to be there for a while."""
    # Ports of a domain lie below the ephemeral range up to domain 101; 0 is everybody's. Up to four files run abreast,
    # each among domains of its own.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(20 + 4 * ((os.getpid() + next(_tests)) % 20) + worker % 4))


@pytest.fixture
def world() -> Iterator[World]:
    """A node in a context of its own, spinning in a thread."""
    made = World()
    try:
        yield made
    finally:
        made.close()
