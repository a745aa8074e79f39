"""What the nodes of a stack have said: the newest of each, and what they have not repeated is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from lavla_ros.console.robot import Joint, Snapshot
from lavla_ros.contract import Contract
from lavla_ros.episode import RECORDER, SIMULATOR, EpisodeState, ExecutorReport
from lavla_ros.typing import NS_PER_S

PROBLEM_S = 3.0
"""A problem that /diagnostics has not repeated for so long is over."""
TELEOP = "teleop"
"""The node that says how a person moves the arm."""


class Heard:
    """Times are given, ns of one clock. Thread-safe: the stack says, the page asks and sets."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._newest = Snapshot()
        self._problems: dict[str, tuple[int, list[str]]] = {}
        self._latencies: dict[str, str] = {}
        self._steered = 0, ""

    def executor(self, text: str) -> None:
        """Raises EpisodeError for what is no report."""
        self._change(executor=ExecutorReport.from_json(text))

    def _change(self, **news: Any) -> None:
        with self._changing:
            self._newest = replace(self._newest, **news)

    @property
    def executor_state(self) -> str:
        return self._newest.executor.state

    def episode(self, text: str) -> None:
        """Of the recorder, or of a simulator. Raises EpisodeError for what is no state."""
        state = EpisodeState.from_json(text)
        if state.source == RECORDER:
            self._change(episode=state)
        elif state.source == SIMULATOR:
            self._change(scene=state)

    def instruction(self, text: str) -> None:
        self._change(instruction=text)

    def speed_scale(self, scale: float) -> None:
        self._change(speed_scale=scale)

    def diagnostics(self, node: str, values: Mapping[str, str], problems: Iterable[str], now_ns: int) -> None:
        """A status of /diagnostics."""
        medians = {key.removesuffix("_p50_ms"): ms for key, ms in values.items() if key.endswith("_p50_ms")}
        with self._changing:
            self._problems[node] = now_ns, [*problems]
            if node == TELEOP and "state" in values:
                self._steered = now_ns, values["state"]
            self._latencies |= {name.replace("_", " "): ms for name, ms in medians.items()}

    def snapshot(self, now_ns: int) -> Snapshot:
        """Without what is not said in words: joints, their age, and the model."""
        since_ns = now_ns - round(PROBLEM_S * NS_PER_S)
        with self._changing:
            problems = [text for at_ns, texts in self._problems.values() if at_ns > since_ns for text in texts]
            return replace(
                self._newest,
                latencies_ms=dict(sorted(self._latencies.items())),
                problems=tuple(sorted(problems)),
                steered=self._steered[1] if self._steered[0] > since_ns else "",
            )


def joints_of(contract: Contract, measured: Mapping[str, float], commanded: Mapping[str, float]) -> tuple[Joint, ...]:
    """The dimensions of the arm's state. Both: name → value, as the arm's messages have them."""
    return tuple(
        Joint(name=d.name, unit=d.unit, measured=measured.get(d.name), commanded=commanded.get(d.name))
        for d in contract.state.fields
    )
