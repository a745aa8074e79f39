"""The console in a real browser, over the simulated tabletop: episodes are recorded and judged, faults cleared."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ros_harness import wait_until

from lavla_ros.recording.library import Library
from sim_bridges.jaka_controller.emulator import emulator_command

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.alone, pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")]
PATIENCE_MS = 30_000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Console:
    """``lavla console`` as a person starts it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.bags, self.arm_port, self.log = folder / "bags", free_port(), folder / "console.log"
        words = ["record_demos", f"bags:={self.bags}", f"port:={self.arm_port}", f"status_port:={free_port()}"]
        command = [sys.executable, "-m", "lavla_ros.cli", "console", *words, "--port", "0", *options]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            found = wait_until(lambda: re.search(r"open (http://\S+)", self.log.read_text()), "the page", 180.0)
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


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    started = Console(tmp_path_factory.mktemp("console"))
    yield started
    started.close()
    assert "Traceback" not in started.log.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


class Person:
    """One browser with the page open."""

    def __init__(self, browser: Any, console: Console, *, pictures: bool = False, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.context.set_default_timeout(PATIENCE_MS)
        if not pictures:  # without a GPU they cost a browser more than all else
            self.context.route("**/*.mjpg", lambda route: route.abort())
        self.open(console.address)

    def open(self, address: str) -> None:
        self.page = self.context.new_page()
        self.page.goto(address)

    def sees(self, what: str, text: str) -> None:
        shown = self.page.locator(f".{what}").filter(has_text=text)
        sync_api.expect(shown.first).to_be_visible(timeout=PATIENCE_MS)

    def operates(self) -> None:
        """Has the controls, or takes them when the browser before has been away for long enough."""
        take = self.button("Take the controls")
        wait_until(lambda: self.page.locator(".role").inner_text() != "", "the page")
        if self.page.locator(".role").inner_text() == "You watch":
            sync_api.expect(take).to_be_enabled(timeout=PATIENCE_MS)
            take.click()
        self.sees("role", "You operate")

    def button(self, text: str) -> Any:
        return self.page.get_by_role("button", name=text, exact=True)

    def row(self, name: str) -> Any:
        return self.page.locator("li").filter(has_text=name)


@pytest.fixture
def person(browser: Any, console: Console, request: pytest.FixtureRequest) -> Iterator[Person]:
    made = Person(browser, console, pictures=request.function is test_a_session_by_keys_and_clicks)
    yield made
    made.context.close()


def outcomes(console: Console) -> dict[str, tuple[str, bool]]:
    return {each.name: (each.outcome, each.discarded) for each in Library(console.bags).episodes()}


def test_a_session_by_keys_and_clicks(console: Console, person: Person) -> None:
    person.sees("role", "You operate")
    person.sees("state", "standing")
    image = person.page.locator(".cameras img").first
    wait_until(lambda: image.evaluate("i => i.naturalWidth") == 224, "a live picture")
    person.page.keyboard.press("r")
    person.sees("episode", "RECORDING")
    # a page that crashes in the middle loses nothing, and stops nothing
    person.page.close()
    person.open(console.address)
    person.sees("episode", "RECORDING episode_000000")
    person.sees("role", "You operate")
    person.page.keyboard.press("s")
    person.sees("said", "succeeded")
    assert outcomes(console) == {"episode_000000": ("succeeded", False)}, "on disk before it is shown"

    row = person.row("episode_000000")
    wait_until(lambda: row.locator("img").evaluate("i => i.naturalWidth") == 224, "its first picture")
    row.get_by_role("button", name="It is a failure").click()
    person.sees("name", "episode_000000: failed")
    assert outcomes(console) == {"episode_000000": ("failed", False)}
    row.get_by_label("Note").fill("the mango slipped")
    row.get_by_label("Note").press("Enter")
    person.sees("said", "Noted")
    assert Library(console.bags).episodes()[0].note == "the mango slipped"
    row.get_by_role("button", name="Discard").dblclick()
    person.sees("name", "episode_000000: discarded")
    assert outcomes(console) == {"episode_000000": ("failed", True)}
    person.row("episode_000000").get_by_role("button", name="Restore").click()
    person.sees("name", "episode_000000: failed")
    row.get_by_role("button", name="Replay").click()
    replayed = person.page.locator(".replay img").first
    wait_until(lambda: replayed.evaluate("i => i.naturalWidth") == 224, "the episode's pictures")
    person.button("Close").click()

    # a double click is one click: the second must not discard what the first has saved
    person.page.keyboard.press("r")
    person.sees("episode", "RECORDING episode_000001")
    person.button("Discard (D)").dblclick()
    person.sees("said", "episode_000001 was discarded")
    assert outcomes(console) == {"episode_000000": ("failed", False), "episode_000001": ("unmarked", True)}


def test_one_operates_and_the_other_watches(browser: Any, console: Console, person: Person) -> None:
    person.operates()
    other = Person(browser, console)
    other.sees("role", "You watch")
    other.sees("state", "standing")
    for name in ("Hold (H)", "Record (R)"):
        sync_api.expect(other.button(name)).to_be_disabled()
    other.page.keyboard.press("r")
    sync_api.expect(other.button("Take the controls")).to_be_disabled()
    person.button("Give the controls away").click()
    other.button("Take the controls").click()
    other.sees("role", "You operate")
    person.sees("role", "You watch")
    assert "RECORDING" not in person.page.locator(".episode").inner_text()
    # who operates leaves: after a while the controls are free
    other.context.close()
    sync_api.expect(person.button("Take the controls")).to_be_enabled(timeout=PATIENCE_MS)
    person.button("Take the controls").click()
    person.sees("role", "You operate")


def test_a_fault_is_shown_with_its_cause_and_cleared(console: Console, person: Person) -> None:
    person.operates()
    person.button("Hold (H)").click()
    person.sees("reason", "waiting for resume")
    person.button("Resume").click()
    person.sees("reason", "waiting for a chunk")
    emulator_command("127.0.0.1", console.arm_port, fault={"protective_stop": True})
    person.sees("state", "FAULT")
    person.sees("reason", "protective")
    person.button("Acknowledge the fault").click()
    person.sees("reason", "waiting for resume")  # nothing moves because a fault was cleared
    person.sees("state", "standing")
    person.button("Resume").click()
    person.sees("reason", "waiting for a chunk")


def test_the_arm_is_moved_from_the_page_by_who_operates_as_long_as_it_is_held(
    browser: Any, console: Console, person: Person
) -> None:
    person.operates()

    def measured() -> list[float]:
        return [float(each) for each in person.page.locator(".joints td:nth-child(3)").all_inner_texts()]

    def is_moved(*keys: str) -> None:
        """On a busy machine an answer may come too late: the person lets go, and presses again."""

        def moves() -> bool:
            page, before = person.page, measured()
            if "| moving" not in page.locator(".steered").inner_text():
                for key in keys:
                    page.keyboard.up(key)
                page.locator(".pad").focus()
                for key in keys:
                    page.keyboard.down(key)
            page.wait_for_timeout(600)
            return abs(measured()[0] - before[0]) > 0.01

        wait_until(lambda: len(measured()) == 7, "joints")
        wait_until(moves, "the arm moves", 60.0)

    def comes_to_rest() -> None:
        person.sees("state", "standing")
        before = measured()
        person.page.wait_for_timeout(700)
        assert max(abs(a - b) for a, b in zip(measured(), before, strict=True)) < 0.005

    is_moved("Space", "a")
    person.sees("commander", "A person has the arm")
    person.page.keyboard.up("Space")  # the dead-man alone
    comes_to_rest()
    person.page.keyboard.up("a")
    person.button("Hand back").click()  # which waits until the arm stands
    person.sees("commander", "Nobody commands")

    for lets_go in (
        lambda: person.page.evaluate("dispatchEvent(new Event('blur'))"),
        lambda: person.page.keyboard.press("Tab"),
        # the page hangs: that it has let go is what the other side concludes
        lambda: person.page.evaluate(
            "() => void setTimeout(() => { for (const t = Date.now() + 2500; Date.now() < t;); })"
        ),
    ):
        is_moved("Space", "d")
        lets_go()
        person.page.wait_for_timeout(1500)
        comes_to_rest()
    for key in ("Space", "d"):
        person.page.keyboard.up(key)

    # a stick, with the dead-man held by its key
    stick = person.page.locator(".stick").first.bounding_box()
    assert stick is not None
    person.page.mouse.move(stick["x"] + stick["width"] / 2, stick["y"] + stick["height"] / 2)
    person.page.mouse.down()
    person.page.mouse.move(stick["x"] + 2, stick["y"] + stick["height"] / 2)
    is_moved("Space")
    person.page.mouse.up()
    person.page.keyboard.up("Space")
    comes_to_rest()
    person.page.keyboard.press("r")  # in the pad it is a direction
    assert "RECORDING" not in person.page.locator(".episode").inner_text()

    is_moved("Space", "a")
    person.page.close()
    person.open(console.address)
    person.sees("role", "You operate")
    comes_to_rest()

    other = Person(browser, console)
    other.sees("role", "You watch")
    other.page.evaluate(
        """() => { const pad = new WebSocket(location.href.replace("http", "ws") + "pad");
                   pad.onmessage = (asked) => pad.send(asked.data + ' {"deadman": 1, "a": 1}'); }"""
    )
    other.page.wait_for_timeout(1000)
    comes_to_rest()
    other.context.close()


def test_two_consoles_at_once_but_not_on_the_same_bags(console: Console, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lavla_ros.cli", "console", "record_demos", f"bags:={console.bags}", "--port", "0"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60.0, check=False)
    assert refused.returncode == 1 and "is being written by another process" in refused.stderr
    other = Console(tmp_path)
    try:
        for address in {console.address, other.address}:
            with urllib.request.urlopen(address, timeout=30.0) as page:
                assert b"record_demos" in page.read()
        assert other.address != console.address
    finally:
        other.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_it_fits_and_nothing_jumps(browser: Any, console: Console, width: int, scheme: str) -> None:
    person = Person(browser, console, color_scheme=scheme)
    page = person.page
    page.set_viewport_size({"width": width, "height": 844})
    person.sees("state", "")
    wait_until(lambda: page.locator(".joints td").count() > 6, "joints")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # every control is reached with the keyboard alone
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel || ''"))
    assert {"Instruction", "Speed scale"} <= reached
    tops = "Array.from(document.querySelectorAll('section')).map(e => e.getBoundingClientRect().top + scrollY)"
    page.evaluate("scrollTo(0, 0)")
    before = page.evaluate(tops)
    page.wait_for_timeout(1500)
    assert page.evaluate(tops) == before
    person.context.close()
