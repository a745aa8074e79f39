"""Recordings of any kind → one LeRobotDataset v3.0.

A source is one recording: a bag, a file, an episode of another dataset. Sources are read in parallel, by processes or
on a Ray cluster; their episodes are encoded frame by frame and committed in the order given. So the dataset does not
depend on the workers, and memory is bounded by an episode's numbers and a few frames. An episode that cannot be used
whole is rejected with its reason, never patched.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract
from lavla_ros.errors import UserError
from training.dataset import DatasetError, layout, stats
from training.dataset.check import episode_table
from training.dataset.first_frames import write_first_frames
from training.dataset.video import Codec, DepthWriter, VideoWriter
from training.dataset.writer import DatasetWriter, EpisodeArrays, steps_digest, table_digest
from training.task_pool import Workers, run_tasks

_JOURNAL = "meta/conversion.jsonl"
"""What became of each episode, while the dataset is built; at its end all of it is in ``meta/conversion.json``."""
_log = logging.getLogger(__name__)


class Kind(StrEnum):
    """Why an episode is rejected."""

    BAG = "bag"
    CLOCK = "clock"
    CONTRACT = "contract"
    DAMAGED = "damaged"
    DUPLICATE = "duplicate"
    ERROR = "error"
    """A fault of the program."""
    FINITE = "finite"
    FRAMES = "frames"
    GAP = "gap"
    IMAGE = "image"
    INSTRUCTION = "instruction"
    LABEL = "label"
    OUTCOME = "outcome"
    RANGE = "range"
    SHAPE = "shape"
    SHORT = "short"
    STATE = "state"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an episode is not in the dataset."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True, slots=True)
class Notice:
    """What a person should look at in an episode that can be used."""

    stream: str
    text: str

    def __str__(self) -> str:
        return f"{self.stream}: {self.text}"


class Rejected(Exception):
    """An episode, or a whole recording, cannot be used."""

    def __init__(self, kind: Kind, text: str) -> None:
        self.rejection = Rejection(kind, text)
        super().__init__(str(self.rejection))


class IngestError(UserError, RuntimeError):
    """No dataset could be made, or it could not be continued."""

    def __init__(self, message: str, report: IngestReport | None = None) -> None:
        super().__init__(message)
        self.report = report
        """What became of the episodes, if some were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of an episode."""

    state: NDArray[np.float32]
    """(S,) in the contract's order and units."""
    action: NDArray[np.float32]
    """(A,) what was commanded at this step."""
    instruction: str
    images: Mapping[str, NDArray[np.uint8]]
    """Camera → (H, W, 3) RGB, of the contract's size."""
    capture_ns: Sequence[int]
    """Capture times in the order of :func:`layout.stream_names`."""
    intervention: bool = False
    """A person commanded it, not a policy."""
    phrasings: tuple[str, ...] = ()
    """Ways to say the instruction, beginning with it, if all steps of the episode have the same; of its first step."""
    depth: Mapping[str, NDArray[np.uint16]] = field(default_factory=dict)
    """Depth camera → (H, W) millimetres, of the same size in all steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeReport:
    """What became of one episode."""

    source: str
    """Name of its source."""
    part: int = 0
    """Which of the source's episodes it is, from 1; 0 if the source is one."""
    episode: int | None = None
    """Its index in the dataset; None if it was rejected."""
    steps: int = 0
    rejected: Rejection | None = None
    outcome: str = ""
    scene: dict[str, str | int] = field(default_factory=dict)
    """Of a simulated episode, as the bag has it: suite, task, layout, initial_state, seed."""
    counters: dict[str, int] = field(default_factory=dict)
    """Everything that the alignment and the labels counted."""
    delay_ms: dict[str, float] = field(default_factory=dict)
    """Stream → median of log time minus stamp."""
    warnings: tuple[Notice, ...] = ()
    digest: str = ""
    """Of the episode's numbers; tells which episodes a dataset holds already."""

    @property
    def name(self) -> str:
        """Source and episode, for people."""
        return f"{self.source} (its episode {self.part})" if self.part else self.source

    def to_dict(self, word: str) -> dict[str, Any]:
        """Plain data; the source is under the key ``word``, a rejection is its text, with its kind beside it."""
        told: dict[str, Any] = {"rejected": str(self.rejected or ""), "warnings": [str(each) for each in self.warnings]}
        told["kind"] = self.rejected.kind if self.rejected else ""
        return {word: self.source} | {k: v for k, v in asdict(self).items() if k != "source"} | told

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> EpisodeReport:
        """What :meth:`to_dict` gave, also an earlier version's."""
        known = {f.name: row[f.name] for f in fields(cls) if f.name in row}
        kind, _, text = row["rejected"].partition(": ")  # what str() made of it
        known["source"] = row["bag"] if "bag" in row else row["name"]
        known["rejected"] = Rejection(Kind(kind), text) if kind else None
        known["warnings"] = tuple(Notice(*line.partition(": ")[::2]) for line in row.get("warnings", ()))
        return cls(**known)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What became of all episodes; also in ``meta/conversion.json``."""

    path: str
    kind: str
    """Of the recordings: a name of SOURCES, or ``module:attribute``."""
    episodes: int
    steps: int
    dropped: dict[str, int]
    """Reason → steps dropped inside accepted episodes (at their ends, or with ``allow_gaps``)."""
    rejected: dict[str, int]
    """Kind of reason → episodes."""
    sources: tuple[EpisodeReport, ...]
    first_frames: str = ""
    """Picture of how the cameras stand, for a person to look at; empty if none was made."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        word, words = _words(self.kind)
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sources"}
        return {**plain, words: [report.to_dict(word) for report in self.sources]}

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.episodes} episodes, {self.steps} steps"]
        if self.first_frames and self.episodes:
            lines.append(f"  look at {self.first_frames}: every picture must stand as the policy is to see it")
        lines += [f"  dropped {count} steps: {reason}" for reason, count in sorted(self.dropped.items())]
        told = [(r, str(r.rejected)) for r in self.sources if r.rejected]
        lines += [f"  rejected {line}" for line in _gathered([(t.replace(r.source, ""), r.name, t) for r, t in told])]
        notes = [(each.stream, r.name, str(each)) for r in self.sources for each in r.warnings if not r.rejected]
        return "\n".join(lines + [f"  look at {line}" for line in _gathered(notes)])


