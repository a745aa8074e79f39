"""The simulated cameras, writing down when the pictures of each capture stamp had been rendered and published."""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.pipeline import ProbeFile
from lavla_ros.ros.lifecycle import stamp_to_ns
from lavla_ros.ros.process import run_node
from sim_bridges.worlds.tabletop.camera_node import TabletopCameraNode


class ProbedCameraNode(TabletopCameraNode):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._probe = ProbeFile("camera")

    def _on_frame(self) -> None:
        super()._on_frame()
        stamp = next(iter(self._buffers.values())).message.header.stamp
        self._probe.write(stamp_ns=stamp_to_ns(stamp), published_ns=time.time_ns())


if __name__ == "__main__":
    sys.exit(run_node(ProbedCameraNode))
