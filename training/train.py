"""`lavla train --config YAML [--steps N --optim.learning-rate X …]`: from a dataset to a policy."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lavla_ros.contract import Contract, ContractError, load_contract
from lavla_ros.policy.backbone import PRETRAINED_IMAGE_SIZE
from lavla_ros.policy.checkpoint import CheckpointError
from lavla_ros.policy.config import ConfigError
from lavla_ros.policy.normalization import StatsError
from lavla_ros.policy.strategies import BackboneShape, LabelSpec, build_strategy
from training.config import TrainConfig, load_train_config
from training.data import DataError, load_data, open_sources
from training.dataset import DatasetError
from training.frames import FrameError
from training.logs import require_trackers
from training.machine import RoomError, flushed_denormals
from training.trainer import Trainer, TrainingError

USER_ERRORS = (
    ConfigError,
    ContractError,
    DataError,
    DatasetError,
    FrameError,
    StatsError,
    CheckpointError,
    RoomError,
    TrainingError,
    OSError,
)
_SHOWN = ("loss", "mse", "validation_mse", "samples_per_s")


class TerminalReporter:
    """Progress bars with the time left on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        """``quiet``: show nothing, in all processes of a launch but the first."""
        self._console = Console(stderr=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True, compact=True),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._reading = self._progress.add_task("frames", total=None, figures="", visible=False)
        self._task = self._progress.add_task("train", total=total, figures="", visible=False)
        self._total = total
        self._started: tuple[float, int] | None = None
        self._latest: dict[str, float] = {}
        self._told = time.monotonic()

    def __enter__(self) -> TerminalReporter:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def read(self, done: int, total: int) -> None:
        """Show how many frames were decoded."""
        self._progress.update(self._reading, completed=done, total=total, visible=done < total)
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._told > 30 or done == total):
            self._told = now
            self.message(f"decoded {done} of {total} frames")

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Show the newest figures of a training or validation step."""
        self._latest |= figures
        shown = "  ".join(f"{k} {self._latest[k]:.4g}" for k in _SHOWN if k in self._latest)
        self._progress.update(self._task, completed=step, figures=shown, visible=True)
        now = time.monotonic()
        self._started = self._started or (now, step)
        since, first = self._started
        if not self._console.is_terminal:
            rate = (step - first) / max(now - since, 1e-9)
            left = f"{(self._total - step) / rate / 60:.0f} min left" if rate > 0 else ""
            self._console.print(f"step {step}/{self._total}  {shown}  {left}", highlight=False, soft_wrap=True)

    def message(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)


@flushed_denormals()
def train(config: TrainConfig) -> Path:
    """Load the data and train; returns the directory of the best policy.

    What can be known to fail is found out first, the cheap before the costly: trackers, contract and datasets,
    labels, room, then the frames are decoded. Raises one of ``USER_ERRORS`` for anything that the caller can put
    right.
    """
    require_trackers(config)
    contract = load_contract(config.data.contract)
    sources = open_sources(config.data, contract, label_specs(config, contract))
    backbone = config.policy.backbone
    with TerminalReporter(config.steps, quiet=not _is_first()) as reporter:
        for source in sources:
            reporter.message(f"reading {len(source.dataset.states)} samples from {source.name}")
        data = load_data(
            sources,
            contract,
            config.data,
            image_size=backbone.tiny.image_size if backbone.kind == "tiny" else PRETRAINED_IMAGE_SIZE,
            cache_dir=config.data.cache_dir or config.output / "cache",
            on_frame=reporter.read,
        )
        trainer = Trainer(config, contract, data, reporter)
        best = trainer.run()
        trainer.accelerator.end_training()
        return best


def label_specs(config: TrainConfig, contract: Contract) -> Mapping[str, LabelSpec]:
    """The latent labels that the configured strategy needs; they do not depend on the backbone's shape."""
    stand_in = BackboneShape(width=8, layers=1024)
    with torch.device("meta"):
        return build_strategy(config.policy.strategy, chunk_size=contract.chunk_size, shape=stand_in).label_specs


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0 on success, 1 with a message on standard error otherwise."""
    parser = argparse.ArgumentParser(prog="lavla train", description=__doc__, add_help=False)
    parser.add_argument("--config", type=Path, default=None, help="YAML file; every key can be overridden by an option")
    known, rest = parser.parse_known_args(argv)
    try:
        default = TrainConfig() if known.config is None else load_train_config(known.config)
        config = tyro.cli(TrainConfig, prog="lavla train", description=__doc__, args=rest, default=default)
        best = train(config)
    except USER_ERRORS as error:
        print(f"lavla train: {error}", file=sys.stderr)
        return 1
    if _is_first():
        print(best)
    return 0


def _is_first() -> bool:
    """False in all processes of a launch but one."""
    return os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    sys.exit(main())
