"""What a demo shows. Imports little: the help of the command line waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lavla_ros.config import ConfigError, check_settings, setting
from sim_bridges.worlds import DEFAULT_SUITE


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Episodes of a suite, live over ROS 2."""

    suite: str = DEFAULT_SUITE
    """Name of a suite, or module:factory of yours. One that has no live stack of its own is shown in lock-step."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the suite."""
    out: Path | None = None
    """New folder for everything that the demo writes. The default is runs/demo-TIME."""
    policy: str = ""
    """Checkpoint directory, "bundled" or "expert". The default is the policy that the package has for the suite, and
    the scripted expert if it has none."""
    tasks: tuple[str, ...] = ()
    """Tasks to show, by name or number. The default is the suite's usual ones."""
    episodes: int = setting(5, low=1, high=1000)
    """Number of episodes of each task."""
    seed: int = setting(0, low=0)
    """Seed of the evaluation whose first scenes are shown; no policy was trained on them."""
    disturb: bool = False
    """Push the expert's arm now and then, to show how it recovers."""

    def __post_init__(self) -> None:
        from sim_bridges.suites import choose_tasks, load_suite

        suite = load_suite(self.suite, self.options)
        object.__setattr__(self, "tasks", choose_tasks(suite, self.tasks))
        object.__setattr__(self, "policy", self.policy or getattr(suite, "policy", "expert"))
        check_settings(self)
        if self.disturb and self.policy != "expert":
            raise ConfigError(f"disturb pushes the expert's arm, and {self.policy} is to act; leave it out")
