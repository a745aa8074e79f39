"""The console in a real browser, over the simulated tabletop: episodes are recorded and judged, faults cleared."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from console_harness import NEEDS_CHROMIUM, PATIENCE_MS, Console, Person, sync_api
from ros_harness import wait_until

from lavla_ros.recording.library import Library
from sim_bridges.jaka_controller.emulator import emulator_command

pytestmark = [pytest.mark.alone, NEEDS_CHROMIUM]


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    started = Console(tmp_path_factory.mktemp("console"))
    yield started
    started.close()
    assert "Traceback" not in started.log.read_text()


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


def test_two_benchmarks_of_the_console() -> None:
    command = [sys.executable, "-m", "lavla_ros.cli", "bench", "console", "--duration", "3", "--settle-s", "3"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in started:
        said, _ = process.communicate(timeout=300.0)
        assert process.returncode == 0
        figures = json.loads(said)
        assert set(figures["pictures_hz"]) == {"front", "wrist"} and min(figures["pictures_hz"].values()) > 0
        assert figures["cpu_s"] > 0 and figures["wall_s"] >= 3.0


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
