"""What a person holds: the keyboard of a terminal, an input device of Linux (gamepad, SpaceMouse), a page or another
program that sends messages, or a recording.

A device is read once a chunk, without blocking. It gives a sign of life only if it knows that it is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import select
import struct
import sys
import termios
import tty
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lavla_ros.errors import UserError
from lavla_ros.teleop.config import DEADMAN, FASTER, FRAME, HAND_BACK, SLOWER, STOP, TOPIC, Mapping
from lavla_ros.teleop.operator import FLOOD, GONE, Event
from lavla_ros.typing import NS_PER_S


class DeviceError(UserError, RuntimeError):
    """A device cannot be used; the message says which and what to do."""


class Device(Protocol):
    """Something whose events a person makes."""

    def read(self, now_ns: int) -> list[Event]:
        """What it said since the last call, oldest first, and whether it lives. Never blocks, never raises."""

    def close(self) -> None:
        """Give it back. Safe to call twice."""


DEADMAN_KEY = "deadman"
"""Input of the keyboard that is held as long as any key repeats."""
TAP_S, REPEAT_S = 0.12, 0.15
"""A key of a terminal counts as held for so long after its first press, and after each repetition."""


class Keys:
    """Characters → events. A terminal says when a key is pressed and repeated, but not when it is released.

    So every key that moves something is its own dead-man: it is held for ``TAP_S``, and for as long as it repeats. A
    terminal repeats one key at a time, and none when it has lost the focus. A key without a meaning ends what is held.
    """

    def __init__(self, moving: Iterable[str], others: Iterable[str]) -> None:
        """``moving``: keys that hold the dead-man; ``others``: those that are only said."""
        self._moving, self._others = frozenset(moving), frozenset(others)
        self._key = ""
        self._until_ns = self._pressed_ns = 0

    def take(self, text: str, now_ns: int) -> list[Event]:
        """``text``: what came since the last call."""
        events: list[Event] = []
        for key in text:
            if key in self._others:
                events += [Event(now_ns, key, 1.0), Event(now_ns, key, 0.0)]
                continue
            repeated = key == self._key and now_ns <= self._pressed_ns + NS_PER_S
            if key != self._key or now_ns > self._until_ns:
                events += self._let_go(now_ns)
                if key not in self._moving:
                    continue
                events += [Event(now_ns, DEADMAN_KEY, 1.0)]
            events += [Event(now_ns, key, 1.0)]
            self._key, self._pressed_ns = key, now_ns
            self._until_ns = now_ns + round((REPEAT_S if repeated else TAP_S) * NS_PER_S)
        if now_ns > self._until_ns:
            held_until_ns, key = self._pressed_ns, self._key
            events += self._let_go(now_ns)
            self._pressed_ns, self._key = held_until_ns, key  # the next one may be its first repetition
        return [*events, Event(now_ns)]

    def _let_go(self, now_ns: int) -> list[Event]:
        key, self._key, was_held = self._key, "", self._until_ns > 0
        self._until_ns = 0
        return [Event(now_ns, key, 0.0), Event(now_ns, DEADMAN_KEY, 0.0)] if key and was_held else []


class Keyboard:
    """The terminal that the program runs in. Raises DeviceError if there is none."""

    def __init__(self, mapping: Mapping, file: int | None = None) -> None:
        self._file = sys.stdin.fileno() if file is None else file
        if not os.isatty(self._file):
            raise DeviceError(
                "the keyboard is read from a terminal, and standard input is none; run the command in a terminal, or "
                "give another --device"
            )
        self._before: list[object] | None = termios.tcgetattr(self._file)
        tty.setcbreak(self._file)
        moving = {b.input for b in mapping.bindings if b.does not in (DEADMAN, FRAME, FASTER, SLOWER, HAND_BACK, STOP)}
        self._keys = Keys(moving, {b.input for b in mapping.bindings} - moving)

    def read(self, now_ns: int) -> list[Event]:
        data = b""
        while self._before is not None and len(data) < 64 * FLOOD and select.select([self._file], [], [], 0)[0]:
            try:
                part = os.read(self._file, 4096)
            except OSError:
                part = b""
            if not part:
                return [Event(now_ns, GONE)]
            data += part
        return self._keys.take(data.decode(errors="replace"), now_ns)

    def close(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(self._file, termios.TCSADRAIN, before)  # type: ignore[arg-type]


# linux/input.h and linux/input-event-codes.h. The package evdev knows all of them, but is built on each machine, with a
# compiler and headers that a robot's computer need not have.
_EVENT = struct.Struct("@llHHi")
_SYN, _KEY, _REL, _ABS = 0, 1, 2, 3
_DROPPED = 3
_AXES = ("X", "Y", "Z", "RX", "RY", "RZ")
_BUTTONS = {
    0x100: "BTN_0",
    0x101: "BTN_1",
    0x130: "BTN_SOUTH",
    0x131: "BTN_EAST",
    0x133: "BTN_NORTH",
    0x134: "BTN_WEST",
    0x136: "BTN_TL",
    0x137: "BTN_TR",
    0x138: "BTN_TL2",
    0x139: "BTN_TR2",
    0x13A: "BTN_SELECT",
    0x13B: "BTN_START",
    0x13C: "BTN_MODE",
    0x13D: "BTN_THUMBL",
    0x13E: "BTN_THUMBR",
}
REL_FULL = 350.0
"""Counts of a SpaceMouse at full deflection."""
REL_HELD_S = 0.1
"""A relative axis that is not said again for so long is back in its middle: the cap of a SpaceMouse was let go."""


def input_name(kind: int, code: int) -> str:
    """ABS_X, REL_RZ, BTN_SOUTH; BTN_0x2c0, ABS_16 for those without a name here."""
    if kind == _KEY:
        return _BUTTONS.get(code, f"BTN_{code:#x}")
    prefix = "ABS" if kind == _ABS else "REL"
    return f"{prefix}_{_AXES[code]}" if code < len(_AXES) else f"{prefix}_{code}"


@dataclass(frozen=True, slots=True)
class _Range:
    low: int
    high: int

    def scaled(self, value: int) -> float:
        """-1 to 1; an axis that begins at its end (a trigger) 0 to 1 is its user's to make."""
        return (2.0 * value - self.low - self.high) / max(self.high - self.low, 1)

    def raw(self, scaled: float) -> int:
        """The inverse of :meth:`scaled`."""
        return round((scaled * (self.high - self.low) + self.low + self.high) / 2.0)


