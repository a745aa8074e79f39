"""One episode of a bag or a dataset, as it is shown: steps in order, and the chunks that were sent meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract, load_contract
from lavla_ros.errors import UserError
from lavla_ros.pieces import stamp_ns
from lavla_ros.recording import BagError, BagReader, EpisodeInfo
from lavla_ros.recording.types import CHUNK_TOPICS, CHUNK_TYPE
from lavla_ros.typing import NS_PER_S
from training.dataset import DatasetError, EpisodeDataset, layout
from training.dataset.video import VideoReader
from training.ingest.bag import Bags, BagSource
from training.ingest.build import Rejected


class ViewError(UserError, ValueError):
    """What is to be shown is not there, or cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One step."""

    stamp_ns: int
    """Of its observation; in a dataset, which has no clock, since the episode's beginning."""
    images: Mapping[str, NDArray[np.uint8]]
    """Camera → (H, W, 3) RGB."""
    state: NDArray[np.float32]
    """(S,)"""
    action: NDArray[np.float32]
    """(A,) what was commanded for the time ``dt`` after the observation."""
    person: bool
    """A person commanded it, not a policy."""
    instruction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SentChunk:
    """Actions that a policy or a person planned."""

    stamp_ns: int
    """Of the observation that it was made from."""
    due_ns: NDArray[np.int64]
    """(H,) when each action is to be completed."""
    actions_HA: NDArray[np.float64]
    sender: str
    """policy or person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownEpisode:
    """What is shown of an episode."""

    name: str
    contract: Contract
    moments: Iterator[Moment]
    """Can be read once. Raises ViewError where the recording cannot be used; what came before it was good."""
    outcome: str = ""
    """Empty: nothing says how it ended."""
    chunks: tuple[SentChunk, ...] = ()
    topics: frozenset[str] = frozenset()
    """Those with messages, of a bag."""


def open_episode(source: Path, number: int = 0, contract: str | None = None) -> ShownEpisode:
    """Episode ``number``, from 0, of a bag or a dataset.

    ``contract``: name or file; without it, the one that the source has. Raises ViewError, ContractError.
    """
    try:
        if (source / layout.INFO).exists():
            return _of_dataset(source, number, contract)
        return _of_bag(source, number, contract)
    except (BagError, DatasetError) as error:
        raise ViewError(str(error)) from error


def _of_dataset(root: Path, number: int, named: str | None) -> ShownEpisode:
    if named is None and not (root / layout.CONTRACT).exists():
        raise ViewError(f"{root} has no {layout.CONTRACT}; say which it has with --contract")
    contract = load_contract(named or str(root / layout.CONTRACT))
    dataset = EpisodeDataset(root, contract)
    _require(root, number, len(dataset.episodes))
    return ShownEpisode(
        name=f"{root.name}, episode {number}",
        contract=contract,
        moments=_rows(dataset, number),
    )


def _rows(dataset: EpisodeDataset, number: int) -> Iterator[Moment]:
    episode, persons = dataset.episodes[number], dataset.interventions
    with ExitStack() as open_videos:
        frames = {}
        for name, (file, first) in episode.videos.items():
            video = open_videos.enter_context(closing(VideoReader(file, dataset.fps)))
            frames[name] = video.frames(first, episode.length)
        for step in range(episode.length):
            row = episode.first + step
            yield Moment(
                stamp_ns=step * dataset.contract.dt_ns,
                images={name: next(pictures) for name, pictures in frames.items()},
                state=dataset.states[row],
                action=dataset.actions[row],
                person=persons is not None and bool(persons[row]),
                instruction=dataset.instruction(row),
            )


def _of_bag(path: Path, number: int, named: str | None) -> ShownEpisode:
    with BagReader(path) as reader:
        episodes = reader.episodes()
        _require(path, number, len(episodes))
        info = episodes[number]
        contract = load_contract(named) if named is not None else _recorded(path, info)
        chunks = tuple(_chunks(reader, contract, info))
        recorded = frozenset(topic for topic, count in reader.counts.items() if count)
    # whatever can be shown is shown: a failure, one with gaps, or one of a contract that is not the recorded one
    options = Bags(outcomes=(info.outcome,), min_steps=1, allow_gaps=True, allow_contract_differences=named is not None)
    return ShownEpisode(
        name=path.name if len(episodes) == 1 else f"{path.name}, episode {number}",
        contract=contract,
        moments=_steps(BagSource(path=path.absolute(), options=options), number, contract),
        outcome=info.outcome,
        chunks=chunks,
        topics=recorded,
    )


def _recorded(path: Path, info: EpisodeInfo) -> Contract:
    if (told := info.metadata.get("contract_definition")) is None:
        raise ViewError(f"{path} does not have the contract that it was recorded under; say it with --contract")
    return Contract.from_dict(told, source=f"contract_definition of {path}")


def _steps(source: BagSource, number: int, contract: Contract) -> Iterator[Moment]:
    reference = layout.stream_names(contract).index(contract.alignment.reference)
    try:
        for part, episode in enumerate(source.episodes(contract)):
            if part == number:
                for step in episode.steps():
                    yield Moment(
                        stamp_ns=int(step.capture_ns[reference]),
                        images=step.images,
                        state=step.state,
                        action=step.action,
                        person=step.intervention,
                        instruction=step.instruction,
                    )
                return
    except Rejected as error:
        raise ViewError(f"{source.name}: {error}") from error


def _chunks(reader: BagReader, contract: Contract, info: EpisodeInfo) -> Iterator[SentChunk]:
    """Those of the contract's actions; what a chunk lacks or has besides is not this arm's."""
    sent = [topic for topic in CHUNK_TOPICS if reader.counts.get(topic, 0)]
    reader.require_types(dict.fromkeys(sent, (CHUNK_TYPE,)))
    for message in reader.messages(sent, start_ns=info.start_ns, end_ns=info.end_ns):
        chunk: Any = reader.deserialize(message)
        names, stamp = list(chunk.joint_names), stamp_ns(chunk)
        if sorted(names) != sorted(contract.action.names) or not chunk.points:
            continue
        order = [names.index(name) for name in contract.action.names]
        after = [point.time_from_start for point in chunk.points]
        yield SentChunk(
            stamp_ns=stamp,
            due_ns=stamp + np.array([time.sec * NS_PER_S + time.nanosec for time in after], np.int64),
            actions_HA=np.array([point.positions for point in chunk.points], np.float64)[:, order],
            sender=CHUNK_TOPICS[message.topic],
        )


def _require(source: Path, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise ViewError(f"{source} has the episodes 0 to {count - 1}, not {number}")
