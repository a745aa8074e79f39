"""What a bag would hold, as it comes, to a Foxglove that is connected. Needs ``pip install lavla_ros[foxglove]``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lavla_ros.errors import UserError
from lavla_ros.recording.types import jazzy

HOST = "127.0.0.1"
"""This machine alone: whoever is connected sees through the cameras."""


class LiveViewError(UserError, RuntimeError):
    """Foxglove's library is not installed, or its server cannot be started."""


class LiveView:
    """A server for Foxglove: a channel for each topic, with the schemas that our bags have, so that one layout serves
    both. It only tells; nothing can be published or called through it. Thread-safe."""

    def __init__(self, topics: Mapping[str, str], latched: Collection[str], port: int) -> None:
        """``topics``: topic → message type. The newest message of those in ``latched`` is sent to everybody who comes
        later. ``port``: 0 is a free one. Raises LiveViewError."""
        try:
            import foxglove
        except ImportError:
            raise LiveViewError("Foxglove's library is not installed: pip install lavla_ros[foxglove]") from None
        self._context = foxglove.Context()
        self._channels = {topic: self._channel(foxglove, topic, kind) for topic, kind in topics.items()}
        self._latched = frozenset(latched)
        self._told: dict[str, tuple[bytes, int]] = {}
        self._lock = threading.Lock()
        listener: Any = _Listener(self._tell_again)
        try:
            self._server = foxglove.start_server(
                name="lavla_ros", host=HOST, port=port, context=self._context, server_listener=listener
            )
        except Exception as error:  # the library has no class of its own for it
            raise LiveViewError(f"no server for Foxglove at {HOST}:{port}: {error}; choose another port") from error
        self.port: int = self._server.port

    def _channel(self, foxglove: Any, topic: str, kind: str) -> Any:
        definition, _ = jazzy().generate_msgdef(kind, ros_version=2)
        schema = foxglove.Schema(name=kind, encoding="ros2msg", data=definition.encode())
        return foxglove.Channel(topic, schema=schema, message_encoding="cdr", context=self._context)

    def send(self, topic: str, raw: bytes, stamp_ns: int) -> bool:
        """``raw``: the message in CDR. Whether anybody looks at the topic."""
        channel = self._channels[topic]
        with self._lock:
            if topic in self._latched:
                self._told[topic] = raw, stamp_ns
            channel.log(raw, log_time=stamp_ns)
        return bool(channel.has_sinks())

    def _tell_again(self, topic: str) -> None:
        with self._lock:
            if topic in self._told:
                raw, stamp_ns = self._told[topic]
                self._channels[topic].log(raw, log_time=stamp_ns)

    def close(self) -> None:
        self._server.stop()


class _Listener:
    """What the library calls from threads of its own."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told

    def on_subscribe(self, client: Any, channel: Any) -> None:
        self._told(channel.topic)
