"""Keys of a terminal, one by one; or the lines of a pipe.

They are read byte by byte: nothing is taken from a program that reads after this one.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

ENTER, END = "\n", ""
"""Keys of these names: Enter; nothing more will come."""


@contextmanager
def single_keys() -> Iterator[None]:
    """A terminal gives each key at once, and shows none of them."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(0)
    tty.setcbreak(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def next_key(timeout_s: float) -> str | None:
    """A key of the terminal, or a line of a pipe ("\\n" for an empty one); END if nothing more comes, None if nothing
    came in time."""
    ready, _, _ = select.select([0], [], [], timeout_s)
    if not ready:
        return None
    if sys.stdin.isatty():
        return os.read(0, 1).decode(errors="replace").replace("\r", ENTER).replace("\x04", END)
    return _line()


def go_on(question: str) -> bool:
    """Wait for Enter, True; or for q or the end of what comes, False."""
    print(question, flush=True)
    with single_keys():
        while True:
            key = next_key(1.0)
            if key in (ENTER, END, "q"):
                return key == ENTER


def ask(question: str) -> str:
    """A line of text. Empty if nothing more comes."""
    print(f"{question}: ", end="", flush=True)
    if not sys.stdin.isatty():
        return _line().strip()
    keys = termios.tcgetattr(0)
    plain = [*keys]
    plain[3] |= termios.ICANON | termios.ECHO
    termios.tcsetattr(0, termios.TCSADRAIN, plain)
    try:
        return _line().strip()
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, keys)


def _line() -> str:
    read = bytearray()
    while byte := os.read(0, 1):
        if byte == b"\n":
            return read.decode(errors="replace").strip() or ENTER
        read += byte
    return read.decode(errors="replace").strip() or END
