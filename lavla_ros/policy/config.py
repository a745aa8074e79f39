"""Typed configuration of a policy. What is here is written to a checkpoint's ``config.yaml``.

Every section is a frozen dataclass that checks itself. ``from_plain`` builds one from plain YAML
data and refuses unknown keys and wrong types with the key's full path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from lavla_ros.errors import UserError
from lavla_ros.yaml_text import load_yaml

T = TypeVar("T")
Scalar = str | int | float | bool


class ConfigError(UserError, ValueError):
    """A configuration value is missing, unknown or out of range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyConfig:
    """Sizes of the ``tiny`` backbone: a Qwen3-VL with a convolutional stem, trained from scratch."""

    image_size: int = 112
    """Side of the image that the stem sees, pixels; the contract's size must be a multiple of it."""
    stem_channels: tuple[int, ...] = (32, 64)
    """Channels of the stem's stages before the last one; the first reduces by 4, the others by 2."""
    vision_width: int = 128
    vision_depth: int = 1
    vision_heads: int = 4
    width: int = 128
    """Hidden size of the language model."""
    depth: int = 3
    """Decoder layers of the language model."""
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 256
    vocab_size: int = 512
    """Size of the byte-level BPE vocabulary trained on the instructions, special tokens included."""

    def __post_init__(self) -> None:
        stride = self.stem_stride
        check(self.image_size % stride == 0, "tiny.image_size", self.image_size, f"a multiple of the stride {stride}")
        check(self.width % self.heads == 0, "tiny.width", self.width, f"a multiple of heads={self.heads}")
        check((self.width // self.heads) % 8 == 0, "tiny.width/heads", self.width // self.heads, "a multiple of 8")
        check(self.heads % self.kv_heads == 0, "tiny.heads", self.heads, f"a multiple of kv_heads={self.kv_heads}")
        check(
            self.vision_width % (4 * self.vision_heads) == 0,
            "tiny.vision_width",
            self.vision_width,
            f"a multiple of 4 * vision_heads = {4 * self.vision_heads}",
        )
        check(self.vocab_size >= 280, "tiny.vocab_size", self.vocab_size, "at least 280 (256 bytes + special tokens)")

    @property
    def stem_stride(self) -> int:
        return 4 << len(self.stem_channels)

    @property
    def image_tokens(self) -> int:
        """Tokens per image; 112² at stride 16 gives the paper's 49."""
        return (self.image_size // self.stem_stride) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters on every linear layer of the backbone (paper, App. B.1)."""

    rank: int = 64
    alpha: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check(self.rank >= 1, "lora.rank", self.rank, "at least 1")
        check(0 <= self.dropout < 1, "lora.dropout", self.dropout, "a probability below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig:
    """Which vision-language model, and how it is trained."""

    kind: Literal["tiny", "pretrained"] = "tiny"
    """tiny: from scratch, no download. pretrained: a Qwen3-VL checkpoint with LoRA."""
    path: str = "Qwen/Qwen3-VL-2B-Instruct"
    """pretrained only: local folder or hub name. In a checkpoint, one that begins with ./ is inside it."""
    revision: str = "main"
    """pretrained only: revision on the hub."""
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    """pretrained only; null: the backbone stays as it is."""
    tiny: TinyConfig = field(default_factory=TinyConfig)
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """The bridge-attention action head (after VLA-Adapter)."""

    width: int | None = None
    """Width of the head; None: the backbone's."""
    heads: int = 8
    ffn_ratio: float = 1.0
    vision_gate: float = 0.0
    """Initial g of the gate tanh(g) on the attention to image states; 0 opens it during training."""

    def __post_init__(self) -> None:
        check(self.heads >= 1, "head.heads", self.heads, "at least 1")
        check(self.ffn_ratio > 0, "head.ffn_ratio", self.ffn_ratio, "above 0")
        check(math.isfinite(self.vision_gate), "head.vision_gate", self.vision_gate, "a finite number")


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyConfig:
    """A supervision strategy by its registered name, with the options of that strategy."""

    name: str = "baseline"
    options: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionCodingConfig:
    """How actions are coded for the network; undone on the way out."""

    relative_actions: bool = True
    """Absolute joint targets are predicted relative to the observed state of the same name."""
    per_step_statistics: bool = True
    """Quantiles for each step of the chunk, so that near steps are resolved as well as far ones."""
    normalization: Literal["quantile", "min_max"] = "quantile"
    """quantile: q01–q99 → [-1, 1], clipped (LIBERO, JAKA). min_max: min–max → [-1, 1] (RoboTwin)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """Everything needed to rebuild a policy's network around its weights."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    actions: ActionCodingConfig = field(default_factory=ActionCodingConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML-ready data; ``from_plain(PolicyConfig, …)`` restores an equal configuration."""
        return to_plain(self)


def check(ok: bool, key: str, value: object, expected: str) -> None:
    """Raise ConfigError naming the key, its value and what was expected unless ``ok``."""
    if not ok:
        raise ConfigError(f"{key} is {value!r}; expected {expected}")


def to_plain(config: Any) -> dict[str, Any]:
    """Nested dataclasses → dictionaries, lists and scalars."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    result = plain(asdict(config))
    assert isinstance(result, dict)
    return result


def from_plain(cls: type[T], data: object, *, source: str) -> T:
    """Build the dataclass ``cls`` from plain data, strictly.

    Raises ConfigError naming ``source`` and the full key for an unknown key, a missing one, a value
    of the wrong type or one that the dataclass itself refuses.
    """
    try:
        return _build(cls, data, "")
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def read_config(cls: type[T], path: Path) -> T:
    """The dataclass ``cls`` from a YAML file. Raises ConfigError naming the file, the key and the value at fault."""
    try:
        data = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    return from_plain(cls, data or {}, source=str(path))


def _build(cls: type[T], data: object, where: str) -> T:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or 'top level'} is {data!r}; expected a mapping")
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in set(data) - known)
    if unknown:
        raise ConfigError(f"unknown keys {unknown} in {where or 'the top level'}; known: {sorted(known)}")
    hints = get_type_hints(cls)
    values = {key: _convert(hints[key], value, f"{where}.{key}".lstrip(".")) for key, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where or 'top level'}: {error}") from None


def _convert(hint: Any, value: object, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    if origin in (Union, UnionType):
        if value is None and type(None) in args:
            return None
        for option in sorted((a for a in args if a is not type(None)), key=lambda a: a is not type(value)):
            try:
                return _convert(option, value, where)
            except ConfigError:
                continue  # the next member of the union may accept it; the error below names them all
        raise ConfigError(f"{where} is {value!r}; expected {hint}")
    if origin is Literal:
        check(value in args, where, value, f"one of {list(args)}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{where} is {value!r}; expected a list")
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}; expected a mapping")
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise ConfigError(f"{where} is {value!r}; expected {getattr(hint, '__name__', hint)}")
