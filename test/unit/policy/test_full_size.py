"""The Qwen3-VL-2B configuration on the meta device: counts and shapes, no memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import Qwen3VLModel

from benchmarks.qwen import qwen_config
from lavla_ros.config import read_config
from lavla_ros.contract import load_contract
from lavla_ros.policy.backbone import Backbone
from lavla_ros.policy.config import StrategyConfig
from lavla_ros.policy.head import BridgeAttentionHead
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.prompt import TokenIds
from lavla_ros.resources import config_path
from training.config import TrainConfig
from training.policy_task import adamw

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def build():
    ids = TokenIds(
        image=151655,
        vision_start=151652,
        vision_end=151653,
        video=151656,
        placeholders=(("latent", 151669), ("action", 151670)),
    )

    def build(strategy: str = "baseline") -> LatentActionVLA:
        config = read_config(TrainConfig, config_path("training/jaka.yaml"))
        policy = replace(config.policy, strategy=StrategyConfig(name=strategy))
        with torch.device("meta"):
            backbone = Backbone(policy.backbone, Qwen3VLModel(qwen_config("2b", ids)), ids)
            return LatentActionVLA(policy, load_contract(config.data.contract), backbone)

    return build


@pytest.fixture(scope="module")
def full(build):
    return build()


def test_parameter_counts(full):
    named = dict(full.backbone.vlm.named_parameters())
    base = sum(p.numel() for n, p in named.items() if "lora_" not in n)
    lora = {n: p for n, p in named.items() if "lora_" in n}
    assert base == 2_127_532_032
    assert sum(p.numel() for p in lora.values()) == pytest.approx(98.6e6, rel=0.01)
    assert sum(p.numel() for n, p in lora.items() if "visual" in n) == pytest.approx(28.8e6, rel=0.01)
    assert not any(p.requires_grad for n, p in named.items() if "lora_" not in n), "the model itself is frozen"
    assert all(p.requires_grad for p in lora.values())
    assert full.backbone.placeholder_embeddings.weight.requires_grad
    assert len(full.head.blocks) == 15  # layers 14 … 28


@pytest.mark.parametrize(
    ("recipe", "parameters"), [("libero", 287_772_182), ("robotwin", 287_833_629), ("jaka", 287_794_710)]
)
def test_the_head_has_the_references_size(recipe, parameters):
    """260 M for LIBERO and 290 M for RoboTwin; it was 634 M with a projection to keys and values for each source."""
    config = read_config(TrainConfig, config_path(f"training/{recipe}.yaml"))
    contract = load_contract(config.data.contract)
    sizes = {"state_dim": contract.state_dim, "action_dim": contract.action_dim, "chunk_size": contract.chunk_size}
    with torch.device("meta"):
        head = BridgeAttentionHead(config.policy.head, layers=15, source_width=2048, **sizes)
    count = sum(p.numel() for p in head.parameters())
    assert count == parameters and 260e6 <= count <= 290e6


def test_ten_updates_of_a_full_width_block_do_not_raise_the_loss():
    """With the optimizer, the warm-up and the clip of the paper's recipes; without the warm-up they do."""
    config = read_config(TrainConfig, config_path("training/jaka.yaml"))
    rng = torch.Generator().manual_seed(0)
    images, placeholders, state, target = (
        torch.randn(1, *shape, generator=rng) for shape in ((98, 2048), (20, 2048), (7,), (20, 7))
    )

    def losses(optim, updates):
        torch.manual_seed(0)
        head = BridgeAttentionHead(
            config.policy.head, layers=1, source_width=2048, state_dim=7, action_dim=7, chunk_size=20
        )
        optimizer = adamw(dict(head.named_parameters()), optim)
        found = []
        for step in range(updates + 1):
            optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = optim.learning_rate_at(step, 30_000)
            loss = (head([images], [placeholders], state) - target.tanh()).square().mean()
            found.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), optim.gradient_clip)
            optimizer.step()
        return found

    warm, cold = losses(config.optim, 10), losses(replace(config.optim, warmup_steps=0), 2)
    assert max(warm) == warm[0] and warm[-1] < warm[0]
    assert max(cold) > 2 * cold[0]


def test_image_tokens_and_grid(full):
    assert full.backbone.image_tokens == 49
    assert full.backbone.grid == (1, 14, 14)
    assert full.backbone.shape.layers == 28


def test_one_forward_pass_has_the_right_shapes(full):
    backbone = full.backbone
    images = torch.empty((2, 2, 224, 224, 3), dtype=torch.uint8, device="meta")
    pixels = images.flatten(0, 1).permute(0, 3, 1, 2).float()
    from lavla_ros.policy.backbone import patchify

    assert patchify(pixels, 16, 2, 2).shape == (4 * 196, 1536)
    layers = [torch.empty(2, 98, 2048, device="meta")] * 15
    places = [torch.empty(2, 20, 2048, device="meta")] * 15
    actions = full.head(layers, places, torch.empty(2, 7, device="meta"))
    assert actions.shape == (2, 20, 7)
    out = backbone.vlm.language_model(
        inputs_embeds=torch.empty(1, 138, 2048, device="meta"),
        position_ids=torch.zeros(3, 1, 138, dtype=torch.int64, device="meta"),
        use_cache=False,
        output_hidden_states=True,
    )
    assert len(out.hidden_states) == 29
    assert out.hidden_states[14].shape == (1, 138, 2048)


@pytest.mark.parametrize(
    ("strategy", "latent_head"),
    [
        ("baseline", 0),
        ("la_align", 2048 * 4 * 128 + 4 * 128),  # linear projection to the P embeddings of a step
        ("la_direct", 2048 * 16 + 16),  # K = 16 ways for every placeholder
        ("la_cond", 2048 * 16 + 16),
        ("la_tok", 2048 * 256 + 256),  # K = 256 ways
    ],
)
def test_strategies_differ_by_their_latent_head_alone(build, full, strategy, latent_head):
    model = build(strategy)

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(model.strategy) == latent_head
    assert count(model.head) == count(full.head)
    assert count(model.backbone) == count(full.backbone)
