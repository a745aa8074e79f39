"""A RoboTwin 2.0 checkout: its tasks as they are, set up as its own evaluation script sets them up.

Two layouts are known: that of the branch ``stable_2.0`` (``script/``, ``task_config/``) and that of ``main``
(``scripts/``, ``env_cfg/task_config/``). Nothing is imported before a task is made, and nothing in the checkout is
changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lavla_ros.contract import Contract
from sim_bridges.world import Disturbance
from sim_bridges.worlds.robotwin.environment import RobotwinEnvironment, RobotwinError
from sim_bridges.worlds.robotwin.task_source import Instructions, Provenance, require_task
from sim_bridges.worlds.robotwin.vulkan import SapienError, render_system

DEFAULT_CONFIG = "demo_clean"
_VARIABLE = "LAVLA_ROBOTWIN_ROOT"
_UNLISTED_LIMIT = 1000
"""What RoboTwin takes for a task that is not in its file of step limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a branch keeps what is needed."""

    branch: str
    script: str
    """The evaluation script, which tells the layouts apart."""
    configs: str
    assets_script: str


LAYOUTS = (
    Layout(
        branch="stable_2.0",
        script="script/eval_policy.py",
        configs="task_config",
        assets_script="script/_download_assets.sh",
    ),
    Layout(
        branch="main",
        script="scripts/eval_policy_xpolicylab.py",
        configs="env_cfg/task_config",
        assets_script="scripts/_download_assets.sh",
    ),
)


def find_root(robotwin_root: str = "") -> Path:
    """The checkout that was named, else that of LAVLA_ROBOTWIN_ROOT. Raises RobotwinError if neither is."""
    named = robotwin_root or os.environ.get(_VARIABLE, "")
    if not named:
        raise RobotwinError(
            f"where is RoboTwin? Give --robotwin-root, or set {_VARIABLE}, to a checkout with assets; "
            "the suite robotwin_standin needs none"
        )
    return Path(named).expanduser().resolve()


def find_layout(root: Path) -> Layout:
    """Raises RobotwinError for a folder that is no RoboTwin 2.0 checkout of a known layout."""
    if not root.is_dir():
        raise RobotwinError(f"RoboTwin's root {root} is not a directory")
    for layout in LAYOUTS:
        needed = (layout.script, layout.configs, "envs/_base_task.py", "description/utils")
        if all((root / path).exists() for path in needed):
            return layout
    known = "; ".join(f"{each.branch}: {each.script} and {each.configs}/" for each in LAYOUTS)
    raise RobotwinError(
        f"{root} is no RoboTwin 2.0 checkout of a layout that is known here ({known}; both with envs/_base_task.py and "
        "description/utils/); check one of these branches out"
    )


class Checkout:
    """See :class:`sim_bridges.worlds.robotwin.task_source.TaskSource`."""

    suite = "robotwin"
    distributions = ("sapien", "mplib", "toppra", "nvidia-curobo", "numpy")

    def __init__(self, root: Path, task_config: str = DEFAULT_CONFIG) -> None:
        """``task_config``: demo_clean, demo_randomized, or one of the user's in RoboTwin's folder of them.

        Raises RobotwinError for another layout or a configuration that does not exist.
        """
        self.root = root
        self.layout = find_layout(root)
        self.task_config = task_config
        configs = root / self.layout.configs
        if not (configs / f"{task_config}.yml").is_file():
            known = sorted(file.stem for file in configs.glob("[!_]*.yml"))
            raise RobotwinError(f"{configs} has no {task_config}.yml; it has {known}")

    @cached_property
    def _limits(self) -> dict[str, int]:
        return {str(task): int(limit) for task, limit in self._read("_eval_step_limit.yml").items()}

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Those with a file in ``envs/``, by name."""
        files = (self.root / "envs").glob("[!_]*.py")
        templates = self.root / "description" / "task_instruction"
        return tuple(sorted(file.stem for file in files if (templates / f"{file.stem}.json").is_file()))

    def step_limit(self, task: str) -> int:
        return self._limits.get(task, _UNLISTED_LIMIT)

    def environment(self, task: str, contract: Contract) -> RobotwinEnvironment:
        require_task(self, task)
        arguments = self.arguments(task)
        self._require_packages()
        with self._on_path(), contextlib.chdir(self.root):
            try:
                made = getattr(importlib.import_module(f"envs.{task}"), task)()
            except Exception as error:
                raise RobotwinError(
                    f"RoboTwin's task {task} cannot be loaded from {self.root}: {type(error).__name__}: {error}"
                ) from error
        return RobotwinEnvironment(made, arguments, name=task, folder=self.root, contract=contract)

    def arguments(self, task: str) -> dict[str, Any]:
        """Of ``setup_demo``, as RoboTwin's evaluation script puts them together. Raises RobotwinError for missing
        assets."""
        arguments = self._read(f"{self.task_config}.yml")
        files = self._read("_embodiment_config.yml")
        camera = self._read("_camera_config.yml")[arguments["camera"]["head_camera_type"]]
        embodiment = arguments["embodiment"]
        if len(embodiment) not in (1, 3):
            raise RobotwinError(f"{self.task_config}.yml: embodiment is {embodiment}; expected 1 or 3 items")
        left, right = embodiment[0], embodiment[0 if len(embodiment) == 1 else 1]
        if len(embodiment) == 3:
            arguments["embodiment_dis"] = embodiment[2]
        return {
            **arguments,
            "task_name": task,
            "task_config": self.task_config,
            "head_camera_h": camera["h"],
            "head_camera_w": camera["w"],
            "left_robot_file": files[left]["file_path"],
            "right_robot_file": files[right]["file_path"],
            "left_embodiment_config": self._embodiment(files[left]["file_path"]),
            "right_embodiment_config": self._embodiment(files[right]["file_path"]),
            "dual_arm_embodied": len(embodiment) == 1,
            "data_type": {**arguments["data_type"], "rgb": True, "qpos": True, "endpose": True},
            "eval_mode": True,
            "render_freq": 0,
        }

    def instruction(self, task: str, seed: int, info: Mapping[str, Any], kind: Instructions) -> str:
        """By RoboTwin's own generator, one of the 100 that its evaluation makes for the episode.

        RoboTwin shuffles and draws with Python's global generator, which it never seeds; here that is seeded with the
        episode's seed for as long as it draws, and the choice among the 100 is numpy's ``default_rng(seed)``.
        """
        with self._on_path():
            generate = importlib.import_module("generate_episode_instructions").generate_episode_descriptions
        before = random.getstate()
        random.seed(seed)
        try:
            made = generate(task, [dict(info)], 100)
        finally:
            random.setstate(before)
        texts = list(made[0][kind]) if made else []
        if not texts:
            raise RobotwinError(f"RoboTwin has no {kind} instruction for {task} with {dict(info)}")
        return str(texts[int(np.random.default_rng(seed).integers(len(texts)))])

    def disturbance(self, seed: int) -> Disturbance:
        raise RobotwinError("RoboTwin's expert plays by itself, not through commands: it cannot be disturbed")

    def provenance(self) -> Provenance:
        digest = hashlib.sha256()
        folders = ("envs", self.layout.configs, "description/task_instruction", "description/utils")
        for file in sorted(file for folder in folders for file in (self.root / folder).rglob("*") if file.is_file()):
            if file.suffix in (".py", ".yml", ".json"):
                digest.update(file.relative_to(self.root).as_posix().encode() + b"\0" + file.read_bytes())
        return Provenance(
            source=f"{self.root} (layout {self.layout.branch}, {self.task_config})",
            hash=digest.hexdigest()[:16],
            comparable=True,
            statement="RoboTwin 2.0 from this checkout, tasks and instructions by hash.",
        )

    def _read(self, name: str) -> dict[str, Any]:
        file = self.root / self.layout.configs / name
        return _yaml(file)

    def _embodiment(self, folder: str) -> dict[str, Any]:
        file = self.root / folder / "config.yml"
        needed = (file, self.root / "assets" / "objects" / "objaverse" / "list.json")
        missing = [str(path.relative_to(self.root)) for path in needed if not path.is_file()]
        if missing:
            raise RobotwinError(
                f"RoboTwin's assets are not in {self.root}: {', '.join(missing)} missing; "
                f"run {self.layout.assets_script} there (about 15 GB)"
            )
        return _yaml(file)

    def _require_packages(self) -> None:
        """What RoboTwin needs installed, and its absence would otherwise show as an expert that solves nothing."""
        missing = [name for name in ("sapien", "mplib", "toppra", "curobo") if importlib.util.find_spec(name) is None]
        if missing:
            raise RobotwinError(
                f"RoboTwin's expert needs {', '.join(missing)}, not installed in this environment; curobo plans its "
                f"motions on a GPU. See RoboTwin's own installation, and docs/robotwin.md"
            )
        try:
            render_system()
        except SapienError as error:
            raise RobotwinError(f"RoboTwin cannot draw here: {error}") from error

    @contextlib.contextmanager
    def _on_path(self) -> Iterator[None]:
        """RoboTwin's modules are found by name, from its root and the folder of its instruction generator."""
        for folder in (self.root / "description" / "utils", self.root):
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
        yield


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RobotwinError(f"cannot read RoboTwin's {file}: {error}") from None
    if not isinstance(content, dict):
        raise RobotwinError(f"RoboTwin's {file} is no mapping")
    return content
