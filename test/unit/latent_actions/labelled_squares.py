"""Two small latent action models for the moving squares, with codebooks that data have seeded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from moving_square import SMALL, square_contract

from training.dataset import EpisodeDataset
from training.latent_actions.action_config import ActionLamConfig
from training.latent_actions.action_data import ActionChunks, chunk_stats
from training.latent_actions.action_model import ActionLatentModel
from training.latent_actions.checkpoint import save_latent_model
from training.latent_actions.features import load_features
from training.latent_actions.image_config import ImageLamConfig
from training.latent_actions.image_model import ImageLatentModel

CODES = 8


def save_action_model(path: Path, dataset_path: Path, seed: int = 0) -> Path:
    """Untrained, but with the statistics of the data and a codebook among its latents."""
    contract = square_contract()
    dataset = EpisodeDataset(dataset_path, contract)
    chunks = ActionChunks(
        states_NS=dataset.states,
        actions_NHA=np.stack([dataset.chunk(i)[0] for i in range(len(dataset))]),
        episode_N=dataset.episode_of,
    )
    config = ActionLamConfig(
        chunk_size=contract.chunk_size, width=16, heads=2, feedforward=16, decoder_width=16, codebook_size=CODES
    )
    torch.manual_seed(seed)
    model = ActionLatentModel(config, contract, chunk_stats(contract, config.actions, chunks))
    model.train().loss(model.normalise(chunks.actions_NHA, chunks.states_NS))
    save_latent_model(path, model, {"seed": seed})
    return path


def save_image_model(path: Path, dataset_path: Path, seed: int = 0, config: ImageLamConfig = SMALL) -> Path:
    """The same for transitions."""
    contract = square_contract()
    extractor = load_features(config.features)
    config = replace(config, features=replace(config.features, fingerprint=extractor.fingerprint))
    dataset = EpisodeDataset(dataset_path, contract)
    frames = np.stack([image for _, image in dataset.frames("front")])
    features = torch.from_numpy(extractor.extract(frames)).float()
    torch.manual_seed(seed)
    model = ImageLatentModel(config, contract, {}).train()
    if config.stage == 2:
        model(features[:-2], features[2:])
    save_latent_model(path, model, {"seed": seed, "action_weight": 0.5})
    return path