_USUAL = _Range(-32768, 32767)


def written(name: str, value: float) -> bytes:
    """What Linux writes when an input (a button that has a name here, an axis of the usual range) is at ``value``.

    Raises DeviceError for another input.
    """
    for kind, codes in ((_KEY, list(_BUTTONS)), (_ABS, range(64))):
        for code in codes:
            if input_name(kind, code) == name:
                return _EVENT.pack(0, 0, kind, code, round(value) if kind == _KEY else _USUAL.raw(value))
    raise DeviceError(f"{name!r} is no button that has a name here, and no axis: {[*_BUTTONS.values()]}, ABS_X …")


class InputDevice:
    """A device below /dev/input, read as Linux gives it. Raises DeviceError if it cannot be opened."""

    def __init__(self, path: str) -> None:
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            group = "; add yourself to the group input (sudo usermod -aG input $USER), and log in again"
            said = group if isinstance(error, PermissionError) else "; name another --device, or plug it in"
            raise DeviceError(f"{path}: {error.strerror}{said}") from None
        self._path, self._rest = path, b""
        self._ranges: dict[int, _Range] = {}
        self._relative_ns: dict[str, int] = {}
        self._open = True

    def read(self, now_ns: int) -> list[Event]:
        """Stamped with ``now_ns``: the kernel's stamps are of another clock."""
        if not self._open:
            return [Event(now_ns, GONE)]
        events: list[Event] = []
        while len(events) <= 2 * FLOOD:
            try:
                data = os.read(self._file, 64 * _EVENT.size)
            except BlockingIOError:
                break
            except OSError:  # unplugged
                data = b""
            if not data:
                self.close()
                return [*events, Event(now_ns, GONE)]
            events += self._decode(self._rest + data, now_ns)
        for name, said_ns in list(self._relative_ns.items()):
            if now_ns - said_ns > REL_HELD_S * NS_PER_S:
                del self._relative_ns[name]
                events.append(Event(now_ns, name, 0.0))
        # The kernel answers a read of what is plugged in only: that is a sign of life, whether something moved or not.
        return [*events, Event(now_ns)]

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._file)

    def _decode(self, data: bytes, now_ns: int) -> Iterable[Event]:
        whole = len(data) - len(data) % _EVENT.size
        self._rest = data[whole:]
        for _, _, kind, code, value in _EVENT.iter_unpack(data[:whole]):
            if kind == _SYN and code == _DROPPED:  # the kernel has lost events: what is held is not known
                yield Event(now_ns, GONE)
            elif kind == _KEY:
                yield Event(now_ns, input_name(kind, code), float(value > 0))
            elif kind == _ABS:
                yield Event(now_ns, input_name(kind, code), self._range(code).scaled(value))
            elif kind == _REL:
                name = input_name(kind, code)
                self._relative_ns[name] = now_ns
                yield Event(now_ns, name, min(max(value / REL_FULL, -1.0), 1.0))

    def _range(self, code: int) -> _Range:
        if code not in self._ranges:
            try:  # EVIOCGABS: value, minimum, maximum, fuzz, flat, resolution
                raw = fcntl.ioctl(self._file, 0x80184540 + code, bytes(24))
                _, low, high, *_ = struct.unpack("6i", raw)
                self._ranges[code] = _Range(low, high)
            except OSError:
                self._ranges[code] = _USUAL
        return self._ranges[code]


