"""A strategy from outside the package: placeholder h predicts the first token of step h's image-based latent action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lavla_ros.policy.strategies import (
    BackboneShape,
    LabelSpec,
    PlaceholderStates,
    Segment,
    SupervisionStrategy,
)
from lavla_ros.policy.strategies.decoding import CodeHead

NAME = "outside_strategy:FIRST_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstTokenOptions:
    weight: float = 0.1
    tokens: int = 4
    codebook: int = 16

    def labels(self, chunk_size: int) -> Mapping[str, LabelSpec]:
        return {"z_img": LabelSpec(shape=(self.tokens,), codebook=self.codebook)}


class FirstToken(SupervisionStrategy):
    name = NAME

    def __init__(self, options: FirstTokenOptions, *, chunk_size: int, shape: BackboneShape) -> None:
        super().__init__()
        self.weight = options.weight
        self.chunk_size = chunk_size
        self.label_specs = options.labels(chunk_size)
        self.decoder = CodeHead(shape.width, options.codebook)

    def segments(self) -> tuple[Segment, ...]:
        return (Segment(kind="action", steps=self.chunk_size),)

    def latent_loss(
        self, states: PlaceholderStates, labels: Mapping[str, Tensor], weight_BH: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.decoder.loss(states.segments["action"][-1], labels["z_img"][..., 0], weight_BH)


FIRST_TOKEN = (FirstTokenOptions, FirstToken)
