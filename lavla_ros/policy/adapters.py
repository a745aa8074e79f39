"""A frozen backbone with adapters in few operations: the libraries' modules, weights and names, another forward pass.

The thin products of adapters that read the same input are one, the wide ones are added where the frozen layer's output
stands, and nothing is brought to another type but the adapters themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextAttention, Qwen3VLTextMLP, Qwen3VLTextRMSNorm

from lavla_ros.policy.config import LoraConfig

ADAPTER = "default"
"""peft's name of the only adapter."""


class AdaptedLinear(PeftLinear):  # type: ignore[misc]
    """W x + α/r · B A x, up to rounding what peft computes without dropout."""

    _low: Tensor | None = None
    """A x of the input that comes next, if it was computed together with others."""

    def forward(self, x: Tensor) -> Tensor:
        low, self._low = self._low, None
        flat = x.flatten(0, -2)
        low = _low([self], flat)[0] if low is None else low
        out: Tensor = self.base_layer(flat)
        # in place: no gradient needs the frozen layer's output
        up = self.lora_B[ADAPTER].weight.to(out.dtype).t()
        out = out.addmm_(low.to(out.dtype), up, alpha=self.scaling[ADAPTER])
        return out.view(*x.shape[:-1], out.shape[-1])


class AdaptedAttention(Qwen3VLTextAttention):  # type: ignore[misc]
    """The language model's, whose q, k and v have the same input."""

    def forward(self, hidden_states: Tensor, *others: Any, **named: Any) -> Any:
        _read_together([self.q_proj, self.k_proj, self.v_proj], hidden_states)
        return super().forward(hidden_states, *others, **named)


class AdaptedMlp(Qwen3VLTextMLP):  # type: ignore[misc]
    """The language model's, whose gate and up have the same input."""

    def forward(self, x: Tensor) -> Any:
        _read_together([self.gate_proj, self.up_proj], x)
        return super().forward(x)


class OneNorm(Qwen3VLTextRMSNorm):  # type: ignore[misc]
    """The language model's norm as one operation."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


_FAST = {
    PeftLinear: AdaptedLinear,
    Qwen3VLTextAttention: AdaptedAttention,
    Qwen3VLTextMLP: AdaptedMlp,
    Qwen3VLTextRMSNorm: OneNorm,
}


def with_adapters(vlm: nn.Module, config: LoraConfig) -> Any:
    """Freeze the model and put adapters on all its linear layers (App. B.1)."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    lora = PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        bias="none",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it asks for what transformers has given another name
        adapted = get_peft_model(vlm, lora)
    if config.dropout == 0:  # which draws for every layer on its own
        for module in adapted.modules():
            module.__class__ = _FAST.get(type(module), type(module))
    return adapted


def without_joining(network: nn.Module) -> None:
    """Let adapters be computed as peft does, one by one; for comparisons."""
    stock = {fast: slow for slow, fast in _FAST.items()}
    for module in network.modules():
        module.__class__ = stock.get(type(module), type(module))


def _read_together(layers: Sequence[AdaptedLinear], x: Tensor) -> None:
    for layer, low in zip(layers, _low(layers, x.flatten(0, -2)), strict=True):
        layer._low = low


def _low(layers: Sequence[AdaptedLinear], flat_nD: Tensor) -> Sequence[Tensor]:
    """(n, r) for each of the layers: A x."""
    weights = [layer.lora_A[ADAPTER].weight for layer in layers]
    together = weights[0] if len(weights) == 1 else torch.cat(weights)
    return torch.split(F.linear(flat_nD, together.to(flat_nD.dtype)), [len(weight) for weight in weights], dim=-1)
