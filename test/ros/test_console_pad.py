"""The pad of the console's page in a real browser, over the simulated tabletop: what moves the arm, what must not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from console_harness import NEEDS_CHROMIUM, PATIENCE_MS, Console, Person, sync_api
from ros_harness import wait_until

pytestmark = [pytest.mark.alone, NEEDS_CHROMIUM]


class Network:
    """Between a browser and the console: what goes through it is held back while it is cut, and comes late."""

    def __init__(self, console: Console) -> None:
        self._to = urlsplit(console.address).port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._whole = asyncio.Event()
        self._run(self._begin())
        self.address = f"http://localhost:{self._server.sockets[0].getsockname()[1]}/"

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.clear)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.set)

    def close(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30.0)

    async def _begin(self) -> None:
        self._whole.set()
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        await self._whole.wait()
        writer.close()


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    started = Console(tmp_path_factory.mktemp("console"), "camera_rate_hz:=2.0")
    yield started
    started.close()
    assert "Traceback" not in started.log.read_text()


@pytest.fixture
def person(browser: Any, console: Console) -> Iterator[Person]:
    made = Person(browser, console, has_touch=True)
    made.operates()
    yield made
    made.context.close()


def test_the_arm_moves_while_it_is_held_and_goes_back_once_it_stands(person: Person) -> None:
    hand_back = person.button("Hand back")
    person.is_moved("Space", "a")
    person.sees("commander", "A person has the arm")
    sync_api.expect(hand_back).to_be_disabled()  # the next chunk would take the arm again
    person.lets_go("Space")  # the dead-man alone
    person.comes_to_rest()
    person.lets_go("a")
    hand_back.click()
    person.sees("commander", "Nobody commands")
    sync_api.expect(hand_back).to_be_disabled()

    # a stick, with the dead-man held by its key
    stick = person.page.locator(".stick").first.bounding_box()
    assert stick is not None
    person.page.mouse.move(stick["x"] + stick["width"] / 2, stick["y"] + stick["height"] / 2)
    person.page.mouse.down()
    person.page.mouse.move(stick["x"] + 2, stick["y"] + stick["height"] / 2)
    person.is_moved("Space")
    person.page.mouse.up()
    person.lets_go("Space")
    person.comes_to_rest()
    person.page.keyboard.press("r")  # in the pad it is a direction
    assert "RECORDING" not in person.shows("episode")


def _loses_the_focus(person: Person) -> None:
    """Another page is in front; keys that are let go there are not seen here."""
    session = person.context.new_cdp_session(person.page)
    session.send("Emulation.setFocusEmulationEnabled", {"enabled": False})
    other = person.context.new_page()
    other.bring_to_front()
    wait_until(lambda: not person.page.evaluate("document.hasFocus()"), "the focus goes")
    person.page.wait_for_timeout(1000)
    other.close()
    person.page.bring_to_front()
    session.send("Emulation.setFocusEmulationEnabled", {"enabled": True})


def _leaves_the_pad(person: Person) -> None:
    person.page.keyboard.press("Tab")


def _writes_an_instruction(person: Person) -> None:
    person.page.get_by_label("Instruction").focus()


def _hangs(person: Person) -> None:
    person.page.evaluate("() => void setTimeout(() => { for (const t = Date.now() + 2500; Date.now() < t;); })")


def _is_hidden(person: Person) -> None:
    """Headless, no page is ever behind another: it is told that it is."""
    person.page.evaluate(
        """() => { Object.defineProperty(document, "visibilityState", {value: "hidden", configurable: true});
                   document.dispatchEvent(new Event("visibilitychange", {bubbles: true}));
                   delete document.visibilityState; }"""
    )


@pytest.mark.parametrize("lets_go", [_loses_the_focus, _leaves_the_pad, _writes_an_instruction, _hangs, _is_hidden])
def test_a_page_that_is_not_looked_at_has_let_go(person: Person, lets_go: Callable[[Person], None]) -> None:
    """With the keys held on: nothing moves before they are pressed again."""
    person.is_moved("Space", "d")
    lets_go(person)
    person.page.wait_for_timeout(1500)
    person.comes_to_rest()
    assert "| moving" not in person.shows("steered")
    person.lets_go("Space", "d")
    person.is_moved("Space", "a")
    person.lets_go("Space", "a")
    person.comes_to_rest()


def test_a_touch_that_the_system_takes_away_has_let_go(person: Person) -> None:
    """A call comes in, or a gesture of the system begins: no finger is lifted."""
    touch, down = person.context.new_cdp_session(person.page), list[bool]()

    def middle(what: str) -> dict[str, float]:
        box = person.page.locator(what).first.bounding_box()
        assert box is not None
        return {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}

    def fingers(kind: str, *points: dict[str, float]) -> None:
        numbered = [{**point, "id": number} for number, point in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": numbered})

    def moves() -> bool:
        before = person.measured()
        if "| moving" not in person.shows("steered"):
            if down:
                fingers("touchCancel")
            down[:] = [True]
            person.page.locator(".pad").scroll_into_view_if_needed()
            on_stick = middle(".stick")
            fingers("touchStart", middle("[data-input=deadman]"))
            fingers("touchStart", middle("[data-input=deadman]"), on_stick)
            fingers("touchMove", middle("[data-input=deadman]"), {**on_stick, "x": on_stick["x"] - 60})
        person.page.wait_for_timeout(600)
        return abs(person.measured()[0] - before[0]) > 0.01

    wait_until(lambda: len(person.measured()) == 7, "joints")
    for _ in range(2):  # afterwards it goes on
        wait_until(moves, "the arm moves by two fingers", 60.0)
        fingers("touchCancel")
        down.clear()
        person.comes_to_rest()
        assert person.page.locator(".pad .held").count() == 0


@pytest.mark.parametrize("lost_s", [1, 5, 30])
def test_a_lost_network_lets_go_and_what_comes_late_moves_nothing(
    browser: Any, console: Console, person: Person, lost_s: float
) -> None:
    """Another browser, which has its network, sees the arm come to rest, and stay there when the network is back."""
    person.button("Give the controls away").click()
    network = Network(console)
    far = Person(browser, console, address=network.address)
    try:
        far.operates()
        far.is_moved("Space", "d")
        network.cut()
        sync_api.expect(far.page.locator(".cut")).to_be_visible(timeout=PATIENCE_MS)  # it says so
        person.page.wait_for_timeout(1000 * lost_s)
        person.comes_to_rest()
        network.mend()
        sync_api.expect(far.page.locator(".cut")).to_be_hidden(timeout=PATIENCE_MS)
        far.operates()  # without anybody who loads the page again
        person.page.wait_for_timeout(1500)
        person.comes_to_rest()
        far.lets_go("Space", "d")
        far.is_moved("Space", "a")
        far.lets_go("Space", "a")
        far.comes_to_rest()
    finally:
        far.context.close()
        network.close()


def test_a_page_that_is_closed_has_let_go(console: Console, person: Person) -> None:
    person.is_moved("Space", "a")
    person.page.close()
    person.open(console.address)
    person.sees("role", "You operate")
    person.comes_to_rest()


def test_who_watches_moves_nothing(browser: Any, console: Console, person: Person) -> None:
    other = Person(browser, console)
    other.sees("role", "You watch")
    other.page.evaluate(
        """() => { const pad = new WebSocket(location.href.replace("http", "ws") + "pad");
                   pad.onmessage = (asked) => pad.send(asked.data + ' {"deadman": 1, "a": 1}'); }"""
    )
    other.page.wait_for_timeout(1000)
    person.comes_to_rest()
    other.context.close()
