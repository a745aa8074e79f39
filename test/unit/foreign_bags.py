"""Bags as other recorders write them: driver topics, no marks of ours, every part of a message open to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from synthetic_bags import MS, T0, joint_values, picture
from synthetic_messages import small_contract

from lavla_ros.contract import Contract
from lavla_ros.recording.types import jazzy

CONTRACT = small_contract(size=32)
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINTS, TRAJECTORY = "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory"
STRING = "std_msgs/msg/String"


def message(kind: str, **values: Any) -> tuple[str, bytes]:
    return kind, bytes(jazzy().serialize_cdr(jazzy().types[kind](**values), kind))


def header(stamp_ns: int) -> Any:
    types = jazzy().types
    stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id="")


def raw_image(stamp_ns: int, pixels_rgb: np.ndarray, encoding: str = "rgb8") -> tuple[str, bytes]:
    """``pixels_rgb`` under any name; bgr8 and yuyv really are so."""
    if encoding == "bgr8":
        data = np.ascontiguousarray(pixels_rgb[:, :, ::-1])
    elif encoding in ("yuyv", "yuv422_yuy2"):
        data = np.asarray(cv2.cvtColor(pixels_rgb, cv2.COLOR_RGB2YUV_YUY2))
    else:
        data = pixels_rgb
    height, width = pixels_rgb.shape[:2]
    step = data.size // height
    return message(
        IMAGE,
        header=header(stamp_ns),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=data.ravel(),
    )


def joints(stamp_ns: int, values: dict[str, float]) -> tuple[str, bytes]:
    numbers = np.array(list(values.values()))
    empty = np.empty(0)
    return message(JOINTS, header=header(stamp_ns), name=list(values), position=numbers, velocity=empty, effort=empty)


def trajectory(stamp_ns: int, values: dict[str, float], from_start_ns: int) -> tuple[str, bytes]:
    types, empty = jazzy().types, np.empty(0)
    point = types["trajectory_msgs/msg/JointTrajectoryPoint"](
        positions=np.array(list(values.values())),
        velocities=empty,
        accelerations=empty,
        effort=empty,
        time_from_start=types["builtin_interfaces/msg/Duration"](sec=0, nanosec=from_start_ns),
    )
    return message(TRAJECTORY, header=header(stamp_ns), joint_names=list(values), points=[point])


def text(data: str) -> tuple[str, bytes]:
    return message(STRING, data=data)


def commanded(time_s: float) -> dict[str, float]:
    """What :func:`make_foreign_bag` commands for that time."""
    values = joint_values(time_s)
    return {**values, "a": values["a"] + 1}


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """How a bag differs from a plain one; each part maps (time s since the beginning, stamp ns) to messages."""

    contract: Contract = CONTRACT
    camera: Callable[[int, int, np.ndarray], tuple[str, bytes]] = lambda number, stamp_ns, rgb: raw_image(stamp_ns, rgb)
    camera_suffix: str = ""
    state: Callable[[float, int], list[tuple[str, bytes]]] = lambda t, stamp_ns: [joints(stamp_ns, joint_values(t))]
    command: Callable[[float, int], tuple[str, bytes]] = lambda t, stamp_ns: trajectory(
        stamp_ns, commanded(t + 0.1), 100 * MS
    )
    log_delay_ms: dict[str, int] = field(default_factory=dict)
    """Topic → how long after its stamp a message is logged."""
    stamp_delay_ms: dict[str, int] = field(default_factory=dict)
    """Topic → by how much its clock is ahead."""
    plugin: StoragePlugin = StoragePlugin.MCAP
    instruction: Callable[[], tuple[str, bytes]] | None = lambda: text("put it there")
    extra: tuple[tuple[str, int, tuple[str, bytes]], ...] = ()
    """(topic, log time ns, message) besides."""

    def write(self, path: Path, steps: int = 20, *, start_ns: int = T0, episode: int = 0) -> Path:
        """A rosbag2 folder of ``steps`` at 10 Hz."""
        rows: list[tuple[int, str, tuple[str, bytes]]] = [(ns, topic, msg) for topic, ns, msg in self.extra]
        if self.instruction is not None:
            rows.append((start_ns, self.contract.instruction_topic, self.instruction()))

        def add(topic: str, true_ns: int, make: Callable[[int], list[tuple[str, bytes]]]) -> None:
            stamp_ns = true_ns + self.stamp_delay_ms.get(topic, 0) * MS
            for made in make(stamp_ns):
                rows.append((true_ns + self.log_delay_ms.get(topic, 1) * MS, topic, made))

        for step in range(steps):
            t, now_ns = step * 0.1, start_ns + step * 100 * MS
            add(self.contract.state.topic, now_ns, lambda ns, t=t: self.state(t, ns))
            for number, spec in enumerate(self.contract.cameras):
                pixels = picture(spec.width, episode, step, number)
                topic = spec.topic + self.camera_suffix
                add(topic, now_ns, lambda ns, n=number, p=pixels: [self.camera(n, ns, p)])
            add(self.contract.action.topic, now_ns, lambda ns, t=t: [self.command(t, ns)])
        with Writer(path, version=9, storage_plugin=self.plugin) as writer:
            connections: dict[tuple[str, str], Any] = {}
            for log_ns, topic, (kind, raw) in sorted(rows, key=lambda row: row[0]):
                if (topic, kind) not in connections:
                    connections[topic, kind] = writer.add_connection(topic, kind, typestore=jazzy())
                writer.write(connections[topic, kind], log_ns, raw)
        return path

    def but(self, **changes: Any) -> Foreign:
        return replace(self, **changes)


PLAIN = Foreign()
