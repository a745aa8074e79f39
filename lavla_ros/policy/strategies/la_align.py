"""Strategy 1, LA-Align (paper, Sec. 4.2.1): placeholders of a middle layer are drawn towards the latent actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from lavla_ros.config import check
from lavla_ros.policy.strategies.base import (
    BackboneShape,
    LabelSpec,
    PlaceholderStates,
    Segment,
    SupervisionStrategy,
    mean_counted,
    mean_loss,
)

PAPER_LAYER, PAPER_LAYERS = 17, 28
"""Hidden state 17 of 29 (index 0 is the embedding) of Qwen3-VL-2B; other depths take the same fraction."""
EARLY = 7
"""Our reading of "early" in Table 5, of 28; the paper gives no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaAlignOptions:
    """Options of LA-Align."""

    weight: float = 1.0
    """λ (Table 7)."""
    align_layer: str | int = "middle"
    """middle: 17/28 of the depth. early, final: the ablation of Table 5. A number: that hidden state."""
    tokens: int = 4
    """P: tokens of one image-based latent action."""
    embedding: int = 128
    """d of one token."""

    def labels(self, chunk_size: int) -> Mapping[str, LabelSpec]:
        """The P embeddings of each step."""
        del chunk_size
        return {"c_img": LabelSpec(shape=(self.tokens, self.embedding))}


class LaAlign(SupervisionStrategy):
    """Table 7: 0 latent and H action placeholders, λ = 1.

    The embedding of a step is its P token embeddings side by side (P·d); placeholder h is aligned with that of
    step t + h.
    """

    name = "la_align"

    def __init__(self, options: LaAlignOptions, *, chunk_size: int, shape: BackboneShape) -> None:
        super().__init__()
        self.weight = options.weight
        self.chunk_size = chunk_size
        self.layer = align_layer(options.align_layer, shape.layers)
        self.label_specs = options.labels(chunk_size)
        self.project = nn.Linear(shape.width, options.tokens * options.embedding)

    def segments(self) -> tuple[Segment, ...]:
        return (Segment(kind="action", steps=self.chunk_size),)

    def latent_loss(
        self, states: PlaceholderStates, labels: Mapping[str, Tensor], weight_BH: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 5: minus the cosine similarity of φ_align(ν^(k)) and c_img, a mean over the H steps and the batch."""
        states_BHD = states.segments["action"][self.layer]
        projected_BHc = self.project(states_BHD.to(self.project.weight.dtype)).float()
        target_BHc = labels["c_img"].float().flatten(2)
        similarity_BH = F.cosine_similarity(projected_BHc, target_BHc, dim=-1)
        return mean_loss(-similarity_BH, weight_BH), {"latent_cosine": mean_counted(similarity_BH, weight_BH)}


def align_layer(choice: str | int, layers: int) -> int:
    """Index of the aligned hidden state, 1 to ``layers``. Raises ConfigError for anything else."""
    named = {"early": EARLY / PAPER_LAYERS, "middle": PAPER_LAYER / PAPER_LAYERS, "final": 1.0}
    if isinstance(choice, str):
        check(choice in named, "strategy.options.align_layer", choice, f"one of {sorted(named)}, or a number")
        return max(1, round(named[choice] * layers))
    check(1 <= choice <= layers, "strategy.options.align_layer", choice, f"1 to {layers}, the backbone's layers")
    return choice
