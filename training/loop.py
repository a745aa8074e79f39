"""The trainer, read from top to bottom: prepare, loop, validate, save.

Everything random in step k is a function of (seed, k): the samples, their augmentation and the
network's own draws. So there is no sampler state to save, and a run that was killed and resumed has
the losses of one that was not. Samples and augmentation do not depend on the number of processes
either: n of them compute what one does, but for the rounding of sums.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lavla_ros.config import to_plain
from lavla_ros.contract import Contract
from lavla_ros.errors import UserError
from lavla_ros.policy.backbone import build_backbone, load_pretrained_tokenizer
from lavla_ros.policy.checkpoint import CheckpointError, prompt_builder, save_checkpoint, trained_parameters
from lavla_ros.policy.model import LatentActionVLA, VlaBatch, VlaLoss
from lavla_ros.policy.normalization import Normalizer, compute_stats
from lavla_ros.policy.prompt import train_tokenizer
from lavla_ros.yaml_text import dump_yaml
from training.augment import augment_images, draw_numbers
from training.config import TrainConfig
from training.data import BatchMaker, LoadedData, SampleStream, split_episodes, to_device
from training.frames import Prefetcher
from training.logs import RunLog
from training.machine import require_disk, require_memory
from training.reporting import Reporter
from training.state import (
    Ema,
    Progress,
    differences,
    forget_whole_parameters,
    gather,
    gather_state,
    load_progress,
    load_state,
    recover,
    save_state,
)

STATS_VALUES = 25_000_000
"""Numbers (samples × H × A) that normalisation statistics are computed of; of more data, as many evenly spread."""
_MAY_DIFFER = (
    "output", "accumulation", "log_every", "validate_every", "save_every", "max_minutes", "resume", "threads",
    "trackers", "wandb_project", "gradient_checkpointing", "half_checkpoints", "data",
)  # fmt: skip
"""Settings that change no loss but by rounding: a run may be resumed with other ones."""


class TrainingError(UserError, RuntimeError):
    """Training cannot start or go on; the message says why and what to do."""


class _Objective(nn.Module):
    """The loss as a module's forward pass, so that accelerate can wrap it for several processes."""

    def __init__(self, model: LatentActionVLA) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: VlaBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss: VlaLoss = self.model.loss(batch)
        return loss.total, loss.parts


