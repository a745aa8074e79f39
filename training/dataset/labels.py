"""Action labels: what was commanded, or where a hand-taught arm was, one step later."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract, Dimension
from lavla_ros.pieces import Decoder, stamp_ns
from lavla_ros.typing import NS_PER_S

_RANGE_SLACK = 1e-6


class LabelTrack:
    """Collects label samples of one episode by effective time; values are matched by name.

    ``action.source: command``: what is on the action's topics, in force from its stamp, of a JointTrajectory from
    header.stamp + time_from_start. ``next_state``: the states, in force at their stamp. The label of the step at ``t``
    is, of every piece, the newest sample in force at ``t + dt``, at most the contract's tolerance old (or ``hold_s``).
    """

    def __init__(self, contract: Contract, *, log_clock: Collection[str] = ()) -> None:
        """``log_clock``: streams that are stamped by their log time; of interest are ``command`` and ``state``."""
        self.contract = contract
        self.from_states = contract.action.source == "next_state"
        self.counters: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._by_log = ("state" if self.from_states else "command") in log_clock
        alignment, units = contract.alignment, contract.state.units if self.from_states else contract.action.units
        self._decoder = Decoder(
            contract.label_sources,
            units,
            lambda kind, text: self._refuse(f"label.{kind}", text),
            lambda kind: self.counters.update([f"label.{kind}"]),
        )
        self._columns = [list(units).index(name) for name in contract.action.names]
        tolerance_s = alignment.state_tolerance_s if self.from_states else alignment.command_tolerance_s
        self._tolerances_ns = [round((p.hold_s or tolerance_s) * NS_PER_S) for p in self._decoder.pieces]
        self._samples: list[dict[int, NDArray[np.float64]]] = [{} for _ in self._decoder.pieces]
        self._stamps: list[list[int]] = [[] for _ in self._decoder.pieces]
        dims = {d.name: d for d in contract.action.dims}
        self._bounds = [
            [dims[name] if name in dims else Dimension(name=name) for name in piece.names]
            for piece in self._decoder.pieces
        ]
        self._low = [np.array([d.low for d in bounds]) - _RANGE_SLACK for bounds in self._bounds]
        self._high = [np.array([d.high for d in bounds]) + _RANGE_SLACK for bounds in self._bounds]

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic that :meth:`add` takes."""
        return self._decoder.topics

    def add(self, topic: str, msg: Any, log_ns: int) -> None:
        """Take a message on one of the topics, logged at ``log_ns``.

        A trajectory stamped 0 begins when it arrives, as joint_trajectory_controller reads it: its log time counts.
        """
        self.counters["label.messages"] += 1
        for number, values in self._decoder.read(topic, msg):
            piece = self._decoder.pieces[number]
            by_log = self._by_log or (piece.has_header and not self.from_states and stamp_ns(msg) == 0)
            if by_log:
                self.counters["label.log_time"] += 1
            effective_ns = self._decoder.stamp_ns(number, msg, log_ns, by_log=by_log)
            if effective_ns is not None:
                self._add(number, values, effective_ns)

    def _refuse(self, counter: str, example: str) -> None:
        self.counters[counter] += 1
        self.examples.setdefault(counter, example)

    def _add(self, number: int, label: NDArray[np.float64], effective_ns: int) -> None:
        is_absolute = self.contract.action.mode == "absolute"
        outside = (label < self._low[number]) | (label > self._high[number])
        if (is_absolute or not self.from_states) and outside.any():
            first = int(np.flatnonzero(outside)[0])
            dim = self._bounds[number][first]
            self._refuse(
                "label.out_of_range",
                f"{dim.name!r} is {label[first]:g} {dim.unit}; the contract has {dim.low:g} to {dim.high:g}",
            )
            return
        if effective_ns in self._samples[number]:
            self.counters["label.replaced"] += 1  # two commands for one instant: the later one was in force
        self._samples[number][effective_ns] = label

    def at(self, t_ns: int) -> NDArray[np.float32] | None:
        """(A,) label of the step at ``t_ns``; None if nothing was in force within the tolerance."""
        for number, samples in enumerate(self._samples):
            if len(self._stamps[number]) != len(samples):
                self._stamps[number] = sorted(samples)
        after = self._in_force(t_ns + self.contract.dt_ns)
        if after is None:
            return None
        if self.from_states and self.contract.action.mode == "delta":
            before = self._in_force(t_ns)
            if before is None:
                return None
            arm = list(self.contract.action.arm_indices)
            after[arm] -= before[arm]  # grippers are absolute in either mode
        return after.astype(np.float32)

    def _in_force(self, when_ns: int) -> NDArray[np.float64] | None:
        """(A,) what every piece says at that time; None if one says nothing."""
        found = np.empty(max(int(places.max()) for places in self._decoder.places) + 1)
        for number, places in enumerate(self._decoder.places):
            stamps = self._stamps[number]
            position = bisect_right(stamps, when_ns) - 1
            if position < 0 or when_ns - stamps[position] > self._tolerances_ns[number]:
                return None
            found[places] = self._samples[number][stamps[position]]
        return found[self._columns]
