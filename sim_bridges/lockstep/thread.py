"""The one thread in which a simulator is made, stepped, drawn and closed: OpenGL's contexts belong to threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

CLOSING_S = 30.0


class SimulatorThread:
    """Does one job after another, from its making on."""

    def __init__(self, on_error: Callable[[str], None]) -> None:
        """``on_error`` is told of a job that raises."""
        self._on_error = on_error
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="simulator", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """No job waits."""
        return self._jobs.empty()

    def put(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def call(self, job: Callable[[], None], timeout_s: float | None = None) -> None:
        """Wait for it to be done. Raises what it raises, TimeoutError if that takes longer."""
        done: Future[None] = Future()

        def fulfil() -> None:
            try:
                job()
                done.set_result(None)
            except Exception as error:  # noqa: BLE001  # raised where it is waited for
                done.set_exception(error)

        self._jobs.put(fulfil)
        done.result(timeout_s)

    def close(self, last: Callable[[], None]) -> None:
        """End after a last job."""
        self._jobs.put(last)
        self._jobs.put(None)
        self._thread.join(CLOSING_S)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # noqa: BLE001  # a thread must not end in silence
                self._on_error(f"the simulator's thread failed: {type(error).__name__}: {error}")
