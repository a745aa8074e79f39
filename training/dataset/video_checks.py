"""Do the videos of a dataset show what they should? Every frame is decoded.

About 0.5 ms of one core per frame at 224×224, and one thread per core: a dataset of 100,000 steps and two cameras
takes a minute on two cores.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.dataset import stats
from training.dataset.findings import Findings
from training.dataset.layout import DatasetError
from training.dataset.number_checks import Dim, EpisodeNumbers, first_and_count, moving_speed, still_runs
from training.dataset.video import scan

_CELL = 8
"""Pixels of a side of the cells whose mean brightness is compared: coding noise averages out."""
_STILL = 4.0
"""Largest change of any cell, in levels of 255, of a picture that does not change: coding alone makes 3. What moves in
view makes 10 and more."""
_STILL_S, _STILL_STEPS = 1.0, 8
_MOVED = 0.15
"""So much of what a dimension spans in the dataset must be covered while a picture stands still."""
_DARK, _BRIGHT = 24.0, 225.0
_BAD_SHARE, _BAD_S, _BAD_STEPS = 0.2, 0.5, 5
_LAG_S, _LAG_STEPS = 1.0, 2
_OWN_TOLERANCE, _FOREIGN_TOLERANCE = 0.015, 0.05
"""Largest difference of image means and deviations, of 1 …"""
_SMALL = 0.8
"""… and this over the shorter side in pixels: colours are coded at half the size, which shows at edges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The part of a video file that is one episode's."""

    episode: int
    first: int
    length: int
    stats: Mapping[str, Any] = field(default_factory=dict)
    """mean, std and count of this camera in the episode's own row, if it has them."""


@dataclass(slots=True)
class Seen:
    """What one camera showed in one episode of L steps."""

    dark: NDArray[np.bool_]
    bright: NDArray[np.bool_]
    like_before: NDArray[np.bool_]
    """(L - 1,) step i + 1 looks as the step at which the picture began to stand still."""
    change: NDArray[np.float64]
    """(L - 1,) mean change of brightness."""
    start: NDArray[np.float64]
    """(8, 8, 3) the first picture, tiny."""
    mean: NDArray[np.float64] | None
    std: NDArray[np.float64] | None
    """(3,) of the frames that the statistics were made of, in [0, 1]."""
    side: int
    """The shorter side of the pictures, pixels."""


