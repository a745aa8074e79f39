"""What is evaluated. Imports little: the help of the command line waits for it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from lavla_ros.config import ConfigError, check_settings, setting
from lavla_ros.defaults import BUNDLED_POLICY, DEFAULT_DEVICE

Kind = Literal["checkpoint", "expert", "replay", "remote"]
REPLAY = "replay:"


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What to evaluate, completely: equal values give equal episodes."""

    suite: str
    """Name of a suite (docs/evaluation.md lists them), or module:factory of yours."""
    tasks: tuple[str, ...] = ()
    """Tasks, by name or number, or a set of tasks that the suite names. The default is the suite's own choice."""
    policy: str = BUNDLED_POLICY
    """Checkpoint directory, "bundled", "expert" (scripted, with access to the simulator's state), "replay:DATASET"
    (recorded actions), or "remote" (a policy node with use_sim_time that runs in this ROS domain)."""
    through: Literal["process", "nodes"] = "process"
    """Whether a checkpoint runs in the worker's process, or in a policy node behind ROS topics. The episodes are the
    same."""
    episodes: int | None = setting(None, low=1, high=10_000)
    """Number of episodes per task. The default is the benchmark's official number."""
    seed: int | None = setting(None, low=0, high=99_999)
    """Seed of the evaluation; episode i of a seed always begins in the same state. The default is the benchmark's."""
    max_steps: int | None = setting(None, low=1, high=100_000)
    """Number of contract steps after which an episode has failed. The default is the benchmark's official limit."""
    replan_steps: int | None = setting(None, low=1, high=256)
    """Number of contract steps executed from a chunk before the next inference. The default is the benchmark's."""
    latency_steps: int = setting(0, low=0, high=255)
    """Number of contract steps between an observation and the arrival of its chunk; 0 means that inference is free."""
    device: str = DEFAULT_DEVICE
    """Device that a checkpoint runs on: cpu, cuda, …"""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the suite."""
    method: str = ""
    """Row of the published tables. The default is the one that the checkpoint names."""
    videos: int = setting(2, low=0, high=100)
    """Number of successful and of failed episodes shown as videos."""
    timeout_s: float = setting(120.0, low=0.1, high=3600.0)
    """Number of seconds without an answer of policy or simulator after which an episode is in error."""

    def __post_init__(self) -> None:
        check_settings(self, "evaluation: ")
        if self.through == "nodes" and kind_of(self.policy) != "checkpoint":
            raise ConfigError(f"evaluation: only a checkpoint runs through nodes, not {self.policy!r}")

    def command(self) -> str:
        """The shell command that repeats this."""
        words = ["lavla", "eval", self.suite, *(["--task", *self.tasks] if self.tasks else []), "--policy", self.policy]
        for item in fields(self):
            value = getattr(self, item.name)
            if (
                item.name not in ("suite", "tasks", "policy", "options", "videos", "timeout_s")
                and value != item.default
            ):
                words += [f"--{item.name.replace('_', '-')}", str(value)]
        for name, value in self.options.items():
            if value:
                words += ["-o", f"{name}={value}"]
        return shlex.join(words)


def kind_of(policy: str) -> Kind:
    """Raises ConfigError for an empty name."""
    if not policy:
        raise ConfigError("the policy is empty; give a checkpoint directory, bundled, expert, replay:DATASET or remote")
    if policy in ("expert", "remote"):
        return policy  # type: ignore[return-value]
    return "replay" if policy.startswith(REPLAY) else "checkpoint"
