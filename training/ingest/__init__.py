"""Demonstrations of others → our dataset: LIBERO and RoboTwin HDF5, and any LeRobot dataset.

``lavla import libero|robotwin|lerobot SRC --out DIR`` ends here. What an importer reads is matched with the contract
by name; what does not fit is refused, with the names on both sides.
"""

from __future__ import annotations

from training.ingest.build import EpisodeSource, ImportFailed, ImportReport, Numbers, import_episodes
from training.ingest.lerobot import LeRobotMapping, find_lerobot, load_mapping
from training.ingest.libero import find_libero
from training.ingest.robotwin import find_robotwin

__all__ = [
    "EpisodeSource",
    "ImportFailed",
    "ImportReport",
    "LeRobotMapping",
    "Numbers",
    "find_lerobot",
    "find_libero",
    "find_robotwin",
    "import_episodes",
    "load_mapping",
]