def check_pictures(
    cameras: Mapping[str, Mapping[Path, Sequence[Segment]]],
    numbers: Mapping[int, EpisodeNumbers],
    state_dims: Sequence[Dim],
    *,
    root: Path,
    fps: float,
    own: bool,
    findings: Findings,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Add what is wrong with the videos. ``cameras``: name → file → which episodes lie where in it."""
    tasks = [(camera, file, segments) for camera, files in cameras.items() for file, segments in files.items()]
    seen: dict[str, dict[int, Seen]] = {camera: {} for camera in cameras}
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1, thread_name_prefix="decode") as pool:
        results = pool.map(lambda task: _look(task[1], task[2], fps), tasks)
        for done, ((camera, _, segments), (found, error)) in enumerate(zip(tasks, results, strict=True)):
            seen[camera] |= found
            if error:
                episode = next((s.episode for s in segments if s.episode not in found), None)
                findings.error("video", error.replace(f"{root}/", ""), episode)
            progress(done + 1, len(tasks))
    states = [e.state_LS for e in numbers.values() if len(e.state_LS)]
    spans = np.ptp(np.concatenate(states), axis=0) if states else np.zeros(len(state_dims))
    own_stats = {camera: {s.episode: s.stats for f in files.values() for s in f} for camera, files in cameras.items()}
    for camera, episodes in seen.items():
        speeds = {
            index: moving_speed(camera, numbers[index], state_dims, spans)
            for index in sorted(episodes)
            if index in numbers and len(numbers[index].state_LS) == len(episodes[index].dark)
        }
        checks = _CameraChecks(camera, episodes, {i: v for i, v in speeds.items() if v is not None}, fps, findings)
        checks.lit()
        checks.fits_statistics(own_stats[camera], own)
        checks.frozen()
        checks.lag()
    _exchanged(seen, findings)


def _look(file: Path, segments: Sequence[Segment], fps: float) -> tuple[dict[int, Seen], str]:
    """What the episodes in one file show, as far as it can be decoded; and what stopped it."""
    found: dict[int, Seen] = {}
    waiting = sorted(segments, key=lambda s: s.first)
    current: _Look | None = None
    try:
        for number, frame in enumerate(scan(file, fps)):
            if current is None and waiting and number >= waiting[0].first:
                current = _Look(waiting.pop(0))
            if current is not None:
                current.take(frame, number - current.segment.first)
                if current.done:
                    found[current.segment.episode] = current.seen()
                    current = None
    except DatasetError as error:
        return found, str(error)
    return found, ""


class _Look:
    """Looks at the frames of one episode, one after another."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        count = int(np.ravel(segment.stats.get("count", 0))[0])
        length = segment.length
        self._sampled = set(np.round(np.linspace(0, length - 1, min(count, length))).astype(int).tolist())
        self._histogram = np.zeros((3, 256), np.int64)
        self._cells: list[tuple[bool, bool]] = []
        self._like: list[bool] = []
        self._change: list[float] = []
        self._reference: NDArray[np.float32] | None = None
        self._before: NDArray[np.float32] | None = None
        self._start: NDArray[np.float64] | None = None
        self._side = 1

    @property
    def done(self) -> bool:
        return len(self._cells) == self.segment.length

    def take(self, frame: Any, step: int) -> None:
        cells = _brightness(frame)
        self._side = min(frame.height, frame.width)
        self._cells.append((bool((cells < _DARK).mean() >= 0.99), bool((cells > _BRIGHT).mean() >= 0.9)))
        if self._before is not None and self._reference is not None:
            like = bool(np.abs(cells - self._reference).max() < _STILL)
            self._like.append(like)
            self._change.append(float(np.abs(cells - self._before).mean()))
            if not like:
                self._reference = cells
        else:
            self._reference = cells
        self._before = cells
        if step == 0 or step in self._sampled:
            image = frame.to_ndarray(format="rgb24")
            if step == 0:
                self._start = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float64)
            if step in self._sampled:
                self._histogram += stats.image_histogram(image)

    def seen(self) -> Seen:
        assert self._start is not None
        found = stats.from_histogram(self._histogram, len(self._sampled)) if self._sampled else None
        dark, bright = np.array(self._cells, bool).T
        return Seen(
            dark=dark,
            bright=bright,
            like_before=np.array(self._like, bool),
            change=np.array(self._change),
            start=self._start,
            mean=None if found is None else found["mean"].ravel(),
            std=None if found is None else found["std"].ravel(),
            side=self._side,
        )


