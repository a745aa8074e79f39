"""A small checkpoint with random weights, made with the parts that the trainer uses."""

from __future__ import annotations

from collections.abc import Sequence
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

HOME_RAD = (0.0, 0.3, 1.6, 0.0, 1.2, 0.0)
TINY = TinyConfig(image_size=112, stem_channels=(8, 16), vision_width=64, width=64, depth=1, intermediate=128)


def write_random_checkpoint(
    path: Path,
    *,
    seed: int = 0,
    span_rad: float = 0.02,
    robot: str = "jaka_minicobo",
    home: Sequence[float] = (*HOME_RAD, 1.0),
    relative: bool = True,
) -> Path:
    """A checkpoint for a robot's contract whose actions stay within ``span_rad`` of the state, or of ``home``."""
    contract = load_contract(robot)
    coding = ActionCodingConfig(relative_actions=relative)
    config = PolicyConfig(backbone=BackboneConfig(tiny=TINY), actions=coding)
    tokenizer = train_tokenizer(["Put the mango into the bowl."], TINY.vocab_size, contract.chunk_size)
    torch.manual_seed(seed)
    model = LatentActionVLA(config, contract, build_backbone(config.backbone, tokenizer))
    rng = np.random.default_rng(seed)
    samples = 32
    states = np.tile(np.array(home), (samples, 1)) + rng.normal(0, span_rad, (samples, contract.state_dim))
    actions = states[:, None, :] + rng.uniform(-span_rad, span_rad, (samples, contract.chunk_size, contract.action_dim))
    grippers = list(contract.action.gripper_indices)
    actions[..., grippers] = np.array(home)[grippers]
    stats = compute_stats(
        contract,
        config.actions,
        states_NS=states,
        actions_NHA=actions,
        mask_NH=np.ones((samples, contract.chunk_size), bool),
    )
    tensors = trained_parameters(model)
    save_checkpoint(
        path, config=config, contract=contract, stats=stats, tokenizer=tokenizer, tensors=tensors, training={}
    )
    return path
