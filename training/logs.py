"""Where a run's figures go: metrics.jsonl always, TensorBoard and Weights & Biases as configured."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from lavla_ros.config import ConfigError, to_plain
from lavla_ros.outputs import replacing
from training.config import RunConfig


class Tracker(Protocol):
    """One place for figures."""

    def add(self, step: int, figures: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class RunLog:
    """Hands figures to every tracker of the run; on all processes but the main one to none."""

    def __init__(self, config: RunConfig, *, step: int, enabled: bool) -> None:
        """``step``: where the run goes on; what an interrupted part of it logged beyond is dropped."""
        self._trackers: list[Tracker] = []
        if not enabled:
            return
        self._trackers.append(_Lines(config.output / "metrics.jsonl", step))
        if "tensorboard" in config.trackers:
            self._trackers.append(_TensorBoard(config.output / "tensorboard", step))
        if "wandb" in config.trackers:
            self._trackers.append(_Wandb(config))

    def add(self, step: int, section: str, figures: Mapping[str, float]) -> None:
        """Figures of one optimizer step, as ``section/name``."""
        named = {f"{section}/{name}": value for name, value in figures.items()}
        for tracker in self._trackers:
            tracker.add(step, named)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def require_trackers(config: RunConfig) -> None:
    """Raise ConfigError for a tracker that is not installed, before anything is read or trained."""
    packages = {"tensorboard": "tensorboard", "wandb": "wandb"}
    missing = [name for name in config.trackers if find_spec(packages[name]) is None]
    if missing:
        raise ConfigError(
            f"trackers names {missing}, not installed here: `pip install {' '.join(missing)}`, or leave them out "
            "(metrics.jsonl is always written)"
        )


class _Lines:
    """One JSON object per line, with exact numbers; for tests, plots and people with grep."""

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            # the last line may be cut off
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **figures}) + "\n")

    def close(self) -> None:
        self._file.close()


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, config: RunConfig) -> None:
        wandb: Any = importlib.import_module("wandb")
        # the run's folder names the run, so that a resumed one goes on in the same place
        name = hashlib.sha256(str(config.output.resolve()).encode()).hexdigest()[:12]
        self._run: Any = wandb.init(
            project=config.wandb_project,
            id=name,
            name=config.output.name,
            dir=str(config.output),
            config=to_plain(config),
            resume="allow",
        )

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()
