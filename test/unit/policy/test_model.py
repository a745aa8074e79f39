"""The network: shapes, selection by token id, gradients, and what padding and cameras do to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavla_ros.config import ConfigError
from lavla_ros.policy.backbone import patchify
from lavla_ros.policy.checkpoint import prompt_builder
from lavla_ros.policy.config import HeadConfig, StrategyConfig
from lavla_ros.policy.head import BridgeAttentionHead
from lavla_ros.policy.model import VlaBatch, aggregated_layers, token_positions
from lavla_ros.policy.strategies import BackboneShape, Segment, build_strategy, pool_steps

TEXT = "put the mango into the bowl"


def batch_of(model, prompt, count=4, instruction=TEXT, seed=0):
    rng = torch.Generator().manual_seed(seed)
    size = model.backbone.image_size
    return VlaBatch(
        images=torch.randint(0, 256, (count, 2, size, size, 3), dtype=torch.uint8, generator=rng),
        tokens_BL=prompt([instruction] * count),
        state_BS=torch.randn(count, 7, generator=rng),
        actions_BHA=torch.rand(count, 6, 7, generator=rng) * 2 - 1,
        weight_BH=torch.ones(count, 6),
        labels={},
    )


def test_shapes_and_aggregated_layers(model, prompt):
    batch = batch_of(model, prompt)
    output = model(batch.images, batch.tokens_BL, batch.state_BS)
    assert output.actions_BHA.shape == (4, 6, 7)
    assert len(output.states.segments["action"]) == 4  # embedding and 3 layers
    assert output.states.segments["action"][0].shape == (4, 6, 32)
    assert model.layers == (2, 3)
    assert aggregated_layers(28) == tuple(range(14, 29))


def test_tiny_gives_the_papers_49_tokens_per_image():
    from lavla_ros.policy.config import TinyConfig

    assert TinyConfig().image_tokens == 49


def test_every_step_has_its_own_output(model, prompt):
    batch = batch_of(model, prompt)
    actions = model(batch.images, batch.tokens_BL, batch.state_BS).actions_BHA
    distance = (actions[:, :, None] - actions[:, None, :]).abs().amax(-1)
    off_diagonal = distance[:, ~torch.eye(6, dtype=torch.bool)]
    assert off_diagonal.min() > 1e-4


def test_positions_are_found_by_token_id(model, prompt):
    tokens = prompt([TEXT, "stack the bowls on top of each other"])
    ids = model.backbone.ids
    columns = model.backbone.image_columns(2, torch.device("cpu"))
    assert (tokens == ids.image).sum(dim=1).tolist() == [2 * model.backbone.image_tokens] * 2
    assert (tokens[:, columns] == ids.image).all()
    action = token_positions(tokens, ids.placeholder("action"), 6)
    assert action.shape == (2, 6)
    assert (tokens.gather(1, action) == ids.placeholder("action")).all() and (action.diff(dim=1) == 1).all()
    assert action[0, 0] != action[1, 0], "prompts of different length have their placeholders elsewhere"
    with pytest.raises(RuntimeError, match="token 1 does not occur 2 times in every row"):
        token_positions(torch.tensor([[1, 1], [1, 2]]), 1, 2)


def test_padding_changes_nothing(model, prompt):
    model.eval()
    long = "stack the bowls on top of each other, the blue one first"
    batch = batch_of(model, prompt, count=2)
    with torch.inference_mode():
        alone = model(batch.images[:1], prompt([TEXT]), batch.state_BS[:1]).actions_BHA
        padded = model(batch.images, prompt([TEXT, long]), batch.state_BS).actions_BHA
    torch.testing.assert_close(alone[0], padded[0], atol=1e-5, rtol=1e-5)


def test_prompts_of_one_length_for_a_whole_run(contract, model, tokenizer):
    prompt = prompt_builder(model, contract, tokenizer)
    short, long = prompt([TEXT]).shape[1], prompt(["stack the bowls on top of each other"]).shape[1]
    prompt.fix_length([TEXT, "stack the bowls on top of each other"], 16)
    fixed = {prompt([text]).shape[1] for text in (TEXT, "stack the bowls on top of each other")}
    assert fixed == {long + -long % 16} and short < long
    assert prompt([TEXT])[0, :short].tolist() == prompt_builder(model, contract, tokenizer)([TEXT])[0].tolist()


def test_instruction_images_and_state_all_matter(model, prompt):
    model.eval()
    batch = batch_of(model, prompt, count=1)
    swapped = batch.images.flip(1)
    with torch.inference_mode():
        base = model(batch.images, batch.tokens_BL, batch.state_BS).actions_BHA
        for other in (
            model(batch.images, prompt(["stack the bowls"]), batch.state_BS),
            model(swapped, batch.tokens_BL, batch.state_BS),
            model(batch.images, batch.tokens_BL, batch.state_BS + 1),
        ):
            assert (other.actions_BHA - base).abs().max() > 1e-5


def test_gradient_reaches_every_trained_parameter_that_is_used(model, prompt):
    model.loss(batch_of(model, prompt)).total.backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
    # The gate starts at 0, where the keys of the image states have no gradient yet; their values have.
    assert without == set()
    rows = model.backbone.placeholder_embeddings.weight.grad.abs().sum(1)
    kinds = [kind for kind, _ in model.backbone.ids.placeholders]
    assert rows[kinds.index("action")] > 0
    assert rows[kinds.index("latent")] == 0, "the baseline has no latent placeholders"


def test_padded_steps_do_not_count(model, prompt):
    batch = batch_of(model, prompt)
    weight = torch.ones(4, 6)
    weight[:, 3:] = 0
    targets = batch.actions_BHA.clone()
    targets[:, 3:] = 100.0
    masked = VlaBatch(
        images=batch.images,
        tokens_BL=batch.tokens_BL,
        state_BS=batch.state_BS,
        actions_BHA=targets,
        weight_BH=weight,
        labels={},
    )
    loss = model.loss(masked)
    predicted = model(batch.images, batch.tokens_BL, batch.state_BS).actions_BHA
    counted = (predicted[:, :3] - batch.actions_BHA[:, :3]).square().mean()
    torch.testing.assert_close(loss.total, counted / 2)  # half of the steps count, and each as much as it always does
    torch.testing.assert_close(loss.parts["mse"], counted)


def test_overfits_a_small_batch(model, prompt):
    batch = batch_of(model, prompt)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = last = 0.0
    for step in range(150):
        optimizer.zero_grad()
        loss = model.loss(batch)
        loss.total.backward()
        optimizer.step()
        first, last = (float(loss.total.detach()), last) if step == 0 else (first, float(loss.total.detach()))
    assert last < 0.02 * first


def test_head_gate_opens_attention_to_the_images():
    torch.manual_seed(0)
    config = HeadConfig(heads=2, vision_gate=0.0)
    head = BridgeAttentionHead(config, layers=1, source_width=16, state_dim=3, action_dim=2, chunk_size=4)
    images, placeholders, state = torch.randn(1, 9, 16), torch.randn(1, 4, 16), torch.randn(1, 3)
    closed = head([images], [placeholders], state)
    shuffled = head([images.flip(1)], [placeholders], state)
    torch.testing.assert_close(closed, shuffled)  # a uniform mean
    closed.sum().backward()
    assert head.blocks[0].gate.grad.abs() > 0, "the gate can leave 0"


def head_of(**settings):
    torch.manual_seed(0)
    config = HeadConfig(heads=2, vision_gate=1.0, **settings)
    return BridgeAttentionHead(config, layers=2, source_width=16, state_dim=3, action_dim=2, chunk_size=4)


def sources(segments=1):
    rng = torch.Generator().manual_seed(1)
    images, placeholders = (torch.randn(2, n, 16, generator=rng) for n in (9, 4 * segments))
    return [images] * 2, [placeholders] * 2, torch.randn(2, 3, generator=rng)


def test_a_head_of_shared_keys_and_values_is_one_whose_three_projections_are_equal():
    shared, separate = head_of(kv="shared"), head_of()
    state = shared.state_dict()
    for name in list(state):
        if ".qkv." in name:
            for source in ("placeholder", "image"):
                state[name.replace("qkv", f"kv_{source}")] = state[name][16:]
    separate.load_state_dict(state)
    torch.testing.assert_close(shared(*sources()), separate(*sources()))
    with pytest.raises(ConfigError, match=r"head\.width is 32; expected null with head\.kv: shared"):
        HeadConfig(kv="shared", width=32)


def test_step_positions_tell_placeholders_apart_in_every_segment():
    head = head_of(step_positions=True)
    plain = head_of()
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if k != "step_keys"})
    for segments in (1, 2):
        images, placeholders, state = sources(segments)
        order = torch.arange(4 * segments).roll(1)
        shuffled = [p[:, order] for p in placeholders]
        assert torch.equal(head(images, placeholders, state), plain(images, placeholders, state)), "zeros at first"
        torch.testing.assert_close(plain(images, placeholders, state), plain(images, shuffled, state))
        head.step_keys.data.normal_()
        assert (head(images, placeholders, state) - head(images, shuffled, state)).abs().max() > 1e-3
        head(images, placeholders, state).sum().backward()
        assert (head.step_keys.grad.abs().sum(1) > 0).all()
        head.step_keys.data.zero_()


def test_pooling_never_mixes_steps():
    segment = Segment(kind="latent", steps=3, per_step=4)
    states = torch.randn(2, 12, 5)
    pooled = pool_steps(states, segment)
    assert pooled.shape == (2, 3, 5)
    permuted = states.clone()
    permuted[:, 4:8] = states[:, [7, 5, 4, 6]]
    torch.testing.assert_close(pool_steps(permuted, segment), pooled)
    torch.testing.assert_close(pooled[:, 1], states[:, 4:8].mean(1))


def test_unknown_strategy_and_option_are_refused():
    shape = BackboneShape(width=8, layers=2)
    with pytest.raises(ConfigError, match=r"no strategy 'magic'; there are .*la_tok"):
        build_strategy(StrategyConfig(name="magic"), chunk_size=4, shape=shape)
    with pytest.raises(ConfigError, match="unknown keys"):
        build_strategy(StrategyConfig(options={"k": 1}), chunk_size=4, shape=shape)


def test_patches_equal_those_of_the_stock_processor():
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = 224
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    stock = Qwen2VLImageProcessorPil(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": size * size, "longest_edge": size * size},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )(images=[Image.fromarray(image)], return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    torch.testing.assert_close(patchify(pixels, 16, 2, 2), stock, atol=1e-5, rtol=0)
