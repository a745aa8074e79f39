"""A latent action model is a directory; this file writes, reads and names it.

``config.yaml`` (kind and configuration), ``contract.yaml``, ``stats.json`` (normalisation),
``model.safetensors`` and ``training.json`` (where it comes from, for people). No pickle. Whatever is
missing, damaged or does not fit is a CheckpointError that says what.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from lavla_ros.config import ConfigError, from_plain, to_plain
from lavla_ros.contract import Contract, ContractError, load_contract
from lavla_ros.policy.checkpoint import CheckpointError, read_fitting_tensors, replace_directory
from lavla_ros.policy.normalization import StatsError, load_stats
from lavla_ros.yaml_text import dump_yaml, load_yaml

CONFIG, CONTRACT, STATS, WEIGHTS, TRAINING = (
    "config.yaml",
    "contract.yaml",
    "stats.json",
    "model.safetensors",
    "training.json",
)
SCHEMA = 1
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
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.saved_tensors().items()}
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(f"{path} was not written: {', '.join(broken[:4])} hold values that are not finite")
    staging = path.with_name(path.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        document = {"schema": SCHEMA, "kind": model.kind, "model": to_plain(model.config)}
        (staging / CONFIG).write_text(dump_yaml(document), encoding="utf-8")
        (staging / CONTRACT).write_text(dump_yaml(model.contract.to_dict()), encoding="utf-8")
        (staging / STATS).write_text(json.dumps(model.stats, indent=1), encoding="utf-8")
        (staging / TRAINING).write_text(json.dumps(dict(extra), indent=1), encoding="utf-8")
        # One entry: safetensors writes several in random order, and equal models must be equal files.
        save_file(tensors, str(staging / WEIGHTS), metadata={"contract": model.contract.hash})
        replace_directory(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load_latent_model(path: Path, expected: type[M]) -> M:
    """Rebuild a model around its weights: in evaluation mode and frozen (paper, Sec. 3.2).

    ``expected`` is the class that the caller can use, or LatentModel for any. Raises CheckpointError
    for a missing or damaged file, another kind of model, or weights of another shape.
    """
    if not path.is_dir():
        raise CheckpointError(f"latent action model {path} is not a directory; give the folder that holds {CONFIG}")
    missing = [name for name in (CONFIG, CONTRACT, STATS, WEIGHTS) if not (path / name).exists()]
    if missing:
        raise CheckpointError(f"latent action model {path} lacks {', '.join(missing)}; copy the whole directory again")
    cls, settings = _read_config(path / CONFIG)
    if not issubclass(cls, expected):
        raise CheckpointError(f"{path} is a latent action model of kind {cls.kind!r}; expected {expected.kind!r}")
    try:
        config = from_plain(cls.config_class, settings, source=str(path / CONFIG))
        model = cls(config, load_contract(path / CONTRACT), load_stats(path / STATS))
    except (ConfigError, ContractError, StatsError) as error:
        raise CheckpointError(f"latent action model {path}: {error}") from None
    _fill(model, path / WEIGHTS)
    return model.eval().requires_grad_(False)


def load_training_record(path: Path) -> dict[str, Any]:
    """What ``training.json`` of a model says. Raises CheckpointError when it cannot be read."""
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


def _read_config(file: Path) -> tuple[type[LatentModel], object]:
    try:
        document = load_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} is not valid YAML: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or "model" not in document:
        raise CheckpointError(f"{file} is not a latent action model's configuration of schema {SCHEMA}")
    kind = document.get("kind")
    if kind not in _CLASSES:
        raise CheckpointError(f"{file}: kind is {kind!r}; expected one of {sorted(_CLASSES)}")
    module, name = _CLASSES[kind]
    cls: type[LatentModel] = getattr(import_module(module), name)
    return cls, document["model"]


def _fill(model: LatentModel, file: Path) -> None:
    hint = " (codebook size, widths and chunk size must be those it was trained with)"
    tensors = read_fitting_tensors(file, model.saved_tensors(), model.contract, hint=hint)
    model.load_state_dict(tensors, strict=False)
