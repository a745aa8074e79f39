"""What all importers share: episodes of any source → checked, encoded and committed one by one.

An importer gives a list of :class:`EpisodeSource`, small picklable references. Each is read by a process of its own,
frame by frame through the same image preparation as a live camera's (crop and size are the contract's; how far they
are turned, the source says, because many sources hold pictures that were turned before), and
committed in order, so memory is bounded by an episode's numbers and a few frames, and the dataset does not depend on
the number of processes. An episode that does not fit is rejected whole, with its reason.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import CameraSpec, Contract, Dimension
from lavla_ros.errors import UserError
from lavla_ros.observation import ImageError, prepare_image
from training.dataset import DatasetError, layout, stats
from training.dataset.first_frames import write_first_frames
from training.dataset.video import Codec, VideoWriter
from training.dataset.writer import DatasetWriter, EpisodeArrays, integer_fps
from training.scale import Workers, run_tasks

_SLACK = 1e-6
"""Commands may exceed the contract's bounds by this much: rounding."""


class ImportFailed(UserError, RuntimeError):
    """Nothing could be imported, or the source is not what it should be."""


class EpisodeRejected(ValueError):
    """One episode cannot be used; the text begins with the kind of reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The numbers of one episode of L steps, in the contract's order and units."""

    states_LS: NDArray[np.float32]
    actions_LA: NDArray[np.float32]
    """What was commanded at each step."""
    instructions: tuple[str, ...]
    """One per step."""


class EpisodeSource(Protocol):
    """One episode somewhere else. Picklable: it is read in another process."""

    @property
    def name(self) -> str:
        """Where it is, for people."""
        ...

    def numbers(self, contract: Contract) -> Numbers:
        """Raises EpisodeRejected, OSError, KeyError or ValueError for an unusable episode."""
        ...

    def frames(self, camera: str) -> Iterator[NDArray[np.uint8]]:
        """(H, W, 3) RGB of a camera of the contract at every step, as the source has it."""
        ...

    def prepared_as(self, spec: CameraSpec) -> CameraSpec:
        """How frames of a contract's camera are prepared: rotated by what these pictures still need."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeReport:
    """What became of one episode."""

    name: str
    episode: int | None
    """Its index; None where it was rejected."""
    steps: int
    rejected: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What became of all episodes; also in ``meta/conversion.json``."""

    path: str
    episodes: int
    steps: int
    rejected: dict[str, int]
    """Kind of reason → episodes."""
    sources: tuple[EpisodeReport, ...]
    first_frames: str
    """Picture of how the cameras stand, for a person to look at."""

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.episodes} episodes, {self.steps} steps"]
        if self.episodes:
            lines.append(f"  look at {self.first_frames}: every picture must stand as the policy is to see it")
        return "\n".join(lines + [f"  rejected {s.name}: {s.rejected}" for s in self.sources if s.rejected])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One episode to read, with everything that a worker needs."""

    source: EpisodeSource
    staging: Path
    contract: Contract
    codec: Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What a worker hands back; the videos are in the staging folder."""

    report: EpisodeReport
    arrays: EpisodeArrays | None
    videos: dict[str, Path]


