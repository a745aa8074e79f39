"""Typed configuration of the action model and its training; ``config/latent/action_*.yaml`` hold these keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lavla_ros.config import check, check_settings, setting
from lavla_ros.policy.config import ActionCodingConfig
from training.latent_actions.codebook_config import CodebookRunConfig, LatentDataConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionLamConfig:
    """The model and its objective (paper, App. A.2); the defaults are the paper's."""

    chunk_size: int | None = None
    """Number of steps of a chunk, H. The default is the contract's, and no other value is accepted."""
    frequency_features: Literal["fft", "none"] = "fft"
    """Whether the encoder sees the spectrum of the chunk (fft) beside its actions."""
    width: int = setting(128, low=1)
    """Width d of the encoder and of the codebook."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Dilations of the convolutions over time, which have kernel size 3."""
    layers: int = setting(2, low=1)
    """Number of layers of the Transformer encoder."""
    heads: int = setting(4, low=1)
    """Number of attention heads of the Transformer encoder."""
    feedforward: int = setting(256, low=1)
    """Hidden width of the Transformer encoder's feed-forward layers."""
    decoder_width: int = setting(256, low=1)
    """Hidden width of the per-timestep decoder."""
    codebook_size: int = setting(256, low=2)
    """Number of codes, K."""
    codebook_decay: float = 0.99
    """Decay of the codebook's moving averages, per batch."""
    restart_below: float = setting(0.5, low=0)
    """Number of uses per batch (moving average) below which a code is put on a latent of the batch."""
    mask_ratio: float = 0.15
    """Probability that a timestep's latent is masked for Eq. 18."""
    mask_weight: float = setting(0.1, low=0)
    """Weight λ_mask of the masked term in Eq. 16."""
    commit_weight: float = setting(0.25, low=0)
    """Weight β of the commitment term in Eq. 16."""
    actions: ActionCodingConfig = field(default_factory=ActionCodingConfig)
    """How chunks are normalised before they are encoded."""

    def __post_init__(self) -> None:
        check_settings(self, "model.")
        check(self.width % self.heads == 0, "model.width", self.width, f"a multiple of heads={self.heads}")
        check(all(d >= 1 for d in self.dilations), "model.dilations", self.dilations, "numbers of at least 1")
        check(0 < self.codebook_decay < 1, "model.codebook_decay", self.codebook_decay, "in (0, 1)")
        check(0 <= self.mask_ratio < 1, "model.mask_ratio", self.mask_ratio, "a probability below 1")


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
    data: LatentDataConfig = field(default_factory=LatentDataConfig)
