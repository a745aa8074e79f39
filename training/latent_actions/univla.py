"""Import UniVLA's released latent action models: `python -m training.latent_actions.univla CHECKPOINT OUTPUT`.

Writes ``OUTPUT/model``, an image latent action model of ours, and ``OUTPUT/dinov2``, the frozen image encoder that the
checkpoint carries, in transformers' format. Every tensor of the checkpoint is accounted for: taken under our name,
part of that image encoder, or (stage 1) part of the frozen T5 encoder, which is not copied because it comes with its
tokenizer from ``text.path``. A tensor that is missing, unknown or of another shape is an error that names it; nothing
is skipped.

The released files are Lightning checkpoints, which are pickles: to unpickle a file is to run what is in it. So a
``.ckpt`` is read by :func:`~lavla_ros.policy.foreign.read_foreign`, which builds tensors and plain containers and
refuses everything else; a ``.safetensors`` file of the same tensors is always taken.

The attention heads can't be read off the weights; they are of 64 numbers, as UniVLA's and DINOv2's are.

One thing is done otherwise than by UniVLA's code, and only where instructions of different lengths share a batch: there
the padding masks of stage 1's encoder are in another order than its images (each image is masked by the padding of some
other sample's instruction). Here every sample has its own mask.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, T5Config, T5EncoderModel

from lavla_ros.contract import Contract, load_contract
from lavla_ros.errors import one_line_errors
from lavla_ros.policy.folder import CheckpointError
from lavla_ros.policy.foreign import read_foreign
from training.latent_actions.checkpoint import save_latent_model
from training.latent_actions.features import load_features
from training.latent_actions.image_config import FeatureConfig, ImageLamConfig, TextConfig
from training.latent_actions.image_model import CONTROLLABLE, ENVIRONMENT, ImageLatentModel

HEAD_WIDTH = 64
_PREFIX, _DINO, _TEXT = "lam.", "dino_encoder.", "text_encoder."


class Imported(NamedTuple):
    """What an import made of a checkpoint."""

    model: ImageLatentModel
    network: Dinov2WithRegistersModel
    """The image encoder that the checkpoint carries."""
    text_tensors: tuple[str, ...]
    """Tensors of the T5 encoder: recognised by name and shape, not copied."""


def import_univla(checkpoint: Path, output: Path, contract: Contract, *, image_size: int = 224) -> Imported:
    """Convert a checkpoint of either stage; ``contract`` is that of the robot that it will serve.

    Raises CheckpointError when the file can't be read or anything in it does not fit, ConfigError for sizes that
    this model can't have.
    """
    if (output / "model").exists():
        raise CheckpointError(f"{output / 'model'} exists already; choose another output, or remove it")
    imported = convert(read_checkpoint(checkpoint), contract, image_size=image_size)
    folder = (output / "dinov2").absolute()
    imported.network.save_pretrained(folder)
    config = imported.model.config
    features = replace(config.features, path=str(folder))
    features = replace(features, fingerprint=load_features(features).fingerprint)
    imported.model.config = replace(config, features=features)
    origin = {"imported": str(checkpoint), "stage": config.stage, "text_tensors": len(imported.text_tensors)}
    save_latent_model(output / "model", imported.model, origin)
    return imported


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Name (without ``lam.``) → tensor. Raises CheckpointError."""
    document = read_foreign(path)
    tensors = document if path.suffix == ".safetensors" else document.get("state_dict")
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f"{path} is no Lightning checkpoint: it has no state_dict")
    found = {}
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or not name.startswith(_PREFIX):
            raise CheckpointError(f"{path}: {name!r} is no tensor of a UniVLA latent action model ({_PREFIX}…)")
        found[name.removeprefix(_PREFIX)] = value
    return found


def convert(tensors: Mapping[str, Tensor], contract: Contract, *, image_size: int = 224) -> Imported:
    """UniVLA's tensors, by their names without ``lam.``, as a model of ours. Raises CheckpointError, ConfigError."""
    dino = {n.removeprefix(_DINO): t for n, t in tensors.items() if n.startswith(_DINO)}
    text = {n.removeprefix(_TEXT): t for n, t in tensors.items() if n.startswith(_TEXT)}
    own = {n: t for n, t in tensors.items() if not n.startswith((_DINO, _TEXT))}
    network = image_encoder(dino)
    config = config_of(own, network, image_size)
    if config.stage == 1:
        check_text_encoder(text)
    elif text:
        raise CheckpointError(f"the checkpoint is of stage 2, but has tensors of a text encoder: {sorted(text)[:4]}")
    model = ImageLatentModel(config, contract, {})
    given = model.state_dict()
    names = univla_names(model)
    _require_equal_sets(own.keys(), set(names.values()), "latent action model")
    for ours, theirs in names.items():
        shape = tuple(given[ours].shape)
        # UniVLA's queries have two leading axes of length 1
        want = (1, 1, *shape) if ours.endswith("queries_PF") else shape
        if tuple(own[theirs].shape) != want:
            raise CheckpointError(f"{theirs} has shape {tuple(own[theirs].shape)}; expected {want}")
        given[ours] = own[theirs].float().reshape(shape)
    for name in given:
        if name.endswith("quantizer.seeded"):
            given[name] = torch.tensor(True)  # ours alone: this codebook was trained
    model.load_state_dict(given)
    return Imported(model.eval().requires_grad_(False), network, tuple(sorted(text)))