def _words(kind: str) -> tuple[str, str]:
    """What a report's JSON calls one source, and all of them."""
    return ("bag", "bags") if kind == "bag" else ("name", "sources")


def _gathered(told: list[tuple[str, str, str]]) -> list[str]:
    """(what, episode, text) → ``episode: text``; one line for all with the same ``what``, and the first text."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for what, name, text in told:
        groups.setdefault(what, []).append((name, text))
    lines = []
    for group in groups.values():
        name, text = group[0]
        others = f" and {len(group) - 1} more ({group[1][0]}, …)" if len(group) > 1 else ""
        lines.append(f"{name}{others}: {text}")
    return lines


class Episode(Protocol):
    """One episode of a source that is being read."""

    @property
    def part(self) -> int:
        """Which of the source's episodes it is, from 1; 0 if the source is one."""

    def steps(self) -> Iterator[Step]:
        """Raises Rejected, at the latest after the last step, if the episode cannot be used."""

    def describe(self, report: EpisodeReport) -> EpisodeReport:
        """``report`` with what the episode tells of itself; asked when it was read, or when that failed."""


class EpisodeSource(Protocol):
    """One recording. Picklable: it is read in another process. :class:`training.ingest.table.Table` is a simple one."""

    @property
    def name(self) -> str:
        """Where it is; no other source has this name."""

    def episodes(self, contract: Contract) -> Iterable[Episode]:
        """Its episodes, each read before the next is taken. Raises Rejected if the recording cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One source, for a worker."""

    source: EpisodeSource
    staging: Path
    contract: Contract
    codec: Codec
    held: frozenset[int]
    """Parts of the source that the dataset has already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What a worker hands back of an episode; the videos are in the staging folder."""

    report: EpisodeReport
    arrays: EpisodeArrays | None = None
    videos: Mapping[str, Path] = field(default_factory=dict)
    trace: str = ""
    """Of an unexpected exception."""


