"""Strategy 1, LA-Align (paper, Sec. 4.2.1): placeholders of a middle layer are drawn towards the latent actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
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
    target: Literal["embedding", "code"] = "embedding"
    """embedding: c_img, before quantisation (Eq. 5). code: the codebook's vector of z_img, as in the public code."""
    projector: Literal["linear", "mlp"] = "linear"
    """φ_align. linear: one map (Sec. 4.2.1). mlp: three layers, as in the public code."""
    centre: bool = False
    """Subtract the training labels' mean from every target (ours). Labels have a large part in common, which a constant
    output is aligned with already."""

    def labels(self, chunk_size: int) -> Mapping[str, LabelSpec]:
        """The P embeddings of each step, or vectors of its codes."""
        del chunk_size
        return {self.key: LabelSpec(shape=(self.tokens, self.embedding))}

    @property
    def key(self) -> str:
        """Of the label that placeholders are aligned with."""
        return "c_img" if self.target == "embedding" else "e_img"


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
        self.options = options
        self.label_specs = options.labels(chunk_size)
        width, out = shape.width, options.tokens * options.embedding
        self.project: nn.Module = nn.Linear(width, out)
        if options.projector == "mlp":
            hidden = (nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
            self.project = nn.Sequential(*hidden, nn.Linear(width, out))
        self.mean_c: Tensor
        self.register_buffer("mean_c", torch.zeros(out), persistent=False)
        self.constant: float | None = None
        """Mean cosine of the targets with the one vector that is closest to all of them; None: not known."""

    def prepare(self, labels: Mapping[str, NDArray[Any]]) -> None:
        """See what the targets have in common."""
        targets_Nc = torch.from_numpy(labels[self.options.key].astype(np.float32)).flatten(1)
        if self.options.centre:
            self.mean_c.copy_(targets_Nc.mean(dim=0))
        self.constant = float(F.normalize(targets_Nc - self.mean_c.cpu(), dim=-1).mean(dim=0).norm())

    def segments(self) -> tuple[Segment, ...]:
        return (Segment(kind="action", steps=self.chunk_size),)

    def latent_loss(
        self, states: PlaceholderStates, labels: Mapping[str, Tensor], weight_BH: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 5: minus the cosine similarity of φ_align(ν^(k)) and c_img, a mean over the H steps and the batch.

        ``latent_cosine_gain`` is how far it is above that of the best constant output: what was learned of the step.
        """
        states_BHD = states.segments["action"][self.layer]
        projected_BHc = self.project(states_BHD.to(next(self.project.parameters()).dtype)).float()
        target_BHc = labels[self.options.key].float().flatten(2) - self.mean_c
        similarity_BH = F.cosine_similarity(projected_BHc, target_BHc, dim=-1)
        figures = {"latent_cosine": mean_counted(similarity_BH, weight_BH)}
        if self.constant is not None:
            figures["latent_cosine_gain"] = figures["latent_cosine"] - self.constant
        return mean_loss(-similarity_BH, weight_BH), figures


def align_layer(choice: str | int, layers: int) -> int:
    """Index of the aligned hidden state, 1 to ``layers``.

    Raises ConfigError for anything else, and for an early or final one that is also the middle one, as in a backbone
    of two layers: what Table 5 compares would be one run.
    """
    fractions = {"early": EARLY / PAPER_LAYERS, "middle": PAPER_LAYER / PAPER_LAYERS, "final": 1.0}
    named = {name: max(1, round(fraction * layers)) for name, fraction in fractions.items()}
    if isinstance(choice, str):
        check(choice in named, "strategy.options.align_layer", choice, f"one of {sorted(named)}, or a number")
        differs = choice == "middle" or named[choice] != named["middle"]
        why = f"another layer than the middle one, but of {layers} layers both are layer {named['middle']}"
        check(differs, "strategy.options.align_layer", choice, why)
        return named[choice]
    check(1 <= choice <= layers, "strategy.options.align_layer", choice, f"1 to {layers}, the backbone's layers")
    return choice