# ------------------------------------------------------------------ the latent action model


_RENAMED = (
    (r"^image_in\.", "patch_up."),
    (r"^features_out\.", "decoder.out."),
    (r"^text_in\.", "lang_proj."),
    (r"^(encoder|decoder)\.project\.", r"\1.ffn."),
    (r"^(encoder|decoder)\.blocks\.", r"\1.transformer_blocks."),
    (r"\.space_norm\.", ".norm1."),
    (r"\.time_norm\.", ".norm2."),
    (r"^(encoder\..*)\.feedforward_norm\.", r"\1.norm3."),
    (r"^(decoder\..*)\.feedforward_norm\.", r"\1.norm2."),
    (r"\.feedforward\.", ".ffn."),
    (r"\.space\.", ".spatial_attn."),
    (r"\.time\.", ".temporal_attn."),
    (r"\.query\.", ".to_q."),
    (r"\.key\.", ".to_k."),
    (r"\.value\.", ".to_v."),
    (r"\.output\.", ".to_out.0."),
)
"""Parts of our names → UniVLA's, outside of the latent tokens."""

_LATENTS = {
    # stage, kind → queries, to_code, codebook, from_code
    (1, ENVIRONMENT): ("action_latent", "to_codebook", "vq", "action_up"),
    (2, ENVIRONMENT): ("action_latent", "to_codebook_uncontrol", "vq", "action_up_uncontrol"),
    (2, CONTROLLABLE): ("action_latent_controllable", "to_codebook", "vq_action", "action_up"),
}
_OURS_ALONE = ("quantizer.seeded", "quantizer.share_K")
"""What our codebook keeps of its training and UniVLA does not save."""


def univla_names(model: ImageLatentModel) -> dict[str, str]:
    """Our tensor → UniVLA's, for every tensor of the model but what is ours alone."""
    names = {}
    for ours in model.state_dict():
        if ours.endswith(_OURS_ALONE):
            continue
        latent = re.fullmatch(r"latents\.(\w+)\.(.+)", ours)
        if latent:
            queries, to_code, codebook, from_code = _LATENTS[model.config.stage, latent[1]]
            renamed = {"queries_PF": queries, "quantizer.codebook_Kd": f"{codebook}.codebook.weight"}
            linear = {"to_code": to_code, "from_code": from_code}
            part, _, rest = latent[2].partition(".")
            names[ours] = f"{linear[part]}.{rest}" if part in linear else renamed[latent[2]]
        else:
            theirs = ours
            for pattern, replacement in _RENAMED:
                theirs = re.sub(pattern, replacement, theirs)
            names[ours] = theirs
    return names


def config_of(tensors: Mapping[str, Tensor], network: Dinov2WithRegistersModel, image_size: int) -> ImageLamConfig:
    """The configuration that the shapes tell; δ and the like are the defaults. Raises CheckpointError."""

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != axes:
            raise CheckpointError(f"the checkpoint has no {name} of {axes} axes: it is no UniVLA latent action model")
        return tuple(tensors[name].shape)

    def blocks(part: str) -> int:
        return len({n.split(".")[2] for n in tensors if n.startswith(f"{part}.transformer_blocks.")})

    stage = 2 if "action_latent_controllable" in tensors else 1
    width, features_width = shape("patch_up.weight", 2)
    if width % HEAD_WIDTH:
        raise CheckpointError(f"patch_up.weight: the width {width} is no multiple of the {HEAD_WIDTH} of a head")
    codes, latent_width = shape("vq_action.codebook.weight" if stage == 2 else "vq.codebook.weight", 2)
    return ImageLamConfig(
        stage=2 if stage == 2 else 1,
        width=width,
        encoder_blocks=blocks("encoder"),
        decoder_blocks=blocks("decoder"),
        heads=width // HEAD_WIDTH,
        tokens=shape("action_latent", 4)[2],
        latent_width=latent_width,
        codebook_size=codes,
        environment_codebook_size=shape("vq.codebook.weight", 2)[0] if stage == 2 else codes,
        features=FeatureConfig(
            image_size=image_size,
            patch_size=int(network.config.patch_size),
            width=features_width,
        ),
        text=TextConfig(width=shape("lang_proj.weight", 2)[1]) if stage == 1 else TextConfig(),
    )


