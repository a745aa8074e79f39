"""The topics of a contract → Foxglove: what the recorder would write, sent to whoever is connected.

``lavla view live`` starts it beside a stack. It commands nothing.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

from lavla_ros.contract import IMAGE_KINDS, load_contract
from lavla_ros.recording.live_view import HOST, LiveView
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.inputs import Inputs
from lavla_ros.ros.lifecycle import LavlaNode, wall_ns
from lavla_ros.ros.messages import STATE_QOS, latched_topics, recorded_topics, type_name
from lavla_ros.ros.parameters import NodeParameters, parameter
from lavla_ros.ros.process import run_node


@dataclass(frozen=True, kw_only=True)
class ViewerParameters(NodeParameters):
    contract: str = parameter(help="Contract: a shipped name or a YAML file; it names the topics.")
    images: str = parameter(
        IMAGE_KINDS[0],
        "Camera images to show: observation is what the policy sees, the others are what the driver sends.",
        choices=IMAGE_KINDS,
    )
    port: int = parameter(8765, "Port that Foxglove connects to, on this machine; 0: a free one.", low=0, high=65535)


class ViewerNode(LavlaNode):
    """Inputs, as bytes, and a server."""

    parameters_type = ViewerParameters
    parameters: ViewerParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("viewer", **options)

    def setup(self) -> None:
        self._contract = contract = load_contract(self.parameters.contract)
        self._topics = recorded_topics(contract, self.parameters.images)
        types = {topic: type_name(kind) for topic, kind in self._topics.items()}
        self._view = LiveView(types, latched_topics(contract), self.parameters.port)
        self.configured.callback(self._view.close)
        self._seen: Counter[str] = Counter()
        self.get_logger().info(f"in Foxglove, open the connection ws://{HOST}:{self._view.port}")

    def start(self) -> None:
        self._inputs = Inputs(self.activated)
        self._inputs.add_recorded(self._contract, self._topics, self._on_message, STATE_QOS.depth)

    def _on_message(self, topic: str, raw: bytes) -> None:
        if self._view.send(topic, raw, wall_ns()):
            self._seen[topic] += 1

    def diagnose(self, report: Report) -> None:
        if not self.active:
            return
        report.value("port", self._view.port)
        report.value("sent", self._seen.total())
        self._inputs.report(report)


def main() -> int:
    return run_node(ViewerNode)


if __name__ == "__main__":
    sys.exit(main())
