"""What a node has made and has to give back: a stack of it, undone in the reverse order."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType


class Scope(ExitStack):
    """An ExitStack that also makes ROS entities of its node; each is destroyed when the scope is closed.

    Anything else goes in by ``callback`` or ``enter_context``. Once closed it may be filled again.
    """

    def __init__(self, node: Any) -> None:
        super().__init__()
        self.node = node

    def publisher(self, kind: Any, topic: str, qos: Any) -> Any:
        return self._entity("publisher", kind, topic, qos)

    def subscription(self, kind: Any, topic: str, callback: Any, qos: Any, **options: Any) -> Any:
        return self._entity("subscription", kind, topic, callback, qos, **options)

    def service(self, kind: Any, name: str, callback: Any) -> Any:
        return self._entity("service", kind, name, callback)

    def client(self, kind: Any, name: str) -> Any:
        return self._entity("client", kind, name)

    def timer(self, period_s: float, callback: Any) -> Any:
        """By a steady clock: a simulator's may stand still."""
        return self._entity("timer", period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _entity(self, what: str, *arguments: Any, **options: Any) -> Any:
        made = getattr(self.node, f"create_{what}")(*arguments, **options)
        self.callback(getattr(self.node, f"destroy_{what}"), made)
        return made
