"""How much memory training a policy on a pretrained backbone needs at least, known before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from transformers import Qwen3VLModel

from lavla_ros.contract import Contract
from lavla_ros.policy.backbone import Backbone
from lavla_ros.policy.base_model import describe, load_pretrained_tokenizer
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.prompt import token_ids
from training.config import TrainConfig
from training.system_resources import GIB, RoomError, available_memory

PROMPT_TOKENS = 64
"""Of an instruction with its suffix: more than most have."""


def training_bytes(config: TrainConfig, contract: Contract, micro_batch: int) -> int:
    """Weights, gradients, moments and averages, and the activations that are kept for the backward pass.

    An estimate from below: what the allocator and single operations need besides is not in it.
    """
    described = describe(config.policy.backbone)
    tokenizer = load_pretrained_tokenizer(config.policy.backbone.path, config.policy.backbone.revision)
    ids = token_ids(tokenizer, chat=config.policy.backbone.chat)
    with torch.device("meta"):
        backbone = Backbone(config.policy.backbone, Qwen3VLModel(described), ids)
        model = LatentActionVLA(config.policy, contract, backbone)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    per_weight = 4 + 4 + 8 + (4 if config.optim.ema_decay is not None else 0)
    text, vision = described.text_config, described.vision_config
    cameras, placeholders = len(contract.cameras), sum(s.count for s in model.strategy.segments())
    length = cameras * (backbone.image_tokens + 2) + PROMPT_TOKENS + placeholders
    patches = cameras * backbone.grid[1] * backbone.grid[2]
    # what a layer keeps: its input if it is computed again, else about what its matrix products read
    widths = (
        (text.num_hidden_layers, length, text.hidden_size, text.intermediate_size),
        (vision.depth, patches, vision.hidden_size, vision.intermediate_size),
    )
    recomputed = config.gradient_checkpointing
    kept = sum(n * tokens * (width if recomputed else 8 * width + 3 * inner) for n, tokens, width, inner in widths)
    size = 2 if config.precision == "bfloat16" else 4
    at_rest = 2 if config.frozen_dtype == "bfloat16" else 4
    return int(frozen * at_rest + trained * per_weight + micro_batch * kept * size)


def require_training_memory(config: TrainConfig, contract: Contract, micro_batch: int, device: torch.device) -> None:
    """Raise RoomError, naming settings that would do, if training is sure not to fit on ``device``."""
    if config.policy.backbone.kind == "tiny":
        return
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    needed = training_bytes(config, contract, micro_batch)
    if free is None or needed <= free:
        return
    where = f"GPU {device}" if device.type == "cuda" else "this machine"
    fitting = next(
        (
            words
            for words, other, size in _smaller(config, micro_batch)
            if training_bytes(other, contract, size) <= free
        ),
        "no setting of this recipe fits; use a machine with more, or several GPUs with config/accelerate/fsdp.yaml",
    )
    raise RoomError(
        f"training needs at least {needed / GIB:.1f} GiB of memory; {free / GIB:.1f} GiB are free on {where}. {fitting}"
    )


def _smaller(config: TrainConfig, micro_batch: int) -> Iterator[tuple[str, TrainConfig, int]]:
    """Recipes that need less, the least change first; each keeps the changes before it."""
    said: list[str] = []

    def words(change: str) -> str:
        said.append(change)
        return f"It fits with {', '.join(said)}"

    if not config.gradient_checkpointing:
        config = replace(config, gradient_checkpointing=True)
        yield words("gradient_checkpointing: true"), config, micro_batch
    if micro_batch > 1:
        accumulation = config.accumulation * micro_batch
        config = replace(config, accumulation=accumulation)
        yield words(f"accumulation: {accumulation}"), config, 1
    if config.frozen_dtype != "bfloat16":
        policy = replace(config.policy, backbone=replace(config.policy.backbone, dtype="bfloat16"))
        config = replace(config, policy=policy)
        yield words("policy.backbone.dtype: bfloat16"), config, 1
    for width in (1024, 512):
        policy = replace(config.policy, head=replace(config.policy.head, width=width))
        said[:] = [change for change in said if "head.width" not in change]
        yield words(f"policy.head.width: {width}"), replace(config, policy=policy), 1
