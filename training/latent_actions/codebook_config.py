"""What the training runs of both latent action models are told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lavla_ros.config import check, setting
from lavla_ros.defaults import DEFAULT_CONTRACT
from training.config import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentDataConfig:
    """What is learned from."""

    datasets: tuple[Path, ...] = (Path("data/tabletop"),)
    """LeRobotDataset v3.0 directories of one robot, which are mixed; the paper has one model per benchmark, for all
    tasks."""
    contract: str = DEFAULT_CONTRACT
    """Name of a contract in config/contracts, or a file; it must be that of the datasets."""
    fraction: float = 1.0
    """Share of the training episodes to use, as a policy's ``data.fraction``: with the same seed and
    ``validation_fraction`` the same episodes, so that labels know no others."""
    validation_fraction: float = 0.05
    """Share of the episodes that is never trained on."""

    def __post_init__(self) -> None:
        check(len(self.datasets) > 0, "data.datasets", self.datasets, "at least one directory")
        check(0 < self.fraction <= 1, "data.fraction", self.fraction, "in (0, 1]")
        check(0 <= self.validation_fraction < 0.5, "data.validation_fraction", self.validation_fraction, "in [0, 0.5)")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookRunConfig(RunConfig):
    """One training run of a latent action model; each model adds its own settings."""

    steps: int = 50_000
    """Number of optimizer steps."""
    learning_rate: float = 1e-4
    """Learning rate; it is constant."""
    log_every: int = 100
    """Number of steps between two lines of the log."""
    min_perplexity: float = setting(0.25, low=0, high=1)
    """Share of the codebook below which its perplexity is called unhealthy."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        check(0 < self.learning_rate < 1, "learning_rate", self.learning_rate, "in (0, 1)")
