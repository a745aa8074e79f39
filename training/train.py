"""`lavla train --config YAML [--steps N --optim.learning-rate X …]`: from a dataset to a policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accelerate.utils import DistributedType

from lavla_ros.contract import load_contract
from lavla_ros.policy.backbone import image_size_of
from lavla_ros.policy.base_model import require_backbone
from lavla_ros.policy.checkpoint import open_initial
from lavla_ros.policy.device import resolve_device, resolve_dtype
from lavla_ros.policy.images import require_sizes
from lavla_ros.policy.policy import checkpoint_path
from lavla_ros.policy.strategies import label_specs
from training.command import run_command
from training.config import TrainConfig
from training.data import load_data, open_sources
from training.footprint import require_training_memory
from training.logs import require_trackers
from training.loop import Trainer, build_accelerator, micro_batch
from training.policy_task import USUALLY_CLIPPED, PolicyTask, require_unchanged
from training.reporting import TerminalReporter
from training.system_resources import flushed_denormals

_SHOWN = ("loss", "mse", "validation_mse", "samples_per_s")


@flushed_denormals()
def train(config: TrainConfig) -> Path:
    """Load the data and train; returns the directory of the best policy.

    What can be known to fail is found out first, the cheap before the costly: trackers, contract, image sizes,
    backbone, memory, datasets, labels, room, then the frames are decoded and weights are loaded. Raises a UserError
    for anything that the caller can put right.
    """
    require_trackers(config)
    contract = load_contract(config.data.contract)
    require_sizes(contract, image_size_of(config.policy.backbone))
    if "bfloat16" in (config.precision, config.policy.backbone.dtype):
        resolve_dtype("bfloat16", resolve_device(config.device))
    base = require_backbone(config.policy.backbone)
    accelerator = build_accelerator(config)
    if accelerator.distributed_type != DistributedType.FSDP:  # which divides what is counted
        require_training_memory(config, contract, micro_batch(accelerator, config), accelerator.device)
    initial = None
    if config.initial is not None:
        initial = open_initial(checkpoint_path(config.initial), config.policy, contract, base)
    specs = label_specs(config.policy.strategy, chunk_size=contract.chunk_size)
    sources = open_sources(config.data, contract, specs)
    require_unchanged(config, base, sources)
    with TerminalReporter(config.steps, _SHOWN) as reporter:
        for source in sources:
            reporter.message(f"reading {len(source.dataset.states)} samples from {source.name}")
        data = load_data(
            sources,
            contract,
            config.data,
            image_size=image_size_of(config.policy.backbone),
            cache_dir=config.data.cache_dir or config.output / "cache",
            on_frame=reporter.read,
        )
        for name, sets in data.label_sets.items():
            for label_set, made in sets.items():
                share = made["settings"].get("fraction", 1.0)
                if share > config.data.fraction:
                    reporter.message(
                        f"warning: the model of the labels {label_set!r} of {name} saw {share:.0%} of the training "
                        f"episodes, this policy sees {config.data.fraction:.0%}: what it gains may come from the others"
                    )
        task = PolicyTask(config, contract, data, initial)
        if initial is not None and (worst := task.most_clipped())[1] > USUALLY_CLIPPED:
            reporter.message(
                f"warning: {worst[1]:.0%} of the actions of {worst[0]} lie outside of the range of {initial.path}, and "
                "are clipped to it: train without initial, which takes the range from these data"
            )
        trainer = Trainer(task, reporter)
        best = trainer.run()
        trainer.accelerator.end_training()
        return best


def main(argv: Sequence[str] | None = None) -> None:
    """What `accelerate launch -m training.train` runs in each process."""
    run_command(
        "training.config:TrainConfig", "training.train:train", prog="lavla train", description=__doc__, argv=argv
    )


if __name__ == "__main__":
    main()
