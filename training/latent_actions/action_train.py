"""`lavla latent train --config YAML [--steps N …]`: train the action latent action model (paper, App. A.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lavla_ros.contract import Contract, load_contract
from training.latent_actions.action_config import ActionLamTrainConfig
from training.latent_actions.action_data import ActionChunks, chunk_stats, constant_dimensions, load_chunks
from training.latent_actions.action_model import ActionLamLoss, ActionLatentModel
from training.latent_actions.codebook_health import CodebookHealth
from training.latent_actions.codebook_task import CodebookTask, refuse_finished, to_record
from training.logs import require_trackers
from training.loop import Trainer
from training.reporting import TerminalReporter
from training.system_resources import flushed_denormals

_SHOWN = ("loss", "reconstruction", "perplexity", "dead_codes")
_EVALUATION_BATCH = 1024


class ActionTask(CodebookTask):
    """The action model on chunks in memory."""

    config: ActionLamTrainConfig
    model: ActionLatentModel

    def __init__(self, config: ActionLamTrainConfig, contract: Contract, chunks: ActionChunks) -> None:
        """Raises DataError, StatsError or ConfigError before anything is written."""
        super().__init__(config, contract, chunks.episode_N, chunks.task_N)
        self.chunks = chunks
        self.stats = chunk_stats(contract, config.model.actions, chunks.take(self.train_rows))

    @property
    def codebooks(self) -> Mapping[str, int]:
        return {"": self.config.model.codebook_size}

    def build(self, run: Trainer) -> nn.Module:
        refuse_finished(self.config.output)
        for name in constant_dimensions(self.stats):
            text = f"action {name!r} has one value throughout the training data; it is reproduced"
            run.reporter.message(f"warning: {text}")
        self.module = self.model = ActionLatentModel(self.config.model, self.contract, self.stats)
        self.actions_NHA = self.model.normalise(self.chunks.actions_NHA, self.chunks.states_NS)
        return self.model

    def optimizer(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters.values(), lr=self.config.learning_rate)

    def batch(self, rows: NDArray[np.int64], read: None, device: torch.device) -> Tensor:
        return self.actions_NHA[torch.from_numpy(rows)].to(device)

    def codes(self, loss: ActionLamLoss) -> Mapping[str, Tensor]:
        return {"": loss.codes_BH}

    def measure(self, rows: NDArray[np.int64]) -> tuple[Mapping[str, float], Mapping[str, CodebookHealth]]:
        """Encode and decode these chunks; compare with the recorded actions in the contract's units."""
        self.model.eval()
        chunks, decoded, codes, squared = self.chunks, [], [], 0.0
        for first in range(0, len(rows), _EVALUATION_BATCH):
            part = rows[first : first + _EVALUATION_BATCH]
            coded_BHA = self.batch(part, None, self.model.mask_d.device)
            codes_BH = self.model.tokenize(coded_BHA)
            output_BHA = self.model.detokenize(codes_BH)
            squared += float((output_BHA - coded_BHA).square().sum())
            codes.append(codes_BH.cpu().numpy())
            decoded.append(self.model.normalizer.decode_actions(output_BHA.cpu().numpy(), chunks.states_NS[part]))
        truth_NHA = chunks.actions_NHA[rows].astype(np.float64)
        errors = decoding_errors(self.contract, np.concatenate(decoded) - truth_NHA, truth_NHA)
        health = CodebookHealth.of_codes(np.concatenate(codes), self.config.model.codebook_size)
        return {"mse": squared / truth_NHA.size, **errors, **health.figures()}, {"": health}

    def record(self, healths: Mapping[str, CodebookHealth]) -> Mapping[str, Any]:
        return {"chunks": len(self.chunks), "codebook": to_record(healths[""])}

    def arrays(self) -> Iterator[NDArray[Any]]:
        yield from (self.chunks.states_NS, self.chunks.actions_NHA, self.train_rows)


def decoding_errors(
    contract: Contract, error_NHA: NDArray[np.float64], truth_NHA: NDArray[np.float64]
) -> dict[str, float]:
    """Of chunks that were encoded and decoded: ``error_NHA`` is decoded minus recorded, in the contract's units.

    RMSE and median absolute error of every arm dimension and of all, in their units; gripper accuracy.
    """
    figures: dict[str, float] = {}
    arm = list(contract.action.arm_indices)
    for i in arm:
        dim, error = contract.action.dims[i], error_NHA[..., i]
        figures[f"rmse_{dim.name}_{dim.unit}"] = _rms(error)
        figures[f"median_{dim.name}_{dim.unit}"] = float(np.median(np.abs(error)))
    if arm:
        figures["rmse_arm"] = _rms(error_NHA[..., arm])
        figures["median_arm"] = float(np.median(np.abs(error_NHA[..., arm])))
    for i in contract.action.gripper_indices:
        dim = contract.action.dims[i]
        middle = (dim.low + dim.high) / 2
        truth = truth_NHA[..., i]
        agrees = (truth + error_NHA[..., i] > middle) == (truth > middle)
        figures[f"accuracy_{dim.name}"] = float(agrees.mean())
    return figures


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@flushed_denormals()
def train_action_lam(config: ActionLamTrainConfig) -> Path:
    """Read the data and train; returns the model's directory. Raises a UserError."""
    require_trackers(config)
    contract = load_contract(config.data.contract)
    refuse_finished(config.output)
    with TerminalReporter(config.steps, _SHOWN) as reporter:
        chunks = load_chunks(config.data, contract)
        reporter.message(f"{len(chunks)} chunks of {len(np.unique(chunks.episode_N))} episodes")
        return Trainer(ActionTask(config, contract, chunks), reporter).run()
