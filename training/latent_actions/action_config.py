"""Typed configuration of the action model and its training; ``config/latent/action_*.yaml`` hold these keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lavla_ros.config import check
from lavla_ros.defaults import DEFAULT_CONTRACT
from lavla_ros.policy.config import ActionCodingConfig
from training.latent_actions.codebook_config import CodebookRunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionLamConfig:
    """The model and its objective (paper, App. A.2); the defaults are the paper's."""

    chunk_size: int | None = None
    """Number of steps of a chunk, H. The default is the contract's, and no other value is accepted."""
    frequency_features: Literal["fft", "none"] = "fft"
    """Whether the encoder sees the spectrum of the chunk (fft) beside its actions."""
    width: int = 128
    """Width d of the encoder and of the codebook."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Dilations of the convolutions over time, which have kernel size 3."""
    layers: int = 2
    """Number of layers of the Transformer encoder."""
    heads: int = 4
    """Number of attention heads of the Transformer encoder."""
    feedforward: int = 256
    """Hidden width of the Transformer encoder's feed-forward layers."""
    decoder_width: int = 256
    """Hidden width of the per-timestep decoder."""
    codebook_size: int = 256
    """Number of codes, K."""
    codebook_decay: float = 0.99
    """Decay of the codebook's moving averages, per batch."""
    restart_below: float = 0.5
    """Number of uses per batch (moving average) below which a code is put on a latent of the batch."""
    mask_ratio: float = 0.15
    """Probability that a timestep's latent is masked for Eq. 18."""
    mask_weight: float = 0.1
    """Weight λ_mask of the masked term in Eq. 16."""
    commit_weight: float = 0.25
    """Weight β of the commitment term in Eq. 16."""
    actions: ActionCodingConfig = field(default_factory=ActionCodingConfig)
    """How chunks are normalised before they are encoded."""

    def __post_init__(self) -> None:
        for key in ("width", "layers", "heads", "feedforward", "decoder_width"):
            check(getattr(self, key) >= 1, f"model.{key}", getattr(self, key), "at least 1")
        check(self.width % self.heads == 0, "model.width", self.width, f"a multiple of heads={self.heads}")
        check(all(d >= 1 for d in self.dilations), "model.dilations", self.dilations, "numbers of at least 1")
        check(self.codebook_size >= 2, "model.codebook_size", self.codebook_size, "at least 2")
        check(0 < self.codebook_decay < 1, "model.codebook_decay", self.codebook_decay, "in (0, 1)")
        check(self.restart_below >= 0, "model.restart_below", self.restart_below, "at least 0")
        check(0 <= self.mask_ratio < 1, "model.mask_ratio", self.mask_ratio, "a probability below 1")
        check(self.mask_weight >= 0, "model.mask_weight", self.mask_weight, "at least 0")
        check(self.commit_weight >= 0, "model.commit_weight", self.commit_weight, "at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionDataConfig:
    """Whose action chunks are learned."""

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
class ActionLamTrainConfig(CodebookRunConfig):
    """One training run of the action model."""

    kind: Literal["action"] = "action"
    """Kind of the model, by which `lavla latent train` knows what a file is about."""
    output: Path = Path("runs/latent_action")
    """Folder of the run: model/, resume/, metrics.jsonl, tensorboard/, codebook_usage.png."""
    validate_every: int = 2_000
    """Number of steps between two validations."""
    model: ActionLamConfig = field(default_factory=ActionLamConfig)
    data: ActionDataConfig = field(default_factory=ActionDataConfig)
