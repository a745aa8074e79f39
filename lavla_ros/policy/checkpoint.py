"""A policy's checkpoint: the files of :mod:`lavla_ros.policy.folder`, and tokenizer/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lavla_ros.config import ConfigError, from_plain
from lavla_ros.contract import Contract, require_same_contract
from lavla_ros.policy.backbone import build_backbone
from lavla_ros.policy.base_model import DType, fingerprint_of
from lavla_ros.policy.config import PolicyConfig
from lavla_ros.policy.folder import (
    CONFIG,
    WEIGHTS,
    CheckpointError,
    CheckpointFiles,
    fingerprint,
    read_files,
    read_fitting_tensors,
    staged,
    trained_parameters,
    write_files,
)
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.normalization import Normalizer, StatsError
from lavla_ros.policy.prompt import PromptBuilder, PromptError

TOKENIZER = "tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCheckpoint:
    """A network with everything needed around it."""

    path: Path
    config: PolicyConfig
    contract: Contract
    normalizer: Normalizer
    tokenizer: PreTrainedTokenizerBase
    model: LatentActionVLA
    prompt: PromptBuilder
    training: Mapping[str, Any]
    """Where the weights come from: step, metrics, data; for people."""


def save_checkpoint(
    path: Path,
    *,
    config: PolicyConfig,
    contract: Contract,
    stats: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    tensors: Mapping[str, Tensor],
    training: Mapping[str, Any],
    base: str | None = None,
    half: bool = False,
) -> None:
    """Write a checkpoint directory, replacing ``path`` whole: a crash leaves the old one or the new one.

    ``base``: fingerprint of the weights that are not in it, which are required when it is loaded. ``half`` stores the
    weights as float16; they are used as float32 again.
    """
    dtype = torch.float16 if half else torch.float32
    with staged(path) as folder:
        document: dict[str, Any] = {"policy": config.to_dict(), "training": dict(training)}
        if base is not None:
            document["base"] = base
        write_files(folder, document, contract, stats, {name: tensor.to(dtype) for name, tensor in tensors.items()})
        tokenizer.save_pretrained(str(folder / TOKENIZER))


def load_checkpoint(path: Path, *, dtype: DType = torch.float32) -> LoadedCheckpoint:
    """Rebuild the network around its weights, checking every file. Raises CheckpointError.

    ``dtype``: of what is not in the checkpoint, the frozen weights of a base model; auto: as they are stored.
    """
    files, config, normalizer, tokenizer = _read(path)
    contract, training = files.contract, files.document.get("training")
    backbone = replace(config.backbone, attention="sdpa")  # whatever it was trained with, and maybe is not here
    if backbone.path.startswith("./"):
        backbone = replace(backbone, path=str(path / backbone.path))
    base = files.document.get("base")
    try:
        found = None if base is None else fingerprint_of(backbone)
        if found != base:
            raise CheckpointError(
                f"checkpoint {path} was trained on a base model with the fingerprint {base}; that in "
                f"{backbone.path!r} (revision {backbone.revision}) has {found}: give back the one it was trained on, "
                "by backbone.path and backbone.revision in config.yaml"
            )
        model = LatentActionVLA(config, contract, build_backbone(backbone, tokenizer, dtype))
        prompt = prompt_builder(model, contract, tokenizer)
    except (ConfigError, PromptError) as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None
    _load_weights(path / WEIGHTS, model, contract)
    return LoadedCheckpoint(
        path=path,
        config=config,
        contract=contract,
        normalizer=normalizer,
        tokenizer=tokenizer,
        model=model.eval(),
        prompt=prompt,
        training=training if isinstance(training, dict) else {},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialPolicy:
    """A checkpoint that a training begins from: its weights, its scales and its tokenizer."""

    path: Path
    stats: Mapping[str, Any]
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    contract: Contract

    def give_weights(self, model: LatentActionVLA) -> None:
        """Raises CheckpointError that lists every tensor that does not fit the run's network."""
        _load_weights(self.path / WEIGHTS, model, self.contract, hint=" and the policy of this run")


def open_initial(path: Path, config: PolicyConfig, contract: Contract, base: str | None) -> InitialPolicy:
    """The checkpoint in ``path`` for a run with this policy, contract and base model (by its fingerprint).

    Raises CheckpointError if it cannot be read, or has other actions or another base model; ContractError if it was
    trained under another contract.
    """
    files, theirs, _, tokenizer = _read(path)
    require_same_contract(contract, files.contract, ours_from="this run", theirs_from=f"initial, {path}")
    if theirs.actions != config.actions:
        raise CheckpointError(
            f"initial, {path}, predicts actions as {theirs.actions}, this run as {config.actions}: its weights mean "
            "nothing here; set policy.actions as there"
        )
    if (theirs_base := files.document.get("base")) != base:
        raise CheckpointError(
            f"initial, {path}, was trained on a base model with the fingerprint {theirs_base}; that of this run has "
            f"{base}"
        )
    return InitialPolicy(
        path=path,
        stats=files.stats,
        tokenizer=tokenizer,
        fingerprint=fingerprint(path),
        contract=files.contract,
    )


def prompt_builder(model: LatentActionVLA, contract: Contract, tokenizer: PreTrainedTokenizerBase) -> PromptBuilder:
    """The prompt that a network expects."""
    return PromptBuilder(
        tokenizer,
        model.backbone.ids,
        cameras=len(contract.cameras),
        image_tokens=model.backbone.image_tokens,
        chunk_size=contract.chunk_size,
        segments=model.strategy.segments(),
    )


def _read(path: Path) -> tuple[CheckpointFiles, PolicyConfig, Normalizer, PreTrainedTokenizerBase]:
    """Everything but the weights. Raises CheckpointError."""
    files = read_files(path, "checkpoint", section="policy", also=(TOKENIZER,))
    try:
        config = from_plain(PolicyConfig, files.document["policy"], source=str(path / CONFIG))
        normalizer = Normalizer(files.contract, config.actions, files.stats)
    except (ConfigError, StatsError) as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None
    return files, config, normalizer, _read_tokenizer(path / TOKENIZER, config)


def _read_tokenizer(folder: Path, config: PolicyConfig) -> PreTrainedTokenizerBase:
    try:
        if config.backbone.kind == "tiny":
            return PreTrainedTokenizerFast.from_pretrained(str(folder))
        return AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # noqa: BLE001 (the tokenizers library raises bare Exception for a damaged file)
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {error}") from None


def _load_weights(file: Path, model: LatentActionVLA, contract: Contract, *, hint: str = "") -> None:
    expected = trained_parameters(model)
    tensors = read_fitting_tensors(file, expected, contract, hint=hint)
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(tensors[name])
