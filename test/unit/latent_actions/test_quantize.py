"""Codebooks: seeded from data, alive, straight-through, and unchanged outside of training."""

from __future__ import annotations

import pytest
import torch

from training.latent_actions.codebook_health import CodebookHealth
from training.latent_actions.quantize import CodebookQuantizer, EmaQuantizer, QuantizeError

K, WIDTH = 16, 8
BOTH = pytest.mark.parametrize("kind", [EmaQuantizer, CodebookQuantizer])


def clusters(count: int = 512, seed: int = 0, centre: float = 0.0) -> torch.Tensor:
    """(count, 1, d) latents around K fixed centres, far from the origin when ``centre`` is."""
    generator = torch.Generator().manual_seed(99)
    centres = centre + 3 * torch.randn(K, WIDTH, generator=generator)
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(K, (count,), generator=generator)
    return (centres[which] + 0.1 * torch.randn(count, WIDTH, generator=generator))[:, None]


def train(quantizer: torch.nn.Module, steps: int, *, centre: float = 0.0) -> None:
    """The codebook alone; the plain one by gradient, as its loss says."""
    quantizer.train()
    parameters = list(quantizer.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.05) if parameters else None
    for step in range(steps):
        result = quantizer(clusters(seed=step, centre=centre))
        if optimizer is not None:
            optimizer.zero_grad()
            result.loss_codebook.backward()
            optimizer.step()
    quantizer.eval()


@BOTH
def test_finds_the_clusters_of_data_far_from_the_origin(kind):
    """A codebook that started at random near zero would put everything into one code here."""
    torch.manual_seed(0)
    quantizer = kind(K, WIDTH, decay=0.9)
    train(quantizer, 60, centre=50.0)
    data = clusters(seed=1234, centre=50.0)
    result = quantizer(data)
    health = CodebookHealth.of_codes(result.codes_BT, K)
    assert health.perplexity > 0.6 * K
    spread = (data - data.mean(0)).square().mean()
    assert result.loss_commit < 0.2 * spread


@BOTH
def test_dead_codes_come_back(kind):
    torch.manual_seed(0)
    quantizer = kind(K, WIDTH, decay=0.8)
    train(quantizer, 5)
    with torch.no_grad():  # all codes but one are moved out of reach
        table = quantizer.vq._codebook.embed[0] if kind is EmaQuantizer else quantizer.codebook_Kd
        table[1:] = 1e4
        if kind is EmaQuantizer:
            quantizer.vq._codebook.embed_avg[0, 1:] = 1e4 * quantizer.vq._codebook.cluster_size[0, 1:, None]
    collapsed = CodebookHealth.of_codes(quantizer(clusters(seed=7)).codes_BT, K)
    assert collapsed.dead == K - 1
    train(quantizer, 100)
    revived = CodebookHealth.of_codes(quantizer(clusters(seed=7)).codes_BT, K)
    assert revived.dead == 0
    assert revived.perplexity > 0.6 * K


def test_without_restart_dead_codes_stay_dead():
    """What the test above relies on: the restart does it, not something else."""
    torch.manual_seed(0)
    quantizer = EmaQuantizer(K, WIDTH, decay=0.8, restart_below=0.0)
    train(quantizer, 5, centre=50.0)
    codebook = quantizer.vq._codebook
    codebook.embed[0, 1:], codebook.embed_avg[0, 1:] = -1e4, -1e4 * codebook.cluster_size[0, 1:, None]
    train(quantizer, 100, centre=50.0)
    assert CodebookHealth.of_codes(quantizer(clusters(seed=7, centre=50.0)).codes_BT, K).dead == K - 1


@BOTH
def test_gradient_goes_straight_through(kind):
    torch.manual_seed(0)
    quantizer = kind(K, WIDTH).train()
    latents = clusters().requires_grad_()
    result = quantizer(latents)
    weight = torch.randn_like(latents)
    (result.values_BTd * weight).sum().backward()
    torch.testing.assert_close(latents.grad, weight)
    codebook = torch.cdist(latents.detach()[:, 0], result.values_BTd.detach()[:, 0])
    assert (codebook.diagonal() <= codebook.min(dim=1).values + 1e-4).all()  # and the value is the nearest one


def test_losses_of_eq_13_pull_only_their_own_side():
    torch.manual_seed(0)
    quantizer = CodebookQuantizer(K, WIDTH).train()
    quantizer(clusters())
    quantizer.eval()
    latents = clusters(seed=3).requires_grad_()
    result = quantizer(latents)
    result.loss_codebook.backward()
    assert latents.grad is None
    assert quantizer.codebook_Kd.grad.abs().sum() > 0
    quantizer.codebook_Kd.grad = None
    result.loss_commit.backward()
    assert latents.grad.abs().sum() > 0
    assert quantizer.codebook_Kd.grad is None
    chosen = quantizer.codes_to_values(result.codes_BT)
    torch.testing.assert_close(result.loss_commit, (latents - chosen).square().mean())


