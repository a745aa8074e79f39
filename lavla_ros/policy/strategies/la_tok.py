"""Strategy 4, LA-Tok (paper, Sec. 4.3.1): placeholder h predicts the action token of step h."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lavla_ros.policy.strategies.base import BackboneShape, LabelSpec, PlaceholderStates, Segment, SupervisionStrategy
from lavla_ros.policy.strategies.decoding import CodeHead, EmbeddingHead


@dataclass(frozen=True, slots=True, kw_only=True)
class LaTokOptions:
    """Options of LA-Tok."""

    weight: float = 0.1
    """λ (Table 7; Table 12 compares 0.1, 0.2 and 0.5)."""
    codebook: int = 256
    """K_act."""
    embedding: int = 128
    """d of a token; for the continuous variant."""
    continuous: bool = False
    """Regress the embeddings c_act in place of the codes z_act: LA-Tok (C) of Sec. 5.4."""

    def labels(self, chunk_size: int) -> Mapping[str, LabelSpec]:
        """One code, or embedding, for each step of a chunk."""
        if self.continuous:
            return {"c_act": LabelSpec(shape=(chunk_size, self.embedding))}
        return {"z_act": LabelSpec(shape=(chunk_size,), codebook=self.codebook)}


class LaTok(SupervisionStrategy):
    """Table 7: H latent and 0 action placeholders, λ = 0.1."""

    name = "la_tok"

    def __init__(self, options: LaTokOptions, *, chunk_size: int, shape: BackboneShape) -> None:
        super().__init__()
        self.weight = options.weight
        self.chunk_size = chunk_size
        self.label_specs = options.labels(chunk_size)
        (self.label,) = self.label_specs
        self.decoder: CodeHead | EmbeddingHead
        if options.continuous:
            self.decoder = EmbeddingHead(shape.width, options.embedding)
        else:
            self.decoder = CodeHead(shape.width, options.codebook)

    def segments(self) -> tuple[Segment, ...]:
        return (Segment(kind="latent", steps=self.chunk_size),)

    def latent_loss(
        self, states: PlaceholderStates, labels: Mapping[str, Tensor], weight_BH: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 10 with the loss of Eq. 7, from the final layer's states."""
        return self.decoder.loss(states.segments["latent"][-1], labels[self.label], weight_BH)