def import_episodes(
    sources: Sequence[EpisodeSource],
    out: Path,
    contract: Contract,
    *,
    workers: Workers | None = None,
    codec: Codec = "libx264",
    progress: Callable[[EpisodeReport], None] | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> ImportReport:
    """Write the episodes, in this order, into the new dataset ``out``; ``progress`` is called after each.

    An episode whose worker dies again and again is rejected. Raises ImportFailed when ``out`` is not empty or no
    episode is left (every reason is named), ScaleError when the workers are not to be had.
    """
    if not sources:
        raise ImportFailed("there are no episodes to import")
    writer: DatasetWriter | None = None
    try:
        writer = DatasetWriter(out, contract, codec=codec)
        reports: list[EpisodeReport] = []
        staging = writer.root / layout.STAGING
        tasks = [
            _Task(source=source, staging=staging / f"{i:06d}", contract=contract, codec=codec)
            for i, source in enumerate(sources)
        ]
        for read in run_tasks(
            tasks,
            read_episode,
            workers,
            name=lambda task: task.source.name,
            give_up=lambda task, reason: _rejected(task, f"worker: {reason}"),
            log=log,
        ):
            report = read.report
            if read.arrays is not None:
                report = replace(report, episode=writer.append(read.arrays, read.videos))
            reports.append(report)
            if progress is not None:
                progress(report)
        summary = ImportReport(
            path=str(out),
            episodes=writer.episodes,
            steps=writer.frames,
            rejected=dict(Counter(r.rejected.split(":")[0] for r in reports if r.rejected)),
            sources=tuple(reports),
            first_frames=str(out / layout.FIRST_FRAMES),
        )
        if not writer.episodes:
            shutil.rmtree(out)  # a skeleton, made here
            raise ImportFailed(f"none of {len(sources)} episodes could be imported:\n{summary}")
        layout.write_json(out / layout.CONVERSION, {**asdict(summary), "contract_hash": contract.hash})
        writer.finish()
        write_first_frames(out)
    except (DatasetError, OSError) as error:
        raise ImportFailed(str(error)) from error
    finally:
        if writer is not None:
            writer.close()
    return summary


def columns_by_name(
    dims: Sequence[Dimension], available: dict[str, NDArray[np.float64]], what: str
) -> NDArray[np.float32]:
    """(L, len(dims)) from named columns (L,) of a source. Raises EpisodeRejected naming what it lacks."""
    missing = [d.name for d in dims if d.name not in available]
    if missing:
        raise EpisodeRejected(
            f"contract: the source has no {what} {missing}; it has {sorted(available)}. Names are matched, not places"
        )
    return np.stack([available[d.name] for d in dims], axis=1).astype(np.float32)


def read_episode(task: _Task) -> _Read:
    """Read one episode into arrays and staged videos, or say why not (report.rejected)."""
    source, contract = task.source, task.contract
    try:
        numbers = source.numbers(contract)
        _check(numbers, contract)
        videos = {name: task.staging / f"{name}.mp4" for name in contract.camera_names}
        histograms = _encode(source, videos, len(numbers.instructions), contract, task.codec)
    except EpisodeRejected as error:
        return _rejected(task, str(error))
    except (ImageError, DatasetError) as error:
        return _rejected(task, f"image: {error}")
    except (OSError, KeyError, ValueError) as error:
        return _rejected(task, f"damaged: {type(error).__name__}: {error}")
    stamps = np.arange(len(numbers.instructions), dtype=np.int64) * contract.dt_ns
    arrays = EpisodeArrays(
        state_LS=numbers.states_LS,
        action_LA=numbers.actions_LA,
        # true capture times are unknown: the nominal ones
        capture_ns_LK=np.repeat(stamps[:, None], len(layout.stream_names(contract)), axis=1),
        instructions=numbers.instructions,
        histograms=histograms,
    )
    report = EpisodeReport(name=source.name, episode=None, steps=arrays.length)
    return _Read(report=report, arrays=arrays, videos=videos)


def _rejected(task: _Task, reason: str) -> _Read:
    return _Read(
        report=EpisodeReport(name=task.source.name, episode=None, steps=0, rejected=reason), arrays=None, videos={}
    )


def _check(numbers: Numbers, contract: Contract) -> None:
    """Raise EpisodeRejected for an empty episode, a shape, a value or an instruction that cannot be used."""
    count = len(numbers.instructions)
    if count < 1:
        raise EpisodeRejected("short: the episode has no step")
    for what, values, dims in (
        ("state", numbers.states_LS, contract.state.fields),
        ("action", numbers.actions_LA, contract.action.dims),
    ):
        if values.shape != (count, len(dims)):
            raise EpisodeRejected(f"shape: {what} is {values.shape}; expected {(count, len(dims))}")
        if not np.isfinite(values).all():
            step, column = np.argwhere(~np.isfinite(values))[0]
            raise EpisodeRejected(f"finite: {what} {dims[column].name!r} is {values[step, column]} at step {step}")
    for column, dim in enumerate(contract.action.dims):
        values = numbers.actions_LA[:, column]
        out = np.flatnonzero((values < dim.low - _SLACK) | (values > dim.high + _SLACK))
        if len(out):
            raise EpisodeRejected(
                f"range: action {dim.name!r} is {values[out[0]]:g} at step {out[0]}; the contract has "
                f"[{dim.low:g}, {dim.high:g}]"
            )
    if not all(text.strip() for text in numbers.instructions):
        raise EpisodeRejected("instruction: there is none; give one with --instruction")


def _encode(
    source: EpisodeSource, videos: dict[str, Path], count: int, contract: Contract, codec: Codec
) -> dict[str, NDArray[np.int64]]:
    """Write the videos; returns the image histograms for the statistics."""
    sampled = stats.sample_frames(count)
    histograms = {}
    for spec in contract.cameras:
        histogram = np.zeros((3, 256), np.int64)
        with ExitStack() as stack:
            writer = stack.enter_context(
                VideoWriter(
                    videos[spec.name], width=spec.width, height=spec.height, fps=integer_fps(contract), codec=codec
                )
            )
            for step, image in zip_longest(range(count), source.frames(spec.name)):
                if step is None or image is None:
                    found = "more" if step is None else str(step)
                    raise EpisodeRejected(f"frames: camera {spec.name!r} has {found} frames for {count} steps")
                prepared = np.ascontiguousarray(prepare_image(image, source.prepared_as(spec)))
                writer.write(prepared)
                if step in sampled:
                    histogram += stats.image_histogram(prepared)
        histograms[spec.name] = histogram
    return histograms
