"""A trained policy for others: its LoRA adapters alone, or a checkpoint with the adapters merged into the backbone.

PeftModel.from_pretrained(Qwen3VLModel.from_pretrained(BASE), ADAPTERS)   # needs nothing of ours
lavla up jaka_policy policy:=MERGED                                       # neither peft nor the base model
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from peft import PeftModel
from safetensors import safe_open

from lavla_ros.outputs import new_folder
from lavla_ros.policy.base_model import silent_transformers
from lavla_ros.policy.checkpoint import LoadedCheckpoint, load_checkpoint, save_checkpoint
from lavla_ros.policy.folder import WEIGHTS, CheckpointError, trained_parameters
from lavla_ros.policy.normalization import load_stats

BACKBONE = "backbone"
"""Folder of the merged backbone inside a checkpoint."""


def export_adapters(checkpoint: Path, out: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, as peft does, in the base model's type.

    Placeholder embeddings, latent heads and the action head are no adapters and not among them. Raises
    CheckpointError for a policy without adapters, OutputError for an ``out`` that exists or is being written.
    """
    with new_folder(out) as folder:
        _, adapted = _load(checkpoint)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(adapted.get_base_model().dtype)
        # the adapters leave the embeddings alone, so peft need not ask the hub for the base model's vocabulary
        adapted.save_pretrained(str(folder), save_embedding_layers=False)


def export_merged(checkpoint: Path, out: Path) -> None:
    """Write a checkpoint that stands alone: W + (α/r)·B·A in the place of every adapted W.

    The same policy up to the rounding of the base model's type, in which the sums are stored, so that its backbone is
    as large as that model. Raises CheckpointError and OutputError as :func:`export_adapters` does.
    """
    with new_folder(out) as folder:
        loaded, adapted = _load(checkpoint)
        backbone = replace(loaded.config.backbone, path=f"./{BACKBONE}", lora=None)
        kept = {n: p for n, p in trained_parameters(loaded.model).items() if not n.startswith("backbone.vlm.")}
        save_checkpoint(
            folder,
            config=replace(loaded.config, backbone=backbone),
            contract=loaded.contract,
            stats=load_stats(checkpoint / "stats.json"),
            tokenizer=loaded.tokenizer,
            tensors=kept,
            training=loaded.training,
            half=_is_half(checkpoint / WEIGHTS),
        )
        with silent_transformers():
            adapted.merge_and_unload().save_pretrained(str(folder / BACKBONE))


def _load(checkpoint: Path) -> tuple[LoadedCheckpoint, PeftModel]:
    loaded = load_checkpoint(checkpoint, dtype="auto")
    if not isinstance(loaded.model.backbone.vlm, PeftModel):
        raise CheckpointError(f"{checkpoint} has no adapters: its backbone is {_describe(loaded)}")
    return loaded, loaded.model.backbone.vlm


def _is_half(weights: Path) -> bool:
    with safe_open(str(weights), framework="pt") as file:
        return any(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118 (not a mapping)


def _describe(loaded: LoadedCheckpoint) -> str:
    backbone = loaded.config.backbone
    return "tiny, trained whole" if backbone.kind == "tiny" else f"{backbone.path!r} without LoRA"
