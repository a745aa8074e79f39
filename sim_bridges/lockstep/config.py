"""What is recorded. Imports little: the help of the command line waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lavla_ros.config import ConfigError, check_settings, setting
from sim_bridges.worlds import DEFAULT_SUITE

PATIENCE_S = 5.0
"""Without progress for so long, a person who looks on would take over."""


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """A batch of scripted demonstrations."""

    out: Path
    """Folder for the bags."""
    suite: str = DEFAULT_SUITE
    """Name of a suite, or module:factory of yours: the simulator that the expert acts in."""
    task: str = ""
    """Task that is demonstrated, by name or number. The default is the suite's first usual task."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the suite."""
    episodes: int | None = setting(None, low=1)
    """Number of episodes. The default is 400, or what the protocol says."""
    protocol: str = ""
    """Name of a protocol of the suite ("paper" for the usual one): its number of successful demonstrations of each of
    its tasks (or of the one task), in a folder each; what fails is recorded as well, and made up for."""
    seed: int = 0
    """Seed of the first scene; episode i has that of seed + i, or, in a suite with recorded initial states, always this
    one."""
    initial_state: int = 0
    """Number of the first initial state, in a suite that has recorded ones; each episode begins in the next one."""
    workers: int = setting(1, low=1, high=16)
    """Number of parallel simulators, each with a recorder and a ROS domain of its own."""
    disturb: bool = True
    """Whether short random pushes move the arm off its path, so that the demonstrations show recoveries. None do where
    a policy acts."""
    policy: str = ""
    """Checkpoint, or bundled, that acts in place of the expert. The expert corrects it as a person would: it takes over
    when there is no progress, and gives the arm back when there is. Which steps are whose is recorded."""
    patience_s: float = setting(PATIENCE_S, low=0.1, high=600.0, unit="s")
    """Time without progress after which the expert takes over from the policy."""
    max_steps: int | None = None
    """Number of contract steps after which a demonstration has failed. The default is the suite's, or else the official
    limit."""

    def __post_init__(self) -> None:
        from sim_bridges.suites import load_suite

        check_settings(self)
        suite = load_suite(self.suite, self.options)
        if self.protocol:
            self._check_protocol(getattr(suite, "protocols", {}))
        limit = getattr(suite, "first_evaluation_seed", None)
        if self.seed < 0 or (limit is not None and self.seed + self.count > limit):
            raise ConfigError(
                f"seeds {self.seed} to {self.seed + self.count - 1} must lie in 0 to {(limit or 2**32) - 1}: "
                "those from there on are kept for evaluation"
            )

    @property
    def count(self) -> int:
        """Episodes, without a protocol."""
        return 400 if self.episodes is None else self.episodes

    def _check_protocol(self, protocols: Mapping[str, Mapping[str, int]]) -> None:
        if self.protocol not in protocols:
            known = sorted(protocols) or "none"
            raise ConfigError(f"suite {self.suite} has no protocol {self.protocol!r}; it has {known}")
        if self.episodes is not None:
            raise ConfigError(
                f"episodes is {self.episodes}, and the protocol {self.protocol!r} says how many; leave one of them out"
            )
        if self.task and self.task not in protocols[self.protocol]:
            tasks = sorted(protocols[self.protocol])
            raise ConfigError(f"task {self.task!r} is not one of the protocol {self.protocol!r}, which has {tasks}")
