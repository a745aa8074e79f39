"""The Transformer of the image model: attention over an image's tokens, then over time, then a feed-forward net.

Encoder and decoder are the same class; the decoder sees one image and so has no attention over time.
After UniVLA (paper, App. A.1): pre-norm blocks, queries, keys and values without bias, feed-forward nets of
four times the width, sines and cosines of a token's place in its image as positions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEEDFORWARD = 4
"""Hidden width of the feed-forward nets, in widths."""


class Attention(nn.Module):
    """Multi-head self-attention over the last but one axis."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, *, visible_BL: Tensor | None = None, causal: bool = False) -> Tensor:
        """``visible_BL``: False hides a token from all others. ``causal``: tokens see none after themselves."""
        query, key, value = (
            part(x_BLD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mask = None if visible_BL is None else visible_BL[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        result: Tensor = self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))
        return result


class Block(nn.Module):
    """Attention over space, over time where ``over_time``, and a feed-forward net, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float, *, over_time: bool) -> None:
        super().__init__()
        self.space_norm = nn.LayerNorm(width)
        self.space = Attention(width, heads, dropout)
        self.time_norm = nn.LayerNorm(width) if over_time else None
        self.time = Attention(width, heads, dropout) if over_time else None
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, FEEDFORWARD * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(FEEDFORWARD * width, width),
        )

    def forward(self, x_BTSD: Tensor, visible_BS: Tensor | None) -> Tensor:
        """(B, T, S, D): T images of S tokens. ``visible_BS``: False hides a token in all images."""
        B, T, S, _ = x_BTSD.shape
        visible = None if visible_BS is None else visible_BS.repeat_interleave(T, dim=0)
        space = self.space(self.space_norm(x_BTSD).flatten(0, 1), visible_BL=visible)
        x_BTSD = x_BTSD + space.unflatten(0, (B, T))
        if self.time is not None and self.time_norm is not None:
            # the tokens of one place through all images are a sequence
            time = self.time(self.time_norm(x_BTSD).transpose(1, 2).flatten(0, 1), causal=True)
            x_BTSD = x_BTSD + time.unflatten(0, (B, S)).transpose(1, 2)
        result: Tensor = x_BTSD + self.feedforward(self.feedforward_norm(x_BTSD))
        return result


class SpaceTimeTransformer(nn.Module):
    """Tokens of T images → as many states. Attention over time is causal: an image doesn't see later ones."""

    def __init__(
        self, in_width: int, width: int, blocks: int, heads: int, *, max_tokens: int, over_time: bool, dropout: float
    ) -> None:
        """``max_tokens``: most tokens per image, without the text."""
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(in_width), nn.Linear(in_width, width), nn.LayerNorm(width))
        self.blocks = nn.ModuleList(Block(width, heads, dropout, over_time=over_time) for _ in range(blocks))
        self.position_SD: Tensor
        self.register_buffer("position_SD", sinusoids(max_tokens, width), persistent=False)

    def forward(
        self, tokens_BTSE: Tensor, text_BLD: Tensor | None = None, text_mask_BL: Tensor | None = None
    ) -> Tensor:
        """(B, T, S, E) → states (B, T, S, D).

        ``text_BLD`` joins the tokens of every image, after them and without positions; ``text_mask_BL`` is
        False on its padding, which nothing attends to. States of the text are not returned.
        """
        B, T, S, _ = tokens_BTSE.shape
        x_BTSD = self.project(tokens_BTSE) + self.position_SD[:S]
        visible_BS = None
        if text_BLD is not None:
            x_BTSD = torch.cat([x_BTSD, text_BLD.unsqueeze(1).expand(-1, T, -1, -1).to(x_BTSD.dtype)], dim=2)
            if text_mask_BL is not None:
                visible_BS = torch.cat([text_mask_BL.new_ones(B, S), text_mask_BL], dim=1)
        for block in self.blocks:
            x_BTSD = block(x_BTSD, visible_BS)
        states_BTSD: Tensor = x_BTSD[:, :, :S]
        return states_BTSD


def sinusoids(count: int, width: int) -> Tensor:
    """(count, width): sines (even columns) and cosines (odd ones) of wavelengths from 2π to 2π · 10,000."""
    frequency = torch.exp(-math.log(10_000.0) / width * torch.arange(0, width, 2))
    angle = torch.arange(count)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
