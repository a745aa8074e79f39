"""`lavla latent train --config YAML [--steps N …]`: train the image latent action model (paper, App. A.1).

Read from the top: what a run does, one step, validation, what is saved, the two stages, the command. On one
process or several (`accelerate launch`). Everything random in step k is a function of (seed, k), so a run
that was stopped and resumed has the losses of one that was not.
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lavla_ros.config import to_plain
from lavla_ros.contract import Contract, load_contract
from lavla_ros.policy.checkpoint import CheckpointError, read_tensors, trained_parameters
from lavla_ros.yaml_text import dump_yaml
from training.command import run_command
from training.data import SampleStream, split_by_episode
from training.latent_actions.checkpoint import load_latent_model, save_latent_model
from training.latent_actions.features import TextEncoder, TextStates, load_features
from training.latent_actions.health import CodebookHealth, HealthTracker
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
from training.loop import TrainingError, build_accelerator, micro_batch
from training.machine import flushed_denormals
from training.reporting import Reporter, TerminalReporter
from training.state import Progress, differences, gather_state, load_progress, load_state, recover, save_state

_PROG = "lavla latent train"
_SHOWN = ("loss", "reconstruction", "action", "perplexity", "dead_codes")
_EVALUATED = 4096
"""Most transitions of each kind (held out, trained on) that are evaluated, evenly spread."""
_MAY_DIFFER = (
    "output",
    "steps",
    "log_every",
    "validate_every",
    "save_every",
    "max_minutes",
    "resume",
    "threads",
    "data",
)
"""Settings that may change between the parts of one run."""


class ImageLamTrainer:
    """One stage of one run."""

    def __init__(
        self,
        config: ImageLamTrainConfig,
        contract: Contract,
        transitions: Transitions,
        reporter: Reporter,
        initial: ImageLatentModel | None = None,
    ) -> None:
        """``config.model.features.fingerprint`` must be that of the transitions' features.

        Raises ConfigError, DataError or StatsError before anything is written.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.config, self.contract, self.transitions, self.reporter = config, contract, transitions, reporter
        self.accelerator = build_accelerator(config)
        self.micro_batch = micro_batch(self.accelerator, config)

        self.train_rows, self.validation_rows = split_by_episode(
            transitions.episode_M, config.data.validation_fraction, config.seed
        )
        self.stream = SampleStream(self.train_rows, config.seed)
        self.text = TextEncoder(config.model.text)(transitions.instructions) if config.model.stage == 1 else None
        self.supervised_M = np.zeros(len(transitions), np.bool_)
        self.actions_MA = np.zeros_like(transitions.actions_MA)
        if config.action_weight > 0:
            known = supervised_rows(self.train_rows, config.action_fraction, config.seed)
            self.supervised_M[known] = True
            self.actions_MA = normalised_actions(transitions, known, contract, config.model.actions)

        set_seed(config.seed)
        self.model = ImageLatentModel(config.model, contract, {})
        if initial is not None:
            self.model.start_from(initial)
        head = None
        if config.action_weight > 0:
            head = ActionHead(config.model, config.action_head_width, contract.action_dim)
        self.bare = ImageObjective(self.model, head, config.action_weight)
        optimizer = torch.optim.AdamW(
            trained_parameters(self.bare).values(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.objective, self.optimizer = self.accelerator.prepare(self.bare, optimizer)
        self.parameters = trained_parameters(self.bare)
        self.trackers = {kind: HealthTracker(size) for kind, size in self._codebooks.items()}
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        """Training loss of every step since the start or the resume, of this process."""
        self.warned = False
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="features")
        self._ahead: tuple[int, Future[tuple[Tensor, Tensor]]] | None = None

    def run(self) -> Path:
        """Train to the end or to ``max_minutes``, report, save; returns the model's directory."""
        config, target = self.config, self.config.output / "model"
        if target.exists():
            raise TrainingError(f"{target} exists already; choose another output, or remove it")
        self._resume()
        writer = None
        if self._is_main:
            (config.output / "config.yaml").write_text(dump_yaml(to_plain(config)), encoding="utf-8")
            writer = SummaryWriter(str(config.output / "tensorboard"), purge_step=self.step)
        deadline = math.inf if config.max_minutes is None else 60 * config.max_minutes - self.seconds
        started, before = time.monotonic(), self.seconds
        stop = self.step >= config.steps
        while not stop:
            figures = self._train_step(late=time.monotonic() - started > deadline)
            late = figures.pop("late") > 0
            self.step += 1
            self.seconds = before + time.monotonic() - started
            stop = late or self.step == config.steps
            if stop or self.step % config.log_every == 0:
                self._log(writer, figures)
            if not stop and self.step % config.validate_every == 0:
                self._write(writer, "validation", self.evaluate(self.held_out)[0])
            if stop or self.step % config.save_every == 0:
                self._save_state()
        report = self._final_report(writer)
        if writer is not None:
            writer.close()
            save_latent_model(target, self.model, report)
        self.accelerator.wait_for_everyone()
        return target

    def _train_step(self, *, late: bool) -> dict[str, float]:
        """One optimizer step; figures are means over the whole batch. Any process that is late stops all."""
        config, accelerator = self.config, self.accelerator
        self.objective.train()
        self.bare.bypass = self.step < config.warmup_steps
        figures: dict[str, float] = {}
        sums: dict[str, Tensor] = {"late": torch.tensor(float(late), device=accelerator.device)}
        for part in range(config.accumulation):
            with accelerator.accumulate(self.objective):
                loss: ImageLamLoss = self.objective(self._batch(part))
                accelerator.backward(loss.total)
                for name, value in {"loss": loss.total.detach(), **loss.parts}.items():
                    sums[name] = sums.get(name, torch.zeros_like(value)) + value / config.accumulation
                for kind, codes in loss.codes.items():
                    self.trackers[kind].add(codes)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.objective.parameters(), config.gradient_clip)
                    means = accelerator.reduce(torch.stack(list(sums.values())), reduction="mean")
                    figures = dict(zip(sums, means.tolist(), strict=True))
                    figures["gradient_norm"] = float(norm)
                    self._require_finite(figures)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(figures["loss"])
        return figures

    def _rows(self, micro_step: int) -> NDArray[np.int64]:
        """This process's transitions of the ``micro_step``-th forward pass since the run began."""
        slot = micro_step * self.accelerator.num_processes + self.accelerator.process_index
        return self.stream(slot * self.micro_batch, self.micro_batch)

    def _batch(self, part: int) -> ImageBatch:
        """This process's micro-batch ``part`` of the present step; the next one is read meanwhile."""
        micro_step = self.step * self.config.accumulation + part
        rows = self._rows(micro_step)
        ahead, self._ahead = self._ahead, None
        pairs = ahead[1].result() if ahead and ahead[0] == micro_step else self.transitions.pairs(rows)
        coming = self._rows(micro_step + 1)
        self._ahead = (micro_step + 1, self._reader.submit(self.transitions.pairs, coming))
        rng = np.random.default_rng((self.config.seed, 13, micro_step, self.accelerator.process_index))
        torch.manual_seed(int(rng.integers(2**62)))  # dropout, and which latents codes are put on
        return self._to_device(rows, pairs)

    def _to_device(self, rows: NDArray[np.int64], pairs: tuple[Tensor, Tensor]) -> ImageBatch:
        device = self.accelerator.device
        text = None
        if self.text is not None:
            of_rows = torch.from_numpy(self.transitions.instruction_M[rows])
            text = TextStates(self.text.states_BLE[of_rows].to(device), self.text.mask_BL[of_rows].to(device))
        now_BNF, future_BNF = (half.to(device, non_blocking=True).float() for half in pairs)
        return ImageBatch(
            now_BNF=now_BNF,
            future_BNF=future_BNF,
            text=text,
            actions_BA=torch.from_numpy(self.actions_MA[rows]).to(device),
            supervised_B=torch.from_numpy(self.supervised_M[rows]).to(device),
        )

    def _require_finite(self, figures: Mapping[str, float]) -> None:
        """All processes alike, before the step changes a weight."""
        if math.isfinite(figures["loss"]) and math.isfinite(figures["gradient_norm"]):
            return
        raise TrainingError(
            f"step {self.step}: the loss is {figures['loss']}, the gradient norm {figures['gradient_norm']}. The last "
            f"good state is in {self.config.output / 'resume'}. Lower learning_rate ({self.config.learning_rate}), or "
            "use precision: float32"
        )

    # ------------------------------------------------------------------ figures

    @property
    def held_out(self) -> NDArray[np.int64]:
        """Rows that are validated on: those held out, or all where none are."""
        return self.validation_rows if len(self.validation_rows) else self.train_rows

    @torch.no_grad()
    def evaluate(self, rows: NDArray[np.int64]) -> tuple[dict[str, float], dict[str, CodebookHealth]]:
        """Mean losses and codebook health over up to 4096 of the rows, evenly spread; every process does it alone.

        ``unchanged`` is the error of predicting that nothing changes, to judge ``reconstruction`` by; ``action``
        counts every sample, whether or not its action was known.
        """
        if len(rows) > _EVALUATED:
            rows = rows[np.linspace(0, len(rows) - 1, _EVALUATED).round().astype(np.int64)]
        self.bare.eval()
        sums: dict[str, float] = {}
        trackers = {kind: HealthTracker(size) for kind, size in self._codebooks.items()}
        for first in range(0, len(rows), self.micro_batch):
            part = rows[first : first + self.micro_batch]
            batch = self._to_device(part, self.transitions.pairs(part))
            batch = replace(batch, supervised_B=torch.ones_like(batch.supervised_B))
            loss: ImageLamLoss = self.bare(batch)
            unchanged = (batch.now_BNF - batch.future_BNF).square().mean()
            for name, value in {"loss": loss.total, **loss.parts, "unchanged": unchanged}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(part) / len(rows)
            for kind, codes in loss.codes.items():
                trackers[kind].add(codes)
        return sums, {kind: tracker.take() for kind, tracker in trackers.items()}

    def _final_report(self, writer: SummaryWriter | None) -> dict[str, Any]:
        """What goes into training.json, and its summary for people."""
        config = self.config
        figures, _ = self.evaluate(self.held_out)
        _, healths = self.evaluate(self.train_rows)
        name = "validation" if len(self.validation_rows) else "training"
        self._write(writer, name, figures)
        warnings: list[str] = []
        for kind, health in healths.items():
            self._write(writer, f"final_codebook_{kind}", health.figures())
            self._message(
                f"{kind} codebook on training data: perplexity {health.perplexity:.1f} of {health.size}, "
                f"{health.dead} dead"
            )
            if writer is not None:
                picture = "codebook_usage.png" if kind == self.model.target else f"codebook_usage_{kind}.png"
                health.plot_usage(config.output / picture, title=f"Image codes ({kind}) on the training data")
            if kind == self.model.target:
                warnings += health.warnings(config.min_perplexity * health.size)
        shown = "; ".join(f"{key} {value:.4f}" for key, value in figures.items())
        self._message(f"{name}: {shown}")
        for warning in warnings:
            self._message(f"warning: {warning}")
        return {
            "stage": config.model.stage,
            "steps": self.step,
            "minutes": round(self.seconds / 60, 1),
            "seed": config.seed,
            "datasets": [str(path) for path in config.data.datasets],
            "episodes": len(np.unique(self.transitions.episode_M)),
            "transitions": len(self.transitions),
            "supervised": int(self.supervised_M.sum()),
            "action_weight": config.action_weight,
            "evaluated_on": name,
            "evaluation": figures,
            "codebooks": {
                kind: {**health.figures(), "counts": health.counts_K.tolist()} for kind, health in healths.items()
            },
            "warnings": warnings,
        }

    @property
    def _codebooks(self) -> dict[str, int]:
        """Kind → number of codes."""
        config = self.config.model
        if config.stage == 1:
            return {self.model.target: config.codebook_size}
        return {self.model.target: config.codebook_size, ENVIRONMENT: config.environment_codebook_size}

    def _log(self, writer: SummaryWriter | None, figures: Mapping[str, float]) -> None:
        self._write(writer, "train", figures)
        healths = {kind: tracker.take() for kind, tracker in self.trackers.items()}
        for kind, health in healths.items():
            self._write(writer, f"codebook_{kind}", health.figures())
        health = healths[self.model.target]
        if self._is_main:
            self.reporter.step(self.step, {**figures, **health.figures()})
        # a window of few tokens can't show every code
        warnings = health.warnings(self.config.min_perplexity * health.size, allow_dead=True)
        if warnings and not self.warned:
            self._message(f"warning: step {self.step}: {warnings[0]}")
        self.warned = bool(warnings)

    def _write(self, writer: SummaryWriter | None, section: str, figures: Mapping[str, float]) -> None:
        if writer is not None:
            for name, value in figures.items():
                writer.add_scalar(f"{section}/{name}", value, self.step)

    def _message(self, text: str) -> None:
        if self._is_main:
            self.reporter.message(text)

    @property
    def _is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    # ------------------------------------------------------------------ stop and go on

    def _save_state(self) -> None:
        """Everything that the rest of the run depends on, the codebooks' counters included."""
        tensors = gather_state(self.parameters, self.optimizer, None, keep=self._is_main)
        if self._is_main:
            tensors |= {f"rest/{name}": t.cpu().contiguous() for name, t in self._untrained().items()}
            progress = Progress(step=self.step, best=None, identity=self.identity, seconds=self.seconds)
            save_state(self.config.output / "resume", progress, tensors)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        output = self.config.output
        if self._is_main:
            output.mkdir(parents=True, exist_ok=True)
            recover(output, "resume")
        self.accelerator.wait_for_everyone()
        saved = output / "resume"
        if not saved.exists():
            return
        if not self.config.resume:
            raise TrainingError(f"{output} holds a run already; choose another output or set resume: true")
        progress = load_progress(saved)
        if progress.identity != self.identity:
            found = "; ".join(differences(progress.identity, self.identity)[:5])
            raise CheckpointError(
                f"{saved} belongs to another configuration or other data ({found}); choose another output, or delete it"
            )
        load_state(saved, self.parameters, self.optimizer, None)
        tensors = read_tensors(saved / "state.safetensors")
        for name, tensor in self._untrained().items():
            if f"rest/{name}" not in tensors or tensors[f"rest/{name}"].shape != tensor.shape:
                raise CheckpointError(f"{saved}: {name} is missing or misshapen; delete {saved} to start anew")
            tensor.copy_(tensors[f"rest/{name}"])
        self.step, self.seconds = progress.step, progress.seconds
        self._message(f"resumed at step {self.step} of {self.config.steps}")

    def _untrained(self) -> dict[str, Tensor]:
        return {name: t for name, t in self.bare.state_dict().items() if name not in self.parameters}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Changes with anything that would change the losses to come."""
        data = hashlib.sha256()
        t = self.transitions
        for array in (t.part_M, t.now_M, t.future_M, t.actions_MA, t.states_MS, t.instruction_M, self.train_rows):
            data.update(np.ascontiguousarray(array).data)
        settings = {key: value for key, value in to_plain(self.config).items() if key not in _MAY_DIFFER}
        return {"settings": settings, "contract": self.contract.full_hash, "data": data.hexdigest()[:16]}


@flushed_denormals()
def train_image_lam(config: ImageLamTrainConfig) -> Path:
    """Features, stage 1 where needed, then the configured stage; returns the model's directory.

    Raises a UserError, if it can before anything is computed.
    """
    contract = load_contract(config.data.contract)
    config.model.cameras_of(contract)
    initial = None if config.initial is None else load_latent_model(config.initial, ImageLatentModel)
    if (config.output / "model").exists():
        raise TrainingError(f"{config.output / 'model'} exists already; choose another output, or remove it")
    extractor = load_features(config.model.features).to("cuda" if torch.cuda.is_available() else "cpu")
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
        return ImageLamTrainer(config, contract, transitions, reporter, initial).run()


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
            ImageLamTrainer(first, contract, transitions, reporter).run()
    return load_latent_model(target, ImageLatentModel)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0 on success, 1 with a message on standard error otherwise."""
    return run_command(
        ImageLamTrainConfig,
        train_image_lam,
        prog="lavla latent train",
        description=__doc__,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
