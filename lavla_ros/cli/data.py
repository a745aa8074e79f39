"""``lavla convert``, ``lavla recover``, ``lavla import`` and ``lavla dataset``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lavla_ros.cli.arguments import Json, fields_of
from lavla_ros.cli.terminal import CommandError, Progress, to_json
from lavla_ros.defaults import DEFAULT_CONTRACT
from training.scale import Workers


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a dataset is made, and how."""

    out: Path
    """Folder of the new dataset."""
    codec: Literal["libx264", "libsvtav1"] = "libx264"
    """Codec of the videos."""
    resume: bool = False
    """Continue a dataset that was interrupted, or add the recordings that it does not contain yet."""
    as_json: bool = False
    """Print the report as JSON, even if nothing could be used."""


IntoDataset = Annotated[Target, fields_of(Target, as_json="json")]
LocalOrRay = Annotated[Workers, fields_of(Workers, without=["gpus_per_task", "attempts"])]


def convert(
    bags: tyro.conf.Positional[tuple[Path, ...]],
    /,
    target: IntoDataset,
    workers: LocalOrRay,
    contract: str = DEFAULT_CONTRACT,
    outcomes: tuple[str, ...] = ("succeeded",),
    instruction: str | None = None,
    allow_gaps: bool = False,
    min_steps: int = 2,
    allow_contract_differences: bool = False,
    log_time: tuple[str, ...] = (),
) -> None:
    """The page docs/bags.md says which bags can be converted.

    Example: lavla convert runs/bags --out runs/dataset

    Args:
        bags: Bags, or folders that are searched for bags.
        contract: Name of a contract in config/contracts, or a file. Bags recorded under another one are rejected.
        outcomes: Outcomes of the episodes to convert; add "unmarked" for bags of other recorders.
        instruction: Instruction for bags that contain none.
        allow_gaps: Keep episodes that lost steps.
        min_steps: Smallest number of steps of an episode; shorter ones are rejected.
        allow_contract_differences: Convert bags that were recorded under another contract, if topics and names fit.
        log_time: Streams (cameras, state, command) whose log times are used, because their stamps are 0 or come from
            another clock.
    """
    options = {
        "outcomes": outcomes,
        "instruction": instruction,
        "allow_gaps": allow_gaps,
        "min_steps": min_steps,
        "allow_contract_differences": allow_contract_differences,
        "log_time": log_time,
    }
    _ingest("bag", bags, contract, options, target, workers)


def _ingest(
    kind: str,
    paths: Sequence[Path],
    contract: str | None,
    options: Mapping[str, Any],
    target: Target,
    workers: Workers,
) -> None:
    """Make a dataset of recordings, show how far it is, print the report."""
    from training.ingest import IngestError, ingest

    expected = 0
    with Progress("converting" if kind == "bag" else f"importing {kind}", quiet=target.as_json) as progress:

        def on_start(sources: int) -> None:
            nonlocal expected
            progress.expect(expected := sources)

        def on_episode(report: Any) -> None:
            nonlocal expected
            if report.part > 1:  # a source of several
                progress.expect(expected := expected + 1)
            progress.advance("rejected" if report.rejected else "converted" if kind == "bag" else "imported")

        try:
            report = ingest(
                kind,
                paths,
                target.out,
                contract=contract,
                options=options,
                codec=target.codec,
                workers=workers,
                resume=target.resume,
                on_start=on_start,
                progress=on_episode,
            )
        except IngestError as error:
            if target.as_json and error.report is not None:
                print(to_json(error.report.to_dict()))
            raise
    print(to_json(report.to_dict()) if target.as_json else str(report))


def recover(bag: tyro.conf.Positional[Path], /, out: Path | None = None) -> None:
    """The original stays as it is.

    Args:
        bag: Folder of the bag, or its .mcap or .db3 file.
        out: Folder of the new bag. The default is the old name with _recovered, beside it.
    """
    from lavla_ros.recording import recover_bag

    print(recover_bag(bag, out))


def import_demonstrations(
    kind: tyro.conf.Positional[str],
    source: tyro.conf.Positional[Path],
    /,
    target: IntoDataset,
    workers: LocalOrRay,
    contract: str | None = None,
    mapping: Path | None = None,
    instruction: str | None = None,
    upright: bool = False,
    option: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("-o",))] = (),
) -> None:
    """Afterwards, look at meta/first_frames.png of the new dataset: it shows whether the pictures are upright.

    Example: lavla import libero downloads/libero_object --out runs/libero_object

    Args:
        kind: Format of the source: libero, robotwin, lerobot, bag, or module:attribute of your own Recordings.
        source: A file, or a folder of files; for lerobot, the folder of the dataset.
        contract: Name of a contract in config/contracts, or a file. LIBERO and RoboTwin have their own by default.
        mapping: For lerobot, a YAML file that maps the dataset's cameras and dimensions to those of the contract and
            gives the rotation of its pictures; docs/training.md explains it.
        instruction: Instruction of episodes that carry none, or in place of theirs.
        upright: For libero, the pictures are upright already. LIBERO's own files and OpenVLA's are upside down.
        option: Options of other formats, each written name=value; the value is read as YAML.
    """
    named = {"mapping": mapping, "instruction": instruction, "upright": upright or None}
    options = {name: value for name, value in named.items() if value is not None} | _named_values(option)
    _ingest(kind, [source], contract, options, target, workers)


def _named_values(texts: Sequence[str]) -> dict[str, Any]:
    """``name=value`` of an own kind's options; values are YAML."""
    from lavla_ros.yaml_text import load_yaml

    values = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise CommandError(f"{text!r} is no option; write name=value")
        values[name] = load_yaml(value)
    return values


def dataset(
    action: tyro.conf.Positional[Literal["check", "repair"]],
    path: tyro.conf.Positional[Path],
    /,
    deep: bool = False,
    strict: bool = False,
    jobs: int | None = None,
    dry_run: bool = False,
    removed: Path | None = None,
    as_json: Json = False,
) -> None:
    """A check reads every file once: counts, checksums, values, units, jumps, capture times, statistics. With --deep it
    also decodes the videos (1 ms of one core per frame of 224x224) and finds black, frozen, late and exchanged cameras.

    Example: lavla dataset check runs/dataset --deep

    Example: lavla dataset repair runs/dataset --dry-run

    Args:
        action: "check" lists what is wrong, and exits with status 1 if there is an error. "repair" mends what can be
            mended and moves the rest aside.
        path: Folder of the dataset.
        deep: For check, decode every video.
        strict: For check, count warnings as errors.
        jobs: For check, number of threads that decode. The default is one per core.
        dry_run: For repair, only print what would be done.
        removed: For repair, the folder that receives what is taken out. The default is removed/ in the dataset.
        as_json: Print the report of the check as JSON; for repair, the report of a check made afterwards.
    """
    from training.dataset import check, repair

    if action == "repair":
        lines = repair(path, dry_run=dry_run, removed=removed)
        for line in lines or ["nothing to mend"]:
            print(f"would: {line}" if dry_run and lines else line, file=sys.stderr if as_json else sys.stdout)
        if dry_run:
            return
    with Progress("decoding", quiet=as_json or not deep) as progress:
        report = check(path, deep=deep, jobs=jobs, progress=progress.show)
    print(to_json(report) if as_json else str(report))
    if report.errors or (strict and report.warnings):
        raise CommandError(f"{path} has {len(report.errors)} errors and {len(report.warnings)} warnings")
