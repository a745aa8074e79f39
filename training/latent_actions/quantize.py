"""Codebooks: from continuous latents to discrete codes and back, with straight-through gradients.

Two of them, as the paper has two. Both return :class:`Quantized`, both re-seed codes that fell out
of use, and neither changes anything outside of training. Several processes that train together hold the
same codebook: each moves it by the latents of the whole batch.

Losses are means over all elements, (1/BTd)·‖·‖²: the convention that weights like β = 0.25 are stated in.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize  # type: ignore[import-untyped]

from lavla_ros.errors import UserError
from training.latent_actions.global_batch import from_first, own, whole


class QuantizeError(UserError, ValueError):
    """Codes or latents that a codebook cannot take, or a codebook that was never trained."""


class Quantized(NamedTuple):
    """What quantisation of latents (B, T, d) gives."""

    values_BTd: Tensor
    """The codes' vectors; in training, their gradient goes straight through to the latents."""
    codes_BT: Tensor
    """int64, in [0, K)."""
    loss_codebook: Tensor
    """Pulls the codes towards the latents (Eq. 13, left); 0 if the codebook is a moving average."""
    loss_commit: Tensor
    """Pulls the latents towards the codes (Eq. 13, right; Eq. 17); not yet weighted by β."""


class EmaQuantizer(nn.Module):
    """VQ-VAE-EMA codebook of the action model (paper, App. A.2), by vector-quantize-pytorch.

    Codes are moving averages of the latents assigned to them. The first training batch sets them by
    k-means: codes that start away from the data are never chosen, so never move. A code whose moving
    average of uses per batch falls below ``restart_below`` is put on a random latent of the batch.
    """

    def __init__(self, size: int, width: int, *, decay: float = 0.99, restart_below: float = 0.5) -> None:
        super().__init__()
        self.vq = VectorQuantize(
            dim=width,
            codebook_size=size,
            decay=decay,
            kmeans_init=True,
            threshold_ema_dead_code=restart_below,
            rotation_trick=False,  # the paper's estimator is the plain straight-through one
            commitment_weight=0.0,  # computed below, in evaluation too
            sync_codebook=False,  # it is given the whole batch
        )
        self.seeded: Tensor
        self.register_buffer("seeded", torch.tensor(False))

    @property
    def size(self) -> int:
        """K, the number of codes."""
        return int(self.vq.codebook.shape[0])

    @property
    def width(self) -> int:
        """d, the length of a code's vector."""
        return int(self.vq.codebook.shape[1])

    def forward(self, latents_BTd: Tensor, *, update: bool = True) -> Quantized:
        """Nearest codes. In training mode, ``update`` lets the latents move the codebook.

        Raises QuantizeError when the codebook has not seen a training batch.
        """
        learning = self.training and update
        if not bool(self.seeded):
            if not learning:
                raise QuantizeError("the codebook is empty: train the model, or load a trained one, before using it")
            self.seeded.fill_(True)
        values, codes, _ = self.vq(whole(latents_BTd) if learning else latents_BTd, freeze_codebook=not update)
        if learning:
            values, codes = own(values), own(codes)
        commit = F.mse_loss(latents_BTd, values.detach())
        return Quantized(values, codes, torch.zeros_like(commit), commit)

    def codes_to_values(self, codes: Tensor) -> Tensor:
        """(…,) codes → (…, d) vectors. Raises QuantizeError for a code outside the codebook."""
        _check_codes(codes, self.size)
        table: Tensor = self.vq.codebook
        return table[codes]


