"""Puts this folder on the import path, so that its tests share helper modules; tells a deadline that this machine kept
a test from holding."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

STALL_S = 0.02
"""A thread that asks for a core this much later than it wanted it says that there was none: deadlines are of 8 ms."""
TRIES = 4


class MachineStalledError(Exception):
    """A deadline was missed while there was no core for the test: it says nothing of what is tested."""


class _Watch(threading.Thread):
    """Wants to run every 4 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest_s = 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            began = time.monotonic()
            time.sleep(0.004)
            self.longest_s = max(self.longest_s, time.monotonic() - began - 0.004)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("timed"):
            item.add_marker(pytest.mark.flaky(reruns=TRIES - 1, only_rerun=[MachineStalledError.__name__]))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """What fails though there was a core for it has failed; what fails without one is tried again."""
    if not pyfuncitem.get_closest_marker("timed"):
        return (yield)
    watch = _Watch()
    watch.start()
    try:
        return (yield)
    except Exception as error:
        if watch.longest_s < STALL_S:
            raise
        raise MachineStalledError(f"there was no core for it for {watch.longest_s:.3f} s: {error}") from error
    finally:
        watch.ended.set()
        watch.join()
