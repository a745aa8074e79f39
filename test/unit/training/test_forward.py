"""The forward pass of the pretrained backbone, held against transformers' own."""

from __future__ import annotations

from pathlib import Path

import torch
from small_world import INSTRUCTION, save_small_qwen, world_contract
from transformers import Qwen3VLModel

from lavla_ros.policy.backbone import build_backbone
from lavla_ros.policy.base_model import load_pretrained_tokenizer
from lavla_ros.policy.checkpoint import prompt_builder
from lavla_ros.policy.config import BackboneConfig, HeadConfig, PolicyConfig
from lavla_ros.policy.model import LatentActionVLA


def test_hidden_states_are_those_of_the_stock_model(tmp_path: Path) -> None:
    """Images inserted, DeepStack added, positions, attention to one image at a time: bit for bit."""
    path = str(save_small_qwen(tmp_path / "qwen"))
    tokenizer = load_pretrained_tokenizer(path)
    config = PolicyConfig(backbone=BackboneConfig(kind="pretrained", path=path, lora=None), head=HeadConfig(heads=2))
    model = LatentActionVLA(config, world_contract(), build_backbone(config.backbone, tokenizer)).eval()
    backbone = model.backbone
    with torch.no_grad():  # the stock model has no embeddings of its own for placeholders
        rows = [token for _, token in backbone.ids.placeholders]
        backbone.placeholder_embeddings.weight.copy_(backbone.vlm.language_model.embed_tokens.weight[rows])
    images = torch.randint(0, 256, (2, 2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tokens = prompt_builder(model, world_contract(), tokenizer)([INSTRUCTION, "stack"])
    stock = Qwen3VLModel.from_pretrained(path)
    with torch.no_grad():
        expected = stock(
            input_ids=tokens,
            pixel_values=backbone.vision_pixels(images),
            image_grid_thw=torch.tensor([backbone.grid] * 4),
            mm_token_type_ids=(tokens == backbone.ids.image).int(),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        found = backbone(images, tokens)
    assert len(found) == len(expected) == 5
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
