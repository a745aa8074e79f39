"""Bags → LeRobotDataset v3.0.

One bag is one episode. It is read twice: first the commands, then images and states through the same
:class:`ObservationPipeline` that a live policy uses; frames go straight into the encoder. Bags are
converted in parallel, by processes or on a Ray cluster, and committed in the order given, so the dataset does
not depend on the workers. An episode that cannot be converted whole is rejected with a reason, never patched.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract, Observation
from lavla_ros.observation import ObservationPipeline, camera_topic_choices
from lavla_ros.recording import BagError, BagReader, EpisodeInfo
from training.dataset import layout, stats
from training.dataset.labels import LabelTrack
from training.dataset.layout import DatasetError
from training.dataset.video import Codec, VideoWriter
from training.dataset.writer import DatasetWriter, EpisodeArrays, integer_fps
from training.scale import ScaleError, Workers, run_tasks

_GAP = 1.5
"""Two steps further apart than this many periods have lost one between them."""
STREAM_LAG_S = 5.0
"""How far one stream of a bag may be ahead of another: a recorder that falls behind writes topic after topic."""


class ConversionError(RuntimeError):
    """Nothing could be converted, or the conversion could not go on."""


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
    other_contracts: bool = False
    """Convert bags that were recorded under another contract, where topics and names fit."""
    codec: Codec = "libx264"

    def __post_init__(self) -> None:
        if self.min_steps < 1:
            raise ConversionError(f"min_steps is {self.min_steps}; expected at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BagReport:
    """What became of one bag."""

    bag: str
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
        lines += [f"  rejected {bag.bag}: {bag.rejected}" for bag in self.bags if bag.rejected]
        return "\n".join(lines)


class _Rejected(Exception):
    """An episode cannot be converted; the text begins with the kind of reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One bag, for a worker."""

    bag: Path
    staging: Path
    contract: Contract
    options: ConvertOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Converted:
    """What a worker hands back; the videos are in the staging folder."""

    report: BagReport
    arrays: EpisodeArrays | None
    videos: dict[str, Path]


def convert(
    bags: Sequence[Path],
    out: Path,
    contract: Contract,
    *,
    options: ConvertOptions | None = None,
    jobs: int | None = None,
    ray: str | None = None,
    progress: Callable[[BagReport], None] | None = None,
) -> ConversionReport:
    """Convert ``bags`` (one episode each, in this order) into the new dataset ``out``.

    ``jobs`` processes work (default: one per core), on this machine or on the Ray cluster at address ``ray``,
    whose machines see ``bags`` and ``out`` under the same paths; ``progress`` is called after each bag, in order.
    A bag whose worker dies is begun again, and rejected when it dies every time. Raises ConversionError when
    ``out`` is not empty, no bag is left after rejection (every reason is named), or the workers can't be had.
    """
    options = options or ConvertOptions()
    if not bags:
        raise ConversionError("no bags to convert")
    try:
        workers = Workers(jobs=jobs, ray=ray)
    except ScaleError as error:
        raise ConversionError(str(error)) from None
    try:
        writer = DatasetWriter(Path(out), contract, codec=options.codec)
        reports: list[BagReport] = []
        staging = writer.root.absolute() / layout.STAGING
        tasks = [
            _Task(bag=bag.absolute() if ray else bag, staging=staging / f"{i:06d}", contract=contract, options=options)
            for i, bag in enumerate(bags)
        ]
        results = run_tasks(tasks, _convert_task, workers, name=lambda task: str(task.bag), give_up=_died)
        with closing(results):  # an error below ends the workers at once
            for converted in results:
                report = converted.report
                if converted.arrays is not None:
                    episode = writer.append(converted.arrays, converted.videos)
                    report = BagReport(**{**_fields(report), "episode": episode})
                reports.append(report)
                if progress is not None:
                    progress(report)
        summary = _summary(writer, reports)
        if not writer.episodes:
            _remove_empty(writer.root)
            raise ConversionError(f"none of {len(bags)} bags could be converted:\n{summary}")
        layout.write_json(
            writer.root / layout.CONVERSION,
            {**asdict(summary), "contract_hash": contract.hash, "options": asdict(options)},
        )
        writer.finish()
    except ScaleError as error:  # the cluster could not be reached
        if not writer.episodes:
            _remove_empty(writer.root)
        raise ConversionError(str(error)) from error
    except DatasetError as error:
        raise ConversionError(str(error)) from error
    except OSError as error:
        raise ConversionError(
            f"writing {out} failed: {error}; episodes committed so far are kept, "
            "`lavla dataset repair` makes them a dataset"
        ) from error
    return summary


def _convert_task(task: _Task) -> _Converted:
    # a folder of its own: the worker that is believed to be lost may be writing still
    return convert_bag(task.bag, task.staging / f"{socket.gethostname()}-{os.getpid()}", task.contract, task.options)


def _died(task: _Task, reason: str) -> _Converted:
    return _rejected(task.bag, f"worker: {reason}; out of memory?", EpisodeInfo(outcome=""), Counter())


def convert_bag(bag: Path, staging: Path, contract: Contract, options: ConvertOptions) -> _Converted:
    """Convert one bag into arrays and staged videos, or say why not (report.rejected)."""
    counters: Counter[str] = Counter()
    episode = EpisodeInfo(outcome="")
    try:
        with BagReader(bag) as reader:
            episode = reader.episode()
            if episode.outcome not in options.outcomes:
                raise _Rejected(f"outcome: marked {episode.outcome!r}; converted are {list(options.outcomes)}")
            recorded = episode.metadata.get("contract_hash")
            if recorded is not None and recorded != contract.hash and not options.other_contracts:
                raise _Rejected(
                    f"contract: {bag} was recorded under contract {episode.metadata.get('contract')} "
                    f"({recorded}); this one is {contract.name} ({contract.hash}); allow other_contracts "
                    "where the difference does not matter"
                )
            arrays, videos = _convert_open(reader, episode.instruction, staging, contract, options, counters)
    except BagError as error:
        return _rejected(bag, f"bag: {error}", episode, counters)
    except _Rejected as error:
        return _rejected(bag, str(error), episode, counters)
    report = BagReport(
        bag=str(bag),
        episode=None,
        steps=arrays.length,
        outcome=episode.outcome,
        scene={**episode.scene, "instruction": episode.instruction} if episode.scene else {},
        counters=dict(counters),
    )
    return _Converted(report=report, arrays=arrays, videos=videos)


def _rejected(bag: Path, reason: str, episode: EpisodeInfo, counters: Counter[str]) -> _Converted:
    report = BagReport(
        bag=str(bag),
        episode=None,
        steps=0,
        rejected=reason,
        outcome=episode.outcome,
        scene=episode.scene,
        counters=dict(counters),
    )
    return _Converted(report=report, arrays=None, videos={})


def _convert_open(
    reader: BagReader,
    instruction: str,
    staging: Path,
    contract: Contract,
    options: ConvertOptions,
    counters: Counter[str],
) -> tuple[EpisodeArrays, dict[str, Path]]:
    topics = _camera_topics(reader, contract)
    track = LabelTrack(contract)
    reader.require_topics([contract.state.topic, track.topic])
    for message in reader.messages([track.topic]):
        track.add(reader.deserialize(message))
    pipeline = ObservationPipeline(
        contract,
        camera_topics=topics,
        instruction=instruction or options.instruction or None,
        wait_s=STREAM_LAG_S,
    )
    steps = _Steps(contract, staging, options, track)
    try:
        with steps:
            for message in reader.messages(pipeline.topics):
                pipeline.add(message.topic, reader.deserialize(message), message.stamp_ns)
                for observation in pipeline.pop():
                    steps.take(observation)
            for observation in pipeline.flush():
                steps.take(observation)
            counters.update(pipeline.counters)
            counters.update(track.counters)
            counters.update(steps.counters)
            steps.require_whole(pipeline.counters["clock_jumps"])
    except _Rejected as error:
        dropped = {k.removeprefix("steps.dropped."): v for k, v in counters.items() if k.startswith("steps.dropped.")}
        raise _Rejected(f"{error} (bag {reader.path}{f'; dropped {dropped}' if dropped else ''})") from None
    return steps.arrays(), steps.videos


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

    def require_whole(self, clock_jumps: int) -> None:
        """Raise _Rejected for an episode that is too short or has lost steps."""
        count = len(self._stamps)
        if count < self.options.min_steps:
            raise _Rejected(f"short: {count} steps; at least {self.options.min_steps} are needed")
        if clock_jumps:
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


def _fields(report: BagReport) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(report)))  # type: ignore[no-any-return]


def _remove_empty(root: Path) -> None:
    """Take away the skeleton of a dataset that got no episode."""
    for name in (layout.INFO, layout.CONTRACT, layout.CONVERSION):
        (root / name).unlink(missing_ok=True)
    for folder in sorted((p for p in root.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    if root.is_dir() and not any(root.iterdir()):
        root.rmdir()
