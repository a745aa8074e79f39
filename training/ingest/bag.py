"""Bags → LeRobotDataset v3.0.

A bag is one episode, or as many as marks on /episode/state part. It is read twice: first the commands, then images and
states through the same :class:`ObservationPipeline` that a live policy uses; frames go straight into the encoder. Bags
are converted in parallel, by processes or on a Ray cluster, and committed in the order given, so the dataset does
not depend on the workers. An episode that cannot be converted whole is rejected with its cause, never patched.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import NS_PER_S, Contract, ContractError, Observation, recording_differences, shipped_contract
from lavla_ros.errors import UserError
from lavla_ros.observation import ObservationPipeline, camera_topic_choices, stamp_ns
from lavla_ros.recording import BagError, BagReader, EpisodeInfo
from training.dataset import layout, stats
from training.dataset.check import episode_table
from training.dataset.labels import LabelTrack
from training.dataset.layout import DatasetError
from training.dataset.video import Codec, VideoWriter
from training.dataset.writer import DatasetWriter, EpisodeArrays, column_array, integer_fps
from training.diagnosis import COMMAND, STATE, Clocks, first_cause, refusals
from training.scale import ScaleError, Workers, run_tasks

_GAP = 1.5
"""Two steps further apart than this many periods have lost one between them."""
STREAM_LAG_S = 5.0
"""How far one stream of a bag may be ahead of another: a recorder that falls behind writes topic after topic."""
_AROUND_NS = NS_PER_S
"""What was logged so long before or after a marked episode may still be the sample nearest to one of its frames."""
_JOURNAL = "meta/conversion.jsonl"
"""What became of each bag, while the conversion runs; at its end all of it is in ``meta/conversion.json``."""

_IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_log = logging.getLogger(__name__)


class ConversionError(UserError, RuntimeError):
    """Nothing could be converted, or the conversion could not go on."""

    def __init__(self, message: str, report: ConversionReport | None = None) -> None:
        super().__init__(message)
        self.report = report
        """What became of the bags, where some were looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """What to take from the bags, and how."""

    outcomes: tuple[str, ...] = ("succeeded",)
    """Episode marks to convert; add ``unmarked`` for bags of other recorders."""
    instruction: str | None = None
    """Instruction for bags that have neither an instruction message nor one in their metadata."""
    allow_gaps: bool = False
    """Keep episodes with lost steps (their true times are in ``capture_ns``)."""
    min_steps: int = 2
    """Shorter episodes are rejected."""
    allow_contract_differences: bool = False
    """Convert bags that were recorded under another contract, where topics and names fit."""
    log_time: tuple[str, ...] = ()
    """Streams (cameras, ``state``, ``command``) to take by their log times: their stamps are 0, or another clock's."""
    codec: Codec = "libx264"

    def __post_init__(self) -> None:
        if self.min_steps < 1:
            raise ConversionError(f"min_steps is {self.min_steps}; expected at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BagReport:
    """What became of one bag, or of one of the episodes in it."""

    bag: str
    part: int = 0
    """Which of the bag's episodes, from 1; 0 where the bag is one."""
    episode: int | None
    """Its episode index; None where it was rejected."""
    steps: int
    rejected: str = ""
    """Reason, beginning with its kind: ``gap: …``; empty where it was converted."""
    outcome: str = ""
    scene: dict[str, str | int] = field(default_factory=dict)
    """Of a simulated episode, as the bag has it: suite, task, layout, initial_state, seed."""
    counters: dict[str, int] = field(default_factory=dict)
    """Everything that the alignment and the labels counted."""
    delay_ms: dict[str, float] = field(default_factory=dict)
    """Stream → median of log time minus stamp."""
    warnings: tuple[str, ...] = ()
    """What to look at, beginning with the stream."""
    digest: str = ""
    """Of the episode's numbers; tells which bags a dataset holds already."""

    @property
    def name(self) -> str:
        """Bag and episode, for people."""
        return f"{self.bag} (its episode {self.part})" if self.part else self.bag


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """What became of all bags; also in ``meta/conversion.json``."""

    path: str
    episodes: int
    steps: int
    dropped: dict[str, int]
    """Reason → steps dropped inside converted bags (at their ends, or with ``allow_gaps``)."""
    rejected: dict[str, int]
    """Kind of reason → bags."""
    bags: tuple[BagReport, ...]

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.episodes} episodes, {self.steps} steps"]
        lines += [f"  dropped {count} steps: {reason}" for reason, count in sorted(self.dropped.items())]
        rejected = [(b.rejected.replace(b.bag, ""), b.name, b.rejected) for b in self.bags if b.rejected]
        lines += [f"  rejected {text}" for text in _gathered(rejected)]
        notes = [(text.split(":")[0], b.name, text) for b in self.bags for text in b.warnings if not b.rejected]
        lines += [f"  look at {text}" for text in _gathered(notes)]
        return "\n".join(lines)


