"""What the training runs of both latent action models are told."""

from __future__ import annotations

from dataclasses import dataclass

from lavla_ros.config import check
from training.config import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookRunConfig(RunConfig):
    """One training run of a latent action model; each model adds its own settings."""

    steps: int = 50_000
    """Number of optimizer steps."""
    learning_rate: float = 1e-4
    """Learning rate; it is constant."""
    log_every: int = 100
    """Number of steps between two lines of the log."""
    min_perplexity: float = 0.25
    """Share of the codebook below which its perplexity is called unhealthy."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        check(0 < self.learning_rate < 1, "learning_rate", self.learning_rate, "in (0, 1)")
        check(0 <= self.min_perplexity <= 1, "min_perplexity", self.min_perplexity, "in [0, 1]")
