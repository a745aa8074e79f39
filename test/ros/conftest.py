"""Every test has a ROS domain of its own, on loopback; logs go to a private folder."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lavla_ros.bringup.environment import ros_environment

os.environ.update(ros_environment())
os.environ["ROS_LOG_DIR"] = tempfile.mkdtemp(prefix="lavla-test-log-")

from mock_controllers import MockController
from ros_harness import World, wait_until

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


@pytest.fixture
def make(world: World) -> Iterator[Callable[..., MockController]]:
    """Makes controllers of ros2_control in the world's process: by name, joints and what MockController takes."""
    made: list[MockController] = []

    def controller(name: str, joints: tuple[str, ...], **given: Any) -> MockController:
        made.append(MockController(name, joints, context=world.context, **given))
        world.spin(made[-1])
        return made[-1]

    yield controller
    for node in made:
        world.forget(node)
        node.destroy_node()


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """An emulated controller in a process of its own: its ports."""
    log = tmp_path / "emulator.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "sim_bridges.jaka_controller.emulator", "--port", "0", "--status-port", "0"],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    pattern = re.compile(r"commands on [\d.]+:(\d+), status on port (\d+)")
    try:
        found = wait_until(lambda: pattern.search(log.read_text()), "the emulator's ports")
        yield {"arm.port": int(found[1]), "arm.status_port": int(found[2]), "arm.power_on": True}
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10.0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from console_harness import chromium  # playwright, which not everybody has

    with chromium() as started:
        yield started
