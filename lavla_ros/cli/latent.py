"""``lavla latent …``: latent action models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lavla_ros.cli.arguments import Json, fields_of
from lavla_ros.cli.terminal import CommandError, Progress, say
from lavla_ros.config import read_plain
from training.command import run_command
from training.task_pool import Workers

TRAIN = """Train an {kind} latent action model.

Example: lavla latent train {kind} --config config/latent/{kind}_tabletop.yaml --output runs/latent_{kind}"""
_KINDS = {
    "action": ("action_config:ActionLamTrainConfig", "action_train:train_action_lam"),
    "image": ("image_config:ImageLamTrainConfig", "image_train:train_image_lam"),
}
"""Kind of model → its configuration, and what trains it, in training.latent_actions."""


def train(arguments: Sequence[str]) -> Callable[[], None]:
    """The run that the arguments of ``lavla latent train [action|image]`` describe.

    The options are the keys of the model's configuration; without a kind, its file says which it is.
    """
    kind, options = (arguments[0], arguments[1:]) if arguments[:1] and arguments[0] in _KINDS else ("", arguments)
    kind = kind or _kind_of_file(arguments)
    if not kind and {"-h", "--help"} & set(arguments):
        return lambda: print(
            '"lavla latent train action --help" and "lavla latent train image --help" list the options.'
        )
    if kind not in _KINDS:
        raise CommandError("say which model to train: lavla latent train action|image [--config YAML] [options]")
    config, run = (f"training.latent_actions.{each}" for each in _KINDS[kind])
    prog, description = f"lavla latent train {kind}", TRAIN.format(kind=kind)
    return partial(run_command, config, run, prog=prog, description=description, argv=options)


def _kind_of_file(arguments: Sequence[str]) -> str:
    """What the file of ``--config`` says about its model; empty: nothing."""
    if "--config" not in arguments[:-1]:
        return ""
    content = read_plain(Path(arguments[arguments.index("--config") + 1]))
    return str(content.get("kind", "")) if isinstance(content, dict) else ""


def label(
    dataset: tyro.conf.Positional[Path],
    /,
    model: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction],
    workers: Annotated[Workers, fields_of(Workers, without=["attempts"])],
    name: str | None = None,
    codes_only: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    cache_dir: Path | None = None,
    as_json: Json = False,
) -> None:
    """The labels are for "lavla train". The command continues where it was stopped.

    Example: lavla latent label runs/dataset --model runs/latent_action/model --model runs/latent_image/model

    Args:
        dataset: Folder of the dataset; the labels are written to its folder latent/.
        model: Directory of a latent action model; the option may be given several times.
        name: Name of the set of labels. The default is the kind of the model, action or image.
        codes_only: Write z without c. This takes a hundredth of the space, and suffices unless a strategy learns
            embeddings (LA-Align and the (C) variants).
        device: Device that the model runs on.
        precision: What an image model computes in. bfloat16 is several times faster on a GPU; its codes are first held
            against those of float32 on one episode, and refused if more than 5% of them differ.
        cache_dir: Folder of image features that a training run has written, if it is not the dataset's own.
        as_json: Print the reports as JSON.
    """
    from training.latent_actions.labelling import label

    if name is not None and len(model) > 1:
        raise CommandError("--name is for one --model at a time")
    reports = []
    for path in model:
        with Progress(f"labelling with {path}", quiet=as_json) as progress:
            report = label(
                dataset,
                path,
                name=name,
                codes_only=codes_only,
                workers=workers,
                device=device,
                precision=precision,
                cache_dir=cache_dir,
                progress=progress.show,
                log=say,
            )
        health = report.health
        reports.append({**dataclasses.asdict(report), "health": health.figures()})
        if not as_json:
            print(
                f"{report.path}: {report.steps} steps in {report.shards} shards ({report.reused} were there); "
                f"perplexity {health.perplexity:.1f} of {health.size} codes, {health.dead} dead"
            )
    if as_json:
        print(json.dumps(reports, indent=2))


def encode(source: tyro.conf.Positional[Path], /, model: Path, out: Path, states: Path | None = None) -> None:
    """The codes are tokens, as those of any action tokenizer.

    Example: lavla latent encode chunks.npy --states states.npy --model runs/latent_action/model --out codes.npy

    Args:
        source: A .npy file of chunks (N, H, m) in the contract's units, or a dataset (the chunk of every step).
        model: Directory of an action latent action model.
        out: The .npy file for the codes, (N, H) int32.
        states: A .npy file of observed states (N, S), for models that code actions relative to them.
    """
    from training.latent_actions.encode import encode_file

    shape = encode_file(source, model, out, states)
    print(f"{out}: {shape[0] if len(shape) > 1 else 1} chunks of {shape[-1]} codes")


def decode(source: tyro.conf.Positional[Path], /, model: Path, out: Path, states: Path | None = None) -> None:
    """The codes are those that "lavla latent encode" writes.

    Example: lavla latent decode codes.npy --states runs/dataset --model runs/latent_action/model --out actions.npy

    Args:
        source: A .npy file of codes (N, H).
        model: Directory of the action latent action model that made the codes.
        out: The .npy file for the actions, (N, H, m) in the contract's units.
        states: A .npy file of observed states (N, S), or the dataset that was encoded.
    """
    from training.latent_actions.encode import decode_file

    print(f"{out}: actions of shape {decode_file(source, model, out, states)}")


def inspect(
    dataset: tyro.conf.Positional[Path], /, model: Path, out: Path, examples: int = 6, as_json: Json = False
) -> None:
    """The folder gets linear probes to actions, the use of the codebook, and pictures of what each code stands for.

    Example: lavla latent inspect runs/dataset --model runs/latent_image/model --out runs/meaning

    Args:
        dataset: A dataset that was labelled with the model.
        model: Directory of a latent action model.
        out: New folder for index.html, meaning.json, usage.png and codes/.
        examples: Number of transitions shown per code.
        as_json: Print meaning.json instead of a summary.
    """
    from training.latent_actions.inspection import inspect

    meaning = inspect(dataset, model, out, examples=examples)
    if as_json:
        print((out / "meaning.json").read_text(encoding="utf-8"))
        return
    for probe in meaning.probes:
        print(f"R² {probe.r2:.3f} (shuffled {probe.shuffled:.3f}) from {probe.source} to {probe.target}")
    print(", ".join(f"{name} {value:.3g}" for name, value in meaning.health.items()))
    print(f"open {out}/index.html")
