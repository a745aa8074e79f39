"""The console's page: one web application over a :class:`Robot` and a :class:`Library`.

Nothing is shown as done before it is: a click is answered when the stack, or the disk, has answered. Pictures are plain
MJPEG streams, so that they cost a JPEG each and no script; everything else is looked at four times a second. A page
that is closed, or crashes, changes nothing of what the stack does.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from nicegui import app as pages
from nicegui import ui

from lavla_ros.console.operators import Operators
from lavla_ros.console.pad import Pad
from lavla_ros.console.pictures import frames, thumbnail
from lavla_ros.console.robot import Joint, Robot, Running, Snapshot
from lavla_ros.episode import PERSON, EpisodePhase
from lavla_ros.errors import UserError, is_users
from lavla_ros.recording.library import Library, LibraryError, RecordedEpisode
from lavla_ros.teleop.config import TOPIC, Mapping

REFRESH_S, LIST_S, MODELS_S = 0.25, 1.0, 5.0
PICTURE_RATE_HZ = 15.0
AGAIN_S = 0.4
"""The same click so soon after is the second of a double click, and means nothing."""
HOLD = "Hold (H)"
STALE_S = 0.5
"""A measured state older than this is shown as such."""
_BOUNDARY = "picture"
_FILES = Path(__file__).parent
_SHOWN = {"": "no executor", "tracking": "moving", "holding": "standing", "idle": "not active", "fault": "FAULT"}
_COMMANDERS = {
    "": "Nobody commands the arm.",
    "policy": "A policy commands the arm.",
    "move": "The arm moves to a pose that was asked for.",
    PERSON: "A person has the arm.",
}


def application(robot: Robot, library: Library, *, title: str, mapping: Mapping | None = None) -> FastAPI:
    """The console as an ASGI application. One per process.

    ``mapping``: of the page's pad, or of a device beside the console that moves the arm; None: there is neither.
    """
    web, operators = FastAPI(openapi_url=None), Operators()
    _add_pictures(web, robot, library)
    pad = Pad(robot, operators, mapping) if mapping is not None and mapping.device == TOPIC else None
    device = mapping.name if mapping is not None and pad is None else ""

    @ui.page("/", title=title)
    def index() -> None:
        Page(robot, library, operators, pad, device, title, browser=str(pages.storage.browser["id"]))

    ui.run_with(web, title=title, dark=None, storage_secret=secrets.token_urlsafe(), show_welcome_message=False)
    return web


class Page:
    """One open page."""

    def __init__(
        self,
        robot: Robot,
        library: Library,
        operators: Operators,
        pad: Pad | None,
        device: str,
        title: str,
        browser: str,
    ) -> None:
        """``device``: what moves the arm by hand if it is no pad of the page; empty: nothing does."""
        self._robot, self._library, self._operators, self._browser = robot, library, operators, browser
        self._busy = False
        self._clicked: tuple[str, float] = "", 0.0
        """What was clicked last, and when."""
        self._acting: list[ui.button] = []
        """Buttons that only who operates may press."""
        self._listed: list[RecordedEpisode] = []
        self._pad: ui.html | None = None
        self._device = device
        self._steered: ui.label | None = None
        self._chosen: ui.select | None = None
        self._last = ""
        """The episode that was recorded last from this page."""
        client = ui.context.client
        client.on_connect(lambda: operators.opened(browser))
        client.on_disconnect(lambda: operators.closed(browser))
        ui.add_css((_FILES / "console.css").read_text(encoding="utf-8"))
        self._build(title, pad)
        ui.keyboard(on_key=self._on_key, ignore=["input", "textarea", "select"])
        ui.timer(REFRESH_S, self._refresh)
        ui.timer(LIST_S, self._refresh_list)
        if robot.models is not None:
            ui.timer(MODELS_S, self._refresh_models)

    # ------------------------------------------------------------------ what there is

    def _build(self, title: str, pad: Pad | None) -> None:
        with ui.element("header").classes("bar"):
            ui.html(f"<h1>{title}</h1>", sanitize=False)
            self._role = ui.label().classes("role").mark("role")
            self._take = self._button("Take the controls", self._claim, acting=False)
            self._give = self._button("Give the controls away", self._release)
        with ui.element("section").classes("status").props('aria-label="Arm"'):
            self._state = ui.label().classes("state").props("aria-live=assertive").mark("state")
            self._reason = ui.label().classes("reason").mark("reason")
            self._commander = ui.label().classes("commander").props("aria-live=polite").mark("commander")
            if self._device:
                self._steered = ui.label().classes("steered hint").mark("steered")
            with ui.element("div").classes("buttons"):
                self._hold = self._button(HOLD, self._asking("hold"), kind="stop")
                self._acknowledge = self._button("Acknowledge the fault", self._asking("acknowledge"))
                self._resume = self._button("Resume", self._asking("resume"))
                self._hand_back = self._button("Hand back", self._asking("hand_back"))
            ui.label("Hold brings the arm to rest. It is no emergency stop: keep the real one in reach.").classes(
                "hint"
            )
        with ui.element("div").classes("columns"):
            with ui.element("section").props('aria-label="Cameras"').classes("cameras"):
                for camera in self._robot.cameras:
                    with ui.element("figure"):
                        ui.html(f'<img src="camera/{camera}.mjpg" alt="{camera}, live">', sanitize=False)
                        ui.html(f"<figcaption>{camera}</figcaption>", sanitize=False)
            if pad is not None:
                with ui.element("section").props('aria-label="Move the arm"').classes("steering"):
                    self._pad = pad.build()
                    self._steered = ui.label().classes("steered hint").mark("steered")
            with ui.element("section").props('aria-label="Recording"').classes("record"):
                self._build_recording()
            with ui.element("section").props('aria-label="Joints"').classes("joints"):
                self._joints = ui.html("", sanitize=False).mark("joints")
                self._speed = ui.number("Speed scale", min=0.01, max=1.0, step=0.05, format="%.2f")
                self._speed.props("outlined dense").classes("speed")
                self._set_speed = self._button("Set the speed", self._on_speed)
                self._latency = ui.label().classes("latency hint")
            if self._robot.models is not None:
                with ui.element("section").props('aria-label="Model"').classes("model"):
                    self._build_model()
        self._problems = ui.html("", sanitize=False).classes("problems").props("aria-live=polite")
        with ui.element("section").props('aria-label="Episodes"').classes("episodes"):
            ui.html("<h2>Episodes</h2>", sanitize=False)
            self._list = ui.element("ol").classes("list")
        self._replay = ui.dialog()
        self._said = ui.label().classes("said").props("role=status aria-live=polite").mark("said")

    def _build_recording(self) -> None:
        self._episode = ui.label().classes("episode").mark("episode")
        self._instruction = ui.input("Instruction").props("outlined dense").classes("wide")
        self._instruct = self._button("Use this instruction", self._on_instruct)
        self._scene = ui.label().classes("scene hint").props("aria-live=polite").mark("scene")
        self._reset = self._button("New scene (N)", self._asking("reset"))
        with ui.element("div").classes("buttons"):
            self._start = self._button("Record (R)", self._on_start, kind="go")
            self._anyway = self._button("Record all the same", self._on_anyway)
            self._anyway.set_visibility(False)
            self._success = self._button("Success (S)", functools.partial(self._on_end, True), kind="go")
            self._failure = self._button("Failure (F)", functools.partial(self._on_end, False))
            self._discard = self._button("Discard (D)", functools.partial(self._on_end, None))

    def _build_model(self) -> None:
        self._running = ui.label().classes("running").props("aria-live=polite").mark("running")
        self._chosen = ui.select({}, label="Model").props("outlined dense").classes("wide")
        with ui.element("div").classes("buttons"):
            self._run = self._button("Run this model", self._on_run)
            self._stop = self._button("Stop the model", functools.partial(_io, self._robot.stop_model))

    def _button(
        self, text: str, action: Callable[[], Awaitable[str]], *, acting: bool = True, kind: str = "plain"
    ) -> ui.button:
        button = ui.button(text, on_click=lambda: self._do(text, action), color=None)
        button.props("no-caps unelevated").classes(kind)
        if acting:
            self._acting.append(button)
        return button

    # ------------------------------------------------------------------ what a person does

    async def _do(self, what: str, action: Callable[[], Awaitable[str]]) -> None:
        """Carry out one click at a time, and show what came of it. Holding the arm waits for nothing."""
        (last, last_s), now_s = self._clicked, time.monotonic()
        self._clicked = what, now_s
        if (self._busy and what != HOLD) or (what == last and now_s - last_s < AGAIN_S):
            return
        self._busy = True
        try:
            self._say(await action())
        except Exception as error:
            if not is_users(error):  # a full disk is, too
                raise
            self._say(f"Refused: {error}", bad=True)
        finally:
            self._busy = False
        await self._refresh()

    def _asking(self, what: str) -> Callable[[], Awaitable[str]]:
        return functools.partial(_io, self._robot.ask, what)

    async def _claim(self) -> str:
        if not self._operators.claim(self._browser):
            raise UserErrorText("another browser has the controls; it has to give them away or be closed")
        return "You have the controls."

    async def _release(self) -> str:
        self._operators.release(self._browser)
        return "The controls are free."

    async def _on_instruct(self) -> str:
        if not (text := (self._instruction.value or "").strip()):
            raise UserErrorText("the instruction is empty")
        await _io(self._robot.instruct, text)
        return f"Instruction: {text}"

    async def _on_run(self) -> str:
        if self._chosen is None or not self._chosen.value:
            raise UserErrorText("no model is chosen")
        self._say(f"Loading {self._chosen.value} …")
        return str(await _io(self._robot.run_model, self._chosen.value))

    async def _on_speed(self) -> str:
        value = self._speed.value
        if value is None or not 0.01 <= value <= 1.0:
            raise UserErrorText(f"the speed scale is {value}; expected 0.01 to 1")
        await _io(self._robot.set_speed_scale, float(value))
        return f"Speed scale {value:.2f}"

    async def _on_start(self) -> str:
        try:
            await _io(self._robot.ask, "check")
        except UserError as error:
            self._anyway.set_visibility(True)
            raise UserErrorText(f"not recording: {error}") from None
        return await self._on_anyway()

    async def _on_anyway(self) -> str:
        self._anyway.set_visibility(False)
        return f"Recording {await _io(self._robot.ask, 'start')}"

    async def _on_end(self, success: bool | None) -> str:
        """End the episode as a success, a failure, or (None) to be discarded, from where it can be restored."""
        if not self._robot.snapshot().recording:
            raise UserErrorText("no episode is being recorded")
        if success is not None:
            await _io(self._robot.mark, success)
        answer = await _io(self._robot.ask, "stop")
        self._last = Path(answer.partition(": ")[0]).name
        if success is None:
            await _io(self._library.discard, self._last)
            return f"{self._last} was discarded; it can be restored."
        return str(answer.partition("\n")[0])

    async def _on_key(self, event: Any) -> None:
        if not event.action.keydown or event.action.repeat or event.modifiers.ctrl or event.modifiers.alt:
            return
        pressed = {"h": self._hold, "r": self._start, "s": self._success, "f": self._failure, "d": self._discard}
        pressed |= {"n": self._reset}
        button = pressed.get(str(event.key).lower())
        if button is not None and button.enabled and button.visible:
            await self._do(button.text, self._actions()[button])

    def _actions(self) -> dict[ui.button, Callable[[], Awaitable[str]]]:
        return {
            self._hold: self._asking("hold"),
            self._start: self._on_start,
            self._reset: self._asking("reset"),
            self._success: functools.partial(self._on_end, True),
            self._failure: functools.partial(self._on_end, False),
            self._discard: functools.partial(self._on_end, None),
        }

    def _say(self, text: str, *, bad: bool = False) -> None:
        self._said.set_text(text)
        self._said.classes(add="bad" if bad else "", remove="" if bad else "bad")

    # ------------------------------------------------------------------ what is shown

    async def _refresh(self) -> None:
        seen, operates = self._robot.snapshot(), self._operators.operates(self._browser)
        report = seen.executor
        state = _SHOWN.get(report.state, report.state)
        self._state.set_text(state)
        self._state.classes(replace=f"state {report.state or 'none'}")
        self._reason.set_text(_why(seen))
        self._commander.set_text(_COMMANDERS.get(report.commander, report.commander))
        if self._pad is not None:
            self._pad.classes(add="" if operates else "off", remove="off" if operates else "")
            self._pad.props(f"aria-disabled={str(not operates).lower()}")
        if self._steered is not None:
            told = seen.steered or "Nothing here moves the arm: see stack.log in the folder of the bags."
            self._steered.set_text(f"{self._device.capitalize()}: {told}" if self._device else told)
        self._role.set_text("You operate" if operates else "You watch")
        self._take.set_visibility(not operates)
        self._take.set_enabled(self._operators.free)
        for button in self._acting:
            button.set_enabled(operates)
        self._give.set_visibility(operates)
        self._acknowledge.set_enabled(operates and report.fault is not None)
        self._resume.set_enabled(operates and report.fault is None and report.held is not None)
        # While the arm moves, the next chunk of who moves it would take it again.
        self._hand_back.set_enabled(operates and report.commander == PERSON and report.state != "tracking")
        for button in (self._success, self._failure, self._discard):
            button.set_enabled(operates and seen.recording)
        self._start.set_enabled(operates and not seen.recording and bool(seen.episode.source))
        self._episode.set_text(_recording(seen))
        for shown in (self._scene, self._reset):
            shown.set_visibility(seen.scene is not None)
        if seen.scene is not None:
            reason = seen.scene.details.get("reason")
            self._scene.set_text(f"The simulated scene: {seen.scene.phase}{f', {reason}' if reason else ''}.")
        if self._chosen is not None:
            self._running.set_text(_model(seen.running))
            self._stop.set_enabled(operates and seen.running is not None and seen.running.active)
        self._joints.set_content(_table(seen.joints))
        self._latency.set_text(", ".join(f"{name} {value} ms" for name, value in seen.latencies_ms.items()))
        self._problems.set_content("".join(f"<p>{_escaped(text)}</p>" for text in seen.problems))
        if self._speed.value is None and seen.speed_scale is not None:
            self._speed.set_value(seen.speed_scale)
        if not self._instruction.value and seen.instruction:
            self._instruction.set_value(seen.instruction)

    async def _refresh_models(self) -> None:
        assert self._chosen is not None and self._robot.models is not None
        found = await _io(self._robot.models.found)
        shown = {each.policy: each.name + ("" if each.approved else " (not approved: slowly)") for each in found}
        if shown != self._chosen.options:
            kept = self._chosen.value if self._chosen.value in shown else None
            self._chosen.set_options(shown, value=kept)

    async def _refresh_list(self) -> None:
        found = await _io(self._library.episodes)
        if found != self._listed:
            self._listed = found
            self._list.clear()
            with self._list:
                for episode in found:
                    self._row(episode)

    def _row(self, episode: RecordedEpisode) -> None:
        name = episode.name
        with ui.element("li").classes("discarded" if episode.discarded else "").mark(name):
            shown = f'<img src="episode/{name}/0.jpg" alt="first picture of {name}" loading="lazy">'
            ui.html(shown if episode.cameras else '<span class="nothing">no picture</span>', sanitize=False)
            with ui.element("div").classes("about"):
                words = "discarded" if episode.discarded else episode.outcome
                ui.label(f"{name}: {words}, {episode.duration_s:.1f} s").classes("name")
                ui.label(episode.problem or episode.instruction or "no instruction").classes("hint")
                note = ui.input("Note", value=episode.note).props("dense").classes("wide")
                note.on(
                    "keydown.enter", lambda: self._do("note", functools.partial(self._relabel, name, note=note.value))
                )
            with ui.element("div").classes("buttons"):
                if episode.cameras:
                    ui.button("Replay", on_click=lambda: self._show(episode)).props("flat no-caps")
                if episode.discarded:
                    self._changing("Restore", self._library.restore, name)
                    return
                for label, outcome in (("Success", EpisodePhase.SUCCEEDED), ("Failure", EpisodePhase.FAILED)):
                    if episode.outcome != outcome:
                        self._changing(f"It is a {label.lower()}", self._library.label, name, outcome=str(outcome))
                self._changing("Discard", self._library.discard, name)

    def _changing(self, text: str, change: Callable[..., None], name: str, **options: str) -> None:
        async def action() -> str:
            if not self._operators.operates(self._browser):
                raise UserErrorText("you watch; take the controls first")
            await _io(functools.partial(change, name, **options))
            await self._refresh_list()
            return f"{text}: {name}"

        ui.button(text, on_click=lambda: self._do(f"{text} {name}", action)).props("flat no-caps")

    async def _relabel(self, name: str, **said: str) -> str:
        if not self._operators.operates(self._browser):
            raise UserErrorText("you watch; take the controls first")
        await _io(functools.partial(self._library.label, name, **said))
        return f"Noted: {name}"

    def _show(self, episode: RecordedEpisode) -> None:
        self._replay.clear()
        with self._replay, ui.card().classes("replay"):
            for i, topic in enumerate(episode.cameras):
                once = secrets.token_hex(4)  # the browser would show the end of the stream that it has
                ui.html(
                    f'<img src="episode/{episode.name}/{i}.mjpg?{once}" alt="{_escaped(topic)}, replayed">',
                    sanitize=False,
                )
            ui.button("Close", on_click=self._replay.close).props("no-caps")
        self._replay.open()


class UserErrorText(UserError, RuntimeError):
    """What a person asked for in the page cannot be done; the message says why."""


async def _io(work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(work, *arguments)  # NiceGUI's own answers None while the page is being ended


def _why(seen: Snapshot) -> str:
    """Why the arm stands, and what it waits for, in a line."""
    report = seen.executor
    if seen.age_s is None or seen.age_s > STALE_S:
        silent = "nothing has come" if seen.age_s is None else f"the newest is {seen.age_s:.1f} s old"
        return f"No fresh state of the arm: {silent}."
    parts = [report.fault or report.held or report.reason, report.waiting_for and f"waiting for {report.waiting_for}"]
    return "; ".join(filter(None, parts))


def _model(running: Running | None) -> str:
    if running is None:
        return "The node that runs the model says nothing: it is loading one, or is gone."
    if running.active:
        return f"{running.policy} runs."
    return f"No model runs. {running.problem or f'{running.policy} was stopped.'}"


def _recording(seen: Snapshot) -> str:
    said = seen.episode
    if not said.source:
        return "No recorder runs in this stack."
    if seen.recording:
        return f"RECORDING {said.details.get('episode', '')}"
    ended = said.details.get("episode")
    return f"Not recording. {ended}: {said.phase}" if ended else "Not recording."


def _table(joints: Iterable[Joint]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{_escaped(j.name)}</th><td>{_number(j.commanded)}</td><td>{_number(j.measured)}</td>"
        f"<td>{_escaped(j.unit)}</td></tr>"
        for j in joints
    )
    return f"<table><thead><tr><th>joint<th>commanded<th>measured<th>unit</tr></thead><tbody>{rows}</tbody></table>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


# ---------------------------------------------------------------------- pictures


def _add_pictures(web: FastAPI, robot: Robot, library: Library) -> None:
    @web.get("/camera/{camera}.mjpg")
    async def live(camera: str) -> Response:
        if camera not in robot.cameras:
            return PlainTextResponse(f"there is no camera {camera!r}", 404)
        return _stream(_live(robot, camera))

    @web.get("/episode/{name}/0.jpg")
    async def first(name: str) -> Response:
        try:
            picture = await asyncio.to_thread(lambda: thumbnail(library.path(name)))
        except LibraryError as error:
            return PlainTextResponse(str(error), 404)
        return Response(picture, media_type="image/jpeg", headers={"cache-control": "max-age=3600"})

    @web.get("/episode/{name}/{camera}.mjpg")
    async def again(name: str, camera: int) -> Response:
        found = next((each for each in await asyncio.to_thread(library.episodes) if each.name == name), None)
        if found is None or camera >= len(found.cameras):
            return PlainTextResponse(f"there is no camera {camera} of an episode {name!r}", 404)
        return _stream(_recorded(library.path(name), found.cameras[camera]))


async def _live(robot: Robot, camera: str) -> AsyncIterator[bytes]:
    number, due_s = -1, time.monotonic()
    while True:
        # Encoded in a thread: the page's other work goes on.
        newer = await asyncio.to_thread(robot.picture, camera, number)
        if newer is not None:
            number, picture = newer
            yield picture
        due_s = max(due_s + 1.0 / PICTURE_RATE_HZ, time.monotonic())  # encoding is part of the time
        await asyncio.sleep(due_s - time.monotonic())


async def _recorded(bag: Path, topic: str) -> AsyncIterator[bytes]:
    pictures = frames(bag, topic)
    began_s, first_ns = time.monotonic(), 0
    while (frame := await asyncio.to_thread(next, pictures, None)) is not None:
        stamp_ns, picture = frame
        first_ns = first_ns or stamp_ns
        await asyncio.sleep(max(0.0, began_s + (stamp_ns - first_ns) * 1e-9 - time.monotonic()))
        yield picture


def _stream(pictures: AsyncIterator[bytes]) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        async for picture in pictures:
            head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            yield head.encode() + picture + b"\r\n"
        yield f"--{_BOUNDARY}--\r\n".encode()

    kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
    return StreamingResponse(parts(), media_type=kind, headers={"cache-control": "no-store"})
