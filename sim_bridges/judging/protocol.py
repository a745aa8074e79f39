"""What is judged: models, tasks and rollouts, in an order that is drawn once. A protocol is a YAML file."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lavla_ros.config import ConfigError, check, check_settings, setting
from lavla_ros.defaults import DEFAULT_CONTRACT
from sim_bridges.judging.rubrics import IDLE_S, Rubric, RubricName, ScoreError, rubric

FIRST_SCENE = 1_000_000
"""Seed of the first simulated scene: demonstrations of simulated scenes use smaller ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One of the models."""

    policy: str
    """Checkpoint directory, or bundled."""
    method: str = ""
    """Row of the paper's tables; empty: the one that the checkpoint names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedTask:
    """One of the tasks."""

    rubric: RubricName
    instruction: str
    """What the policy is told."""
    bowls: int = setting(2, low=2, high=20)
    """Of a stack, the lowest included."""
    settings: tuple[str, ...] = ("",)
    """Such as id and ood; one without a name where there is nothing to tell apart."""
    rollouts: int = setting(10, low=1, high=1000)
    """Of each model in each setting."""
    reset: str = ""
    """Folder of pictures to lay out the scene by: SETTING_NUMBER.png, or NUMBER.png without a setting. A picture that
    is not there is taken from the first model's rollout."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the stack, such as the simulated task."""

    def __post_init__(self) -> None:
        check_settings(self)
        check(bool(self.instruction.strip()), "instruction", self.instruction, "what the policy is told, in words")
        check(bool(self.settings), "settings", self.settings, "one setting or more")
        check(len(set(self.settings)) == len(self.settings), "settings", self.settings, "names that differ")
        for name in self.settings:
            check(name == "" or name.isidentifier(), "settings", name, "a name like id or ood")

    @property
    def scored_by(self) -> Rubric:
        return rubric(self.rubric, bowls=self.bowls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout that the protocol asks for."""

    index: int
    """Its place in the order, from 0."""
    task: str
    setting: str
    number: int
    """Of the layout, from 1: every model has it once."""
    model: str

    @property
    def layout(self) -> str:
        """What tells its scene from others; every model has a rollout of it."""
        return "_".join(filter(None, [self.task, self.setting, f"{self.number:03d}"]))

    @property
    def name(self) -> str:
        """Without the model, which the person who judges need not know."""
        return ", ".join(filter(None, [self.task, self.setting.upper(), f"layout {self.number}"]))

    @property
    def judged_task(self) -> str:
        """The name of its task in results: a setting is a task of its own."""
        return judged_task(self.task, self.setting)


def judged_task(task: str, setting_: str) -> str:
    return f"{task} ({setting_.upper()})" if setting_ else task


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The whole comparison. It is fixed once the first rollout was run."""

    models: Mapping[str, ModelConfig]
    """Name → model."""
    tasks: Mapping[str, JudgedTask]
    """Name → task. With the paper's names (stack_bowls, stack_3_bowls, stack_4_bowls, wipe_stain, place_mango,
    place_sponge, place_bottle; settings id and ood) the results stand in its tables."""
    contract: str = DEFAULT_CONTRACT
    """Contract of the models and of the arm: a shipped name or a YAML file."""
    stack: str = "jaka_policy"
    """Stack that runs a model, recorder included: a name in config/stacks, or a file."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the stack, such as simulate and robot_ip."""
    order: Literal["random", "as_written"] = "random"
    """Whether the models of a layout follow one another in an order that is drawn for each layout."""
    blind: bool = True
    """Whether the person who judges is not told which model runs."""
    seed: int = setting(0, low=0, high=2**31)
    """Of the order."""
    idle_s: float = setting(IDLE_S, low=1.0, high=600.0, unit="s")
    """A rollout ends when nothing correct was done for so long."""
    longest_s: float = setting(600.0, low=1.0, high=3600.0, unit="s")
    """A rollout ends after so long, whatever is done."""

    def __post_init__(self) -> None:
        check_settings(self)
        check(bool(self.models), "models", dict(self.models), "one model or more, NAME: {policy: …}")
        check(bool(self.tasks), "tasks", dict(self.tasks), "one task or more, NAME: {rubric: …, instruction: …}")
        for name in (*self.models, *self.tasks):
            if not name.replace("-", "_").isidentifier():
                raise ConfigError(f"{name!r} is no name of a model or a task; use letters, digits, _ and -")
        for name, task in self.tasks.items():
            try:
                rubric(task.rubric, bowls=task.bowls)
            except ScoreError as error:
                raise ConfigError(f"tasks.{name}: {error}") from None

    def rollouts(self) -> tuple[Rollout, ...]:
        """In the order in which they are run: all models of a layout, then the next layout."""
        drawn, found = random.Random(self.seed), list[Rollout]()
        for name, task in self.tasks.items():
            for setting_ in task.settings:
                for number in range(1, task.rollouts + 1):
                    models = list(self.models)
                    if self.order == "random":
                        drawn.shuffle(models)
                    for model in models:
                        found.append(Rollout(index=len(found), task=name, setting=setting_, number=number, model=model))
        return tuple(found)

    def reset_picture(self, rollout: Rollout, folder: Path) -> Path | None:
        """The given one of its layout; relative to ``folder``, that of the protocol's file. None: there is none."""
        given = self.tasks[rollout.task].reset
        file = folder / given / f"{'_'.join(filter(None, [rollout.setting, str(rollout.number)]))}.png"
        return file if given and file.is_file() else None
