"""The forward pass of the pretrained backbone, held against transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_world import HORIZON, INSTRUCTION, save_small_qwen, world_contract
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3VLModel

from lavla_ros.config import ConfigError
from lavla_ros.policy.backbone import build_backbone
from lavla_ros.policy.base_model import load_pretrained_tokenizer, require_backbone
from lavla_ros.policy.checkpoint import prompt_builder
from lavla_ros.policy.config import BackboneConfig, HeadConfig, PolicyConfig
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.prompt import PromptError, suffix_text


@pytest.mark.parametrize("chat", [False, True])
def test_hidden_states_are_those_of_the_stock_model(tmp_path: Path, chat: bool) -> None:
    """Images inserted, DeepStack added, positions, attention to one image at a time: bit for bit."""
    path = str(save_small_qwen(tmp_path / "qwen"))
    tokenizer = load_pretrained_tokenizer(path)
    config = BackboneConfig(kind="pretrained", path=path, lora=None, chat=chat)
    policy = PolicyConfig(backbone=config, head=HeadConfig(heads=2))
    model = LatentActionVLA(policy, world_contract(), build_backbone(config, tokenizer)).eval()
    backbone = model.backbone
    with torch.no_grad():  # the stock model has no embeddings of its own for placeholders
        rows = [token for _, token in backbone.ids.placeholders]
        backbone.placeholder_embeddings.weight.copy_(backbone.vlm.language_model.embed_tokens.weight[rows])
    images = torch.randint(0, 256, (2, 2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tokens = prompt_builder(model, world_contract(), tokenizer)([INSTRUCTION, "stack"])
    stock = Qwen3VLModel.from_pretrained(path)

    @torch.no_grad()
    def expected(tokens: Tensor) -> tuple[Tensor, ...]:
        return stock(
            input_ids=tokens,
            pixel_values=backbone.vision_pixels(images[: len(tokens)]),
            image_grid_thw=torch.tensor([backbone.grid] * 2 * len(tokens)),
            mm_token_type_ids=(tokens == backbone.ids.image).int(),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states

    with torch.no_grad():
        found = backbone(images, tokens)
    assert len(found) == 5
    for ours, theirs in zip(found, expected(tokens), strict=True):
        assert torch.equal(ours, theirs)
    if chat:  # what the template puts behind the placeholders is left out, and changes nothing before it
        whole = turn(tokenizer, INSTRUCTION + suffix_text(HORIZON) + "[ACTION]" * HORIZON)
        length = tokens.shape[1]
        assert whole[0, :length].tolist() == tokens[0].tolist() and "assistant" in tokenizer.decode(whole[0, length:])
        for ours, theirs in zip(found, expected(whole), strict=True):
            torch.testing.assert_close(ours[:1], theirs[:, :length], rtol=0, atol=1e-5)


def turn(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """(1, L): two images and a text by the tokenizer's chat template, 49 tokens an image."""
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": text}]
    made = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return torch.tensor([tokenizer.encode(str(made).replace("<|image_pad|>", "<|image_pad|>" * 49))])


def test_a_chat_template_that_will_not_do_is_refused(tmp_path: Path) -> None:
    path = str(save_small_qwen(tmp_path / "qwen"))
    config = BackboneConfig(kind="pretrained", path=path, chat=True)
    template = tmp_path / "qwen/chat_template.jinja"
    template.write_text(template.read_text().replace("<|vision_end|>", "<|vision_end|>, then "))
    with pytest.raises(PromptError, match=r"template makes .*, then .*expected them side by side"):
        require_backbone(config)
    template.unlink()
    with pytest.raises(PromptError, match="the tokenizer has no chat template"):
        require_backbone(config)
    with pytest.raises(ConfigError, match=r"backbone\.chat is True; expected false with backbone.kind: tiny"):
        BackboneConfig(chat=True)
