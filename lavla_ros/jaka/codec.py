"""Framing of the controller's JSON: one object after another, no delimiter, any split of the bytes.

The vendor documents no delimiter, so a message ends where its braces close, braces inside strings not
counted. A reply may arrive in pieces, and several may arrive at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from lavla_ros.errors import UserError

MAX_MESSAGE_BYTES = 65536
"""Longest message accepted. The longest documented one (the status push) is under 4 KiB."""
MAX_DEPTH = 32
"""Deepest nesting of objects accepted."""

_BETWEEN = b" \t\r\n\0"
_STRUCTURE = re.compile(rb'["{}]')
_STRING_END = re.compile(rb'["\\]')


class JakaProtocolError(UserError, RuntimeError):
    """The peer sent bytes that are no JAKA message. The stream is out of step: close the connection."""


def encode(message: Mapping[str, Any]) -> bytes:
    """One message as compact JSON bytes (ASCII).

    Raises ValueError for NaN and infinities, TypeError for what JSON cannot hold.
    """
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii")


class FrameReader:
    """Cuts a byte stream into messages; keeps what is incomplete for the next call.

    After a JakaProtocolError every further call raises it again: nothing after bad bytes can be trusted.
    """

    def __init__(self, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        if max_bytes < 2:
            raise ValueError(f"max_bytes must hold at least '{{}}', got {max_bytes}")
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._scanned = 0  # may point one past the buffer: behind a backslash that was its last byte
        self._depth = 0
        self._in_string = False
        self._error: str | None = None

    @property
    def pending_bytes(self) -> int:
        """Bytes of a message that has begun and not ended: above 0 at the end of a stream means truncated."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take the next bytes of the stream; return the messages that they complete, in order.

        Raises JakaProtocolError for bytes between messages, invalid JSON, NaN or infinities, nesting above
        ``MAX_DEPTH`` and messages above ``max_bytes``.
        """
        if self._error is not None:
            raise JakaProtocolError(self._error)
        self._buffer += data
        messages = []
        while (end := self._message_end()) is not None:
            messages.append(self._decode(bytes(self._buffer[:end])))
            del self._buffer[:end]
            self._scanned = 0
        if len(self._buffer) > self._max_bytes:
            self._fail(f"a message is longer than {self._max_bytes} bytes; it begins {bytes(self._buffer[:60])!r}")
        return messages

    def _message_end(self) -> int | None:
        """Index behind the first complete message, or None; remembers how far it looked."""
        if self._depth == 0:
            start = len(self._buffer) - len(self._buffer.lstrip(_BETWEEN))
            del self._buffer[:start]
            if not self._buffer:
                return None
            if self._buffer[0] != ord("{"):
                self._fail(f"expected a JSON object, got {bytes(self._buffer[:60])!r}")
        while match := (_STRING_END if self._in_string else _STRUCTURE).search(self._buffer, self._scanned):
            self._scanned = match.end()
            byte = match.group()
            if byte == b"\\":
                self._scanned += 1
            elif byte == b'"':
                self._in_string = not self._in_string
            elif byte == b"{":
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    self._fail(f"objects nested deeper than {MAX_DEPTH}")
            else:
                self._depth -= 1
                if self._depth == 0:
                    return self._scanned
        self._scanned = max(self._scanned, len(self._buffer))
        return None

    def _decode(self, frame: bytes) -> dict[str, Any]:
        if len(frame) > self._max_bytes:
            self._fail(f"a message of {len(frame)} bytes is longer than {self._max_bytes}; it begins {frame[:60]!r}")
        # Text for people (errorMsg) may come in another encoding; that must not cost the connection.
        text = frame.decode("utf-8", errors="replace")
        try:
            message = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            self._fail(f"malformed JSON ({error}): {frame[:120]!r}")
        if not isinstance(message, dict):
            self._fail(f"expected a JSON object, got {frame[:60]!r}")
        return message

    def _fail(self, reason: str) -> NoReturn:
        self._error = reason
        self._buffer.clear()
        raise JakaProtocolError(reason)


def finite_numbers(value: object, count: int) -> list[float] | None:
    """The first ``count`` items of a JSON list as floats; None if there are fewer, or one is no finite number."""
    if not isinstance(value, list) or len(value) < count:
        return None
    numbers = []
    for item in value[:count]:
        # Bounded before float(): JSON also holds 1e999 (read as infinity) and integers of a thousand digits.
        if isinstance(item, bool) or not isinstance(item, int | float) or not -1e300 < item < 1e300:
            return None
        numbers.append(float(item))
    return numbers


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
