"""Message definitions of ROS 2 Jazzy, and the names that recorder, reader and converter share."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Literal

from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

EPISODE_TOPIC = "/episode/state"
EPISODE_TYPE = "std_msgs/msg/String"
SCENE_KEYS = ("suite", "task", "layout", "initial_state", "seed")
"""What a simulator says on /episode/state to tell one scene from another; those that it has."""
CUSTOM_KEY = "lavla_episode"
"""Key of the episode's JSON in ``custom_data`` of metadata.yaml."""

Outcome = Literal["succeeded", "failed", "unmarked", "interrupted"]
OUTCOMES: tuple[Outcome, ...] = ("succeeded", "failed", "unmarked", "interrupted")


@lru_cache(maxsize=1)
def jazzy() -> Typestore:
    """The standard messages (std, sensor, trajectory, diagnostic, rosgraph, …) of Jazzy. Treat as read-only."""
    return get_typestore(Stores.ROS2_JAZZY)


def string_cdr(text: str) -> bytes:
    """std_msgs/String in CDR."""
    store = jazzy()
    return bytes(store.serialize_cdr(store.types[EPISODE_TYPE](data=text), EPISODE_TYPE))


def json_object(text: str) -> dict[str, Any]:
    """The JSON object in ``text``; empty for anything else (another system's /episode/state)."""
    try:
        value = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


class EpisodeMarks:
    """What the messages on /episode/state say about the episode that a bag holds.

    A mark counts only after its own source has said ``running`` within the bag: a latched message
    that is recorded first may still speak of the episode before.
    """

    def __init__(self) -> None:
        self.outcome: str | None = None
        self.metadata: dict[str, Any] = {}
        self._running: set[str] = set()

    def add(self, text: str) -> None:
        """Take the data of one message, in order."""
        state = json_object(text)
        source, kind = str(state.get("source", "")), state.get("state")
        if kind == "running":
            self._running.add(source)
            self.outcome = None
        elif source not in self._running:
            return
        elif kind in ("succeeded", "failed", "discarded", "unmarked"):
            self.outcome = str(kind)
        self.metadata |= state
