"""docs/tutorials/a-day-in-the-lab.md, done: every command of the page, in a real browser, a script holds the gamepad.

The day is short here: two episodes, seconds of training, one scene. With ``LAVLA_DAY=FOLDER`` it is the page's own, in
that folder (with ``-o faulthandler_timeout=0``), and leaves pictures and wall times there; steps that have one are not
done again.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import pytest
from console_harness import NEEDS_CHROMIUM, PATIENCE_MS, Person, free_port, served, sync_api
from ros_harness import World, wait_until
from std_msgs.msg import String
from test_console_policy import commanders

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.episode import SIMULATOR, EpisodePhase, EpisodeState
from lavla_ros.recording.library import Library
from lavla_ros.ros.messages import LATCHED_INPUT_QOS
from sim_bridges.evaluation.results import Results
from sim_bridges.judging.page import AGAIN_S

pytestmark = [pytest.mark.alone, NEEDS_CHROMIUM, pytest.mark.timeout(7200)]
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorials" / "a-day-in-the-lab.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
INSTALL, *SHELL = [block for kind, block in BLOCKS if kind == "sh"]
COMMANDS = [shlex.split(line) for block in SHELL for line in block.splitlines()]
(PROTOCOL,) = (block for kind, block in BLOCKS if kind == "yaml")
WHOLE = os.environ.get("LAVLA_DAY", "")
EPISODES = 10 if WHOLE else 2
SHORT = {} if WHOLE else {"--max_minutes 5": "--max_minutes 0.2", "rollouts: 3": "rollouts: 1"}
PICTURES = "a-day-in-the-lab"
MOST_BYTES = 150 * 1024


def shortened(text: str) -> str:
    for long, short in SHORT.items():
        text = text.replace(long, short)
    return text


class Day:
    """The folder that the commands are typed in, and how long each step took."""

    def __init__(self, folder: Path, browser: Any, world: World) -> None:
        self.folder, self.browser = folder, browser
        self._said = world.collect(String, "/episode/state", LATCHED_INPUT_QOS)
        self._times = folder / "wall_times.json"
        self.took_s: dict[str, float] = json.loads(self._times.read_text()) if self._times.exists() else {}

    def scene(self) -> EpisodePhase | None:
        """What the simulator said last."""
        found = [EpisodeState.from_json(each.data) for each in list(self._said)]
        return next((each.phase for each in reversed(found) if each.source == SIMULATOR), None)

    def forget(self) -> None:
        """What was said of the scene before."""
        self._said.clear()

    def do(self, name: str, step: Callable[[Day, list[str]], None], words: list[str]) -> None:
        """Unless it was done before."""
        if name not in self.took_s:
            begun_s = time.monotonic()
            step(self, words)
            self.took_s[name] = round(time.monotonic() - begun_s, 1)
            self._times.write_text(json.dumps(self.took_s, indent=1))

    def run(self, words: list[str]) -> str:
        """A command that ends; what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "lavla_ros.cli", *self._words(words)],
            cwd=self.folder,
            env=ros_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def serving(self, words: list[str]) -> AbstractContextManager[str]:
        """A command that serves a page, until it is ended with Ctrl-C: the address."""
        own = ["--port", str(free_port())]  # others may have the usual one
        return served([*self._words(words), *own], self.folder, self.folder / f"{words[1]}.log")

    def _words(self, words: list[str]) -> list[str]:
        """Behind the name of the command."""
        assert words[0] == "lavla"
        return shlex.split(shortened(shlex.join(words[1:])))

    def picture(self, name: str, page: Any, *, live: str = "", high: int = 900, top: str = "") -> None:
        """Of a page, for the whole day only: as small as is asked of a repository. ``live``: what shows pictures."""
        if not WHOLE:
            return
        context = page.context
        if live:
            context.unroute_all()
            page.reload()
            wait_until(lambda: page.locator(live).first.evaluate("i => i.naturalWidth") > 0, "a live picture")
            page.wait_for_function("document.querySelector('.role').innerText && document.querySelector('.joints td')")
            page.wait_for_timeout(500)
        page.set_viewport_size({"width": 1280, "height": high})
        if top:
            page.locator(top).first.scroll_into_view_if_needed()
        self._write(name, page.screenshot(type="jpeg", quality=72))
        if live:
            context.route("**/*.mjpg", lambda route: route.abort())
            page.reload()

    def picture_of(self, name: str, file: Path) -> None:
        """Of a file, likewise."""
        if WHOLE:
            shown = cv2.imread(str(file))
            scale = min(1.0, 1000 / shown.shape[1])
            shown = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            self._write(name, cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes())

    def _write(self, name: str, data: bytes) -> None:
        folder = self.folder / PICTURES
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.jpg").write_bytes(data)
        assert len(data) <= MOST_BYTES, f"{name}: {len(data)} bytes"


