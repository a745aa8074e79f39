"""The bridge-attention action head (paper, App. B.1; after VLA-Adapter).

Learned queries, one per step of the chunk, pass through one block per aggregated backbone layer.
Block i attends, in one softmax, to [the queries themselves; placeholder states and proprioception
at layer i; image states at layer i], the image part gated by tanh(g).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lavla_ros.config import check
from lavla_ros.policy.config import HeadConfig


class BridgeBlock(nn.Module):
    """One block: bridge attention, then a feed-forward layer, both residual and pre-normalised."""

    def __init__(self, config: HeadConfig, width: int, source_width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(width)
        self.norm_placeholder = nn.LayerNorm(source_width)
        self.norm_image = nn.LayerNorm(source_width)
        self.qkv = nn.Linear(width, 3 * width)
        if config.kv == "separate":
            self.kv_placeholder = nn.Linear(source_width, 2 * width)
            self.kv_image = nn.Linear(source_width, 2 * width)
        self.shared = config.kv == "shared"
        self.gate = nn.Parameter(torch.full((1,), config.vision_gate))
        self.out = nn.Linear(width, width)
        hidden = round(width * config.ffn_ratio)
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def folded_sources(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(source, weight (2 · width, D), bias): keys and values of *normalised* states of placeholders and images.

        The affine part of the norms and the gate are within, in float32; for inference.
        """
        gate = torch.cat(
            [
                torch.tanh(self.gate.detach()).expand(self.out.in_features),
                self.gate.new_ones(1).detach().expand(self.out.in_features),
            ]
        )
        for name, norm, scale in (("placeholder", self.norm_placeholder, None), ("image", self.norm_image, gate)):
            weight, bias = (tensor.detach().float() for tensor in self._key_value(name))
            bias = bias + weight @ norm.bias.detach().float()
            weight = weight * norm.weight.detach().float()
            yield (name, weight, bias) if scale is None else (name, weight * scale[:, None], bias * scale)

    def _key_value(self, source: str) -> tuple[Tensor, Tensor]:
        """Weight (2 W, D) and bias of the map from normalised states of ``source`` to keys and values."""
        if self.shared:
            width = self.qkv.in_features
            return self.qkv.weight[width:], self.qkv.bias[width:]
        own: nn.Linear = getattr(self, f"kv_{source}")
        return own.weight, own.bias

    def forward(
        self, x_BHW: Tensor, placeholders_BND: Tensor, images_BMD: Tensor, positions_NW: Tensor | None = None
    ) -> Tensor:
        """``positions_NW``: added to the keys of the placeholders."""
        batch, steps, width = x_BHW.shape
        q, k_self, v_self = self.qkv(self.norm(x_BHW)).chunk(3, dim=-1)
        placeholders, images = self.norm_placeholder(placeholders_BND), self.norm_image(images_BMD)
        k_place, v_place = F.linear(placeholders, *self._key_value("placeholder")).chunk(2, dim=-1)
        k_image, v_image = F.linear(images, *self._key_value("image")).chunk(2, dim=-1)
        if positions_NW is not None:
            k_place = k_place + positions_NW
        # The gate scales the image part of the scores: tanh(0) = 0 attends to all image states
        # equally, and training sharpens the attention from there.
        keys = torch.cat([k_self, k_place, k_image * torch.tanh(self.gate)], dim=1)
        values = torch.cat([v_self, v_place, v_image], dim=1)
        shape = (batch, -1, self.heads, width // self.heads)
        q, keys, values = (t.view(shape).transpose(1, 2) for t in (q, keys, values))
        attended = F.scaled_dot_product_attention(q, keys, values)
        x_BHW = x_BHW + self.out(attended.transpose(1, 2).reshape(batch, steps, width))
        result: Tensor = x_BHW + self.ffn(x_BHW)
        return result


class BridgeAttentionHead(nn.Module):
    """f_head of Eq. 3: [h_img; h_act; s] → (B, H, A) normalised actions."""

    def __init__(
        self, config: HeadConfig, *, layers: int, source_width: int, state_dim: int, action_dim: int, chunk_size: int
    ) -> None:
        super().__init__()
        width = config.width or source_width
        check(width % config.heads == 0, "head.width", width, f"a multiple of head.heads={config.heads}")
        self.queries = nn.Parameter(torch.randn(chunk_size, width) * 0.02)
        self.step_keys = nn.Parameter(torch.zeros(chunk_size, width)) if config.step_positions else None
        self.proprio = nn.Sequential(
            nn.Linear(state_dim, source_width), nn.GELU(), nn.Linear(source_width, source_width)
        )
        self.blocks = nn.ModuleList(BridgeBlock(config, width, source_width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, action_dim)

    def forward(self, images: list[Tensor], placeholders: list[Tensor], state_BS: Tensor) -> Tensor:
        """``images``: (B, M, D) and ``placeholders``: (B, n, D) for each aggregated layer.

        n is a multiple of H: the steps of one segment, then those of the next.
        """
        dtype = self.queries.dtype
        proprio = self.proprio(state_BS.to(dtype)).unsqueeze(1)
        x = self.queries.unsqueeze(0).expand(state_BS.shape[0], -1, -1)
        positions = self.positions(placeholders[0].shape[1])
        for block, image, placeholder in zip(self.blocks, images, placeholders, strict=True):
            x = block(x, torch.cat([placeholder.to(dtype), proprio], dim=1), image.to(dtype), positions)
        actions: Tensor = self.project(self.norm(x))
        return actions

    def positions(self, count: int) -> Tensor | None:
        """(count + 1, W) to add to the keys of ``count`` placeholders and the state, which has none; None: nothing."""
        if self.step_keys is None:
            return None
        return F.pad(self.step_keys.repeat(count // len(self.step_keys), 1), (0, 0, 0, 1))
