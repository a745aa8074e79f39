"""Frozen weights that rest in bfloat16, as the hub stores them, while float32 is computed in: half the memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Product(torch.autograd.Function):
    """x · Wᵀ + b with W brought to x's type for as long as it is needed; W and b have no gradient."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(weight)
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = context.saved_tensors
        return gradients[0] @ weight.to(gradients[0].dtype), None, None


class RestingLinear(nn.Linear):
    """A frozen linear layer that computes in its input's type."""

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return result


class RestingEmbedding(nn.Embedding):
    """A frozen embedding that gives float32."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).float()


def rest(network: nn.Module) -> None:
    """Let a frozen network in bfloat16 compute in float32: matrices stay as they are, all the rest is float32."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = RestingLinear
        elif type(module) is nn.Embedding and module.embedding_dim * module.num_embeddings > 2**22:
            module.__class__ = RestingEmbedding
        else:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
