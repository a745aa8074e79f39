"""The judging room in a browser, ``lavla judge --page``: the command's keyboard and screen, and nothing else.

The command runs beside it as in a terminal: what is pressed on the page goes to its keys. What it says is shown, with
the scores and pictures that are on the disk. A page that is closed changes nothing.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response
from nicegui import app as pages
from nicegui import run, ui

import lavla_ros.console
from lavla_ros.console.access import Access, address_of, check_access, listening_at, serve
from lavla_ros.console.operators import Operators
from lavla_ros.errors import UserError
from lavla_ros.lifeline import lifeline
from sim_bridges.judging.folder import JudgingError, JudgingFolder
from sim_bridges.judging.protocol import Rollout
from sim_bridges.judging.rubrics import Rubric, ScoreError, read_outlines
from sim_bridges.judging.sheet import Sheet

REFRESH_S, FOLDER_S = 0.25, 0.5
SHOWN_CHARACTERS = 2000
ASKS_S = 10.0
"""So long may the command take to ask for a text."""
PICTURES = ("overlay", "initial", "live", "final")
"""What a rollout has of the reference camera."""
AGAIN_S = 0.4
"""The same button so soon after is the second of a double click, and means nothing."""
WAITING = "Wait …"
"""On the first button while Enter would do nothing."""
WRITTEN = {"n": "Note (n)", "e": "Error (e)", "o": "Outline (o)", "s": "Share (s)"}
"""Keys after which the command asks for a text."""
PLAIN = {".": "Something correct (.)", "u": "Undo (u)"}
_OFFER = re.compile(r"Enter: (.+?)(?: {2}|$)")
_STYLE = Path(lavla_ros.console.__file__).with_name("console.css")


class PageError(UserError, RuntimeError):
    """What was pressed means nothing now."""


class Command:
    """``lavla judge``, or one of its rollouts, in a process that ends with this one: its keys, and what it says."""

    def __init__(self, words: Sequence[str]) -> None:
        """``words``: a Python module and its arguments."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words],
            env=os.environ | lifeline(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.said = ""
        self.offer = ""
        """What Enter does now; empty: nothing. Each offer of the command is taken once: two presses are one."""
        threading.Thread(target=self._listen, name="judge", daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        begun = ""
        while heard := os.read(self._process.stdout.fileno(), 65536):
            text = heard.decode(errors="replace")
            print(text, end="", flush=True)
            *lines, begun = (begun + text).split("\n")
            for found in filter(None, map(_OFFER.search, lines)):
                self.offer = found[1]
            self.said = (self.said + text)[-SHOWN_CHARACTERS:]
        self.offer = ""

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def asks(self) -> bool:
        """Wait until it asks for something; False if it has ended before, and has said why."""
        while self.runs and not self.offer:
            time.sleep(0.05)
        return self.runs

    def press(self, key: str) -> None:
        """A key; empty: Enter. Raises PageError if nobody is there to take it, or Enter does nothing now."""
        assert self._process.stdin is not None
        if not key:
            if not self.offer:
                raise PageError("Enter means nothing now")
            self.offer = ""
        self._write(key)

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except OSError:
            raise PageError("judging has ended; the same command goes on where it was left") from None

    def answer(self, key: str, text: str) -> None:
        """A key after which the command asks for a text, and the text. Raises PageError if it does not ask."""
        before = self.said
        self.press(key)
        give_up_s = time.monotonic() + ASKS_S
        while self.said == before or not self.said.endswith(": "):
            if time.monotonic() > give_up_s:
                raise PageError(f"{key} means nothing now; the text was not used")
            time.sleep(0.02)
        self._write(" ".join(text.split()))

    def close(self) -> int:
        """End it as Ctrl-C does, the arm first; its exit status."""
        if self.runs:
            self._process.send_signal(signal.SIGINT)
        return self._process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """How far the comparison is, by what is on the disk."""

    done: int
    of: int
    rollout: Rollout | None = None
    rubric: Rubric | None = None
    sheet: Sheet | None = None
    """The try that is open."""
    picture: str = ""
    """The newest picture of the rollout, by its address on the page; of another address when it has changed."""

    @classmethod
    def of_folder(cls, path: Path) -> Stand | None:
        """None before the command has begun. Raises JudgingError for a damaged folder."""
        if not (path / "judging.json").exists():
            return None
        folder = JudgingFolder.read(path)
        scored = [folder.scored(each) is not None for each in folder.rollouts]
        if all(scored):
            return cls(done=len(scored), of=len(scored))
        rollout = folder.rollouts[scored.index(False)]
        tries, rubric = folder.tries(rollout), folder.protocol.tasks[rollout.task].scored_by
        sheet = tries[-1] if tries and tries[-1].phase not in ("scored", "error") else None
        written = {
            file.stat().st_mtime_ns: what for what in PICTURES if (file := folder.picture(rollout, what)).exists()
        }
        newest = f"picture/{rollout.index}/{written[max(written)]}.png?{max(written)}" if written and sheet else ""
        return cls(done=sum(scored), of=len(scored), rollout=rollout, rubric=rubric, sheet=sheet, picture=newest)


def judging_page(protocol: Path, out: Path, again: Sequence[int] = (), *, host: str, port: int, token: str) -> int:
    """Until it is ended, or at once if the command finds something wrong, or nothing to do; its exit status.

    Raises AccessError if others could use the page unasked.
    """
    check_access(host, token)
    listening = listening_at(host, port)
    words = [str(protocol), "--out", str(out), *(["--again", *map(str, again)] if again else [])]
    command = Command(["lavla_ros.cli", "judge", *words])
    try:
        if command.asks():
            web = Access(application(command, out, title=protocol.stem), host=host, token=token)
            print(f"judging: open {address_of(listening, host, token)}", flush=True)
            serve(web, listening)
    finally:
        status = command.close()
    return status


def application(command: Command, out: Path, *, title: str) -> FastAPI:
    """The page as an ASGI application. One per process."""
    web, operators = FastAPI(openapi_url=None), Operators()

    @web.get("/picture/{index}/{what}.png")
    async def picture(index: int, what: str) -> Response:
        file = out / "pictures" / f"{index:06d}_{what}.png"
        if what not in PICTURES or not file.exists():
            return PlainTextResponse("there is no such picture", 404)
        # Read at once: it is replaced twice a second by one of another size.
        return Response(file.read_bytes(), media_type="image/png", headers={"cache-control": "no-store"})

    @ui.page("/", title=title)
    def index() -> None:
        Page(command, out, operators, title, browser=str(pages.storage.browser["id"]))

    ui.run_with(web, title=title, dark=None, storage_secret=secrets.token_urlsafe(), show_welcome_message=False)
    return web


class Page:
    """One open page."""

    def __init__(self, command: Command, out: Path, operators: Operators, title: str, browser: str) -> None:
        self._command, self._out, self._operators, self._browser = command, out, operators, browser
        self._pressed: tuple[str, float] = "", 0.0
        self._stand: Stand | None = None
        self._keys: Mapping[str, float] = {}
        """Those of the rubric that are shown, and their scores."""
        self._scoring: list[ui.button] = []
        self._source = ""
        client = ui.context.client
        client.on_connect(lambda: operators.opened(browser))
        client.on_disconnect(lambda: operators.closed(browser))
        ui.add_css(_STYLE.read_text(encoding="utf-8"))
        self._build(title)
        ui.keyboard(on_key=self._on_key, ignore=["input", "textarea", "select"])
        ui.timer(REFRESH_S, self._refresh)
        ui.timer(FOLDER_S, self._look)

    def _build(self, title: str) -> None:
        with ui.element("header").classes("bar"):
            ui.html(f"<h1>{title}</h1>", sanitize=False)
            self._role = ui.label().classes("role").mark("role")
        with ui.element("section").props('aria-label="Rollout"').classes("record"):
            self._progress = ui.label().classes("episode progress").props("aria-live=polite")
            self._task = ui.label().classes("task")
            self._scores = ui.label().classes("scores").props("aria-live=polite")
            with ui.element("div").classes("buttons"):
                self._enter = self._button("", WAITING).classes("go").mark("enter")
            self._rubric = ui.element("div").classes("buttons")
            with ui.element("div").classes("buttons"):
                self._plain = [self._button(key, label) for key, label in PLAIN.items()]
            self._text = ui.input("Note, what went wrong, share, or outline as x,y x,y x,y; …", on_change=self._draw)
            self._text.props("outlined dense").classes("wide")
            with ui.element("div").classes("buttons"):
                self._written = [self._button(key, label) for key, label in WRITTEN.items()]
                self._quit = self._button("q", "Quit")
        with ui.element("section").props('aria-label="Picture"').classes("cameras"):
            self._picture = ui.interactive_image("", on_mouse=self._on_point, events=["click"], cross=True)
            self._picture.classes("judged")
        self._screen = ui.html("", sanitize=False).classes("screen").props('role=log aria-label="What was said"')
        self._said = ui.label().classes("said").props("role=status aria-live=polite").mark("said")

    def _button(self, key: str, label: str) -> ui.button:
        button = ui.button(label, on_click=lambda: self._press(key), color=None)
        button.disable()  # until it is known what it would do
        return button.props("no-caps unelevated").classes("plain")

    @property
    def _open(self) -> bool:
        """A try of a rollout is open: the command reads its keys."""
        return self._stand is not None and self._stand.sheet is not None

    # What a person does.

    async def _press(self, key: str) -> None:
        (last, last_s), now_s = self._pressed, time.monotonic()
        self._pressed = key, now_s
        if (key == last and now_s - last_s < AGAIN_S) or not self._operators.operates(self._browser):
            return
        if key not in ("", "q") and not self._open:  # nobody reads it yet, and it would mean something later
            return
        try:
            if key in WRITTEN:
                text = str(self._text.value or "").strip()
                if not text and key != "o":  # without an outline the stain is gone
                    raise PageError("write the text first")
                await run.io_bound(self._command.answer, key, text)
                self._text.set_value("")
            else:
                await run.io_bound(self._command.press, key)
        except PageError as error:
            self._said.set_text(f"Refused: {error}")
        else:
            self._said.set_text("")

    async def _on_key(self, event: Any) -> None:
        if not event.action.keydown or event.action.repeat or event.modifiers.ctrl or event.modifiers.alt:
            return
        if (key := str(event.key)) in self._keys or key in PLAIN:
            await self._press(key)

    def _on_point(self, event: Any) -> None:
        """A corner of the stain's outline."""
        self._text.set_value(f"{self._text.value or ''} {event.image_x:.0f},{event.image_y:.0f}".strip())

    # What is shown.

    async def _look(self) -> None:
        try:
            self._stand = await run.io_bound(Stand.of_folder, self._out)
        except JudgingError as error:
            self._said.set_text(str(error))

    def _refresh(self) -> None:
        operates, stand, runs = self._operators.claim(self._browser), self._stand, self._command.runs
        self._role.set_text("You judge" if operates else "You watch")
        offer = self._command.offer
        for button in (*self._plain, *self._written, *self._scoring):
            button.set_enabled(operates and runs and self._open)
        self._quit.set_enabled(operates and runs and (self._open or bool(offer)))
        self._enter.set_text(offer[:1].upper() + offer[1:] or WAITING)
        self._enter.set_enabled(operates and bool(offer))
        self._screen.set_content(f"<pre>{_escaped(self._command.said)}</pre>")
        if not runs:
            self._said.set_text("Judging has ended. The same command goes on where it was left, if rollouts are left.")
        if stand is None:
            return
        self._progress.set_text(f"{stand.done} of {stand.of} rollouts have a score.")
        self._task.set_text(stand.rollout.name if stand.rollout is not None else "All are judged.")
        self._show_scores(stand)
        if stand.picture and stand.picture != self._source:
            self._source = stand.picture
            self._picture.set_source(stand.picture)

    def _draw(self) -> None:
        """The outline that is being given, over the picture."""
        try:
            outlines = read_outlines(str(self._text.value or ""))
        except ScoreError:  # another text, or a corner that is being written
            outlines = []
        corners = (" ".join(f"{x},{y}" for x, y in outline) for outline in outlines)
        self._picture.set_content("".join(f'<polygon class="outline" points="{each}"/>' for each in corners))

    def _show_scores(self, stand: Stand) -> None:
        if stand.rubric is None:
            self._scores.set_text("")
            return
        values = (stand.sheet or Sheet()).values(stand.rubric)
        given = ("–" if value is None else f"{value:g}" for value in values)
        self._scores.set_text(", ".join(map(": ".join, zip(stand.rubric.parts, given, strict=True))))
        if stand.rubric.keys != self._keys:
            self._keys = stand.rubric.keys
            self._rubric.clear()
            with self._rubric:
                self._scoring = [self._button(key, f"{key}: {score:g}") for key, score in self._keys.items()]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
