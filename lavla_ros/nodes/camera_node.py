"""Camera ingestion: what drivers or devices deliver → /observation/<cam> as the contract wants it.

Frames come from the contract's driver topics (raw or compressed), or, for cameras named in
``sources``, from OpenCV; those are published on the driver topic too. Images are rotated, cropped
and resized in the callback that receives them, and keep their capture stamp. Frames of a frozen camera
are not passed on: they are no observation.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from lavla_ros.contract import CameraSpec, load_contract
from lavla_ros.observation.camera_health import CameraHealth
from lavla_ros.observation.capture import Capture
from lavla_ros.observation.images import ImageError, decode_image, prepare_image
from lavla_ros.ros.diagnostics import Rate, Report, Window
from lavla_ros.ros.inputs import Input, Inputs
from lavla_ros.ros.lifecycle import LavlaNode, stamp_to_ns, wall_ns
from lavla_ros.ros.messages import IMAGE_QOS, ImageBuffer
from lavla_ros.ros.parameters import NodeParameters, ParameterError, parameter
from lavla_ros.ros.process import run_node


@dataclass(frozen=True, kw_only=True)
class CameraParameters(NodeParameters):
    contract: str = parameter(help="Contract: a shipped name or a YAML file.")
    transport: str = parameter("raw", "Images that the drivers publish.", choices=("raw", "compressed"))
    sources: tuple[str, ...] = parameter(
        (), "Cameras without a driver, as <camera>=<source>; a source is /dev/video0, rtsp://… or a video file."
    )
    loop: bool = parameter(False, "Play video files again from the start when they end.")
    missing_after_s: float = parameter(
        1.0, "A camera without a frame for this long is reported as missing.", low=0.05, high=60.0, unit="s"
    )
    frozen_after_s: float = parameter(
        1.0,
        "A camera whose pixels have not changed for this long is frozen: its frames are not passed on until they "
        "change. 0 turns this off: a rendered scene repeats itself at rest, but the noise of a real sensor never does.",
        low=0.0,
        high=600.0,
        unit="s",
    )
    clock_tolerance_s: float = parameter(
        1.0,
        "A frame that is older on arrival has a stamp of another clock, and is reported. 0 turns this off, and so does "
        "use_sim_time.",
        low=0.0,
        high=60.0,
        unit="s",
    )

    def source_of(self) -> dict[str, str]:
        """Camera → source. ParameterError on a malformed or repeated entry."""
        found: dict[str, str] = {}
        for entry in self.sources:
            camera, separator, source = entry.partition("=")
            if not (camera and separator and source) or camera in found:
                raise ParameterError(f"sources has {entry!r}; expected <camera>=<source>, each camera once")
            found[camera] = source
        return found


class _Camera:
    """One camera of the contract inside the node."""

    def __init__(self, spec: CameraSpec, parameters: CameraParameters, *, simulated_time: bool) -> None:
        self.spec = spec
        self.health = CameraHealth(
            name=spec.name,
            missing_after_s=parameters.missing_after_s,
            frozen_after_s=parameters.frozen_after_s,
            clock_tolerance_s=0.0 if simulated_time else parameters.clock_tolerance_s,
        )
        self.reported: Counter[str] = Counter()
        self.rate = Rate()
        self.latency_ms = Window()
        self.raw = ImageBuffer(f"{spec.name}_optical_frame")
        self.prepared = ImageBuffer(f"{spec.name}_optical_frame")
        self.publisher: Any = None
        self.raw_publisher: Any = None
        self.capture: Capture | None = None
        self.input: Input | None = None


class CameraNode(LavlaNode):
    """Cameras of the contract, from their drivers or by OpenCV, as observations."""

    parameters_type = CameraParameters
    parameters: CameraParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("camera", **options)

    def setup(self) -> None:
        self._contract = contract = load_contract(self.parameters.contract)
        sources = self.parameters.source_of()
        unknown = sorted(set(sources) - set(contract.camera_names))
        if unknown:
            raise ParameterError(
                f"sources names the cameras {unknown}; contract {contract.name} has {contract.camera_names}"
            )
        simulated_time = bool(self.get_parameter("use_sim_time").value)
        self._cameras: dict[str, _Camera] = {}
        for spec in contract.cameras:
            camera = self._cameras[spec.name] = _Camera(spec, self.parameters, simulated_time=simulated_time)
            camera.publisher = self.configured.publisher(Image, contract.wire(spec.observation_topic), IMAGE_QOS)
            if spec.name in sources:
                camera.raw_publisher = self.configured.publisher(Image, contract.wire(spec.topic), IMAGE_QOS)
                on_frame = partial(self._on_frame, camera)
                camera.capture = Capture(sources[spec.name], on_frame, loop=self.parameters.loop)
                self.configured.callback(camera.capture.stop)

    def start(self) -> None:
        compressed = self.parameters.transport == "compressed"
        self._inputs = Inputs(self.activated)
        for camera in self._cameras.values():
            camera.health.begin(wall_ns())
            if camera.capture is not None:
                camera.capture.start()
                continue
            topic = self._contract.wire(camera.spec.topic) + ("/compressed" if compressed else "")
            kind = CompressedImage if compressed else Image
            camera.input = self._inputs.add(kind, topic, partial(self._on_message, camera), depth=IMAGE_QOS.depth)

    def _on_message(self, camera: _Camera, message: Any) -> None:
        received_ns, stamp_ns = wall_ns(), stamp_to_ns(message.header.stamp)
        if not camera.health.arrival(stamp_ns, received_ns):
            return
        try:
            raw = decode_image(message, camera.spec.channel_order)
            image = prepare_image(raw, camera.spec)
        except ImageError as error:
            camera.health.rejected(error.kind, str(error))
            return
        if not camera.health.pixels(raw, received_ns):
            return
        if image is raw and getattr(message, "encoding", "") == "rgb8":
            camera.publisher.publish(message)  # nothing to change: forward it as it is
        else:
            camera.publisher.publish(camera.prepared.fill(image, stamp_ns))
        camera.rate.tick()
        camera.latency_ms.add((wall_ns() - received_ns) * 1e-6)

    def _on_frame(self, camera: _Camera, image_rgb: NDArray[np.uint8], stamp_ns: int) -> None:
        if not self.active or not camera.health.arrival(stamp_ns, wall_ns()):
            return
        camera.raw_publisher.publish(camera.raw.fill(image_rgb, stamp_ns))
        if not camera.health.pixels(image_rgb, stamp_ns):
            return
        camera.publisher.publish(camera.prepared.fill(prepare_image(image_rgb, camera.spec), stamp_ns))
        camera.rate.tick()
        camera.latency_ms.add((wall_ns() - stamp_ns) * 1e-6)

    def diagnose(self, report: Report) -> None:
        now_ns = wall_ns()
        if self.active:
            self._inputs.report(report)
        for name, camera in self._cameras.items():
            report.value(f"{name}.rate_hz", camera.rate.take_hz(now_ns))
            report.latency(f"{name}.processing", camera.latency_ms)
            age_s = camera.health.age_s(now_ns)
            if age_s is not None:
                report.value(f"{name}.age_s", age_s)
            for kind, count in sorted(camera.health.counters.items()):
                report.value(f"{name}.{kind}", count)
            if camera.health.last_error:
                report.value(f"{name}.last_error", camera.health.last_error)
            self._judge(report, camera, now_ns)

    def _judge(self, report: Report, camera: _Camera, now_ns: int) -> None:
        capture, name = camera.capture, f"camera {camera.spec.name}"
        if capture is not None and capture.failure is not None:
            report.error(f"{name}: capture failed: {capture.failure}")
        elif capture is not None and capture.ended:
            report.warn(f"{name}: video {capture.source} has ended")
        elif self.active:
            missing = camera.health.missing(now_ns)
            for text in camera.health.problems(now_ns):
                # The graph tells why nothing comes.
                cause = f"; {camera.input.absence(now_ns)}" if missing and camera.input is not None else ""
                report.error(f"{name}: {text}{cause}")
        refused = dict(camera.health.counters - camera.reported)
        camera.reported = camera.health.counters.copy()
        refused.pop("frozen", 0)  # said above
        if refused.pop("frames", 0) and refused:
            report.warn(f"{name}: {refused} since the last report; {camera.health.last_error}")


def main() -> int:
    return run_node(CameraNode)


if __name__ == "__main__":
    sys.exit(main())
