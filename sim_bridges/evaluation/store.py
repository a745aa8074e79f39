"""The folder of an evaluation: finished episodes, one durable file each, so that a killed run goes on.

evaluation.json        what is evaluated; another evaluation is refused
episodes/000007.json   one finished episode, written whole and synced, or not there
clips/000007.mp4       what the policy saw
results.json, report.html   when all are done
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from lavla_ros.config import differences
from lavla_ros.errors import UserError
from lavla_ros.outputs import sole_writer
from sim_bridges.evaluation.results import EpisodeResult, read_episode
from sim_bridges.files import write_json


class StoreError(UserError, RuntimeError):
    """The folder is another evaluation's, or cannot be written; finished episodes are kept."""


class EvaluationFolder:
    """``with EvaluationFolder(path, settings) as folder: … folder.add(result)``; one evaluation at a time."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """``settings``: JSON-ready, everything that decides the episodes."""
        self.path = path
        self.finished: dict[int, EpisodeResult] = {}
        """Episodes that need not be run: scored in an earlier run. Those in error are to be repeated."""
        self._settings = json.loads(json.dumps(settings))
        self._episodes = path / "episodes"
        self._alone = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Raises StoreError if another evaluation is finished there, or is a different one; OutputError if one runs."""
        with self._telling("make"), contextlib.ExitStack() as stack:
            self._episodes.mkdir(parents=True, exist_ok=True)
            stack.enter_context(sole_writer(self.path))
            self._open()
            self._alone = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._alone.close()

    def _open(self) -> None:
        settings_file, results = self.path / "evaluation.json", self.path / "results.json"
        if not settings_file.exists():
            if results.exists():
                raise StoreError(f"{results} exists already; give another --out or remove it")
            with self._telling("write"):
                write_json(settings_file, self._settings)
            return
        before = _read(settings_file)
        if before != self._settings:
            raise StoreError(
                f"{self.path} holds another evaluation; give another --out or remove it. It differs in\n  "
                + "\n  ".join(differences(before, self._settings))
            )
        for file in sorted(self._episodes.glob("*.json")):
            try:
                episode = read_episode(_read(file))
            except TypeError as error:
                raise StoreError(f"{file} is no episode of this version ({error}); give another --out") from None
            if episode.error is None:
                self.finished[episode.index] = episode
        if results.exists() and not _read(results).get("errors"):
            raise StoreError(f"{results} exists: this evaluation is finished; give another --out or remove the folder")

    def add(self, episode: EpisodeResult) -> None:
        """Write one episode durably. Raises StoreError when the disk is full, and the like."""
        with self._telling("write"):
            write_json(self._episodes / f"{episode.index:06d}.json", asdict(episode))

    def clip(self, index: int) -> Path:
        return self.path / "clips" / f"{index:06d}.mp4"

    @contextlib.contextmanager
    def _telling(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = len(list(self._episodes.glob("[0-9]*.json"))) if self._episodes.is_dir() else 0
            raise StoreError(
                f"cannot {verb} in {self.path}: {error.strerror or error}; the {kept} episodes that were finished are "
                "kept, and the same command goes on after them"
            ) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {file}: {error}; give another --out") from None
    if not isinstance(data, dict):
        raise StoreError(f"{file} is not what an evaluation writes; give another --out")
    return data
