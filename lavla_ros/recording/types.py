"""Message definitions of ROS 2 Jazzy, and the names that recorder, reader and converter share."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

EPISODE_TOPIC = "/episode/state"
EPISODE_TYPE = "std_msgs/msg/String"
SCENE_KEYS = ("suite", "task", "layout", "initial_state", "seed")
"""What a simulator says on /episode/state to tell one scene from another; those that it has."""
_IDENTITY = ("episode", *SCENE_KEYS)
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


@dataclass(slots=True, kw_only=True)
class MarkedEpisode:
    """One episode between ``running`` and what ended it."""

    start_ns: int
    """Log time of ``running``."""
    end_ns: int | None = None
    """Log time of the mark that ended it; None where the bag ends first."""
    outcome: str = "interrupted"
    metadata: dict[str, Any] = field(default_factory=dict)


_FINAL = ("succeeded", "failed", "discarded", "unmarked")
_BROKEN_OFF = ("interrupted", "error", "resetting", "idle")
"""What a source says after ``running`` where the episode ended without an outcome."""


class EpisodeMarks:
    """What the messages on /episode/state say about the episode, or the episodes, that a bag holds.

    A mark counts only after its own source has said ``running`` within the bag: a latched message
    that is recorded first may still speak of the episode before.
    """

    def __init__(self) -> None:
        self.outcome: str | None = None
        self.metadata: dict[str, Any] = {}
        self._running: set[str] = set()
        self._marks: list[tuple[int, str, str, dict[str, Any]]] = []

    @property
    def begun(self) -> bool:
        """Whether an episode began within the bag."""
        return bool(self._running)

    def episodes(self) -> list[MarkedEpisode]:
        """Every episode that began within the bag, in order.

        Where several sources speak, the recorder's marks cut, else those of the source that spoke first; what the
        others say describes the episode, and is its outcome where the cutting source gave none.
        """
        sources = [source for _, source, kind, _ in self._marks if kind == "running"]
        if not sources:
            return []
        leading = "recorder" if "recorder" in sources else sources[0]
        found: list[MarkedEpisode] = []
        current: MarkedEpisode | None = None
        for stamp_ns, source, kind, state in self._marks:
            if source == leading and kind == "running":
                if current is not None and all(current.metadata.get(k) == state.get(k) for k in _IDENTITY):
                    continue  # said again
                if current is not None:
                    current.end_ns = stamp_ns - 1
                current = MarkedEpisode(start_ns=stamp_ns, metadata=dict(state))
                found.append(current)
            elif current is None:
                continue
            elif source == leading and kind in (*_FINAL, *_BROKEN_OFF):
                current.end_ns = stamp_ns
                if kind in _FINAL:
                    current.outcome, current.metadata = kind, current.metadata | state
                current = None
            elif source != leading:
                current.metadata = state | current.metadata
                if kind in _FINAL and any(
                    s == source and k == "running" and current.start_ns <= t <= stamp_ns for t, s, k, _ in self._marks
                ):
                    current.outcome = kind
        return found

    def add(self, text: str, stamp_ns: int = 0) -> None:
        """Take the data of one message, logged at ``stamp_ns``, in order."""
        state = json_object(text)
        source, kind = str(state.get("source", "")), state.get("state")
        self._marks.append((stamp_ns, source, str(kind), state))
        if kind == "running":
            self._running.add(source)
            self.outcome = None
        elif source not in self._running:
            return
        elif kind in _FINAL:
            self.outcome = str(kind)
        self.metadata |= state
