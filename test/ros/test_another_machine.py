"""Two network namespaces are two machines: one hears and commands nothing of the other, unless it is asked to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavla_ros.bringup.environment import DISCOVERY

ADDRESS = "10.77.0.{}"
OTHER = """
import sys, time
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
rclpy.init()
node = rclpy.create_node("other")
publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
problem = DiagnosticStatus(level=DiagnosticStatus.ERROR, name="camera: lavla", message="said by the other machine")
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    publisher.publish(DiagnosticArray(status=[problem]))
    rclpy.spin_once(node, timeout_sec=0.1)
print(node.get_node_names())
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces with a cable between them."""
    names = tuple(f"lavla{os.getpid()}{side}" for side in "ab")
    ip = shutil.which("ip")
    if ip is None or os.getuid() != 0:
        pytest.skip("network namespaces need root and iproute2")

    def run(*words: str) -> None:
        subprocess.run([str(ip), *words], check=True, capture_output=True, timeout=20.0)

    try:
        try:
            for name in names:
                run("netns", "add", name)
            run("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        for host, name in enumerate(names, 1):
            run("-n", name, "address", "add", ADDRESS.format(host) + "/24", "dev", "cable")
            for device in ("lo", "cable"):
                run("-n", name, "link", "set", device, "up")
            run("-n", name, "route", "add", "224.0.0.0/4", "dev", "cable")
        yield names[0], names[1]
    finally:
        for name in names:
            subprocess.run([ip, "netns", "delete", name], check=False, capture_output=True, timeout=20.0)


@pytest.mark.parametrize("network", [False, True])
def test_another_machine_is_heard_only_if_that_was_asked_for(
    machines: tuple[str, str], tmp_path: Path, network: bool
) -> None:
    def start(machine: str, reach: dict[str, str], *arguments: str, out: Path) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if name != DISCOVERY}
        if reach:
            environment.pop("FASTRTPS_DEFAULT_PROFILES_FILE", None)
        with out.open("wb") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", machine, sys.executable, *arguments],
                env=environment | {"ROS_DOMAIN_ID": "7"} | reach,
                stdout=file,
                stderr=file,
            )

    subnet = {DISCOVERY: "SUBNET"}
    heard, seen = tmp_path / "heard", tmp_path / "seen"
    ours = start(machines[0], subnet if network else {}, "-m", "lavla_ros.nodes.problems", out=heard)
    try:
        other = start(machines[1], {**subnet, "ROS_STATIC_PEERS": ADDRESS.format(1)}, "-c", OTHER, "6.0", out=seen)
        assert other.wait(40.0) == 0, seen.read_text()
        time.sleep(0.2)
        assert ours.poll() is None
    finally:
        ours.kill()
        ours.wait(10.0)
    assert ("said by the other machine" in heard.read_text()) is network, heard.read_text()
    assert ("problems" in seen.read_text()) is network, seen.read_text()
