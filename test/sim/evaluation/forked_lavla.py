"""``lavla`` in processes that fork from one with its imports done: torch alone takes every command of a study seconds.

As a program it stands in for ``python -m lavla_ros.cli``: it has its words carried out where :func:`forked_lavla` runs,
with its own environment, folder and output, and ends as they did.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_children = threading.Lock()
"""Starting a process asks after those that run, each of which tells only once how it ended."""


@contextmanager
def forked_lavla(folder: Path) -> Iterator[tuple[str, ...]]:
    """The program whose commands these are, while the block runs."""
    address = str(folder / "lavla")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_carry_out, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield sys.executable, "-S", __file__, address
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5.0)


def _carry_out(connection: socket.socket) -> None:
    import multiprocessing
    from multiprocessing.connection import Connection, wait

    with connection:
        _, outputs, _, _ = socket.recv_fds(connection, 1, 2)
        asked = json.loads(connection.makefile().readline())
        sent = [Connection(output, readable=False) for output in outputs]
        process = multiprocessing.get_context("forkserver").Process(target=_command, args=(asked, *sent))
        with _children:
            process.start()
        for output in sent:
            output.close()
        if process.sentinel not in wait([process.sentinel, connection]):  # whoever asked is gone
            process.terminate()
            wait([process.sentinel])
        with _children:
            process.join()
        connection.sendall(str(process.exitcode).encode())


def _command(asked: dict[str, Any], *outputs: Any) -> None:
    from lavla_ros import cli

    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    for number, output in enumerate(outputs, 1):
        os.dup2(output.fileno(), number)
    cli.main(asked["words"])


def _ask(address: str, words: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"!"], [1, 2])
        asked = {"words": words, "environment": dict(os.environ), "folder": os.getcwd()}  # noqa: PTH109
        connection.sendall(json.dumps(asked).encode() + b"\n")
        return int(connection.makefile().read())


if __name__ == "__main__":
    sys.exit(_ask(sys.argv[1], sys.argv[2:]))
