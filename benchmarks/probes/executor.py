"""The executor node, writing down the first servo tick that executed each chunk."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.pipeline import ProbeFile
from lavla_ros.control.wire import ServoSnapshot
from lavla_ros.nodes.executor_node import ExecutorNode
from lavla_ros.ros.process import run_node


class ProbedExecutorNode(ExecutorNode):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._probe = ProbeFile("executor")
        self._written: int | None = None

    def _note(self, snapshot: ServoSnapshot) -> None:
        super()._note(snapshot)
        chunk = snapshot.chunk_stamp_ns
        if chunk is not None and chunk != self._written:
            self._written = chunk
            # The grid time plus its lateness: when the command really left.
            self._probe.write(chunk_stamp_ns=chunk, tick_ns=snapshot.stamp_ns + snapshot.late_ns)


if __name__ == "__main__":
    sys.exit(run_node(ProbedExecutorNode))
