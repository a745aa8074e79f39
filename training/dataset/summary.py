"""What a dataset holds, in figures for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from training.dataset import layout, stats
from training.dataset.derive import reports_by_digest
from training.dataset.writer import column_array, table_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """One instruction."""

    text: str
    episodes: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """JSON-ready."""

    path: str
    episodes: int
    steps: int
    seconds: float
    instructions: tuple[Spoken, ...]
    """The most frequent first."""
    outcomes: dict[str, int]
    """How the episodes ended → how many; empty: the dataset does not say."""
    commanded_by_person: dict[str, int] | None
    """``episodes`` with steps that a person commanded, and such ``steps``; None: the dataset does not say."""
    dimensions: dict[str, dict[str, dict[str, float]]]
    """State and action → name of a dimension → min, max, mean, std and quantiles, over all steps."""


def summarise(root: Path) -> DatasetSummary:
    """Read all numbers of a v3.0 dataset, of ours or of another tool. Raises DatasetError."""
    info, rows, tasks = layout.read_json(root / layout.INFO), layout.read_episodes(root), layout.read_tasks(root)
    reports = (
        reports_by_digest(layout.read_json(root / layout.CONVERSION)) if (root / layout.CONVERSION).exists() else {}
    )
    columns: dict[str, list[NDArray[Any]]] = {layout.STATE: [], layout.ACTION: []}
    episodes_of, steps_of, outcomes, person = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for table in _tables(root, info, rows):
        for key, parts in columns.items():
            if key in table.column_names:
                parts.append(column_array(table, key))
        spoken = Counter(tasks.get(int(i), "") for i in column_array(table, "task_index"))
        episodes_of.update(spoken.keys())
        steps_of.update(spoken)
        if layout.INTERVENTION in table.column_names:
            steps = int(np.count_nonzero(column_array(table, layout.INTERVENTION)))
            person.update(episodes=int(steps > 0), steps=steps)
        if reports and (outcome := reports.get(table_digest(table), {}).get("outcome")):
            outcomes[outcome] += 1
    steps = sum(int(row["length"]) for row in rows)
    return DatasetSummary(
        path=str(root),
        episodes=len(rows),
        steps=steps,
        seconds=steps / layout.fps_of(info),
        instructions=tuple(
            Spoken(text=text, episodes=count, steps=steps_of[text]) for text, count in episodes_of.most_common()
        ),
        outcomes=dict(outcomes),
        commanded_by_person=dict(person) if layout.INTERVENTION in info["features"] else None,
        dimensions={key: _dimensions(info["features"][key], parts) for key, parts in columns.items() if parts},
    )


def _tables(root: Path, info: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[pa.Table]:
    """The rows of each episode; other tools keep many in a file, which is read once."""
    for file, those in groupby(rows, partial(layout.data_file, root, info)):
        table = layout.read_table(file)
        numbers = column_array(table, "episode_index")
        for row in those:
            yield table.filter(pa.array(numbers == int(row["episode_index"])))


def _dimensions(feature: dict[str, Any], parts: list[NDArray[Any]]) -> dict[str, dict[str, float]]:
    found = stats.numeric(np.concatenate(parts))
    width = len(found["min"])
    names = layout.names_of(feature) or [str(i) for i in range(width)]
    figures = [name for name in found if name != "count"]
    return {names[i]: {figure: float(found[figure][i]) for figure in figures} for i in range(width)}
