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
from transformers import Qwen3VLModel

from benchmarks.config import TrainBench
from benchmarks.qwen import INSTRUCTION, qwen_config
from lavla_ros.config import read_config
from lavla_ros.contract import Contract, load_contract
from lavla_ros.errors import FailedError
from lavla_ros.policy.backbone import PRETRAINED_IMAGE_SIZE
from lavla_ros.policy.config import BackboneConfig, LoraConfig, StrategyConfig
from lavla_ros.policy.prompt import token_ids, train_tokenizer
from lavla_ros.policy.strategies import STRATEGIES, label_specs
from lavla_ros.resources import config_path
from training.config import DataConfig, TrainConfig
from training.data import Source, load_data
from training.loop import Trainer
from training.policy_task import PolicyTask


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
                total = bench.steps + bench.warmup
                config = recipe(folder / name, backbone, strategy, batch_size=batch_size, steps=total)
                config = replace(config, gradient_checkpointing=checkpointing)
                figures["strategies"][name] = _measure(config, contract, bench.warmup)
    return figures


def recipe(output: Path, backbone: BackboneConfig, strategy: str, *, batch_size: int, steps: int) -> TrainConfig:
    """The JAKA recipe with a few steps that are not interrupted by anything."""
    jaka = read_config(TrainConfig, config_path("training/jaka.yaml"))
    policy = replace(jaka.policy, backbone=backbone, strategy=StrategyConfig(name=strategy))
    return replace(
        jaka,
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


def task_of(config: TrainConfig, contract: Contract) -> PolicyTask:
    """Training on random data, labels included."""
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
    return PolicyTask(config, contract, data)


def _measure(config: TrainConfig, contract: Contract, warmup: int) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    clock = _Clock()
    trainer = Trainer(task_of(config, contract), clock)
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
    del trainer
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


class Silent:
    """A reporter that says nothing of steps."""

    def step(self, step: int, figures: Mapping[str, float]) -> None: ...

    def message(self, text: str) -> None:
        print(text, flush=True)


class _RandomData:
    """Episodes of 32 steps in memory, with the interface of EpisodeDataset."""

    path = Path("random")
    interventions: NDArray[np.bool_] | None = None

    def __init__(self, contract: Contract, *, samples: int) -> None:
        rng = np.random.default_rng(0)
        self._contract = contract
        self.states = rng.uniform(-0.5, 0.5, (samples, contract.state_dim)).astype(np.float32)
        self.actions = rng.uniform(0.0, 0.5, (samples, contract.action_dim)).astype(np.float32)
        self.episode_of = np.arange(samples) // 32

    def instruction(self, index: int) -> str:
        return INSTRUCTION

    def phrasings(self, episode: int) -> tuple[str, ...]:
        return ()

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
