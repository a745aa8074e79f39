"""`lavla latent train --config YAML [--steps N …]`: train the action latent action model (paper, App. A.2).

Read from the top: what a run does, one step, what is reported at the end, the command.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from lavla_ros.config import to_plain
from lavla_ros.contract import Contract, load_contract
from lavla_ros.policy.device import resolve_device
from lavla_ros.yaml_text import dump_yaml
from training.command import run_command
from training.data import SampleStream, split_by_episode
from training.latent_actions.action_config import ActionLamTrainConfig
from training.latent_actions.action_data import (
    ActionChunks,
    chunk_stats,
    constant_dimensions,
    load_chunks,
)
from training.latent_actions.action_model import ActionLamLoss, ActionLatentModel
from training.latent_actions.checkpoint import save_latent_model
from training.latent_actions.health import CodebookHealth, HealthTracker
from training.loop import TrainingError
from training.machine import flushed_denormals
from training.reporting import Reporter, TerminalReporter

_PROG = "lavla latent train"
_SHOWN = ("loss", "reconstruction", "perplexity", "dead_codes")
_EVALUATION_BATCH = 1024


class ActionLamTrainer:
    """One run of one configuration on chunks in memory. Deterministic for a seed and a number of threads."""

    def __init__(
        self, config: ActionLamTrainConfig, contract: Contract, chunks: ActionChunks, reporter: Reporter
    ) -> None:
        """Raises DataError, StatsError or ConfigError before anything is written."""
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.config, self.contract, self.chunks, self.reporter = config, contract, chunks, reporter
        self.train_rows, self.validation_rows = split_by_episode(
            chunks.episode_N, config.data.validation_fraction, config.seed
        )
        stats = chunk_stats(contract, config.model.actions, chunks.take(self.train_rows))
        for name in constant_dimensions(stats):
            reporter.message(f"warning: action {name!r} has one value throughout the training data; it is reproduced")
        self.device = resolve_device(config.device)
        torch.manual_seed(config.seed)
        self.model = ActionLatentModel(config.model, contract, stats).to(self.device)
        self.actions_NHA = self.model.normalise(chunks.actions_NHA, chunks.states_NS)
        self.stream = SampleStream(self.train_rows, config.seed)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.tracker = HealthTracker(config.model.codebook_size)
        self.warned = False

    def run(self) -> Path:
        """Train, report, save; returns the model's directory. It appears only when it is complete."""
        config, target = self.config, self.config.output / "model"
        if target.exists():
            raise TrainingError(f"{target} exists already; choose another output, or remove it")
        config.output.mkdir(parents=True, exist_ok=True)
        (config.output / "config.yaml").write_text(dump_yaml(to_plain(config)), encoding="utf-8")
        writer = SummaryWriter(str(config.output / "tensorboard"))
        try:
            for step in range(config.steps):
                loss = self._train_step(step)
                self.tracker.add(loss.codes_BH)
                done = step + 1
                if done % config.log_every == 0 or done == config.steps:
                    self._log(writer, done, loss)
                if done % config.validate_every == 0 and done < config.steps:
                    self._write(writer, "validation", done, self.evaluate(self._held_out()).figures())
            report = self._final_report(writer)
        finally:
            writer.close()
        save_latent_model(target, self.model, report)
        return target

    def _train_step(self, step: int) -> ActionLamLoss:
        """One step on one batch; what is random in it depends on (seed, step) alone."""
        rows = self.stream(step * self.config.batch_size, self.config.batch_size)
        torch.manual_seed(int(np.random.default_rng((self.config.seed, 13, step)).integers(2**62)))
        self.model.train()
        loss = self.model.loss(self.actions_NHA[torch.from_numpy(rows).to(self.device)])
        if not bool(torch.isfinite(loss.total)):
            raise TrainingError(
                f"the loss of step {step} is {float(loss.total.detach())}; nothing was saved. "
                f"Lower learning_rate ({self.config.learning_rate}) or look for bad data"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    @torch.no_grad()
    def evaluate(self, rows: NDArray[np.int64]) -> Evaluation:
        """Encode and decode these chunks; compare with the recorded actions in the contract's units."""
        self.model.eval()
        chunks, decoded, codes, squared = self.chunks, [], [], 0.0
        for first in range(0, len(rows), _EVALUATION_BATCH):
            part = rows[first : first + _EVALUATION_BATCH]
            coded_BHA = self.actions_NHA[torch.from_numpy(part).to(self.device)]
            codes_BH = self.model.tokenize(coded_BHA)
            output_BHA = self.model.detokenize(codes_BH)
            squared += float((output_BHA - coded_BHA).square().sum())
            codes.append(codes_BH.cpu().numpy())
            decoded.append(self.model.normalizer.decode_actions(output_BHA.cpu().numpy(), chunks.states_NS[part]))
        truth_NHA = chunks.actions_NHA[rows].astype(np.float64)
        return Evaluation(
            contract=self.contract,
            error_NHA=np.concatenate(decoded) - truth_NHA,
            truth_NHA=truth_NHA,
            mse=squared / truth_NHA.size,
            health=CodebookHealth.of_codes(np.concatenate(codes), self.config.model.codebook_size),
        )

    def _held_out(self) -> NDArray[np.int64]:
        return self.validation_rows if len(self.validation_rows) else self.train_rows

    def _final_report(self, writer: SummaryWriter) -> dict[str, Any]:
        config = self.config
        held_out, trained = self.evaluate(self._held_out()), self.evaluate(self.train_rows)
        name = "validation" if len(self.validation_rows) else "training"
        self._write(writer, name, config.steps, held_out.figures())
        self._write(writer, "final_codebook", config.steps, trained.health.figures())
        trained.health.plot_usage(config.output / "codebook_usage.png", title="Action codes on the training data")
        self.reporter.message(f"{name}: {held_out.summary()}")
        self.reporter.message(
            f"codebook on the training data: perplexity {trained.health.perplexity:.1f} of {trained.health.size}, "
            f"{trained.health.dead} dead"
        )
        warnings = trained.health.warnings(config.min_perplexity * trained.health.size)
        for warning in warnings:
            self.reporter.message(f"warning: {warning}")
        return {
            "steps": config.steps,
            "seed": config.seed,
            "datasets": [str(path) for path in config.data.datasets],
            "episodes": len(np.unique(self.chunks.episode_N)),
            "chunks": len(self.chunks),
            "evaluated_on": name,
            "evaluation": held_out.figures(),
            "codebook": {**trained.health.figures(), "counts": trained.health.counts_K.tolist()},
            "warnings": list(warnings),
        }

    def _log(self, writer: SummaryWriter, done: int, loss: ActionLamLoss) -> None:
        health = self.tracker.take()
        losses = {"loss": loss.total.detach(), **loss.parts}
        figures = {name: float(value) for name, value in losses.items()}
        self._write(writer, "train", done, figures)
        self._write(writer, "codebook", done, health.figures())
        self.reporter.step(done, {**figures, **health.figures()})
        # A window of few tokens can't show every code, and the first ones are k-means fitting a random encoder.
        warnings = health.warnings(self.config.min_perplexity * health.size, allow_dead=True)
        if warnings and not self.warned:
            self.reporter.message(f"warning: step {done}: {warnings[0]}")
        self.warned = bool(warnings)

    def _write(self, writer: SummaryWriter, section: str, done: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(f"{section}/{name}", value, done)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well chunks survive encoding and decoding."""

    contract: Contract
    error_NHA: NDArray[np.float64]
    """Decoded minus recorded, in the contract's units."""
    truth_NHA: NDArray[np.float64]
    mse: float
    """Of the normalised actions, mean over everything."""
    health: CodebookHealth

    def figures(self) -> dict[str, float]:
        """RMSE and median absolute error of every arm dimension and of all, in their units; gripper accuracy."""
        figures = {"mse": self.mse}
        arm = list(self.contract.action.arm_indices)
        for i in arm:
            dim, error = self.contract.action.dims[i], self.error_NHA[..., i]
            figures[f"rmse_{dim.name}_{dim.unit}"] = _rms(error)
            figures[f"median_{dim.name}_{dim.unit}"] = float(np.median(np.abs(error)))
        if arm:
            figures["rmse_arm"] = _rms(self.error_NHA[..., arm])
            figures["median_arm"] = float(np.median(np.abs(self.error_NHA[..., arm])))
        for i in self.contract.action.gripper_indices:
            dim = self.contract.action.dims[i]
            middle = (dim.low + dim.high) / 2
            truth = self.truth_NHA[..., i]
            agrees = (truth + self.error_NHA[..., i] > middle) == (truth > middle)
            figures[f"accuracy_{dim.name}"] = float(agrees.mean())
        return figures | self.health.figures()

    def summary(self) -> str:
        """One line for people."""
        figures = self.figures()
        units = sorted({d.unit for d in self.contract.action.dims if d.kind == "arm"})
        parts = [f"normalised mse {self.mse:.5f}"]
        if "rmse_arm" in figures:
            parts.append(f"arm rmse {figures['rmse_arm']:.5f}, median {figures['median_arm']:.5f} ({'/'.join(units)})")
        parts += [f"{k.replace('_', ' ')} {v:.4f}" for k, v in figures.items() if k.startswith("accuracy_")]
        return "; ".join(parts)


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@flushed_denormals()
def train_action_lam(config: ActionLamTrainConfig) -> Path:
    """Read the data and train; returns the model's directory. Raises a UserError."""
    contract = load_contract(config.data.contract)
    with TerminalReporter(config.steps, _SHOWN) as reporter:
        chunks = load_chunks(config.data, contract)
        reporter.message(f"{len(chunks)} chunks of {len(np.unique(chunks.episode_N))} episodes")
        return ActionLamTrainer(config, contract, chunks, reporter).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0 on success, 1 with a message on standard error otherwise."""
    return run_command(
        ActionLamTrainConfig,
        train_action_lam,
        prog="lavla latent train",
        description=__doc__,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
