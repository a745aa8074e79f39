"""One command connection to the controller: every reply matched to its command, a time-out on everything.

A command is answered by a reply with its own ``cmdName``; anything else that arrives is counted, never taken for
the answer. After a time-out or a broken frame the connection is closed: a late answer could otherwise be taken for
the next one's. The next command then reconnects, but only outside servo mode: in servo mode the arm is
somewhere on its way, and a person decides.

In servo mode a broken frame, or a peer that hangs up, does not close it: the arm can still be told to slow down.
The connection is *deaf* from then on: it reads nothing any more, and writes as long as the socket takes it.
"""

from __future__ import annotations

import errno
import logging
import math
import select
import socket
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from lavla_ros.config import ConfigError
from lavla_ros.jaka.codec import FrameReader, JakaProtocolError, encode, finite_numbers
from lavla_ros.jaka.errors import JakaConnectionError, JakaError, JakaTimeoutError
from lavla_ros.jaka.limits import JOINTS

_log = logging.getLogger(__name__)
COMMAND_PORT = 10001
STATUS_PORT = 10000
MAX_READ_BYTES = 8192
"""Most that one posting reads: a hundred replies, under 1 ms of parsing. A peer that floods cannot stop the caller."""


@dataclass(slots=True)
class ClientCounters:
    """What the connection saw since it was made. Keys are cmdNames."""

    reconnects: int = 0
    stray_replies: Counter[str] = field(default_factory=Counter)
    """Replies that answered nothing that was asked."""
    posted: Counter[str] = field(default_factory=Counter)
    """Commands sent without waiting for their reply."""
    acknowledged: Counter[str] = field(default_factory=Counter)
    """Replies to those, refusals included."""
    refused: Counter[str] = field(default_factory=Counter)
    """Replies to those with an errorCode other than "0"."""
    refused_in_a_row: Counter[str] = field(default_factory=Counter)
    """Refusals since the last of those commands that was accepted."""
    last_refusal: dict[str, str] = field(default_factory=dict)
    """Newest text of a refusal."""
    never_answered: Counter[str] = field(default_factory=Counter)
    """Those without a reply when a later request was answered."""
    full_reads: int = 0
    """Postings that left something unread, because more had arrived than they read."""
    full_reads_in_a_row: int = 0


