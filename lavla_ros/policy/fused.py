"""The network as it is run: one observation, adapters merged, projections that read the same input joined.

The same function as :class:`LatentActionVLA` up to rounding, in a third of its operations, none of which waits for the
device or depends on a tensor's values, so that a CUDA graph can hold all of them. What depends on the instruction alone
is computed once, in :meth:`FusedPolicy.prompt`. It is for inference only.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lavla_ros.policy.backbone import Backbone, patchify
from lavla_ros.policy.head import BridgeAttentionHead, BridgeBlock
from lavla_ros.policy.model import LatentActionVLA, token_positions
from lavla_ros.policy.strategies import pool_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPrompt:
    """What the network needs to know of an instruction, on its device."""

    embeddings_LD: Tensor
    """Of all tokens; the rows of image tokens are overwritten in every pass."""
    columns_n: Tensor
    """Places of the placeholders that the action head sees, segment after segment."""
    tables: Tensor
    """(layers, 2, L, heads, d): cosines and sines of the language model, with the weights of its q and k norms."""

    @property
    def length(self) -> int:
        """L, padding included."""
        return int(self.embeddings_LD.shape[0])


class FusedPolicy(nn.Module):
    """Pixels and state to actions, given a prepared prompt."""

    def __init__(self, model: LatentActionVLA, *, cameras: int, device: torch.device, dtype: torch.dtype) -> None:
        """Takes the weights out of ``model``, layer by layer, which is of no use afterwards.

        ``dtype``: of all weights and of what is computed with them, but for the numbers that come out.
        """
        super().__init__()
        backbone, self.dtype, self.device = model.backbone, dtype, device
        self._cameras, self._embed = cameras, backbone
        self._segments = [
            s for kind in model.strategy.head_segments() for s in model.strategy.segments() if s.kind == kind
        ]
        text = backbone.vlm.language_model
        self.first = min(model.layers)
        self.heads = [_text_heads(layer.self_attn) for layer in text.layers]
        self.norms = [_norm_weights(layer.self_attn).cpu() for layer in text.layers]
        self.vision = FusedVision(backbone, cameras, device, dtype)
        self.layers = nn.ModuleList(_taken(FusedTextLayer, layer, device, dtype) for layer in text.layers)
        self.norm = RmsNorm(text.norm, device, dtype)
        self.head = FusedHead(model.head, sum(s.steps for s in self._segments), device, dtype)
        self.image_columns = nn.Buffer(backbone.image_columns(cameras, torch.device("cpu")).to(device))
        self.requires_grad_(False).eval()

    def forward(
        self, pixels: Tensor, state_S: Tensor, embeddings_LD: Tensor, columns_n: Tensor, tables: Tensor
    ) -> Tensor:
        """(cameras, size, size, 3) uint8 and the normalised state → (H, A) normalised actions, float32."""
        image_states, deepstack = self.vision(pixels)
        x = embeddings_LD.index_copy(0, self.image_columns, image_states)
        seen = torch.cat([self.image_columns, columns_n])
        states = [x.index_select(0, seen)] if self.first == 0 else []
        for k, layer in enumerate(self.layers):
            x = layer(x, tables[k])
            if k + 1 >= self.first:
                chosen = x.index_select(0, seen)
                states.append(chosen if k + 1 < len(self.layers) else self.norm(chosen))
            if k < len(deepstack):
                x = x.index_add(0, self.image_columns, deepstack[k])
        stacked = torch.stack(states)
        images = self.image_columns.shape[0]
        parts = torch.split(stacked[:, images:], [segment.count for segment in self._segments], dim=1)
        placeholders = [pool_steps(part, s) for part, s in zip(parts, self._segments, strict=True)]
        actions: Tensor = self.head(stacked[:, :images], placeholders, state_S)
        return actions.float()

    @torch.inference_mode()
    def prompt(self, tokens_L: Tensor) -> PreparedPrompt:
        """Prepare the token ids of an instruction."""
        tokens = tokens_L[None].to(self._embed.vlm.language_model.embed_tokens.weight.device)
        ids = dict(self._embed.ids.placeholders)
        columns = [token_positions(tokens, ids[s.kind], s.count)[0] for s in self._segments]
        return PreparedPrompt(
            embeddings_LD=self._embed.embed(tokens)[0].to(self.device, self.dtype),
            columns_n=torch.cat(columns).to(self.device),
            tables=self._tables(tokens.shape[1]),
        )

    def _tables(self, length: int) -> Tensor:
        like = torch.empty(0, device=self._embed.vlm.language_model.rotary_emb.inv_freq.device)
        cos, sin = (t[0, :, None].float().cpu() for t in self._embed.rope_tables(self._cameras, length, like))
        tables = [_folded(cos, sin, weight.float()) for weight in self.norms]
        return torch.stack(tables).to(self.device, self.dtype)


class FusedVision(nn.Module):
    """The vision model on images of one size: what stands at the image tokens, and DeepStack's additions to it."""

    def __init__(self, backbone: Backbone, images: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        visual = backbone.vlm.visual
        self.images, self.tokens = images, backbone.grid[1] * backbone.grid[2]
        self.patchify = None
        if backbone.config.kind == "tiny":
            self.embed = visual.patch_embed.to(device, dtype)
        else:
            self.patchify = (backbone.patch_size, backbone.merge_size, backbone.temporal_patch_size)
            convolution = visual.patch_embed.proj
            weight = convolution.weight.flatten(1)  # a patch is the whole kernel's input
            self.embed = _linear(weight, convolution.bias, device, dtype)
        fixed = backbone.vision_inputs(1, torch.device("cpu"))
        with torch.no_grad():
            table = visual.pos_embed.weight.detach().float().cpu()
            places = (table[fixed["interp_indices"]] * fixed["interp_weights"][:, :, None]).sum(1)
            cos, sin = visual.rotary_pos_emb.cpu()(table, fixed["position_ids"])
            tables = _folded(cos[:, None], sin[:, None], torch.ones(1, cos.shape[-1]))
        self.places = nn.Buffer(places.to(device, dtype))
        self.tables = nn.Buffer(tables.to(device, dtype))
        self.blocks = nn.ModuleList(_taken(FusedVisionBlock, block, device, dtype) for block in visual.blocks)
        self.merger = _merged_linears(visual.merger, device, dtype)
        self.deepstack_at = list(visual.deepstack_visual_indexes)
        self.deepstack = nn.ModuleList(_merged_linears(m, device, dtype) for m in visual.deepstack_merger_list)

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = pixels.permute(0, 3, 1, 2).to(self.places.dtype) / 127.5 - 1.0
        if self.patchify is not None:
            x = patchify(x, *self.patchify)
        x = self.embed(x).view(self.images, self.tokens, -1) + self.places
        added: list[Tensor] = []
        for k, block in enumerate(self.blocks):
            x = block(x, self.tables)
            if k in self.deepstack_at:
                added.append(self.deepstack[len(added)](x.flatten(0, 1)))
        return self.merger(x.flatten(0, 1)), added


class FusedVisionBlock(nn.Module):
    def __init__(self, block: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        source: Any = block
        self.heads = source.attn.num_heads
        self.norm1, self.norm2 = (_copied(m, device, dtype) for m in (source.norm1, source.norm2))
        self.qkv, self.proj = (_joined([m], device, dtype) for m in (source.attn.qkv, source.attn.proj))
        self.fc1, self.fc2 = (_joined([m], device, dtype) for m in (source.mlp.linear_fc1, source.mlp.linear_fc2))
        self.act = source.mlp.act_fn

    def forward(self, x_NTD: Tensor, tables: Tensor) -> Tensor:
        images, tokens, width = x_NTD.shape
        parts = (
            self.qkv(self.norm1(x_NTD))
            .view(images, tokens, 3 * self.heads, -1)
            .split([2 * self.heads, self.heads], dim=2)
        )
        q, k = _rotate(parts[0], tables).transpose(1, 2).chunk(2, dim=1)
        attended = F.scaled_dot_product_attention(q, k, parts[1].transpose(1, 2))
        x_NTD = x_NTD + self.proj(attended.transpose(1, 2).reshape(images, tokens, width))
        result: Tensor = x_NTD + self.fc2(self.act(self.fc1(self.norm2(x_NTD))))
        return result


class FusedTextLayer(nn.Module):
    def __init__(self, layer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        source: Any = layer
        attention, mlp = source.self_attn, source.mlp
        self.heads, self.kv_heads = _text_heads(attention)
        self.head_dim, self.eps = attention.head_dim, attention.q_norm.variance_epsilon
        self.norm1 = RmsNorm(source.input_layernorm, device, dtype)
        self.norm2 = RmsNorm(source.post_attention_layernorm, device, dtype)
        self.qkv = _joined([attention.q_proj, attention.k_proj, attention.v_proj], device, dtype)
        self.out = _joined([attention.o_proj], device, dtype)
        self.gate_up = _joined([mlp.gate_proj, mlp.up_proj], device, dtype)
        self.down = _joined([mlp.down_proj], device, dtype)
        self.act = mlp.act_fn

    def forward(self, x_LD: Tensor, tables: Tensor) -> Tensor:
        turned = self.heads + self.kv_heads
        heads = self.qkv(self.norm1(x_LD)).view(x_LD.shape[0], turned + self.kv_heads, self.head_dim)
        qk = F.rms_norm(heads[:, :turned], (self.head_dim,), None, self.eps)  # their weights are in the tables
        turned_qk = _rotate(qk, tables).transpose(0, 1)[None]
        q, k = turned_qk[:, : self.heads], turned_qk[:, self.heads :]
        v = heads[:, turned:].transpose(0, 1)[None]
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.kv_heads < self.heads)
        x_LD = x_LD + self.out(attended[0].transpose(0, 1).flatten(1))
        gate, up = self.gate_up(self.norm2(x_LD)).chunk(2, dim=-1)
        result: Tensor = x_LD + self.down(self.act(gate) * up)
        return result


class RmsNorm(nn.Module):
    """The language model's norm as one operation."""

    def __init__(self, source: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        stock: Any = source
        self.weight = nn.Parameter(stock.weight.detach().to(device, dtype), requires_grad=False)
        self.eps: float = stock.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class FusedHead(nn.Module):
    """The action head; keys and values of what it reads of the backbone are computed for all its blocks at once."""

    def __init__(self, head: BridgeAttentionHead, places: int, device: torch.device, dtype: torch.dtype) -> None:
        """``places``: how many placeholder states a block reads."""
        super().__init__()
        self.proprio = head.proprio.to(device, dtype)
        blocks = []
        sources: dict[str, list[Tensor]] = defaultdict(list)
        for block in head.blocks:
            assert isinstance(block, BridgeBlock)
            for name, weight, bias in block.folded_sources():
                sources[f"{name}_weight"].append(weight.T)
                sources[f"{name}_bias"].append(bias[None])
            blocks.append(_taken(FusedHeadBlock, block, device, dtype))
        self.blocks = nn.ModuleList(blocks)
        stacked = {key: torch.stack(tensors).to(device, dtype) for key, tensors in sources.items()}
        bias = stacked["placeholder_bias"]
        positions = head.positions(places)
        if positions is not None:  # of the keys; values have none
            bias = bias + F.pad(positions.detach(), (0, positions.shape[1])).to(device, dtype)
        self.place_weight, self.place_bias = nn.Buffer(stacked["placeholder_weight"]), nn.Buffer(bias)
        self.image_weight, self.image_bias = nn.Buffer(stacked["image_weight"]), nn.Buffer(stacked["image_bias"])
        self.queries = nn.Buffer(head.queries.detach().to(device, dtype))
        self.norm, self.project = head.norm.to(device, dtype), head.project.to(device, dtype)

    def forward(self, images_KMD: Tensor, placeholders: Sequence[Tensor], state_S: Tensor) -> Tensor:
        proprio = self.proprio(state_S.to(self.queries.dtype)).expand(images_KMD.shape[0], 1, -1)
        places = F.layer_norm(torch.cat([*placeholders, proprio], dim=1), (images_KMD.shape[-1],))
        images = F.layer_norm(images_KMD, (images_KMD.shape[-1],))
        read = torch.cat(
            [
                torch.baddbmm(self.place_bias, places, self.place_weight),
                torch.baddbmm(self.image_bias, images, self.image_weight),
            ],
            dim=1,
        )
        x = self.queries
        for block, other in zip(self.blocks, read.unbind(0), strict=True):
            x = block(x, other)
        actions: Tensor = self.project(self.norm(x))
        return actions


class FusedHeadBlock(nn.Module):
    def __init__(self, block: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        source: Any = block
        self.heads = source.heads
        self.norm, self.qkv, self.out, self.ffn = (
            _copied(m, device, dtype) for m in (source.norm, source.qkv, source.out, source.ffn)
        )

    def forward(self, x_HW: Tensor, read: Tensor) -> Tensor:
        steps, width = x_HW.shape
        q, own = self.qkv(self.norm(x_HW)).split([width, 2 * width], dim=-1)
        both = torch.cat([own, read]).view(-1, 2, self.heads, width // self.heads)
        keys, values = both.permute(1, 2, 0, 3)[:, None].unbind(0)
        queries = q.view(steps, self.heads, -1).transpose(0, 1)[None]
        attended = F.scaled_dot_product_attention(queries, keys, values)
        x_HW = x_HW + self.out(attended[0].transpose(0, 1).reshape(steps, width))
        result: Tensor = x_HW + self.ffn(x_HW)
        return result


def _rotate(x: Tensor, tables: Tensor) -> Tensor:
    """Rotary embedding of (…, L, heads, d) by what :func:`_folded` gives."""
    return torch.addcmul(x * tables[0], x.roll(x.shape[-1] // 2, -1), tables[1])


def _folded(cos: Tensor, sin: Tensor, weight: Tensor) -> Tensor:
    """(2, L, heads, d) tables that turn x · weight by these angles, for x (L, heads, d); weight: (heads, d).

    Turning adds sin · (-second half, first half): the sign goes to the sine, and the halves are swapped by a roll.
    """
    half = cos.shape[-1] // 2
    signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
    return torch.stack([cos * weight, signed * weight.roll(half, -1)])


def _text_heads(attention: nn.Module) -> tuple[int, int]:
    stock: Any = attention
    return stock.config.num_attention_heads, stock.config.num_key_value_heads


def _norm_weights(attention: nn.Module) -> Tensor:
    """(heads + kv_heads, d): the weights of the q and k norms, for every head."""
    stock: Any = attention
    heads, kv_heads = _text_heads(attention)
    weights = [stock.q_norm.weight.detach().expand(heads, -1), stock.k_norm.weight.detach().expand(kv_heads, -1)]
    return torch.cat(weights)


def merged_weight(linear: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer, its adapters (if it has any) added in float32."""
    layer: Any = linear
    base = getattr(layer, "base_layer", layer)
    weight, bias = base.weight.detach(), None if base.bias is None else base.bias.detach()
    if base is not layer:
        weight = weight.float()
        for name in layer.active_adapters:
            weight = weight + layer.get_delta_weight(name).detach().float()
    return weight, bias


def _joined(linears: Sequence[nn.Module], device: torch.device, dtype: torch.dtype) -> nn.Linear:
    """One layer for those that have the same input; its outputs are theirs, one after the other."""
    found = [merged_weight(linear) for linear in linears]
    weight = torch.cat([weight.to(device, dtype) for weight, _ in found])
    biases = [bias for _, bias in found if bias is not None]
    return _linear(weight, torch.cat(biases) if biases else None, device, dtype)


def _linear(weight: Tensor, bias: Tensor | None, device: torch.device, dtype: torch.dtype) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.detach().to(device, dtype), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().to(device, dtype), requires_grad=False)
    return linear


def _merged_linears(merger: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A patch merger in its own class, with plain layers."""
    source: Any = merger
    source.linear_fc1, source.linear_fc2 = (_joined([m], device, dtype) for m in (source.linear_fc1, source.linear_fc2))
    return merger.to(device, dtype)


def _copied(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(module).to(device, dtype)


def _taken(kind: type[nn.Module], source: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """``kind`` of ``source``, whose memory is given back: two copies of a large model would not fit."""
    made = kind(source, device, dtype)
    source.to("meta")
    return made
