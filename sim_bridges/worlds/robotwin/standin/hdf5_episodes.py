"""The expert's episodes as files in RoboTwin's layout, as its data collection writes them (branch ``stable_2.0``):
``data/episode<i>.hdf5`` with every observation, and ``instructions/episode<i>.json``: for ``lavla import robotwin``.

``python -m sim_bridges.worlds.robotwin.standin.hdf5_episodes --task stack_two_blocks --episodes 50 --out data/stack``
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import tyro

from lavla_ros.config import ConfigError
from lavla_ros.errors import FailedError
from lavla_ros.outputs import replacing
from sim_bridges.worlds.robotwin.standin.instructions import all_instructions
from sim_bridges.worlds.robotwin.standin.task import StandinTask
from sim_bridges.worlds.robotwin.standin.tasks import TASK_TYPES, make_task

MOST_REJECTED = 20
"""Seeds in a row that the expert may fail on."""


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """What to collect."""

    task: str
    out: Path
    """Folder; ``data`` and ``instructions`` are made in it. Episodes that are there are overwritten."""
    episodes: int = 50
    first_seed: int = 0
    """Seeds count up from here; those that the expert does not solve are left out."""

    def __post_init__(self) -> None:
        if self.task not in TASK_TYPES:
            raise ConfigError(f"task is {self.task!r}; expected one of {', '.join(TASK_TYPES)}")
        if self.episodes < 1 or self.first_seed < 0:
            raise ConfigError(f"episodes is {self.episodes}, first_seed {self.first_seed}; nothing to collect")


def collect(config: CollectConfig) -> list[int]:
    """Write the episodes; the seeds that they are of. Raises RuntimeError if the expert fails again and again,
    NoVulkanError, SapienMissing."""
    task, seeds, seed, rejected = make_task(config.task), list[int](), config.first_seed, 0
    while len(seeds) < config.episodes:
        frames = demonstrate(task, seed)
        if frames:
            write_episode(config.out, len(seeds), frames)
            write_instructions(config.out, len(seeds), config.task, seed)
            seeds.append(seed)
        seed, rejected = seed + 1, 0 if frames else rejected + 1
        if rejected >= MOST_REJECTED:
            raise FailedError(f"the expert of {config.task} fails on all of the {MOST_REJECTED} seeds before {seed}")
    return seeds


def demonstrate(task: StandinTask, seed: int) -> list[dict[str, Any]]:
    """The observations of the expert's episode at 15 Hz; none if it does not reach the goal."""
    frames: list[dict[str, Any]] = []
    task.setup_demo(seed=seed)
    try:
        solved = task.play(task.expert(), lambda: frames.append(task.get_obs())) and task.check_success()
    finally:
        task.close_env()
    return frames if solved else []


def write_episode(folder: Path, number: int, frames: Sequence[Mapping[str, Any]]) -> Path:
    """``data/episode<number>.hdf5``: everything of the observations, stacked; pictures as JPEG."""
    path = folder / "data" / f"episode{number}.hdf5"
    with replacing(path) as partial, h5py.File(partial, "w") as file:
        _write(file, frames)
    return path


def write_instructions(folder: Path, number: int, task: str, seed: int) -> Path:
    """``instructions/episode<number>.json``: all seen and unseen ones of the episode."""
    path = folder / "instructions" / f"episode{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    words = TASK_TYPES[task].words_of(seed)
    path.write_text(
        json.dumps({kind: all_instructions(task, words, kind) for kind in ("seen", "unseen")}, indent=1),
        encoding="utf-8",
    )
    return path


def _write(group: Any, values: Sequence[Mapping[str, Any]]) -> None:
    for key, first in values[0].items():
        of_key = [value[key] for value in values]
        if isinstance(first, Mapping):
            _write(group.create_group(key), of_key)
        elif key == "rgb":
            codes = [_jpeg(image) for image in of_key]
            group.create_dataset(key, data=codes, dtype=f"S{max(map(len, codes))}")
        else:
            group.create_dataset(key, data=np.array(of_key))


def _jpeg(rgb: Any) -> bytes:
    # As RoboTwin: given to an encoder that takes it for BGR. A reader that decodes with OpenCV gets RGB.
    done, code = cv2.imencode(".jpg", rgb)
    assert done
    return bytes(code)


def main() -> None:
    config = tyro.cli(CollectConfig)
    seeds = collect(config)
    print(f"{len(seeds)} episodes of {config.task} in {config.out}, seeds {seeds[0]} to {seeds[-1]}")


if __name__ == "__main__":
    main()
