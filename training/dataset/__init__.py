"""LeRobotDataset v3.0: write, read, check, repair and derive, without the ``lerobot`` package."""

from __future__ import annotations

from training.dataset.check import check, validate
from training.dataset.derive import drop, merge, relabel, split
from training.dataset.findings import CheckReport, Finding
from training.dataset.layout import DatasetError
from training.dataset.reader import Episode, EpisodeDataset, Sample
from training.dataset.repair import repair
from training.dataset.summary import DatasetSummary, summarise
from training.dataset.writer import DatasetWriter, EpisodeArrays

__all__ = [
    "CheckReport",
    "DatasetError",
    "DatasetSummary",
    "DatasetWriter",
    "Episode",
    "EpisodeArrays",
    "EpisodeDataset",
    "Finding",
    "Sample",
    "check",
    "drop",
    "merge",
    "relabel",
    "repair",
    "split",
    "summarise",
    "validate",
]
