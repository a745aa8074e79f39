"""The whole way of a policy at full size, without a GPU: `make full-size`, or `python -m benchmarks.full_size`.

A Qwen3-VL-2B of random weights is written in the hub's layout. Then, for each strategy: two training steps with the
JAKA recipe, killed after the first and resumed; both exports; one chunk of the trained checkpoint and of the merged
one, which must agree; and an episode of the usual suite, with the merged policy in a policy node. Minutes and the
largest memory of each stage are printed, and with --out written as JSON. Nothing is learned: the data are noise.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3VLForConditionalGeneration

from benchmarks.config import FULL_SIZE
from benchmarks.gpu_train import Silent, recipe, task_of
from benchmarks.qwen import INSTRUCTION, qwen_config
from lavla_ros.contract import Observation, load_contract
from lavla_ros.errors import FailedError
from lavla_ros.policy.config import BackboneConfig, LoraConfig
from lavla_ros.policy.prompt import token_ids, train_tokenizer
from lavla_ros.policy.strategies import STRATEGIES
from sim_bridges.worlds import DEFAULT_SUITE
from training.system_resources import GIB

CONTRACT = "jaka_minicobo"
TOLERANCE = 0.02
"""Largest difference between actions of the trained checkpoint and of the merged one, of joint ranges of about 6 rad:
the merged weights are rounded to bfloat16."""


def save_base(folder: Path, size: str) -> Path:
    """A Qwen3-VL of that size as on the hub: bfloat16, with a language model's head, a tokenizer beside it."""
    tokenizer = train_tokenizer([INSTRUCTION], 300, load_contract(CONTRACT).chunk_size)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        Qwen3VLForConditionalGeneration(qwen_config(size, token_ids(tokenizer))).save_pretrained(folder)
    finally:
        torch.set_default_dtype(before)
    tokenizer.save_pretrained(folder)
    return folder


def train(base: Path, output: Path, strategy: str, size: str, head_width: int) -> None:
    """Two steps of one sample each, saved after both; ``head_width`` 0: the recipe's."""
    from training.loop import Trainer

    lora = LoraConfig() if size == "2b" else LoraConfig(rank=8, alpha=16)
    # float32 is computed in, as many CPUs have nothing else, with weights that rest as they are stored
    backbone = BackboneConfig(kind="pretrained", path=str(base), dtype="bfloat16", lora=lora)
    config = recipe(output, backbone, strategy, batch_size=1, steps=2)
    config = replace(config, precision="float32", gradient_checkpointing=True, save_every=1, device="cpu")
    if head_width:
        config = replace(
            config, policy=replace(config.policy, head=replace(config.policy.head, width=head_width, kv="separate"))
        )
    Trainer(task_of(config, load_contract(CONTRACT)), Silent()).run()


def chunk(checkpoint: Path) -> np.ndarray[Any, Any]:
    from lavla_ros.policy.policy import load_policy

    contract = load_contract(CONTRACT)
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in contract.cameras}
    state = np.full(contract.state_dim, 0.1, np.float32)
    policy = load_policy(checkpoint, threads=torch.get_num_threads())
    return policy.predict(Observation(stamp_ns=0, images=images, state=state, instruction=INSTRUCTION)).actions_HA


def export_and_compare(checkpoint: Path, base: Path) -> None:
    from lavla_ros.policy.export import export_adapters, export_merged

    merged, adapters = checkpoint.parent / "merged", checkpoint.parent / "adapters"
    export_merged(checkpoint, merged)
    export_adapters(checkpoint, adapters)
    sizes = [sum(f.stat().st_size for f in folder.glob("*.safetensors")) for folder in (merged / "backbone", base)]
    if sizes[0] > sizes[1]:
        raise FailedError(f"the merged backbone has {sizes[0]} bytes, more than the base model's {sizes[1]}")
    gc.collect()
    one = chunk(checkpoint)
    gc.collect()
    other = chunk(merged)
    worst = float(np.abs(one - other).max())
    print(f"largest difference of the merged policy's actions: {worst:.2g}", flush=True)
    if not worst <= TOLERANCE:
        raise FailedError(f"the merged policy's actions differ by {worst:.3g} from the trained one's")


def run(folder: Path, size: str, strategies: Sequence[str], steps: int, head_width: int) -> dict[str, Any]:
    """All stages, each in a process of its own. Raises FailedError naming the stage that failed."""
    figures: dict[str, Any] = {"benchmark": "full-size", "size": size, "torch": torch.__version__, "stages": {}}

    def stage(name: str, *arguments: object, stop_at: Path | None = None) -> None:
        seconds, memory = _in_process([str(argument) for argument in arguments], name, stop_at)
        figures["stages"][name] = {"minutes": round(seconds / 60, 2), "peak_gib": round(memory / GIB, 2)}
        print(f"{name:34} {seconds / 60:6.2f} min {memory / GIB:6.2f} GiB", flush=True)

    def ours(*arguments: object) -> list[object]:
        return [sys.executable, "-m", "benchmarks.full_size", "--stage", *arguments]

    base = folder / "base"
    stage("write the base model", *ours("base", base, size))
    for strategy in strategies:
        output = folder / strategy
        training = ours("train", base, output, strategy, size, head_width)
        stage(f"{strategy}: train, killed", *training, stop_at=output / "resume/progress.json")
        stage(f"{strategy}: resume", *training)
        stage(f"{strategy}: export and compare", *ours("export", output / "last", base))
        if not steps:
            continue
        command = [sys.executable, "-m", "lavla_ros.cli", "eval", DEFAULT_SUITE, "--through", "nodes", "--episodes", 1]
        command += ["--max-steps", steps, "--timeout", 1200, "--policy", output / "merged"]
        stage(f"{strategy}: an episode by a node", *command)
        shutil.rmtree(output)
    figures["minutes"] = round(sum(s["minutes"] for s in figures["stages"].values()), 1)
    figures["peak_gib"] = max(s["peak_gib"] for s in figures["stages"].values())
    return figures


def _in_process(command: list[str], name: str, stop_at: Path | None) -> tuple[float, int]:
    """(seconds, peak memory in bytes) of a command and its children; killed as soon as ``stop_at`` exists."""
    begin = time.monotonic()
    process = subprocess.Popen(command)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if stop_at is not None and stop_at.exists():
            process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    killed = process.returncode == -signal.SIGKILL and stop_at is not None
    if not killed and (process.returncode != 0 or stop_at is not None):
        raise FailedError(f"{name}: {' '.join(command)} ended with status {process.returncode}")
    return time.monotonic() - begin, usage.ru_maxrss * 1024


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("2b", "eighth"), default=FULL_SIZE, help="of the base model, by its width")
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--steps", type=int, default=20, help="contract steps of the episode; 0: none")
    parser.add_argument("--head-width", type=int, default=0, help="of the action head; 0: the recipe's")
    parser.add_argument("--folder", type=Path, help="for the models; the default is a temporary one")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--stage", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.stage:
        name, *rest = arguments.stage
        if name == "base":
            save_base(Path(rest[0]), rest[1])
        elif name == "train":
            train(Path(rest[0]), Path(rest[1]), rest[2], rest[3], int(rest[4]))
        else:
            export_and_compare(Path(rest[0]), Path(rest[1]))
        return 0
    with tempfile.TemporaryDirectory(prefix="lavla_full_size_", dir=arguments.folder) as temporary:
        figures = run(Path(temporary), arguments.size, arguments.strategies, arguments.steps, arguments.head_width)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    print(json.dumps({key: figures[key] for key in ("minutes", "peak_gib")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
