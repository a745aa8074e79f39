"""What a policy learns: the objective of Eq. 4 on the samples of its datasets, with any supervision strategy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lavla_ros.contract import Contract
from lavla_ros.policy.backbone import build_backbone
from lavla_ros.policy.base_model import load_pretrained_tokenizer
from lavla_ros.policy.checkpoint import InitialPolicy, prompt_builder, save_checkpoint
from lavla_ros.policy.device import require_compiler
from lavla_ros.policy.folder import CONFIG, CheckpointError
from lavla_ros.policy.model import OBJECTIVE, LatentActionVLA, VlaBatch, VlaLoss
from lavla_ros.policy.normalization import Normalizer, compute_stats
from lavla_ros.policy.prompt import train_tokenizer
from lavla_ros.yaml_text import load_yaml
from training.augment import augment_images, draw_numbers
from training.config import OptimConfig, TrainConfig
from training.data import BatchMaker, LoadedData, Source, named, pinned, teachers, to_device
from training.loop import Task, Trainer
from training.resume_state import forget_whole_parameters, gather, load_progress
from training.samples import split_episodes, spread

STATS_VALUES = 25_000_000
"""Numbers (samples × H × A) that normalisation statistics are computed of; of more data, as many evenly spread."""
PROMPT_MULTIPLE = 16
"""On a GPU the length of prompts is a multiple of this, which its matrix units divide well."""
EMBEDDINGS = ("placeholder_embeddings.weight", "embed_tokens.weight", "pos_embed.weight", "queries", "step_keys")
"""Ends of the names of parameters that are vectors side by side, no maps: decay would only draw them together."""
LABELS_SEEN = 50_000
"""Training steps, at most, whose labels a strategy is prepared with."""
SHARE_SAMPLES = 16
"""Samples, at most, that the gradients of the two losses are compared on at every validation."""
CLIPPED_SAMPLES = 10_000
"""Samples, at most, that it is counted on what an initial policy's scales clip."""
USUALLY_CLIPPED = 0.1
"""More is told: scales from the 1st to the 99th percentile clip 2% of the data that they were made of."""


