"""Baseline (paper, Sec. 3.3): action placeholders, supervised through the action loss alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lavla_ros.policy.strategies.base import BackboneShape, LabelSpec, Segment, SupervisionStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineOptions:
    """Options of the baseline."""

    placeholders: Literal["H", "PH-Direct", "PH-Cond"] = "H"
    """H: one per step. PH-Direct, PH-Cond: as many as LA-Direct (P·H) or LA-Cond (P·H + H) has (App. E.2)."""
    tokens: int = 4
    """P of the strategy whose length is matched."""

    def labels(self, chunk_size: int) -> Mapping[str, LabelSpec]:
        """None: it learns from actions alone."""
        del chunk_size
        return {}


class Baseline(SupervisionStrategy):
    """Table 7, first row: 0 latent and H action placeholders, λ = 0."""

    name = "baseline"
    weight = 0.0

    def __init__(self, options: BaselineOptions, *, chunk_size: int, shape: BackboneShape) -> None:
        super().__init__()
        del shape
        self.chunk_size = chunk_size
        self.per_step = {"H": 1, "PH-Direct": options.tokens, "PH-Cond": options.tokens + 1}[options.placeholders]

    def segments(self) -> tuple[Segment, ...]:
        return (Segment(kind="action", steps=self.chunk_size, per_step=self.per_step),)
