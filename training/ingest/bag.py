"""Bags as a source of episodes.

A bag is one episode, or as many as marks on /episode/state part. It is read twice: first the commands, then images and
states through the same :class:`ObservationPipeline` that a live policy uses.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lavla_ros.contract import (
    ActionSpec,
    Contract,
    ContractError,
    Observation,
    StateSpec,
    recording_differences,
    shipped_contract,
)
from lavla_ros.episode import PERSON, EpisodeError, ExecutorReport
from lavla_ros.observation import ObservationPipeline
from lavla_ros.pieces import stamp_ns
from lavla_ros.recording import BagError, BagReader, EpisodeInfo, find_bags
from lavla_ros.recording.types import EPISODE_TYPE, EXECUTOR_TOPIC
from lavla_ros.typing import NS_PER_S
from training.bag_options import BagOptions
from training.dataset import layout
from training.dataset.labels import LabelTrack
from training.dataset.number_checks import lost_steps
from training.ingest.build import EpisodeReport, IngestError, Kind, Notice, Rejected, Rejection, Step
from training.ingest.diagnosis import (
    COMMAND,
    STATE,
    Clocks,
    first_cause,
    refusals,
    stream_names,
    unusable_numbers,
)

STREAM_LAG_S = 5.0
"""How far one stream of a bag may be ahead of another: a recorder that falls behind writes topic after topic."""
_AROUND_NS = NS_PER_S
"""What was logged so long before or after a marked episode may still be the sample nearest to one of its frames."""

_IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bags(BagOptions):
    """What to take from bags, and how."""

    default_contract: ClassVar[str | None] = None
    first_frames: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.min_steps < 1:
            raise IngestError(f"min_steps is {self.min_steps}; expected at least 1")

    def find(self, paths: Sequence[Path], contract: Contract) -> list[BagSource]:
        """Every bag at or below ``paths``, sorted. Raises BagError if there is none, IngestError for a stream in
        ``log_time`` that the contract does not have.
        """
        streams = [*contract.camera_names, *(spec.name for spec in contract.depth), STATE, COMMAND]
        if unknown := sorted(set(self.log_time) - set(streams)):
            raise IngestError(f"log_time names {unknown}; the streams are {streams}")
        return [BagSource(path=bag.absolute(), options=self) for bag in find_bags(paths)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BagSource:
    """One bag."""

    path: Path
    options: Bags

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def tells_commander(self) -> bool:
        """Whether the bag says who had the arm; one that cannot be read says nothing."""
        try:
            with BagReader(self.path) as reader:
                return bool(reader.counts.get(EXECUTOR_TOPIC, 0))
        except BagError:
            return False

    def episodes(self, contract: Contract) -> Iterator[_BagEpisode]:
        try:
            with BagReader(self.path) as reader:
                episodes = reader.episodes(self.options.marks_topic)
                for part, info in enumerate(episodes, 1 if len(episodes) > 1 else 0):
                    yield _BagEpisode(reader=reader, info=info, contract=contract, options=self.options, part=part)
        except BagError as error:
            raise Rejected(Kind.BAG, str(error)) from error


class _Hands:
    """When a person had the arm."""

    def __init__(self) -> None:
        self._since_ns: list[int] = []
        self._person: list[bool] = []

    def add(self, text: str, log_ns: int) -> None:
        """A report of the executor, in order of time. One of another system says nothing."""
        try:
            report = ExecutorReport.from_json(text)
        except EpisodeError:
            return
        self._since_ns.append(report.commander_since_ns or log_ns)
        self._person.append(report.commander == PERSON)

    def person_at(self, at_ns: int) -> bool:
        position = bisect_right(self._since_ns, at_ns) - 1
        return position >= 0 and self._person[position]


@dataclass(slots=True, kw_only=True)
class _BagEpisode:
    """One episode of an open bag."""

    reader: BagReader
    info: EpisodeInfo
    contract: Contract
    options: Bags
    part: int
    counters: Counter[str] = field(default_factory=Counter)
    clocks: Clocks = field(default_factory=Clocks)
    refused: tuple[Notice, ...] = ()
    """Numbers that could not be used, though the steps did without them."""
    whole: bool = False
    """Was it read to its end, and found good?"""

    def describe(self, report: EpisodeReport) -> EpisodeReport:
        scene = self.info.scene
        if self.whole:
            clocks = self.clocks.warnings(self.contract, self.options.log_time)
            report = replace(report, warnings=(*clocks, *self.refused))
            scene = {**scene, "instruction": self.info.instruction} if scene else {}
        return replace(
            report,
            outcome=self.info.outcome,
            scene=scene,
            counters=dict(self.counters),
            delay_ms=self.clocks.delay_ms(),
        )

    def steps(self) -> Iterator[Step]:
        if self.info.outcome not in self.options.outcomes:
            raise Rejected(Kind.OUTCOME, f"marked {self.info.outcome!r}; converted are {list(self.options.outcomes)}")
        recorded = _recorded_contract(self.reader.path, self.info, self.contract, self.options)
        if recorded is not None:
            self.contract = _wired(self.contract, recorded, self.reader)
        try:
            yield from self._steps()
        except BagError as error:
            raise Rejected(Kind.BAG, str(error)) from error
        self.whole = True

    def _steps(self) -> Iterator[Step]:
        topics, depth = self._camera_topics(), self._depth_topics()
        track = self._labels(topics | depth)
        pipeline = ObservationPipeline(
            self.contract,
            camera_topics=topics,
            depth_topics=depth,
            instruction=self._instruction_before() or self.info.instruction or self.options.instruction or None,
            wait_s=STREAM_LAG_S,
            log_clock=self.options.log_time,
        )
        hands = self._hands()
        unlabelled: Counter[str] = Counter()
        told = self.info.metadata.get("phrasings")
        stamps: list[int] = []
        try:
            for observation in self._observations(pipeline, topics | depth):
                label = track.at(observation.stamp_ns)
                if label is None:
                    unlabelled.update(("steps.dropped", "steps.dropped.no_label"))
                    continue
                stamps.append(observation.stamp_ns)
                yield Step(
                    state=observation.state,
                    action=label,
                    instruction=(said := self.info.corrected_instruction or observation.instruction),
                    intervention=hands.person_at(observation.stamp_ns + self.contract.dt_ns),
                    phrasings=tuple(dict.fromkeys((said, *map(str, told)))) if told else (),
                    images=observation.images,
                    depth=observation.depth,
                    capture_ns=[observation.capture_ns[name] for name in layout.stream_names(self.contract)],
                )
            self._require_whole(stamps, pipeline, track, unlabelled["steps.dropped.no_label"])
            self.refused = tuple(unusable_numbers(pipeline, track))
        except Rejected as error:
            told = refusals(pipeline, track, unlabelled)
            kind, text = error.rejection.kind, error.rejection.text
            raise Rejected(kind, f"{text} (bag {self.reader.path}{f'; {told}' if told else ''})") from None
        finally:
            self.counters.update(pipeline.counters + track.counters + unlabelled)

    def _labels(self, topics: dict[str, str]) -> LabelTrack:
        """All labels of the episode. Raises BagError for topics that the bag lacks, or holds as another type."""
        contract, reader = self.contract, self.reader
        track = LabelTrack(contract, log_clock=self.options.log_time)
        sources = (*contract.state.sources, *contract.label_sources)
        reader.require_topics({piece.topic for piece in sources})
        reader.require_types(
            {
                **dict.fromkeys(topics.values(), _IMAGES),
                **{piece.topic: (piece.type,) for piece in sources},
                contract.instruction_topic: ("std_msgs/msg/String",),
            }
        )
        streams = {} if track.from_states else stream_names(COMMAND, contract.action.sources)
        for message in reader.messages(track.topics, start_ns=self._early_ns, end_ns=self.info.end_ns):
            data = reader.deserialize(message)
            track.add(message.topic, data, message.stamp_ns)
            if message.topic in streams:
                self.clocks.add(streams[message.topic], stamp_ns(data), message.stamp_ns)
        return track

    def _hands(self) -> _Hands:
        """Who had the arm, as the executor has said: from the bag's beginning on, as it speaks when that changes."""
        hands = _Hands()
        if EXECUTOR_TOPIC in self.reader.types:
            self.reader.require_types({EXECUTOR_TOPIC: (EPISODE_TYPE,)})
            for message in self.reader.messages([EXECUTOR_TOPIC], end_ns=self.info.end_ns):
                hands.add(str(self.reader.deserialize(message).data), message.stamp_ns)
        return hands

    @property
    def _early_ns(self) -> int | None:
        return None if self.info.start_ns is None else self.info.start_ns - _AROUND_NS

    def _observations(self, pipeline: ObservationPipeline, topics: dict[str, str]) -> Iterator[Observation]:
        contract, start_ns, end_ns = self.contract, self.info.start_ns, self.info.end_ns
        streams = {topic: name for name, topic in topics.items()} | stream_names(STATE, contract.state.sources)
        inside_only = (topics[contract.alignment.reference], contract.instruction_topic)
        late_ns = None if end_ns is None else end_ns + _AROUND_NS
        for message in self.reader.messages(pipeline.topics, start_ns=self._early_ns, end_ns=late_ns):
            outside = (start_ns is not None and message.stamp_ns < start_ns) or (
                end_ns is not None and message.stamp_ns > end_ns
            )
            if outside and message.topic in inside_only:
                continue
            data = self.reader.deserialize(message)
            if message.topic in streams:
                self.clocks.add(streams[message.topic], stamp_ns(data), message.stamp_ns)
            pipeline.add(message.topic, data, message.stamp_ns)
            yield from pipeline.pop()
        yield from pipeline.flush()

    def _require_whole(
        self, stamps: list[int], pipeline: ObservationPipeline, track: LabelTrack, unlabelled: int
    ) -> None:
        """Raise Rejected, with the first cause, for an episode that is too short or has lost steps."""
        count, contract, least = len(stamps), self.contract, self.options.min_steps
        if count < least:
            reference = contract.alignment.reference
            short = f"the bag has {pipeline.counters[f'{reference}.frames']} pictures of {reference!r}"
            cause = first_cause(contract, pipeline, track, self.clocks, unlabelled) or Rejection(Kind.SHORT, short)
            raise Rejected(cause.kind, f"{cause.text}; that leaves {count} steps, and at least {least} are needed")
        if clock_jumps := pipeline.counters["clock_jumps"]:
            raise Rejected(Kind.CLOCK, f"stamps jumped back {clock_jumps} times")
        if contract.step == "command":
            return  # steps take as long as they take
        if not self.options.allow_gaps and (lost := lost_steps(np.array(stamps), contract.dt_ns)):
            raise Rejected(Kind.GAP, lost)

    def _instruction_before(self) -> str:
        """The instruction in force when a marked episode begins."""
        start_ns, topic, text = self.info.start_ns, self.contract.instruction_topic, ""
        if start_ns is not None and topic in self.reader.types:
            for message in self.reader.messages([topic], end_ns=start_ns):
                text = str(self.reader.deserialize(message).data)
        return text

    def _camera_topics(self) -> dict[str, str]:
        """Camera → the best topic with messages: prepared, raw, compressed."""
        return self._choose({spec.name: spec.topic_choices for spec in self.contract.cameras})

    def _depth_topics(self) -> dict[str, str]:
        return self._choose({spec.name: spec.topic_choices for spec in self.contract.depth})

    def _choose(self, cameras: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
        """Camera → the first of its topics with messages. Raises BagError for a camera without."""
        chosen, counts = {}, self.reader.counts
        for name, choices in cameras.items():
            present = [topic for topic in choices if counts.get(topic, 0)]
            if not present:
                have = sorted(t for t, n in counts.items() if n)
                raise BagError(
                    f"bag {self.reader.path} has no images of camera {name!r} on any of {list(choices)}; it has {have}"
                )
            chosen[name] = present[0]
        return chosen


def _recorded_contract(bag: Path, episode: EpisodeInfo, contract: Contract, options: Bags) -> Contract | None:
    """The contract that the bag was recorded under, if it tells; raises Rejected if it is an unfit one."""
    told, text = episode.metadata.get("contract_definition"), episode.metadata.get("contract_hash")
    recorded: Contract | None = None
    if told is not None:
        try:
            recorded = Contract.from_dict(told, source=f"contract_definition of {bag}")
        except ContractError as error:
            raise Rejected(Kind.CONTRACT, str(error)) from None
    elif text is not None and not contract.has_hash(text):
        recorded = shipped_contract(text)  # bags from before definitions were recorded
        if recorded is None and not options.allow_contract_differences:
            raise Rejected(
                Kind.CONTRACT,
                f"{bag} was recorded under contract {episode.metadata.get('contract')!r}, of which it has "
                f"only the hash {text}; this one is {contract.name!r} ({contract.hash}). Pass "
                "--allow-contract-differences if they differ in nothing that matters",
            )
    if recorded is not None and not options.allow_contract_differences:
        lines = recording_differences(contract, recorded)
        if lines:
            raise Rejected(
                Kind.CONTRACT,
                f"{bag} was recorded under {recorded.name!r}; {contract.name!r} differs: {'; '.join(lines)}. "
                "Pass --allow-contract-differences if that does not matter",
            )
    return recorded


def _wired(contract: Contract, recorded: Contract, reader: BagReader) -> Contract:
    """``contract`` with the topics that the bag was recorded from, if its own are not in the bag."""

    def topic(ours: str, theirs: str) -> str:
        return ours if reader.counts.get(ours, 0) else theirs

    theirs = {spec.name: spec.topic for spec in recorded.cameras}
    cameras = tuple(
        replace(spec, topic=theirs[spec.name])
        if spec.name in theirs and not any(reader.counts.get(t, 0) for t in spec.topic_choices)
        else spec
        for spec in contract.cameras
    )
    return replace(
        contract,
        cameras=cameras,
        state=replace(contract.state, **_wiring(contract.state, recorded.state, reader)),
        action=replace(contract.action, **_wiring(contract.action, recorded.action, reader)),
        instruction_topic=topic(contract.instruction_topic, recorded.instruction_topic),
    )


def _wiring(ours: StateSpec | ActionSpec, theirs: StateSpec | ActionSpec, reader: BagReader) -> dict[str, Any]:
    """Topic and pieces to read: ours if the bag has all of their topics or the recorded ones lack a dimension."""
    if all(reader.counts.get(piece.topic, 0) for piece in ours.sources) or set(ours.names) - set(theirs.names):
        return {}
    if not theirs.pieces:
        return {"topic": theirs.topic, "pieces": ()}
    return {"topic": theirs.topic, "pieces": tuple(p for each in theirs.pieces if (p := each.only(ours.names)))}
