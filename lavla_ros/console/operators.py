"""Who operates: one browser at a time; the others watch."""

from __future__ import annotations

import time
from collections.abc import Callable

AWAY_S = 5.0
"""A browser that was closed, or lost its network, keeps the controls for this long: a page that is loaded again has
them still."""


class Operators:
    """The controls are with one browser. A browser may have several pages open; all of them operate."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pages: dict[str, int] = {}
        """Browser → its open pages."""
        self._holder = ""
        self._left_s = 0.0

    def opened(self, browser: str) -> None:
        """A page was opened; the controls are its, if they are free."""
        self._pages[browser] = self._pages.get(browser, 0) + 1
        self.claim(browser)

    def closed(self, browser: str) -> None:
        """A page was closed, or lost its connection."""
        left = self._pages.get(browser, 0) - 1
        if left > 0:
            self._pages[browser] = left
            return
        self._pages.pop(browser, None)
        if browser == self._holder:
            self._left_s = self._clock()

    def operates(self, browser: str) -> bool:
        return browser == self._holder and browser in self._pages

    @property
    def free(self) -> bool:
        """Whether a browser that watches may take the controls."""
        if not self._holder:
            return True
        return self._holder not in self._pages and self._clock() - self._left_s > AWAY_S

    def claim(self, browser: str) -> bool:
        """Take the controls if they are free; whether ``browser`` has them."""
        if browser in self._pages and self.free:
            self._holder = browser
        return self.operates(browser)

    def release(self, browser: str) -> None:
        """Give the controls away: the next that asks has them."""
        if browser == self._holder:
            self._holder = ""
