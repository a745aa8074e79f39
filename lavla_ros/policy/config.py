"""Typed configuration of a policy. What is here is written to a checkpoint's ``config.yaml``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lavla_ros.config import Scalar, check, to_plain


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyConfig:
    """Sizes of the ``tiny`` backbone: a Qwen3-VL with a convolutional stem, trained from scratch."""

    image_size: int = 112
    """Side of the image that the stem sees, in pixels; the contract's size must be a multiple of it."""
    stem_channels: tuple[int, ...] = (32, 64)
    """Number of channels of each stage of the stem but the last; the first stage reduces by 4, the others by 2."""
    vision_width: int = 128
    """Hidden size of the vision encoder."""
    vision_depth: int = 1
    """Number of layers of the vision encoder."""
    vision_heads: int = 4
    """Number of attention heads of the vision encoder."""
    width: int = 128
    """Hidden size of the language model."""
    depth: int = 3
    """Number of decoder layers of the language model."""
    heads: int = 4
    """Number of attention heads of the language model."""
    kv_heads: int = 2
    """Number of heads for keys and values, shared by the attention heads of the language model."""
    intermediate: int = 256
    """Hidden width of the language model's feed-forward layers."""
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
    """Rank of the adapters."""
    alpha: int = 16
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Probability that an input of an adapter is dropped."""

    def __post_init__(self) -> None:
        check(self.rank >= 1, "lora.rank", self.rank, "at least 1")
        check(0 <= self.dropout < 1, "lora.dropout", self.dropout, "a probability below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig:
    """Which vision-language model, and how it is trained."""

    kind: Literal["tiny", "pretrained"] = "tiny"
    """Backbone: "tiny" is trained from scratch, "pretrained" is a Qwen3-VL checkpoint with LoRA."""
    path: str = "Qwen/Qwen3-VL-2B-Instruct"
    """For pretrained, local folder or hub name. In a checkpoint, one that begins with ./ is inside it."""
    revision: str = "main"
    """For pretrained, revision on the hub."""
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    """For pretrained, the adapters; without them the backbone stays as it is."""
    chat: bool = False
    """For pretrained, make the prompt a user's turn of the tokenizer's chat template, which Instruct models know."""
    tiny: TinyConfig = field(default_factory=TinyConfig)
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Implementation of attention while training; flash_attention_2 needs its own package, a GPU and bfloat16.
    Inference always uses that of PyTorch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """pretrained only: type that the frozen weights rest in while training; ``precision`` is what is computed in, and
    adapters and head are float32 always. auto: that of ``precision``. Inference chooses by its device."""

    def __post_init__(self) -> None:
        check(not self.chat or self.kind == "pretrained", "backbone.chat", self.chat, "false with backbone.kind: tiny")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """The bridge-attention action head (after VLA-Adapter)."""

    width: int | None = None
    """Width of the head. The default is the backbone's."""
    heads: int = 8
    """Number of attention heads."""
    ffn_ratio: float = 1.0
    """Hidden width of the feed-forward layers, as a multiple of the head's width."""
    kv: Literal["separate", "shared"] = "separate"
    """shared: one projection to keys and one to values for all three sources of a block, as in the reference code,
    with half the parameters; needs ``width: null``. separate: every source has its own, as in VLA-Adapter Pro."""
    step_positions: bool = False
    """Add a learned embedding of its step to the key of every placeholder state. Without it a block knows the step only
    from what the backbone's positions left in the state."""
    vision_gate: float = 0.0
    """Initial value g of the gate tanh(g) on the attention to image states; with 0, training opens it."""

    def __post_init__(self) -> None:
        check(self.heads >= 1, "head.heads", self.heads, "at least 1")
        check(self.ffn_ratio > 0, "head.ffn_ratio", self.ffn_ratio, "above 0")
        shared = self.kv == "shared"
        check(not shared or self.width is None, "head.width", self.width, "null with head.kv: shared")
        check(math.isfinite(self.vision_gate), "head.vision_gate", self.vision_gate, "a finite number")


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyConfig:
    """A supervision strategy by its registered name, with the options of that strategy."""

    name: str = "baseline"
    """Name of the strategy."""
    options: Mapping[str, Scalar] = field(default_factory=dict)
    """Options of the strategy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionCodingConfig:
    """How actions are coded for the network; undone on the way out."""

    relative_actions: bool = True
    """Whether absolute joint targets are predicted relative to the observed state of the same name."""
    per_step_statistics: bool = True
    """Whether each step of the chunk has its own quantiles, so that near steps are resolved as well as far ones."""
    normalization: Literal["quantile", "min_max"] = "quantile"
    """What is mapped to [-1, 1]: "quantile" maps q01 to q99, clipped, "min_max" the extremes."""


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