def _gathered(told: list[tuple[str, str, str]]) -> list[str]:
    """(what, bag, text) → ``bag: text``; one line for all bags with the same ``what``, and the first text."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for what, name, text in told:
        groups.setdefault(what, []).append((name, text))
    lines = []
    for group in groups.values():
        name, text = group[0]
        others = f" and {len(group) - 1} more ({group[1][0]}, …)" if len(group) > 1 else ""
        lines.append(f"{name}{others}: {text}")
    return lines


class _Rejected(Exception):
    """An episode cannot be converted; the text begins with the kind of reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One bag, for a worker."""

    bag: Path
    staging: Path
    contract: Contract
    options: ConvertOptions
    converted: frozenset[int]
    """Parts of the bag that the dataset has already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Converted:
    """What a worker hands back of an episode; the videos are in the staging folder."""

    report: BagReport
    arrays: EpisodeArrays | None
    videos: dict[str, Path]
    trace: str = ""
    """Of an exception that nobody expected."""


def convert(
    bags: Sequence[Path],
    out: Path,
    contract: Contract,
    *,
    options: ConvertOptions | None = None,
    jobs: int | None = None,
    ray: str | None = None,
    progress: Callable[[BagReport], None] | None = None,
    resume: bool = False,
) -> ConversionReport:
    """Convert ``bags``, in this order, into the new dataset ``out``.

    ``jobs`` processes work (default: one per core), on this machine or on the Ray cluster at address ``ray``,
    whose machines see ``bags`` and ``out`` under the same paths; ``progress`` is called after each episode, in order.
    A bag whose worker dies is begun again, and rejected when it dies every time; one that meets an error of the
    program is rejected and its traceback logged. ``resume`` goes on with an ``out`` that was broken off or finished:
    bags that it holds are left out, the others follow. A conversion that ended before its first episode was committed
    is begun anew in any case. Raises ConversionError when ``out`` is not empty, no bag is left after rejection (every
    reason is named), or the workers can't be had.
    """
    options = options or ConvertOptions()
    if not bags:
        raise ConversionError("no bags to convert")
    unknown = sorted(set(options.log_time) - {*contract.camera_names, STATE, COMMAND})
    if unknown:
        raise ConversionError(f"log_time names {unknown}; the streams are {[*contract.camera_names, STATE, COMMAND]}")
    try:
        workers = Workers(jobs=jobs, ray=ray)
    except ScaleError as error:
        raise ConversionError(str(error)) from None
    bags = [bag.absolute() for bag in bags]
    try:
        with _open(Path(out), contract, options.codec, resume=resume) as writer:
            return _convert_all(bags, writer, contract, options, workers, progress)
    except ScaleError as error:  # the cluster could not be reached
        raise ConversionError(str(error)) from error
    except DatasetError as error:
        raise ConversionError(str(error)) from error
    except OSError as error:
        raise ConversionError(
            f"writing {out} failed: {error}; episodes committed so far are kept, and `lavla convert --resume` goes on"
        ) from error


def _open(out: Path, contract: Contract, codec: Codec, *, resume: bool) -> DatasetWriter:
    if not resume and (out / layout.INFO).exists():
        episodes = layout.read_json(out / layout.INFO).get("total_episodes")
        if episodes:
            raise DatasetError(
                f"{out} exists already, with {episodes} episodes; --resume adds the bags that it does not hold, or "
                "choose another folder"
            )
        resume = True  # nothing is in it yet
    return DatasetWriter(out, contract, codec=codec, append=resume)


