"""What RoboTwin has besides the contract's streams: measured joints, camera models, poses of the end effectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo, JointState

from lavla_ros.contract import Contract
from lavla_ros.ros.lifecycle import set_stamp
from lavla_ros.ros.messages import RECORDING_DEPTH, joint_state
from lavla_ros.ros.scope import Scope
from lavla_ros.typing import FloatArray
from sim_bridges.worlds.robotwin.environment import JOINTS

MEASURED_TOPIC = "joint_states/measured"
ENDPOSE_TOPICS = {"left": "endpose/left", "right": "endpose/right"}
WORLD = "world"
"""Frame of the end-effector poses."""


class RobotwinTopics:
    """See :class:`sim_bridges.world.ExtraTopics`."""

    def __init__(self, scope: Scope, contract: Contract) -> None:
        self._publishers: dict[str, Any] = {}
        self._publishers["measured"] = scope.publisher(JointState, MEASURED_TOPIC, RECORDING_DEPTH)
        for camera in contract.cameras:
            topic = contract.wire(camera.topic).removesuffix("image_raw") + "camera_info"
            self._publishers[camera.name] = scope.publisher(CameraInfo, topic, RECORDING_DEPTH)
        for arm, topic in ENDPOSE_TOPICS.items():
            self._publishers[arm] = scope.publisher(PoseStamped, topic, RECORDING_DEPTH)
        self._measured = joint_state(JOINTS)

    def publish(self, environment: Any, stamp_ns: int, *, images: bool) -> None:
        """Joints; with ``images`` also what belongs to the pictures."""
        set_stamp(self._measured.header.stamp, stamp_ns)
        self._measured.position = environment.environment.measured().tolist()
        self._publishers["measured"].publish(self._measured)
        view = environment.seen
        if not images or view is None:
            return
        for camera, image in view.images.items():
            self._publishers[camera].publish(camera_info(camera, image.shape[:2], view.intrinsics[camera], stamp_ns))
        for arm, pose in view.endposes.items():
            self._publishers[arm].publish(pose_stamped(pose, stamp_ns))


def camera_info(camera: str, size: tuple[int, ...], intrinsic: FloatArray, stamp_ns: int) -> CameraInfo:
    """Of a camera without distortion. ``size``: height, width; ``intrinsic``: (3, 3)."""
    message = CameraInfo(height=size[0], width=size[1], distortion_model="plumb_bob", d=[0.0] * 5)
    set_stamp(message.header.stamp, stamp_ns)
    message.header.frame_id = camera
    message.k = intrinsic.ravel().tolist()
    message.r = np.eye(3).ravel().tolist()
    message.p = np.hstack([intrinsic, np.zeros((3, 1))]).ravel().tolist()
    return message


def pose_stamped(pose: FloatArray, stamp_ns: int) -> PoseStamped:
    """(7,) position in m and quaternion x, y, z, w → the message."""
    message = PoseStamped()
    set_stamp(message.header.stamp, stamp_ns)
    message.header.frame_id = WORLD
    at, turned = message.pose.position, message.pose.orientation
    at.x, at.y, at.z, turned.x, turned.y, turned.z, turned.w = (float(value) for value in pose)
    return message
