"""The image model: what sees what, what gradients reach, what the objective adds up, what is saved."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from moving_square import SMALL, square_contract

from lavla_ros.config import ConfigError
from training.latent_actions.checkpoint import load_latent_model, save_latent_model
from training.latent_actions.features import TextStates
from training.latent_actions.image_config import ImageLamConfig
from training.latent_actions.image_model import (
    CONTROLLABLE,
    ENVIRONMENT,
    ActionHead,
    ImageBatch,
    ImageLatentModel,
    ImageObjective,
)
from training.latent_actions.spacetime import SpaceTimeTransformer, sinusoids

BATCH, ACTIONS = 12, 7
FIRST = replace(SMALL, stage=1, codebook_size=SMALL.environment_codebook_size)


def build(config: ImageLamConfig, seed: int = 0) -> ImageLatentModel:
    """Untrained, with the codebooks that it trains seeded from a batch."""
    torch.manual_seed(seed)
    model = ImageLatentModel(config, square_contract(), {})
    model.train()(*features(seed), words() if config.stage == 1 else None)
    return model.eval()


def features(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + seed)
    shape = (2, BATCH, SMALL.features.tokens, SMALL.features.width)
    now, future = torch.randn(shape, generator=generator)
    return now, future


def words(seed: int = 0) -> TextStates:
    """Instructions of 2 and of 5 words."""
    generator = torch.Generator().manual_seed(200 + seed)
    mask = torch.arange(5) < torch.tensor([2, 5]).repeat(BATCH // 2)[:, None]
    return TextStates(torch.randn(BATCH, 5, SMALL.text.width, generator=generator) * mask[..., None], mask)


def batch(known: int = 3, text: TextStates | None = None) -> ImageBatch:
    now, future = features()
    actions = torch.randn(BATCH, ACTIONS, generator=torch.Generator().manual_seed(1))
    return ImageBatch(now, future, text, actions, torch.arange(BATCH) < known)


def objective(model: ImageLatentModel, weight: float) -> ImageObjective:
    torch.manual_seed(3)
    head = ActionHead(model.config, 16, ACTIONS)  # drawn in either case, so that nothing else differs
    return ImageObjective(model, head if weight > 0 else None, weight)


@pytest.fixture(params=[1, 2])
def model(request) -> ImageLatentModel:
    return build(FIRST if request.param == 1 else SMALL)


def given(model: ImageLatentModel) -> tuple[TextStates, ...]:
    return (words(),) if model.config.stage == 1 else ()


# ------------------------------------------------------------------ shapes


def test_shapes_and_ranges(model):
    now, future = features()
    latents, codes = model.encode(now, future, *given(model)), model.tokenize(now, future, *given(model))
    size = 5 if model.config.stage == 1 else 6
    assert latents.shape == (BATCH, 4, 8)
    assert codes.shape == (BATCH, 4) and codes.dtype == torch.int64
    assert int(codes.min()) >= 0 and int(codes.max()) < size and len(codes.unique()) > 1
    made = model(now, future, *given(model))
    assert list(made.latents) == ([ENVIRONMENT] if model.config.stage == 1 else [CONTROLLABLE, ENVIRONMENT])
    assert made.predicted_BNF.shape == now.shape
    assert torch.equal(made.latents[model.target], latents)
    assert torch.equal(made.quantized[model.target].codes_BT, codes)
    nearest = torch.cdist(latents, model.latents[model.target].quantizer.codebook_Kd).argmin(-1)
    assert torch.equal(codes, nearest)


def test_the_papers_model_has_the_papers_sizes():
    """App. A.1, D.2; UniVLA's encoder and decoder: 12 blocks each of width 768."""
    config = ImageLamConfig()
    assert (config.tokens, config.latent_width, config.codebook_size, config.delta) == (4, 128, 16, 32)
    assert (config.features.tokens, config.features.width) == (256, 768)
    with torch.device("meta"):
        second = ImageLatentModel(config, square_contract(), {})
        first = ImageLatentModel(replace(config, stage=1), square_contract(), {})
    width, ffn = 768, 2 * 4 * 768 * 768 + 5 * 768
    attention = 4 * width**2 + width
    block_over_time, block = 2 * attention + ffn + 6 * width, attention + ffn + 4 * width
    project = width**2 + width + 4 * width
    shared = 12 * block_over_time + 12 * block + 2 * project + 2 * (width**2 + width)  # image_in, features_out
    kind = 4 * 768 + 2 * 768 * 128 + 128 + 768 + 16 * 128
    assert sum(p.numel() for p in second.parameters()) == shared + 2 * kind
    assert sum(p.numel() for p in first.parameters()) == shared + kind + width**2 + width  # text_in


