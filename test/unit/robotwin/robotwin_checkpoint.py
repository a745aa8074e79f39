"""A policy of random weights under RoboTwin's contract, whose commands stay where nothing is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lavla_ros.contract import load_contract
from lavla_ros.policy.backbone import build_backbone
from lavla_ros.policy.checkpoint import save_checkpoint, trained_parameters
from lavla_ros.policy.config import ActionCodingConfig, BackboneConfig, PolicyConfig, TinyConfig
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.normalization import compute_stats
from lavla_ros.policy.prompt import train_tokenizer

TINY = TinyConfig(image_size=112, stem_channels=(8, 16), vision_width=64, width=64, depth=1, intermediate=128)


def write_checkpoint(path: Path) -> Path:
    """Joint targets within ±0.05 rad, grippers around half open."""
    contract = load_contract("robotwin_aloha")
    coding = ActionCodingConfig(relative_actions=False, per_step_statistics=False, normalization="min_max")
    config = PolicyConfig(backbone=BackboneConfig(tiny=TINY), actions=coding)
    tokenizer = train_tokenizer(["Swing to the left mark and the right mark."], TINY.vocab_size, contract.chunk_size)
    torch.manual_seed(0)
    model = LatentActionVLA(config, contract, build_backbone(config.backbone, tokenizer))
    rng = np.random.default_rng(0)
    grippers = np.isin(np.arange(14), (6, 13))
    shape = (32, contract.chunk_size, contract.action_dim)
    actions = np.where(grippers, rng.uniform(0.4, 0.6, shape), rng.uniform(-0.05, 0.05, shape))
    stats = compute_stats(
        contract, coding, states_NS=actions[:, 0], actions_NHA=actions, mask_NH=np.ones(shape[:2], bool)
    )
    tensors = trained_parameters(model)
    save_checkpoint(
        path, config=config, contract=contract, stats=stats, tokenizer=tokenizer, tensors=tensors, training={}
    )
    return path
