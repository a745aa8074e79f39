"""Message definitions of ROS 2 Jazzy, and the names that recorder, reader and converter share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from lavla_ros.episode import RECORDER, SCENE_KEYS, EpisodeError, EpisodePhase, EpisodeState
from lavla_ros.topics import ACTION_CHUNK, EPISODE_STATE, EXECUTOR_STATE, PERSON_CHUNK, in_bag

EPISODE_TOPIC, EXECUTOR_TOPIC = in_bag(EPISODE_STATE), in_bag(EXECUTOR_STATE)
EPISODE_TYPE = "std_msgs/msg/String"
CHUNK_TOPICS = {in_bag(ACTION_CHUNK): "policy", in_bag(PERSON_CHUNK): "person"}
"""Topic → whose chunks are on it. They are recorded if they come, for a person to look at; nothing learns from them."""
CHUNK_TYPE = "trajectory_msgs/msg/JointTrajectory"
_IDENTITY = ("episode", *SCENE_KEYS)
CUSTOM_KEY = "lavla_episode"
"""Key of the episode's JSON in ``custom_data`` of metadata.yaml."""

OUTCOMES = (EpisodePhase.SUCCEEDED, EpisodePhase.FAILED, EpisodePhase.UNMARKED, EpisodePhase.INTERRUPTED)
"""How a bag may end."""


@lru_cache(maxsize=1)
def jazzy() -> Typestore:
    """The standard messages (std, sensor, trajectory, diagnostic, rosgraph, …) of Jazzy. Treat as read-only."""
    return get_typestore(Stores.ROS2_JAZZY)


def string_cdr(text: str) -> bytes:
    """std_msgs/String in CDR."""
    store = jazzy()
    return bytes(store.serialize_cdr(store.types[EPISODE_TYPE](data=text), EPISODE_TYPE))


@dataclass(slots=True, kw_only=True)
class MarkedEpisode:
    """One episode between ``running`` and what ended it."""

    start_ns: int
    """Log time of ``running``."""
    end_ns: int | None = None
    """Log time of the mark that ended it; None if the bag ends first."""
    outcome: EpisodePhase = EpisodePhase.INTERRUPTED
    metadata: dict[str, Any] = field(default_factory=dict)


class EpisodeMarks:
    """What the messages on /episode/state say about the episode, or the episodes, that a bag holds.

    A mark counts only after its own source has said ``running`` within the bag: a latched message
    that is recorded first may still speak of the episode before.
    """

    def __init__(self) -> None:
        self.outcome: EpisodePhase | None = None
        self.metadata: dict[str, Any] = {}
        self._running: set[str] = set()
        self._marks: list[tuple[int, EpisodeState]] = []

    @property
    def begun(self) -> bool:
        """Whether an episode began within the bag."""
        return bool(self._running)

    def episodes(self) -> list[MarkedEpisode]:
        """Every episode that began within the bag, in order.

        Where several sources speak, the recorder's marks cut, else those of the source that spoke first; what the
        others say describes the episode, and is its outcome if the cutting source gave none.
        """
        sources = [mark.source for _, mark in self._marks if mark.phase is EpisodePhase.RUNNING]
        if not sources:
            return []
        leading = RECORDER if RECORDER in sources else sources[0]
        found: list[MarkedEpisode] = []
        current: MarkedEpisode | None = None
        for stamp_ns, mark in self._marks:
            phase, said = mark.phase, mark.to_dict()
            if mark.source == leading and phase is EpisodePhase.RUNNING:
                if current is not None and all(current.metadata.get(k) == said.get(k) for k in _IDENTITY):
                    continue  # said again
                if current is not None:
                    current.end_ns = stamp_ns - 1
                current = MarkedEpisode(start_ns=stamp_ns, metadata=said)
                found.append(current)
            elif current is None:
                continue
            elif mark.source == leading and (phase.final or phase.broken_off):
                current.end_ns = stamp_ns
                if phase.final:
                    current.outcome, current.metadata = phase, current.metadata | said
                current = None
            elif mark.source != leading:
                current.metadata = said | current.metadata
                if phase.final and any(
                    m.source == mark.source and m.phase is EpisodePhase.RUNNING and current.start_ns <= t <= stamp_ns
                    for t, m in self._marks
                ):
                    current.outcome = phase
        return found

    def add(self, text: str, stamp_ns: int = 0) -> None:
        """Take the data of one message, logged at ``stamp_ns``, in order."""
        try:
            mark = EpisodeState.from_json(text, source="")
        except EpisodeError:
            return  # another system's message
        self._marks.append((stamp_ns, mark))
        if mark.phase is EpisodePhase.RUNNING:
            self._running.add(mark.source)
            self.outcome = None
        elif mark.source not in self._running:
            return
        elif mark.phase.final:
            self.outcome = mark.phase
        self.metadata |= mark.to_dict()
