"""``lavla train`` and ``lavla export``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from training.command import run_command

TRAIN = """Train a policy on a dataset.

Example: lavla train --config config/training/tabletop_tiny.yaml --data.dataset runs/dataset --output runs/policy"""


def train(arguments: Sequence[str]) -> Callable[[], None]:
    """The run that the arguments of ``lavla train`` describe: its options are the keys of its configuration."""
    config, run = "training.config:TrainConfig", "training.train:train"
    return partial(run_command, config, run, prog="lavla train", description=TRAIN, argv=arguments)


def export(
    checkpoint: tyro.conf.Positional[Path],
    /,
    out: Path,
    what: Annotated[Literal["adapters", "merged"], tyro.conf.arg(name="as")] = "merged",
) -> None:
    """Only a policy with a pretrained backbone and LoRA has adapters.

    Example: lavla export runs/policy/best --as merged --out runs/policy/deployed

    Args:
        checkpoint: Directory of the policy.
        out: New directory.
        what: "merged" writes a checkpoint that runs without peft and without the base model. "adapters" writes what
            peft's PeftModel.from_pretrained reads.
    """
    from lavla_ros.policy.export import export_adapters, export_merged

    {"adapters": export_adapters, "merged": export_merged}[what](checkpoint, out)
    print(out)
