"""Marks of other recorders: where in a bag its episodes begin and end.

Two kinds are read besides ours on /episode/state: a topic of std_msgs/String or Bool that a person's button or another
recorder published on, and a file that lists times, ``episodes.yaml`` in the bag's folder, ``NAME.episodes.yaml`` beside
``NAME.mcap``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from lavla_ros.config import ConfigError, check, from_plain
from lavla_ros.episode import EpisodePhase
from lavla_ros.recording.types import OUTCOMES, MarkedEpisode
from lavla_ros.typing import NS_PER_S
from lavla_ros.yaml_text import load_yaml

BEGIN = ("start", "started", "begin", "running", "record", "recording")
END = {
    **dict.fromkeys(("stop", "stopped", "end", "ended", "done", "finish", "finished"), EpisodePhase.UNMARKED),
    **dict.fromkeys(("success", "succeeded", "succeed"), EpisodePhase.SUCCEEDED),
    **dict.fromkeys(("failure", "failed", "fail"), EpisodePhase.FAILED),
    **dict.fromkeys(("discard", "discarded", "cancel", "rerecord"), EpisodePhase.DISCARDED),
}
"""Word → how an episode ends with it."""
_UNIX_S = 1e8
"""Times in a file that are above are seconds since 1970; below, since the bag's first message."""


class MarksError(ValueError):
    """Marks contradict one another, or are none."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One episode of a file of times."""

    start_s: float
    end_s: float
    outcome: str = EpisodePhase.UNMARKED
    instruction: str = ""

    def __post_init__(self) -> None:
        check(0 <= self.start_s < self.end_s, "start_s, end_s", (self.start_s, self.end_s), "0 <= start_s < end_s")
        known = [str(outcome) for outcome in (*OUTCOMES, EpisodePhase.DISCARDED)]
        check(self.outcome in known, "outcome", self.outcome, f"one of {known}")


@dataclass(frozen=True, kw_only=True)
class _File:
    episodes: tuple[Listed, ...]


def marks_file(bag: Path) -> Path:
    """Where a bag's file of times is, if it has one."""
    return bag / "episodes.yaml" if bag.is_dir() else bag.with_suffix(".episodes.yaml")


def listed_episodes(file: Path, first_ns: int, last_ns: int) -> list[MarkedEpisode]:
    """The episodes of a file of times, in a bag that was logged from ``first_ns`` to ``last_ns``. Raises MarksError."""
    try:
        listed = from_plain(_File, load_yaml(file.read_text(encoding="utf-8")), source=str(file)).episodes
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ConfigError) as error:
        raise MarksError(str(error)) from None
    found: list[MarkedEpisode] = []
    for number, each in enumerate(listed):
        start_ns, end_ns = (
            round(at * NS_PER_S) + (0 if at > _UNIX_S else first_ns) for at in (each.start_s, each.end_s)
        )
        if start_ns >= last_ns or end_ns <= first_ns:
            length_s = (last_ns - first_ns) / NS_PER_S
            raise MarksError(f"{file}: episodes[{number}] is outside of the bag, which is {length_s:.1f} s long")
        if found and start_ns <= (found[-1].end_ns or 0):
            raise MarksError(f"{file}: episodes[{number}] begins at {each.start_s:g} s, before the one before it ends")
        said = {"instruction": each.instruction} if each.instruction else {}
        found.append(
            MarkedEpisode(start_ns=start_ns, end_ns=end_ns, outcome=EpisodePhase(each.outcome), metadata={**said})
        )
    if not found:
        raise MarksError(f"{file} lists no episode")
    return found


def spoken_episodes(topic: str, messages: Iterable[tuple[int, str | bool]]) -> list[MarkedEpisode]:
    """The episodes that (log time ns, word or truth) on ``topic`` part. Raises MarksError.

    A word begins an episode, with the instruction after a colon if there is one, or ends it; an outcome after the end
    is that of the episode before. A Bool begins one when it becomes true and ends it when it becomes false.
    """
    found: list[MarkedEpisode] = []
    running = False
    for stamp_ns, said in messages:
        word, _, told = (said, "", "") if isinstance(said, bool) else said.strip().partition(":")
        word = word.strip().lower().replace(" ", "_") if isinstance(word, str) else word
        at = f"at {stamp_ns} ns on {topic}"
        if isinstance(word, bool):
            if word == running:
                continue  # said again
        elif word not in BEGIN and word not in END:
            raise MarksError(f"{said!r} {at} is no mark; known are {[*BEGIN, *END]}, and an instruction after `start:`")
        if word is True or word in BEGIN:
            if running:
                raise MarksError(f"marks overlap: {said!r} {at}, while the episode of {found[-1].start_ns} ns runs")
            metadata = {"instruction": told.strip()} if told.strip() else {}
            found.append(MarkedEpisode(start_ns=stamp_ns, metadata=metadata))
            running = True
        elif found:  # what ends before the first beginning began before the bag
            outcome = EpisodePhase.UNMARKED if isinstance(word, bool) else END[word]
            if running:
                found[-1].end_ns = stamp_ns
            if running or outcome is not EpisodePhase.UNMARKED:
                found[-1].outcome = outcome
            running = False
    return found
