"""The pretrained Qwen3-VL under a policy: found, held against its description, and only then loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, Qwen3VLConfig, Qwen3VLModel
from transformers.utils import is_flash_attn_2_available, logging
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from lavla_ros.config import ConfigError
from lavla_ros.policy.config import BackboneConfig
from lavla_ros.policy.prompt import add_placeholder_tokens, token_ids

WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
DType = torch.dtype | Literal["auto"]


def require_backbone(config: BackboneConfig) -> str | None:
    """Raise ConfigError or PromptError unless the configured backbone can be found and trained here.

    Returns the fingerprint of a pretrained one. Of its weights next to nothing is read.
    """
    if config.kind == "tiny":
        return None
    if config.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise ConfigError(
            "backbone.attention is 'flash_attention_2', but the flash-attn package is not installed, or there is no "
            "GPU for it; install it, or use sdpa"
        )
    described = describe(config)
    tokenizer = load_pretrained_tokenizer(config.path, config.revision)
    _require_vocabulary(config, described, tokenizer)
    token_ids(tokenizer, chat=config.chat)
    return fingerprint_of(config)


def fingerprint_of(config: BackboneConfig) -> str:
    """That of the weights on the disk. Raises ConfigError if they do not fit their description."""
    return weights_fingerprint(_mapped(config, "auto")[0])


def load_base(config: BackboneConfig, tokenizer: PreTrainedTokenizerBase, dtype: DType) -> Qwen3VLModel:
    """The model in memory, its weights in ``dtype`` (auto: as they are stored). Raises ConfigError."""
    _require_vocabulary(config, describe(config), tokenizer)
    vlm, on_disk = _mapped(config, dtype)
    for parameter in vlm.parameters():
        if parameter.data_ptr() in on_disk:  # a file that is replaced must not change what runs
            parameter.data = parameter.data.clone()
    return vlm


def describe(config: BackboneConfig) -> Qwen3VLConfig:
    """What its config.json says. Raises ConfigError."""
    try:
        found = AutoConfig.from_pretrained(config.path, revision=config.revision)
    except (OSError, ValueError) as error:
        raise _unusable(config.path, "no model is described there", error) from None
    if not isinstance(found, Qwen3VLConfig):
        raise ConfigError(f"backbone.path is {config.path!r}: a {found.model_type} model; expected a Qwen3-VL")
    return found


def load_pretrained_tokenizer(path: str | Path, revision: str = "main") -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained Qwen3-VL, with our placeholder tokens added."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(path), revision=revision)
    except (OSError, ValueError) as error:
        raise ConfigError(f"backbone.path is {str(path)!r}: no tokenizer could be loaded from it ({error})") from None
    add_placeholder_tokens(tokenizer)
    return tokenizer


def weights_fingerprint(vlm: Qwen3VLModel) -> str:
    """Changes with the names, shapes and values of the weights (of which 64 of each tensor are looked at).

    It does not depend on the type that they were loaded in.
    """
    found = hashlib.sha256()
    for name, parameter in vlm.named_parameters():
        if parameter.is_meta:
            return "no weights"
        flat = parameter.detach().flatten()
        values = flat[:: max(1, flat.numel() // 64)].to(torch.bfloat16).float().cpu()
        found.update(f"{name}{tuple(parameter.shape)}".encode() + values.numpy().tobytes())
    return found.hexdigest()[:16]


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Without its progress bars and reports: what is wrong is told by our errors."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _mapped(config: BackboneConfig, dtype: DType) -> tuple[Qwen3VLModel, set[int]]:
    """The model; weights that are stored in ``dtype`` are pages of their files, at the addresses that come with it."""
    try:
        stored = _stored(config)
        with silent_transformers():
            vlm, found = Qwen3VLModel.from_pretrained(
                None,
                config=describe(config),
                state_dict=stored,
                attn_implementation=config.attention,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise _unusable(config.path, "no Qwen3-VL could be loaded from it", error) from None
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f"backbone.path is {config.path!r}: its weights lack {len(missing)} tensors that its config.json speaks of "
            f"({_some(missing)}); download the model again"
        )
    if found["mismatched_keys"]:
        sizes = [f"{name} is {tuple(has)}, not {tuple(said)}" for name, has, said in sorted(found["mismatched_keys"])]
        raise ConfigError(
            f"backbone.path is {config.path!r}: {len(sizes)} of its tensors have other sizes than its config.json says "
            f"({_some(sizes)}); config.json and weights are of different models: download the model again"
        )
    vlm.name_or_path = vlm.config.name_or_path = config.path
    return vlm, {tensor.data_ptr() for tensor in stored.values()}


def _stored(config: BackboneConfig) -> dict[str, Tensor]:
    """The tensors of its safetensors files, of which nothing is read before it is asked for. Raises OSError if it has
    none, SafetensorError for a damaged file."""

    def find(name: str) -> str | None:
        file: str | None = cached_file(
            config.path, name, revision=config.revision, _raise_exceptions_for_missing_entries=False
        )
        return file

    if (one := find(WEIGHTS)) is not None:
        files = [one]
    elif (index := find(SHARDS)) is not None:
        files, _ = get_checkpoint_shard_files(config.path, index, revision=config.revision)
    else:
        raise OSError(f"it has neither {WEIGHTS} nor {SHARDS}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    return tensors


def _require_vocabulary(config: BackboneConfig, found: Qwen3VLConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    largest, size = max(tokenizer.get_vocab().values()), found.text_config.vocab_size
    if largest >= size:
        raise ConfigError(
            f"backbone.path is {config.path!r}: the tokenizer has ids up to {largest}, the model embeddings for {size} "
            "tokens; tokenizer and model do not belong together, or there is no room for our placeholder tokens"
        )


def _unusable(path: str, what: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"backbone.path is {path!r}: {what} ({str(error).partition(chr(10))[0]}); give --policy.backbone.path a local "
        "folder or a reachable hub name to train; a checkpoint needs the base model that it was trained on: change "
        "backbone.path in its config.yaml, or deploy what `lavla export --as merged` writes"
    )


def _some(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")
