"""What can go wrong between us and a controller; every message names the address and what to do."""

from __future__ import annotations

from lavla_ros.errors import UserError


class JakaConnectionError(UserError, ConnectionError):
    """The controller cannot be reached, hung up, or did not answer in time."""


class JakaTimeoutError(JakaConnectionError):
    """The controller did not answer in time. The connection is closed: a late answer could be taken for another."""


class JakaError(UserError, RuntimeError):
    """The controller answered a command with an error: ``errorCode`` other than ``"0"``."""

    def __init__(self, error_code: str, error_msg: str, command: str) -> None:
        super().__init__(f"the controller refused {command}: errorCode {error_code!r}, {error_msg or 'no text'!r}")
        self.error_code = error_code
        self.error_msg = error_msg
        self.command = command


class ControllerBusyError(UserError, RuntimeError):
    """Another process of this machine has the controller."""
