"""How an episode stands, and what the arm does: both travel as JSON in std_msgs/String, and lie in bags.

ROS cannot build messages of our own from wheels, so the JSON is their form; it is written and read here alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from lavla_ros.errors import UserError

RECORDER, SIMULATOR = "recorder", "simulator"
"""Sources of :class:`EpisodeState`; a person or another program may be one of its own name."""
PERSON = "person"
"""Commander of :class:`ExecutorReport`: a person has the arm."""
SCENE_KEYS = ("suite", "task", "layout", "initial_state", "seed")
"""What a simulator says to tell one scene from another; those that it has."""


class EpisodeError(UserError, ValueError):
    """A text is not the JSON of an episode's state or of an executor's report."""


class EpisodePhase(StrEnum):
    """What an episode is doing, or how it ended."""

    IDLE = "idle"
    """The recorder is ready, and records nothing."""
    WAITING = "waiting"
    """The first episode waits for a reset."""
    HOMING = "homing"
    """The simulator commands the arm itself, to bring it home."""
    STARTING = "starting"
    """A scene has been set up, and is not yet announced."""
    RESETTING = "resetting"
    """A scene is being set up."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ERROR = "error"
    """The episode broke off: neither success nor failure."""
    DISCARDED = "discarded"
    """Its bag was deleted."""
    UNMARKED = "unmarked"
    """It ended, and nothing says how well."""
    INTERRUPTED = "interrupted"
    """Its bag was cut short."""
    OTHER = "other"
    """A word of another system."""

    @classmethod
    def _missing_(cls, value: object) -> EpisodePhase:
        return cls.OTHER

    @property
    def final(self) -> bool:
        """Whether the episode has come to an outcome."""
        return self in (self.SUCCEEDED, self.FAILED, self.DISCARDED, self.UNMARKED)

    @property
    def broken_off(self) -> bool:
        """Whether an episode that was running is over without an outcome."""
        return self in (self.INTERRUPTED, self.ERROR, self.RESETTING, self.IDLE)


@dataclass(frozen=True, slots=True)
class EpisodeState:
    """One message on episode/state."""

    source: str
    """Who says it."""
    phase: EpisodePhase
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else is said, JSON-ready: the scene (``SCENE_KEYS``), instruction, reason, score."""

    @property
    def scene(self) -> dict[str, Any]:
        """What tells its scene from another."""
        return {key: self.details[key] for key in SCENE_KEYS if key in self.details}

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, **self.details, "state": self.phase.value}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str, *, source: str | None = None) -> EpisodeState:
        """``source``: of a message that names none. Raises EpisodeError quoting the text."""
        value = json_object(text)
        if "state" not in value or "source" not in value | ({} if source is None else {"source": source}):
            raise EpisodeError(f"an episode's state is a JSON object with source and state; got {text!r}")
        details = {key: item for key, item in value.items() if key not in ("source", "state")}
        return cls(str(value.get("source", source)), EpisodePhase(value["state"]), details)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorReport:
    """One message on executor/state: what the arm does, and why it stands."""

    state: str = ""
    """A state of :class:`lavla_ros.control.types.ExecutorState`, in lower case; empty: nothing was said yet."""
    fault: str | None = None
    reason: str = ""
    """Why the arm stands."""
    held: str | None = None
    """Why it stands until a person resumes."""
    waiting_for: str = ""
    """Who or what has to act."""
    since_ns: int = 0
    """Wall time of the newest change."""
    commander: str = ""
    """Who has the arm: person, policy (who publishes action_chunk), move (to a pose, as asked), or empty: nobody."""
    commander_since_ns: int = 0
    """Since when, in simulated time; 0: since it was said."""
    slow: str = ""
    """Why the arm moves more slowly than its speed scale says, and what to do about it."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ExecutorReport:
        """Raises EpisodeError quoting the text."""
        value = json_object(text)
        if "state" not in value:
            raise EpisodeError(f"an executor's report is a JSON object with state; got {text!r}")
        return cls(**{item.name: value[item.name] for item in fields(cls) if item.name in value})


def json_object(text: str) -> dict[str, Any]:
    """The JSON object in ``text``; empty for anything else (another system's message)."""
    try:
        value = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def recorded_outcome(mark: bool | None, simulated: EpisodeState | None) -> EpisodePhase:
    """How a recorded episode ended. A person's ``mark`` (True: success) counts before the word of a simulator."""
    if mark is not None:
        return EpisodePhase.SUCCEEDED if mark else EpisodePhase.FAILED
    if simulated is not None and simulated.phase in (EpisodePhase.SUCCEEDED, EpisodePhase.FAILED):
        return simulated.phase
    return EpisodePhase.UNMARKED
