"""A dataset on disk in which a bright square moves left or right, and the action says where it goes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract, load_contract
from training.dataset import DatasetWriter, EpisodeArrays, layout, stats
from training.dataset.video import VideoWriter
from training.latent_actions.image_config import FeatureConfig, ImageLamConfig, TextConfig

SIZE = 28
FEATURES = FeatureConfig(kind="random", image_size=SIZE, patch_size=7, width=16, depth=1, heads=2)
"""16 patches of 16 numbers."""
TEXT = TextConfig(kind="hashed", width=12)
SMALL = ImageLamConfig(
    stage=2,
    delta=2,
    width=32,
    encoder_blocks=1,
    decoder_blocks=1,
    heads=2,
    latent_width=8,
    codebook_size=6,
    environment_codebook_size=5,
    features=FEATURES,
    text=TEXT,
)


def square_contract() -> Contract:
    """The JAKA contract with 28 px cameras."""
    full = load_contract("jaka_minicobo")
    cameras = tuple(replace(camera, width=SIZE, height=SIZE) for camera in full.cameras)
    return replace(full, cameras=cameras, chunk_size=4)


def picture(place: float, camera: int) -> NDArray[np.uint8]:
    image = np.full((SIZE, SIZE, 3), 30, dtype=np.uint8)
    left = round(place)
    image[8 + 4 * camera : 16 + 4 * camera, left : left + 6] = (250, 200, 60)
    return image


def write_squares(path: Path, lengths: Sequence[int], seed: int = 0) -> Path:
    """Episodes of these lengths; the instruction names the side on which the square starts."""
    contract = square_contract()
    rng = np.random.default_rng(seed)
    writer = DatasetWriter(path, contract)
    for number, length in enumerate(lengths):
        steps = rng.choice([-4.0, 0.0, 4.0], length)
        places = np.empty(length + 1)
        places[0] = rng.integers(4, 18)
        for t in range(length):
            places[t + 1] = np.clip(places[t] + steps[t], 1, 21)
        videos, histograms = {}, {}
        for c, name in enumerate(contract.camera_names):
            videos[name] = path / layout.STAGING / f"{name}.mp4"
            with VideoWriter(videos[name], width=SIZE, height=SIZE, fps=int(contract.rate_hz)) as out:
                for t in range(length):
                    out.write(picture(places[t], c))
            frames = stats.sample_frames(length)
            histograms[name] = sum(stats.image_histogram(picture(places[i], c)) for i in frames)
        values = np.zeros((length, 7), np.float32)
        values[:, 0] = places[:-1] / 100
        values[:, 1] = 0.1 * number
        targets = values.copy()
        targets[:, 0] = places[1:] / 100
        writer.append(
            EpisodeArrays(
                state_LS=values,
                action_LA=targets,
                capture_ns_LK=np.zeros((length, 1 + len(contract.cameras)), np.int64),
                instructions=(f"start {'left' if places[0] < 11 else 'right'}",) * length,
                histograms=histograms,
            ),
            videos,
        )
    writer.finish()
    return path
