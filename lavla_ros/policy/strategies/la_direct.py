"""Strategy 2, LA-Direct (paper, Sec. 4.2.2): placeholders predict image-based latent actions, then become actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lavla_ros.policy.strategies.base import BackboneShape, LabelSpec, PlaceholderStates, Segment, SupervisionStrategy
from lavla_ros.policy.strategies.decoding import CodeHead, EmbeddingHead, by_placeholder


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLatentOptions:
    """Options of the strategies that predict image-based latent actions."""

    weight: float = 0.1
    """λ (Table 7)."""
    tokens: int = 4
    """P: tokens, and placeholders, of one step (App. D.2)."""
    codebook: int = 16
    """K_img."""
    embedding: int = 128
    """d of one token; for the continuous variant."""
    continuous: bool = False
    """Regress the embeddings c_img in place of the codes z_img: LA-Direct (C) of Sec. 5.4."""

    def labels(self, chunk_size: int) -> Mapping[str, LabelSpec]:
        """The P embeddings of each step, or their codes."""
        del chunk_size
        if self.continuous:
            return {"c_img": LabelSpec(shape=(self.tokens, self.embedding))}
        return {"z_img": LabelSpec(shape=(self.tokens,), codebook=self.codebook)}


class LaDirect(SupervisionStrategy):
    """Table 7: P·H latent and 0 action placeholders, λ = 0.1. The action head sees the latent states (Eq. 8)."""

    name = "la_direct"

    def __init__(self, options: ImageLatentOptions, *, chunk_size: int, shape: BackboneShape) -> None:
        super().__init__()
        self.weight = options.weight
        self.chunk_size = chunk_size
        self.tokens = options.tokens
        self.label_specs = options.labels(chunk_size)
        (self.label,) = self.label_specs
        self.decoder: CodeHead | EmbeddingHead
        if options.continuous:
            self.decoder = EmbeddingHead(shape.width, options.embedding)
        else:
            self.decoder = CodeHead(shape.width, options.codebook)

    def segments(self) -> tuple[Segment, ...]:
        return (Segment(kind="latent", steps=self.chunk_size, per_step=self.tokens),)

    def latent_loss(
        self, states: PlaceholderStates, labels: Mapping[str, Tensor], weight_BH: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 7 over the P tokens of every step, from the final layer's states (Eq. 6)."""
        weight_BN = weight_BH.repeat_interleave(self.tokens, dim=1)
        return self.decoder.loss(states.segments["latent"][-1], by_placeholder(labels[self.label]), weight_BN)
