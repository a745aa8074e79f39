"""LatentActionVLA: backbone, placeholders, action head and supervision strategy, one forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn

from lavla_ros.contract import Contract
from lavla_ros.policy.backbone import Backbone
from lavla_ros.policy.config import PolicyConfig
from lavla_ros.policy.head import BridgeAttentionHead
from lavla_ros.policy.strategies import (
    PlaceholderStates,
    SegmentKind,
    build_strategy,
    mean_counted,
    mean_loss,
    pool_steps,
)

OBJECTIVE = "means"
"""How the terms of the objective are reduced. Part of a run's identity, and stated in its checkpoints: policies from
before it was written there learned from an action loss summed over the H·m numbers of a chunk, and latent losses summed
over its placeholders (cosine: a mean)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VlaBatch:
    """Tensors of one batch, normalised (actions and state) but with raw pixels."""

    images: Tensor
    """(B, cameras, size, size, 3) uint8, cameras in the contract's order."""
    tokens_BL: Tensor
    state_BS: Tensor
    actions_BHA: Tensor
    weight_BH: Tensor
    """1 if a step counts in the action loss, 0 if not."""
    labels: Mapping[str, Tensor]
    """What the strategy asked for in ``required_labels``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VlaOutput:
    """Predicted normalised actions (B, H, A), and the placeholder states that the latent loss reads."""

    actions_BHA: Tensor
    states: PlaceholderStates


class VlaLoss(NamedTuple):
    """The objective of Eq. 4, averaged over the batch, and its parts for the log (detached).

    A tuple, because what wraps a network for several processes looks for tensors in these.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


class VlaTerms(NamedTuple):
    """The terms of the objective before they are weighed, and figures to log (detached).

    Both terms are means over what they compare: the H·m numbers of a chunk, its tokens, its steps. Only so are they of
    comparable scale whatever H, m and P are, as one λ for all benchmarks supposes (App. B.2).
    """

    action: Tensor
    latent: Tensor | None
    figures: Mapping[str, Tensor]


class LatentActionVLA(nn.Module):
    """The unified VLA of Sec. 3.3; only the strategy differs between the paper's methods."""

    def __init__(self, config: PolicyConfig, contract: Contract, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        shape = backbone.shape
        self.strategy = build_strategy(config.strategy, chunk_size=contract.chunk_size, shape=shape)
        self.layers = aggregated_layers(shape.layers)
        self.head = BridgeAttentionHead(
            config.head,
            layers=len(self.layers),
            source_width=shape.width,
            state_dim=contract.state_dim,
            action_dim=contract.action_dim,
            chunk_size=contract.chunk_size,
        )

    def forward(self, images: Tensor, tokens_BL: Tensor, state_BS: Tensor) -> VlaOutput:
        """Actions and placeholder states; positions are selected by token id."""
        hidden = self.backbone(images, tokens_BL)
        segments = {s.kind: s for s in self.strategy.segments()}
        states: dict[SegmentKind, Sequence[Tensor]] = {}
        for kind, segment in segments.items():
            positions = token_positions(tokens_BL, self.backbone.placeholder_id(kind), segment.count)
            states[kind] = LayerStates(hidden, positions)
        seen = self.strategy.head_segments()
        columns = self.backbone.image_columns(images.shape[1], images.device)
        actions = self.head(
            [hidden[k].index_select(1, columns) for k in self.layers],
            [torch.cat([pool_steps(states[s][k], segments[s]) for s in seen], dim=1) for k in self.layers],
            state_BS,
        )
        return VlaOutput(actions_BHA=actions, states=PlaceholderStates(segments=states))

    def repeated_layers(self) -> list[nn.Module]:
        """What most of the time is spent in: equal layers, so that compiling one of a kind compiles all."""
        vlm = self.backbone.vlm
        return [*vlm.visual.blocks, *vlm.language_model.layers, *self.head.blocks]

    def terms(self, batch: VlaBatch) -> VlaTerms:
        """L_action of Eq. 4 as a mean, in one forward pass with the strategy's L_latent."""
        output = self(batch.images, batch.tokens_BL, batch.state_BS)
        squared_BH = (output.actions_BHA.float() - batch.actions_BHA).square().mean(dim=-1)
        latent, figures = self.strategy.latent_loss(output.states, batch.labels, batch.weight_BH)
        mse = mean_counted(squared_BH, batch.weight_BH)
        return VlaTerms(mean_loss(squared_BH, batch.weight_BH), latent, {"mse": mse, **figures})

    def loss(self, batch: VlaBatch) -> VlaLoss:
        """L = L_action + λ L_latent (Eq. 4)."""
        action, latent, figures = self.terms(batch)
        parts = {"action": action.detach(), **figures}
        if latent is None:
            return VlaLoss(total=action, parts=parts)
        return VlaLoss(total=action + self.strategy.weight * latent, parts={**parts, "latent": latent.detach()})

    def compare_gradients(self, batch: VlaBatch) -> dict[str, float]:
        """How λ ∇L_latent compares to ∇L_action over the backbone's trained parameters; empty without a latent loss.

        ``latent_share``: the ratio of their norms, how much of what the backbone learns is the latent actions' doing;
        comparable between strategies. ``latent_agreement``: their cosine; below 0 one undoes what the other does.
        """
        if self.strategy.weight == 0:
            return {}
        action, latent, _ = self.terms(batch)
        trained = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        if latent is None or not trained:
            return {}
        flat = []
        for term, keep in ((self.strategy.weight * latent, True), (action, False)):
            found = torch.autograd.grad(term, trained, retain_graph=keep, allow_unused=True, materialize_grads=True)
            flat.append(torch.cat([gradient.flatten().float() for gradient in found]))
        norms = [gradient.norm() for gradient in flat]
        return {
            "latent_share": float(norms[0] / norms[1]),
            "latent_agreement": float(flat[0] @ flat[1] / (norms[0] * norms[1])),
        }


def aggregated_layers(layers: int) -> tuple[int, ...]:
    """K_layers = ⌈N/2⌉ … N (Sec. 3.3); layer 0 is the embedding."""
    return tuple(range(math.ceil(layers / 2), layers + 1))


def token_positions(tokens_BL: Tensor, token: int, count: int) -> Tensor:
    """(B, count) positions of ``token`` in each row, in order; found where the tokens are, without waiting for them.

    Raises RuntimeError (on a GPU, later) unless it occurs ``count`` times in every row.
    """
    found = tokens_BL == token
    torch._assert_async((found.sum(dim=1) == count).all(), f"token {token} does not occur {count} times in every row")
    return found.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


def select(states_BLD: Tensor, positions_Bn: Tensor) -> Tensor:
    """(B, L, D) and (B, n) → (B, n, D)."""
    return states_BLD.gather(1, positions_Bn.unsqueeze(-1).expand(-1, -1, states_BLD.shape[-1]))


class LayerStates(Sequence[Tensor]):
    """The states (B, n, D) of some positions at every layer; each is gathered when it is asked for."""

    def __init__(self, hidden: Sequence[Tensor], positions_Bn: Tensor) -> None:
        self._hidden, self._positions = hidden, positions_Bn
        self._gathered: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._hidden)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        places = range(len(self._hidden))[index]
        if isinstance(places, range):
            return [self[k] for k in places]
        if places not in self._gathered:
            self._gathered[places] = select(self._hidden[places], self._positions)
        return self._gathered[places]
