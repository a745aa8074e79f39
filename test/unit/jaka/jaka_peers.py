"""Helpers of these tests: peers on loopback that are no emulators, free ports, waiting."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lavla_ros.control.arm import Arm
from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.jaka.codec import FrameReader, encode
from lavla_ros.jaka.driver import JakaTcpDriver
from lavla_ros.jaka.driver_config import JakaDriverConfig
from sim_bridges.jaka_controller.config import ControllerConfig, EmulatorOptions

QUICK = ControllerConfig(power_on_s=0.0, enable_s=0.0)
ON_FREE_PORTS = EmulatorOptions(port=0, status_port=0, controller=QUICK)


def jaka_driver(config: JakaDriverConfig, arm: Arm = MINICOBO) -> JakaTcpDriver:
    return JakaTcpDriver(config, arm.limits, arm)


@contextmanager
def raw_peer(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that is no emulator: ``serve`` gets every connection, in a thread; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=run, args=(connection,), daemon=True)
            thread.start()
            threads.append(thread)

    def run(connection: socket.socket) -> None:
        with connection:
            try:
                serve(connection)
            except OSError:
                return

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(2.0)


def answer_with(data: bytes, *, keep_open_s: float = 0.0) -> Callable[[socket.socket], None]:
    """Wait for any request, answer with these bytes, hang up."""

    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(data)
        time.sleep(keep_open_s)

    return serve


def answer_by_name(replies: Mapping[str, Mapping[str, Any]]) -> Callable[[socket.socket], None]:
    """Accept every command, with these fields in the replies to some."""

    def serve(connection: socket.socket) -> None:
        reader = FrameReader()
        while data := connection.recv(4096):
            for message in reader.feed(data):
                name = message["cmdName"]
                connection.sendall(encode({"cmdName": name, "errorCode": "0", "errorMsg": "", **replies.get(name, {})}))

    return serve


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Poll until the condition holds; fails the test where it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {timeout_s} s"
        time.sleep(0.005)
