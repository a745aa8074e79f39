"""`lavla latent train --config YAML [--steps N …]`: train the image latent action model (paper, App. A.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lavla_ros.contract import Contract, load_contract
from lavla_ros.policy.device import resolve_device
from training.latent_actions.checkpoint import load_latent_model
from training.latent_actions.codebook_health import CodebookHealth, HealthTracker
from training.latent_actions.codebook_task import CodebookTask, refuse_finished, to_record
from training.latent_actions.features import TextEncoder, TextStates, load_features
from training.latent_actions.image_config import ImageLamTrainConfig
from training.latent_actions.image_data import (
    Transitions,
    load_transitions,
    normalised_actions,
    supervised_rows,
)
from training.latent_actions.image_model import (
    ENVIRONMENT,
    ActionHead,
    ImageBatch,
    ImageLamLoss,
    ImageLatentModel,
    ImageObjective,
)
from training.latent_actions.quantize import CodebookQuantizer
from training.logs import require_trackers
from training.loop import Trainer
from training.reporting import TerminalReporter
from training.samples import spread
from training.system_resources import flushed_denormals

_SHOWN = ("loss", "reconstruction", "action", "perplexity", "dead_codes")
_EVALUATED = 4096
"""Most transitions of each kind (held out, trained on) that are evaluated, evenly spread."""


class ImageTask(CodebookTask):
    """One stage of the image model, on features that were computed before."""

    config: ImageLamTrainConfig
    model: ImageLatentModel
    module: ImageObjective

    def __init__(
        self,
        config: ImageLamTrainConfig,
        contract: Contract,
        transitions: Transitions,
        initial: ImageLatentModel | None = None,
    ) -> None:
        """``config.model.features.fingerprint`` must be that of the transitions' features.

        Raises ConfigError, DataError or StatsError before anything is written.
        """
        super().__init__(config, contract, transitions.episode_M, transitions.instruction_M)
        self.transitions, self.initial, self.gradient_clip = transitions, initial, config.gradient_clip
        self.text = TextEncoder(config.model.text)(transitions.instructions) if config.model.stage == 1 else None
        self.supervised_M = np.zeros(len(transitions), np.bool_)
        self.actions_MA = np.zeros_like(transitions.actions_MA)
        if config.action_weight > 0:
            known = supervised_rows(self.train_rows, config.action_fraction, config.seed)
            self.supervised_M[known] = True
            self.actions_MA = normalised_actions(transitions, known, contract, config.model.actions)

    @property
    def codebooks(self) -> Mapping[str, int]:
        config = self.config.model
        trained = {self.model.target: config.codebook_size}
        return trained if config.stage == 1 else trained | {ENVIRONMENT: config.environment_codebook_size}

    def build(self, run: Trainer) -> nn.Module:
        config = self.config
        refuse_finished(config.output)
        self.model = ImageLatentModel(config.model, self.contract, {})
        if self.initial is not None:
            self.model.start_from(self.initial, whole=config.keep_stage_one)
        head = None
        if config.action_weight > 0:
            head = ActionHead(config.model, config.action_head_width, self.contract.action_dim)
        self.module = ImageObjective(self.model, head, config.action_weight)
        self.micro_batch, self.device = run.micro_batch, run.accelerator.device
        return self.module

    def optimizer(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.AdamW(
            parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def start_step(self, step: int) -> float:
        self.module.bypass = step < self.config.warmup_steps
        return super().start_step(step)

    def before_update(self, optimizer: torch.optim.Optimizer) -> None:
        for module in self.module.modules():
            if isinstance(module, CodebookQuantizer):
                module.forget_restarted(optimizer)

    def draws(self, step: int, part: int, process: int) -> tuple[int, ...]:
        alike = super().draws(step, part, process)
        return (alike[0], process) if self.config.model.dropout else alike  # each drops out of its own part

    def read(self, rows: NDArray[np.int64], positions: range | None = None) -> tuple[Tensor, Tensor]:
        del positions  # the text is the episode's own, of its phrasings the first
        return self.transitions.pairs(rows)

    def batch(self, rows: NDArray[np.int64], read: tuple[Tensor, Tensor], device: torch.device) -> ImageBatch:
        text = None
        if self.text is not None:
            of_rows = torch.from_numpy(self.transitions.instruction_M[rows])
            text = TextStates(self.text.states_BLE[of_rows].to(device), self.text.mask_BL[of_rows].to(device))
        now_BNF, future_BNF = (half.to(device, non_blocking=True).float() for half in read)
        return ImageBatch(
            now_BNF=now_BNF,
            future_BNF=future_BNF,
            text=text,
            actions_BA=torch.from_numpy(self.actions_MA[rows]).to(device),
            supervised_B=torch.from_numpy(self.supervised_M[rows]).to(device),
        )

    def codes(self, loss: ImageLamLoss) -> Mapping[str, Tensor]:
        return loss.codes

    @torch.no_grad()
    def measure(self, rows: NDArray[np.int64]) -> tuple[Mapping[str, float], Mapping[str, CodebookHealth]]:
        """Mean losses and codebook health over up to 4096 of the rows, evenly spread; every process does it alone.

        ``unchanged`` is the error of predicting that nothing changes, to judge ``reconstruction`` by; ``action``
        counts every sample, whether or not its action was known.
        """
        rows = spread(rows, _EVALUATED)
        self.module.eval()
        sums: dict[str, float] = {}
        trackers = {kind: HealthTracker(size) for kind, size in self.codebooks.items()}
        for first in range(0, len(rows), self.micro_batch):
            part = rows[first : first + self.micro_batch]
            batch = self.batch(part, self.read(part), self.device)
            loss = self.module.loss(replace(batch, supervised_B=torch.ones_like(batch.supervised_B)))
            unchanged = (batch.now_BNF - batch.future_BNF).square().mean()
            for name, value in {"loss": loss.total, **loss.parts, "unchanged": unchanged}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(part) / len(rows)
            for kind, codes in loss.codes.items():
                trackers[kind].add(codes)
        return sums, {kind: tracker.take() for kind, tracker in trackers.items()}

    def record(self, healths: Mapping[str, CodebookHealth]) -> Mapping[str, Any]:
        return {
            "stage": self.config.model.stage,
            "transitions": len(self.transitions),
            "supervised": int(self.supervised_M.sum()),
            "action_weight": self.config.action_weight,
            "codebooks": {kind: to_record(health) for kind, health in healths.items()},
        }

    def arrays(self) -> Iterator[NDArray[Any]]:
        t = self.transitions
        yield from (t.part_M, t.now_M, t.future_M, t.actions_MA, t.states_MS, t.instruction_M, self.train_rows)


@flushed_denormals()
def train_image_lam(config: ImageLamTrainConfig) -> Path:
    """Features, stage 1 where needed, then the configured stage; returns the model's directory.

    Raises a UserError, if it can before anything is computed.
    """
    require_trackers(config)
    contract = load_contract(config.data.contract)
    config.model.cameras_of(contract)
    initial = None if config.initial is None else load_latent_model(config.initial, ImageLatentModel)
    refuse_finished(config.output)
    extractor = load_features(config.model.features).to(resolve_device(config.device))
    features = replace(config.model.features, fingerprint=extractor.fingerprint)
    config = replace(config, model=replace(config.model, features=features))
    with TerminalReporter(config.steps, _SHOWN) as reporter:

        def on_frame(done: int, of: int) -> None:
            if done == of or done % 4096 < config.data.feature_batch:
                reporter.message(f"features of {done}/{of} images")

        transitions = load_transitions(config.data, config.model, contract, extractor, on_frame)
        reporter.message(f"{len(transitions)} transitions of {len(np.unique(transitions.episode_M))} episodes")
    del extractor
    if config.model.stage == 2 and initial is None:
        initial = _stage_one(config, contract, transitions)
    with TerminalReporter(config.steps, _SHOWN) as reporter:
        return Trainer(ImageTask(config, contract, transitions, initial), reporter).run()


def _stage_one(config: ImageLamTrainConfig, contract: Contract, transitions: Transitions) -> ImageLatentModel:
    """The stage-1 model in output/stage1: as it is there, or trained now, without action supervision."""
    first = replace(
        config,
        output=config.output / "stage1",
        steps=config.stage_one_steps,
        action_weight=0.0,
        model=replace(config.model, stage=1, codebook_size=config.model.environment_codebook_size),
    )
    target = first.output / "model"
    if not target.exists():
        with TerminalReporter(first.steps, _SHOWN) as reporter:
            reporter.message("stage 1: conditioned on language")
            Trainer(ImageTask(first, contract, transitions), reporter).run()
    return load_latent_model(target, ImageLatentModel)
