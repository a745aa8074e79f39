"""``lavla convert``, ``lavla recover``, ``lavla import`` and ``lavla dataset …``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lavla_ros.cli.arguments import Json, OptionTexts, fields_of
from lavla_ros.cli.terminal import CommandError, Progress, to_json
from lavla_ros.config import parse_options
from lavla_ros.defaults import DEFAULT_CONTRACT
from lavla_ros.yaml_text import load_yaml
from training.bag_options import BagOptions
from training.task_pool import Workers


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
    options: Annotated[BagOptions, fields_of(BagOptions)],
    contract: str = DEFAULT_CONTRACT,
) -> None:
    """The page docs/bags.md says which bags can be converted.

    Example: lavla convert runs/bags --out runs/dataset

    Args:
        bags: Bags, or folders that are searched for bags.
        contract: Name of a contract in config/contracts, or a file. Bags recorded under another one are rejected.
    """
    _ingest("bag", bags, contract, dataclasses.asdict(options), target, workers)


def _ingest(
    kind: str,
    paths: Sequence[Path],
    contract: str | None,
    options: Mapping[str, Any],
    target: Target,
    workers: Workers,
    enlarge: bool = False,
) -> None:
    """Make a dataset of recordings, show how far it is, print the report."""
    from training.ingest import IngestError, ingest

    doing, done = ("converting", "converted") if kind == "bag" else (f"importing {kind}", "imported")
    with Progress(doing, quiet=target.as_json) as progress:

        def on_episode(report: Any) -> None:
            progress.advance("rejected" if report.rejected else done, more=report.part > 1)  # a source of several

        try:
            report = ingest(
                kind,
                paths,
                target.out,
                contract=contract,
                options=options,
                enlarge=enlarge,
                codec=target.codec,
                workers=workers,
                resume=target.resume,
                on_start=progress.expect,
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
    enlarge: bool = False,
    option: OptionTexts = (),
) -> None:
    """Afterwards, look at meta/first_frames.png of the new dataset: it shows whether the pictures are upright.

    With fp2t, the result is not a dataset but a policy: a run of the code that was released with the paper becomes a
    checkpoint that can be evaluated (docs/training.md).

    Example: lavla import libero downloads/libero_object --out runs/libero_object

    Args:
        kind: Format of the source: libero, robotwin, lerobot, rlds, bag, or module:attribute of your own Recordings;
            or fp2t.
        source: A file, or a folder of files; for lerobot and rlds, the folder of the dataset; for fp2t, the folder of
            the run.
        contract: Name of a contract in config/contracts, or a file. LIBERO and RoboTwin have their own by default.
        mapping: For lerobot and rlds, a YAML file that maps the dataset's cameras and dimensions to those of the
            contract and gives the rotation of its pictures; docs/training.md explains it. RLDS datasets of known
            layouts need none.
        instruction: Instruction of episodes that carry none, or in place of theirs.
        upright: For libero, whether the pictures are upright; LIBERO's own files and OpenVLA's are upside down.
        enlarge: Take pictures that are smaller than the contract's and enlarge them, which blurs them. Without it,
            their episodes are rejected.
        option: Option of another format, written name=value, with the value in YAML; it may be given several times.
    """
    named = {"mapping": mapping, "instruction": instruction, "upright": upright or None}
    options = {name: value for name, value in named.items() if value is not None}
    options |= {name: load_yaml(text) for name, text in parse_options(option).items()}
    if kind == "fp2t":
        _import_policy(source, target, contract, options)
        return
    _ingest(kind, [source], contract, options, target, workers, enlarge)


def _import_policy(source: Path, target: Target, contract: str | None, options: Mapping[str, Any]) -> None:
    """Make a checkpoint of a run of the paper's released code, print what was made of it."""
    from lavla_ros.contract import load_contract
    from lavla_ros.policy.fp2t_import import import_fp2t

    known = {"base", "revision", "as_released", "method", "separate", "dataset"}
    if unknown := sorted(options.keys() - known):
        raise CommandError(f"fp2t has no option {unknown}; it has {sorted(known)}")
    if contract is None or "base" not in options:
        raise CommandError("importing fp2t needs --contract NAME and -o base=PATH, the Qwen3-VL that was trained on")
    imported = import_fp2t(source, target.out, load_contract(contract), **options)
    print(to_json(imported.to_dict()) if target.as_json else str(imported))


def summary(path: tyro.conf.Positional[Path], /, as_json: Json = False) -> None:
    """All numbers are read, no video is. Datasets of other tools are taken too; what they do not say is left out.

    Example: lavla dataset stats runs/dataset

    Args:
        path: Folder of the dataset.
        as_json: Print JSON.
    """
    from training.dataset import summarise

    found = summarise(path)
    if as_json:
        print(to_json(found))
        return
    print(f"{found.path}: {found.episodes} episodes, {found.steps} steps, {found.seconds:.1f} s")
    for each in found.instructions:
        print(f"  {each.text}: in {each.episodes} of {found.episodes} episodes, {each.steps} steps")
    for outcome, count in sorted(found.outcomes.items()):
        print(f"  {outcome}: {count} of {found.episodes} episodes")
    if found.commanded_by_person is not None:
        person = found.commanded_by_person
        print(f"  commanded by a person: {person['steps']} steps, in {person['episodes']} of {found.episodes} episodes")
    from rich.console import Console
    from rich.table import Column, Table

    for key, dimensions in found.dimensions.items():
        figures = next(iter(dimensions.values()))
        table = Table(Column(key, no_wrap=True), *(Column(name, justify="right", no_wrap=True) for name in figures))
        for name, values in dimensions.items():
            table.add_row(name, *(f"{value:.3g}" for value in values.values()))
        Console(highlight=False, markup=False, width=max(100, Console().width)).print(table)


