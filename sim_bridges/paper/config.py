"""What ``lavla study`` is given. Imports little: the help of the command line waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

from lavla_ros.config import ConfigError, read_config, read_plain
from sim_bridges.paper.grid import GridConfig, Study, TaskConfig
from sim_bridges.worlds import DEFAULT_SUITE


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A study by its file, or, from recorded episodes, of one task, the package's strategies and one seed."""

    bags: tuple[Path, ...]
    """A study file (.yaml), or recorded episodes: bags, or folders of them."""
    out: Path
    """Folder of the study."""
    workers: int = 2
    """Number of stages that run at a time."""
    plan: bool = False
    """Only show what is to be done and what it costs."""
    suite: str = DEFAULT_SUITE
    """Suite where the bags were recorded and the policies are evaluated: its name, or module:factory of yours."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the suite."""
    tasks: tuple[str, ...] = ()
    """Tasks of the suite, by name or number. The default is the suite's own choice."""
    steps: int = 2_000
    """Number of optimizer steps of every policy."""
    fraction: float = 1.0
    """Share of the training episodes that latent action models and policies learn from, per instruction (App. E.1)."""
    strategies: tuple[str, ...] = ()
    """Strategies to compare, by name or as module:attribute, or methods of the paper such as ph_direct. The default is
    all strategies that come with the package."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds. With one, nothing can be said of a strategy, but only of the policies."""
    episodes: int | None = None
    """Number of lock-step episodes per task and policy. The default is the suite's for studies."""
    evaluation_seed: int | None = None
    """Seed of the evaluations. The default is the suite's for studies, or else that of its rules."""
    replan_steps: int | None = None
    """Number of contract steps between two inferences. The default is the suite's."""
    live_episodes: int = 3
    """Number of episodes of each policy on the suite's live stack; 0 leaves them out."""
    action_recipe: Path | None = None
    """Configuration of the action latent action model. The default is the suite's."""
    image_recipe: Path | None = None
    """Configuration of the image latent action model. The default is the suite's."""
    policy_recipe: Path | None = None
    """Configuration of the policies; its strategy and seed are replaced. The default is the suite's."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; expected at least 1")
        if self.file is not None:
            own = ("bags", "out", "workers", "plan")
            given = [f.name for f in fields(self) if f.name not in own and getattr(self, f.name) != _DEFAULTS[f.name]]
            if given:
                names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
                raise ConfigError(f"{names}: what is compared is said by {self.file}; change it there")

    @property
    def file(self) -> Path | None:
        """The study file, if one is given."""
        return self.bags[0] if len(self.bags) == 1 and self.bags[0].suffix in (".yaml", ".yml") else None

    def study(self) -> Study:
        """Raises ConfigError for a file that cannot be read, or a value that cannot be."""
        if self.file is not None:
            if isinstance(found := read_plain(self.file), dict) and "rosbag2_bagfile_information" in found:
                raise ConfigError(f"{self.file} is of a bag, and no study; give the bag's folder")
            return read_config(Study, self.file)
        from lavla_ros.policy.strategies import STRATEGIES

        task = TaskConfig(bags=self.bags, suite=self.suite, options=self.options, tasks=self.tasks)
        grid = GridConfig(methods=self.strategies or tuple(STRATEGIES), seeds=self.seeds, fractions=(self.fraction,))
        same = {f.name: getattr(self, f.name) for f in fields(self) if f.name in {f.name for f in fields(Study)}}
        return Study(**{**same, "tasks": {"task": task}, "grids": (grid,)})


_DEFAULTS = {
    item.name: item.default if item.default_factory is MISSING else item.default_factory()
    for item in fields(StudyConfig)
}
