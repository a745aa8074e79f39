"""Typed configuration of a training run; the YAML files in ``config/training/`` hold exactly these keys."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lavla_ros.config import check, check_settings, setting
from lavla_ros.defaults import DEFAULT_CONTRACT
from lavla_ros.policy.config import PolicyConfig

DECODE_THREADS = 2
"""Number of threads of a process that decode videos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixturePart:
    """One dataset of several that are trained on jointly."""

    path: Path
    """A LeRobotDataset v3.0 directory under the run's contract."""
    weight: float = 1.0
    """How often each of its samples is drawn, relative to the samples of the other datasets."""

    def __post_init__(self) -> None:
        check(0 < self.weight <= 1000, "data.mixture.weight", self.weight, "in (0, 1000]")


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionConfig:
    """What steps count for that a person commanded who took over from a policy (DAgger)."""

    weight: float = 1.0
    """How often a step that a person commanded is drawn, relative to the other steps of its dataset."""
    only: bool = False
    """Draw no other steps; every dataset must say who commanded."""

    def __post_init__(self) -> None:
        check(0 < self.weight <= 1000, "data.interventions.weight", self.weight, "in (0, 1000]")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where samples come from and how they are fed."""

    dataset: Path = Path("data/tabletop")
    """A LeRobotDataset v3.0 directory, as written by `lavla convert` and `lavla import`."""
    mixture: tuple[MixturePart, ...] = ()
    """Several datasets that are trained on jointly (App. E.3), in place of ``dataset``; with weights of 1, each
    sample is as likely as any other."""
    interventions: InterventionConfig = field(default_factory=InterventionConfig)
    """How often steps are drawn that a person commanded who took over from a policy (DAgger)."""
    contract: str = DEFAULT_CONTRACT
    """Name of a contract in config/contracts, or a file; it must be that of every dataset."""
    fraction: float = 1.0
    """Share of the training episodes that is used, per instruction; the seed draws whole episodes (App. E.1). A smaller
    share is part of a larger one, and all are validated on the same episodes."""
    validation_fraction: float = 0.03
    """Share of the episodes that is never trained on; it picks the best checkpoint."""
    frames: Literal["auto", "memory", "file", "png", "video"] = "auto"
    """Where frames come from while training. With "memory" they are decoded in advance, with "file" once into
    ``cache_dir``, with "png" likewise but compressed without loss, with "video" whenever they are needed. "auto" takes
    memory up to ``cache_bound_gib`` (with one process per machine), then a file if the disk has room for it, or else
    the video."""
    cache_bound_gib: float = setting(4.0, low=0)
    """Largest size of the frames, in GiB, that "auto" keeps in memory."""
    cache_dir: Path | None = None
    """Folder of the frame files, which runs and processes share. The default is inside the run's directory."""
    decode_threads: int = setting(DECODE_THREADS, low=1, high=64)
    """Number of threads that decode videos, per process."""

    def __post_init__(self) -> None:
        check_settings(self, "data.")
        check(0 < self.fraction <= 1, "data.fraction", self.fraction, "in (0, 1]")
        check(0 <= self.validation_fraction < 0.5, "data.validation_fraction", self.validation_fraction, "in [0, 0.5)")
        paths = [str(part.path) for part in self.mixture]
        check(len(set(paths)) == len(paths), "data.mixture", paths, "every dataset once; repeat samples by weight")

    @property
    def parts(self) -> tuple[MixturePart, ...]:
        """The datasets to train on: the mixture, or the one dataset."""
        return self.mixture or (MixturePart(path=self.dataset),)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Random changes of the images, one draw per image; the defaults change nothing."""

    shift_px: int = setting(0, low=0, high=32)
    """Largest shift in each direction, in pixels at the backbone's resolution; edges are repeated."""
    crop_area: float = setting(1.0, low=0.25, high=1)
    """Smallest share of the image's area that is enlarged to the whole image, as a square at a random place. Live
    images need no crop, because the whole image is in the range."""
    brightness: float = 0.0
    """Largest change of the brightness; the factor is drawn from 1 ± this."""
    contrast: float = 0.0
    """Largest change of the contrast about the image's mean; the factor is drawn from 1 ± this."""
    saturation: float = 0.0
    """Largest change of the saturation; the factor is drawn from 1 ± this."""
    hue: float = setting(0.0, low=0, high=0.5)
    """Largest turn of the colour wheel, in whole turns; the turn is drawn from ± this."""

    def __post_init__(self) -> None:
        check_settings(self, "augment.")
        for key in ("brightness", "contrast", "saturation"):
            check(0 <= getattr(self, key) < 1, f"augment.{key}", getattr(self, key), "in [0, 1)")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """AdamW and its learning-rate schedule."""

    learning_rate: float = 1e-4
    """Highest learning rate of the schedule."""
    weight_decay: float = setting(0.01, low=0)
    """Weight decay, which is applied to matrices only, but not to embeddings and queries."""
    betas: tuple[float, ...] = (0.9, 0.95)
    """The two decay rates of AdamW's moving averages."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """How the learning rate falls: "step" multiplies it by decay_factor every decay_steps (Table 8), "cosine" lets
    it fall to final_fraction at the end."""
    warmup_steps: int = setting(0, low=0)
    """Number of steps in which the learning rate rises linearly from 0."""
    decay_steps: int = setting(10_000, low=1)
    """For the step schedule, number of steps between two decays."""
    decay_factor: float = 0.5
    """For the step schedule, factor of each decay."""
    final_fraction: float = 0.01
    """For the cosine schedule, share of the learning rate that is left at the end."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; longer gradients are scaled down to it."""
    ema_decay: float | None = None
    """Decay of the averaged weights that are validated and saved. By default weights are not averaged."""

    def __post_init__(self) -> None:
        check_settings(self, "optim.")
        check(0 < self.learning_rate < 1, "optim.learning_rate", self.learning_rate, "in (0, 1)")
        check(len(self.betas) == 2, "optim.betas", self.betas, "two numbers")
        check(0 < self.decay_factor <= 1, "optim.decay_factor", self.decay_factor, "in (0, 1]")
        check(self.gradient_clip > 0, "optim.gradient_clip", self.gradient_clip, "above 0")
        if self.ema_decay is not None:
            check(0 < self.ema_decay < 1, "optim.ema_decay", self.ema_decay, "in (0, 1)")

    def learning_rate_at(self, step: int, total: int) -> float:
        """Learning rate of step 0 … total - 1."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "step":
            return self.learning_rate * float(self.decay_factor ** (step // self.decay_steps))
        progress = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * cosine)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What every training run has; each objective adds its own and may set other defaults."""

    output: Path = Path("runs/train")
    """Folder of the run."""
    steps: int = 30_000
    """Number of optimizer steps."""
    batch_size: int = 128
    """Number of samples per optimizer step, over all processes and accumulation steps."""
    accumulation: int = 1
    """Number of forward and backward passes per optimizer step; more of them need less memory."""
    seed: int = setting(0, low=0)
    """Seed of every random choice: weights, split, order and augmentation of the samples."""
    threads: int | None = setting(None, low=1)
    """Number of CPU threads of torch. The default is torch's own choice."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that trains; "auto" takes a GPU if there is one. With several processes each has one of its own."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the computation; weights, optimizer and codebooks stay float32 with bfloat16 too."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Trackers that get the figures besides metrics.jsonl; wandb has to be installed separately."""
    wandb_project: str = "lavla"
    """Project on wandb that the figures go to."""
    log_every: int = 50
    """Number of steps between two lines of the log."""
    validate_every: int = 1_000
    """Number of steps between two validations."""
    save_every: int = 1_000
    """Number of steps between two checkpoints that the run can be resumed from."""
    max_minutes: float | None = setting(None, low=0)
    """Number of minutes after which the run stops, with everything saved; schedules still assume ``steps``. By default
    it runs to the end."""
    resume: bool = True
    """Continue from output/resume if it exists; without, a run that is there is refused."""

    def __post_init__(self) -> None:
        check_settings(self)
        for key in ("steps", "batch_size", "accumulation", "log_every", "validate_every", "save_every"):
            check(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")  # objectives set their own defaults
        multiple = f"a multiple of accumulation={self.accumulation}"
        check(self.batch_size % self.accumulation == 0, "batch_size", self.batch_size, multiple)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(RunConfig):
    """One training run of a policy."""

    output: Path = Path("runs/train")
    """Folder of the run: best/, last/, resume/, metrics.jsonl, tensorboard/."""
    initial: Path | None = None
    """Checkpoint that the training begins from, or "bundled": its weights, its scales of states and actions, its
    tokenizer. Contract and policy of the run must be those that it was trained with."""
    gradient_checkpointing: bool = False
    """Recompute the backbone's activations in the backward pass, which takes a third more time and far less memory."""
    compiled_layers: bool = False
    """Let torch.compile join the operations within each layer of backbone and head. It needs a compiler, and minutes at
    the start; losses differ by rounding."""
    loss_on_padding: bool = False
    """Count the repeated last action beyond an episode's end as a target (hold still)."""
    half_checkpoints: bool = False
    """Store policies as float16."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        super(TrainConfig, self).__post_init__()  # a slotted dataclass is another class than the one written here
        if self.policy.backbone.kind == "pretrained" and self.policy.backbone.attention == "flash_attention_2":
            check(
                "bfloat16" in (self.precision, self.policy.backbone.dtype),
                "precision",
                self.precision,
                "bfloat16, which backbone.attention: flash_attention_2 needs",
            )

    @property
    def frozen_dtype(self) -> Literal["float32", "bfloat16"]:
        """Type of the backbone's frozen weights."""
        name = self.policy.backbone.dtype
        return self.precision if name == "auto" else name
