"""What the judging page starts, which moves an arm, ends with the page, however that one ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("nicegui", reason="NiceGUI is not installed")

STARTER = """
import time
from sim_bridges.judging.page import Command
Command(["lavla_ros.cli", "emulator", "--port", "0", "--status-port", "0"])
time.sleep(120.0)
"""


def test_it_ends_when_the_page_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        said = next(line for line in starter.stdout if "commands on" in line)
        address = re.search(r"commands on ([\d.]+):(\d+)", said)
        assert address is not None
        assert _listens(address[1], int(address[2]))
        starter.send_signal(signal.SIGKILL)
    give_up_s = time.monotonic() + 30.0
    while _listens(address[1], int(address[2])):
        assert time.monotonic() < give_up_s, "it goes on alone"
        time.sleep(0.1)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1.0).close()
    except OSError:
        return False
    return True
