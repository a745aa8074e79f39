"""The ``tiny`` backbone: a Qwen3-VL small enough to be trained from scratch on a CPU.

The language model and the vision transformer are transformers' Qwen3-VL, built from a config. One
part differs: a convolutional stem (112² pixels, stride 16, 7 × 7 = 49 tokens) stands in for the
linear patch embedding, because from scratch it learns from fewer samples.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen3VLConfig, Qwen3VLModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention, apply_rotary_pos_emb_vision

from lavla_ros.policy.config import TinyConfig
from lavla_ros.policy.prompt import TokenIds


class ConvStem(nn.Module):
    """(n, 3, s, s) images in [-1, 1] → (n · tokens, width), row-major tokens."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        channels = (3, *config.stem_channels, config.vision_width)
        # The first stage reduces by 4: most of a stem's time is spent at full resolution.
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size=7 if i == 0 else 3, stride=4 if i == 0 else 2, padding=3 if i == 0 else 1)
            for i, (a, b) in enumerate(itertools.pairwise(channels))
        )
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def proj(self) -> nn.Module:
        """The vision model asks its patch embedding's ``proj`` for its dtype."""
        return self.convs[0]

    def forward(self, images: Tensor) -> Tensor:
        x = images.to(memory_format=torch.channels_last)
        for conv in self.convs[:-1]:
            x = F.relu(conv(x))
        x = self.convs[-1](x)
        tokens: Tensor = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        return tokens


class BatchedVisionAttention(Qwen3VLVisionAttention):  # type: ignore[misc]
    """Qwen3-VL's vision attention for images of equal size: one call instead of one per image."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        del max_seqlen, kwargs
        assert position_embeddings is not None
        images = cu_seqlens.shape[0] - 1
        tokens = hidden_states.shape[0] // images
        qkv = self.qkv(hidden_states).view(images, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.unbind(2)
        cos, sin = (table[:tokens] for table in position_embeddings)
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        result: Tensor = self.proj(out.transpose(1, 2).reshape(images * tokens, self.dim))
        return result


def tiny_vlm(config: TinyConfig, ids: TokenIds, vocab_size: int) -> Qwen3VLModel:
    """A randomly initialised Qwen3-VL of the given sizes, with the stem in place."""
    side = config.image_size // config.stem_stride
    head_dim = config.width // config.heads
    height = width = (head_dim // 2) // 3
    vlm = Qwen3VLModel(
        Qwen3VLConfig(
            text_config={
                "vocab_size": vocab_size,
                "hidden_size": config.width,
                "intermediate_size": config.intermediate,
                "num_hidden_layers": config.depth,
                "num_attention_heads": config.heads,
                "num_key_value_heads": config.kv_heads,
                "head_dim": head_dim,
                "max_position_embeddings": 4096,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10_000.0,
                    "mrope_section": [head_dim // 2 - height - width, height, width],
                    "mrope_interleaved": True,
                },
            },
            vision_config={
                "depth": config.vision_depth,
                "hidden_size": config.vision_width,
                "intermediate_size": 2 * config.vision_width,
                "num_heads": config.vision_heads,
                "patch_size": config.stem_stride,
                "spatial_merge_size": 1,
                "temporal_patch_size": 1,
                "out_hidden_size": config.width,
                "num_position_embeddings": side * side,
                "deepstack_visual_indexes": [],
            },
            image_token_id=ids.image,
            video_token_id=ids.video,
            vision_start_token_id=ids.vision_start,
            vision_end_token_id=ids.vision_end,
            attn_implementation="sdpa",
        )
    )
    vlm.visual.patch_embed = ConvStem(config)
    return vlm


def batch_vision_attention(vlm: Qwen3VLModel) -> None:
    """Let the vision model treat all images, which are of one size, at once. Same weights, same results."""
    for block in vlm.visual.blocks:
        block.attn.__class__ = BatchedVisionAttention
