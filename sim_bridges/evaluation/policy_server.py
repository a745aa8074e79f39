"""One policy for all workers of an evaluation: a process that holds it, asked through a local socket.

On a GPU every copy of a policy takes its memory, and copies share one device all the same. Each observation is
computed by itself, whoever asks: batches would have other bits.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from lavla_ros.contract import ActionChunk, Contract, Observation
from lavla_ros.errors import is_users
from sim_bridges.episode import PolicyError
from sim_bridges.evaluation.forking import forking_context


@contextlib.contextmanager
def served_policy(policy: str, *, device: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Where :class:`ServedPolicy` finds it while the block runs, and what raises PolicyError if it has died.

    Raises PolicyError for a policy that cannot be loaded.
    """
    context = forking_context(loads_policy=True)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = context.Pipe()
        address = str(Path(folder) / "policy")
        process = context.Process(target=_serve, args=(policy, device, address, theirs), name="policy", daemon=True)
        process.start()
        theirs.close()

        def watch() -> None:
            if not process.is_alive():
                raise PolicyError(f"the process that holds {policy} ended with status {process.exitcode}")

        try:
            refused = "its process ended before it was loaded"
            with contextlib.suppress(EOFError):
                refused = ours.recv()
            if refused:
                raise PolicyError(f"policy {policy}: {refused}")
            yield address, watch
        finally:
            ours.close()  # which ends it
            process.join(5.0)
            process.kill()
            process.join()


class ServedPolicy:
    """The policy of another process, as if it were here."""

    def __init__(self, address: str) -> None:
        self._connection = Client(address, authkey=multiprocessing.current_process().authkey)
        self.contract: Contract = self._connection.recv()

    def reset(self) -> None:
        """Nothing to forget: what is served is stateless."""

    def predict(self, observation: Observation) -> ActionChunk:
        """Raises what the policy raises, and PolicyError if its process is gone."""
        try:
            self._connection.send(observation)
            found: ActionChunk | Exception = self._connection.recv()
        except (EOFError, ConnectionError):
            raise PolicyError("the process that holds the policy is gone") from None
        if isinstance(found, Exception):
            raise found
        return found


def _serve(policy: str, device: str, address: str, parent: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    from lavla_ros.policy.policy import load_policy

    try:
        held = load_policy(policy, device=device, threads=1)
        listener = Listener(address, authkey=multiprocessing.current_process().authkey)
    except Exception as error:
        parent.send(str(error) if is_users(error) else f"{type(error).__name__}: {error}")
        raise
    one_at_a_time = threading.Lock()

    def answer(connection: Connection) -> None:
        with contextlib.suppress(EOFError, ConnectionError), connection:
            connection.send(held.contract)
            while True:
                observation = connection.recv()
                try:
                    with one_at_a_time:
                        found: ActionChunk | Exception = held.predict(observation)
                except Exception as error:  # noqa: BLE001  # whoever asked is told
                    found = error
                connection.send(found)

    def listen() -> None:
        while True:
            # a worker that is killed as it connects
            with contextlib.suppress(EOFError, OSError, multiprocessing.AuthenticationError):
                threading.Thread(target=answer, args=(listener.accept(),), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    parent.send("")
    with contextlib.suppress(EOFError, ConnectionError):
        parent.recv()  # nothing comes: it closes its end, or dies
    os._exit(0)  # the threads wait for workers
