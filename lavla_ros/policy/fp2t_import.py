"""From a run of the paper's released code to a checkpoint that :mod:`lavla_ros.policy.fp2t` runs.

A run's folder has ``config.yaml`` (what it was trained with), ``dataset_statistics.json`` (for each dataset, how its
numbers were scaled) and ``checkpoints/step-….pt``, the state of the whole network, the frozen base model included.
Every tensor is accounted for: those of the base model must be equal to those of ``base``, which is needed for its
tokenizer and its description anyway; the adapters and the head are taken; what only a training loss needs is recognised
and left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from lavla_ros.config import to_plain
from lavla_ros.contract import Contract
from lavla_ros.policy.base_model import fingerprint_of, load_base, load_pretrained_tokenizer
from lavla_ros.policy.folder import CheckpointError, require_fitting, staged, write_files
from lavla_ros.policy.foreign import read_foreign
from lavla_ros.policy.fp2t import DEFECTS, SECTION, TOKENIZER, Fp2tConfig, Fp2tHead, Method, adapters, ranges
from lavla_ros.policy.normalization import StatsError
from lavla_ros.yaml_text import load_yaml

STATISTICS = "dataset_statistics.json"
_VLM = "vlm.base_model.model."
_LIBERO = "libero"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedPolicy:
    """What an import made."""

    path: Path
    config: Fp2tConfig
    left_out: tuple[str, ...]
    """Tensors that only a training loss needs."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        defects = {name: DEFECTS[name] for name in self.config.defects}
        return {"path": str(self.path), "policy": to_plain(self.config), "defects": defects, "left_out": self.left_out}

    def __str__(self) -> str:
        told = "\n".join(f"  {name}: {DEFECTS[name]}" for name in self.config.defects)
        return f"{self.path}: {self.config.method}, with the defects of the released network:\n{told}"


def import_fp2t(
    checkpoint: Path,
    out: Path,
    contract: Contract,
    *,
    base: str,
    revision: str = "main",
    as_released: bool = False,
    method: str | None = None,
    separate: bool | None = None,
    dataset: str | None = None,
) -> ImportedPolicy:
    """Write the checkpoint ``out`` of a run's folder, or of one file of it (``.pt`` or ``.safetensors``).

    ``method`` and ``separate`` (``use_pro_version``) are for a file without its run's config.yaml, ``dataset`` chooses
    among several statistics. Raises CheckpointError that names what is missing, unexpected or does not fit, or, without
    ``as_released``, the defects of the network; ConfigError for a base model that cannot be used.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists already; choose another folder")
    file, run = _find(checkpoint)
    said = _run_config(run)
    named = method or said.get("vla_id")
    if named not in get_args(Method):
        raise CheckpointError(f"{run} has the vla_id {named!r}; expected one of {get_args(Method)}: -o method=NAME")
    pro = bool(said.get("use_pro_version", False)) if separate is None else separate
    config = Fp2tConfig(
        method=cast("Method", named),
        base=base,
        revision=revision,
        separate=pro,
        images=int(said.get("num_images_in_input", 2)),
    )
    if not as_released:
        told = "; ".join(DEFECTS[name] for name in config.defects)
        raise CheckpointError(
            f"{file} was trained with the defects of the released code, and cannot be run without them: {told}. To "
            "evaluate it with them, say -o as_released=true"
        )
    config, stats = _statistics(run, config, contract, dataset)
    tensors = _read(file)
    taken, left, config = _convert(file, tensors, config, contract)
    tokenizer = load_pretrained_tokenizer(base, revision)
    document = {
        SECTION: to_plain(config),
        "training": {"imported": str(file), "released_config": said},
        "base": fingerprint_of(config.backbone),
    }
    with staged(out) as folder:
        write_files(folder, document, contract, stats, taken)
        tokenizer.save_pretrained(str(folder / TOKENIZER))
    return ImportedPolicy(path=out, config=config, left_out=left)


def _find(checkpoint: Path) -> tuple[Path, Path]:
    """The file of the tensors, and the folder of its run."""
    if checkpoint.is_dir():
        files = sorted(f for f in (checkpoint / "checkpoints").glob("step-*") if f.suffix in (".pt", ".safetensors"))
        if not files:
            raise CheckpointError(f"{checkpoint} has no checkpoints/step-….pt: not a run of the paper's code")
        return files[-1], checkpoint
    if not checkpoint.exists():
        raise CheckpointError(f"{checkpoint} does not exist")
    return checkpoint, next((d for d in checkpoint.parents[:2] if (d / STATISTICS).exists()), checkpoint.parent)


def _run_config(run: Path) -> dict[str, Any]:
    if not (run / "config.yaml").exists():
        return {}
    try:
        found = load_yaml((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{run / 'config.yaml'} is not valid YAML: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{run / 'config.yaml'} is no configuration of a run")
    return found


def _statistics(
    run: Path, config: Fp2tConfig, contract: Contract, dataset: str | None
) -> tuple[Fp2tConfig, dict[str, Any]]:
    """The statistics under the contract's names, and how they were used. Raises CheckpointError."""
    file = run / STATISTICS
    try:
        every = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); a policy cannot be run without it") from None
    name = dataset or (next(iter(every)) if len(every) == 1 else "")
    if name not in every:
        raise CheckpointError(f"{file} has the datasets {sorted(every)}; say which is meant: -o dataset=NAME")
    libero, actions = name.startswith(_LIBERO), contract.action.names
    try:
        action, state = dict(every[name]["action"]), dict(every[name]["proprio"])
        mask = action.pop("mask", [True] * len(actions))
        if libero and len(state["q01"]) == len(contract.state.names) + 1:
            # a zero stands between the pose and the fingers; it was taken out before the network
            state = {key: [*values[:6], *values[7:]] for key, values in state.items() if key != "mask"}
        made = {"action": _named(action, actions), "state": _named(state, contract.state.names)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: the statistics of {name!r} do not fit contract {contract.name!r}: {type(error).__name__}, {error}"
        ) from None
    config = replace(
        config,
        normalization="min_max" if name.startswith("aloha") else "q01_q99",
        raw_actions=tuple(n for n, scaled in zip(actions, mask, strict=True) if not scaled),
        inverted_gripper=actions[-1] if libero else "",
    )
    try:
        ranges(config, contract, made)
    except StatsError as error:
        raise CheckpointError(f"{file}: {error}") from None
    return config, made


