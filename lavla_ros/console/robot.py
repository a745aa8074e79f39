"""What the console sees of a running stack, and what a person may ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lavla_ros.console.models import Models
from lavla_ros.episode import EpisodePhase, EpisodeState, ExecutorReport

ASKABLE = ("hold", "resume", "acknowledge", "hand_back", "start", "stop", "check", "reset")
"""What :meth:`Robot.ask` takes: the services of executor, recorder and simulator, by their last word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """One dimension of the arm's state."""

    name: str
    unit: str
    measured: float | None = None
    commanded: float | None = None
    """None: nothing was heard of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The node that runs the model."""

    policy: str = ""
    """The checkpoint that it has loaded; empty: none."""
    active: bool = False
    """It commands; else it was stopped, or could not be loaded."""
    problem: str = ""
    """Why it does not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The stack at one moment."""

    executor: ExecutorReport = field(default_factory=ExecutorReport)
    episode: EpisodeState = field(default_factory=lambda: EpisodeState("", EpisodePhase.IDLE))
    """What the recorder says; without a source it has said nothing."""
    scene: EpisodeState | None = None
    """What the simulator says; None: there is none."""
    joints: tuple[Joint, ...] = ()
    instruction: str = ""
    speed_scale: float | None = None
    """None: the executor has not said it."""
    latencies_ms: Mapping[str, str] = field(default_factory=dict)
    """Name in /diagnostics → median, as it is written there."""
    steered: str = ""
    """How it is moved by hand: speed level, frame, and why it does not move; empty: nothing is there to move it."""
    running: Running | None = None
    """The model; None: the node that runs it says nothing."""
    problems: tuple[str, ...] = ()
    """Warnings and errors that the nodes report now."""
    age_s: float | None = None
    """Since the arm's newest measured state; None: none has come."""

    @property
    def recording(self) -> bool:
        return self.episode.phase is EpisodePhase.RUNNING


class Robot(Protocol):
    """A running stack. What is asked blocks, and raises UserError with the reason if it is refused."""

    cameras: tuple[str, ...]
    models: Models | None
    """What :meth:`run_model` may be given; None: the stack has no policy."""

    def snapshot(self) -> Snapshot: ...

    def picture(self, camera: str, after: int) -> tuple[int, bytes] | None:
        """(number, JPEG) of the newest picture if its number is above ``after``. Raises KeyError for another camera."""

    def ask(self, what: str) -> str:
        """One of ``ASKABLE``; the answer of the service."""

    def mark(self, success: bool) -> str:
        """Whether the episode that is being recorded is a success."""

    def set_speed_scale(self, scale: float) -> None: ...

    def steer(self, held: str) -> None:
        """What a person holds, as JSON of :class:`lavla_ros.teleop.devices.Messages`; what is wrong with it is told by
        who hears it. Never blocks."""

    def run_model(self, policy: str) -> str:
        """Hold the arm, and run another checkpoint, or the same again; what to tell. One of another contract, or that
        lacks files, is refused before anything else. May take minutes."""

    def stop_model(self) -> str:
        """No more chunks: the arm comes to rest. What to tell."""

    def instruct(self, text: str) -> None: ...