@pytest.fixture
def day(tmp_path: Path, browser: Any, world: World) -> Day:
    folder = Path(WHOLE).absolute() if WHOLE else tmp_path
    folder.mkdir(exist_ok=True)
    if not (folder / "config").exists():
        (folder / "config").symlink_to(ROOT / "config")  # the page is done in a checkout
    return Day(folder, browser, world)


def test_the_page(day: Day) -> None:
    with_a_gamepad, teach, listed, drawn, convert, seen, train, tensorboard, run, judge, compare = COMMANDS
    assert [word for word in teach if "gamepad" in word] and teach[:4] == with_a_gamepad[:4]
    assert all(long in f"{shlex.join(train)}{PROTOCOL}" for long in SHORT)
    day.do("teach", teaches, teach)
    day.do("list", lists, listed)
    day.do("view", draws_the_episode, drawn)
    day.do("convert", converts, convert)
    day.do("view the dataset", draws_the_dataset, seen)
    day.do("train", trains, train)
    if WHOLE:
        day.do("tensorboard", draws_the_losses, tensorboard)
    day.do("run", takes_over, run)
    day.do("judge", judges, judge)
    day.do("compare", compares, compare)
    for model in ("bundled", "taught"):
        episodes = Results.read(day.folder / "runs/day/judged/results" / model).episodes
        assert len(episodes) == (3 if WHOLE else 1) and not any(episode.error for episode in episodes)


def teaches(day: Day, words: list[str]) -> None:
    """Each episode is a success by the physics, moved by the gamepad alone; what does not come to one is discarded."""
    library = Library(day.folder / "runs/day/bags")
    with day.serving(words) as address:
        person = Person(day.browser, None, address=address)
        person.operates()
        person.sees("steered", "Gamepad: level")
        for number in range(2 * EPISODES):
            ended(person, day, "running")
            person.page.keyboard.press("r")
            person.sees("episode", f"RECORDING episode_{number:06d}")
            if number == EPISODES - 1:
                person.sees("commander", "A person has the arm")
                day.picture("teach", person.page, live=".cameras img")
            try:
                ended(person, day, "succeeded")
            except AssertionError:
                person.page.keyboard.press("d")
                person.sees("said", "was discarded")
                if person.shows("state") == "FAULT":  # the arm's commands were late: this machine is too busy
                    person.button("Acknowledge the fault").click()
                    person.sees("reason", "waiting for resume")
                    person.button("Resume").click()
            else:
                person.page.keyboard.press("s")
                person.sees("said", "succeeded")
            taught = [each.outcome for each in library.episodes() if not each.discarded]
            if len(taught) == EPISODES:
                break
            person.comes_to_rest()  # who still moves the arm is asked to let go first
            person.page.keyboard.press("n")
            person.sees("said", "homing")
        person.context.close()
    assert taught == ["succeeded"] * EPISODES
    for bag in (day.folder / "runs/day/bags").glob("episode_*"):
        assert commanders(bag)[-1] == "person"


def lists(day: Day, words: list[str]) -> None:
    assert day.run(words).count("succeeded") == EPISODES


def draws_the_episode(day: Day, words: list[str]) -> None:
    day.run(words)
    day.picture_of("episode", day.folder / words[-1])


def converts(day: Day, words: list[str]) -> None:
    assert f"{EPISODES} episodes" in day.run(words)


def draws_the_dataset(day: Day, words: list[str]) -> None:
    day.run(words)
    day.picture_of("convert", day.folder / words[-1])


def trains(day: Day, words: list[str]) -> None:
    day.run(words)
    assert (day.folder / "runs/day/policy/best").is_dir()


def ended(person: Person, day: Day, *phases: str) -> str:
    """How the simulated scene stands, once it is one of ``phases``, and the page says so."""
    phase = wait_until(lambda: next((each for each in phases if day.scene() == each), None), f"{phases}", 60.0)
    person.sees("scene", f"The simulated scene: {phase}")
    return str(phase)