def test_commitment_of_the_moving_average_has_the_latents_gradient():
    """Eq. 17: d/dc mean‖sg[z] - c‖² = 2 (c - z) / n."""
    torch.manual_seed(0)
    quantizer = EmaQuantizer(K, WIDTH).train()
    latents = clusters().requires_grad_()
    result = quantizer(latents)
    result.loss_commit.backward()
    expected = 2 * (latents - result.values_BTd).detach() / latents.numel()
    torch.testing.assert_close(latents.grad, expected)
    assert float(result.loss_codebook) == 0.0


@BOTH
@pytest.mark.parametrize("how", ["evaluation", "no update"])
def test_nothing_changes_outside_of_training(kind, how):
    torch.manual_seed(0)
    quantizer = kind(K, WIDTH)
    train(quantizer, 3)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    for seed in range(5):
        if how == "evaluation":
            quantizer.eval()(clusters(seed=seed, centre=20.0))
        else:
            quantizer.train()(clusters(seed=seed, centre=20.0), update=False)
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


@BOTH
def test_codes_and_values_are_inverse(kind):
    torch.manual_seed(0)
    quantizer = kind(K, WIDTH)
    train(quantizer, 10)
    codes = torch.arange(K).view(4, 4)
    values = quantizer.codes_to_values(codes)
    assert values.shape == (4, 4, WIDTH)
    torch.testing.assert_close(quantizer(values).codes_BT, codes)
    assert quantizer(values).codes_BT.dtype == torch.int64
    assert (quantizer.size, quantizer.width) == (K, WIDTH)


@BOTH
@pytest.mark.parametrize("codes", [[0, K], [-1, 0]])
def test_foreign_codes_are_refused(kind, codes):
    with pytest.raises(QuantizeError, match=f"codebook has {K} entries"):
        kind(K, WIDTH).codes_to_values(torch.tensor(codes))


@BOTH
def test_codes_that_are_not_integers_are_refused(kind):
    with pytest.raises(QuantizeError, match="float32"):
        kind(K, WIDTH).codes_to_values(torch.zeros(3))


def test_an_empty_codebook_is_refused():
    with pytest.raises(QuantizeError, match="codebook is empty"):
        EmaQuantizer(K, WIDTH).eval()(clusters())
    with pytest.raises(QuantizeError, match="codebook is empty"):
        EmaQuantizer(K, WIDTH).train()(clusters(), update=False)


def test_a_frozen_codebook_is_left_alone_in_training():
    """UniVLA's second stage keeps the first stage's codebook while the rest learns."""
    torch.manual_seed(0)
    quantizer = CodebookQuantizer(K, WIDTH, decay=0.1)
    train(quantizer, 3)
    quantizer.requires_grad_(False).train()
    before = quantizer.codebook_Kd.clone()
    for seed in range(10):
        quantizer(clusters(count=4, seed=seed, centre=50.0))
    assert torch.equal(quantizer.codebook_Kd, before)


def test_a_code_that_is_put_elsewhere_leaves_its_momentum_behind():
    """Adam's first moment would drag it along its old way for some ten steps more."""
    torch.manual_seed(0)
    quantizer = CodebookQuantizer(4, WIDTH, decay=0.0, restart_below=0.5).train()
    optimizer = torch.optim.Adam([quantizer.codebook_Kd], lr=0.1)
    moments = []
    for latents in (clusters(64), clusters(1).expand(64, 1, WIDTH)):
        quantizer(latents).loss_codebook.backward()
        quantizer.forget_restarted(optimizer)
        before = quantizer.codebook_Kd.detach().clone()
        optimizer.step()
        optimizer.zero_grad()
        moments.append(optimizer.state[quantizer.codebook_Kd]["exp_avg"].abs().sum(1))
    assert (moments[0] > 0).all()
    unused = moments[1] == 0  # the second batch is one latent: one code takes it, the others are put on it
    assert unused.sum() == 3
    assert torch.equal(quantizer.codebook_Kd.detach()[unused], before[unused])


def test_fewer_latents_than_codes():
    torch.manual_seed(0)
    for quantizer in (CodebookQuantizer(K, WIDTH), EmaQuantizer(K, WIDTH)):
        result = quantizer.train()(clusters(count=3))
        assert torch.isfinite(result.values_BTd).all()
