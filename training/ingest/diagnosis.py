"""Why a bag gave no episode, or one to look at twice: what was refused, and whose clock is another one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np

from lavla_ros.contract import Contract
from lavla_ros.observation import ObservationPipeline
from lavla_ros.pieces import Piece
from lavla_ros.typing import NS_PER_S
from training.dataset.labels import LabelTrack
from training.ingest.build import Kind, Notice, Rejection

COMMAND, STATE = "command", "state"


class Clocks:
    """Stamps of a bag's streams (cameras, ``state``, ``command``) against the times at which they were logged."""

    def __init__(self) -> None:
        self.zero: Counter[str] = Counter()
        """Stream → messages stamped 0."""
        self._delays_ns: dict[str, list[int]] = {}
        self._logged_ns: dict[str, list[int]] = {}
        self._range_ns: dict[str, tuple[int, int]] = {}

    def add(self, stream: str, stamp_ns: int, log_ns: int) -> None:
        if stamp_ns == 0:
            self.zero[stream] += 1
            return
        self._delays_ns.setdefault(stream, []).append(log_ns - stamp_ns)
        self._logged_ns.setdefault(stream, []).append(log_ns)
        first, last = self._range_ns.get(stream, (stamp_ns, stamp_ns))
        self._range_ns[stream] = (min(first, stamp_ns), max(last, stamp_ns))

    def delay_ms(self) -> dict[str, float]:
        """Stream → median of log time minus stamp; of those that stamp."""
        return {stream: round(median(found) / 1e6, 3) for stream, found in self._delays_ns.items()}

    def warnings(self, contract: Contract, log_time: tuple[str, ...]) -> list[Notice]:
        """Streams to look at: if a delay differs from the reference camera's by more than the tolerance."""
        delays, reference = self.delay_ms(), contract.alignment.reference
        notices = []
        if self.zero[COMMAND]:
            text = f"{self.zero[COMMAND]} messages are stamped 0 (at once): their log times were taken"
            notices.append(Notice(COMMAND, text))
        for stream, delay in delays.items():
            tolerance_ms = 1e3 * tolerance_s(contract, stream)
            apart_ms = self._apart_ms(stream, reference)
            if abs(apart_ms) > tolerance_ms and not {stream, reference} & set(log_time):
                text = (
                    f"logged a median {delay:.0f} ms after its stamps, {reference!r} {delays[reference]:.0f} ms: "
                    f"{abs(apart_ms):.0f} ms apart, where the contract tolerates {tolerance_ms:.0f}. Other clocks? "
                    f"`--log-time {reference} {stream}` pairs them by log time"
                )
                notices.append(Notice(stream, text))
        return notices

    def _apart_ms(self, stream: str, reference: str) -> float:
        """Median difference of the delays at equal log times: a simulator's clock may run at another speed."""
        if reference not in self._delays_ns:
            return 0.0
        logged, delays = np.array(self._logged_ns[reference]), np.array(self._delays_ns[reference])
        order = np.argsort(logged, kind="stable")
        begin = logged.min()  # nanoseconds since 1970 are too large for exact floats
        at = np.interp(np.array(self._logged_ns[stream]) - begin, logged[order] - begin, delays[order] - delays[0])
        return float(np.median(np.array(self._delays_ns[stream]) - delays[0] - at)) / 1e6

    def told(self, stream: str, reference: str) -> str:
        """How the stamps of two streams lie to each other."""
        if stream not in self._range_ns or reference not in self._range_ns:
            return f"no stamps of {stream if stream not in self._range_ns else reference!r} to compare with"
        ranges = [
            f"those of {name!r} run from {a / NS_PER_S:.3f} to {b / NS_PER_S:.3f} s (logged a median "
            f"{self.delay_ms()[name]:.0f} ms later)"
            for name, (a, b) in ((name, self._range_ns[name]) for name in (reference, stream))
        ]
        return "of the stamps, " + ", ".join(ranges)


def camera_names(contract: Contract) -> tuple[str, ...]:
    """Of colour and of depth."""
    return (*contract.camera_names, *(spec.name for spec in contract.depth))


def stream_names(part: str, pieces: Sequence[Piece]) -> dict[str, str]:
    """Topic → name of its stream, of the topics whose messages are stamped: ``state``, or if there are several
    ``state /topic``.
    """
    several = len({piece.topic for piece in pieces}) > 1
    return {piece.topic: f"{part} {piece.topic}" if several else part for piece in pieces if piece.has_header}


