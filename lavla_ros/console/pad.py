"""The page's pad: what a person holds on it, with pointers and keys, to move the arm.

The console asks the page twenty times a second what is held (``pad.js``), and passes on what is answered in time.
Whatever goes wrong, in the browser or on the way, is an answer that does not come: for who hears the console, released.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from html import escape
from pathlib import Path

from fastapi import WebSocket, WebSocketDisconnect
from nicegui import app as pages
from nicegui import ui

from lavla_ros.console.operators import Operators
from lavla_ros.console.robot import Robot
from lavla_ros.teleop.config import ACTIONS, DEADMAN, FASTER, FRAME, GRIPPER, SLOWER, Binding, Mapping

ASK_S = 0.05
LATE_S = 0.25
"""An answer to a question that was asked longer ago is not passed on: a slow network must not move an arm late."""
_SCRIPTS = [Path(__file__).with_name(name) for name in ("pad.js", "headset.js")]
_CUT = "No connection to the console: the arm comes to rest. Let go, and press again when this line is gone."
HAND = "hand_x"
"""Input of a mapping that takes the pose of a headset's hand."""
_HEADSET = """
<button type=button class=headset><span class=away>Headset</span><span class=on>Leave the headset</span></button>
<p class="hint headset">The tool goes where the hand goes while its grip or trigger is held, or the screen of a phone
touched; with that, another button, hand or finger works the gripper.</p>
<p class="hint insecure">A headset can be used here if the page is opened by https, or as localhost.</p>
<p class=headset-said role=status></p>"""
_BUTTONS = {DEADMAN: "Hold to move", GRIPPER: "Gripper", SLOWER: "Slower", FASTER: "Faster", FRAME: "Base or tool"}


class Pad:
    """Makes the pad of each page, and hears all of them; passed on is what the browser says that operates."""

    def __init__(self, robot: Robot, operators: Operators, mapping: Mapping) -> None:
        self._robot, self._operators = robot, operators
        self._html = html_of(mapping)
        self._hand = any(binding.input == HAND for binding in mapping.bindings)
        pages.add_api_websocket_route("/pad", self._converse)

    def build(self) -> ui.html:
        """The pad, in the page that is being made; with the class ``off`` it takes nothing."""
        for script in _SCRIPTS:
            ui.add_body_html(f"<script>{script.read_text(encoding='utf-8')}</script>")
        said = "Pad: hold Space and press the keys that it shows; H holds the arm, Tab leaves"
        pad = ui.html(self._html, sanitize=False).classes("pad off")
        if self._hand:
            ui.html(_HEADSET, sanitize=False)
        return pad.props(f'tabindex=0 role=application aria-label="{said}"')

    async def _converse(self, socket: WebSocket) -> None:
        browser = str(socket.session.get("id", ""))
        await socket.accept()
        asking = asyncio.create_task(_ask(socket))
        with suppress(WebSocketDisconnect):
            while True:
                asked, _, held = (await socket.receive_text()).partition(" ")
                if self._operators.operates(browser) and in_time(asked, time.monotonic()):
                    self._robot.steer(held)
        asking.cancel()


def in_time(asked: str, now_s: float) -> bool:
    """Whether an answer counts: ``asked`` is what the console has sent, its time in milliseconds."""
    return asked.isdecimal() and len(asked) < 20 and 0.0 <= now_s - int(asked) * 1e-3 <= LATE_S


async def _ask(socket: WebSocket) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):  # the page is closed: who listens to it notices
        while True:
            await socket.send_text(str(int(time.monotonic() * 1e3)))
            await asyncio.sleep(ASK_S)


def html_of(mapping: Mapping) -> str:
    """A stick for each pair of inputs NAME_x and NAME_y, a button for each action, a line of the keys."""
    inputs = {binding.input: binding for binding in mapping.bindings if not binding.follows}
    sticks = [name.removesuffix("_x") for name in inputs if name.endswith("_x") and f"{name[:-2]}_y" in inputs]
    shown = "".join(_stick(inputs[f"{name}_x"], inputs[f"{name}_y"]) for name in sticks)
    buttons = ""
    for does, text in _BUTTONS.items():
        found = next((name for name in inputs if inputs[name].does == does), None)
        if found is not None:
            key = "Space" if does == DEADMAN else found.upper()
            buttons += (
                f'<button type=button tabindex=-1 data-input="{escape(found)}">{text} <kbd>{escape(key)}</kbd></button>'
            )
    known = escape(" ".join(binding.input for binding in mapping.bindings))
    keys = [b for b in mapping.bindings if len(b.input) == 1 and b.does not in ACTIONS]
    told = ", ".join(f"{b.input.upper()} {_direction(b)}" for b in keys)
    sticks_and_buttons = f'<div class=sticks>{shown}</div><div class=buttons data-inputs="{known}">{buttons}</div>'
    return f"{sticks_and_buttons}<p class=hint>{told}</p><p class=cut role=status>{_CUT}</p>"


def _stick(across: Binding, along: Binding) -> str:
    ends = [_direction(along), _direction(across, -1.0), _direction(across), _direction(along, -1.0)]
    return (
        f'<div class=stick data-x="{escape(across.input)}" data-y="{escape(along.input)}"><i></i>'
        + "".join(f"<span>{end}</span>" for end in ends)
        + "</div>"
    )


def _direction(binding: Binding, value: float = 1.0) -> str:
    return f"{escape(binding.does)}{'+' if value * binding.factor > 0 else '−'}"