def takes_over(day: Day, words: list[str]) -> None:
    bags = day.folder / "runs/day/rollouts"
    with day.serving(words) as address:
        person = Person(day.browser, None, address=address)
        person.operates()
        person.sees("running", "runs/day/policy/best runs")
        person.sees("scene", "The simulated scene: waiting")
        person.page.keyboard.press("n")
        ended(person, day, "running")
        person.page.keyboard.press("r")
        person.sees("episode", "RECORDING")
        person.sees("commander", "A policy commands the arm")
        person.is_moved("Space", "a")
        person.sees("commander", "A person has the arm")
        person.lets_go("Space", "a")
        person.comes_to_rest()
        day.picture("take_over", person.page, live=".cameras img", high=1200, top="header")
        person.button("Hand back").click()
        person.sees("commander", "A policy commands the arm")
        person.sees("state", "moving")
        if WHOLE:
            assert ended(person, day, "succeeded", "failed") == "succeeded"
        person.page.wait_for_timeout(2000)
        person.page.keyboard.press("s" if WHOLE else "f")
        person.sees("said", "succeeded" if WHOLE else "failed")
        person.context.close()
    (bag,) = bags.glob("episode_*")
    assert commanders(bag)[-3:] == ["policy", "person", "policy"]


def judges(day: Day, words: list[str]) -> None:
    """Who judges does what is offered, and sees the table; this script is told by the simulator what lies where."""
    (day.folder / words[2]).write_text(shortened(PROTOCOL))
    with day.serving(words) as address:
        page = day.browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)
        picture, said, scores = page.locator("img").first, page.locator(".said"), page.locator(".scores")

        def offered() -> str:
            """What Enter does now; empty: nothing more."""
            enter = page.locator("button.go")
            wait_until(lambda: enter.is_enabled() or "Judging has ended" in said.inner_text(), "an offer", 600.0)
            return str(enter.inner_text()) if enter.is_enabled() else ""

        def gives(score: str) -> None:
            page.locator("h1").click()
            for part in ("pick", "place"):
                page.keyboard.press(score)
                sync_api.expect(scores).to_contain_text(f"{part}: {score}", timeout=PATIENCE_MS)
                page.wait_for_timeout(1000 * AGAIN_S)  # the same key sooner is the second of a double click

        while offer := offered():
            assert "taught" not in page.inner_text("body") and "bundled" not in page.inner_text("body"), "blind"
            if offer == "Begin":
                day.forget()
            if offer == "Over":
                wait_until(lambda: day.scene() == "succeeded" or offered() != "Over", "the end of a rollout", 120.0)
                if offered() != "Over":
                    continue
                assert "live" in str(picture.get_attribute("src")), "what the camera sees"
                day.picture("judge", page)
                gives("1")
            if offer == "These scores count" and "–" in scores.inner_text():
                gives("0")
            page.wait_for_timeout(1000 * AGAIN_S)
            page.get_by_role("button", name=offer, exact=True).click()
            wait_until(lambda: not page.locator("button.go").is_enabled() or offered() != offer, "an answer", 60.0)
        page.close()


def draws_the_losses(day: Day, words: list[str]) -> None:
    """TensorBoard, which is not ours: for the picture alone."""
    port = str(free_port())
    program = [str(Path(sys.executable).with_name(words[0])), *words[1:], "--port", port]
    board = subprocess.Popen(program, cwd=day.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        page = day.browser.new_page(viewport={"width": 1280, "height": 900})
        wait_until(lambda: loaded(page, f"http://localhost:{port}/#timeseries"), "TensorBoard", 120.0)
        page.wait_for_timeout(15_000)
        day.picture("train", page)
        page.close()
    finally:
        board.send_signal(signal.SIGINT)
        board.wait(30.0)


def loaded(page: Any, address: str) -> bool:
    try:
        page.goto(address)
    except sync_api.Error:
        page.wait_for_timeout(1000)
        return False
    return True


def compares(day: Day, words: list[str]) -> None:
    day.run(words)
    page = day.browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((day.folder / words[-1]).as_uri())
    assert "taught" in page.inner_text("body")
    day.picture("compare", page)
    page.close()