def build_dataset(
    sources: Sequence[EpisodeSource],
    out: Path,
    contract: Contract,
    *,
    kind: str = "",
    options: Mapping[str, Any] | None = None,
    codec: Codec = "libx264",
    interventions: bool = False,
    first_frames: bool = True,
    workers: Workers | None = None,
    resume: bool = False,
    progress: Callable[[EpisodeReport], None] = lambda report: None,
) -> IngestReport:
    """Write the episodes of ``sources``, in this order, into the new dataset ``out``.

    ``kind`` and ``options``: how the sources were found, for the report. ``interventions``: see :class:`DatasetWriter`.
    The machines of a Ray cluster see sources and
    ``out`` under the same paths. ``progress`` is called after each episode, in order. A source whose worker dies is
    begun again, and rejected if it dies every time; an episode that meets a fault of the program is rejected and its
    traceback logged. ``resume`` goes on with an ``out`` that was broken off or finished: what it holds is left out. A
    run that ended before its first episode was committed is begun again in any case. Raises IngestError if ``out`` is
    not empty or no episode is left (every reason is named), PoolError if the workers cannot be had.
    """
    if not sources:
        raise IngestError("there are no bags, files or episodes to make a dataset of")
    out = Path(out)
    try:
        with _open(out, contract, codec, resume=resume, interventions=interventions) as writer:
            try:
                reports = _read_all(sources, writer, kind, workers, progress)
                report = _summary(writer, reports, kind, first_frames)
                if not writer.episodes:
                    raise IngestError(f"none of {len(sources)} recordings could be used:\n{report}", report)
                settings = {"contract_hash": contract.hash, "options": {**(options or {}), "codec": codec}}
                if (out / layout.CONVERSION).exists():  # added to: what it was derived from stays true
                    earlier = layout.read_json(out / layout.CONVERSION)
                    settings |= {key: earlier[key] for key in (layout.DERIVED,) if key in earlier}
                layout.write_json(writer.root / layout.CONVERSION, {**report.to_dict(), **settings})
                writer.finish()
                (writer.root / _JOURNAL).unlink()
            finally:
                if not writer.episodes:
                    _remove_empty(writer.root)
        if first_frames:
            write_first_frames(out)
    except DatasetError as error:
        raise IngestError(str(error)) from error
    except OSError as error:
        raise IngestError(
            f"writing {out} failed: {error}; episodes committed so far are kept, and --resume goes on"
        ) from error
    return report


def _open(out: Path, contract: Contract, codec: Codec, *, resume: bool, interventions: bool) -> DatasetWriter:
    if not resume and (out / layout.INFO).exists():
        episodes = layout.read_json(out / layout.INFO).get("total_episodes")
        if episodes:
            raise DatasetError(
                f"{out} exists already, with {episodes} episodes; --resume adds what it does not hold, or choose "
                "another folder"
            )
        resume = True  # nothing is in it yet
    return DatasetWriter(out, contract, codec=codec, append=resume, interventions=interventions)


def _read_all(
    sources: Sequence[EpisodeSource],
    writer: DatasetWriter,
    kind: str,
    workers: Workers | None,
    progress: Callable[[EpisodeReport], None],
) -> list[EpisodeReport]:
    """Read and commit what the dataset does not hold; returns what became of everything."""
    word, words = _words(kind)
    reports = _reports_before(writer.root, words, sources) if writer.episodes else []
    before = {report.digest: report.episode for report in reports if report.digest}
    held: dict[Path, set[int]] = {}
    for report in reports:
        held.setdefault(_place(report.source), set()).add(report.part)
    staging = writer.root.absolute() / layout.STAGING
    tasks = [
        _Task(
            source=source,
            staging=staging / f"{number:06d}",
            contract=writer.contract,
            codec=writer.encoder,
            held=frozenset(held.get(_place(source.name), ())),
        )
        for number, source in enumerate(s for s in sources if 0 not in held.get(_place(s.name), ()))
    ]
    journal = writer.root / _JOURNAL
    layout.write_text(journal, "".join(_line(report, word) for report in reports))
    results = run_tasks(
        tasks, read_source, workers, name=lambda task: task.source.name, give_up=_died, log=_log.warning
    )
    with closing(results), journal.open("a", encoding="utf-8") as kept:  # an error below ends the workers at once
        for read in (read for episodes in results for read in episodes):
            report = read.report
            if read.trace:
                _log.error("%s: an error of the program; it is rejected\n%s", report.name, read.trace)
            if read.arrays is not None and report.digest in before:
                same = f"the dataset holds these very steps as episode {before[report.digest]}"
                report = replace(report, rejected=Rejection(Kind.DUPLICATE, same), steps=0)
            elif read.arrays is not None:
                report = replace(report, episode=writer.episodes)
            # written first: what the dataset does not hold in the end is found out by its digest
            kept.write(_line(report, word))
            kept.flush()
            if read.arrays is not None and report.episode is not None:
                writer.append(read.arrays, read.videos)
            reports.append(report)
            progress(report)
    return reports


