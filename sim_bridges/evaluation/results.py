"""``results.json``: every episode of an evaluation, and what is needed to repeat it. Schema in docs/evaluation.md."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lavla_ros import __version__
from lavla_ros.errors import UserError
from sim_bridges.evaluation.statistics import wilson95

SCHEMA = 2
_TRACKED = ("numpy", "torch", "transformers")
_TIMES = ("latency_ms", "wall_s")
_AS_THEY_ARE = (
    "suite", "task", "policy", "method", "contract_hash", "settings", "versions", "assets", "wall_s", "simulated_s",
)  # fmt: skip
"""What of :class:`Results` the file holds under the same name."""


class ResultsError(UserError, ValueError):
    """A file is no results.json that this version reads."""


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """One episode. An episode in error is no failure: it is counted apart, and repeated when the command is."""

    index: int
    seed: int
    initial_state: str
    """Hash of the simulator's state after reset."""
    success: bool
    score: float
    """Part of the task that was done, 0 to 1."""
    length_steps: int
    error: str | None = None
    task: str = ""
    trial: int = 0
    """Its number among the episodes of the task."""
    state_index: int | None = None
    """Which of the benchmark's initial states."""
    trajectory: str = ""
    """Hash over the simulator's state after every step: equal hashes, equal episodes bit for bit."""
    inferences: int = 0
    latency_ms: dict[str, float] = field(default_factory=dict)
    """Inference wall time: p50, p99, max, mean. With ``wall_s`` all that differs between two runs of one seed."""
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How episodes went."""

    successes: int
    scored: int
    errors: int

    @classmethod
    def of(cls, episodes: Iterable[EpisodeResult]) -> Tally:
        rows = list(episodes)
        errors = sum(e.error is not None for e in rows)
        return cls(successes=sum(e.success for e in rows if e.error is None), scored=len(rows) - errors, errors=errors)

    @property
    def rate(self) -> float | None:
        return self.successes / self.scored if self.scored else None

    @property
    def wilson95(self) -> tuple[float, float] | None:
        return wilson95(self.successes, self.scored) if self.scored else None


@dataclass(frozen=True, kw_only=True)
class Results:
    """A finished (or partly finished) evaluation."""

    suite: str
    task: str
    """The task, or those evaluated, joined by commas."""
    policy: str
    contract_hash: str
    settings: dict[str, Any]
    """Everything that decides the episodes."""
    episodes: tuple[EpisodeResult, ...]
    assets: dict[str, Any] = field(default_factory=lambda: {"source": "part of the package"})
    comparable: str = "not comparable with published numbers: this task exists only here"
    """The statement, in words."""
    is_comparable: bool = False
    method: str = ""
    """What the policy was trained with, as published tables call it; "" if none of them has a row for it."""
    versions: dict[str, str] = field(default_factory=lambda: versions())
    wall_s: float = 0.0
    simulated_s: float = 0.0
    """0 where steps take unequal times: they are not added up."""
    live: bool = False
    """The episodes ran on the wall clock: as punctual as the machine, so they do not repeat bit for bit."""

    @property
    def scored(self) -> list[EpisodeResult]:
        return [e for e in self.episodes if e.error is None]

    @property
    def errors(self) -> list[EpisodeResult]:
        return [e for e in self.episodes if e.error is not None]

    @property
    def tally(self) -> Tally:
        return Tally.of(self.episodes)

    @property
    def real_time_factor(self) -> float | None:
        """Simulated time per wall time; None if nothing was simulated faster or slower than it ran."""
        return self.simulated_s / self.wall_s if self.wall_s > 0 and self.simulated_s > 0 and not self.live else None

    @property
    def tasks(self) -> dict[str, Tally]:
        """Task → how it went, in the order of the episodes."""
        grouped: dict[str, list[EpisodeResult]] = {}
        for episode in self.episodes:
            grouped.setdefault(episode.task or self.task, []).append(episode)
        return {task: Tally.of(episodes) for task, episodes in grouped.items()}

    @property
    def fingerprint(self) -> str:
        """Hash over settings and episodes without wall times: equal for equal evaluations, on any number of workers."""
        plain = {"suite": self.suite, "settings": self.settings, "episodes": [_timeless(e) for e in self.episodes]}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            **{name: getattr(self, name) for name in _AS_THEY_ARE},
            "comparability": {"comparable": self.is_comparable, "statement": self.comparable},
            "fingerprint": self.fingerprint,
            "success_rate": self.tally.rate,
            "wilson95": self.tally.wilson95,
            "errors": self.tally.errors,
            "tasks": {
                task: {**asdict(tally), "success_rate": tally.rate, "wilson95": tally.wilson95}
                for task, tally in self.tasks.items()
            },
            "live": self.live,
            "real_time_factor": self.real_time_factor,
            "episodes": [asdict(e) for e in self.episodes],
        }

    @classmethod
    def read(cls, path: Path) -> Results:
        """From a results.json, or the folder that holds one. Raises ResultsError naming the file and what is wrong."""
        file = path / "results.json" if path.is_dir() else path
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ResultsError(f"cannot read {file}: {error.strerror}; give the --out folder of `lavla eval`") from None
        except ValueError as error:
            raise ResultsError(f"{file} is not JSON: {error}") from None
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, Mapping) else None
            raise ResultsError(f"{file} has schema {found!r}; this version reads {SCHEMA}: evaluate again")
        try:
            return cls(
                **{name: data[name] for name in _AS_THEY_ARE},
                episodes=tuple(read_episode(e) for e in data["episodes"]),
                comparable=data["comparability"]["statement"],
                is_comparable=data["comparability"]["comparable"],
                live=data.get("live", False),  # not in results written before there were live ones
            )
        except (KeyError, TypeError) as error:
            raise ResultsError(f"{file} is incomplete: {error}") from None

    def summary(self) -> str:
        """One line for a terminal."""
        tally = self.tally
        if tally.rate is None or tally.wilson95 is None:
            return f"{self.suite}/{self.task} · {self.policy}: no episode was scored ({len(self.episodes)} in error)"
        low, high = tally.wilson95
        tasks = self.task if len(self.tasks) < 3 else f"{len(self.tasks)} tasks"
        return (
            f"{self.suite}/{tasks} · {self.policy}: {tally.successes}/{tally.scored} succeeded "
            f"({tally.rate:.1%}, Wilson 95% {low:.1%} to {high:.1%})"
            + (f", {tally.errors} in error" if tally.errors else "")
        )


def read_episode(data: Mapping[str, Any]) -> EpisodeResult:
    """Raises TypeError for missing or unknown keys."""
    known = {f.name for f in fields(EpisodeResult)}
    if unknown := sorted(set(data) - known):
        raise TypeError(f"an episode has the unknown keys {unknown}")
    return EpisodeResult(**data)


def same_episodes(left: Results, right: Results) -> bool:
    """Whether the episodes were equal bit for bit (everything but wall times)."""
    return [_timeless(e) for e in left.episodes] == [_timeless(e) for e in right.episodes]


def _timeless(episode: EpisodeResult) -> dict[str, Any]:
    return {key: value for key, value in asdict(episode).items() if key not in _TIMES}


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Versions that an episode's bits depend on: ours, Python's, and those of installed distributions."""
    found = {"lavla_ros": __version__, "python": platform.python_version()}
    for name in sorted({*_TRACKED, *more}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def latency_summary(samples_ms: Iterable[float]) -> dict[str, float]:
    if not (values := list(samples_ms)):
        return {}
    p50, p99 = np.percentile(values, [50, 99]).tolist()
    return {"p50": p50, "p99": p99, "max": max(values), "mean": sum(values) / len(values)}
