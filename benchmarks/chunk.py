"""Milliseconds from an observation to a chunk, the network as it is trained beside the one that is run.

`python -m benchmarks.chunk --policy bundled --threads 1`; both take turns, so that what else runs troubles them alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lavla_ros.contract import Observation
from lavla_ros.defaults import BUNDLED_POLICY, DEFAULT_DEVICE, DEFAULT_DTYPE
from lavla_ros.policy.checkpoint import load_checkpoint
from lavla_ros.policy.images import shrink
from lavla_ros.policy.inputs import observed_images
from lavla_ros.policy.policy import VlaPolicy, checkpoint_path

INSTRUCTION = "put the mango into the bowl"


def run(
    policy: str = "bundled", *, device: str = "cpu", dtype: str = "auto", threads: int, rounds: int
) -> dict[str, Any]:
    """p50 and p99 of ``rounds`` chunks of random pictures, and the largest difference of their actions."""
    run_by, trained = (load_checkpoint(checkpoint_path(policy)) for _ in range(2))
    fused = VlaPolicy(run_by, device=device, threads=threads, dtype=dtype)
    model, contract = trained.model.to(fused.device), trained.contract
    rng = np.random.default_rng(0)
    shapes = {c.name: (c.height, c.width, 3) for c in contract.cameras}
    observations = [
        Observation(
            stamp_ns=0,
            images={name: rng.integers(0, 256, shape, dtype=np.uint8) for name, shape in shapes.items()},
            state=rng.uniform(-0.5, 0.5, contract.state_dim).astype(np.float32),
            instruction=INSTRUCTION,
        )
        for _ in range(8)
    ]

    @torch.inference_mode()
    def as_trained(observation: Observation) -> np.ndarray[Any, Any]:
        views = [shrink(view, trained.model.backbone.image_size) for view in observed_images(observation, contract)]
        images = torch.from_numpy(np.stack(views))[None].to(fused.device)
        state = torch.from_numpy(trained.normalizer.encode_state(observation.state))[None].to(fused.device)
        actions = model(images, trained.prompt([INSTRUCTION]).to(fused.device), state).actions_BHA[0]
        return trained.normalizer.decode_actions(actions.cpu().numpy(), observation.state)

    def as_run(observation: Observation) -> np.ndarray[Any, Any]:
        return fused.predict(observation).actions_HA

    ways: dict[str, Callable[[Observation], np.ndarray[Any, Any]]] = {"as trained": as_trained, "as run": as_run}
    found = {name: np.stack([way(o) for o in observations]) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            way(observations[i % len(observations)])
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {
        "benchmark": "chunk",
        "policy": policy,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or "CPU",
        "dtype": str(fused.dtype).removeprefix("torch."),
        "threads": threads,
        "largest_difference": float(np.abs(found["as trained"] - found["as run"]).max()),
        **{
            name: {f"p{p}_ms": round(float(np.percentile(values, p)), 2) for p in (0, 10, 50, 99)}
            for name, values in times.items()
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default=BUNDLED_POLICY)
    parser.add_argument("--device", default=DEFAULT_DEVICE)
    parser.add_argument("--dtype", default=DEFAULT_DTYPE)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=300)
    arguments = parser.parse_args(argv)
    print(json.dumps(run(**vars(arguments)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
