"""The image latent action model: what changes between two images, as P discrete tokens (paper, Sec. 3.2.1, App. A.1).

    features of o_t and o_t+δ, learned tokens before each ─ space-time encoder, causal in time
    states of the later image's tokens ─ linear to d → c (B, P, d) ─ nearest code → z (B, P)
    [codes, features of o_t] ─ decoder over space → features of o_t+δ

The architecture is UniVLA's, in its two stages. Stage 1 reads the instruction in encoder and decoder, so that
its tokens are left with what language does not tell: the *environment*, not controllable. Stage 2 reads no
language; its new *controllable* tokens have a codebook of their own, beside the environment's tokens, whose codebook is
that of stage 1 and stays as it is. What policies learn from, c_img and z_img, are the controllable ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lavla_ros.config import ConfigError
from lavla_ros.contract import Contract
from training.latent_actions.checkpoint import LatentModel
from training.latent_actions.features import TextStates
from training.latent_actions.global_batch import mean_count
from training.latent_actions.image_config import ImageLamConfig
from training.latent_actions.quantize import CodebookQuantizer, Quantized
from training.latent_actions.spacetime import SpaceTimeTransformer

CONTROLLABLE, ENVIRONMENT = "controllable", "environment"


class LatentTokens(nn.Module):
    """P tokens of one kind: what asks for them, their way to codes, and from codes to the decoder."""

    def __init__(self, config: ImageLamConfig, codes: int) -> None:
        super().__init__()
        self.queries_PF = nn.Parameter(torch.empty(config.tokens, config.features.width).uniform_(-1.0, 1.0))
        self.to_code = nn.Linear(config.width, config.latent_width)
        self.quantizer = CodebookQuantizer(
            codes, config.latent_width, decay=config.usage_decay, restart_below=config.restart_below
        )
        self.from_code = nn.Linear(config.latent_width, config.width)


@dataclass(frozen=True, slots=True)
class Transition:
    """All that the model makes of a batch of transitions."""

    latents: Mapping[str, Tensor]
    """Kind → c (B, P, d), before quantisation."""
    quantized: Mapping[str, Quantized]
    """Kind → codes z (B, P), their vectors and losses."""
    predicted_BNF: Tensor
    """Features of the later image."""


class ImageLatentModel(LatentModel):
    """Encoder, codebooks and decoder of one stage, on features of a frozen image encoder."""

    kind = "image"
    config_class = ImageLamConfig
    config: ImageLamConfig

    def __init__(self, config: ImageLamConfig, contract: Contract, stats: Mapping[str, Any]) -> None:
        """``stats`` are kept, not used: what normalises actions is of no use without the action head.

        Raises ConfigError for a camera that the contract lacks.
        """
        config = replace(config, cameras=config.cameras_of(contract))  # a checkpoint says it in full
        super().__init__(config, contract, stats)
        self.cameras = config.cameras
        if config.stage == 2:
            sizes = {CONTROLLABLE: config.codebook_size, ENVIRONMENT: config.environment_codebook_size}
        else:
            sizes = {ENVIRONMENT: config.codebook_size}
        self.target = next(iter(sizes))
        """The kind that this stage trains, and that ``encode`` and ``tokenize`` give."""
        self.latents = nn.ModuleDict({kind: LatentTokens(config, size) for kind, size in sizes.items()})
        features, width = config.features, config.width
        most = len(sizes) * config.tokens + features.tokens
        self.encoder = SpaceTimeTransformer(
            features.width,
            width,
            config.encoder_blocks,
            config.heads,
            max_tokens=most,
            over_time=True,
            dropout=config.dropout,
        )
        self.image_in = nn.Linear(features.width, width)
        self.decoder = SpaceTimeTransformer(
            width, width, config.decoder_blocks, config.heads, max_tokens=most, over_time=False, dropout=config.dropout
        )
        self.features_out = nn.Linear(width, features.width)
        self.text_in = nn.Linear(config.text.width, width) if config.stage == 1 else None
        if config.stage == 2:
            self._tokens(ENVIRONMENT).quantizer.requires_grad_(False)

    # ------------------------------------------------------------------ what labels are made of

    def encode(self, now_BNF: Tensor, future_BNF: Tensor, text: TextStates | None = None) -> Tensor:
        """Features of o_t and o_t+δ → c_img (B, P, d), before quantisation (Eq. 1).

        Stage 1 needs the instructions' ``text``, stage 2 takes none. Raises ValueError for another shape.
        """
        return self._encode(now_BNF, future_BNF, self._text(text))[self.target]

    @torch.no_grad()
    def tokenize(self, now_BNF: Tensor, future_BNF: Tensor, text: TextStates | None = None) -> Tensor:
        """Features of o_t and o_t+δ → z_img (B, P) int64 (Eq. 1). Leaves the codebook as it is."""
        quantizer = self._tokens(self.target).quantizer
        codes_BP: Tensor = quantizer(self.encode(now_BNF, future_BNF, text), update=False).codes_BT
        return codes_BP

    # ------------------------------------------------------------------ training

    def forward(
        self, now_BNF: Tensor, future_BNF: Tensor, text: TextStates | None = None, *, bypass: bool = False
    ) -> Transition:
        """Encode, quantise, decode (Eq. 1). In training mode the codebook being trained is seeded and re-seeded.

        ``bypass``: the decoder gets this stage's latents as they are, and their codebook stays as it is.
        """
        words = self._text(text)
        latents = self._encode(now_BNF, future_BNF, words)
        quantized = {kind: self._tokens(kind).quantizer(latents[kind], update=not bypass) for kind in self.latents}
        values = {kind: result.values_BTd for kind, result in quantized.items()}
        if bypass:
            values[self.target] = latents[self.target]
        return Transition(latents, quantized, self._decode(now_BNF, values, words))

    def start_from(self, other: ImageLatentModel, *, whole: bool = False) -> None:
        """Take over weights. Of the same stage: all (what the paper fine-tunes). Stage 2 of stage 1: the
        environment's queries and codebook, as UniVLA does; the rest begins from scratch, or with ``whole`` only what
        stage 1 does not have.

        Raises ConfigError when the stages or shapes don't fit, or features are of different encoders.
        """
        ours, theirs = self.config, other.config
        mine, its = ours.features.fingerprint, theirs.features.fingerprint
        if mine and its and mine != its:
            raise ConfigError(f"initial: its features are of the encoder {its}, those of this run of {mine}")
        if ours.stage == theirs.stage:
            given = other.state_dict()
        elif (ours.stage, theirs.stage) == (2, 1):
            prefixes = tuple(f"latents.{ENVIRONMENT}.{part}" for part in ("queries_PF", "quantizer"))
            given = {
                name: value
                for name, value in other.state_dict().items()
                if name.startswith(prefixes) or (whole and not name.startswith("text_in."))
            }
        else:
            raise ConfigError(f"initial is a model of stage {theirs.stage}; expected stage {ours.stage}")
        own = self.state_dict()
        wrong = [f"{n} {tuple(t.shape)}" for n, t in given.items() if n not in own or own[n].shape != t.shape]
        wrong += [f"{n} is missing" for n in own if ours.stage == theirs.stage and n not in given]
        if wrong:
            raise ConfigError(f"initial does not fit this run's model: {', '.join(wrong[:4])}; use its sizes")
        self.load_state_dict(given, strict=False)

    # ------------------------------------------------------------------ inside

    def _tokens(self, kind: str) -> LatentTokens:
        tokens = self.latents[kind]
        assert isinstance(tokens, LatentTokens)
        return tokens

    def _text(self, text: TextStates | None) -> TextStates | None:
        """The instructions at this model's width."""
        if (text is not None) != (self.text_in is not None):
            raise ConfigError(
                "stage 1 of the image model is conditioned on language: give the encoded instructions"
                if text is None
                else "stage 2 of the image model takes no language"
            )
        if text is None or self.text_in is None:
            return None
        return TextStates(self.text_in(text.states_BLE), text.mask_BL)

    def _encode(self, now_BNF: Tensor, future_BNF: Tensor, words: TextStates | None) -> dict[str, Tensor]:
        features, P = self.config.features, self.config.tokens
        for what, values in (("o_t", now_BNF), ("o_t+δ", future_BNF)):
            if values.ndim != 3 or tuple(values.shape) != (len(now_BNF), features.tokens, features.width):
                raise ConfigError(
                    f"features of {what} have shape {tuple(values.shape)}; expected (B, N, F) = "
                    f"({len(now_BNF)}, {features.tokens}, {features.width})"
                )
        images_BTNF = torch.stack([now_BNF, future_BNF], dim=1)
        queries = torch.cat([self._tokens(kind).queries_PF for kind in self.latents])
        queries_BTQF = queries.expand(*images_BTNF.shape[:2], -1, -1).to(images_BTNF.dtype)
        states_BTSD = self.encoder(torch.cat([queries_BTQF, images_BTNF], dim=2), *(words or ()))
        later_BSD = states_BTSD[:, 1]
        # float32 whatever the precision: distances to codes decide which code it is
        return {
            kind: self._tokens(kind).to_code(later_BSD[:, i * P : (i + 1) * P]).float()
            for i, kind in enumerate(self.latents)
        }

    def _decode(self, now_BNF: Tensor, values: Mapping[str, Tensor], words: TextStates | None) -> Tensor:
        tokens = [self._tokens(kind).from_code(values[kind]) for kind in self.latents]
        sequence_BSD = torch.cat([*tokens, self.image_in(now_BNF)], dim=1)
        states_BSD = self.decoder(sequence_BSD.unsqueeze(1), *(words or ())).squeeze(1)
        predicted_BNF: Tensor = self.features_out(states_BSD[:, -self.config.features.tokens :])
        return predicted_BNF