class CommandConnection:
    """Requests and postings over the command port. One thread at a time."""

    def __init__(
        self, host: str, port: int, *, connect_timeout_s: float, reply_timeout_s: float, post_timeout_s: float
    ) -> None:
        for name, value in (
            ("connect_timeout_s", connect_timeout_s),
            ("reply_timeout_s", reply_timeout_s),
            ("post_timeout_s", post_timeout_s),
        ):
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive time in seconds, got {value}")
        self.host, self.port = host, port
        self._connect_timeout_s = connect_timeout_s
        self._reply_timeout_s = reply_timeout_s
        self._post_timeout_s = post_timeout_s
        self._socket: socket.socket | None = None
        self._reader = FrameReader()
        self._unanswered: defaultdict[str, deque[int]] = defaultdict(deque)
        self._deaf: str | None = None
        self._was_connected = False
        self.in_servo_mode = False
        """Whether servo mode was entered and not left since. While True nothing reconnects."""
        self.counters = ClientCounters()

    @property
    def address(self) -> str:
        """host:port of the command port."""
        return f"{self.host}:{self.port}"

    @property
    def connected(self) -> bool:
        """Whether the connection is open, as far as is known without using it."""
        return self._socket is not None

    @property
    def deaf(self) -> str | None:
        """Why nothing is read any more from the open connection, or None."""
        return self._deaf

    def unanswered(self, command: str) -> tuple[int, float]:
        """How many of these postings have no reply yet, and the age of the oldest of them, s."""
        waiting = self._unanswered[command]
        return len(waiting), (time.monotonic_ns() - waiting[0]) * 1e-9 if waiting else 0.0

    def open(self) -> None:
        """Connect unless connected; nothing is sent. Raises JakaConnectionError naming host:port and the fix."""
        if self._socket is not None:
            return
        try:
            connection = socket.create_connection((self.host, self.port), timeout=self._connect_timeout_s)
        except OSError as error:
            raise JakaConnectionError(
                f"cannot connect to the JAKA controller at {self.address}: {error}; check that it is switched on, "
                f"that host and port are right (command port {COMMAND_PORT} unless changed) and that this machine "
                f"is in its network (ping {self.host})"
            ) from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._reader = FrameReader()
        self._unanswered.clear()
        self._deaf = None
        self.counters.refused_in_a_row.clear()
        self.counters.full_reads_in_a_row = 0
        self.counters.reconnects += self._was_connected
        self._was_connected = True

    def drop(self) -> None:
        """Close the connection. Safe to call twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._deaf = None

    def request(
        self, command: str, parameters: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Send a command, return its reply (errorCode "0").

        Raises JakaError if the controller refuses, JakaTimeoutError and JakaConnectionError if it does not
        answer, JakaProtocolError if the answer is none of a JAKA controller.
        """
        timeout_s = self._reply_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        connection = self._fresh_connection(command)
        try:
            connection.settimeout(timeout_s)
            connection.sendall(encode({"cmdName": command, **(parameters or {})}))
        except TimeoutError:
            self._timed_out(command, timeout_s)
        except OSError as error:
            self._lost(command, error)
        while True:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                self._timed_out(command, timeout_s)
            try:
                connection.settimeout(remaining_s)
                received = connection.recv(65536)
            except TimeoutError:
                self._timed_out(command, timeout_s)
            except OSError as error:
                self._lost(command, error)
            if not received:
                self._lost(command, self._closed())
            try:
                reply = self._sort_in(self._feed(received), command)
            except JakaProtocolError:
                self.drop()
                raise
            if reply is not None:
                # Replies come in the order of the commands: what was posted before is not answered any more.
                self.counters.never_answered.update({name: len(w) for name, w in self._unanswered.items() if w})
                self._unanswered.clear()
                return self._checked(command, reply)

    def post(self, command: str, data: bytes) -> None:
        """Send an encoded command without waiting for its reply, which is counted when it arrives.

        Replies that have arrived are drained on the way. Blocks at most ``post_timeout_s``; where the peer does not
        take the bytes in that time the connection is closed, since part of a command may have gone out.
        Raises JakaConnectionError, JakaProtocolError; in servo mode an unusable reply makes :attr:`deaf` instead.
        """
        connection = self._connection(command)
        self._take_replies(connection, command)
        self._write(connection, command, data)
        self._unanswered[command].append(time.monotonic_ns())
        self.counters.posted[command] += 1

    def drain(self) -> None:
        """Take and count the replies that have arrived, without blocking. Raises as :meth:`post`."""
        self._take_replies(self._connection("drain"), "drain")

    def farewell(self, command: str, parameters: Mapping[str, Any]) -> None:
        """Send a last command whose reply is not read, and close. Nothing is raised if it cannot be sent."""
        if self._socket is not None:
            try:
                self._write(self._socket, command, encode({"cmdName": command, **parameters}))
            except JakaConnectionError as error:
                _log.warning("%s", error)
        self.drop()

    def field(self, command: str, reply: Mapping[str, Any], name: str) -> Any:
        """One field of a reply. Raises JakaProtocolError if it is missing."""
        if name not in reply:
            raise JakaProtocolError(f"the reply of {self.address} to {command} has no field {name!r}: {dict(reply)!r}")
        return reply[name]

    def numbers(self, command: str, reply: Mapping[str, Any], name: str) -> list[float]:
        """A field of six finite numbers (more are left out). Raises JakaProtocolError if it is something else."""
        values = self.field(command, reply, name)
        numbers = finite_numbers(values, JOINTS)
        if numbers is None:
            raise JakaProtocolError(
                f"the reply of {self.address} to {command}: {name} is not {JOINTS} finite numbers: {values!r}"
            )
        return numbers

    def _connection(self, command: str) -> socket.socket:
        if self._socket is None:
            if self.in_servo_mode:
                raise JakaConnectionError(
                    f"the connection to {self.address} was lost in servo mode, {command} was not sent; check the arm "
                    "and the network, then acknowledge the fault to connect again"
                )
            if not self._was_connected:
                raise JakaConnectionError(f"not connected to {self.address}: call connect() before {command}")
            self.open()
        assert self._socket is not None
        return self._socket

    def _fresh_connection(self, command: str) -> socket.socket:
        """The connection with nothing left to read, so that what arrives from now on may be the answer."""
        connection = self._connection(command)
        if self._deaf is not None:
            self._lost(command, ConnectionError(self._deaf))
        deadline = time.monotonic() + self._reply_timeout_s
        try:
            self._sort_in(self._read_available(connection), None)
            while self.counters.full_reads_in_a_row and time.monotonic() < deadline:
                self._sort_in(self._read_available(connection), None)
        except JakaProtocolError:
            self.drop()
            raise
        except OSError as error:
            if self.in_servo_mode:
                self._lost(command, error)
            # The controller hung up while nothing was asked of it: nothing is lost by connecting again.
            self.drop()
            connection = self._connection(command)
        if self.counters.full_reads_in_a_row:
            self._lost(command, ConnectionError("it is flooded with unrequested data"))
        return connection

    def _take_replies(self, connection: socket.socket, command: str) -> None:
        """Count what has arrived. In servo mode whatever is wrong with it makes the connection deaf."""
        if self._deaf is not None:
            return
        try:
            self._sort_in(self._read_available(connection), None)
        except (OSError, JakaProtocolError) as error:
            if self.in_servo_mode:
                self._deaf = str(error)
                return
            if isinstance(error, OSError):
                self._lost(command, error)
            self.drop()
            raise

    def _write(self, connection: socket.socket, command: str, data: bytes) -> None:
        try:
            sent = _send_some(connection, data)
            if sent < len(data):
                self._send_rest(connection, data[sent:])
        except OSError as error:
            self._lost(command, error)

    def _lost(self, command: str, error: Exception) -> NoReturn:
        self.drop()
        raise JakaConnectionError(
            f"the connection to {self.address} broke at {command}: {error}; check the cable, the controller, and "
            "that no other client is connected to it (a later client replaces an earlier one)"
        ) from error

    def _closed(self) -> ConnectionError:
        pending = self._reader.pending_bytes
        cut = f" in the middle of a message ({pending} bytes of it arrived)" if pending else ""
        return ConnectionError(f"the controller closed the connection{cut}")

    def _timed_out(self, command: str, timeout_s: float) -> NoReturn:
        pending = self._reader.pending_bytes
        self.drop()
        detail = f"; only {pending} bytes of an unfinished message arrived" if pending else ""
        raise JakaTimeoutError(
            f"{self.address} did not answer {command} within {timeout_s:g} s{detail}; check that this is the command "
            f"port of a JAKA controller ({COMMAND_PORT} unless changed), and the network's load"
        )

    def _feed(self, received: bytes) -> list[dict[str, Any]]:
        try:
            return self._reader.feed(received)
        except JakaProtocolError as error:
            raise JakaProtocolError(
                f"{self.address} does not speak the JAKA protocol: {error}; check host and port (commands "
                f"{COMMAND_PORT}, status {STATUS_PORT} unless changed)"
            ) from error

    def _read_available(self, connection: socket.socket) -> list[dict[str, Any]]:
        """What has arrived, at most MAX_READ_BYTES, without blocking. Raises OSError if the connection ended."""
        connection.setblocking(False)
        messages: list[dict[str, Any]] = []
        room = MAX_READ_BYTES
        while room > 0:
            try:
                received = connection.recv(room)
            except BlockingIOError:
                self.counters.full_reads_in_a_row = 0
                return messages
            if not received:
                # What came before the end counts all the same: a refusal may be the reason.
                self._sort_in(messages, None)
                raise self._closed()
            room -= len(received)
            messages += self._feed(received)
        self.counters.full_reads += 1
        self.counters.full_reads_in_a_row += 1
        return messages

    def _sort_in(self, messages: list[dict[str, Any]], command: str | None) -> dict[str, Any] | None:
        """The reply to ``command`` among the messages, if it is there; all others are counted.

        Replies come in the order of the commands, so those to postings of the same name come first.
        """
        answer: dict[str, Any] | None = None
        for message in messages:
            name = str(message.get("cmdName"))
            if waiting := self._unanswered.get(name):
                waiting.popleft()
                self.counters.acknowledged[name] += 1
                if message.get("errorCode") == "0":
                    self.counters.refused_in_a_row[name] = 0
                else:
                    self.counters.refused[name] += 1
                    self.counters.refused_in_a_row[name] += 1
                    self.counters.last_refusal[name] = str(message.get("errorMsg", message))
            elif answer is None and name == command:
                answer = message
            else:
                self.counters.stray_replies[name] += 1
        return answer

    def _checked(self, command: str, reply: dict[str, Any]) -> dict[str, Any]:
        code = reply.get("errorCode")
        if not isinstance(code, str):
            self.drop()
            raise JakaProtocolError(
                f"the reply of {self.address} to {command} has no errorCode string: {reply!r}; not a JAKA controller, "
                "or a firmware with another protocol"
            )
        if code != "0":
            raise JakaError(code, str(reply.get("errorMsg", "")), command)
        return reply

    def _send_rest(self, connection: socket.socket, data: bytes) -> None:
        deadline = time.monotonic() + self._post_timeout_s
        while data:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0 or not select.select([], [connection], [], remaining_s)[1]:
                raise OSError(errno.ETIMEDOUT, f"the controller took no data for {self._post_timeout_s * 1e3:g} ms")
            data = data[_send_some(connection, data) :]


def _send_some(connection: socket.socket, data: bytes) -> int:
    """Hand bytes to a socket without blocking; 0 if it takes none now."""
    connection.setblocking(False)
    try:
        return connection.send(data)
    except BlockingIOError:
        return 0