@pytest.mark.parametrize(
    ("now", "future"), [((2, 15, 16), (2, 15, 16)), ((2, 16, 16), (3, 16, 16)), ((16, 16), (16, 16))]
)
def test_features_of_another_shape_are_refused(now, future):
    with pytest.raises(ValueError, match=r"features of o_t\S* have shape .*; expected \(B, N, F\)"):
        build(SMALL).encode(torch.zeros(now), torch.zeros(future))


def test_language_is_for_stage_one_alone():
    with pytest.raises(ValueError, match="conditioned on language"):
        build(FIRST).encode(*features())
    with pytest.raises(ValueError, match="takes no language"):
        build(SMALL).encode(*features(), words())


# ------------------------------------------------------------------ who sees whom


def transformer(over_time: bool) -> SpaceTimeTransformer:
    torch.manual_seed(0)
    return SpaceTimeTransformer(16, 32, 2, 2, max_tokens=9, over_time=over_time, dropout=0.0).eval()


def test_the_first_image_does_not_see_the_second():
    encoder, tokens = transformer(True), torch.randn(2, 2, 9, 16)
    other = tokens.clone()
    other[:, 1] = torch.randn(2, 9, 16)
    a, b = encoder(tokens), encoder(other)
    assert torch.equal(a[:, 0], b[:, 0])
    assert not torch.allclose(a[:, 1], b[:, 1])
    other = tokens.clone()
    other[:, 0, 3] = torch.randn(2, 16)  # one token of the first image reaches every one of the second
    assert ((encoder(other) - a)[:, 1].abs().amax(-1) > 1e-6).all()


def test_latents_depend_on_both_images(model):
    now, future = (half.requires_grad_() for half in features())
    model.encode(now, future, *given(model)).square().sum().backward()
    assert (now.grad.abs().amax((-1, -2)) > 0).all()
    assert (future.grad.abs().amax((-1, -2)) > 0).all()


def test_samples_of_a_batch_do_not_mix(model):
    now, future = features()
    text = given(model)
    whole = model.encode(now, future, *text)
    half = model.encode(now[4:8], future[4:8], *(TextStates(t.states_BLE[4:8], t.mask_BL[4:8]) for t in text))
    torch.testing.assert_close(whole[4:8], half)


def test_tokens_know_where_they_are():
    """Without positions a permutation of the tokens would only permute the states."""
    encoder, tokens = transformer(False), torch.randn(2, 1, 9, 16)
    order = torch.randperm(9)
    assert not torch.allclose(encoder(tokens[:, :, order]), encoder(tokens)[:, :, order], atol=1e-3)
    table = sinusoids(9, 32)
    assert table.shape == (9, 32)
    torch.testing.assert_close(table[5, :2], torch.tensor([math.sin(5), math.cos(5)]))
    torch.testing.assert_close(table[5, 16:18], torch.tensor([math.sin(0.05), math.cos(0.05)]))  # 5 / 10000^(16/32)
    assert len(torch.unique(table, dim=0)) == 9


def test_padding_of_the_text_is_not_seen():
    model = build(FIRST)
    now, future = features()
    text = words()
    dirty = TextStates(torch.where(text.mask_BL[..., None], text.states_BLE, 50.0), text.mask_BL)
    torch.testing.assert_close(model.encode(now, future, dirty), model.encode(now, future, text))
    torch.testing.assert_close(model(now, future, dirty).predicted_BNF, model(now, future, text).predicted_BNF)
    seen = TextStates(text.states_BLE + text.mask_BL[..., None].float(), text.mask_BL)
    assert not torch.allclose(model.encode(now, future, seen), model.encode(now, future, text), atol=1e-4)


def test_language_reaches_the_decoder_too():
    """With the codes held, the prediction still depends on the instruction."""
    model = build(FIRST)
    now, _ = features()
    values = {ENVIRONMENT: torch.randn(BATCH, 4, 8)}
    a, b = (model._decode(now, values, model._text(words(seed))) for seed in (0, 1))
    assert not torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("kind", [CONTROLLABLE, ENVIRONMENT])
def test_the_prediction_depends_on_the_latents_and_on_the_first_image(kind):
    model = build(SMALL)
    now, _ = features()
    values = {name: torch.randn(BATCH, 4, 8) for name in (CONTROLLABLE, ENVIRONMENT)}
    before = model._decode(now, values, None)
    for token in range(4):
        changed = {name: value.clone() for name, value in values.items()}
        changed[kind][:, token] += 1.0
        moved = (model._decode(now, changed, None) - before).abs().amax((-1, -2))
        assert (moved > 1e-5).all()
    assert not torch.allclose(model._decode(now + 1.0, values, None), before, atol=1e-3)