class Trainer:
    """One run of one configuration on loaded data; in every process of a launch, one each."""

    def __init__(self, config: TrainConfig, contract: Contract, data: LoadedData, reporter: Reporter) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.config, self.contract, self.data, self.reporter = config, contract, data, reporter
        self.accelerator = build_accelerator(config)
        self.micro_batch = micro_batch(self.accelerator, config)

        # the data: who is trained on, in which order, and on which scale
        self.train_indices, self.validation_indices = split_episodes(
            data, validation=config.data.validation_fraction, fraction=config.data.fraction, seed=config.seed
        )
        self.stream = SampleStream(self.train_indices, config.seed, data.weight_N[self.train_indices])
        self.prefetcher = Prefetcher(data.frames)
        self.stats = training_stats(config, contract, data, self.train_indices)

        # the network; the same in all processes
        set_seed(config.seed)
        self.tokenizer = _tokenizer(config, contract, data)
        self.model = LatentActionVLA(config.policy, contract, build_backbone(config.policy.backbone, self.tokenizer))
        if config.gradient_checkpointing:
            self.model.backbone.vlm.activation_checkpointing_enable()
        self.batches = BatchMaker(
            data,
            Normalizer(contract, config.policy.actions, self.stats),
            prompt_builder(self.model, contract, self.tokenizer),
            required_labels=self.model.strategy.required_labels,
            loss_on_padding=config.loss_on_padding,
        )
        self._require_room()
        optimizer = build_optimizer(trained_parameters(self.model), config)
        self.objective, self.optimizer = self.accelerator.prepare(_Objective(self.model), optimizer)
        self.parameters = trained_parameters(self.model)  # after prepare: FSDP puts others in their place
        self.ema = Ema(self.parameters, config.optim.ema_decay) if config.optim.ema_decay is not None else None

        self.step = 0
        self.best: float | None = None
        self.seconds = 0.0
        self.losses: list[float] = []
        """Training loss of every step since the start or the resume."""
        self._stop = False

    def run(self) -> Path:
        """Train to the end, to ``max_minutes`` or to a SIGTERM; returns the best policy's directory."""
        config, output = self.config, self.config.output
        with self._alone_in_output(), self._stop_on_sigterm():
            self._resume()
            log = RunLog(config, step=self.step, enabled=self._is_main)
            if self._is_main:
                (output / "config.yaml").write_text(dump_yaml(to_plain(config)), encoding="utf-8")
            deadline = math.inf if config.max_minutes is None else time.monotonic() + 60 * config.max_minutes
            started, before = time.monotonic(), self.seconds
            stopped = self.step >= config.steps
            while not stopped:
                figures = self._train_step(stop=self._stop or time.monotonic() > deadline)
                self.step += 1
                self.seconds = before + time.monotonic() - started
                # any process may ask to stop; all do after the same step
                stopped = figures.pop("stop") > 0 or self.step == config.steps
                if stopped or self.step % config.log_every == 0:
                    figures["samples_per_s"] = self.step * config.batch_size / max(self.seconds, 1e-9)
                    self._report(log, "train", figures)
                if stopped or self.step % config.validate_every == 0:
                    self._validate(log)
                if stopped or self.step % config.save_every == 0:
                    self._save()
            log.close()
        return output / "best"

    def _train_step(self, *, stop: bool) -> dict[str, float]:
        """One optimizer step over the whole (global, accumulated) batch; figures are means over it."""
        config, accelerator = self.config, self.accelerator
        rate = config.optim.learning_rate_at(self.step, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.objective.train()
        figures: dict[str, float] = {}
        sums: dict[str, Tensor] = {"stop": torch.tensor(float(stop), device=accelerator.device)}
        for part in range(config.accumulation):
            with accelerator.accumulate(self.objective):
                total, parts = self.objective(self._batch(part))
                accelerator.backward(total)
                for name, value in {"loss": total.detach(), **parts}.items():
                    sums[name] = sums.get(name, torch.zeros_like(value)) + value / config.accumulation
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.objective.parameters(), config.optim.gradient_clip)
                    means = accelerator.reduce(torch.stack([v.float() for v in sums.values()]), reduction="mean")
                    figures = dict(zip(sums, means.tolist(), strict=True))
                    figures["gradient_norm"] = float(norm)
                    self._require_finite(figures)  # before anything is changed by it
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.step)
        self.losses.append(figures["loss"])
        return {**figures, "learning_rate": rate}

    def _indices(self, step: int, part: int) -> tuple[int, NDArray[np.int64]]:
        """Position in the stream and sample indices of this process's micro-batch."""
        slot = part * self.accelerator.num_processes + self.accelerator.process_index
        first = step * self.config.batch_size + slot * self.micro_batch
        return first, self.stream(first, self.micro_batch)

    def _batch(self, part: int) -> VlaBatch:
        """This process's micro-batch ``part`` of the present step; the one after it is read meanwhile."""
        config, accelerator = self.config, self.accelerator
        first, indices = self._indices(self.step, part)
        frames = self.prefetcher.take(indices)
        last = part == config.accumulation - 1
        self.prefetcher.request(self._indices(self.step + last, 0 if last else part + 1)[1])
        batch = to_device(self.batches(indices, frames), accelerator.device)
        positions = range(first, first + len(indices))
        draws = draw_numbers(config.seed, positions, len(self.contract.cameras))
        rng = np.random.default_rng((config.seed, 13, self.step, part, accelerator.process_index))
        torch.manual_seed(int(rng.integers(2**62)))  # the network's own draws
        return replace(batch, images=augment_images(batch.images, config.augment, draws))

    @torch.no_grad()
    def _require_finite(self, figures: Mapping[str, float]) -> None:
        """Raise TrainingError, in all processes alike, unless loss and gradients of this step are finite.

        The weights are as they were after the last step, and so is what is saved.
        """
        if math.isfinite(figures["loss"]) and math.isfinite(figures["gradient_norm"]):
            return
        culprits: list[int] = []
        count = 0
        for part in range(self.config.accumulation):
            for index in self._indices(self.step, part)[1]:
                one = np.array([index])
                batch = to_device(self.batches(one, self.data.frames.take(one)), self.accelerator.device)
                count += 1
                if not math.isfinite(float(self.objective(batch)[0])):
                    culprits.append(int(index))
        culprits = sorted(set(gather_object(culprits)))
        if len(culprits) == count * self.accelerator.num_processes:
            cause = "It is so for every sample of the batch: the weights diverged; lower optim.learning_rate"
        elif culprits:
            shown = "; ".join(self.data.describe(i) for i in culprits[:8])
            cause = f"It is so for samples {culprits[:8]}: {shown}. Look at these data"
        else:
            shown = ", ".join(str(i) for i in sorted(self._indices(self.step, 0)[1].tolist())[:8])
            cause = f"Each sample's own loss is finite (samples {shown}, …): lower optim.learning_rate"
        raise TrainingError(
            f"step {self.step}: the loss is {figures['loss']}, the gradient norm {figures['gradient_norm']}. {cause}. "
            f"The last good state is in {self.config.output / 'resume'}, the last good policy in "
            f"{self.config.output / 'last'}"
        )

    @torch.no_grad()
    def _validate(self, log: RunLog) -> None:
        """Mean losses over the held-out episodes, with the averaged weights; the processes share the work."""
        held_out = self.validation_indices
        if len(held_out) == 0:
            return
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        sums: dict[str, Tensor] = {}
        shares: dict[str, float] = {}
        self.objective.eval()
        with self.ema.applied() if self.ema is not None else nullcontext():
            for first in range(0, len(held_out), self.micro_batch * processes):
                indices = held_out[first + rank * self.micro_batch :][: self.micro_batch]
                counted = len(indices)
                indices = indices if counted else held_out[:1]  # every process takes part in every pass
                batch = to_device(self.batches(indices, self.data.frames.take(indices)), self.accelerator.device)
                total, parts = self.objective(batch)
                for name, value in {"loss": total, **parts}.items():
                    # all are means over samples, but for this one over steps
                    share = float(batch.weight_BH.sum()) if name == "mse" and counted else counted
                    sums[name] = sums.get(name, torch.zeros_like(value)) + value * share
                    shares[name] = shares.get(name, 0.0) + share
            forget_whole_parameters(self.objective)
        stacked = torch.stack([torch.stack([sums[name].float(), sums[name].new_tensor(shares[name])]) for name in sums])
        whole = self.accelerator.reduce(stacked, reduction="sum")
        figures = dict(zip(sums, (whole[:, 0] / whole[:, 1]).tolist(), strict=True))
        self._report(log, "validation", figures)
        if self.best is None or figures["mse"] < self.best:
            self.best = figures["mse"]
            self._save_policy("best", figures)

    def _save(self) -> None:
        self._save_policy("last", {})
        if len(self.validation_indices) == 0:
            self._save_policy("best", {})
        tensors = gather_state(self.parameters, self.optimizer, self.ema, keep=self._is_main)
        if self._is_main:
            progress = Progress(step=self.step, best=self.best, identity=self.identity, seconds=self.seconds)
            save_state(self.config.output / "resume", progress, tensors)
        self.accelerator.wait_for_everyone()

    def _save_policy(self, name: str, figures: Mapping[str, float]) -> None:
        weights: Mapping[str, Tensor] = self.parameters if self.ema is None else self.ema.tensors
        tensors = gather(weights, keep=self._is_main)
        if self._is_main:
            save_checkpoint(
                self.config.output / name,
                config=self.config.policy,
                contract=self.contract,
                stats=self.stats,
                tokenizer=self.tokenizer,
                tensors=tensors,
                training=self._provenance(figures),
                half=self.config.half_checkpoints,
            )

    def _provenance(self, figures: Mapping[str, float]) -> dict[str, Any]:
        return {
            "step": self.step,
            "samples": self.step * self.config.batch_size,
            "seed": self.config.seed,
            "datasets": [name for name, _ in self.data.sources],
            "episodes": len(np.unique(self.data.episode_N[self.train_indices])),
            "minutes": round(self.seconds / 60, 1),
            "validation": dict(figures),
        }

    def _resume(self) -> None:
        """Go on where the last save was, or begin. All processes read the same files."""
        output = self.config.output
        if self._is_main:
            for name in ("resume", "last", "best"):
                recover(output, name)
        self.accelerator.wait_for_everyone()
        saved = output / "resume"
        if saved.exists():
            if not self.config.resume:
                raise TrainingError(f"{output} holds a run already; choose another output or set resume: true")
            progress = load_progress(saved)
            if progress.identity != self.identity:
                found = "; ".join(differences(progress.identity, self.identity)[:5])
                raise CheckpointError(
                    f"{saved} belongs to another configuration or other data ({found}); choose another output, or "
                    "delete it"
                )
            load_state(saved, self.parameters, self.optimizer, self.ema)
            self.step, self.best, self.seconds = progress.step, progress.best, progress.seconds
            self.reporter.message(f"resumed at step {self.step} of {self.config.steps}")
        steps = gather_object([self.step])
        if len(set(steps)) > 1:
            raise TrainingError(f"the processes found states of steps {steps}: {output} must be on a shared disk")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Changes with anything that would change the losses to come."""
        data = hashlib.sha256()
        arrays = (self.data.states_NS, self.data.actions_NA, self.train_indices, self.data.weight_N)
        for array in (*arrays, *(self.data.labels[key] for key in sorted(self.data.labels))):
            data.update(np.ascontiguousarray(array).data)
        settings = {key: value for key, value in to_plain(self.config).items() if key not in _MAY_DIFFER}
        return {"settings": settings, "contract": self.contract.full_hash, "data": data.hexdigest()[:16]}

    @property
    def _is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _report(self, log: RunLog, section: str, figures: Mapping[str, float]) -> None:
        log.add(self.step, section, figures)
        prefix = "" if section == "train" else f"{section}_"
        if self._is_main:
            self.reporter.step(self.step, {f"{prefix}{name}": value for name, value in figures.items()})

    def _require_room(self) -> None:
        """Raise RoomError where optimizer states or checkpoints are sure not to fit."""
        trained = sum(4 * p.numel() for p in trained_parameters(self.model).values())
        averages = self.config.optim.ema_decay is not None
        if self.accelerator.device.type == "cpu":
            advice = "Train a smaller backbone, or fewer parameters"
            require_memory((3 + averages) * trained, "gradients and optimizer states", advice)
        if not (self.config.output / "resume").exists():
            # best, last and resume; and while one is replaced, its successor
            state = (3 + averages) * trained
            advice = "Free some, or set output to a larger disk"
            require_disk(2 * trained + 2 * state, self.config.output, "saving policies and the resume state", advice)

    @contextmanager
    def _alone_in_output(self) -> Iterator[None]:
        """Raise TrainingError where another run, or what is left of a killed one, still writes into ``output``."""
        if not self._is_main:
            yield
            return
        self.config.output.mkdir(parents=True, exist_ok=True)
        with (self.config.output / "lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TrainingError(
                    f"another process is training into {self.config.output}; end it, or choose another output"
                ) from None
            yield

    @contextmanager
    def _stop_on_sigterm(self) -> Iterator[None]:
        """A scheduler's SIGTERM ends the run after the present step, with everything saved."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(*_: object) -> None:
            self._stop = True

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


