"""The action latent action model: an action chunk ⇄ H discrete tokens (paper, Sec. 3.2.2, Fig. 2, App. A.2).

    actions (B, H, m) ─ FFT beside them ─ linear to d ─ 3 dilated convolutions ─ Transformer → c_act (B, H, d)
    c_act ─ nearest code, one per timestep → z_act (B, H) ─ MLP per timestep → actions (B, H, m)

Usable alone as an action tokenizer: ``encode_raw`` and ``decode_raw`` speak physical units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lavla_ros.config import check
from lavla_ros.contract import Contract
from lavla_ros.errors import InputError
from lavla_ros.policy.normalization import Normalizer
from training.latent_actions.action_config import ActionLamConfig
from training.latent_actions.checkpoint import LatentModel
from training.latent_actions.global_batch import draw, mean_count
from training.latent_actions.quantize import EmaQuantizer


class ActionLamLoss(NamedTuple):
    """The objective of Eq. 16 on one batch."""

    total: Tensor
    parts: Mapping[str, Tensor]
    """Its terms before weighting, detached, for the log."""
    codes_BH: Tensor


class ActionEncoder(nn.Module):
    """E_φ of Eq. 2: coarse trends by the FFT, fast changes by convolutions, all timesteps by attention."""

    def __init__(self, config: ActionLamConfig, contract: Contract) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.project = nn.Linear(contract.action_dim * (3 if config.frequency_features == "fft" else 1), width)
        # Neither convolutions nor attention know where in the chunk a timestep (or a frequency) is.
        self.position_Hd = nn.Parameter(0.02 * torch.randn(contract.chunk_size, width))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, kernel_size=3, dilation=d, padding=d) for d in config.dilations
        )
        layer = nn.TransformerEncoderLayer(
            width, config.heads, config.feedforward, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(
            layer, config.layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, actions_BHA: Tensor) -> Tensor:
        """(B, H, m) → latents c_act (B, H, d)."""
        features = frequency_features(actions_BHA) if self.config.frequency_features == "fft" else actions_BHA
        hidden_BHd = self.project(features) + self.position_Hd
        for convolution in self.convolutions:
            hidden_BHd = hidden_BHd + F.gelu(convolution(hidden_BHd.transpose(1, 2))).transpose(1, 2)
        latents_BHd: Tensor = self.transformer(hidden_BHd)
        return latents_BHd


class ActionLatentModel(LatentModel):
    """Encoder, codebook and decoder, with the statistics that normalise a chunk."""

    kind = "action"
    config_class = ActionLamConfig
    config: ActionLamConfig

    def __init__(self, config: ActionLamConfig, contract: Contract, stats: Mapping[str, Any]) -> None:
        """``stats`` from ``compute_stats`` with ``config.actions``.

        Raises ConfigError when the contract's chunks have another length, StatsError for unusable statistics.
        """
        check(
            config.chunk_size in (None, contract.chunk_size),
            "model.chunk_size",
            config.chunk_size,
            f"the chunk_size of contract {contract.name!r}, {contract.chunk_size}",
        )
        config = replace(config, chunk_size=contract.chunk_size)  # a checkpoint says it in full
        super().__init__(config, contract, stats)
        self.normalizer = Normalizer(contract, config.actions, stats)
        self.encoder = ActionEncoder(config, contract)
        self.quantizer = EmaQuantizer(
            config.codebook_size, config.width, decay=config.codebook_decay, restart_below=config.restart_below
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.width, config.decoder_width),
            nn.GELU(),
            nn.Linear(config.decoder_width, contract.action_dim),
        )
        self.mask_d = nn.Parameter(0.02 * torch.randn(config.width))
        """Stands in for a masked latent (Eq. 18)."""

    # ------------------------------------------------------------------ normalised chunks

    def encode(self, actions_BHA: Tensor) -> Tensor:
        """(B, H, m) normalised → c_act (B, H, d), before quantisation (Eq. 2). ValueError for another shape."""
        expected = (self.contract.chunk_size, self.contract.action_dim)
        if actions_BHA.ndim != 3 or tuple(actions_BHA.shape[1:]) != expected:
            raise InputError(
                f"action chunks have shape {tuple(actions_BHA.shape)}; expected (B, H, m) with (H, m) = {expected}"
            )
        latents_BHd: Tensor = self.encoder(actions_BHA)
        return latents_BHd

    @torch.no_grad()
    def tokenize(self, actions_BHA: Tensor) -> Tensor:
        """(B, H, m) normalised → z_act (B, H) int64 (Eq. 2). Leaves the codebook as it is."""
        codes_BH: Tensor = self.quantizer(self.encode(actions_BHA), update=False).codes_BT
        return codes_BH

    @torch.no_grad()
    def detokenize(self, codes_BH: Tensor) -> Tensor:
        """z_act (B, H) → normalised actions (B, H, m) (Eq. 2). QuantizeError for codes outside the codebook."""
        actions_BHA: Tensor = self.decoder(self.quantizer.codes_to_values(codes_BH))
        return actions_BHA

    # ------------------------------------------------------------------ physical units

    def encode_raw(self, actions: NDArray[np.floating[Any]], state: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """(…, H, m) actions in the contract's units and (…, S) observed state → (…, H) codes.

        Raises ValueError for another shape or values that are not finite.
        """
        for what, values in (("actions", actions), ("state", state)):
            if not np.isfinite(values).all():
                raise InputError(f"the {what} to encode hold values that are not finite")
        coded = self.normalise(actions, state)
        return self.tokenize(coded.reshape(-1, *coded.shape[-2:])).cpu().numpy().reshape(coded.shape[:-1])

    def decode_raw(self, codes: NDArray[np.integer[Any]], state: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """(…, H) codes and (…, S) observed state → (…, H, m) actions in the contract's units and bounds."""
        if codes.shape[-1] != self.contract.chunk_size:
            raise InputError(f"codes have shape {codes.shape}; expected (…, H) with H = {self.contract.chunk_size}")
        decoded = self.detokenize(torch.from_numpy(codes.astype(np.int64)).to(self.mask_d.device))
        return self.normalizer.decode_actions(decoded.float().cpu().numpy(), state)

    def normalise(self, actions: NDArray[np.floating[Any]], state: NDArray[np.floating[Any]]) -> Tensor:
        """(…, H, m) and (…, S) in the contract's units → (…, H, m) in [-1, 1], on the model's device."""
        expected = (self.contract.chunk_size, self.contract.action_dim)
        if actions.shape[-2:] != expected or state.shape != (*actions.shape[:-2], self.contract.state_dim):
            raise InputError(
                f"actions {actions.shape} and state {state.shape} do not fit; expected (…, H, m) with (H, m) = "
                f"{expected} and (…, {self.contract.state_dim})"
            )
        return torch.from_numpy(self.normalizer.encode_actions(actions, state)).to(self.mask_d.device)

    # ------------------------------------------------------------------ objective

    def loss(self, actions_BHA: Tensor) -> ActionLamLoss:
        """Eq. 16: reconstruction + λ_mask · mask consistency + β · commitment.

        Each squared norm is the mean over the elements that it covers, the convention that weights like these
        are stated in. Summed to the letter, the d dimensions of a latent would outweigh the m of an action: that
        doubled the reconstruction error where it was tried. In training mode the codebook follows the latents.
        """
        config = self.config
        latents_BHd = self.encode(actions_BHA)
        quantized = self.quantizer(latents_BHd)
        reconstruction = F.mse_loss(self.decoder(quantized.values_BTd), actions_BHA)
        commitment = quantized.loss_commit
        masked_BH = draw(latents_BHd.shape[:2], latents_BHd.device) < config.mask_ratio
        consistency = self.mask_consistency(latents_BHd, masked_BH)
        total = reconstruction + config.mask_weight * consistency + config.commit_weight * commitment
        parts = {"reconstruction": reconstruction, "mask": consistency, "commitment": commitment}
        return ActionLamLoss(total, {name: value.detach() for name, value in parts.items()}, quantized.codes_BT)

    def mask_consistency(self, latents_BHd: Tensor, masked_BH: Tensor) -> Tensor:
        """Eq. 18: what was masked must be found again in the re-encoded reconstruction.

        Masked latents are replaced before quantisation; the chunk decoded from the rest is encoded again and
        compared, at the masked timesteps only, with the latents as they were. These are the target: no
        gradient flows into them. Nor do masks move the codebook, which is for the data's latents.
        """
        visible_BHd = torch.where(masked_BH[..., None], self.mask_d, latents_BHd)
        decoded_BHA = self.decoder(self.quantizer(visible_BHd, update=False).values_BTd)
        return masked_distance(self.encode(decoded_BHA), latents_BHd, masked_BH)


def frequency_features(actions_BHA: Tensor) -> Tensor:
    """(B, H, m) → (B, H, 3m): the actions, and the real and imaginary parts of their spectrum (App. A.2).

    The full complex FFT over time has as many bins as the chunk has timesteps, so bin k simply stands beside
    timestep k (the half spectrum would need stretching). Bins above H/2 are conjugates of those below, which
    costs nothing: the encoder attends to all. Orthonormal scaling keeps the spectrum's energy that of the chunk.
    """
    spectrum = torch.fft.fft(actions_BHA.float(), dim=1, norm="ortho")
    return torch.cat([actions_BHA, spectrum.real.to(actions_BHA), spectrum.imag.to(actions_BHA)], dim=-1)


def masked_distance(latents_BHd: Tensor, target_BHd: Tensor, masked_BH: Tensor) -> Tensor:
    """‖latent - sg[target]‖² of Eq. 18, mean over the elements of the batch's masked timesteps; 0 without any."""
    squared_BHd = (latents_BHd - target_BHd.detach()).square()
    count = mean_count(masked_BH.sum()) * latents_BHd.shape[-1]
    return torch.where(masked_BH[..., None], squared_BHd, 0.0).sum() / count
