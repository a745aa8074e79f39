"""Episodes of files and datasets: a table of numbers, and pictures without capture times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import CameraSpec, Contract, Dimension
from lavla_ros.observation import ImageError, prepare_image
from lavla_ros.observation.images import enlarged
from training.dataset import DatasetError, layout
from training.ingest.build import EpisodeReport, Kind, Rejected, Step

_SLACK = 1e-6
"""Commands may exceed the contract's bounds by this much: rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The numbers of one episode of L steps, in the contract's order and units."""

    states_LS: NDArray[np.float32]
    actions_LA: NDArray[np.float32]
    """What was commanded at each step."""
    instructions: tuple[str, ...]
    """One per step."""
    phrasings: tuple[str, ...] = ()
    """Ways to say the one instruction of all steps, beginning with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A source whose pictures were stored at some size.

    They are not enlarged unless that is asked for: the policy would learn from blurred ones, and see sharp ones when it
    runs.
    """

    enlarge: bool = False
    """Whether pictures smaller than the contract's are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Stored, ABC):
    """A source of one episode, as an EpisodeSource: a subclass says where it is, its numbers and its pictures.

    Pictures are prepared as a live camera's are: crop and size are the contract's. How far they are turned the source
    says, because many hold pictures that were turned before.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Where the episode is; no other source has this name."""

    @abstractmethod
    def numbers(self, contract: Contract) -> Numbers:
        """Raises Rejected, OSError, KeyError or ValueError for an unusable episode."""

    @abstractmethod
    def frames(self, camera: str) -> Iterator[NDArray[np.uint8]]:
        """(H, W, 3) RGB of a camera of the contract at every step, as the source has it; raises as ``numbers``."""

    def prepared_as(self, spec: CameraSpec) -> CameraSpec:
        """How frames of a contract's camera are prepared: rotated by what these pictures still need."""
        return spec

    def episodes(self, contract: Contract) -> Iterator[TableEpisode]:
        yield TableEpisode(self, contract)


@dataclass(frozen=True, slots=True)
class TableEpisode:
    """A Table that is being read."""

    source: Table
    contract: Contract
    part: int = 0
    """Which episode of a file it is, from 1; 0 if it is the only one."""

    def describe(self, report: EpisodeReport) -> EpisodeReport:
        return report

    def steps(self) -> Iterator[Step]:
        try:
            numbers = self.source.numbers(self.contract)
            _check(numbers, self.contract)
            yield from self._steps(numbers)
        except (ImageError, DatasetError) as error:
            raise Rejected(Kind.IMAGE, str(error)) from error
        except (OSError, KeyError, ValueError) as error:
            raise Rejected(Kind.DAMAGED, f"{type(error).__name__}: {error}") from error

    def _steps(self, numbers: Numbers) -> Iterator[Step]:
        count, streams = len(numbers.instructions), len(layout.stream_names(self.contract))
        cameras = {
            spec.name: (self.source.prepared_as(spec), self.source.frames(spec.name)) for spec in self.contract.cameras
        }
        for step in range(count):
            images = {}
            for name, (spec, frames) in cameras.items():
                image = next(frames, None)
                if image is None:
                    raise Rejected(Kind.FRAMES, f"camera {name!r} has {step} frames for {count} steps")
                if not self.source.enlarge and (how := enlarged(image, spec)):
                    raise Rejected(
                        Kind.IMAGE,
                        f"camera {name!r}: the pictures would be enlarged from {how}, and be blurred. Draw or record "
                        "them at the contract's size (docs/training.md), choose a contract with smaller ones, or take "
                        "them as they are with --enlarge",
                    )
                images[name] = np.ascontiguousarray(prepare_image(image, spec))
            yield Step(
                state=numbers.states_LS[step],
                action=numbers.actions_LA[step],
                instruction=numbers.instructions[step],
                phrasings=numbers.phrasings,
                images=images,
                capture_ns=(step * self.contract.dt_ns,) * streams,  # the true times are unknown: the nominal ones
            )
        for name, (_, frames) in cameras.items():
            if next(frames, None) is not None:
                raise Rejected(Kind.FRAMES, f"camera {name!r} has more frames for {count} steps")


def columns_by_name(
    dims: Sequence[Dimension], available: Mapping[str, NDArray[np.float64]], what: str
) -> NDArray[np.float32]:
    """(L, len(dims)) from named columns (L,) of a source. Raises Rejected naming what it lacks."""
    missing = [d.name for d in dims if d.name not in available]
    if missing:
        raise Rejected(
            Kind.CONTRACT,
            f"the source has no {what} {missing}; it has {sorted(available)}. Names are matched, not places",
        )
    return np.stack([available[d.name] for d in dims], axis=1).astype(np.float32)


def _check(numbers: Numbers, contract: Contract) -> None:
    """Raise Rejected for an empty episode, a shape, a value or an instruction that cannot be used."""
    count = len(numbers.instructions)
    if count < 1:
        raise Rejected(Kind.SHORT, "the episode has no step")
    for what, values, dims in (
        ("state", numbers.states_LS, contract.state.fields),
        ("action", numbers.actions_LA, contract.action.dims),
    ):
        if values.shape != (count, len(dims)):
            raise Rejected(Kind.SHAPE, f"{what} is {values.shape}; expected {(count, len(dims))}")
        if not np.isfinite(values).all():
            step, column = np.argwhere(~np.isfinite(values))[0]
            raise Rejected(Kind.FINITE, f"{what} {dims[column].name!r} is {values[step, column]} at step {step}")
    for column, dim in enumerate(contract.action.dims):
        values = numbers.actions_LA[:, column]
        out = np.flatnonzero((values < dim.low - _SLACK) | (values > dim.high + _SLACK))
        if len(out):
            raise Rejected(
                Kind.RANGE,
                f"action {dim.name!r} is {values[out[0]]:g} at step {out[0]}; the contract has "
                f"[{dim.low:g}, {dim.high:g}]",
            )
    if not all(text.strip() for text in numbers.instructions):
        raise Rejected(Kind.INSTRUCTION, "there is none; give one with --instruction")
