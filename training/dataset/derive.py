"""New datasets out of old ones: joined, divided, without some episodes, or with something said anew of them.

All of it is one thing: episodes that are picked, in an order, into a dataset that is written as every other one is.
Pictures and depth are copied, not encoded again. What is picked from stays as it is; the new dataset is there whole
or not at all.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lavla_ros.contract import ContractError, require_same_contract
from lavla_ros.outputs import new_folder
from training.dataset import layout
from training.dataset.check import changed_files, episode_table
from training.dataset.first_frames import write_first_frames
from training.dataset.layout import DatasetError
from training.dataset.reader import EpisodeDataset
from training.dataset.video import CODEC_NAMES
from training.dataset.writer import (
    DatasetLock,
    DatasetWriter,
    EpisodeArrays,
    column_array,
    image_histogram,
    steps_digest,
)

Progress = Callable[[int, int], None]
"""Called with how many episodes are written, and how many there will be."""


def _silent(done: int, total: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """An episode of a dataset, as it is or with something said anew."""

    source: Path
    episode: int
    instruction: str | None = None
    """Of all its steps, in place of theirs and of their phrasings."""
    outcome: str | None = None

    def __post_init__(self) -> None:
        if self.instruction is not None and not self.instruction.strip():
            raise DatasetError("the instruction is empty; an episode without one cannot be trained on")


def merge(sources: Sequence[Path], out: Path, progress: Progress = _silent) -> list[str]:
    """All episodes of ``sources``, in their order. Returns and raises as :func:`derive`."""
    return derive({out: [Pick(source=root, episode=i) for root in sources for i in range(_count(root))]}, progress)


def drop(root: Path, episodes: Collection[int], out: Path, progress: Progress = _silent) -> list[str]:
    """All episodes but these. Returns and raises as :func:`derive`."""
    dropped = _known(root, episodes)
    return derive({out: [Pick(source=root, episode=i) for i in range(_count(root)) if i not in dropped]}, progress)


def relabel(
    root: Path,
    episodes: Collection[int],
    out: Path,
    *,
    instruction: str | None = None,
    outcome: str | None = None,
    progress: Progress = _silent,
) -> list[str]:
    """All episodes, these with another instruction or outcome. Returns and raises as :func:`derive`."""
    chosen = _known(root, episodes)
    said = {"instruction": instruction, "outcome": outcome}
    picks = [Pick(source=root, episode=i, **(said if i in chosen else {})) for i in range(_count(root))]
    return derive({out: picks}, progress)


def split(
    root: Path,
    folder: Path,
    *,
    fraction: float | None = None,
    episodes: Collection[int] = (),
    seed: int = 0,
    progress: Progress = _silent,
) -> list[str]:
    """``folder/chosen``: these ``episodes``, or a ``fraction`` of all, drawn by ``seed``; ``folder/rest``: the others.

    Returns and raises as :func:`derive`; also raises DatasetError unless one of the two ways to choose is given.
    """
    count = _count(root)
    if (fraction is None) == (not episodes):
        raise DatasetError("say which episodes are chosen: by a fraction, or by their numbers")
    if fraction is not None:
        if not 0 < fraction < 1:
            raise DatasetError(f"the fraction is {fraction}; expected more than 0 and less than 1")
        drawn = np.random.default_rng(seed).permutation(count)[: round(fraction * count)]
        episodes = [int(number) for number in drawn]
    chosen = _known(root, episodes)
    rest = sorted(set(range(count)) - set(chosen))
    parts = {folder / "chosen": chosen, folder / "rest": rest}
    return derive({out: [Pick(source=root, episode=i) for i in part] for out, part in parts.items()}, progress)


def derive(outputs: Mapping[Path, Sequence[Pick]], progress: Progress = _silent) -> list[str]:
    """Write a new dataset for each folder of ``outputs``, of its episodes in their order.

    Returns what was made, and what was not taken along, in lines. Raises DatasetError, or OutputError where a folder is
    not empty, and makes nothing: for datasets whose contracts, rates, features or codecs differ, that another tool
    wrote, that are damaged, unfinished or being written; for episodes that are not there, or twice in one output.
    """
    for out, picks in outputs.items():
        if not picks:
            raise DatasetError(f"no episode would be left for {out}")
    total, done, lines = sum(map(len, outputs.values())), 0, []
    with ExitStack() as stack:
        sources: dict[Path, _Source] = {}
        for pick in (pick for picks in outputs.values() for pick in picks):
            if pick.source not in sources:
                sources[pick.source] = _Source(pick.source)
                stack.callback(sources[pick.source].close)
        first, *others = sources.values()
        for other in others:
            first.require_like(other)
        for root, source in sources.items():
            source.require_whole({p.episode for picks in outputs.values() for p in picks if p.source == root})
        try:
            for out, picks in outputs.items():
                made = stack.enter_context(new_folder(out))
                lines.append(_write(made, out, picks, sources, partial(_also, progress, done, total)))
                done += len(picks)
        except OSError as error:
            raise DatasetError(
                f"writing {' and '.join(map(str, outputs))} failed: {error}; nothing was made"
            ) from error
    for root, source in sources.items():
        if source.latent:
            lines.append(
                f"the latent labels of {root} ({', '.join(source.latent)}) are of its steps as they were, and were not "
                "taken along; `lavla latent label` makes new ones"
            )
    return lines


def _also(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _write(
    made: Path, out: Path, picks: Sequence[Pick], sources: Mapping[Path, _Source], progress: Callable[[int], None]
) -> str:
    used = {root: source for root, source in sources.items() if any(pick.source == root for pick in picks)}
    first = next(iter(used.values()))
    told = any(source.dataset.interventions is not None for source in used.values())
    reports: list[dict[str, Any]] = []
    held: dict[str, Pick] = {}
    with DatasetWriter(made, first.contract, codec=first.codec, interventions=told) as writer:
        staging = made / layout.STAGING
        for number, pick in enumerate(picks):
            source = used[pick.source]
            arrays = source.arrays(pick)
            digest = steps_digest(arrays.state_LS, arrays.action_LA, arrays.capture_ns_LK)
            if (twin := held.setdefault(digest, pick)) is not pick:
                raise DatasetError(
                    f"episode {pick.episode} of {pick.source} holds the very steps of episode {twin.episode} of "
                    f"{twin.source}; drop one of them first"
                )
            if report := source.report(pick, digest):
                reports.append({**report, "episode": number})
            copies = {name: staging / f"{name}{file.suffix}" for name, file in source.files(pick.episode).items()}
            staging.mkdir(exist_ok=True)
            for name, file in source.files(pick.episode).items():
                shutil.copyfile(file, copies[name])
            writer.append(arrays, copies)
            progress(number + 1)
        writer.finish()
        if pictured := any((root / layout.FIRST_FRAMES).exists() for root in used):
            write_first_frames(made)
        told_of = {"path": str(out), "episodes": writer.episodes, "steps": writer.frames, "rejected": {}}
        told_of["first_frames"] = str(out / layout.FIRST_FRAMES) if pictured else ""
        layout.write_json(made / layout.CONVERSION, told_of | _provenance(picks, used, reports))
        return f"{out}: {writer.episodes} episodes, {writer.frames} steps"


def _provenance(
    picks: Sequence[Pick], sources: Mapping[Path, _Source], reports: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What conversion.json says of where the episodes came from: how they were recorded, and how they came here."""
    before = [source.conversion for source in sources.values()]
    kinds = {str(each.get("kind", "")) for each in before}
    kind = kinds.pop() if len(kinds) == 1 else ""
    options = [dict(each.get("options") or {}) for each in before]
    agreed = {key: value for key, value in options[0].items() if all(each.get(key) == value for each in options)}
    dropped: Counter[str] = Counter()
    for counters in (report.get("counters", {}) for report in reports):
        prefix = "steps.dropped."
        dropped.update({key.removeprefix(prefix): n for key, n in counters.items() if key.startswith(prefix)})
    derived = []
    for root, source in sources.items():
        chosen = [pick for pick in picks if pick.source == root]
        entry: dict[str, Any] = {"dataset": str(root.absolute()), "episodes": [pick.episode for pick in chosen]}
        if changes := [source.change(pick) for pick in chosen if (pick.instruction, pick.outcome) != (None, None)]:
            entry["changes"] = changes
        if earlier := source.conversion.get(layout.DERIVED):
            entry[layout.DERIVED] = earlier
        derived.append(entry)
    return {
        "kind": kind,
        "dropped": dict(dropped),
        "bags" if kind == "bag" else "sources": list(reports),
        "contract_hash": next(iter(sources.values())).contract.hash,
        "options": agreed | {"allow_gaps": any(each.get("allow_gaps") for each in options)},
        layout.DERIVED: derived,
    }