# ------------------------------------------------------------------ the encoders that come with it


def image_encoder(tensors: Mapping[str, Tensor]) -> Dinov2WithRegistersModel:
    """DINOv2 with registers, by the names of Meta's own code, as transformers' model. Raises CheckpointError."""
    try:
        width, _, patch_size, _ = tensors["patch_embed.proj.weight"].shape
        positions = tensors["pos_embed"].shape[1] - 1
        registers = tensors["register_tokens"].shape[1]
        feedforward = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"the checkpoint carries no DINOv2 with registers under lam.{_DINO} ({error})") from None
    layers = len({n.split(".")[1] for n in tensors if n.startswith("blocks.")})
    config = Dinov2WithRegistersConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_WIDTH or 1,
        mlp_ratio=feedforward // width,
        image_size=patch_size * round(positions**0.5),
        patch_size=patch_size,
        num_register_tokens=registers,
    )
    network = Dinov2WithRegistersModel(config)
    given = network.state_dict()
    sources = {name: _dino_source(name) for name in given}
    _require_equal_sets(tensors.keys(), {theirs for theirs, _ in sources.values()}, "image encoder")
    for name, (theirs, third) in sources.items():
        value = tensors[theirs]
        if third is not None:  # queries, keys and values are one tensor there
            value = value.chunk(3)[third] if len(value) % 3 == 0 else value
        if value.shape != given[name].shape:
            have, want = tuple(value.shape), tuple(given[name].shape)
            raise CheckpointError(f"{_DINO}{theirs} gives {name} the shape {have}; expected {want}")
        given[name] = value.float()
    network.load_state_dict(given)
    return network.eval().requires_grad_(False)


_DINO_RENAMED = (
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.[qkv]_proj\.", ".attn.qkv."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)
_THIRDS = {"q_proj": 0, "k_proj": 1, "v_proj": 2}


def _dino_source(name: str) -> tuple[str, int | None]:
    """transformers' tensor → Meta's, and which third of it where that is queries, keys and values in one."""
    theirs = name
    for pattern, replacement in _DINO_RENAMED:
        theirs = re.sub(pattern, replacement, theirs)
    third = next((i for part, i in _THIRDS.items() if f".{part}." in name), None)
    return theirs, third


def check_text_encoder(tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless these are, by name and shape, the tensors of a T5 encoder."""
    layer = "encoder.block.0.layer"
    try:
        vocabulary, width = tensors["shared.weight"].shape
        buckets, heads = tensors[f"{layer}.0.SelfAttention.relative_attention_bias.weight"].shape
        inner = tensors[f"{layer}.0.SelfAttention.q.weight"].shape[0]
        feedforward = tensors[f"{layer}.1.DenseReluDense.wi.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the checkpoint is of stage 1, but lam.{_TEXT} is no T5 encoder ({error})") from None
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=inner // heads,
        d_ff=feedforward,
        num_layers=len({n.split(".")[2] for n in tensors if n.startswith("encoder.block.")}),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
    )
    with torch.device("meta"):
        expected = T5EncoderModel(config).state_dict()
    _require_equal_sets(tensors.keys(), set(expected), "text encoder")
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            have, want = tuple(tensors[name].shape), tuple(tensor.shape)
            raise CheckpointError(f"{_TEXT}{name} has shape {have}; expected {want}")


def _require_equal_sets(found: Iterable[str], expected: Iterable[str], what: str) -> None:
    found, expected = set(found), set(expected)
    problems = [f"missing {name}" for name in sorted(expected - found)]
    problems += [f"unknown {name}" for name in sorted(found - expected)]
    if problems:
        shown = "\n  ".join(problems[:12]) + (f"\n  … and {len(problems) - 12} more" if len(problems) > 12 else "")
        raise CheckpointError(f"the checkpoint's {what} is not UniVLA's, tensor by tensor:\n  {shown}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0 on success. An error that the user can mend ends the process with a message and status 1."""
    parser = argparse.ArgumentParser(prog="univla", description="Import UniVLA's released latent action models.")
    parser.add_argument("checkpoint", type=Path, help="lam-stage-1 or lam-stage-2, .safetensors or .ckpt")
    parser.add_argument("output", type=Path, help="folder for model/ and dinov2/")
    parser.add_argument("--contract", required=True, help="contract of the robot, by name or path")
    arguments = parser.parse_args(argv)
    with one_line_errors("univla"):
        imported = import_univla(arguments.checkpoint, arguments.output, load_contract(arguments.contract))
    stage, text = imported.model.config.stage, len(imported.text_tensors)
    taken = len(univla_names(imported.model))
    print(
        f"{arguments.output}: stage {stage}, {taken} tensors of the model, {len(imported.network.state_dict())} of the "
        f"image encoder" + (f"; {text} of the T5 encoder recognised and left to text.path" if text else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
