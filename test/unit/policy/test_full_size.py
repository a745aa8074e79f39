"""The Qwen3-VL-2B configuration on the meta device: counts and shapes, no memory."""

from __future__ import annotations

import pytest
import torch

from benchmarks.qwen import qwen_config
from lavla_ros.contract import load_contract
from lavla_ros.policy.backbone import build_pretrained_on_meta
from lavla_ros.policy.config import BackboneConfig, PolicyConfig, StrategyConfig
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.prompt import TokenIds


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
        policy = PolicyConfig(backbone=BackboneConfig(kind="pretrained"), strategy=StrategyConfig(name=strategy))
        with torch.device("meta"):
            backbone = build_pretrained_on_meta(policy.backbone, qwen_config("2b", ids), ids)
            return LatentActionVLA(policy, load_contract("jaka_minicobo"), backbone)

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
