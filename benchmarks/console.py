"""What the console costs: CPU time of its process while a browser has its page open, and its cameras are looked at.

The robot is its topics alone (:mod:`benchmarks.probes.robot`). The page is in a headless Chromium, which asks for
everything but the pictures; those are read here, so that they are counted. CPU time does not depend on what else the
machine does; a machine that is too busy shows in the rates. ``lavla bench console --out FILE.json``. What it does
to the arm's punctuality is measured by ``lavla bench servo --console``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from benchmarks.config import ConsoleBench
from lavla_ros.bringup.domain import free_domains
from lavla_ros.bringup.environment import ros_environment
from lavla_ros.contract import load_contract
from lavla_ros.errors import FailedError
from lavla_ros.lifeline import lifeline

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
STARTS_S = 120.0
_TICKS_HZ = os.sysconf("SC_CLK_TCK")


def run(config: ConsoleBench) -> dict[str, Any]:
    """Measure for ``duration_s`` after ``settle_s``. Raises FailedError without a Chromium, or if nothing is shown."""
    with ExitStack() as made:
        folder = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="lavla-bench-")))
        (domain,), _ = made.enter_context(free_domains(1))
        environment = ros_environment() | lifeline() | {"ROS_DOMAIN_ID": str(domain)}
        given = (f"contract:={config.contract}", f"camera_rate_hz:={config.camera_rate_hz}")
        robot = ["benchmarks.probes.robot", "--ros-args", *(word for each in given for word in ("-p", each))]
        log = folder / "robot.log"
        made.enter_context(_process([sys.executable, "-m", *robot], log, environment))
        _wait(log, "lavla-ready")
        console = made.enter_context(WatchedConsole(folder, config.contract, environment))
        time.sleep(config.settle_s)
        console.begin()
        time.sleep(config.duration_s)
        figures = console.figures()
    return {
        "benchmark": "console",
        **figures,
        "asked_hz": config.camera_rate_hz,
        "cores": len(os.sched_getaffinity(0)),
    }


class WatchedConsole:
    """``with WatchedConsole(…) as console``: the console of a robot whose topics are there, and somebody who looks."""

    def __init__(self, folder: Path, contract: str, environment: Mapping[str, str]) -> None:
        """``folder``: for its logs. ``environment``: of the robot's nodes. Raises FailedError without a Chromium."""
        browser = next(filter(None, map(shutil.which, BROWSERS)), None)
        if browser is None:
            raise FailedError(f"none of {', '.join(BROWSERS)} is installed; a page has to be open to cost anything")
        self._browser, self._environment = browser, environment
        self._folder, self._contract, self._log = folder, contract, folder / "console.log"
        self._cameras = load_contract(contract).camera_names
        self._made = ExitStack()

    def __enter__(self) -> Self:
        words = ("--contract", self._contract, "--bags", str(self._folder / "console_bags"), "--port", "0")
        command = [sys.executable, "-m", "lavla_ros.nodes.console", *words, "--mapping", "browser"]
        profile = f"--user-data-dir={self._folder / 'browser'}"
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--blink-settings=imagesEnabled=false", profile)
        with ExitStack() as made:
            self._console = made.enter_context(_process(command, self._log, self._environment))
            address = _wait(self._log, r"open (http://\S+)")
            log = self._folder / "browser.log"
            made.enter_context(_process([self._browser, *options, address], log, os.environ))
            streams = [f"{address}camera/{camera}.mjpg" for camera in self._cameras]
            self._streams = [made.enter_context(_stream(stream)) for stream in streams]
            self._made = made.pop_all()
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def begin(self) -> None:
        """Count from now on."""
        self._before = [stream[0] for stream in self._streams]
        self._before_cpu_s, self._begin_s = _cpu_s(self._console.pid), time.monotonic()

    def figures(self) -> dict[str, Any]:
        """Since :meth:`begin`. Raises FailedError if a camera was not shown."""
        seen = [stream[0] - first for stream, first in zip(self._streams, self._before, strict=True)]
        if self._console.poll() is not None or not all(seen):
            said = self._log.read_text(encoding="utf-8")[-500:]
            raise FailedError(f"the console showed {seen} pictures; the end of {self._log}: {said}")
        wall_s, used_s = time.monotonic() - self._begin_s, _cpu_s(self._console.pid) - self._before_cpu_s
        rates = (round(count / wall_s, 2) for count in seen)
        return {
            "wall_s": round(wall_s, 2),
            "cpu_s": round(used_s, 2),
            "share_of_a_core": round(used_s / wall_s, 4),
            "pictures_hz": dict(zip(self._cameras, rates, strict=True)),
        }


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_HZ


def _wait(log: Path, pattern: str) -> str:
    """What the log says; the pattern's first group, if it has one. Raises FailedError."""
    give_up_s = time.monotonic() + STARTS_S
    while (found := re.search(pattern, log.read_text(encoding="utf-8"))) is None:
        if time.monotonic() > give_up_s:
            raise FailedError(f"{log.name} does not say {pattern!r}; its end: {log.read_text(encoding='utf-8')[-500:]}")
        time.sleep(0.05)
    return found[found.re.groups]


@contextmanager
def _process(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _stream(address: str) -> Iterator[list[int]]:
    """How many pictures have come, in a list of one number, while the block runs."""
    count, opened = [0], urllib.request.urlopen(address, timeout=STARTS_S)

    def read() -> None:
        while length := re.search(rb"Content-Length: (\d+)", b"".join(iter(opened.readline, b"\r\n"))):
            opened.read(int(length[1]) + 2)
            count[0] += 1

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    yield count
    # The stream ends with the console, which is ended next.