def _convert_all(
    bags: list[Path],
    writer: DatasetWriter,
    contract: Contract,
    options: ConvertOptions,
    workers: Workers,
    progress: Callable[[BagReport], None] | None,
) -> ConversionReport:
    root = writer.root
    reports = _reports_before(root, bags) if writer.episodes else []
    before = {report.digest: report.episode for report in reports if report.digest} if writer.episodes else {}
    parts: dict[Path, set[int]] = {}
    for report in reports:
        parts.setdefault(Path(report.bag).resolve(), set()).add(report.part)
    left = [bag for bag in bags if 0 not in parts.get(bag.resolve(), ())]
    staging = root.absolute() / layout.STAGING
    tasks = [
        _Task(
            bag=bag,
            staging=staging / f"{i:06d}",
            contract=contract,
            options=options,
            converted=frozenset(parts.get(bag.resolve(), ())),
        )
        for i, bag in enumerate(left)
    ]
    journal = root / _JOURNAL
    layout.write_text(journal, "".join(_line(report) for report in reports))
    try:
        results = run_tasks(tasks, _convert_task, workers, name=lambda task: str(task.bag), give_up=_died)
        with closing(results), journal.open("a", encoding="utf-8") as log:  # an error below ends the workers at once
            for episodes in results:
                for converted in episodes:
                    report = converted.report
                    if converted.trace:
                        _log.error("%s: an error of the program; it is rejected\n%s", report.name, converted.trace)
                    if converted.arrays is not None and report.digest in before:
                        same = f"duplicate: the dataset holds these very steps as episode {before[report.digest]}"
                        report = replace(report, rejected=same, steps=0)
                    elif converted.arrays is not None:
                        report = replace(report, episode=writer.episodes)
                    # written first: what the dataset does not hold in the end is found out by its digest
                    log.write(_line(report))
                    log.flush()
                    if converted.arrays is not None and report.episode is not None:
                        writer.append(converted.arrays, converted.videos)
                    reports.append(report)
                    if progress is not None:
                        progress(report)
        summary = _summary(writer, reports)
        if not writer.episodes:
            raise ConversionError(f"none of {len(bags)} bags could be converted:\n{summary}", summary)
        layout.write_json(
            root / layout.CONVERSION, {**asdict(summary), "contract_hash": contract.hash, "options": asdict(options)}
        )
        writer.finish()
        journal.unlink()
    finally:
        if not writer.episodes:
            _remove_empty(root)
    return summary


def _line(report: BagReport) -> str:
    return json.dumps(asdict(report)) + "\n"


def _reports_before(root: Path, bags: list[Path]) -> list[BagReport]:
    """What an earlier run says of the episodes that the dataset holds, and of bags that are not given now."""
    told: list[dict[str, Any]] = []
    if (root / layout.CONVERSION).exists():
        told += layout.read_json(root / layout.CONVERSION).get("bags", [])
    if (root / _JOURNAL).exists():
        for line in (root / _JOURNAL).read_text(encoding="utf-8").splitlines():
            try:
                told.append(json.loads(line))
            except ValueError:
                break  # cut off
    known = {f.name for f in fields(BagReport)}
    reports = [
        BagReport(**{**{k: v for k, v in row.items() if k in known}, "warnings": tuple(row.get("warnings", ()))})
        for row in told
    ]
    by_digest = {report.digest: report for report in reports if report.digest}
    info = layout.read_json(root / layout.INFO)
    held = []
    for row in layout.read_episodes(root)[: info["total_episodes"]]:
        table = episode_table(root, info, row)
        digest = _digest(*(column_array(table, name) for name in (layout.STATE, layout.ACTION, layout.CAPTURE)))
        if digest not in by_digest:
            raise DatasetError(
                f"{root}: nothing says which bag episode {row['episode_index']} came from, so it could come twice; "
                "convert into another folder"
            )
        held.append(replace(by_digest[digest], episode=int(row["episode_index"])))
    given = {bag.resolve() for bag in bags}
    rejected = {report.name: report for report in reports if report.rejected}
    return held + [report for report in rejected.values() if Path(report.bag).resolve() not in given]


def _digest(*columns: NDArray[Any]) -> str:
    found = hashlib.sha256()
    for column in columns:
        found.update(np.ascontiguousarray(column).data)
    return found.hexdigest()[:16]


def _convert_task(task: _Task) -> tuple[_Converted, ...]:
    # a folder of its own: the worker that is believed to be lost may be writing still
    staging = task.staging / f"{socket.gethostname()}-{os.getpid()}"
    return convert_bag(task.bag, staging, task.contract, task.options, task.converted)


def _died(task: _Task, reason: str) -> tuple[_Converted, ...]:
    return (_rejected(BagReport(bag=str(task.bag), episode=None, steps=0), f"worker: {reason}; out of memory?"),)