def check(
    path: tyro.conf.Positional[Path],
    /,
    deep: bool = False,
    strict: bool = False,
    jobs: int | None = None,
    as_json: Json = False,
) -> None:
    """The check reads every file once: counts, checksums, values, units, jumps, capture times, statistics. With --deep,
    it also decodes the videos (1 ms of one core per frame of 224x224) and finds black, frozen, late and exchanged
    cameras. The exit status is 1 if there is an error.

    Example: lavla dataset check runs/dataset --deep

    Args:
        path: Folder of the dataset.
        deep: Decode every video.
        strict: Count warnings as errors.
        jobs: Number of threads that decode. The default is one per core.
        as_json: Print the report as JSON.
    """
    from training.dataset import check

    with Progress("decoding", quiet=as_json or not deep) as progress:
        report = check(path, deep=deep, jobs=jobs, progress=progress.show)
    print(to_json(report) if as_json else str(report))
    if report.errors or (strict and report.warnings):
        raise CommandError(f"{path} has {len(report.errors)} errors and {len(report.warnings)} warnings")


def repair(
    path: tyro.conf.Positional[Path], /, dry_run: bool = False, removed: Path | None = None, as_json: Json = False
) -> None:
    """What can be mended is mended, the rest is moved aside; a check follows.

    Example: lavla dataset repair runs/dataset --dry-run

    Args:
        path: Folder of the dataset.
        dry_run: Only print what would be done.
        removed: Folder that receives what is taken out. The default is removed/ in the dataset.
        as_json: Print the report of the check as JSON.
    """
    from training.dataset import repair

    lines = repair(path, dry_run=dry_run, removed=removed)
    for line in lines or ["nothing to mend"]:
        print(f"would: {line}" if dry_run and lines else line, file=sys.stderr if as_json else sys.stdout)
    if not dry_run:
        check(path, as_json=as_json)


def merge(datasets: tyro.conf.Positional[tuple[Path, ...]], /, out: Path) -> None:
    """All episodes are in the new dataset, in the order given; videos are copied, and the datasets stay as they are.
    Datasets whose contracts, rates, features or codecs differ are refused. Steps of a dataset that does not say who
    commanded them count as not a person's, if another one says it.

    Example: lavla dataset merge runs/monday runs/tuesday --out runs/both

    Args:
        datasets: Folders of the datasets.
        out: Folder of the new dataset.
    """
    from training.dataset import merge

    with Progress("merging", quiet=False) as progress:
        lines = merge(datasets, out, progress.show)
    print("\n".join(lines))


def split(
    dataset: tyro.conf.Positional[Path],
    /,
    out_folder: Path,
    fraction: float | None = None,
    episodes: tuple[int, ...] = (),
    seed: int = 0,
) -> None:
    """The new datasets are OUT_FOLDER/chosen and OUT_FOLDER/rest, with the episodes in their order; the old one stays
    as it is.

    Example: lavla dataset split runs/dataset --fraction 0.9 --out-folder runs/parts

    Args:
        dataset: Folder of the dataset.
        out_folder: Folder that the two new datasets are made in.
        fraction: How many of the episodes are chosen, between 0 and 1. They are drawn at random.
        episodes: Numbers of the chosen episodes, in place of a fraction.
        seed: Which episodes a fraction draws; the same seed draws the same.
    """
    from training.dataset import split

    with Progress("copying", quiet=False) as progress:
        lines = split(dataset, out_folder, fraction=fraction, episodes=episodes, seed=seed, progress=progress.show)
    print("\n".join(lines))


def drop(dataset: tyro.conf.Positional[Path], /, episodes: tuple[int, ...], out: Path) -> None:
    """The other episodes are in the new dataset, numbered without gaps; the old one stays as it is.

    Example: lavla dataset drop runs/dataset --episodes 3 7 --out runs/without

    Args:
        dataset: Folder of the dataset.
        episodes: Numbers of the episodes to leave out.
        out: Folder of the new dataset.
    """
    from training.dataset import drop

    with Progress("copying", quiet=False) as progress:
        lines = drop(dataset, episodes, out, progress.show)
    print("\n".join(lines))


def relabel(
    dataset: tyro.conf.Positional[Path],
    /,
    episodes: tuple[int, ...],
    out: Path,
    instruction: str | None = None,
    outcome: Literal["succeeded", "failed"] | None = None,
) -> None:
    """All episodes are in the new dataset, these with what is said here; the old one stays as it is. Other phrasings of
    an instruction that is replaced are left out.

    Example: lavla dataset relabel runs/dataset --episodes 1 2 --instruction "Put the bowl away." --out runs/relabelled

    Args:
        dataset: Folder of the dataset.
        episodes: Numbers of the episodes.
        out: Folder of the new dataset.
        instruction: What the episodes show, in place of every instruction in them.
        outcome: How they ended; for datasets that say it of them.
    """
    from training.dataset import relabel

    if instruction is None and outcome is None:
        raise CommandError("say what is to be said: --instruction or --outcome")
    with Progress("copying", quiet=False) as progress:
        lines = relabel(dataset, episodes, out, instruction=instruction, outcome=outcome, progress=progress.show)
    print("\n".join(lines))