def find_input_device(words: Sequence[str], listing: Path = Path("/proc/bus/input/devices")) -> str:
    """/dev/input/eventN of the first device with one of the words in its name. Raises DeviceError."""
    names = []
    for block in listing.read_text(encoding="utf-8").split("\n\n") if listing.exists() else ():
        lines = {line[:1]: line[3:] for line in block.splitlines()}
        name = lines.get("N", "").partition("=")[2].strip('"')
        event = next((word for word in lines.get("H", "").partition("=")[2].split() if word.startswith("event")), "")
        if name and event:
            names.append(name)
            if any(word.lower() in name.lower() for word in words):
                return f"/dev/input/{event}"
    raise DeviceError(
        f"no input device has one of {list(words)} in its name; there are {names or 'none'}. Plug it in, or give "
        "its file (/dev/input/event…) as --device"
    )


class Recording:
    """Events of a file, a line of JSON each, ``[seconds, input, value]``: plays any device, from the first read on."""

    def __init__(self, path: Path) -> None:
        """Raises DeviceError naming the line that cannot be read."""
        self._events: list[tuple[float, str, float]] = []
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DeviceError(f"{path}: {error}; give a recorded stream of events") from None
        for number, line in enumerate(lines, start=1):
            try:
                seconds, name, value = json.loads(line)
                self._events.append((float(seconds), str(name), float(value)))
            except (ValueError, TypeError):
                raise DeviceError(f"{path}:{number}: {line!r} is no [seconds, input, value]") from None
        if sorted(self._events, key=lambda event: event[0]) != self._events:
            raise DeviceError(f"{path}: the events are not in order of time")
        self._begin_ns: int | None = None
        self._next = 0

    @property
    def over(self) -> bool:
        """Whether the last event was read."""
        return self._next == len(self._events)

    def read(self, now_ns: int) -> list[Event]:
        if self._begin_ns is None:
            self._begin_ns = now_ns
        events = []
        while not self.over and self._events[self._next][0] <= (now_ns - self._begin_ns) / NS_PER_S:
            seconds, name, value = self._events[self._next]
            events.append(Event(self._begin_ns + round(seconds * NS_PER_S), name, value))
            self._next += 1
        return events

    def close(self) -> None:
        """Nothing is open."""


LONGEST = 4096
"""Characters of a message; more than a person can hold."""
FAR = 100.0
"""Positions beyond this, m or rad, are nobody's."""


class Messages:
    """What a program says is held, each time all of it: a JSON object of inputs and values, ``{"deadman": 1, "w": 1}``.

    What a message does not name is let go, and of a position not known, so that one that is lost holds nothing. It is
    the only sign of life.
    """

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping.name
        self._largest = {b.input: FAR if b.follows else 1.0 for b in mapping.bindings}
        self._held: set[str] = set()
        self._events: list[Event] = []

    def take(self, text: str, now_ns: int) -> None:
        """A message that has come. Raises DeviceError for one that says no events: nothing of it counts."""
        try:
            said = json.loads(text) if len(text) <= LONGEST else None
        except (ValueError, RecursionError):
            said = None
        largest = self._largest
        if not isinstance(said, dict) or not all(
            type(v) in (int, float) and abs(v) <= largest.get(name, 1.0) for name, v in said.items()
        ):
            raise DeviceError(
                f"the message {text[:80]!r} says no events; expected a JSON object of at most {LONGEST} characters, "
                f'with inputs and their values from -1 to 1 (positions: {FAR:g}): {{"deadman": 1, "w": 1}}'
            )
        if strange := sorted(said.keys() - largest.keys()):
            raise DeviceError(f"the message {text[:80]!r} names {strange[0]!r}, no input of mapping {self._mapping}")
        positions = {name for name, most in largest.items() if most == FAR}
        let_go = {name: math.nan if name in positions else 0.0 for name in self._held - said.keys()}
        # Buttons are let go before positions are lost, and pressed when those are known, from which the arm follows.
        news = [*sorted(let_go.items(), key=lambda item: item[0] in positions)]
        news += sorted(said.items(), key=lambda item: item[0] not in positions)
        self._events += [Event(now_ns, name, float(value)) for name, value in news]
        self._events.append(Event(now_ns))
        self._held = set(said)

    def read(self, now_ns: int) -> list[Event]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Nothing is open."""


def open_device(device: str, mapping: Mapping) -> Device:
    """``keyboard``, ``topic``, a file of /dev/input, a recorded stream (\\*.jsonl), or empty: what the mapping says.

    Raises DeviceError.
    """
    device = device or mapping.device
    if device == "keyboard":
        return Keyboard(mapping)
    if device == TOPIC:
        return Messages(mapping)
    if device.endswith(".jsonl"):
        return Recording(Path(device))
    return InputDevice(device if "/" in device else find_input_device(device.split("|")))