def _brightness(frame: Any) -> NDArray[np.float32]:
    """Mean brightness (0 to 255) of cells of a frame; what does not fill a cell at the edges is left out."""
    if frame.format.name == "yuv420p":  # its first plane, without a copy
        plane = frame.planes[0]
        grey = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)[:, : frame.width]
    else:
        grey = frame.to_ndarray(format="gray")
    rows, columns = max(frame.height // _CELL, 1), max(frame.width // _CELL, 1)
    whole = grey[: rows * _CELL, : columns * _CELL]
    # an exact mean: the sizes are multiples
    return np.asarray(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)


class _CameraChecks:
    """What one camera shows in all episodes."""

    def __init__(
        self,
        camera: str,
        episodes: Mapping[int, Seen],
        speeds: Mapping[int, NDArray[np.float64]],
        fps: float,
        findings: Findings,
    ) -> None:
        """``speeds``: episode → :func:`moving_speed`, by number, of those in which the state moves."""
        self._camera, self._episodes, self._speeds = camera, dict(sorted(episodes.items())), speeds
        self._fps, self._findings = fps, findings

    def lit(self) -> None:
        for index, seen in self._episodes.items():
            for what, mask in (("black", seen.dark), ("over-exposed", seen.bright)):
                if not mask.any():
                    continue
                first, count = first_and_count(mask)
                where = f"in {count} of {len(mask)} frames, first at step {first}"
                long = still_runs(mask[1:] & mask[:-1], max(_BAD_STEPS, round(_BAD_S * self._fps)))
                add = self._findings.error if long or mask.mean() > _BAD_SHARE else self._findings.warning
                add(what, f"camera {self._camera!r} is {what} {where}", index)

    def fits_statistics(self, stated: Mapping[int, Mapping[str, Any]], own: bool) -> None:
        """The statistics of an episode were made of its pictures: others' pictures have others."""
        tolerance = _OWN_TOLERANCE if own else _FOREIGN_TOLERANCE
        for index, seen in self._episodes.items():
            row = stated.get(index, {})
            if seen.mean is None or seen.std is None or not {"mean", "std"} <= set(row):
                continue
            wanted = np.concatenate([np.ravel(row["mean"]), np.ravel(row["std"])])
            found = np.concatenate([seen.mean, seen.std])
            if wanted.shape != found.shape:
                continue
            difference = float(np.abs(wanted - found).max())
            if difference > tolerance + _SMALL / seen.side:
                text = (
                    f"camera {self._camera!r}: the pictures are not those that the episode's statistics were made of "
                    f"(mean or deviation differ by {difference:.3f}): the video of another episode or camera?"
                )
                (self._findings.error if own else self._findings.warning)("other video", text, index)

    def frozen(self) -> None:
        wanted = max(_STILL_STEPS, round(_STILL_S * self._fps))
        for index, speed in self._speeds.items():
            seen = self._episodes[index]
            length = len(seen.dark)
            for first, last in still_runs(seen.like_before, min(wanted, max(length, 3))):
                if seen.dark[first:last].all() or seen.bright[first:last].all():
                    continue  # told as such
                if speed[first : last - 1].sum() > _MOVED:
                    where = "all its" if last - first == length else f"steps {first} to {last - 1} of its"
                    text = f"camera {self._camera!r} shows one picture in {where} {length} steps while the robot moves"
                    self._findings.error("frozen", text, index)
                    break

    def lag(self) -> None:
        """By how many steps do the changes in the picture come after those of the state?"""
        reach = max(_LAG_STEPS + 1, round(_LAG_S * self._fps))
        steps, scores = [], []
        for index, speed in self._speeds.items():
            moved, changed = _centred(np.sqrt(speed)), _centred(np.sqrt(self._episodes[index].change))
            if len(speed) <= 3 * reach or moved is None or changed is None:
                continue
            steps.append(float(len(speed)))
            scores.append(np.array([_overlap(moved, changed, shift) for shift in range(-reach, reach + 1)]))
            self._tell_lag(scores[-1], 0.6, 0.3, index)
        if sum(steps) >= 100:
            self._tell_lag(np.average(np.stack(scores), axis=0, weights=steps), 0.4, 0.15, None)

    def _tell_lag(self, scores: NDArray[np.float64], least: float, gain: float, episode: int | None) -> None:
        """``scores``: correlation at each shift, the middle one without any."""
        best, reach = int(scores.argmax()), len(scores) // 2
        lag = best - reach
        if abs(lag) >= _LAG_STEPS and scores[best] > least and scores[best] - scores[reach] > gain:
            self._findings.warning(
                "lag",
                f"what camera {self._camera!r} shows seems to be {abs(lag) / self._fps:.2f} s ({abs(lag)} steps) "
                f"{'behind' if lag > 0 else 'ahead of'} the state (correlation of their changes {scores[best]:.2f}, "
                f"without the shift {scores[reach]:.2f})",
                episode,
            )


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    values = values - values.mean()
    spread = float(values.std())
    return None if spread < 1e-9 else values / spread


def _overlap(moved: NDArray[np.float64], changed: NDArray[np.float64], shift: int) -> float:
    if shift >= 0:
        return float((moved[: len(moved) - shift] * changed[shift:]).mean())
    return float((moved[-shift:] * changed[:shift]).mean())


def _exchanged(seen: Mapping[str, Mapping[int, Seen]], findings: Findings) -> None:
    """Episodes whose cameras look as each other's do elsewhere. Cannot be seen where all episodes are alike."""
    for a, b in itertools.combinations(sorted(seen), 2):
        both = sorted(set(seen[a]) & set(seen[b]))
        if len(both) < 4:
            continue
        usual_a = np.median([seen[a][i].start for i in both], axis=0)
        usual_b = np.median([seen[b][i].start for i in both], axis=0)
        for i in both:
            x, y = seen[a][i].start, seen[b][i].start
            as_named = np.abs(x - usual_a).mean() + np.abs(y - usual_b).mean()
            exchanged = np.abs(x - usual_b).mean() + np.abs(y - usual_a).mean()
            if exchanged < 0.5 * as_named and as_named > 8:
                findings.warning("exchanged", f"cameras {a!r} and {b!r} look exchanged", i)
