"""The policy node, writing down when each chunk was predicted."""

from __future__ import annotations

import sys
import time
from typing import Any

from std_msgs.msg import String

from benchmarks.pipeline import ProbeFile
from lavla_ros.contract import ActionChunk, Observation
from lavla_ros.nodes.policy_node import PolicyNode
from lavla_ros.ros.process import run_node


class ProbedPolicyNode(PolicyNode):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._probe = ProbeFile("policy")
        self._resumed_ns = 0

    def _on_episode(self, message: String) -> None:
        super()._on_episode(message)
        self._resumed_ns = time.time_ns()

    def _on_chunk(self, chunk: ActionChunk, observation: Observation, predict_s: float) -> None:
        end_ns = time.time_ns()
        super()._on_chunk(chunk, observation, predict_s)
        self._probe.write(
            stamp_ns=observation.stamp_ns,
            begin_ns=end_ns - round(predict_s * 1e9),
            predict_ms=predict_s * 1e3,
            resumed_ns=self._resumed_ns,
        )


if __name__ == "__main__":
    sys.exit(run_node(ProbedPolicyNode))
