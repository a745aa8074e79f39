"""The four strategies and the variants: what they place, what they supervise, and what must never leak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lavla_ros.config import ConfigError
from lavla_ros.policy.backbone import build_backbone
from lavla_ros.policy.checkpoint import prompt_builder
from lavla_ros.policy.config import StrategyConfig
from lavla_ros.policy.model import LatentActionVLA, VlaBatch
from lavla_ros.policy.strategies import BackboneShape, PlaceholderStates, build_strategy, check_labels, pool_steps
from lavla_ros.policy.strategies.decoding import CodeHead, by_placeholder
from lavla_ros.policy.strategies.la_align import align_layer

H, A, S, P, D_C = 6, 7, 7, 4, 128
SHAPE = BackboneShape(width=32, layers=28)
TEXT = "put the mango into the bowl"
VARIANTS = {
    "baseline": ("baseline", {}),
    "baseline_ph_direct": ("baseline", {"placeholders": "PH-Direct"}),
    "baseline_ph_cond": ("baseline", {"placeholders": "PH-Cond"}),
    "la_align": ("la_align", {}),
    "la_align_as_released": ("la_align", {"target": "code", "projector": "mlp", "align_layer": "middle"}),
    "la_direct": ("la_direct", {}),
    "la_direct_c": ("la_direct", {"continuous": True}),
    "la_cond": ("la_cond", {}),
    "la_tok": ("la_tok", {}),
    "la_tok_c": ("la_tok", {"continuous": True}),
}
SUPERVISED = [name for name in VARIANTS if not name.startswith("baseline")]


def strategy_of(variant, chunk_size=H, shape=SHAPE):
    name, options = VARIANTS[variant]
    return build_strategy(StrategyConfig(name=name, options=options), chunk_size=chunk_size, shape=shape)


@pytest.fixture
def make(config, contract, tokenizer):
    def model_of(variant):
        name, options = VARIANTS[variant]
        torch.manual_seed(0)
        built = replace(config, strategy=StrategyConfig(name=name, options=options))
        model = LatentActionVLA(built, contract, build_backbone(config.backbone, tokenizer))
        return model, prompt_builder(model, contract, tokenizer)

    return model_of


def batch_of(model, prompt, count=3):
    rng = torch.Generator().manual_seed(0)
    size = model.backbone.image_size
    labels = {
        "z_img": torch.randint(0, 16, (count, H, P), generator=rng),
        "c_img": torch.randn(count, H, P, D_C, generator=rng),
        "e_img": torch.randn(count, H, P, D_C, generator=rng),
        "z_act": torch.randint(0, 256, (count, H), generator=rng),
        "c_act": torch.randn(count, H, D_C, generator=rng),
    }
    return VlaBatch(
        images=torch.randint(0, 256, (count, 2, size, size, 3), dtype=torch.uint8, generator=rng),
        tokens_BL=prompt([TEXT] * count),
        state_BS=torch.randn(count, S, generator=rng),
        actions_BHA=torch.rand(count, H, A, generator=rng) * 2 - 1,
        weight_BH=torch.ones(count, H),
        labels={key: labels[key] for key in model.strategy.required_labels},
    )


@pytest.mark.parametrize("chunk_size", [8, 25, 20])
def test_table_7(chunk_size):
    rows = {
        "baseline": (0, chunk_size, 0.0),
        "la_align": (0, chunk_size, 1.0),
        "la_direct": (P * chunk_size, 0, 0.1),
        "la_cond": (P * chunk_size, chunk_size, 0.1),
        "la_tok": (chunk_size, 0, 0.1),
    }
    for name, (latent, action, weight) in rows.items():
        strategy = strategy_of(name, chunk_size)
        counts = {s.kind: s.count for s in strategy.segments()}
        assert (counts.get("latent", 0), counts.get("action", 0), strategy.weight) == (latent, action, weight), name
        assert sum(counts.values()) == latent + action


def test_matched_baselines_have_the_lengths_of_appendix_e2_on_libero():
    assert [s.count for s in strategy_of("baseline_ph_direct", 8).segments()] == [32]
    assert [s.count for s in strategy_of("baseline_ph_cond", 8).segments()] == [40]
    for variant in ("baseline_ph_direct", "baseline_ph_cond"):
        assert strategy_of(variant).weight == 0.0 and strategy_of(variant).required_labels == ()


def test_lambda_is_an_option():
    for weight in (0.1, 0.2, 0.5):  # Table 12
        config = StrategyConfig(name="la_tok", options={"weight": weight})
        assert build_strategy(config, chunk_size=H, shape=SHAPE).weight == weight


def test_the_aligned_layer_is_17_of_29_and_the_same_fraction_elsewhere():
    assert align_layer("middle", 28) == 17
    assert [align_layer(c, 28) for c in ("early", "final", 3)] == [7, 28, 3]
    assert [align_layer("middle", n) for n in (2, 3, 36)] == [1, 2, 22]
    for wrong in ("late", 0, 29):
        with pytest.raises(ConfigError, match="align_layer"):
            align_layer(wrong, 28)


def test_runs_that_table_5_would_compare_with_themselves_are_refused():
    assert [align_layer(c, 3) for c in ("early", "middle", "final")] == [1, 2, 3]
    with pytest.raises(ConfigError, match=r"align_layer is 'early'.*of 2 layers both are layer 1"):
        align_layer("early", 2)
    with pytest.raises(ConfigError, match=r"align_layer is 'final'.*of 1 layers both are layer 1"):
        align_layer("final", 1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_backbone_and_head_are_identical_across_strategies(make, variant):
    model, _ = make(variant)
    reference, _ = make("baseline")

    def shapes(m):
        return {n: tuple(p.shape) for n, p in m.named_parameters() if not n.startswith("strategy.")}

    assert shapes(model) == shapes(reference) and model.layers == reference.layers


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_forward_pass_and_a_different_action_at_every_step(make, variant):
    model, prompt = make(variant)
    batch = batch_of(model, prompt)
    passes = []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    loss = model.loss(batch)
    assert len(passes) == 1 and torch.isfinite(loss.total)
    actions = model(batch.images, batch.tokens_BL, batch.state_BS).actions_BHA
    assert actions.shape == (3, H, A) and len(passes) == 2
    distance = (actions[:, :, None] - actions[:, None, :]).abs().amax(-1)
    assert distance[:, ~torch.eye(H, dtype=torch.bool)].min() > 1e-4


@pytest.mark.parametrize("variant", SUPERVISED)
def test_total_is_the_action_loss_plus_lambda_times_the_latent_loss(make, variant):
    model, prompt = make(variant)
    loss = model.loss(batch_of(model, prompt))
    expected = loss.parts["action"] + model.strategy.weight * loss.parts["latent"]
    assert torch.allclose(loss.total, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_has_the_mean_loss_of_its_parts_however_it_is_divided(make, variant):
    """Also where episodes end: sample b has b + 1 steps that count, of at most H."""
    model, prompt = make(variant)
    batch = batch_of(model, prompt, count=16)
    batch = replace(batch, weight_BH=(torch.arange(H) <= torch.arange(16)[:, None] % H).float())
    whole = float(model.loss(batch).total.detach())

    def part(first, count):
        rows = slice(first, first + count)
        tensors = {key: getattr(batch, key)[rows] for key in ("images", "tokens_BL", "state_BS", "actions_BHA")}
        labels = {key: value[rows] for key, value in batch.labels.items()}
        return float(model.loss(VlaBatch(**tensors, weight_BH=batch.weight_BH[rows], labels=labels)).total.detach())

    for count in (4, 1):
        assert np.mean([part(first, count) for first in range(0, 16, count)]) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("chunk_size", [8, 25])
@pytest.mark.parametrize(("variant", "expected"), [("la_direct", np.log(16)), ("la_cond", np.log(16)),
    ("la_tok", np.log(256)), ("la_direct_c", 4.0), ("la_tok_c", 4.0), ("la_align", -0.5)])  # fmt: skip
def test_every_term_is_a_mean_whatever_the_chunk_is(variant, expected, chunk_size):
    """So that one λ means the same on all benchmarks (App. B.2). Heads of zero weights know nothing of their labels."""
    strategy = strategy_of(variant, chunk_size)
    for parameter in strategy.parameters():
        torch.nn.init.zeros_(parameter)
    labels = {
        "z_img": torch.zeros(2, chunk_size, P), "z_act": torch.zeros(2, chunk_size),
        "c_img": torch.full((2, chunk_size, P, D_C), 2.0), "c_act": torch.full((2, chunk_size, D_C), 2.0),
    }  # fmt: skip
    if variant == "la_align":
        torch.nn.init.ones_(strategy.project.bias)
        labels["c_img"][:, :, 1:] = 0  # one of four equal parts is all of its length: a cosine of a half
    states = {s.kind: (torch.zeros(2, s.count, SHAPE.width),) * (SHAPE.layers + 1) for s in strategy.segments()}
    latent, _ = strategy.latent_loss(PlaceholderStates(segments=states), labels, torch.ones(2, chunk_size))
    assert float(latent.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_share_of_the_latent_loss_is_that_of_its_gradient_on_the_backbone(make, variant):
    model, prompt = make(variant)
    batch = batch_of(model, prompt)
    figures = model.compare_gradients(batch)
    if variant not in SUPERVISED:
        assert figures == {}
        return
    share = figures["latent_share"]

    def gradient(of):
        model.zero_grad(set_to_none=True)
        of(model.terms(batch)).backward()
        parameters = [p for n, p in model.named_parameters() if n.startswith("backbone.")]
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])

    latent, action = gradient(lambda t: t.latent), gradient(lambda t: t.action)
    assert share == pytest.approx(float(model.strategy.weight * latent.norm() / action.norm()), rel=1e-4)
    assert figures["latent_agreement"] == pytest.approx(float(torch.cosine_similarity(latent, action, dim=0)), abs=1e-4)
    # App. B.2: λ keeps the scales comparable. As sums they were 17 to 50 times apart between strategies.
    print("SHARE", variant, share)
    model.strategy.weight *= 2
    doubled = {"latent_share": 2 * share, "latent_agreement": figures["latent_agreement"]}
    assert model.compare_gradients(batch) == pytest.approx(doubled, rel=1e-4)


def reached(model):
    return {n for n, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0}


@pytest.mark.parametrize("variant", SUPERVISED)
def test_gradients_reach_what_they_should_and_nothing_else(make, variant):
    model, prompt = make(variant)
    batch = batch_of(model, prompt)
    output = model(batch.images, batch.tokens_BL, batch.state_BS)
    latent, _ = model.strategy.latent_loss(output.states, batch.labels, batch.weight_BH)
    latent.backward(retain_graph=True)
    by_latent = reached(model)
    assert {n for n, _ in model.named_parameters() if n.startswith("strategy.")} <= by_latent
    assert "backbone.placeholder_embeddings.weight" in by_latent
    assert any(".layers.0." in n for n in by_latent) and any("visual" in n for n in by_latent)
    assert not any(n.startswith("head.") for n in by_latent), "the action head is not supervised by latents"
    if variant.startswith("la_align"):
        layer = model.strategy.layer
        assert not any(f".layers.{k}." in n for n in by_latent for k in range(layer, model.backbone.shape.layers))
    else:
        assert any(f".layers.{model.backbone.shape.layers - 1}." in n for n in by_latent)
    model.zero_grad(set_to_none=True)
    output.actions_BHA.square().sum().backward()
    by_action = reached(model)
    assert not any(n.startswith("strategy.") for n in by_action), "the action loss does not train the latent head"
    assert {n for n, _ in model.named_parameters() if n.startswith("head.queries")} <= by_action
    assert "backbone.placeholder_embeddings.weight" in by_action


@pytest.mark.parametrize("variant", SUPERVISED)
def test_latent_heads_change_nothing_at_inference(make, variant):
    model, prompt = make(variant)
    batch = batch_of(model, prompt)
    before = model(batch.images, batch.tokens_BL, batch.state_BS).actions_BHA
    with torch.no_grad():
        for parameter in model.strategy.parameters():
            parameter.fill_(7.0)
    assert torch.equal(before, model(batch.images, batch.tokens_BL, batch.state_BS).actions_BHA)


def test_in_la_cond_actions_see_the_latent_segment_and_not_the_reverse(make):
    model, prompt = make("la_cond")
    batch = batch_of(model, prompt)

    def states():
        return model(batch.images, batch.tokens_BL, batch.state_BS).states.segments

    before = states()
    rows = {kind: i for i, (kind, _) in enumerate(model.backbone.ids.placeholders)}

    def nudged(kind):
        weight = model.backbone.placeholder_embeddings.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight[rows[kind]] += 0.5
            after = states()
            weight.copy_(kept)
        return after

    latent_changed, action_changed = nudged("latent"), nudged("action")
    last = model.backbone.shape.layers
    assert not torch.allclose(before["action"][last], latent_changed["action"][last], atol=1e-4)
    assert torch.equal(before["latent"][last], action_changed["latent"][last])


@pytest.mark.parametrize("variant", ["la_direct", "la_cond", "baseline_ph_direct"])
def test_permuting_the_tokens_of_a_step_does_not_mix_steps(variant):
    segment = strategy_of(variant).segments()[0]
    states = torch.randn(2, segment.count, 5)
    by_step = states.reshape(2, H, segment.per_step, 5)
    order = torch.randperm(segment.per_step, generator=torch.Generator().manual_seed(1))
    shuffled = by_step.clone()
    shuffled[:, 2] = by_step[:, 2, order]
    pooled, pooled_shuffled = pool_steps(states, segment), pool_steps(shuffled.flatten(1, 2), segment)
    assert pooled.shape == (2, H, 5)
    assert torch.allclose(pooled, pooled_shuffled, atol=1e-6)
    shuffled[:, 2] += 1.0
    changed = (pool_steps(shuffled.flatten(1, 2), segment) - pooled).abs().amax(dim=(0, 2)) > 1e-3
    assert changed.tolist() == [False, False, True, False, False, False]


def test_placeholder_k_predicts_token_k():
    head = CodeHead(16, 16)
    with torch.no_grad():
        head.project.weight.copy_(torch.eye(16) * 50)
        head.project.bias.zero_()
    codes = torch.tensor([[[3, 1, 4, 1], [5, 9, 2, 6]]])  # (B, H, P)
    states = torch.nn.functional.one_hot(by_placeholder(codes), 16).float()
    weight = torch.ones(1, 8)
    loss, figures = head.loss(states, by_placeholder(codes), weight)
    assert loss.item() < 1e-6 and figures["latent_accuracy"].item() == 1.0
    shifted, _ = head.loss(states, by_placeholder(codes).roll(1, dims=1), weight)
    assert shifted.item() > 100 / 8


@pytest.mark.parametrize("variant", SUPERVISED)
def test_steps_that_do_not_count_are_not_supervised(make, variant):
    model, prompt = make(variant)
    batch = batch_of(model, prompt)
    weight = batch.weight_BH.clone()
    weight[:, 3:] = 0
    states = model(batch.images, batch.tokens_BL, batch.state_BS).states
    other = {k: v.clone() for k, v in batch.labels.items()}
    for value in other.values():
        value[:, 3:] = 1
    ours, _ = model.strategy.latent_loss(states, batch.labels, weight)
    theirs, _ = model.strategy.latent_loss(states, other, weight)
    counted, _ = model.strategy.latent_loss(states, other, batch.weight_BH)
    assert torch.equal(ours, theirs) and not torch.allclose(ours, counted)


@pytest.mark.parametrize("centre", [False, True])
def test_what_la_align_learned_is_counted_from_the_best_constant(centre):
    """Labels with a large part in common: a constant is aligned with them already, unless that part is taken away."""
    rng = np.random.default_rng(0)
    labels = (rng.normal(size=(400, P, D_C)) + 3.0).astype(np.float16)
    strategy = build_strategy(StrategyConfig(name="la_align", options={"centre": centre}), chunk_size=H, shape=SHAPE)
    strategy.prepare({"c_img": labels})
    batch = torch.from_numpy(labels[: 30 * H]).view(30, H, P, D_C)
    states = PlaceholderStates(segments={"action": (torch.zeros(30, H, 32),) * 29})
    torch.nn.init.zeros_(strategy.project.weight)

    def figures(bias):
        strategy.project.bias.data = bias
        return strategy.latent_loss(states, {"c_img": batch}, torch.ones(30, H))[1]

    flat = torch.from_numpy(labels).float().flatten(1)
    best = figures(torch.nn.functional.normalize(flat, dim=1).mean(0))
    others = [figures(torch.randn(P * D_C, generator=torch.Generator().manual_seed(seed))) for seed in range(3)]
    if centre:
        assert strategy.constant < 0.1 and abs(float(best["latent_cosine"])) < 0.1
    else:
        assert float(best["latent_cosine"]) == pytest.approx(0.95, abs=0.02) and abs(best["latent_cosine_gain"]) < 0.01
        assert all(float(other["latent_cosine_gain"]) < -0.5 for other in others)


@pytest.mark.parametrize("variant", SUPERVISED)
def test_the_latent_loss_can_be_learned(make, variant):
    model, prompt = make(variant)
    batch = batch_of(model, prompt, count=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        output = model(batch.images, batch.tokens_BL, batch.state_BS)
        latent, _ = model.strategy.latent_loss(output.states, batch.labels, batch.weight_BH)
        latent.backward()
        optimizer.step()
        losses.append(latent.item())
    assert losses[-1] < losses[0] - 0.05 * abs(losses[0])


def test_labels_that_do_not_fit_are_refused_before_training():
    codes = strategy_of("la_direct").label_specs
    check_labels(codes, {"z_img": np.zeros((5, P), np.int16)}, steps=5)
    for labels, message in (
        ({}, "lavla latent label"),
        ({"z_img": np.zeros((4, P), np.int16)}, "shape"),
        ({"z_img": np.zeros((5, 2), np.int16)}, "shape"),
        ({"z_img": np.full((5, P), 16, np.int16)}, "strategy.options.codebook"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_labels(codes, labels, steps=5)
