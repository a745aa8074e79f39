"""Heads that read latent actions from placeholder states, and their losses (paper, Eq. 6, 7, 10; Sec. 5.4).

Placeholder k predicts token k: nothing is shifted. The heads exist for their loss alone; the action head never sees
what they say.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lavla_ros.policy.strategies.base import mean_counted, mean_loss


class CodeHead(nn.Module):
    """φ_explicit of Eq. 6 and φ_tok of Eq. 10: a linear map from a final-layer state to K code logits."""

    def __init__(self, width: int, codebook: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, codebook)

    def loss(self, states_BND: Tensor, codes_BN: Tensor, weight_BN: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 7 as a mean: -log likelihood of a token, over the N placeholders and the batch; and the accuracy."""
        logits_BNK = self.project(states_BND.to(self.project.weight.dtype)).float()
        nll_BN = F.cross_entropy(logits_BNK.transpose(1, 2), codes_BN.long(), reduction="none")
        correct_BN = (logits_BNK.detach().argmax(dim=-1) == codes_BN).float()
        return mean_loss(nll_BN, weight_BN), {"latent_accuracy": mean_counted(correct_BN, weight_BN)}


class EmbeddingHead(nn.Module):
    """The continuous variants (Sec. 5.4): a two-layer MLP from a final-layer state to an embedding c (d,)."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, embedding))

    def loss(self, states_BND: Tensor, values_BNd: Tensor, weight_BN: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error, a mean over the d dimensions, the N placeholders and the batch."""
        predicted_BNd = self.mlp(states_BND.to(next(self.mlp.parameters()).dtype)).float()
        error_BN = (predicted_BNd - values_BNd.float()).square().mean(dim=-1)
        return mean_loss(error_BN, weight_BN), {"latent_mse": mean_counted(error_BN, weight_BN)}


def by_placeholder(steps_BHPx: Tensor) -> Tensor:
    """(B, H, P, …) → (B, H·P, …): the order in which placeholders stand in the prompt, step by step."""
    return steps_BHPx.flatten(1, 2)
