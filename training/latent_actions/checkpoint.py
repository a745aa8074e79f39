"""A latent action model's checkpoint: written, read and named.

The files of :mod:`lavla_ros.policy.folder`, and ``training.json`` (where the model comes from, for people).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from lavla_ros.config import ConfigError, from_plain, to_plain
from lavla_ros.contract import Contract
from lavla_ros.policy.folder import (
    CONFIG,
    CONTRACT,
    STATS,
    WEIGHTS,
    CheckpointError,
    read_files,
    read_fitting_tensors,
    staged,
    write_files,
)
from lavla_ros.policy.normalization import StatsError

TRAINING = "training.json"
_CLASSES = {
    "action": ("training.latent_actions.action_model", "ActionLatentModel"),
    "image": ("training.latent_actions.image_model", "ImageLatentModel"),
}


class LatentModel(nn.Module):
    """What both latent action models share: they are made of a configuration, a contract and statistics.

    A subclass takes exactly these three, in this order, so that :func:`load_latent_model` can build it.
    """

    kind: ClassVar[str]
    config_class: ClassVar[type[Any]]

    def __init__(self, config: Any, contract: Contract, stats: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.contract = contract
        self.stats = dict(stats)

    def saved_tensors(self) -> dict[str, Tensor]:
        """Name → tensor of everything that is stored; a subclass may leave out what it can load elsewhere."""
        return dict(self.state_dict())


M = TypeVar("M", bound=LatentModel)


def save_latent_model(path: Path, model: LatentModel, extra: Mapping[str, Any]) -> None:
    """Write the directory ``path``, replacing it whole: an interruption leaves the old one or none.

    ``extra`` (JSON-ready) is kept in ``training.json``: steps, figures, what it was trained on.
    Raises CheckpointError when a weight is not finite.
    """
    tensors = model.saved_tensors()
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(f"{path} was not written: {', '.join(broken[:4])} hold values that are not finite")
    with staged(path) as folder:
        document = {"kind": model.kind, "model": to_plain(model.config)}
        write_files(folder, document, model.contract, model.stats, tensors)
        (folder / TRAINING).write_text(json.dumps(dict(extra), indent=1), encoding="utf-8")


def load_latent_model(path: Path, expected: type[M]) -> M:
    """Rebuild a model around its weights: in evaluation mode and frozen (paper, Sec. 3.2).

    ``expected`` is the class that the caller can use, or LatentModel for any. Raises CheckpointError
    for a missing or damaged file, another kind of model, or weights of another shape.
    """
    files = read_files(path, "latent action model", section="model")
    kind = files.document.get("kind")
    if kind not in _CLASSES:
        raise CheckpointError(f"{path / CONFIG}: kind is {kind!r}; expected one of {sorted(_CLASSES)}")
    module, name = _CLASSES[kind]
    cls: type[LatentModel] = getattr(import_module(module), name)
    if not issubclass(cls, expected):
        raise CheckpointError(f"{path} is a latent action model of kind {cls.kind!r}; expected {expected.kind!r}")
    try:
        config = from_plain(cls.config_class, files.document["model"], source=str(path / CONFIG))
        model = cls(config, files.contract, files.stats)
    except (ConfigError, StatsError) as error:
        raise CheckpointError(f"latent action model {path}: {error}") from None
    hint = " (codebook size, widths and chunk size must be those it was trained with)"
    tensors = read_fitting_tensors(path / WEIGHTS, model.saved_tensors(), model.contract, hint=hint)
    model.load_state_dict(tensors, strict=False)
    return model.eval().requires_grad_(False)


def load_training_record(path: Path) -> dict[str, Any]:
    """What ``training.json`` of a model says; nothing for one of others. Raises CheckpointError for a damaged one."""
    if not (path / TRAINING).exists():
        return {}
    try:
        record = json.loads((path / TRAINING).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / TRAINING} cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise CheckpointError(f"{path / TRAINING}: expected an object, found {type(record).__name__}")
    return record


def content_hash(path: Path) -> str:
    """16 hex digits over every file that decides which codes a model gives (not ``training.json``)."""
    digest = hashlib.sha256()
    for name in (CONFIG, CONTRACT, STATS, WEIGHTS):
        try:
            content = (path / name).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path / name} cannot be read: {error.strerror}") from None
        digest.update(f"{name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()[:16]