def _named(columns: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Name → statistics. Raises ValueError unless there is a number for each name."""
    found = {key: columns[key] for key in ("min", "max", "mean", "std", "q01", "q99") if key in columns}
    for key, values in found.items():
        if len(values) != len(names):
            raise ValueError(f"{key} has {len(values)} numbers for {list(names)}")
    return {name: {key: float(values[i]) for key, values in found.items()} for i, name in enumerate(names)}


def _read(file: Path) -> dict[str, Tensor]:
    """Name → tensor."""
    found = read_foreign(file)
    if not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{file} is no state of a network: expected names and tensors")
    return {str(name).removeprefix("module."): value for name, value in found.items() if isinstance(value, Tensor)}


def _convert(
    file: Path, tensors: Mapping[str, Tensor], config: Fp2tConfig, contract: Contract
) -> tuple[dict[str, Tensor], tuple[str, ...], Fp2tConfig]:
    """Our tensors, the names of those that are left out, and the configuration with what the shapes tell."""
    blocks = {n.split(".")[3] for n in tensors if n.startswith("action_head.model.mlp_resnet_blocks.")}
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if name.endswith(".lora_A.default.weight")}
    config = replace(config, blocks=max(1, len(blocks)), rank=min(ranks, default=config.rank))
    vlm = load_base(config.backbone, load_pretrained_tokenizer(config.base, config.revision), "auto")
    head = Fp2tHead(config, width=vlm.config.text_config.hidden_size, contract=contract)
    expected, frozen, names = _their_names(vlm, head, config, contract)
    require_fitting(tensors, expected, f"{file} does not fit {config.method} with the base model {config.base!r}")
    for theirs, tensor in frozen.items():
        has = tensors[theirs]
        if not torch.equal(has, tensor.to(has.dtype)):
            worst = float((has.float() - tensor.float()).abs().max())
            raise CheckpointError(
                f"{file}: {theirs} is not that of the base model {config.base!r} (it differs by {worst:.3g}), though "
                "the base model is frozen; give the one that it was trained on: -o base=PATH"
            )
    taken = {ours: tensors[theirs].float() for ours, theirs in names.items()}
    inner = "action_head.model"
    taken["head.start"] = F.relu(  # of a constant input, zero: its norm leaves its bias
        F.linear(
            tensors[f"{inner}.layer_norm1.bias"].float(),
            tensors[f"{inner}.fc1.weight"].float(),
            tensors[f"{inner}.fc1.bias"].float(),
        )
    )
    used = {*names.values(), *frozen, *(f"{inner}.{n}" for n in ("layer_norm1.bias", "fc1.weight", "fc1.bias"))}
    return taken, tuple(sorted(tensors.keys() - used)), config


def _their_names(
    vlm: Any, head: Fp2tHead, config: Fp2tConfig, contract: Contract
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """Every tensor of a released checkpoint with its shape; those of the base model; our name → theirs."""
    width, dims = vlm.config.text_config.hidden_size, contract.action_dim
    adapted = adapters(vlm, config.rank)
    names: dict[str, str] = {}
    expected: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    for name, tensor in vlm.state_dict().items():
        layer, _, kind = name.rpartition(".")
        frozen[f"{_VLM}model.{layer}.base_layer.{kind}" if layer in adapted else f"{_VLM}model.{name}"] = tensor
    frozen[f"{_VLM}lm_head.weight"] = vlm.language_model.embed_tokens.weight.detach()
    for name, (_, low, up) in adapted.items():
        for part, shape in (("A", low), ("B", up)):
            names[f"adapter.{name}.{part}"] = f"{_VLM}model.{name}.lora_{part}.default.weight"
            expected[names[f"adapter.{name}.{part}"]] = torch.empty(shape, device="meta")
    for ours, tensor in head.state_dict().items():
        if ours != "start":
            names[f"head.{ours}"] = _head_name(ours, config)
            expected[_head_name(ours, config)] = tensor
    inner, wide = "action_head.model", width * dims
    shapes: dict[str, tuple[int, ...]] = {f"{inner}.layer_norm1.{part}": (wide,) for part in ("weight", "bias")}
    shapes |= {f"{inner}.fc1.weight": (width, wide), f"{inner}.fc1.bias": (width,)}
    if config.separate:
        for i in range(config.blocks):
            shapes[f"{inner}.mlp_resnet_blocks.{i}.film_gen.0.weight"] = (2 * width, width)
            shapes[f"{inner}.mlp_resnet_blocks.{i}.film_gen.0.bias"] = (2 * width,)
    if config.method == "la_cond":
        shapes["pooling.query"] = (width,)
    if config.method == "la_align":
        for part, (rows, columns) in {"fc1": (256, width), "fc2": (128, 256), "latent_fc": (128, 128)}.items():
            shapes |= {f"latent_action_head.{part}.weight": (rows, columns), f"latent_action_head.{part}.bias": (rows,)}
        shapes |= {f"latent_action_head.norm.{part}": (width,) for part in ("weight", "bias")}
    expected |= {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return {**expected, **frozen}, frozen, names


def _head_name(ours: str, config: Fp2tConfig) -> str:
    """What the released code calls a tensor of our head."""
    inner = "action_head.model"
    first, _, rest = ours.partition(".")
    if first == "pool":
        return "pooling.query"
    if first == "state":
        number, part = rest.split(".")
        return f"proprio_projector.{'fc1' if number == '0' else 'fc2'}.{part}"
    if first in ("norm", "project"):
        return f"{inner}.{'layer_norm2' if first == 'norm' else 'fc2'}.{rest}"
    number, _, part = rest.partition(".")
    kinds = {"query": "q_proj", "out": "o_proj", "gate": "gating_factor", "norm": "ffn.0", "feedforward": "ffn.1"}
    piece, _, last = part.partition(".")
    if piece in ("key", "value"):
        source, _, last = last.partition(".")
        letter = piece[0]
        if config.separate:
            source = {"self": "self", "action": "adapter", "image": "task"}[source]
            theirs = f"{letter}_{source}"
        else:
            theirs = f"{letter}_proj"
    else:
        theirs = kinds[piece]
    return f"{inner}.mlp_resnet_blocks.{number}.{theirs}" + (f".{last}" if last else "")
