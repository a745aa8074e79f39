"""What training either latent action model has in common: codebooks whose health is watched, one model at the end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavla_ros.contract import Contract
from lavla_ros.policy.folder import trained_parameters
from training.latent_actions.action_config import ActionLamTrainConfig
from training.latent_actions.checkpoint import LatentModel, save_latent_model
from training.latent_actions.codebook_health import CodebookHealth, HealthTracker
from training.latent_actions.image_config import ImageLamTrainConfig
from training.loop import Task, Trainer, TrainingError
from training.samples import DataError, split_episodes


class CodebookTask(Task):
    """A latent action model; its learning rate is constant, so a run may be resumed with more or fewer steps."""

    results = ("model",)
    may_differ = frozenset({"steps"})
    config: ActionLamTrainConfig | ImageLamTrainConfig
    model: LatentModel
    module: Any
    """What is trained: the model, and what else its objective needs."""

    def __init__(
        self,
        config: ActionLamTrainConfig | ImageLamTrainConfig,
        contract: Contract,
        episode_N: NDArray[np.int64],
        task_N: NDArray[np.int64] | None,
    ) -> None:
        """``task_N``: number of each sample's instruction. Raises DataError if there are too few episodes."""
        self.config, self.contract, self.episode_N = config, contract, episode_N
        self.train_rows, self.validation_rows = split_episodes(
            episode_N,
            validation=config.data.validation_fraction,
            seed=config.seed,
            fraction=config.data.fraction,
            task_N=task_N,
        )
        if config.data.validation_fraction > 0 and not len(self.validation_rows):
            raise DataError(
                "the data hold a single episode, so none can be held out; add episodes or set "
                "data.validation_fraction: 0"
            )
        self.evaluated_on = "validation" if len(self.validation_rows) else "training"
        self.trackers: dict[str, HealthTracker] = {}
        self._figures: Mapping[str, float] | None = None
        self._warned = False

    @property
    @abstractmethod
    def codebooks(self) -> Mapping[str, int]:
        """Kind → number of codes; the first is the one that is trained."""

    @abstractmethod
    def codes(self, loss: Any) -> Mapping[str, Tensor]:
        """Kind → the codes of a forward pass."""

    @abstractmethod
    def measure(self, rows: NDArray[np.int64]) -> tuple[Mapping[str, float], Mapping[str, CodebookHealth]]:
        """Figures of the model on these samples, in evaluation mode, and how it uses its codebooks for them."""

    @abstractmethod
    def record(self, healths: Mapping[str, CodebookHealth]) -> Mapping[str, Any]:
        """What else training.json says."""

    @property
    def held_out(self) -> NDArray[np.int64]:
        """Samples to validate on: those held out, or all if none are."""
        return self.validation_rows if len(self.validation_rows) else self.train_rows

    def start_step(self, step: int) -> float:
        return self.config.learning_rate

    def draws(self, step: int, part: int, process: int) -> tuple[int, ...]:
        """Alike in all processes: each draws for the whole batch, and takes its part."""
        del process
        return step * self.config.accumulation + part, 0

    def note(self, loss: Any) -> None:
        for kind, codes in self.codes(loss).items():
            self.trackers.setdefault(kind, HealthTracker(self.codebooks[kind])).add(codes)

    def window(self, run: Trainer) -> Mapping[str, Mapping[str, float]]:
        healths = {}
        for kind, tracker in self.trackers.items():
            counts_K = torch.from_numpy(tracker.take().counts_K).to(run.accelerator.device)
            healths[kind] = CodebookHealth(run.accelerator.reduce(counts_K, reduction="sum").cpu().numpy())
        health = next(iter(healths.values()))
        # a window of few tokens can't show every code, and the first ones fit codes to a random encoder
        warnings = health.warnings(self.config.min_perplexity * health.size, allow_dead=True)
        if warnings and not self._warned:
            run.reporter.message(f"warning: step {run.step}: {warnings[0]}")
        self._warned = bool(warnings)
        return {_name("codebook", kind): health.figures() for kind, health in healths.items()}

    def evaluate(self, run: Trainer) -> Mapping[str, float]:
        self._figures, _ = self.measure(self.held_out)
        return self._figures

    def rest(self) -> Mapping[str, Tensor]:
        trained = trained_parameters(self.module)
        return {name: tensor for name, tensor in self.module.state_dict().items() if name not in trained}

    def finish(self, run: Trainer, *, interrupted: bool) -> Path:
        """The model's folder; it appears only when it is complete."""
        config, output = self.config, self.config.output
        if interrupted:
            raise TrainingError(
                f"stopped at step {run.step} of {config.steps}, with everything saved; the same command goes on there"
            )
        figures = self._figures or self.measure(self.held_out)[0]
        _, healths = self.measure(self.train_rows)
        trained = next(iter(healths.values()))
        warnings = trained.warnings(config.min_perplexity * trained.size)
        if run.is_main:
            for number, (kind, health) in enumerate(healths.items()):
                picture = output / f"{_name('codebook_usage', kind if number else '')}.png"
                codes = f"{config.kind.title()} codes ({kind})" if kind else f"{config.kind.title()} codes"
                health.plot_usage(picture, title=f"{codes} on the training data")
            record = {
                "steps": run.step,
                "minutes": round(run.seconds / 60, 1),
                "seed": config.seed,
                "fraction": config.data.fraction,
                "datasets": [str(path) for path in config.data.datasets],
                "episodes": len(np.unique(self.episode_N)),
                "evaluated_on": self.evaluated_on,
                "evaluation": dict(figures),
                "warnings": list(warnings),
                **self.record(healths),
            }
            save_latent_model(output / "model", self.model, record)
        run.accelerator.wait_for_everyone()
        for kind, health in healths.items():
            run.log.add(run.step, _name("final_codebook", kind), health.figures())
            run.reporter.message(
                f"{kind} codebook on the training data: perplexity {health.perplexity:.1f} of {health.size}, "
                f"{health.dead} dead".lstrip()
            )
            if health is not trained and health.perplexity < config.min_perplexity * health.size:
                run.reporter.message(
                    f"warning: {kind} tokens have fallen onto few of their codes, and their codebook is frozen; "
                    "keep_stage_one: true lets them begin with the encoder that their codes are of"
                )
        run.reporter.message(f"{self.evaluated_on}: " + "; ".join(f"{k} {v:.4g}" for k, v in figures.items()))
        for warning in warnings:
            run.reporter.message(f"warning: {warning}")
        return output / "model"

    def describe(self, row: int) -> str:
        step = row - int(np.flatnonzero(self.episode_N == self.episode_N[row])[0])
        return f"step {step} of episode {self.episode_N[row]} of {', '.join(map(str, self.config.data.datasets))}"


def refuse_finished(output: Path) -> None:
    """Raise TrainingError if ``output`` holds a finished model."""
    if (output / "model").exists():
        raise TrainingError(f"{output / 'model'} exists already; choose another output, or remove it")


def to_record(health: CodebookHealth) -> dict[str, Any]:
    """A codebook's health, ready for JSON."""
    return {**health.figures(), "counts": health.counts_K.tolist()}


def _name(what: str, kind: str) -> str:
    return f"{what}_{kind}" if kind else what