def _place(name: str) -> Path:
    """The same for every path to a source: names are paths, or begin with one."""
    return Path(name).resolve()


def _line(report: EpisodeReport, word: str) -> str:
    return json.dumps(report.to_dict(word)) + "\n"


def _reports_before(root: Path, words: str, sources: Sequence[EpisodeSource]) -> list[EpisodeReport]:
    """What an earlier run says of the episodes that the dataset holds, and of sources that are not given now."""
    told: list[dict[str, Any]] = []
    if (root / layout.CONVERSION).exists():
        told += layout.read_json(root / layout.CONVERSION).get(words, [])
    if (root / _JOURNAL).exists():
        for line in (root / _JOURNAL).read_text(encoding="utf-8").splitlines():
            try:
                told.append(json.loads(line))
            except ValueError:
                break  # cut off
    reports = [EpisodeReport.from_dict(row) for row in told]
    by_digest = {report.digest: report for report in reports if report.digest}
    info = layout.read_json(root / layout.INFO)
    held = []
    for row in layout.read_episodes(root)[: info["total_episodes"]]:
        table = episode_table(root, info, row)
        digest = table_digest(table)
        if digest not in by_digest:
            raise DatasetError(
                f"{root}: nothing says which of {words} episode {row['episode_index']} came from, so it could come "
                "twice; choose another folder"
            )
        held.append(replace(by_digest[digest], episode=int(row["episode_index"])))
    given = {_place(source.name) for source in sources}
    rejected = {report.name: report for report in reports if report.rejected}
    return held + [report for report in rejected.values() if _place(report.source) not in given]


def read_source(task: _Task) -> tuple[_Read, ...]:
    """Read every episode of a source that is not held, into arrays and staged videos, or say why not."""
    # a folder of its own: the worker that is believed to be lost may be writing still
    staging = task.staging / f"{socket.gethostname()}-{os.getpid()}"
    report = EpisodeReport(source=task.source.name)
    found = []
    try:
        for episode in task.source.episodes(task.contract):
            if episode.part not in task.held:
                found.append(_read(episode, staging / str(episode.part), task, replace(report, part=episode.part)))
    except Exception as error:  # noqa: BLE001 (of this source, whatever it is: the others are read)
        found.append(_refused(report, error))
    return tuple(found)


def _read(episode: Episode, staging: Path, task: _Task, report: EpisodeReport) -> _Read:
    try:
        arrays, videos = _encode(episode.steps(), staging, task.contract, task.codec)
    except Exception as error:  # noqa: BLE001 (of this episode, whatever it is: the others are read)
        return _refused(episode.describe(report), error)
    digest = steps_digest(arrays.state_LS, arrays.action_LA, arrays.capture_ns_LK)
    return _Read(
        report=replace(episode.describe(report), steps=arrays.length, digest=digest), arrays=arrays, videos=videos
    )


def _refused(report: EpisodeReport, error: Exception) -> _Read:
    if isinstance(error, Rejected):
        return _Read(report=replace(report, rejected=error.rejection))
    if isinstance(error, (DatasetError, OSError)):
        raise error  # the dataset's, not the source's
    rejection = Rejection(Kind.ERROR, f"{type(error).__name__}: {error}")
    return _Read(report=replace(report, rejected=rejection), trace="".join(traceback.format_exception(error)))