def convert_bag(
    bag: Path, staging: Path, contract: Contract, options: ConvertOptions, converted: frozenset[int] = frozenset()
) -> tuple[_Converted, ...]:
    """Convert every episode of a bag but the parts ``converted`` into arrays and videos, or say why not."""
    report = BagReport(bag=str(bag), episode=None, steps=0)
    try:
        with BagReader(bag) as reader:
            episodes = reader.episodes()
            return tuple(
                _convert_episode(reader, episode, staging / str(part), contract, options, replace(report, part=part))
                for part, episode in enumerate(episodes, 1 if len(episodes) > 1 else 0)
                if part not in converted
            )
    except BagError as error:
        return (_rejected(report, f"bag: {error}"),)
    except (DatasetError, OSError):
        raise  # the dataset's, not the bag's
    except Exception as error:  # noqa: BLE001 (of this bag, whatever it is: the others convert)
        return (_rejected(report, f"error: {type(error).__name__}: {error}", trace=traceback.format_exc()),)


def _convert_episode(
    reader: BagReader,
    episode: EpisodeInfo,
    staging: Path,
    contract: Contract,
    options: ConvertOptions,
    report: BagReport,
) -> _Converted:
    counters: Counter[str] = Counter()
    clocks = Clocks()
    report = replace(report, outcome=episode.outcome, scene=episode.scene)

    def rejected(reason: str, trace: str = "") -> _Converted:
        return _rejected(replace(report, counters=dict(counters), delay_ms=clocks.delay_ms()), reason, trace)

    try:
        if episode.outcome not in options.outcomes:
            raise _Rejected(f"outcome: marked {episode.outcome!r}; converted are {list(options.outcomes)}")
        recorded = _recorded_contract(reader.path, episode, contract, options)
        wired = _wired(contract, recorded, reader) if recorded is not None else contract
        arrays, videos = _convert_open(reader, episode, staging, wired, options, counters, clocks)
    except BagError as error:
        return rejected(f"bag: {error}")
    except _Rejected as error:
        return rejected(str(error))
    except (DatasetError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 (of this bag, whatever it is: the others convert)
        return rejected(f"error: {type(error).__name__}: {error}", traceback.format_exc())
    return _Converted(
        report=replace(
            report,
            steps=arrays.length,
            scene={**episode.scene, "instruction": episode.instruction} if episode.scene else {},
            counters=dict(counters),
            delay_ms=clocks.delay_ms(),
            warnings=tuple(clocks.warnings(contract, options.log_time)),
            digest=_digest(arrays.state_LS, arrays.action_LA, arrays.capture_ns_LK),
        ),
        arrays=arrays,
        videos=videos,
    )


def _rejected(report: BagReport, reason: str, trace: str = "") -> _Converted:
    return _Converted(report=replace(report, rejected=reason), arrays=None, videos={}, trace=trace)


def _recorded_contract(bag: Path, episode: EpisodeInfo, contract: Contract, options: ConvertOptions) -> Contract | None:
    """The contract that the bag was recorded under, where it tells; raises _Rejected where it is an unfit one."""
    told, text = episode.metadata.get("contract_definition"), episode.metadata.get("contract_hash")
    recorded: Contract | None = None
    if told is not None:
        try:
            recorded = Contract.from_dict(told, source=f"contract_definition of {bag}")
        except ContractError as error:
            raise _Rejected(f"contract: {error}") from None
    elif text is not None and not contract.has_hash(text):
        recorded = shipped_contract(text)  # bags from before definitions were recorded
        if recorded is None and not options.allow_contract_differences:
            raise _Rejected(
                f"contract: {bag} was recorded under contract {episode.metadata.get('contract')!r}, of which it has "
                f"only the hash {text}; this one is {contract.name!r} ({contract.hash}). Pass "
                "--allow-contract-differences where they differ in nothing that matters"
            )
    if recorded is not None and not options.allow_contract_differences:
        lines = recording_differences(contract, recorded)
        if lines:
            raise _Rejected(
                f"contract: {bag} was recorded under {recorded.name!r}; {contract.name!r} differs: {'; '.join(lines)}. "
                "Pass --allow-contract-differences where that does not matter"
            )
    return recorded


def _wired(contract: Contract, recorded: Contract, reader: BagReader) -> Contract:
    """``contract`` with the topics that the bag was recorded from, where its own are not in the bag."""

    def topic(ours: str, theirs: str) -> str:
        return ours if reader.counts.get(ours, 0) else theirs

    theirs = {spec.name: spec.topic for spec in recorded.cameras}
    cameras = tuple(
        replace(spec, topic=theirs[spec.name])
        if spec.name in theirs and not any(reader.counts.get(t, 0) for t in camera_topic_choices(spec))
        else spec
        for spec in contract.cameras
    )
    return replace(
        contract,
        cameras=cameras,
        state=replace(contract.state, topic=topic(contract.state.topic, recorded.state.topic)),
        action=replace(contract.action, topic=topic(contract.action.topic, recorded.action.topic)),
        instruction_topic=topic(contract.instruction_topic, recorded.instruction_topic),
    )


def _convert_open(
    reader: BagReader,
    episode: EpisodeInfo,
    staging: Path,
    contract: Contract,
    options: ConvertOptions,
    counters: Counter[str],
    clocks: Clocks,
) -> tuple[EpisodeArrays, dict[str, Path]]:
    topics = _camera_topics(reader, contract)
    track = LabelTrack(contract, log_clock=options.log_time)
    reader.require_topics([contract.state.topic, track.topic])
    reader.require_types(
        {
            **dict.fromkeys(topics.values(), _IMAGES),
            contract.state.topic: ("sensor_msgs/msg/JointState",),
            track.topic: (
                "sensor_msgs/msg/JointState" if track.from_states else "trajectory_msgs/msg/JointTrajectory",
            ),
            contract.instruction_topic: ("std_msgs/msg/String",),
        }
    )
    start_ns, end_ns = episode.start_ns, episode.end_ns
    early_ns = None if start_ns is None else start_ns - _AROUND_NS
    for message in reader.messages([track.topic], start_ns=early_ns, end_ns=end_ns):
        data = reader.deserialize(message)
        track.add(data, message.stamp_ns)
        if not track.from_states:
            clocks.add(COMMAND, stamp_ns(data), message.stamp_ns)
    pipeline = ObservationPipeline(
        contract,
        camera_topics=topics,
        instruction=_instruction_before(reader, contract, start_ns)
        or episode.instruction
        or options.instruction
        or None,
        wait_s=STREAM_LAG_S,
        log_clock=options.log_time,
    )
    streams = {topic: name for name, topic in topics.items()} | {contract.state.topic: STATE}
    reference = topics[contract.alignment.reference]
    late_ns = None if end_ns is None else end_ns + _AROUND_NS
    steps = _Steps(contract, staging, options, track)
    try:
        with steps:
            for message in reader.messages(pipeline.topics, start_ns=early_ns, end_ns=late_ns):
                outside = (start_ns is not None and message.stamp_ns < start_ns) or (
                    end_ns is not None and message.stamp_ns > end_ns
                )
                if outside and message.topic in (reference, contract.instruction_topic):
                    continue
                data = reader.deserialize(message)
                if message.topic in streams:
                    clocks.add(streams[message.topic], stamp_ns(data), message.stamp_ns)
                pipeline.add(message.topic, data, message.stamp_ns)
                for observation in pipeline.pop():
                    steps.take(observation)
            for observation in pipeline.flush():
                steps.take(observation)
            steps.require_whole(pipeline, clocks)
    except _Rejected as error:
        told = refusals(pipeline, track, steps.counters)
        raise _Rejected(f"{error} (bag {reader.path}{f'; {told}' if told else ''})") from None
    finally:
        counters.update(pipeline.counters + track.counters + steps.counters)
    return steps.arrays(), steps.videos


def _instruction_before(reader: BagReader, contract: Contract, start_ns: int | None) -> str:
    """The instruction in force when a marked episode begins."""
    if start_ns is None or contract.instruction_topic not in reader.types:
        return ""
    text = ""
    for message in reader.messages([contract.instruction_topic], end_ns=start_ns):
        text = str(reader.deserialize(message).data)
    return text


def _camera_topics(reader: BagReader, contract: Contract) -> dict[str, str]:
    """Camera → the best topic with messages: prepared, raw, compressed."""
    chosen = {}
    for spec in contract.cameras:
        choices = camera_topic_choices(spec)
        present = [topic for topic in choices if reader.counts.get(topic, 0)]
        if not present:
            have = sorted(t for t, n in reader.counts.items() if n)
            raise BagError(
                f"bag {reader.path} has no images of camera {spec.name!r} on any of {list(choices)}; it has {have}"
            )
        chosen[spec.name] = present[0]
    return chosen


class _Steps:
    """Collects labelled steps, encodes their frames; leaving it with an error removes the videos."""

    def __init__(self, contract: Contract, staging: Path, options: ConvertOptions, track: LabelTrack) -> None:
        self.contract = contract
        self.options = options
        self.counters: Counter[str] = Counter()
        self.videos = {n: staging / f"{n}.mp4" for n in contract.camera_names}
        self._track = track
        self._stack = ExitStack()
        self._writers: dict[str, VideoWriter] = {}
        self._stamps: list[int] = []
        self._states: list[NDArray[np.float32]] = []
        self._actions: list[NDArray[np.float32]] = []
        self._captures: list[list[int]] = []
        self._instructions: list[str] = []
        self._thumbnails: dict[str, list[NDArray[np.int64]]] = {n: [] for n in contract.camera_names}

    def __enter__(self) -> _Steps:
        self._stack.__enter__()
        for spec in self.contract.cameras:
            self._writers[spec.name] = self._stack.enter_context(
                VideoWriter(
                    self.videos[spec.name],
                    width=spec.width,
                    height=spec.height,
                    fps=integer_fps(self.contract),
                    codec=self.options.codec,
                )
            )
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def take(self, observation: Observation) -> None:
        """Add a step, or count that it has no label."""
        label = self._track.at(observation.stamp_ns)
        if label is None:
            self.counters["steps.dropped"] += 1
            self.counters["steps.dropped.no_label"] += 1
            return
        for name, writer in self._writers.items():
            image = observation.images[name]
            writer.write(image)
            self._thumbnails[name].append(stats.image_histogram(image))
        self._stamps.append(observation.stamp_ns)
        self._states.append(observation.state)
        self._actions.append(label)
        self._captures.append([observation.capture_ns[n] for n in layout.stream_names(self.contract)])
        self._instructions.append(observation.instruction)

    def require_whole(self, pipeline: ObservationPipeline, clocks: Clocks) -> None:
        """Raise _Rejected, with the first cause, for an episode that is too short or has lost steps."""
        count = len(self._stamps)
        if count < self.options.min_steps:
            unlabelled = self.counters["steps.dropped.no_label"]
            cause = first_cause(self.contract, pipeline, self._track, clocks, unlabelled)
            frames = pipeline.counters[f"{self.contract.alignment.reference}.frames"]
            cause = cause or f"short: the bag has {frames} pictures of {self.contract.alignment.reference!r}"
            raise _Rejected(f"{cause}; that leaves {count} steps, and at least {self.options.min_steps} are needed")
        if clock_jumps := pipeline.counters["clock_jumps"]:
            raise _Rejected(f"clock: stamps jumped back {clock_jumps} times")
        if self.contract.step == "command":
            return  # steps take as long as they take
        gaps = np.diff(self._stamps)
        wide = np.flatnonzero(gaps > _GAP * self.contract.dt_ns)
        if len(wide) and not self.options.allow_gaps:
            first = int(wide[0])
            raise _Rejected(
                f"gap: {len(wide)} of {count - 1} steps are further apart than {_GAP} periods; the first "
                f"after step {first}: {gaps[first] / 1e6:.0f} ms instead of "
                f"{self.contract.dt_ns / 1e6:.0f} ms"
            )

    def arrays(self) -> EpisodeArrays:
        """The episode's numbers."""
        sampled = sorted(stats.sample_frames(len(self._stamps)))
        return EpisodeArrays(
            state_LS=np.stack(self._states),
            action_LA=np.stack(self._actions),
            capture_ns_LK=np.array(self._captures, np.int64),
            instructions=tuple(self._instructions),
            histograms={n: np.sum([found[i] for i in sampled], axis=0) for n, found in self._thumbnails.items()},
        )


def _summary(writer: DatasetWriter, reports: list[BagReport]) -> ConversionReport:
    dropped: Counter[str] = Counter()
    for report in reports:
        if report.episode is not None:
            dropped.update(
                {
                    key.removeprefix("steps.dropped."): n
                    for key, n in report.counters.items()
                    if key.startswith("steps.dropped.")
                }
            )
    rejected = Counter(report.rejected.split(":")[0] for report in reports if report.rejected)
    return ConversionReport(
        path=str(writer.root),
        episodes=writer.episodes,
        steps=writer.frames,
        dropped=dict(dropped),
        rejected=dict(rejected),
        bags=tuple(reports),
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
