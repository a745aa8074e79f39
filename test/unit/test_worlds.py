"""A simulator is one folder: no file outside of it names it, but for its line in the registry and its data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORLDS = ROOT / "sim_bridges" / "worlds"
NAMES = tuple(folder.name for folder in sorted(WORLDS.iterdir()) if (folder / "suite.py").is_file())
MAY = {
    "sim_bridges/paper/published.py": "the paper's tables are of these suites",
    "sim_bridges/paper/tables.py": "the same",
    "training/ingest/__init__.py": "the registry of file formats",
    "training/ingest/libero.py": "a file format",
    "training/ingest/robotwin.py": "a file format",
    "training/ingest/rlds.py": "a file format",
    "lavla_ros/policy/fp2t_import.py": "what others' code does with the numbers of one of its datasets",
    "training/ingest/lerobot.py": "what public files of that format say wrongly",
    "training/config.py": "the default folder of a first dataset",
    "training/latent_actions/codebook_config.py": "the same",
    "lavla_ros/cli/data.py": "options of file formats",
    "lavla_ros/cli/run.py": "the commands that show one",
    "benchmarks/pipeline.py": "measures the emulated arm on its live stack",
    "benchmarks/servo.py": "the same",
    "benchmarks/probes/camera.py": "the same",
    "benchmarks/probes/emulator.py": "the same",
}
"""File → why it may."""


def test_the_worlds_are_found() -> None:
    assert NAMES == ("libero", "robotwin", "tabletop")


@pytest.mark.parametrize("world", NAMES)
def test_nothing_outside_its_folder_names_a_world(world: str) -> None:
    """Examples in a command's help are what a user types."""
    found = []
    for package in ("lavla_ros", "training", "sim_bridges", "benchmarks"):
        for file in sorted((ROOT / package).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            if file.is_relative_to(WORLDS) or name in MAY:
                continue
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                if world in line.lower() and not re.match(r'\s*"*Example: lavla ', line):
                    found.append(f"{name}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_no_exception_is_left_over() -> None:
    texts = {name: (ROOT / name).read_text(encoding="utf-8").lower() for name in MAY}
    assert not [name for name, text in texts.items() if not any(world in text for world in NAMES)]