def _died(task: _Task, reason: str) -> tuple[_Read, ...]:
    rejection = Rejection(Kind.WORKER, f"{reason}; out of memory?")
    return (_Read(report=EpisodeReport(source=task.source.name, rejected=rejection)),)


def _encode(
    steps: Iterator[Step], staging: Path, contract: Contract, codec: Codec
) -> tuple[EpisodeArrays, dict[str, Path]]:
    """The episode's numbers, and its videos by camera; an error leaves no video behind."""
    videos = {name: staging / f"{name}.mp4" for name in contract.camera_names}
    histograms: dict[str, list[NDArray[np.int64]]] = {name: [] for name in videos}
    numbers: list[tuple[NDArray[np.float32], NDArray[np.float32], Sequence[int], str, bool]] = []
    phrasings: tuple[str, ...] = ()
    fps = layout.stored_fps(contract)
    with ExitStack() as stack:
        writers = {
            spec.name: stack.enter_context(
                VideoWriter(videos[spec.name], width=spec.width, height=spec.height, fps=fps, codec=codec)
            )
            for spec in contract.cameras
        }
        deep = {
            spec.name: stack.enter_context(DepthWriter(staging / f"{spec.name}.mkv", fps=fps))
            for spec in contract.depth
        }
        videos |= {name: writer.path for name, writer in deep.items()}
        for step in steps:
            for name, depth_writer in deep.items():
                if name not in step.depth:
                    text = f"the source has no depth {name!r}: leave it out of the contract"
                    raise Rejected(Kind.IMAGE, text)
                try:
                    depth_writer.write(step.depth[name])
                except ValueError as error:
                    raise Rejected(Kind.IMAGE, f"depth {name!r}: {error}") from None
            for name, writer in writers.items():
                writer.write(step.images[name])
                histograms[name].append(stats.image_histogram(step.images[name]))
            phrasings = phrasings if numbers else step.phrasings
            numbers.append((step.state, step.action, step.capture_ns, step.instruction, step.intervention))
        if not numbers:
            raise Rejected(Kind.SHORT, "the episode has no step")
    states, actions, captures, instructions, interventions = zip(*numbers, strict=True)
    if phrasings and {phrasings[0]} != set(instructions):
        said = f"it has phrasings of {phrasings[0]!r}, but its steps have the instructions {sorted(set(instructions))}"
        raise Rejected(Kind.INSTRUCTION, said)
    sampled = sorted(stats.sample_frames(len(numbers)))
    arrays = EpisodeArrays(
        state_LS=np.stack(states),
        action_LA=np.stack(actions),
        capture_ns_LK=np.array(captures, np.int64),
        instructions=instructions,
        phrasings=phrasings,
        intervention_L=np.array(interventions, np.int64),
        histograms={name: np.sum([found[i] for i in sampled], axis=0) for name, found in histograms.items()},
    )
    return arrays, videos


def _summary(writer: DatasetWriter, reports: list[EpisodeReport], kind: str, first_frames: bool) -> IngestReport:
    prefix = "steps.dropped."
    dropped: Counter[str] = Counter()
    for report in reports:
        if report.episode is not None:
            dropped.update({k.removeprefix(prefix): n for k, n in report.counters.items() if k.startswith(prefix)})
    return IngestReport(
        path=str(writer.root),
        kind=kind,
        episodes=writer.episodes,
        steps=writer.frames,
        dropped=dict(dropped),
        rejected=dict(Counter(str(report.rejected.kind) for report in reports if report.rejected)),
        sources=tuple(reports),
        first_frames=str(writer.root / layout.FIRST_FRAMES) if first_frames else "",
    )


def _remove_empty(root: Path) -> None:
    """Take away the skeleton of a dataset that got no episode."""
    shutil.rmtree(root / layout.STAGING, ignore_errors=True)
    for name in (layout.INFO, layout.CONTRACT, layout.CONVERSION, _JOURNAL):
        (root / name).unlink(missing_ok=True)
    for folder in sorted((p for p in root.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    if root.is_dir() and not any(root.iterdir()):
        root.rmdir()
