"""Conversions between the contract's data types and ROS messages. Names are matched, never positions."""

from __future__ import annotations

import array
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from lavla_ros.contract import IMAGE_KINDS, ActionChunk, Contract
from lavla_ros.errors import UserError
from lavla_ros.recording.types import CHUNK_TOPICS, EPISODE_TOPIC, EXECUTOR_TOPIC
from lavla_ros.ros.lifecycle import set_stamp, stamp_to_ns


def _reliable(depth: int, durability: DurabilityPolicy = DurabilityPolicy.VOLATILE) -> QoSProfile:
    return QoSProfile(
        depth=depth, reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, durability=durability
    )


IMAGE_QOS = _reliable(4)
"""Reliable with a small depth: best effort loses fragments of large images."""
STATE_QOS = _reliable(50)
RECORDING_DEPTH = 200
"""A recorder loses nothing while the disk is busy."""
CHUNK_QOS = _reliable(1)
LATCHED_QOS = _reliable(1, DurabilityPolicy.TRANSIENT_LOCAL)
LATCHED_INPUT_QOS = _reliable(10, DurabilityPolicy.TRANSIENT_LOCAL)
"""For subscribers: deep enough for the latched messages of several publishers."""


class MessageError(UserError, ValueError):
    """A message does not carry what the contract says."""


class ImageBuffer:
    """One Image message whose pixels are written in place.

    Assigning an array to ``Image.data`` costs 48 ms at 640×480; writing through a view of the
    preallocated buffer costs 0.02 ms.
    """

    def __init__(self, frame_id: str) -> None:
        self.message = Image(encoding="rgb8", is_bigendian=0)
        self.message.header.frame_id = frame_id
        self._view: NDArray[np.uint8] = np.empty(0, np.uint8)

    def fill(self, image_rgb: NDArray[np.uint8], stamp_ns: int) -> Image:
        """(H, W, 3) RGB → the message, valid until the next call."""
        height, width, _ = image_rgb.shape
        if self.message.height != height or self.message.width != width:
            self.message.height, self.message.width, self.message.step = height, width, 3 * width
            self.message.data = array.array("B", bytes(height * width * 3))
            self._view = np.frombuffer(self.message.data, np.uint8)
        np.copyto(self._view.reshape(height, width, 3), image_rgb)
        set_stamp(self.message.header.stamp, stamp_ns)
        return self.message


def chunk_to_trajectory(chunk: ActionChunk, source: str = "") -> JointTrajectory:
    """Point h is completed at header.stamp + (h + 1) · dt.

    ``source``: whose it is (:mod:`lavla_ros.control.approved`).
    """
    message = JointTrajectory(joint_names=list(chunk.names))
    message.header.frame_id = source
    set_stamp(message.header.stamp, chunk.stamp_ns)
    for step, action in enumerate(chunk.actions_HA):
        after = Duration()
        set_stamp(after, (step + 1) * chunk.dt_ns)
        message.points.append(JointTrajectoryPoint(positions=action.tolist(), time_from_start=after))
    return message


def trajectory_to_chunk(message: JointTrajectory, contract: Contract) -> ActionChunk:
    """The chunk in the contract's order. Raises MessageError naming missing, unknown or irregular parts."""
    order = indices_by_name(message.joint_names, contract.action.names, "joint_names of /action_chunk")
    if not message.points:
        raise MessageError("/action_chunk carries no points; expected 1 or more")
    dt_ns = contract.dt_ns
    rows = []
    for step, point in enumerate(message.points):
        due_ns = stamp_to_ns(point.time_from_start)
        if abs(due_ns - (step + 1) * dt_ns) > 1000:
            raise MessageError(
                f"/action_chunk point {step} has time_from_start {due_ns * 1e-9:.6f} s; "
                f"expected {(step + 1) * dt_ns * 1e-9:.6f} s ({contract.name} runs at {contract.rate_hz:g} Hz)"
            )
        if len(point.positions) != len(order):
            raise MessageError(
                f"/action_chunk point {step} has {len(point.positions)} positions for {len(order)} names"
            )
        rows.append([point.positions[i] for i in order])
    return ActionChunk(
        stamp_ns=stamp_to_ns(message.header.stamp),
        dt_ns=dt_ns,
        actions_HA=np.asarray(rows, np.float64),
        names=contract.action.names,
    )


def indices_by_name(found: Sequence[str], wanted: Sequence[str], where: str) -> list[int]:
    """Position in ``found`` of every wanted name; MessageError when the sets differ."""
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unknown or len(found) != len(wanted):
        raise MessageError(f"{where} are {list(found)}; missing {missing}, unknown {unknown}; expected {list(wanted)}")
    return [list(found).index(name) for name in wanted]


def joint_state(names: Sequence[str]) -> JointState:
    """An empty JointState to be filled again and again by the publisher."""
    return JointState(name=list(names), position=[0.0] * len(names))


def single_point(names: Sequence[str], after_ns: int) -> JointTrajectory:
    """A one-point trajectory, due ``after_ns`` after its stamp, to be filled again and again."""
    message = JointTrajectory(joint_names=list(names))
    after = Duration()
    set_stamp(after, after_ns)
    message.points.append(JointTrajectoryPoint(positions=[0.0] * len(names), time_from_start=after))
    return message


def recorded_topics(contract: Contract, images: str) -> dict[str, Any]:
    """Topic → message class of everything that an episode consists of; ``images``: one of ``IMAGE_KINDS``."""
    kind, number = CompressedImage if images == "compressed" else Image, IMAGE_KINDS.index(images)
    return {
        **{spec.topic_choices[number]: kind for spec in contract.cameras},
        **{topic: message_class(kind) for topic, kind in contract.read_topics.items()},
        **{each.topic: message_class(each.type) for each in contract.record},
        **dict.fromkeys(CHUNK_TOPICS, JointTrajectory),
        contract.instruction_topic: String,
        EPISODE_TOPIC: String,
        EXECUTOR_TOPIC: String,
    }


def latched_topics(contract: Contract) -> tuple[str, ...]:
    """Those of :func:`recorded_topics` whose newest message counts, however old it is."""
    return contract.instruction_topic, EPISODE_TOPIC, EXECUTOR_TOPIC


def message_class(name: str) -> Any:
    """std_msgs/msg/String → its class. Raises MessageError if its package is not installed."""
    package, _, kind = name.replace("/msg/", "/").partition("/")
    try:
        return getattr(import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError):
        raise MessageError(f"the message type {name} is not installed: install the ROS package {package}") from None


def type_name(kind: Any) -> str:
    """The class std_msgs.msg.String → std_msgs/msg/String."""
    package, folder, *_ = kind.__module__.split(".")
    return f"{package}/{folder}/{kind.__name__}"
