"""Another shell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """A command, in a folder, and in a ROS domain of its own choice."""
    environment = {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
    command = [sys.executable, "-m", "lavla_ros.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def ended(started: Sequence[subprocess.Popen[str]], within_s: float = 600.0) -> None:
    """All of them, well. None goes on when one did not: it would take the cores from the tests that follow."""
    deadline = time.monotonic() + within_s
    try:
        for process in started:
            said, _ = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
            assert process.returncode == 0, said
    finally:
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=60.0)