class CodebookQuantizer(nn.Module):
    """Learned codebook of the image model (paper, Eq. 13): an embedding trained by its own loss.

    The first training batch sets the codes to latents of its own, drawn as k-means++ draws. A code whose
    moving average share of the tokens falls below ``restart_below`` / K is put on another latent in the
    same way. ``requires_grad_(False)`` freezes all of it (UniVLA's stage 2 keeps an old codebook).
    """

    def __init__(self, size: int, width: int, *, decay: float = 0.99, restart_below: float = 0.05) -> None:
        super().__init__()
        self.decay = decay
        self.restart_below = restart_below
        self.codebook_Kd = nn.Parameter(torch.empty(size, width).uniform_(-1.0 / size, 1.0 / size))
        self.seeded: Tensor
        self.share_K: Tensor
        self.register_buffer("seeded", torch.tensor(False))
        self.register_buffer("share_K", torch.full((size,), 1.0 / size))
        self.restarted_K: Tensor
        """Codes that were put elsewhere since :meth:`forget_restarted`."""
        self.register_buffer("restarted_K", torch.zeros(size, dtype=torch.bool), persistent=False)

    @property
    def size(self) -> int:
        """K, the number of codes."""
        return int(self.codebook_Kd.shape[0])

    @property
    def width(self) -> int:
        """d, the length of a code's vector."""
        return int(self.codebook_Kd.shape[1])

    def forward(self, latents_BTd: Tensor, *, update: bool = True) -> Quantized:
        """Nearest codes. In training mode, ``update`` lets codes be seeded and re-seeded."""
        learning = self.training and update and self.codebook_Kd.requires_grad
        latents_Nd = latents_BTd.detach().flatten(0, -2).float()
        latents_Nd = whole(latents_Nd) if learning else latents_Nd
        if learning and not bool(self.seeded):
            self._seed(torch.ones(self.size, dtype=torch.bool, device=latents_Nd.device), latents_Nd)
            self.seeded.fill_(True)
        codes_N = torch.cdist(latents_Nd, self.codebook_Kd.detach()).argmin(-1)
        codes_BT = (own(codes_N) if learning else codes_N).view(latents_BTd.shape[:-1])
        chosen_BTd = self.codebook_Kd[codes_BT].to(latents_BTd.dtype)
        result = Quantized(
            values_BTd=latents_BTd + (chosen_BTd - latents_BTd).detach(),
            codes_BT=codes_BT,
            loss_codebook=F.mse_loss(chosen_BTd, latents_BTd.detach()),
            loss_commit=F.mse_loss(latents_BTd, chosen_BTd.detach()),
        )
        if learning:
            self._restart_unused(codes_N, latents_Nd)
        return result

    def codes_to_values(self, codes: Tensor) -> Tensor:
        """(…,) codes → (…, d) vectors. Raises QuantizeError for a code outside the codebook."""
        _check_codes(codes, self.size)
        return self.codebook_Kd[codes]

    @torch.no_grad()
    def forget_restarted(self, optimizer: torch.optim.Optimizer) -> None:
        """Zero the moments of codes that were put elsewhere, which would drag them along their old ways."""
        for key in ("exp_avg", "exp_avg_sq"):
            if (moment := optimizer.state.get(self.codebook_Kd, {}).get(key)) is not None:
                moment[self.restarted_K] = 0
        self.restarted_K.zero_()

    @torch.no_grad()
    def _restart_unused(self, codes_N: Tensor, latents_Nd: Tensor) -> None:
        uses_K = torch.bincount(codes_N, minlength=self.size).to(self.share_K)
        self.share_K.lerp_(uses_K / uses_K.sum(), 1.0 - self.decay)
        unused_K = self.share_K < self.restart_below / self.size
        if bool(unused_K.any()):
            self._seed(unused_K, latents_Nd)
            self.share_K[unused_K] = 1.0 / self.size  # time to be found before the next restart

    @torch.no_grad()
    def _seed(self, where_K: Tensor, latents_Nd: Tensor) -> None:
        """Put these codes on latents: each where the codes before it serve the batch worst (k-means++)."""
        table_Kd = self.codebook_Kd.detach().float().clone()
        live_Ld = table_Kd[~where_K]
        far_N = torch.full((len(latents_Nd),), torch.inf, device=latents_Nd.device)
        if len(live_Ld):
            far_N = torch.cdist(latents_Nd, live_Ld).amin(-1).square()
        for code in where_K.nonzero()[:, 0].tolist():
            # Infinite: no code is placed yet, so all are alike. Not a number: the trainer's check says so better.
            weights_N = torch.nan_to_num(far_N, nan=1.0, posinf=1.0).clamp_min(1e-12)
            table_Kd[code] = latents_Nd[torch.multinomial(weights_N, 1)[0]]
            far_N = torch.minimum(far_N, (latents_Nd - table_Kd[code]).square().sum(-1))
        self.restarted_K |= where_K
        # where dropout or another kind of processor lets processes draw or round differently, too
        self.codebook_Kd[where_K] = from_first(table_Kd)[where_K].to(self.codebook_Kd)


def _check_codes(codes: Tensor, size: int) -> None:
    if codes.dtype.is_floating_point or codes.dtype == torch.bool:
        raise QuantizeError(f"codes have dtype {codes.dtype}; expected integers in [0, {size})")
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= size):
        raise QuantizeError(
            f"codes lie in [{int(codes.min())}, {int(codes.max())}], but the codebook has {size} entries: "
            "they come from another model"
        )