def tolerance_s(contract: Contract, stream: str) -> float:
    """How far a sample of the stream may be from its step."""
    alignment = contract.alignment
    named = {STATE: alignment.state_tolerance_s, COMMAND: alignment.command_tolerance_s}
    return named.get(stream.partition(" ")[0], alignment.camera_tolerance_s)


def refusals(pipeline: ObservationPipeline, track: LabelTrack, steps: Counter[str]) -> str:
    """Everything that was refused or dropped, counted, with the first case of each refusal; empty for nothing."""
    counters = pipeline.counters + track.counters + steps
    examples = pipeline.examples | track.examples
    parts = []
    dropped = {k.removeprefix("steps.dropped."): n for k, n in counters.items() if k.startswith("steps.dropped.")}
    if dropped:
        parts.append(f"dropped {dropped}")
    if examples:
        parts.append("refused " + ", ".join(f"{counters[key]} {key} ({text})" for key, text in examples.items()))
    return "; ".join(parts)


def unusable_numbers(pipeline: ObservationPipeline, track: LabelTrack) -> Iterator[Notice]:
    """Messages of numbers that are not as the contract says, of an episode that could do without them."""
    counters, examples = pipeline.counters + track.counters, pipeline.examples | track.examples
    for key, text in examples.items():
        part, _, kind = key.partition(".")
        if part in ("state", "label") and kind in ("wrong_size", "non_finite", "missing_name", "duplicate_name"):
            stream = STATE if part == "state" or track.from_states else COMMAND
            yield Notice(stream, f"{counters[key]} messages were not used: {text}")


def first_cause(
    contract: Contract, pipeline: ObservationPipeline, track: LabelTrack, clocks: Clocks, unlabelled: int
) -> Rejection | None:
    """What kept most steps from coming out; None if nothing was refused or missing."""
    refused = _refused_stream(contract, pipeline, track, clocks)
    if refused:
        return refused
    counters = pipeline.counters
    missing = {STATE: counters["steps.dropped.state_missing"], COMMAND: unlabelled}
    missing |= {name: counters[f"steps.dropped.{name}_missing"] for name in camera_names(contract)}
    missing["instruction"] = counters["steps.dropped.no_instruction"]
    stream, count = max(missing.items(), key=lambda item: item[1])
    if not count:
        return None
    if stream == "instruction":
        text = f"{count} steps have none: the bag says no instruction; give one with --instruction"
        return Rejection(Kind.INSTRUCTION, text)
    reference = contract.alignment.reference
    within = f"within {1e3 * tolerance_s(contract, stream):.0f} ms"
    if stream == COMMAND:
        source = STATE if track.from_states else COMMAND
        text = f"{count} steps have no {source} in force one step later, {within}; {clocks.told(source, reference)}"
        return Rejection(Kind.LABEL, text)
    absent = {k.removeprefix("state.absent."): n for k, n in counters.items() if k.startswith("state.absent.")}
    if stream == STATE and absent:
        least = ", ".join(f"{n} of {piece}" for piece, n in absent.items())
        return Rejection(Kind.STATE, f"{count} steps have no whole state {within}: missing are {least}")
    text = f"{count} steps have no sample of {stream!r} {within}; {clocks.told(stream, reference)}"
    return Rejection(Kind.STATE if stream == STATE else Kind.IMAGE, text)


def _refused_stream(
    contract: Contract, pipeline: ObservationPipeline, track: LabelTrack, clocks: Clocks
) -> Rejection | None:
    """The first stream of which half or more was refused."""
    counters = pipeline.counters + track.counters
    examples = pipeline.examples | track.examples
    streams = [(Kind.IMAGE, name, f"{name}.frames", f"camera {name!r}") for name in camera_names(contract)]
    streams += [
        (Kind.STATE, "state", "state.samples", ", ".join(pipeline.state_topics)),
        (Kind.LABEL, "label", "label.messages", ", ".join(track.topics)),
    ]
    for kind, stream, total, called in streams:
        refused = {key: counters[key] for key in examples if key.startswith(f"{stream}.")}
        if not refused or 2 * sum(refused.values()) < counters[total]:
            continue
        worst = max(refused, key=lambda key: refused[key])
        line = f"{called}: {refused[worst]} of {counters[total]} messages refused: {examples[worst]}"
        if clocks.zero[stream] and worst.endswith(".duplicate"):
            line += f"; `--log-time {stream}` takes their log times"
        if worst == "state.missing_name" and set(contract.state.names) <= pipeline.joint_names_seen:
            line += "; other messages have those: say each part as one of state.pieces (docs/bags.md), or have one "
            line += "node publish all joints in one message"
        return Rejection(kind, line)
    return None