class _Source:
    """A dataset of ours that is picked from; nobody writes it meanwhile."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.info = layout.read_json(root / layout.INFO)
        self._lock = DatasetLock(root, shared=True)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._lock.release()

    def _open(self) -> None:
        root, contract = self.root, layout.read_contract(self.root)
        if contract is None:
            raise DatasetError(
                f"{root} has no {layout.CONTRACT}: `lavla import lerobot` makes a dataset of ours of it, and that one "
                "can be worked on"
            )
        if (root / layout.STAGING).exists() or not (root / layout.STATS).exists():
            raise DatasetError(f"{root} is not finished; finish it with --resume, or run `lavla dataset repair`")
        self.contract = contract
        self.dataset = EpisodeDataset(root, contract)
        self.rows = layout.read_episodes(root)
        camera = self.info["features"][layout.video_key(contract.camera_names[0])]
        named = (camera.get("info") or {}).get("video.codec")
        codec = next((encoder for encoder, name in CODEC_NAMES.items() if name == named), None)
        if codec is None:
            raise DatasetError(f"{root}: its videos are of the codec {named!r}; known are {[*CODEC_NAMES.values()]}")
        self.codec = codec
        told = self.dataset.interventions is not None
        wanted = layout.info(
            contract, fps=self.dataset.fps, codec=CODEC_NAMES[codec], episodes=0, frames=0, tasks=0, interventions=told
        )
        found = self.info["features"]
        differing = [k for k in found.keys() | wanted["features"].keys() if found.get(k) != wanted["features"].get(k)]
        differing += [key for key in ("data_path", "video_path") if self.info.get(key) != wanted[key]]
        several = len({layout.data_file(root, self.info, row) for row in self.rows}) != len(self.rows)
        if differing or several:
            what = f"{sorted(differing)} are not as we write them" if differing else "it has several episodes in a file"
            raise DatasetError(f"{root}: {what}; `lavla import lerobot` makes a dataset of ours of it")
        deep, ours = list(layout.depth_names(root)), sorted(spec.name for spec in contract.depth)
        if deep != ours:
            raise DatasetError(f"{root} has the depth cameras {deep}; its contract has {ours}")
        has_conversion = (root / layout.CONVERSION).exists()
        self.conversion = layout.read_json(root / layout.CONVERSION) if has_conversion else {}
        self._reports = reports_by_digest(self.conversion)
        self.latent = sorted(file.parent.name for file in (root / "latent").glob("*/manifest.json"))

    def require_like(self, other: _Source) -> None:
        """Raise DatasetError naming what keeps the two from being one dataset."""
        theirs = replace(other.contract, chunk_size=self.contract.chunk_size)  # chunks are cut when reading
        try:
            require_same_contract(self.contract, theirs, ours_from=str(self.root), theirs_from=str(other.root))
        except ContractError as error:
            raise DatasetError(str(error)) from None
        for what, mine, its in (
            ("fps", self.dataset.fps, other.dataset.fps),
            ("videos", CODEC_NAMES[self.codec], CODEC_NAMES[other.codec]),
            ("depth cameras", layout.depth_names(self.root), layout.depth_names(other.root)),
        ):
            if mine != its:
                raise DatasetError(f"{self.root} and {other.root} cannot be one dataset: {what} {mine} and {its}")

    def require_whole(self, episodes: Collection[int]) -> None:
        """Raise DatasetError for episodes that are not there, or whose files are missing or changed."""
        rows = [self.rows[i] for i in _known(self.root, episodes)]
        missing = [
            str(file) for row in rows for file in self.files(int(row["episode_index"])).values() if not file.exists()
        ]
        changed = changed_files(self.root, self.info, rows, layout.read_sums(self.root))
        problems = [f"{missing[0]} is missing"] if missing else [f"{name}: {text}" for name, text in changed.items()]
        if problems:
            raise DatasetError(f"{self.root} is damaged: {problems[0]}; run `lavla dataset check`")

    def files(self, episode: int) -> dict[str, Path]:
        """Camera, or depth camera → the file that has the episode, and nothing else."""
        row = self.rows[episode]
        deep = {spec.name: layout.depth_file(self.root, row, spec.name) for spec in self.contract.depth}
        return {camera: file for camera, (file, _) in self.dataset.episodes[episode].videos.items()} | deep

    def arrays(self, pick: Pick) -> EpisodeArrays:
        dataset, row = self.dataset, self.rows[pick.episode]
        episode = dataset.episodes[pick.episode]
        steps = slice(episode.first, episode.first + episode.length)
        instructions = tuple(map(dataset.instruction, range(steps.start, steps.stop)))
        phrasings = episode.phrasings
        if pick.instruction is not None:
            instructions, phrasings = (pick.instruction.strip(),) * episode.length, ()
        hands = dataset.interventions
        histograms = {}
        for name in self.contract.camera_names:
            histograms[name], _ = image_histogram(self.root, dataset.fps, [row], layout.video_key(name))
        return EpisodeArrays(
            state_LS=dataset.states[steps],
            action_LA=dataset.actions[steps],
            capture_ns_LK=column_array(episode_table(self.root, self.info, row), layout.CAPTURE).astype(np.int64),
            instructions=instructions,
            phrasings=phrasings,
            intervention_L=None if hands is None else hands[steps].astype(np.int64),
            histograms=histograms,
        )

    def report(self, pick: Pick, digest: str) -> dict[str, Any]:
        """What became of the episode when it was recorded; empty if nothing says it. Raises DatasetError."""
        report = self._reports.get(digest, {})
        if pick.outcome is None:
            return report
        if not report.get("outcome"):
            raise DatasetError(
                f"{self.root} does not say how episode {pick.episode} ended ({layout.CONVERSION}), so no other outcome "
                "can be given to it"
            )
        return {**report, "outcome": pick.outcome}

    def change(self, pick: Pick) -> dict[str, Any]:
        """What was said anew of an episode, and what its instructions were."""
        said = {"instruction": pick.instruction, "outcome": pick.outcome}
        given = {key: text for key, text in said.items() if text is not None}
        return {"episode": pick.episode, **given, "was": self.rows[pick.episode]["tasks"]}


def reports_by_digest(conversion: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What conversion.json says of each episode, by :func:`steps_digest`: a repair changes numbers, not steps."""
    reports = [*conversion.get("bags", ()), *conversion.get("sources", ())]
    return {report["digest"]: report for report in reports if report.get("digest")}


def _count(root: Path) -> int:
    return int(layout.read_json(root / layout.INFO)["total_episodes"])


def _known(root: Path, episodes: Collection[int]) -> list[int]:
    """Each once, in order. Raises DatasetError naming those that are not there."""
    count = _count(root)
    if unknown := sorted(set(episodes) - set(range(count))):
        raise DatasetError(f"{root} has no episode {unknown}; it has 0 to {count - 1}")
    return sorted(set(episodes))