class Shared(Protocol):
    """What a configuration says about sharing the work of an optimizer step."""

    @property
    def batch_size(self) -> int: ...
    @property
    def accumulation(self) -> int: ...
    @property
    def precision(self) -> str: ...


def build_accelerator(config: Shared) -> Accelerator:
    """On GPUs where there are any, else on the CPU; also with several processes (gloo).

    Raises TrainingError when a launcher started several processes that accelerate does not join.
    """
    accelerator = Accelerator(
        cpu=torch.accelerator.current_accelerator() is None,
        gradient_accumulation_steps=config.accumulation,
        mixed_precision="bf16" if config.precision == "bfloat16" else "no",
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise TrainingError(
            f"{launched} processes were launched, but accelerate sees {accelerator.num_processes}: launch with "
            "`accelerate launch --config_file config/accelerate/…`"
        )
    return accelerator


def micro_batch(accelerator: Accelerator, config: Shared) -> int:
    """Samples of a process in one forward pass. Raises TrainingError where the batch cannot be shared evenly."""
    share = accelerator.num_processes * config.accumulation
    if config.batch_size % share:
        raise TrainingError(
            f"batch_size is {config.batch_size}; expected a multiple of processes × accumulation = {share}"
        )
    return int(config.batch_size // share)


def training_stats(
    config: TrainConfig, contract: Contract, data: LoadedData, indices: NDArray[np.int64]
) -> dict[str, Any]:
    """Normalisation statistics of the training samples of all datasets together.

    One set of them for the whole mixture, each sample counted once, whatever its weight: datasets that share a
    contract share a scale.
    """
    limit = max(10_000, STATS_VALUES // (contract.chunk_size * contract.action_dim))
    if len(indices) > limit:
        indices = indices[np.linspace(0, len(indices) - 1, limit).round().astype(np.int64)]
    actions_NHA, mask_NH = data.chunks(indices, contract.chunk_size)
    return compute_stats(
        contract, config.policy.actions, states_NS=data.states_NS[indices], actions_NHA=actions_NHA, mask_NH=mask_NH
    )


def build_optimizer(parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only."""
    matrices = [p for p in parameters.values() if p.ndim > 1]
    others = [p for p in parameters.values() if p.ndim <= 1]
    beta1, beta2 = config.optim.betas
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.optim.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.optim.learning_rate,
        betas=(beta1, beta2),
        fused=True,
    )


def _tokenizer(config: TrainConfig, contract: Contract, data: LoadedData) -> PreTrainedTokenizerBase:
    backbone = config.policy.backbone
    if backbone.kind == "tiny":
        return train_tokenizer(data.instructions, backbone.tiny.vocab_size, contract.chunk_size)
    return load_pretrained_tokenizer(backbone.path, backbone.revision)
