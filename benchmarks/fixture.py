"""The same chunk on anybody's GPU: `python -m benchmarks.fixture` computes it, compares it with ours, and times it.

Weights and inputs are made from nothing: every tensor from a generator that is seeded with its name, on the CPU, and
pixels by arithmetic, so there is nothing to download and no version of a library decides about them. The actions that
they give in float32 are in fixture.json. It needs torch, transformers and peft. The exit status is 1 if the actions are
not ours within the tolerance. `--size small --device cpu` runs on any machine; `--write` makes fixture.json anew.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import Setup, build, device_name, latency, options
from benchmarks.qwen import INSTRUCTION
from lavla_ros.errors import FailedError
from lavla_ros.policy.fused import FusedPolicy
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.resting import rest
from lavla_ros.policy.runner import Runner, record_cuda_graph

EXPECTED = Path(__file__).with_name("fixture.json")
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.03}
"""Largest root mean square of the difference, as a share of that of the expected actions."""


def made_up(strategy: str, size: str, device: torch.device) -> Setup:
    """The policy and the observation, the same everywhere; frozen weights are bfloat16."""
    setup = build(strategy, size, device, torch.bfloat16)
    fill(setup.model)
    cameras, side = setup.pixels.shape[:2]
    place = torch.arange(cameras * side * side * 3)
    setup.pixels.copy_((place * place % 509 % 256).to(torch.uint8).view_as(setup.pixels))
    setup.state.copy_(torch.linspace(-1, 1, len(setup.state)))
    return setup


@torch.no_grad()
def fill(model: LatentActionVLA) -> None:
    """Weights that let all layers have a say, from their names alone."""
    for name, parameter in model.named_parameters():
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        if parameter.ndim > 1:
            values *= 0.5 * parameter[0].numel() ** -0.5
        elif name.endswith("weight"):  # of a norm
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        parameter.copy_(values.to(torch.bfloat16))


@torch.inference_mode()
def actions_in_float32(setup: Setup) -> np.ndarray[Any, Any]:
    """(H, A) normalised actions of the network as it is trained."""
    rest(setup.model.backbone.vlm)
    actions = setup.model(setup.pixels[None], setup.tokens, setup.state[None]).actions_BHA[0]
    found: np.ndarray[Any, Any] = actions.float().cpu().numpy()
    return found


def measure(strategy: str, size: str, device: torch.device, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """Latency from pixels on the host to actions on the host, and how far the actions are from the stored ones."""
    stored = json.loads(EXPECTED.read_text(encoding="utf-8")).get(size, {})
    if strategy not in stored:
        raise FailedError(
            f"{EXPECTED.name} has {sorted(stored)} at size {size}, not {strategy!r}; --write computes it on the CPU, "
            "in minutes and 10 GiB at full size"
        )
    expected = np.array(stored[strategy])
    setup = made_up(strategy, size, device)
    pixels, state = setup.pixels.cpu().numpy(), setup.state.cpu().numpy()
    network = FusedPolicy(setup.model, cameras=len(pixels), device=device, dtype=dtype)
    recorder = record_cuda_graph if device.type == "cuda" else None
    run = partial(Runner(network, setup.tokens_of, pad=0, record=recorder), pixels, state, INSTRUCTION)
    name = str(dtype).removeprefix("torch.")
    figures = latency(f"{strategy}, {size}, {name}, {device_name(device)}", run, expected, rounds)
    return {**figures, "tolerance": TOLERANCE[name], "same": figures["error_rms"] <= TOLERANCE[name]}


def write(sizes: Sequence[str], strategies: Sequence[str]) -> None:
    """Compute what is expected at these sizes, on the CPU, and keep the others."""
    stored = json.loads(EXPECTED.read_text(encoding="utf-8")) if EXPECTED.exists() else {}
    for size in sizes:
        for strategy in strategies:
            actions = actions_in_float32(made_up(strategy, size, torch.device("cpu")))
            stored.setdefault(size, {})[strategy] = [[round(float(v), 6) for v in row] for row in actions]
    EXPECTED.write_text(json.dumps(stored).replace("], [", "],\n[") + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = options(__doc__)
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), help="the default is bfloat16 on a GPU, else float32")
    parser.add_argument("--write", action="store_true", help="store what is expected at this size, from the CPU")
    arguments = parser.parse_args(argv)
    if arguments.write:
        write([arguments.size], arguments.strategies)
        return 0
    device = torch.device(arguments.device)
    dtype = getattr(torch, arguments.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    torch.set_float32_matmul_precision("highest")
    same = True
    for strategy in arguments.strategies:
        figures = measure(strategy, arguments.size, device, dtype, arguments.rounds)
        print(json.dumps(figures), flush=True)
        same &= figures["same"]
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