def test_the_second_image_reaches_the_prediction_only_through_the_codes():
    """Otherwise the decoder could copy, and codes would mean nothing."""
    model = build(SMALL)
    now, future = features()
    made = model(now, future)
    other = model(now, future + 1e-6 * torch.randn_like(future))
    assert all(torch.equal(other.quantized[k].codes_BT, made.quantized[k].codes_BT) for k in made.quantized)
    torch.testing.assert_close(other.predicted_BNF, made.predicted_BNF, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------ gradients


def test_gradient_reaches_everything_but_the_kept_codebook():
    model = build(SMALL)
    whole = objective(model.train(), 1.0)
    whole.loss(batch()).total.backward()
    without = {name for name, p in whole.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert without == {f"model.latents.{ENVIRONMENT}.quantizer.codebook_Kd"}
    assert not model.latents[ENVIRONMENT].quantizer.codebook_Kd.requires_grad


def test_the_kept_codebook_does_not_change_in_training():
    first = build(FIRST)
    model = ImageLatentModel(SMALL, square_contract(), {})
    model.start_from(first)
    kept = {n: t.clone() for n, t in model.latents[ENVIRONMENT].quantizer.state_dict().items()}
    assert torch.equal(kept["codebook_Kd"], first.latents[ENVIRONMENT].quantizer.codebook_Kd)
    whole = objective(model.train(), 1.0)
    optimizer = torch.optim.AdamW([p for p in whole.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    queries = model.latents[ENVIRONMENT].queries_PF.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        whole.loss(batch()).total.backward()
        optimizer.step()
    for name, value in kept.items():
        assert torch.equal(model.latents[ENVIRONMENT].quantizer.state_dict()[name], value), name
    assert not torch.equal(model.latents[ENVIRONMENT].queries_PF, queries)  # UniVLA goes on training these


def test_gradient_does_not_reach_the_features():
    """They come without a graph; the reconstruction's target must be that, and the model must not add one."""
    item = batch()
    objective(build(SMALL).train(), 1.0).loss(item).total.backward()
    assert item.now_BNF.grad is None and item.future_BNF.grad is None
    assert not item.future_BNF.requires_grad


# ------------------------------------------------------------------ objective


def test_objective_is_the_sum_of_its_equations():
    """Eq. 11-15, computed by hand from the model's parts."""
    model = build(SMALL)
    whole, item = objective(model, 0.7), batch(known=3)
    loss, made = whole.loss(item), model(item.now_BNF, item.future_BNF)
    expected = (made.predicted_BNF - item.future_BNF).square().mean()
    for kind in (CONTROLLABLE, ENVIRONMENT):
        code = model.latents[kind].quantizer.codebook_Kd[made.quantized[kind].codes_BT]
        distance = (code - made.latents[kind]).square().mean()
        expected = expected + distance + 0.25 * distance
    action = (whole.head(made.latents[CONTROLLABLE])[:3] - item.actions_BA[:3]).square().mean()
    torch.testing.assert_close(loss.parts["action"], action.detach())
    torch.testing.assert_close(loss.total, expected + 0.7 * action)


def test_action_head_changes_the_loss_and_nothing_else():
    """On and off (Table 6): same codes, same prediction, same other terms."""
    model = build(SMALL)
    on, off = objective(model, 1.0).loss(batch()), objective(model, 0.0).loss(batch())
    assert set(on.parts) - set(off.parts) == {"action"}
    for name, value in off.parts.items():
        assert torch.equal(on.parts[name], value), name
    assert all(torch.equal(on.codes[kind], off.codes[kind]) for kind in off.codes)
    torch.testing.assert_close(on.total, off.total + on.parts["action"])


def test_only_known_actions_count():
    model = build(SMALL)
    whole = objective(model.train(), 1.0)
    item = batch(known=3)
    unknown = replace(item, actions_BA=item.actions_BA.clone())
    unknown.actions_BA[3:] = float("nan")
    whole.loss(unknown).total.backward()
    gradients = {n: p.grad.clone() for n, p in whole.named_parameters() if p.grad is not None}
    assert all(bool(torch.isfinite(g).all()) for g in gradients.values())
    none = whole.loss(replace(item, supervised_B=torch.zeros(BATCH, dtype=torch.bool)))
    assert float(none.parts["action"]) == 0
    whole.zero_grad()
    none.total.backward()
    assert all(not p.grad.abs().sum() > 0 for p in whole.head.parameters())


def test_action_gradient_reaches_the_encoder_before_the_codebook():
    """Eq. 14 supervises c, the pre-quantisation latent: neither codebook nor decoder is touched by it."""
    model = build(SMALL)
    whole = objective(model.train(), 1.0)
    item = batch()
    made = model(item.now_BNF, item.future_BNF)
    F.mse_loss(whole.head(made.latents[CONTROLLABLE]), item.actions_BA).backward()
    touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"encoder", "latents"}
    assert model.latents[CONTROLLABLE].quantizer.codebook_Kd.grad is None
    assert model.latents[CONTROLLABLE].to_code.weight.grad.any()


# ------------------------------------------------------------------ kept, and begun from


def test_saved_model_gives_the_same_codes_and_has_no_action_head(model, tmp_path):
    whole = objective(model, 1.0)
    save_latent_model(tmp_path / "m", whole.model, {})
    loaded = load_latent_model(tmp_path / "m", ImageLatentModel)
    assert loaded.config == model.config and loaded.target == model.target
    assert not any("head" in name for name in loaded.state_dict())
    assert set(loaded.state_dict()) == {n.removeprefix("model.") for n in whole.state_dict() if n.startswith("model.")}
    now, future = features(5)
    assert torch.equal(loaded.encode(now, future, *given(model)), model.encode(now, future, *given(model)))
    assert torch.equal(loaded.tokenize(now, future, *given(model)), model.tokenize(now, future, *given(model)))
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training


def test_tokenizing_never_changes_the_codebook(model):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.tokenize(*features(3), *given(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_fine_tuning_takes_all_weights_and_stage_two_only_what_univla_takes():
    source, target = build(SMALL, seed=1), ImageLatentModel(SMALL, square_contract(), {})
    target.start_from(source)
    assert all(torch.equal(v, source.state_dict()[n]) for n, v in target.state_dict().items())

    first, second = build(FIRST, seed=2), ImageLatentModel(SMALL, square_contract(), {})
    before = {n: t.clone() for n, t in second.state_dict().items()}
    second.start_from(first)
    changed = {n for n, t in second.state_dict().items() if not torch.equal(t, before[n])}
    quantizer = f"latents.{ENVIRONMENT}.quantizer"
    assert f"{quantizer}.codebook_Kd" in changed and f"latents.{ENVIRONMENT}.queries_PF" in changed
    assert all(name.startswith((quantizer, f"latents.{ENVIRONMENT}.queries")) for name in changed)
    second.start_from(first, whole=True)
    for name, value in second.state_dict().items():
        assert CONTROLLABLE in name or torch.equal(value, first.state_dict()[name]), name


def test_environment_tokens_keep_their_codes_if_stage_two_keeps_stage_one():
    """Beside a fresh encoder most fall together, and nothing pulls them apart: their codebook is frozen."""
    first, used = build(FIRST), {}
    assert len(first.tokenize(*features(), words()).unique()) >= 4
    for whole in (False, True):
        torch.manual_seed(0)
        second = ImageLatentModel(SMALL, square_contract(), {})
        second.start_from(first, whole=whole)
        training = objective(second.train(), 0.0)
        optimizer = torch.optim.AdamW([p for p in training.parameters() if p.requires_grad], lr=1e-3)
        for _ in range(30):
            optimizer.zero_grad()
            training.loss(batch()).total.backward()
            optimizer.step()
        used[whole] = len(second.eval()(*features()).quantized[ENVIRONMENT].codes_BT.unique())
    assert used[False] <= 2 and used[True] >= 4, used


def test_beginnings_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="of stage 2; expected stage 1"):
        ImageLatentModel(FIRST, square_contract(), {}).start_from(build(SMALL))
    with pytest.raises(ConfigError, match=r"does not fit.*codebook_Kd \(6, 8\)"):
        ImageLatentModel(replace(SMALL, codebook_size=9), square_contract(), {}).start_from(build(SMALL))
    with pytest.raises(ConfigError, match="is missing"):
        ImageLatentModel(replace(SMALL, encoder_blocks=2), square_contract(), {}).start_from(build(SMALL))
    mine = replace(SMALL, features=replace(SMALL.features, fingerprint="a" * 16))
    other = replace(SMALL, features=replace(SMALL.features, fingerprint="b" * 16))
    with pytest.raises(ConfigError, match="features are of the encoder bbbb"):
        ImageLatentModel(mine, square_contract(), {}).start_from(ImageLatentModel(other, square_contract(), {}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 30}, r"model.width is 30; expected a multiple of heads=4"),
        ({"delta": 0}, r"model.delta is 0"),
        ({"codebook_size": 1}, r"model.codebook_size is 1"),
        ({"cameras": ("a", "a")}, r"model.cameras"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(replace(SMALL, heads=4), **change)


def test_a_camera_that_the_contract_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"model.cameras is \['side'\].*front"):
        ImageLatentModel(replace(SMALL, cameras=("side",)), square_contract(), {})
    assert ImageLatentModel(SMALL, square_contract(), {}).cameras == ("front",)
