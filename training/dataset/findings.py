"""What a check of a dataset found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["error", "warning", "note"]

_SHOWN = 5
"""Findings of one kind that are printed; all are in the JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, strange, or could not be looked at."""

    level: Level
    """error: the data are damaged or contradict themselves. warning: sound data can look like this, but seldom do.
    note: what could not be checked, and why."""
    kind: str
    """The same word for the same sort of damage."""
    text: str
    episode: int | None = None


@dataclass(slots=True)
class Findings:
    """Collects findings."""

    all: list[Finding] = field(default_factory=list)

    def error(self, kind: str, text: str, episode: int | None = None) -> None:
        self._add("error", kind, text, episode)

    def warning(self, kind: str, text: str, episode: int | None = None) -> None:
        self._add("warning", kind, text, episode)

    def note(self, kind: str, text: str) -> None:
        self._add("note", kind, text, None)

    def _add(self, level: Level, kind: str, text: str, episode: int | None) -> None:
        prefix = "" if episode is None else f"episode {episode}: "
        self.all.append(Finding(level=level, kind=kind, text=prefix + text, episode=episode))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The state of a dataset."""

    path: str
    deep: bool
    """Were the videos decoded?"""
    episodes: int
    steps: int
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[str]:
        return [f.text for f in self.findings if f.level == "error"]

    @property
    def warnings(self) -> list[str]:
        return [f.text for f in self.findings if f.level == "warning"]

    def __str__(self) -> str:
        lines: list[str] = []
        shown: Counter[tuple[Level, str]] = Counter()
        counts = Counter((f.level, f.kind) for f in self.findings)
        levels: tuple[Level, ...] = ("error", "warning", "note")
        for level in levels:
            for finding in (f for f in self.findings if f.level == level):
                key = (level, finding.kind)
                shown[key] += 1
                if shown[key] <= _SHOWN:
                    lines.append(f"{level}: {finding.text}")
                elif shown[key] == _SHOWN + 1:
                    lines.append(
                        f"{level}: … and {counts[key] - _SHOWN} more of kind {finding.kind!r} (--json has all)"
                    )
        errors, warnings = len(self.errors), len(self.warnings)
        state = (
            f"{errors} errors, {warnings} warnings"
            if errors
            else f"sound, {warnings} warnings"
            if warnings
            else "sound"
        )
        return "\n".join([*lines, f"{self.path}: {self.episodes} episodes, {self.steps} steps: {state}"])