class PolicyTask(Task):
    """A policy on loaded data; ``best`` has the lowest validation error, ``last`` is the newest."""

    results = ("best", "last")
    learning_rate_key = "optim.learning_rate"
    may_differ = frozenset({"accumulation", "gradient_checkpointing", "compiled_layers", "half_checkpoints"})
    config: TrainConfig

    def __init__(
        self, config: TrainConfig, contract: Contract, data: LoadedData, initial: InitialPolicy | None = None
    ) -> None:
        self.config, self.contract, self.data, self.initial = config, contract, data, initial
        self.gradient_clip, self.ema_decay = config.optim.gradient_clip, config.optim.ema_decay
        self.stored_as = torch.float16 if config.half_checkpoints else None
        self.train_rows, self.validation_rows = split_episodes(
            data.episode_N,
            validation=config.data.validation_fraction,
            seed=config.seed,
            fraction=config.data.fraction,
            task_N=data.instruction_N,
        )
        if config.optim.schedule != "cosine":  # the only one that depends on how long the run is
            self.may_differ = self.may_differ | {"steps"}
        self.weights = data.weight_N[self.train_rows]
        self.stats = training_stats(config, contract, data, self.train_rows) if initial is None else initial.stats

    def build(self, run: Trainer) -> nn.Module:
        config, contract, data = self.config, self.contract, self.data
        if config.compiled_layers:
            require_compiler(run.accelerator.device)
        self.tokenizer = _tokenizer(config, contract, data) if self.initial is None else self.initial.tokenizer
        at_rest, computing = getattr(torch, config.frozen_dtype), getattr(torch, config.precision)
        backbone = build_backbone(config.policy.backbone, self.tokenizer, at_rest, computing=computing)
        self.model = LatentActionVLA(config.policy, contract, backbone)
        if labels := {key: data.labels[key] for key in self.model.strategy.required_labels if key in data.labels}:
            rows = spread(self.train_rows, LABELS_SEEN)
            self.model.strategy.prepare({key: values[rows] for key, values in labels.items()})
        if self.initial is not None:
            self.initial.give_weights(self.model)
        if config.gradient_checkpointing:
            self.model.backbone.vlm.activation_checkpointing_enable()
        if config.compiled_layers:
            for layer in self.model.repeated_layers():
                layer.compile()
        prompt = prompt_builder(self.model, contract, self.tokenizer)
        self.pins = run.accelerator.device.type == "cuda"
        if self.pins:
            prompt.fix_length(data.instructions, PROMPT_MULTIPLE)
        self.batches = BatchMaker(
            data,
            Normalizer(contract, config.policy.actions, self.stats),
            prompt,
            required_labels=self.model.strategy.required_labels,
            loss_on_padding=config.loss_on_padding,
        )
        return self.model

    def optimizer(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        return adamw(parameters, self.config.optim)

    def start_step(self, step: int) -> float:
        return self.config.optim.learning_rate_at(step, self.config.steps)

    def read(self, rows: NDArray[np.int64], positions: range | None = None) -> VlaBatch:
        said = None if positions is None else self.data.instructions_of(rows, self.config.seed, positions)
        batch = self.batches(rows, self.data.frames.take(rows), said)
        return pinned(batch) if self.pins else batch

    def batch(self, rows: NDArray[np.int64], read: VlaBatch, device: torch.device) -> VlaBatch:
        return to_device(read, device)

    def augment(self, batch: VlaBatch, positions: range) -> VlaBatch:
        draws = draw_numbers(self.config.seed, positions, len(self.contract.cameras))
        return replace(batch, images=augment_images(batch.images, self.config.augment, draws))

    def evaluate(self, run: Trainer) -> Mapping[str, float]:
        """Mean losses over the held-out episodes, which the processes share; the best policy so far is saved."""
        held_out = self.validation_rows
        if len(held_out) == 0:
            return {}
        processes, rank = run.accelerator.num_processes, run.accelerator.process_index
        sums: dict[str, Tensor] = {}
        shares: dict[str, float] = {}
        for first in range(0, len(held_out), run.micro_batch * processes):
            rows = held_out[first + rank * run.micro_batch :][: run.micro_batch]
            counted = len(rows)
            rows = rows if counted else held_out[:1]  # every process takes part in every pass
            batch = self.batch(rows, self.read(rows), run.accelerator.device)
            loss: VlaLoss = run.objective(batch)
            for name, value in {"loss": loss.total, **loss.parts}.items():
                # the terms of the objective are means over samples, the other figures over steps that count
                is_term = name in ("loss", "action", "latent")
                share = counted if is_term or not counted else float(batch.weight_BH.sum())
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * share
                shares[name] = shares.get(name, 0.0) + share
        forget_whole_parameters(run.objective)
        stacked = torch.stack([torch.stack([sums[name].float(), sums[name].new_tensor(shares[name])]) for name in sums])
        whole = run.accelerator.reduce(stacked, reduction="sum")
        figures = dict(zip(sums, (whole[:, 0] / whole[:, 1]).tolist(), strict=True))
        if run.best is None or figures["mse"] < run.best:
            run.best = figures["mse"]
            self._save_policy(run, "best", figures)
        return figures

    def provenance(self) -> Mapping[str, Any]:
        base = self.model.backbone.fingerprint
        initial = {"initial": self.initial.fingerprint} if self.initial else {}
        return {"objective": OBJECTIVE, **({"base": base} if base else {}), **initial}

    def most_clipped(self) -> tuple[str, float]:
        """The dimension of the arm of which the scales clip most actions, and their share."""
        rows = spread(self.train_rows, CLIPPED_SAMPLES)
        actions_NHA, mask_NH = self.data.chunks(rows, self.contract.chunk_size)
        coded_NHA = Normalizer(self.contract, self.config.policy.actions, self.stats).encode_actions(
            actions_NHA, self.data.states_NS[rows]
        )
        share_A = (np.abs(coded_NHA[mask_NH]) >= 1.0).mean(axis=0)
        shares = {self.contract.action.names[i]: float(share_A[i]) for i in self.contract.action.arm_indices}
        return max(shares.items(), key=lambda item: item[1], default=("", 0.0))

    def compare_gradients(self, run: Trainer) -> Mapping[str, float]:
        """What :meth:`LatentActionVLA.compare_gradients` says of the first held-out samples."""
        rows = self.validation_rows if len(self.validation_rows) else self.train_rows
        rows = rows[: min(run.micro_batch, SHARE_SAMPLES)]
        with torch.enable_grad(), run.accelerator.autocast():
            return self.model.compare_gradients(self.batch(rows, self.read(rows), run.accelerator.device))

    def save(self, run: Trainer) -> None:
        self._save_policy(run, "last", {})
        if len(self.validation_rows) == 0:
            self._save_policy(run, "best", {})

    def finish(self, run: Trainer, *, interrupted: bool) -> Path:
        del interrupted  # the policy is whole after every step
        return run.config.output / "best"

    def arrays(self) -> Iterator[NDArray[Any]]:
        data = self.data
        yield from (data.states_NS, data.actions_NA, self.train_rows, data.weight_N)
        yield from (data.labels[key] for key in sorted(data.labels))
        if data.phrasings:
            texts = {episode: [data.instructions[i] for i in several] for episode, several in data.phrasings.items()}
            yield np.frombuffer(json.dumps(texts).encode(), np.uint8)

    def describe(self, row: int) -> str:
        return self.data.describe(row)

    def _save_policy(self, run: Trainer, name: str, figures: Mapping[str, float]) -> None:
        tensors = gather(run.weights, keep=run.is_main)
        if not run.is_main:
            return
        config = self.config
        save_checkpoint(
            config.output / name,
            config=config.policy,
            contract=self.contract,
            stats=self.stats,
            tokenizer=self.tokenizer,
            tensors=tensors,
            training={
                "objective": OBJECTIVE,
                "labels": {name: dict(sets) for name, sets in self.data.label_sets.items()},
                **({"initial": self.initial.fingerprint} if self.initial else {}),
                "step": run.step,
                "samples": run.step * config.batch_size,
                "seed": config.seed,
                "datasets": [source for source, _ in self.data.sources],
                "episodes": len(np.unique(self.data.episode_N[self.train_rows])),
                "minutes": round(run.seconds / 60, 1),
                "validation": dict(figures),
            },
            base=self.model.backbone.fingerprint,
            half=config.half_checkpoints,
        )


def require_unchanged(config: TrainConfig, base: str | None, sources: Sequence[Source]) -> None:
    """Raise CheckpointError if the run in ``config.output`` was begun on another base model, or on labels of other
    latent action models. A resume would refuse them too, once frames are decoded and weights loaded."""
    saved, last = config.output / "resume", config.output / "last" / CONFIG
    if not config.resume or not saved.exists():
        return
    began, backbone = load_progress(saved).identity.get("base", base), config.policy.backbone
    if began != base:
        raise CheckpointError(
            f"{saved} was begun on a base model with the fingerprint {began}; that in {backbone.path!r} (revision "
            f"{backbone.revision}) has {base}: give back the one it was begun on, or choose another output"
        )
    written = load_yaml(last.read_text(encoding="utf-8")) if last.exists() else {}
    sets = written.get("training", {}).get("labels", {})
    taught, teach = teachers(*sets.values()), teachers(*(source.label_sets for source in sources))
    if taught and taught.keys() != teach.keys():
        raise CheckpointError(
            f"{saved} was begun on labels of {named(taught)}; the labels now are of {named(teach)}: give back those, "
            "or choose another output"
        )


def adamw(parameters: Mapping[str, nn.Parameter], optim: OptimConfig) -> torch.optim.Optimizer:
    """AdamW; weight decay on the matrices of linear maps and convolutions alone."""
    decayed = [p for name, p in parameters.items() if p.ndim > 1 and not name.endswith(EMBEDDINGS)]
    others = [p for name, p in parameters.items() if p.ndim <= 1 or name.endswith(EMBEDDINGS)]
    beta1, beta2 = optim.betas
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=optim.learning_rate,
        betas=(beta1, beta2),
        fused=True,
    )


def training_stats(
    config: TrainConfig, contract: Contract, data: LoadedData, indices: NDArray[np.int64]
) -> dict[str, Any]:
    """Normalisation statistics of the training samples of all datasets together.

    One set of them for the whole mixture, each sample counted once, whatever its weight: datasets that share a
    contract share a scale.
    """
    limit = max(10_000, STATS_VALUES // (contract.chunk_size * contract.action_dim))
    indices = spread(indices, limit)
    actions_NHA, mask_NH = data.chunks(indices, contract.chunk_size)
    return compute_stats(
        contract, config.policy.actions, states_NS=data.states_NS[indices], actions_NHA=actions_NHA, mask_NH=mask_NH
    )


def _tokenizer(config: TrainConfig, contract: Contract, data: LoadedData) -> PreTrainedTokenizerBase:
    backbone = config.policy.backbone
    if backbone.kind == "tiny":
        return train_tokenizer(data.instructions, backbone.tiny.vocab_size, contract.chunk_size)
    return load_pretrained_tokenizer(backbone.path, backbone.revision)
