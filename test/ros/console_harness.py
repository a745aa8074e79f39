"""``lavla console`` as a process, and people with a headless Chromium who use its page."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from ros_harness import wait_until

from lavla_ros.bringup.environment import ros_environment

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
NEEDS_CHROMIUM = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
PATIENCE_MS = 60_000
_OPTIONS = ["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]
"""WebGL, without which a headset has nothing to show, is computed."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Console:
    """``lavla console`` as a person starts it."""

    def __init__(self, folder: Path, *words: str, stack: str = "record_demos", port: int = 0) -> None:
        """``words``: further arguments of the stack, and options of the command."""
        self.bags, self.arm_port, self.log = folder / "bags", free_port(), folder / "console.log"
        arguments = [stack, f"bags:={self.bags}", f"port:={self.arm_port}", f"status_port:={free_port()}"]
        command = [sys.executable, "-m", "lavla_ros.cli", "console", *arguments, *words, "--port", str(port)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            found = wait_until(lambda: re.search(r"open (http://\S+)", self.log.read_text()), "the page", 600.0)
        except AssertionError as error:
            self.close()
            raise AssertionError(f"{error}; it said: {self.log.read_text()}") from None
        self.address = found[1]

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(60.0)
        except subprocess.TimeoutExpired:  # its nodes end with it
            self.process.kill()
            self.process.wait()


@contextmanager
def served(words: list[str], folder: Path, log: Path) -> Iterator[str]:
    """A ``lavla`` command that serves a page, in a folder, until it is ended with Ctrl-C: the address."""
    command = [sys.executable, "-m", "lavla_ros.cli", *words]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=ros_environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        found = wait_until(lambda: re.search(r": open (http://\S+)", log.read_text()), "the page", 600.0)
        yield found[1]
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60.0)
    assert "Traceback" not in log.read_text()


@contextmanager
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=_OPTIONS)
        yield started
        started.close()


class Person:
    """One browser with the page open: that of a :class:`Console`, or another one with an ``address``."""

    def __init__(
        self, browser: Any, console: Any, *, pictures: bool = False, address: str = "", **options: Any
    ) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.context.set_default_timeout(PATIENCE_MS)
        if not pictures:  # without a GPU they cost a browser more than all else
            self.context.route("**/*.mjpg", lambda route: route.abort())
        self.open(address or console.address)

    def open(self, address: str) -> None:
        self.page = self.context.new_page()
        self.page.goto(address)

    def shows(self, what: str) -> str:
        """The text of the page's line of that class."""
        return str(self.page.locator(f".{what}").first.inner_text())

    def sees(self, what: str, text: str) -> None:
        shown = self.page.locator(f".{what}").filter(has_text=text)
        sync_api.expect(shown.first).to_be_visible(timeout=PATIENCE_MS)

    def operates(self) -> None:
        """Has the controls, or takes them when the browser before has been away for long enough."""
        take = self.button("Take the controls")

        def has() -> bool:
            if self.shows("role") != "You operate":
                with suppress(sync_api.Error):  # not to be had yet, or this page's meanwhile
                    take.click(timeout=2000)
            return self.shows("role") == "You operate"

        wait_until(has, "the controls", 60.0)

    def button(self, text: str) -> Any:
        return self.page.get_by_role("button", name=text, exact=True)

    def row(self, name: str) -> Any:
        return self.page.locator("li").filter(has_text=name)

    def measured(self) -> list[float]:
        """The arm's state as the page shows it; empty before it has one."""
        shown = self.page.locator(".joints td:nth-child(3)").all_inner_texts()
        return [] if "–" in shown else [float(each) for each in shown]

    def is_moved(self, *keys: str) -> float:
        """Joint 1 moves while the keys are held; by how much, rad. On a busy machine an answer may come too late: the
        person lets go, and presses again."""

        def moves() -> float:
            before = self.measured()
            if "| moving" not in self.shows("steered"):
                self.lets_go(*keys)
                self.page.locator(".pad").focus()
                for key in keys:
                    self.page.keyboard.down(key)
            self.page.wait_for_timeout(600)
            moved = self.measured()[0] - before[0]
            return moved if abs(moved) > 0.01 and "| moving" in self.shows("steered") else 0.0

        wait_until(lambda: len(self.measured()) == 7, "joints")
        return float(wait_until(moves, "the arm moves", 60.0))

    def lets_go(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.up(key)

    def comes_to_rest(self) -> None:
        self.sees("state", "standing")
        self.page.wait_for_timeout(1000)  # it stands by then (0.8 s), and the page shows where
        before = self.measured()
        self.page.wait_for_timeout(700)
        assert max(abs(a - b) for a, b in zip(self.measured(), before, strict=True)) < 0.005
