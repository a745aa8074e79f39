"""What a supervision strategy decides, and nothing else (paper, Sec. 4.1).

A strategy chooses the placeholders appended to the prompt, which of their states the action head
sees, the latent loss on the backbone's states and its weight λ. Backbone, aggregation and head are
the same for all strategies (Sec. 3.3); the trainer knows only this interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray
from torch import Tensor, nn

from lavla_ros.config import check

SegmentKind = Literal["latent", "action"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of placeholders in the prompt: ``count = steps * per_step`` tokens of one kind."""

    kind: SegmentKind
    steps: int
    """H, the chunk size."""
    per_step: int = 1
    """P, placeholders of one step; the head sees their mean, so that steps are never mixed."""

    @property
    def count(self) -> int:
        return self.steps * self.per_step


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneShape:
    """What a strategy may need to know of the backbone to size its heads."""

    width: int
    layers: int
    """N: decoder layers; hidden state k = 0 is the embedding, k = N the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceholderStates:
    """States of every placeholder at every layer of the backbone."""

    segments: Mapping[SegmentKind, Sequence[Tensor]]
    """Segment kind → N + 1 tensors (B, count, D), layer 0 (embeddings) to N."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSpec:
    """One kind of latent label as the dataset stores it, per step."""

    shape: tuple[int, ...]
    """Without the leading number of steps: (P,) or (P, d) for images, (H,) or (H, d) for actions."""
    codebook: int | None = None
    """K for codes 0 … K - 1; None for embeddings."""


class StrategyOptions(Protocol):
    """What the options of every strategy tell, before any network is built."""

    def labels(self, chunk_size: int) -> Mapping[str, LabelSpec]:
        """The latent labels that a strategy with these options needs for chunks of ``chunk_size`` steps, by key."""


class SupervisionStrategy(nn.Module):
    """Base of all strategies; a module because most own a latent head."""

    name: str
    weight: float
    """λ of the objective L = L_action + λ · L_latent (Eq. 4)."""
    label_specs: Mapping[str, LabelSpec] = {}
    """Labels that ``latent_loss`` reads from a batch; the trainer supplies exactly these."""

    @property
    def required_labels(self) -> tuple[str, ...]:
        return tuple(self.label_specs)

    def prepare(self, labels: Mapping[str, NDArray[Any]]) -> None:
        """Called once before training with the labels of training steps by key, (rows, …); by default unused."""
        del labels

    def segments(self) -> tuple[Segment, ...]:
        """Placeholders, in prompt order."""
        raise TypeError(f"{type(self).__name__} does not define its placeholders")

    def head_segments(self) -> tuple[SegmentKind, ...]:
        """Segments whose states the action head attends to; default: every one."""
        return tuple(segment.kind for segment in self.segments())

    def latent_loss(
        self, states: PlaceholderStates, labels: Mapping[str, Tensor], weight_BH: Tensor
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """L_latent (None: no such term) and figures to log.

        The loss is a mean as :func:`mean_loss` takes it, so that λ means the same for all strategies. A figure is a
        mean over what counts, as :func:`mean_counted` takes it. ``labels``: z_img (B, H, P), c_img (B, H, P, d), z_act
        (B, H), c_act (B, H, d). ``weight_BH``: 1 if a step counts, as in the action loss.
        """
        del states, labels, weight_BH
        return None, {}


def check_labels(specs: Mapping[str, LabelSpec], labels: Mapping[str, NDArray[Any]], *, steps: int) -> None:
    """Raise ConfigError unless ``labels`` (one row per step of the data) are what the strategy was built for."""
    for key, spec in specs.items():
        check(key in labels, "labels", sorted(labels), f"{key!r} among them; make it with `lavla latent label`")
        array = labels[key]
        check(array.shape == (steps, *spec.shape), f"labels {key!r}", array.shape, f"shape {(steps, *spec.shape)}")
        if spec.codebook is not None and steps > 0:
            low, high = int(array.min()), int(array.max())
            check(
                low >= 0 and high < spec.codebook,
                f"codes of {key!r}",
                f"{low} to {high}",
                f"0 to {spec.codebook - 1}: strategy.options.codebook must be that of the latent action model",
            )


def mean_loss(value_BN: Tensor, weight_BN: Tensor) -> Tensor:
    """A term of the objective: the mean over all N steps (or placeholders) and samples; what does not count adds 0.

    Dividing by N, and not by how many count, gives every step the same weight, wherever an episode ends, and makes
    the loss of a batch the mean of those of its equal parts.
    """
    return (value_BN * weight_BN).mean()


def mean_counted(value_BN: Tensor, weight_BN: Tensor) -> Tensor:
    """A figure for people: the mean over what counts, detached; 0 if nothing does."""
    return (value_BN.detach() * weight_BN).sum() / weight_BN.sum().clamp(min=1)


def pool_steps(states_BND: Tensor, segment: Segment) -> Tensor:
    """(B, H·P, D) → (B, H, D): mean over the P placeholders of each step."""
    if segment.per_step == 1:
        return states_BND
    batch, count, width = states_BND.shape
    return states_BND.reshape(batch, count // segment.per_step, segment.per_step, width).mean(dim=2)
