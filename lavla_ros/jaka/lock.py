"""One user of a controller at a time on this machine: the process that has claimed the controller's address.

The controller itself lets a later client replace an earlier one, also while the earlier one moves the arm.
"""

from __future__ import annotations

import socket

from lavla_ros.claim import Claim, ClaimError
from lavla_ros.jaka.errors import ControllerBusyError


class ControllerLock:
    """Held from :meth:`acquire` to :meth:`release`, or until the process ends, however it ends."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._claim: Claim | None = None

    def acquire(self, timeout_s: float = 0.0) -> None:
        """Take the lock, waiting for it up to ``timeout_s``. Does nothing if it is held by this object.

        Raises ControllerBusyError naming the process that has it, of whatever user.
        """
        if self._claim is not None:
            return
        try:
            self._claim = Claim(f"jaka/{_address(self._host)}:{self._port}", wait_s=timeout_s)
        except ClaimError as holder:
            raise ControllerBusyError(
                f"the controller is commanded by {holder}; stop that one first: two would fight over the arm"
            ) from None

    def release(self) -> None:
        """Let others have the controller. Safe to call twice."""
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.close()


def _address(host: str) -> str:
    """The same for every name of one controller, and short enough for the name of a socket."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        return host[:80]  # a controller that is not found is not commanded either
