"""The emulator's two sockets: commands with one client at a time, and the status push to any number."""

from __future__ import annotations

import errno
import heapq
import itertools
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lavla_ros.control.realtime import request_fifo
from lavla_ros.jaka.codec import MAX_MESSAGE_BYTES, FrameReader, JakaProtocolError, encode
from sim_bridges.jaka_controller.faults import Faults

_log = logging.getLogger(__name__)

CONTROL_COMMAND = "_emulator"
"""cmdName of the emulator's own command, unknown to a real controller."""
_SPLIT_PAUSE_NS = 2_000_000
_GLUE_TIMEOUT_NS = 50_000_000
_MAX_UNSENT_BYTES = 1 << 20

_FLOOD = b'{"errorCode":"0"}' * 500

Handler = Callable[[dict[str, Any], int], dict[str, Any]]


def listen(host: str, port: int, what: str) -> socket.socket:
    """A listening socket. Raises OSError naming what is in the way and the fix."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(16)
    except OSError as error:
        listener.close()
        hint = ""
        if error.errno == errno.EADDRINUSE:
            hint = "; another program (another emulator?) uses it: stop that one or choose another port"
        raise OSError(error.errno, f"cannot open the {what} port {host}:{port}: {error.strerror}{hint}") from error
    listener.setblocking(False)
    return listener


@dataclass(eq=False)
class _Peer:
    """One connection and what is still to be sent on it."""

    socket: socket.socket
    name: str
    reader: FrameReader = field(default_factory=FrameReader)
    unsent: bytearray = field(default_factory=bytearray)
    held: list[bytes] = field(default_factory=list)
    last_due_ns: int = 0
    closing: bool = False
    """Close as soon as everything is sent."""


class CommandServer:
    """Answers commands in a thread of its own.

    A connection becomes the client with its first command and replaces the one before, which is closed. Connections
    that send nothing but ``_emulator`` commands replace no client: they are how another process switches faults.
    """

    def __init__(
        self,
        listener: socket.socket,
        handle: Handler,
        control: Handler,
        faults: Faults,
        *,
        offline: Callable[[], bool],
        realtime: bool,
    ) -> None:
        """``offline``: whether the controller is switched off; then every connection is closed and none taken."""
        self._listener = listener
        self._handle = handle
        self._control = control
        self._faults = faults
        self._offline = offline
        self._realtime = realtime
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, _Peer] = {}
        self._client: _Peer | None = None
        self._due: list[tuple[int, int, _Peer, bytes]] = []
        self._serial = itertools.count()
        self._reading_again_ns = 0
        """Until then nothing is read from the client (monotonic clock)."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="emulator-commands", daemon=True)
        self.replaced_clients = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._stopping = True
        self._thread.join(5.0)

    def _run(self) -> None:
        if self._realtime:
            request_fifo(45, "the emulator's command thread")
        self._selector.register(self._listener, selectors.EVENT_READ)
        while not self._stopping:
            events = self._selector.select(self._timeout_s())
            # Before any other work: this is the arrival time of whatever is readable now.
            arrival_ns = time.monotonic_ns()
            for key, mask in events:
                if key.fileobj is self._listener:
                    self._accept()
                elif peer := self._peers.get(key.fileobj):  # type: ignore[call-overload]
                    if mask & selectors.EVENT_READ:
                        self._receive(peer, arrival_ns)
                    if mask & selectors.EVENT_WRITE and peer.socket in self._peers:
                        self._flush(peer)
            if self._faults.drop_connection and self._client is not None:
                self._faults.drop_connection = False
                self._close(self._client, "dropped by a fault")
            if self._offline():
                self._close_all("the controller is switched off")
            self._send_due()
            self._pause_and_flood()
        self._close_all("the emulator stops")
        self._selector.close()
        self._listener.close()

    def _close_all(self, reason: str) -> None:
        for peer in list(self._peers.values()):
            self._close(peer, reason)

    def _timeout_s(self) -> float:
        # Faults set by plain assignment, and stop(), are seen within this time even where nothing arrives.
        idle_s = 0.02
        if self._faults.flood:
            return 0.0
        return min(idle_s, max(0.0, (self._due[0][0] - time.monotonic_ns()) * 1e-9)) if self._due else idle_s

    def _accept(self) -> None:
        try:
            connection, address = self._listener.accept()
        except OSError as error:
            _log.warning("a command connection could not be accepted: %s", error)
            return
        if self._faults.refuse_connections or self._offline():
            connection.close()
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = _Peer(connection, f"{address[0]}:{address[1]}")
        self._peers[connection] = peer
        self._selector.register(connection, selectors.EVENT_READ)

    def _receive(self, peer: _Peer, arrival_ns: int) -> None:
        if peer is self._client and arrival_ns < self._reading_again_ns:
            return
        try:
            data = peer.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._close(peer, str(error))
            return
        if not data:
            self._close(peer, "the client hung up")
            return
        try:
            messages = peer.reader.feed(data)
        except JakaProtocolError as error:
            self._queue(peer, encode({"cmdName": "", "errorCode": "1", "errorMsg": f"exception: {error}"}))
            self._close_when_sent(peer)
            return
        for message in messages:
            if message.get("cmdName") == CONTROL_COMMAND:
                self._queue(peer, encode(self._control(message, arrival_ns)))
                continue
            self._make_client(peer)
            if self._faults.swallow_commands:
                continue
            reply = self._handle(message, arrival_ns)
            if not self._faults.silences(str(message.get("cmdName"))):
                self._answer(peer, encode(reply))
            if peer.socket not in self._peers:
                return

    def _pause_and_flood(self) -> None:
        """The client's connection as two of the faults want it."""
        faults, client = self._faults, self._client
        if faults.pause_commands_s > 0:
            self._reading_again_ns = time.monotonic_ns() + round(faults.pause_commands_s * 1e9)
            faults.pause_commands_s = 0.0
        if faults.flood and client is not None and len(client.unsent) < _MAX_UNSENT_BYTES // 2:
            self._queue(client, _FLOOD)
        if faults.flood or time.monotonic_ns() < self._reading_again_ns:
            time.sleep(0.0005)  # what is not read, or not taken, makes every selection end at once

    def client_connected(self) -> bool:
        """Whether there is a client now."""
        return self._client is not None

    def _make_client(self, peer: _Peer) -> None:
        if self._client is peer:
            return
        if self._client is not None:
            self.replaced_clients += 1
            _log.warning("client %s replaces client %s", peer.name, self._client.name)
            self._close(self._client, "replaced by a later client")
        self._client = peer

    # ---- replies, as the faults want them ----

    def _answer(self, peer: _Peer, reply: bytes) -> None:
        garble, truncated = self._faults.garble, False
        if garble:
            self._faults.garble = ""
            truncated = garble == "truncated"
            reply = {
                "malformed": b'{"cmdName":,' + reply[1:],
                "truncated": reply[: len(reply) // 2],
                "oversized": reply[:-1] + b',"padding":"' + b"x" * MAX_MESSAGE_BYTES + b'"}',
                "nameless": encode({"cmdName": "unasked", "errorCode": "0", "errorMsg": ""}) + reply,
            }[garble]
        due_ns = time.monotonic_ns() + int(self._faults.delay_s * 1e9)
        peer.held.append(reply)
        if len(peer.held) < self._faults.glue_replies:
            self._schedule(due_ns + _GLUE_TIMEOUT_NS, peer, b"")
            return
        reply, peer.held = b"".join(peer.held), []
        third = len(reply) // 3 if self._faults.split_replies else 0
        for i, piece in enumerate((reply[:third], reply[third : 2 * third], reply[2 * third :])):
            if piece:
                # Never before what is still waiting: the bytes of two replies must not mix.
                peer.last_due_ns = max(peer.last_due_ns, due_ns + i * _SPLIT_PAUSE_NS * (third > 0))
                self._schedule(peer.last_due_ns, peer, piece)
        self._send_due()
        if truncated:
            self._close_when_sent(peer)

    def _schedule(self, due_ns: int, peer: _Peer, data: bytes) -> None:
        """Send later; empty data stands for whatever is held back for gluing by then."""
        heapq.heappush(self._due, (due_ns, next(self._serial), peer, data))

    def _send_due(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic_ns():
            _, _, peer, data = heapq.heappop(self._due)
            if data:
                self._queue(peer, data)
            elif peer.held:
                data, peer.held = b"".join(peer.held), []
                peer.last_due_ns = max(peer.last_due_ns, time.monotonic_ns())
                self._schedule(peer.last_due_ns, peer, data)

    def _queue(self, peer: _Peer, data: bytes) -> None:
        if peer.socket not in self._peers or not data:
            return
        peer.unsent += data
        self._flush(peer)

    def _flush(self, peer: _Peer) -> None:
        try:
            while peer.unsent:
                del peer.unsent[: peer.socket.send(peer.unsent)]
        except BlockingIOError:
            if len(peer.unsent) > _MAX_UNSENT_BYTES:
                self._close(peer, f"the client left {len(peer.unsent)} bytes of replies unread")
                return
        except OSError as error:
            self._close(peer, str(error))
            return
        if peer.closing and not peer.unsent:
            self._close(peer, "after the last reply")
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        self._selector.modify(peer.socket, events)

    def _close_when_sent(self, peer: _Peer) -> None:
        peer.closing = True
        if peer.socket in self._peers and not peer.unsent:
            self._close(peer, "after the last reply")

    def _close(self, peer: _Peer, reason: str) -> None:
        if self._peers.pop(peer.socket, None) is None:
            return
        # Connections that only switch faults or read the log come and go.
        level = logging.INFO if self._client is peer else logging.DEBUG
        _log.log(level, "command connection %s closed: %s", peer.name, reason)
        self._selector.unregister(peer.socket)
        peer.socket.close()
        if self._client is peer:
            self._client = None


class StatusServer:
    """Pushes a status message to every connection at a fixed rate, in a thread of its own."""

    def __init__(
        self,
        listener: socket.socket,
        status: Callable[[], dict[str, Any]],
        faults: Faults,
        *,
        offline: Callable[[], bool],
        rate_hz: float,
    ) -> None:
        self._listener = listener
        self._status = status
        self._faults = faults
        self._offline = offline
        self._period_ns = round(1e9 / rate_hz)
        self._unsent: dict[socket.socket, bytearray] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="emulator-status", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        deadline_ns = time.monotonic_ns()
        while not self._stopping.is_set():
            deadline_ns = max(deadline_ns + self._period_ns, time.monotonic_ns())
            self._stopping.wait(max(0.0, (deadline_ns - time.monotonic_ns()) * 1e-9))
            self._accept_all()
            if self._offline():
                for connection in self._unsent:
                    connection.close()
                self._unsent.clear()
            if self._unsent and not self._faults.status_stalled:
                data = encode_with_length(self._status())
                for connection in list(self._unsent):
                    self._push(connection, data)
        for connection in self._unsent:
            connection.close()
        self._listener.close()

    def _accept_all(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                _log.warning("a status connection could not be accepted: %s", error)
                return
            connection.setblocking(False)
            self._unsent[connection] = bytearray()

    def _push(self, connection: socket.socket, data: bytes) -> None:
        unsent = self._unsent[connection]
        if not unsent:  # a connection that has not taken the last message gets no other
            unsent += data
        try:
            while unsent:
                del unsent[: connection.send(unsent)]
        except BlockingIOError:
            return
        except OSError as error:
            _log.info("a status connection ended: %s", error)
            del self._unsent[connection]
            connection.close()


def encode_with_length(status: dict[str, Any]) -> bytes:
    """A status message whose ``len`` field is its own length in bytes."""
    body = encode(status)[1:]
    length = len(body) + len('{"len":,')
    # The digits count too, and may themselves add one.
    digits = len(str(length + len(str(length))))
    return b'{"len":%d,%s' % (length + digits, body)
