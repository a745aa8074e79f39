"""Training at full size: seconds, memory and parameters of an optimizer step, for every strategy.

The trainer itself runs, with the JAKA recipe, on a Qwen3-VL-2B of random weights and random data: time and memory do
not depend on their values, and nothing has to be downloaded. ``lavla bench train --out FILE.json``; ``--size small``
shows on any machine that it runs, and measures nothing of interest.
"""

from __future__ import annotations

import gc
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen3VLConfig, Qwen3VLModel

from benchmarks.config import TrainBench
from lavla_ros.config import read_config
from lavla_ros.contract import Contract, load_contract
from lavla_ros.errors import FailedError
from lavla_ros.policy.backbone import PRETRAINED_IMAGE_SIZE
from lavla_ros.policy.config import BackboneConfig, LoraConfig, StrategyConfig
from lavla_ros.policy.prompt import TokenIds, token_ids, train_tokenizer
from lavla_ros.policy.strategies import STRATEGIES, label_specs
from lavla_ros.resources import config_path
from training.config import DataConfig, TrainConfig
from training.data import Source, load_data
from training.loop import Trainer
from training.policy_task import PolicyTask

INSTRUCTION = "put the mango into the bowl"
TEXT = {
    "2b": {"hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}
    | {"head_dim": 128, "intermediate_size": 6144, "vocab_size": 151_936},
    "small": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"head_dim": 8, "intermediate_size": 64, "vocab_size": 512},
}
VISION = {
    "2b": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048}
    | {"deepstack_visual_indexes": [5, 11, 17]},
    "small": {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
    | {"deepstack_visual_indexes": [0, 1]},
}
MROPE = {"2b": [24, 20, 20], "small": [2, 1, 1]}


def run(bench: TrainBench) -> dict[str, Any]:
    """Median of ``steps`` steps after ``warmup`` others, per strategy. Raises RuntimeError at full size without GPU."""
    size, batch_size = bench.size, bench.batch_size
    cuda = torch.cuda.is_available()
    if size == "2b" and not cuda:
        raise FailedError("torch sees no GPU, and a full-size step on the CPU takes hours; --size small runs anywhere")
    contract = load_contract("jaka_minicobo")
    figures: dict[str, Any] = {
        "benchmark": "train",
        "size": size,
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "batch_size": batch_size,
        "strategies": {},
    }
    with tempfile.TemporaryDirectory(prefix="lavla_bench_") as temporary:
        folder = Path(temporary)
        backbone = BackboneConfig(kind="pretrained", path=str(_save_backbone(folder / "backbone", size, contract)))
        if size == "small":
            backbone = replace(backbone, lora=LoraConfig(rank=4))
        for checkpointing in (False, True) if size == "2b" else (False,):
            for strategy in bench.strategies or STRATEGIES:
                name = strategy + (", gradient checkpointing" if checkpointing else "")
                config = _config(folder / name, backbone, strategy, batch_size, bench.steps + bench.warmup)
                config = replace(config, gradient_checkpointing=checkpointing)
                figures["strategies"][name] = _measure(config, contract, bench.warmup)
    return figures


def _config(output: Path, backbone: BackboneConfig, strategy: str, batch_size: int, steps: int) -> TrainConfig:
    recipe = read_config(TrainConfig, config_path("training/jaka.yaml"))
    policy = replace(recipe.policy, backbone=backbone, strategy=StrategyConfig(name=strategy))
    return replace(
        recipe,
        output=output,
        policy=policy,
        batch_size=batch_size,
        accumulation=1,
        steps=steps,
        log_every=1,
        validate_every=10**9,
        save_every=10**9,
        trackers=(),
        data=DataConfig(validation_fraction=0.0),
    )


def _measure(config: TrainConfig, contract: Contract, warmup: int) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    dataset = _RandomData(contract, samples=2 * config.batch_size)
    labels = {
        key: _random_labels(spec.shape, spec.codebook, len(dataset.states))
        for key, spec in label_specs(config.policy.strategy, chunk_size=contract.chunk_size).items()
    }
    data = load_data(
        [Source(dataset=dataset, name="random data", labels=labels)],
        contract,
        config.data,
        image_size=PRETRAINED_IMAGE_SIZE,
        cache_dir=config.output,
    )
    clock = _Clock()
    trainer = Trainer(PolicyTask(config, contract, data), clock)
    counts = {name: p.numel() for name, p in trainer.module.named_parameters() if p.requires_grad}
    head = sum(count for name, count in counts.items() if name.startswith("head."))
    trainer.run()
    losses = trainer.losses
    seconds = np.diff(clock.times)[warmup - 1 :]
    result = {
        "step_s": float(np.median(seconds)),
        "step_s_slowest": float(seconds.max()),
        "samples_per_s": float(config.batch_size / np.median(seconds)),
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "trained_parameters": sum(counts.values()),
        "head_parameters": head,
        "losses": [losses[0], losses[-1]],
    }
    del trainer, data
    gc.collect()
    return result


def _random_labels(shape: tuple[int, ...], codebook: int | None, samples: int) -> NDArray[Any]:
    rng = np.random.default_rng(1)
    if codebook is not None:
        return rng.integers(0, codebook, (samples, *shape)).astype(np.int16)
    return rng.normal(size=(samples, *shape)).astype(np.float16)


@dataclass
class _Clock:
    """A reporter that notes when each step was done; a reported step has left the GPU."""

    times: list[float] = field(default_factory=list)

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        self.times.append(time.perf_counter())

    def message(self, text: str) -> None:
        print(text, flush=True)


class _RandomData:
    """Episodes of 32 steps in memory, with the interface of EpisodeDataset."""

    path = Path("random")

    def __init__(self, contract: Contract, *, samples: int) -> None:
        rng = np.random.default_rng(0)
        self._contract = contract
        self.states = rng.uniform(-0.5, 0.5, (samples, contract.state_dim)).astype(np.float32)
        self.actions = rng.uniform(0.0, 0.5, (samples, contract.action_dim)).astype(np.float32)
        self.episode_of = np.arange(samples) // 32

    def instruction(self, index: int) -> str:
        return INSTRUCTION

    def frames(self, camera: str, *, threads: int = 1) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        shape = next((c.height, c.width, 3) for c in self._contract.cameras if c.name == camera)
        rng = np.random.default_rng(2)
        for index in range(len(self.states)):
            yield index, rng.integers(0, 256, shape, dtype=np.uint8)


def _save_backbone(folder: Path, size: str, contract: Contract) -> Path:
    """A Qwen3-VL of that size with random weights and a tokenizer of few words, as from the hub."""
    tokenizer = train_tokenizer([INSTRUCTION], 300, contract.chunk_size)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        Qwen3VLModel(qwen_config(size, token_ids(tokenizer))).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def qwen_config(size: str, ids: TokenIds, *, deep: bool = False) -> Qwen3VLConfig:
    """That of Qwen3-VL-2B (2,127,532,032 parameters), or of something small in the same layout.

    ``deep``: with as many layers as the real one, whatever their width.
    """
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": MROPE[size], "mrope_interleaved": True}
    layers, depth = TEXT["2b" if deep else size]["num_hidden_layers"], VISION["2b" if deep else size]
    return Qwen3VLConfig(
        text_config=TEXT[size] | {"rope_parameters": rope, "num_hidden_layers": layers},
        vision_config=VISION[size]
        | {key: depth[key] for key in ("depth", "deepstack_visual_indexes")}
        | {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=ids.image,
        video_token_id=ids.video,
        vision_start_token_id=ids.vision_start,
        vision_end_token_id=ids.vision_end,
        tie_word_embeddings=True,
    )
