"""Why a policy gets no observation: streams that are silent, stamps of different clocks, no instruction, refusals."""

from __future__ import annotations

from collections import Counter, deque
from statistics import median
from typing import Any

from lavla_ros.contract import Contract
from lavla_ros.observation.camera_health import clock_problem
from lavla_ros.observation.pipeline import ObservationPipeline
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.inputs import Inputs
from lavla_ros.ros.lifecycle import stamp_to_ns, wall_ns
from lavla_ros.typing import NS_PER_S

CLOCK_TOLERANCE_S = 1.0
"""Stamps that are older than this on arrival, or further from another stream's, are of another clock."""
SIMULATED_SILENCE_S = 60.0
"""A simulator in lock-step may take its time."""
FIRST = 5
"""The first observation may take so many times as long: the executor, which tells the arm's state, starts last."""

_FINE = ("frames", "samples", "messages", "emitted", "thinned")


class Starvation:
    """Watches what goes into a pipeline and what comes out of it; :meth:`report` says what is missing."""

    def __init__(
        self,
        contract: Contract,
        pipeline: ObservationPipeline,
        inputs: Inputs,
        *,
        silent_after_s: float,
        simulated_time: bool,
    ) -> None:
        self._contract, self._pipeline, self._inputs = contract, pipeline, inputs
        self._silent_after_s = max(silent_after_s, SIMULATED_SILENCE_S) if simulated_time else silent_after_s
        self._simulated_time = simulated_time
        self._reference = inputs[contract.wire(contract.camera(contract.alignment.reference).observation_topic)].topic
        self._stamps_ns: dict[str, int] = {}
        self._ages_ns: dict[str, deque[int]] = {}
        self._before: Counter[str] = Counter()
        self._fed_ns = wall_ns()
        self._patience_s = self._silent_after_s if simulated_time else FIRST * silent_after_s

    def arrived(self, topic: str, message: Any) -> None:
        """A message of any input; those without a header (the instruction) have no stamp to be judged."""
        if hasattr(message, "header"):
            topic = self._inputs[self._contract.wire(topic)].topic
            stamp_ns = self._stamps_ns[topic] = stamp_to_ns(message.header.stamp)
            self._ages_ns.setdefault(topic, deque(maxlen=5)).append(wall_ns() - stamp_ns)

    def report(self, report: Report, *, waiting: bool) -> None:
        """``waiting``: the policy is active, and not paused."""
        now_ns = wall_ns()
        counters = self._pipeline.counters
        new, self._before = counters - self._before, counters.copy()
        if new["steps.emitted"] or not waiting:
            self._fed_ns, self._patience_s = now_ns, self._silent_after_s
        newest_ns = self._stamps_ns.get(self._reference)
        for topic, stamp_ns in self._stamps_ns.items():
            if newest_ns is not None and topic != self._reference:
                report.value(
                    f"{topic}.stamp_after_{self._contract.alignment.reference}_s", (stamp_ns - newest_ns) * 1e-9
                )
        if not self._simulated_time:
            for topic, ages_ns in self._ages_ns.items():
                if text := clock_problem(median(ages_ns) / NS_PER_S, CLOCK_TOLERANCE_S):
                    report.error(f"{topic}: {text}")
        hungry_s = (now_ns - self._fed_ns) * 1e-9
        if hungry_s > self._patience_s:
            causes = "; ".join(self._causes(new, now_ns)) or "see the pipeline.* counters"
            report.warn(f"no complete observation for {hungry_s:.1f} s: {causes}")

    def _causes(self, new: Counter[str], now_ns: int) -> list[str]:
        silent = {i.topic: i for i in self._inputs.streams() if i.is_missed(now_ns, self._silent_after_s)}
        causes = [found.absence(now_ns) for found in silent.values()]
        newest_ns = self._stamps_ns.get(self._reference)
        quiet_s = {i.topic: i.quiet_s for i in self._inputs.streams()}  # what holds for so long may be as old
        for topic, stamp_ns in self._stamps_ns.items():
            apart_s = (stamp_ns - newest_ns) * 1e-9 if newest_ns is not None else 0.0
            one_clock = -max(CLOCK_TOLERANCE_S, quiet_s.get(topic, 0.0)) <= apart_s <= CLOCK_TOLERANCE_S
            if not one_clock and not {topic, self._reference} & set(silent):
                causes.append(f"stamps of {topic} are {apart_s:+.1f} s from those of {self._reference}")
        if new["steps.dropped.no_instruction"]:
            topic = self._inputs[self._contract.wire(self._contract.instruction_topic)].topic
            causes.append(f"no instruction: give instruction:=…, or publish a std_msgs/msg/String on {topic}")
        refused = {k: n for k, n in new.items() if k.rpartition(".")[2] not in _FINE and not k.startswith("steps.")}
        return causes + [f"{key} {count} times" for key, count in sorted(refused.items())]
