"""A checkpoint is a directory: config.yaml, contract.yaml, stats.json, model.safetensors, tokenizer/.

No pickle anywhere. Whatever is missing, damaged or does not fit is a CheckpointError that says what.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lavla_ros.config import ConfigError, from_plain
from lavla_ros.contract import Contract, ContractError, load_contract
from lavla_ros.errors import UserError
from lavla_ros.policy.backbone import build_backbone
from lavla_ros.policy.config import PolicyConfig
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.normalization import Normalizer, StatsError, load_stats
from lavla_ros.policy.prompt import PromptBuilder, PromptError
from lavla_ros.yaml_text import dump_yaml, load_yaml

CONFIG, CONTRACT, STATS, WEIGHTS, TOKENIZER = (
    "config.yaml",
    "contract.yaml",
    "stats.json",
    "model.safetensors",
    "tokenizer",
)
SCHEMA = 1


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be used; the message names the file, what is wrong and what to do."""


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


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What a checkpoint stores: every parameter that is trained (a frozen backbone is named by its path)."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_checkpoint(
    path: Path,
    *,
    config: PolicyConfig,
    contract: Contract,
    stats: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    tensors: Mapping[str, Tensor],
    training: Mapping[str, Any],
    half: bool = False,
) -> None:
    """Write a checkpoint directory, replacing ``path`` whole: a crash leaves the old one or the new one.

    ``half`` stores the weights as float16; they are used as float32 again.
    """
    staging = path.with_name(path.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    document = {"schema": SCHEMA, "policy": config.to_dict(), "training": dict(training)}
    (staging / CONFIG).write_text(dump_yaml(document), encoding="utf-8")
    (staging / CONTRACT).write_text(dump_yaml(contract.to_dict()), encoding="utf-8")
    (staging / STATS).write_text(json.dumps(stats, indent=1), encoding="utf-8")
    dtype = torch.float16 if half else torch.float32
    flat = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    save_file(flat, str(staging / WEIGHTS), metadata={"schema": str(SCHEMA), "contract": contract.hash})
    tokenizer.save_pretrained(str(staging / TOKENIZER))
    replace_directory(staging, path)


def replace_directory(staging: Path, path: Path) -> None:
    """Put a finished directory in the place of another one. Only renames: no half-written state."""
    old = path.with_name(path.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    staging.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(path: Path) -> LoadedCheckpoint:
    """Rebuild the network around its weights, checking every file. Raises CheckpointError."""
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} is not a directory; give the folder that holds {CONFIG}")
    missing = [name for name in (CONFIG, CONTRACT, STATS, WEIGHTS, TOKENIZER) if not (path / name).exists()]
    if missing:
        inside = [name for name in ("best", "last") if (path / name / WEIGHTS).exists()]
        hint = f"did you mean {path / inside[0]}?" if inside else "copy the whole directory again"
        raise CheckpointError(f"checkpoint {path} lacks {', '.join(missing)}; {hint}")
    config, training = _read_config(path / CONFIG)
    try:
        contract = load_contract(path / CONTRACT)
        normalizer = Normalizer(contract, config.actions, load_stats(path / STATS))
    except (ContractError, StatsError) as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None
    tokenizer = _read_tokenizer(path / TOKENIZER, config)
    backbone = config.backbone
    if backbone.path.startswith("./"):
        backbone = replace(backbone, path=str(path / backbone.path))
    try:
        model = LatentActionVLA(config, contract, build_backbone(backbone, tokenizer))
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
        training=training,
    )


def prompt_builder(model: LatentActionVLA, contract: Contract, tokenizer: PreTrainedTokenizerBase) -> PromptBuilder:
    """The prompt that a network expects."""
    return PromptBuilder(
        tokenizer,
        cameras=len(contract.cameras),
        image_tokens=model.backbone.image_tokens,
        chunk_size=contract.chunk_size,
        segments=model.strategy.segments(),
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises CheckpointError when it is truncated or no such file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}); copy it again") from None


def read_fitting_tensors(
    file: Path, expected: Mapping[str, Tensor], contract: Contract, *, hint: str = ""
) -> dict[str, Tensor]:
    """Exactly the ``expected`` tensors, by name and shape, finite, and written under ``contract``.

    Raises CheckpointError that lists everything that does not fit; ``hint`` says what to look at.
    """
    tensors = read_tensors(file)
    with safe_open(str(file), framework="pt") as opened:
        written_for = (opened.metadata() or {}).get("contract")
    if not contract.has_hash(written_for):
        raise CheckpointError(
            f"{file} was trained under a contract with hash {written_for}, but {CONTRACT} beside it has "
            f"{contract.hash}: one of the two files was replaced"
        )
    problems = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - expected.keys())]
    for name in sorted(expected.keys() & tensors.keys()):
        have, want = tuple(tensors[name].shape), tuple(expected[name].shape)
        if have != want:
            problems.append(f"{name} has shape {have}, expected {want}")
        elif not bool(torch.isfinite(tensors[name]).all()):
            problems.append(f"{name} holds values that are not finite")
    if problems:
        shown = "\n  ".join(problems[:12]) + (f"\n  … and {len(problems) - 12} more" if len(problems) > 12 else "")
        raise CheckpointError(f"{file} does not fit {CONFIG} beside it{hint}:\n  {shown}")
    return tensors


def _read_config(file: Path) -> tuple[PolicyConfig, Mapping[str, Any]]:
    try:
        document = load_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} is not valid YAML: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or "policy" not in document:
        raise CheckpointError(f"{file} is not a policy configuration of schema {SCHEMA}")
    try:
        config = from_plain(PolicyConfig, document["policy"], source=str(file))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    training = document.get("training") or {}
    return config, training if isinstance(training, dict) else {}


def _read_tokenizer(folder: Path, config: PolicyConfig) -> PreTrainedTokenizerBase:
    try:
        if config.backbone.kind == "tiny":
            return PreTrainedTokenizerFast.from_pretrained(str(folder))
        return AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # noqa: BLE001 (the tokenizers library raises bare Exception for a damaged file)
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {error}") from None


def _load_weights(file: Path, model: LatentActionVLA, contract: Contract) -> None:
    expected = trained_parameters(model)
    tensors = read_fitting_tensors(file, expected, contract)
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(tensors[name])
