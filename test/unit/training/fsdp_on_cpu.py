"""One of two processes that train under FSDP without a GPU: `torchrun --nproc_per_node=2 fsdp_on_cpu.py FOLDER`.

accelerate knows FSDP on accelerators only. Here it is told that this is one; torch's FSDP 2 itself works over gloo.
What config/accelerate/fsdp.yaml says reaches accelerate as these variables.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.update(
    ACCELERATE_USE_FSDP="true",
    ACCELERATE_TORCH_DEVICE="cpu",
    FSDP_VERSION="2",
    FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP",
    FSDP_TRANSFORMER_CLS_TO_WRAP="Qwen3VLTextDecoderLayer,Qwen3VLVisionBlock,BridgeBlock",
    FSDP_RESHARD_AFTER_FORWARD="true",
    FSDP_CPU_RAM_EFFICIENT_LOADING="false",
    FSDP_STATE_DICT_TYPE="FULL_STATE_DICT",
)

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from small_world import qwen_run
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from training import loop
from training.config import TrainConfig
from training.policy_task import PolicyTask


class Speaking:
    """A reporter for both processes."""

    def step(self, step, figures) -> None: ...

    def message(self, text: str) -> None:
        print(text, flush=True)


def pretended_accelerator(config: TrainConfig) -> Accelerator:
    return Accelerator(gradient_accumulation_steps=config.accumulation)


def main() -> None:
    torch.set_num_threads(1)
    PartialState._prepare_backend = lambda self, *_, **__: ("gloo", DistributedType.MULTI_GPU)
    loop.build_accelerator = pretended_accelerator
    config, contract, data = qwen_run(Path(sys.argv[1]), "divided")
    config = replace(config, accumulation=2, gradient_checkpointing=True)
    first = loop.Trainer(PolicyTask(replace(config, max_minutes=0.0), contract, data), Speaking())
    assert isinstance(first.objective, FSDPModule)
    assert all(isinstance(p, DTensor) for p in first.objective.parameters())
    first.run()  # one step, saved
    loop.Trainer(PolicyTask(config, contract, data), Speaking()).run()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
