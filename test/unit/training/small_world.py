"""A small learnable world, in memory and as a dataset on disk, and a policy small enough to be trained in a test.

A bright square's place in the image, the same throughout an episode, says how fast joint 1 moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from transformers import Qwen3VLConfig, Qwen3VLModel

from lavla_ros.contract import Contract, load_contract
from lavla_ros.policy.config import BackboneConfig, HeadConfig, LoraConfig, PolicyConfig, TinyConfig
from lavla_ros.policy.prompt import token_ids, train_tokenizer
from training.config import AugmentConfig, DataConfig, OptimConfig, TrainConfig
from training.data import LoadedData, Source, load_data
from training.dataset import DatasetWriter, EpisodeArrays, layout, stats
from training.dataset.video import VideoWriter

SIZE, HORIZON = 32, 4
INSTRUCTION = "put the mango into the bowl"
PHRASINGS = (INSTRUCTION, "the mango belongs into the bowl", "mango, bowl: go", "lay the mango in")


def world_contract() -> Contract:
    full = load_contract("jaka_minicobo")
    cameras = tuple(replace(camera, width=SIZE, height=SIZE) for camera in full.cameras)
    return replace(full, cameras=cameras, chunk_size=HORIZON)


class World:
    """The interface of EpisodeDataset."""

    def __init__(
        self,
        path: Path = Path("world"),
        *,
        episodes: int = 8,
        length: int = 10,
        seed: int = 0,
        phrasings: tuple[str, ...] = (),
    ) -> None:
        """``phrasings``: of every second episode, beginning with INSTRUCTION."""
        self._phrasings = phrasings
        rng = np.random.default_rng(seed)
        self.path = path
        self.length = length
        self.episode_of = np.repeat(np.arange(episodes), length)
        self.places = np.repeat(rng.integers(6, SIZE - 6, episodes), length)
        steps = np.tile(np.arange(length), episodes)
        starts = np.repeat(rng.normal(0, 0.3, (episodes, 7)), length, axis=0)
        speed = (self.places / SIZE - 0.5) * 0.2

        def joints(ahead: int) -> NDArray[np.float32]:
            values = starts.copy()
            values[:, 0] += speed * (steps + ahead)
            values[:, -1] = self.places > SIZE / 2
            return values.astype(np.float32)

        self.states, self.actions = joints(0), joints(1)

    def __len__(self) -> int:
        return len(self.states)

    interventions: NDArray[np.bool_] | None = None

    def instruction(self, index: int) -> str:
        return INSTRUCTION

    def phrasings(self, episode: int) -> tuple[str, ...]:
        return self._phrasings if episode % 2 else ()

    def image(self, index: int) -> NDArray[np.uint8]:
        image = np.full((SIZE, SIZE, 3), 30, dtype=np.uint8)
        image[8:18, self.places[index] - 5 : self.places[index] + 5] = 255
        return image

    def frames(self, camera: str, *, threads: int = 1) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for index in range(len(self.states)):
            yield index, self.image(index)

    def write(self, contract: Contract) -> Path:
        """The same as a dataset on disk, at ``path``."""
        writer = DatasetWriter(self.path, contract)
        for episode in np.unique(self.episode_of):
            rows = np.flatnonzero(self.episode_of == episode)
            videos = {name: self.path / layout.STAGING / f"{name}.mp4" for name in contract.camera_names}
            for video in videos.values():
                with VideoWriter(video, width=SIZE, height=SIZE, fps=int(contract.rate_hz)) as out:
                    for row in rows:
                        out.write(self.image(int(row)))
            histogram = sum(stats.image_histogram(self.image(int(rows[i]))) for i in stats.sample_frames(len(rows)))
            writer.append(
                EpisodeArrays(
                    state_LS=self.states[rows],
                    action_LA=self.actions[rows],
                    capture_ns_LK=np.repeat(rows[:, None] * contract.dt_ns, 3, axis=1),
                    instructions=(INSTRUCTION,) * len(rows),
                    phrasings=self.phrasings(int(episode)),
                    histograms=dict.fromkeys(contract.camera_names, np.asarray(histogram)),
                ),
                videos,
            )
        writer.finish()
        return self.path


def source(world: World, *, weight: float = 1.0, labels: dict[str, NDArray] | None = None) -> Source:
    return Source(dataset=world, name=str(world.path), weight=weight, labels=labels or {})


def load_world(contract: Contract, folder: Path, world: World | None = None, **config) -> LoadedData:
    return load_data(
        [source(World(folder / "world") if world is None else world)],
        contract,
        DataConfig(**config),
        image_size=SIZE,
        cache_dir=folder,
    )


def small_config(output: Path, **changes) -> TrainConfig:
    tiny = TinyConfig(
        image_size=SIZE,
        stem_channels=(8,),
        vision_width=16,
        vision_heads=2,
        width=32,
        heads=2,
        kv_heads=1,
        intermediate=32,
        depth=1,
        vocab_size=290,
    )
    base = TrainConfig(
        output=output,
        steps=12,
        batch_size=8,
        log_every=1,
        validate_every=6,
        save_every=5,
        threads=1,
        trackers=(),
        policy=PolicyConfig(backbone=BackboneConfig(tiny=tiny), head=HeadConfig(heads=2, vision_gate=1.0)),
        data=DataConfig(validation_fraction=0.1),
        augment=AugmentConfig(shift_px=2, crop_area=0.9, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.05),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=4, ema_decay=0.9),
    )
    return replace(base, **changes)


def write_contract(folder: Path) -> Path:
    path = folder / "contract.yaml"
    path.write_text(yaml.safe_dump(world_contract().to_dict()))
    return path


CHAT = """{% for turn in messages %}<|im_start|>{{ turn.role }}
{% for part in turn.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}\
{{ part.text }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""What Qwen3-VL's own template makes of a user's images and text."""


def save_small_qwen(folder: Path) -> Path:
    """A Qwen3-VL of the real layout, 224² images and 49 tokens each, but of next to no width, as on a disk or hub."""
    tokenizer = train_tokenizer([INSTRUCTION], 300, HORIZON)
    turns = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    tokenizer.add_special_tokens(turns, replace_extra_special_tokens=False)
    tokenizer.chat_template = CHAT
    ids = token_ids(tokenizer)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rope_parameters": rope}
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 32, "num_heads": 4, "out_hidden_size": 32}
    vision |= {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "deepstack_visual_indexes": [0, 1]}
    special = {"image_token_id": ids.image, "video_token_id": ids.video}
    special |= {"vision_start_token_id": ids.vision_start, "vision_end_token_id": ids.vision_end}
    torch.manual_seed(0)
    Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision, **special)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class LargeWorld(World):
    """With 224² images."""

    def image(self, index: int) -> NDArray[np.uint8]:
        return np.kron(super().image(index), np.ones((7, 7, 1), np.uint8))


def qwen_run(folder: Path, name: str, *, chat: bool = False) -> tuple[TrainConfig, Contract, LoadedData]:
    """Three steps of LoRA on :func:`save_small_qwen`, written into ``folder/name``."""
    qwen = folder / "qwen"
    if not qwen.exists():
        save_small_qwen(qwen)
    small = world_contract()
    large = replace(small, cameras=tuple(replace(c, width=224, height=224) for c in small.cameras))
    world = LargeWorld(folder / "w", episodes=3, length=4)
    config = small_config(folder / name, steps=3, batch_size=4, validate_every=2)
    backbone = BackboneConfig(kind="pretrained", path=str(qwen), lora=LoraConfig(rank=2), chat=chat)
    config = replace(config, policy=replace(config.policy, backbone=backbone))
    data = load_data([source(world)], large, DataConfig(), image_size=224, cache_dir=folder)
    return config, large, data