# ------------------------------------------------------------------ objective


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Transitions of a training step."""

    now_BNF: Tensor
    future_BNF: Tensor
    text: TextStates | None
    """Stage 1 only."""
    actions_BA: Tensor
    """Normalised a_t; what it holds where ``supervised_B`` is False is not looked at."""
    supervised_B: Tensor
    """True for the samples whose action is known to the action head."""


class ImageLamLoss(NamedTuple):
    """The objective of Eq. 15 on one batch."""

    total: Tensor
    parts: Mapping[str, Tensor]
    """Its terms before weighting, detached, for the log."""
    codes: Mapping[str, Tensor]
    """Kind → z (B, P)."""


class ActionHead(nn.Sequential):
    """The MLP of Fig. 7: c_img (B, P, d) → a_t (B, A). It is no part of the model, and so never saved with it."""

    def __init__(self, config: ImageLamConfig, hidden: int, action_dim: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(config.tokens * config.latent_width, hidden),
            nn.GELU(),
            nn.Linear(hidden, action_dim),
        )


class ImageObjective(nn.Module):
    """Eq. 15, of model and action head together."""

    def __init__(self, model: ImageLatentModel, head: ActionHead | None, action_weight: float) -> None:
        """``head`` None: without action supervision (Table 6)."""
        super().__init__()
        self.model = model
        self.head = head
        self.action_weight = action_weight
        self.bypass = False
        """Train encoder and decoder without this stage's codebook, whose losses then count nothing."""

    def loss(self, batch: ImageBatch) -> ImageLamLoss:
        """Reconstruction + codebook + β · commitment (Eq. 11) + λ_act · action (Eq. 14, 15).

        Squared norms are means over elements, as in UniVLA. Eq. 12 is written with observations o_t+δ; what is
        reconstructed, in UniVLA and here, are the frozen encoder's features of them, not pixels. "The corresponding
        low-level action" of Eq. 14 is a_t, the single action taken at o_t, in normalised units; its loss is the
        mean over the supervised samples of the batch.
        """
        made = self.model(batch.now_BNF, batch.future_BNF, batch.text, bypass=self.bypass)
        parts = {"reconstruction": F.mse_loss(made.predicted_BNF.float(), batch.future_BNF.float())}
        total = parts["reconstruction"]
        for kind, quantized in made.quantized.items():
            suffix = "" if kind == self.model.target else f"_{kind}"
            parts[f"codebook{suffix}"] = quantized.loss_codebook  # moves nothing where the codebook is frozen
            parts[f"commitment{suffix}"] = quantized.loss_commit
            # by zero, not left out: where several processes train together, every parameter needs a gradient
            weight = 0.0 if self.bypass and kind == self.model.target else 1.0
            commit = self.model.config.commit_weight * quantized.loss_commit
            total = total + weight * (quantized.loss_codebook + commit)
        if self.head is not None:
            predicted_BA = self.head(made.latents[self.model.target]).float()
            # every sample passes the head, so that all processes have gradients for it; only some count
            error_BA = torch.where(batch.supervised_B[:, None], predicted_BA - batch.actions_BA, 0.0)
            counted = mean_count(batch.supervised_B.sum()) * error_BA.shape[1]
            parts["action"] = error_BA.square().sum() / counted
            total = total + self.action_weight * parts["action"]
        return ImageLamLoss(
            total=total,
            parts={name: value.detach() for name, value in parts.items()},
            codes={kind: quantized.codes_BT for kind, quantized in made.quantized.items()},
        )
