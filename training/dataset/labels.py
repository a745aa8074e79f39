"""Action labels: what was commanded, or where a hand-taught arm was, one step later."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract
from lavla_ros.observation import stamp_ns
from lavla_ros.typing import NS_PER_S

_RANGE_SLACK = 1e-6


class LabelTrack:
    """Collects label samples of one episode by effective time; values are matched by name.

    ``action.source: command``: the points of ``action.topic``, in force from header.stamp +
    time_from_start. ``next_state``: the states, in force at their stamp. The label of the step at ``t``
    is the newest sample in force at ``t + dt``, at most the contract's tolerance old.
    """

    def __init__(self, contract: Contract, *, log_clock: Collection[str] = ()) -> None:
        """``log_clock``: streams that are stamped by their log time; of interest are ``command`` and ``state``."""
        self.contract = contract
        self.from_states = contract.action.source == "next_state"
        self.topic = contract.state.topic if self.from_states else contract.action.topic
        self.counters: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._by_log = ("state" if self.from_states else "command") in log_clock
        alignment = contract.alignment
        tolerance_s = alignment.state_tolerance_s if self.from_states else alignment.command_tolerance_s
        self._tolerance_ns = round(tolerance_s * NS_PER_S)
        self._samples: dict[int, NDArray[np.float64]] = {}
        self._stamps: list[int] = []
        self._low = np.array([d.low for d in contract.action.dims]) - _RANGE_SLACK
        self._high = np.array([d.high for d in contract.action.dims]) + _RANGE_SLACK

    def add(self, msg: Any, log_ns: int | None = None) -> None:
        """Take a JointTrajectory of one point (command) or a JointState (next_state), logged at ``log_ns``.

        A trajectory stamped 0 begins when it arrives, as joint_trajectory_controller reads it: its log time counts.
        """
        self.counters["label.messages"] += 1
        begin_ns = stamp_ns(msg)
        if log_ns is not None and (self._by_log or (begin_ns == 0 and not self.from_states)):
            begin_ns = log_ns
            self.counters["label.log_time"] += 1
        if self.from_states:
            names, values, effective_ns = msg.name, msg.position, begin_ns
        else:
            if len(msg.points) != 1:
                # a plan of several points is not what was executed
                self._refuse("label.wrong_points", f"a trajectory of {len(msg.points)} points; expected 1")
                return
            point = msg.points[0]
            names, values = msg.joint_names, point.positions
            offset = point.time_from_start
            effective_ns = begin_ns + int(offset.sec) * NS_PER_S + int(offset.nanosec)
        self._add(list(names), np.asarray(values, np.float64), effective_ns)

    def _refuse(self, counter: str, example: str) -> None:
        self.counters[counter] += 1
        self.examples.setdefault(counter, example)

    def _add(self, names: list[str], values: NDArray[np.float64], effective_ns: int) -> None:
        if len(values) != len(names):
            self._refuse("label.wrong_size", f"{len(names)} names and {len(values)} positions in one message")
            return
        index = {name: i for i, name in enumerate(names)}
        missing = [name for name in self.contract.action.names if name not in index]
        if missing:
            self._refuse("label.missing_name", f"names {names}; the contract also needs {missing}")
            return
        label = values[[index[name] for name in self.contract.action.names]]
        if not np.isfinite(label).all():
            bad = [n for n, v in zip(self.contract.action.names, label, strict=True) if not np.isfinite(v)]
            self._refuse("label.non_finite", f"position of {bad} is not finite")
            return
        is_absolute = self.contract.action.mode == "absolute"
        outside = (label < self._low) | (label > self._high)
        if (is_absolute or not self.from_states) and outside.any():
            dim = self.contract.action.dims[first := int(np.flatnonzero(outside)[0])]
            self._refuse(
                "label.out_of_range",
                f"{dim.name!r} is {label[first]:g} {dim.unit}; the contract has {dim.low:g} to {dim.high:g}",
            )
            return
        if effective_ns in self._samples:
            self.counters["label.replaced"] += 1  # two commands for one instant: the later one was in force
        self._samples[effective_ns] = label

    def at(self, t_ns: int) -> NDArray[np.float32] | None:
        """(A,) label of the step at ``t_ns``; None if nothing was in force within the tolerance."""
        if len(self._stamps) != len(self._samples):
            self._stamps = sorted(self._samples)
        after = self._in_force(t_ns + self.contract.dt_ns)
        if after is None:
            return None
        if self.from_states and self.contract.action.mode == "delta":
            before = self._in_force(t_ns)
            if before is None:
                return None
            arm = list(self.contract.action.arm_indices)
            after = after.copy()
            after[arm] -= before[arm]  # grippers are absolute in either mode
        return after.astype(np.float32)

    def _in_force(self, when_ns: int) -> NDArray[np.float64] | None:
        position = bisect_right(self._stamps, when_ns) - 1
        if position < 0 or when_ns - self._stamps[position] > self._tolerance_ns:
            return None
        return self._samples[self._stamps[position]]
