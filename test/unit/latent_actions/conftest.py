"""Small real parts: the JAKA contract with short chunks, and smooth chunks that go somewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lavla_ros.contract import Contract, load_contract
from training.latent_actions.action_config import ActionLamConfig
from training.latent_actions.action_data import ActionChunks, chunk_stats
from training.latent_actions.action_model import ActionLatentModel

HORIZON = 6


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def contract() -> Contract:
    return replace(load_contract("jaka_minicobo"), chunk_size=HORIZON)


@pytest.fixture(scope="session")
def chunks(contract: Contract) -> ActionChunks:
    """40 episodes of 20 steps: six joints driven by two motions, a gripper that closes at some point."""
    rng = np.random.default_rng(0)
    episodes, length = 40, 20
    time = np.arange(length)[None, :, None]
    motion = rng.normal(0, 0.01, (episodes, 1, 2)) * time
    motion += 0.03 * np.sin(rng.uniform(0.2, 0.6, (episodes, 1, 2)) * time)
    joints = rng.normal(0, 0.3, (episodes, 1, 6)) + motion @ rng.normal(0, 1, (2, 6))
    gripper = (np.arange(length)[None] < rng.integers(4, 16, (episodes, 1))).astype(np.float64)
    positions = np.concatenate([joints, gripper[..., None]], axis=-1)
    later = np.minimum(np.arange(length)[:, None] + 1 + np.arange(HORIZON), length - 1)
    return ActionChunks(
        states_NS=positions.reshape(-1, 7).astype(np.float32),
        actions_NHA=positions[:, later].reshape(-1, HORIZON, 7).astype(np.float32),
        episode_N=np.repeat(np.arange(episodes), length).astype(np.int64),
    )


@pytest.fixture(scope="session")
def small() -> ActionLamConfig:
    return ActionLamConfig(width=32, feedforward=48, decoder_width=48, codebook_size=32, codebook_decay=0.9)


@pytest.fixture
def model(small: ActionLamConfig, contract: Contract, chunks: ActionChunks) -> ActionLatentModel:
    """Untrained, but with a codebook seeded from one batch."""
    torch.manual_seed(0)
    model = ActionLatentModel(small, contract, chunk_stats(contract, small.actions, chunks))
    model.train().loss(model.normalise(chunks.actions_NHA, chunks.states_NS)[::3])
    return model.eval()


@pytest.fixture
def coded(model: ActionLatentModel, chunks: ActionChunks) -> torch.Tensor:
    """(16, H, m) normalised chunks."""
    return model.normalise(chunks.actions_NHA, chunks.states_NS)[:160:10]
