"""The whole way of a policy at full size, without a GPU: `make full-size`, or `python -m benchmarks.full_size`.

A Qwen3-VL-2B of random weights is written in the hub's layout. Then, for each strategy: training steps with the JAKA
recipe (two, or --losses), killed after the first and resumed; both exports; one chunk of the trained checkpoint and one
of the merged one, which must agree; and an episode of the usual suite with the merged policy in a policy node. Minutes,
largest memory and losses are printed, and written as JSON with --out. The data are noise, so
losses say no more than that the first steps of a recipe are sound.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
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


def train(base: Path, output: Path, strategy: str, size: str, head_width: int, steps: int) -> None:
    """Steps of one sample each, saved after the first and the last; ``head_width`` 0: the recipe's."""
    from training.loop import Trainer

    lora = LoraConfig() if size == "2b" else LoraConfig(rank=8, alpha=16)
    # float32 is computed in, as many CPUs have nothing else, with weights that rest as they are stored
    backbone = BackboneConfig(kind="pretrained", path=str(base), dtype="bfloat16", lora=lora)
    config = recipe(output, backbone, strategy, batch_size=1, steps=steps)
    every = 1 if not (output / "resume").exists() else steps
    config = replace(config, precision="float32", gradient_checkpointing=True, save_every=every, device="cpu")
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


def export(checkpoint: Path, base: Path) -> None:
    from lavla_ros.policy.export import export_adapters, export_merged

    merged, adapters = checkpoint.parent / "merged", checkpoint.parent / "adapters"
    export_merged(checkpoint, merged)
    export_adapters(checkpoint, adapters)
    sizes = [sum(f.stat().st_size for f in folder.glob("*.safetensors")) for folder in (merged / "backbone", base)]
    if sizes[0] > sizes[1]:
        raise FailedError(f"the merged backbone has {sizes[0]} bytes, more than the base model's {sizes[1]}")


def infer(checkpoint: Path, output: Path) -> None:
    np.save(output, chunk(checkpoint), allow_pickle=False)


def compare(trained: Path, merged: Path) -> None:
    worst = float(np.abs(np.load(trained, allow_pickle=False) - np.load(merged, allow_pickle=False)).max())
    print(f"largest difference of the merged policy's actions: {worst:.2g}", flush=True)
    if not worst <= TOLERANCE:
        raise FailedError(f"the merged policy's actions differ by {worst:.3g} from the trained one's")


STAGES: dict[str, Callable[..., object]] = {"base": save_base, "train": train, "export": export, "infer": infer}
_PRELOADED = [__name__, "training.loop", "lavla_ros.policy.export", "lavla_ros.policy.policy", "peft"]


def run(folder: Path, size: str, strategies: Sequence[str], steps: int, head_width: int, losses: int) -> dict[str, Any]:
    """All stages, each in a process of its own. Raises FailedError naming the stage that failed."""
    figures: dict[str, Any] = {"benchmark": "full-size", "size": size, "torch": torch.__version__, "stages": {}}
    figures["losses"] = {}
    context = get_context("forkserver")  # which imports once, and has computed nothing when it forks
    context.set_forkserver_preload(_PRELOADED)

    def note(name: str, seconds: float, memory: int) -> None:
        figures["stages"][name] = {"minutes": round(seconds / 60, 2), "peak_gib": round(memory / GIB, 2)}
        print(f"{name:34} {seconds / 60:6.2f} min {memory / GIB:6.2f} GiB", flush=True)

    def stage(name: str, function: str, *arguments: object, stop_at: Path | None = None) -> None:
        note(name, *_in_process(context.Process(target=STAGES[function], args=arguments), name, stop_at))

    base = folder / "base"
    stage("write the base model", "base", base, size)
    for strategy in strategies:
        output = folder / strategy
        training = (base, output, strategy, size, head_width, losses)
        stage(f"{strategy}: train, killed", "train", *training, stop_at=output / "resume/progress.json")
        stage(f"{strategy}: resume", "train", *training)
        lines = map(json.loads, (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        found = figures["losses"][strategy] = [line["train/loss"] for line in lines if "train/loss" in line]
        print(f"{strategy}: losses {', '.join(f'{loss:.4g}' for loss in found)}", flush=True)
        stage(f"{strategy}: export", "export", output / "last", base)
        actions = [output / "trained.npy", output / "merged.npy"]
        stage(f"{strategy}: a chunk, trained", "infer", output / "last", actions[0])
        stage(f"{strategy}: a chunk, merged", "infer", output / "merged", actions[1])
        compare(*actions)
        if steps:
            command = [sys.executable, "-m", "lavla_ros.cli", "eval", DEFAULT_SUITE, "--through", "nodes"]
            command += ["--episodes", "1", "--max-steps", str(steps), "--timeout", "1200"]
            command += ["--policy", str(output / "merged")]
            note(f"{strategy}: an episode by a node", *_episode(command))
        shutil.rmtree(output)
    figures["minutes"] = round(sum(s["minutes"] for s in figures["stages"].values()), 1)
    figures["peak_gib"] = max(s["peak_gib"] for s in figures["stages"].values())
    return figures


def _in_process(process: BaseProcess, name: str, stop_at: Path | None) -> tuple[float, int]:
    """(seconds, peak memory in bytes) of a stage; killed as soon as ``stop_at`` exists."""
    begin, memory = time.monotonic(), 0
    process.start()
    while process.exitcode is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            status = ""
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        memory = max(memory, int(found[1]) * 1024 if found else 0)
        if stop_at is not None and stop_at.exists():
            process.kill()
        process.join(0.05)
    killed = process.exitcode == -signal.SIGKILL and stop_at is not None
    if not killed and (process.exitcode != 0 or stop_at is not None):
        raise FailedError(f"{name} ended with status {process.exitcode}")
    return time.monotonic() - begin, memory


def _episode(command: Sequence[str]) -> tuple[float, int]:
    """(seconds, largest memory of a process in bytes) of a command with children of its own."""
    begin = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise FailedError(f"{' '.join(command)} ended with status {process.returncode}")
    return time.monotonic() - begin, usage.ru_maxrss * 1024


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("2b", "eighth", "small"), default=FULL_SIZE, help="of the base model")
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--steps", type=int, default=20, help="contract steps of the episode; 0: none")
    parser.add_argument("--losses", type=int, default=2, help="training steps, whose losses are printed")
    parser.add_argument("--head-width", type=int, default=0, help="of the action head; 0: the recipe's")
    parser.add_argument("--folder", type=Path, help="for the models; the default is a temporary one")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args(argv)
    if arguments.losses < 2:
        parser.error(f"--losses is {arguments.losses}; expected at least 2, as the run is killed after the first")
    with tempfile.TemporaryDirectory(prefix="lavla_full_size_", dir=arguments.folder) as temporary:
        figures = run(
            Path(temporary),
            arguments.size,
            arguments.strategies,
            arguments.steps,
            arguments.head_width,
            arguments.losses,
        )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    print(json.dumps({key: figures[key] for key in ("minutes", "peak_gib")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
