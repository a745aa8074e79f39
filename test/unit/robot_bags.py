"""Bags in the layouts of robots that other people have, with the topics and names that their drivers publish."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from foreign_bags import COMPRESSED, header, joints, message, raw_image, trajectory
from rosbags.rosbag2 import StoragePlugin, Writer
from synthetic_bags import MS, T0, picture

from lavla_ros.recording.types import jazzy

UR_STATE = ("elbow", "shoulder_lift", "shoulder_pan", "wrist_1", "wrist_2", "wrist_3")
"""ur_robot_driver's /joint_states is in this order, its trajectories are from the base to the tool."""
UR_COMMAND = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
VIPER = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
SO101 = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")

Row = tuple[int, str, tuple[str, bytes]]
"""(log time ns, topic, message)"""


def ur5e(path: Path, *, seconds: float = 2.0) -> Path:
    """A UR5e with two RealSense, 30 fps; joint states and streamed trajectories of one point at 100 Hz."""
    rows: list[Row] = []
    for frame in range(int(30 * seconds)):
        at_ns = T0 + round(frame * 1e9 / 30)
        rows.append((at_ns + 30 * MS, "/scene/color/image_raw", raw_image(at_ns, picture(64, 0, frame, 0)[:48])))
        rows.append((at_ns + 20 * MS, "/wrist/color/image_raw/compressed", _jpeg(at_ns, picture(64, 0, frame, 1)[:48])))
        rows.append((at_ns + 30 * MS, "/scene/depth/image_rect_raw", _depth(at_ns, depth_picture(frame))))
    for tick in range(int(100 * seconds)):
        t, at_ns = tick / 100, T0 + tick * 10 * MS
        state = {f"{name}_joint": _wave(i, t) for i, name in enumerate(UR_STATE)}
        rows.append((at_ns + MS, "/joint_states", joints(at_ns, state)))
        command = {f"{name}_joint": _wave(UR_STATE.index(name), t + 0.05) for name in UR_COMMAND}
        topic = "/scaled_joint_trajectory_controller/joint_trajectory"
        rows.append((at_ns + MS, topic, trajectory(at_ns, command, 50 * MS)))
    return write_rows(path, rows)


def bimanual(path: Path, *, seconds: float = 2.0) -> Path:
    """Two followers and two leaders, each with a JointState topic of its own and the same names, 50 Hz; one camera."""
    rows = camera_rows("/cam_high/color/image_raw", seconds)
    for tick in range(int(50 * seconds)):
        t, at_ns = tick / 50, T0 + tick * 20 * MS
        for side in ("left", "right"):
            for who, ahead in (("leader", 0.02), ("follower", 0.0)):
                values = {name: _wave(i, t + ahead) for i, name in enumerate(VIPER)}
                rows.append((at_ns + MS, f"/{who}_{side}/joint_states", joints(at_ns, values)))
    return write_rows(path, rows)


def so101(path: Path, *, seconds: float = 2.0) -> Path:
    """An SO-101 and its leader: five joints in degrees, the gripper from 0 to 100, 30 Hz."""
    rows = camera_rows("/camera/image_raw", seconds)
    for tick in range(int(30 * seconds)):
        t, at_ns = tick / 30, T0 + round(tick * 1e9 / 30)
        for topic, ahead in (("/joint_states", 0.0), ("/leader/joint_states", 0.03)):
            values = {name: 60 * _wave(i, t + ahead) for i, name in enumerate(SO101[:-1])}
            values["gripper"] = 50 + 40 * float(np.sin(t + ahead))
            rows.append((at_ns + MS, topic, joints(at_ns, values)))
    return write_rows(path, rows, StoragePlugin.SQLITE3)


def _wave(joint: int, t: float) -> float:
    return float(np.sin(t + joint))


def camera_rows(topic: str, seconds: float) -> list[Row]:
    stamps = [T0 + round(frame * 1e9 / 30) for frame in range(int(30 * seconds))]
    return [(at + 5 * MS, topic, raw_image(at, picture(64, 0, i, 0)[:48], "bgr8")) for i, at in enumerate(stamps)]


def _jpeg(stamp_ns: int, rgb: np.ndarray) -> tuple[str, bytes]:
    data = cv2.imencode(".jpg", rgb[:, :, ::-1])[1].ravel()
    return message(COMPRESSED, header=header(stamp_ns), format="rgb8; jpeg compressed bgr8", data=data)


def array(*values: float) -> tuple[str, bytes]:
    empty = jazzy().types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return message("std_msgs/msg/Float64MultiArray", layout=empty, data=np.array(values))


def depth_picture(frame: int) -> np.ndarray:
    """(48, 64) mm, with all 16 bits in use."""
    return np.random.default_rng(frame).integers(0, 2**16, (48, 64), dtype=np.uint16)


def _depth(stamp_ns: int, mm: np.ndarray) -> tuple[str, bytes]:
    return raw_image(stamp_ns, mm[:, :, None].view(np.uint8), "16UC1")


def write_rows(path: Path, rows: Iterable[Row], plugin: StoragePlugin = StoragePlugin.MCAP) -> Path:
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections: dict[str, Any] = {}
        for log_ns, topic, (kind, raw) in sorted(rows, key=lambda row: row[0]):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=jazzy())
            writer.write(connections[topic], log_ns, raw)
    return path
