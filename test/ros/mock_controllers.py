"""Controllers of ros2_control as their documentation describes the topics, with an arm that follows at once."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import qos_profile_system_default
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.ros.lifecycle import set_stamp, stamp_to_ns

PERIOD_S = 0.004


class MockController(Node):  # type: ignore[misc]
    """One controller with its hardware; its states are published under ``joint_states`` as the broadcaster does."""

    def __init__(
        self,
        name: str,
        joints: tuple[str, ...],
        *,
        context: Context,
        start: tuple[float, ...],
        tolerance_rad: float = 0.0,
        states: str = "/joint_states",
        **parameters: Any,
    ) -> None:
        super().__init__(name, context=context)
        self.declare_parameter("joints", list(joints))
        for key, value in parameters.items():
            self.declare_parameter(key, value)
        self.joints, self._tolerance = joints, tolerance_rad
        self._partial = bool(parameters.get("allow_partial_joints_goal", False))
        self.position = np.array(start)
        self.desired = self.position.copy()
        self._segments: list[tuple[float, np.ndarray]] = []
        self._begin = (0.0, self.desired)
        self.active, self.blocked, self.silent, self.frozen = True, False, False, False
        self.rejected: list[str] = []
        self.received = 0
        self.history: list[np.ndarray] = []
        """Commanded positions, one per update."""
        self.held = 0
        """Trajectories given up for the tolerance."""
        self._stamp_ns = 0
        self._publisher = self.create_publisher(JointState, states, 10)
        self._message = JointState(name=[*reversed(joints), "a_wheel"])
        kind, topic, handler = (
            (Float64MultiArray, "commands", self._on_positions)
            if "interface_name" in parameters
            else (JointTrajectory, "joint_trajectory", self._on_trajectory)
        )
        self.create_subscription(kind, f"/{name}/{topic}", handler, qos_profile_system_default)
        self.create_timer(PERIOD_S, self._update)

    def _on_positions(self, message: Any) -> None:
        if len(message.data) != len(self.joints):
            self.rejected.append("size")
        elif self.active:
            self.received += 1
            self.desired = np.array(message.data)

    def _on_trajectory(self, message: Any) -> None:
        names, points = list(message.joint_names), message.points
        stamp_s, now_s = stamp_to_ns(message.header.stamp) * 1e-9, time.time()
        times = [stamp_to_ns(point.time_from_start) * 1e-9 for point in points]
        if len(names) != len(self.joints) and not self._partial:
            self.rejected.append("partial joints")
        elif not names or not points or not set(names) <= set(self.joints):
            self.rejected.append("names or points")
        elif any(point.velocities and any(point.velocities) for point in points[-1:]):
            self.rejected.append("velocity at the end")
        elif stamp_s and stamp_s + times[-1] < now_s:
            self.rejected.append("in the past")
        elif any(b <= a for a, b in pairwise(times)):
            self.rejected.append("times")
        elif self.active:
            self.received += 1
            rows = np.tile(self.desired, (len(points), 1))
            for row, point in zip(rows, points, strict=True):
                for name, value in zip(names, point.positions, strict=True):
                    row[self.joints.index(name)] = value
            begin_s = stamp_s or now_s
            self._begin = (now_s, self.desired.copy())
            self._segments = [(begin_s + t, row) for t, row in zip(times, rows, strict=True)]

    def _update(self) -> None:
        now_s = time.time()
        before_s, before = self._begin
        for at_s, row in self._segments:
            if now_s < at_s:
                self.desired = before + (now_s - before_s) / (at_s - before_s) * (row - before)
                break
            before_s, before = at_s, row
            self.desired = row
        if not self.blocked:
            self.position = self.desired.copy()
        if self._tolerance and np.abs(self.desired - self.position).max() > self._tolerance:
            self.held += 1
            self._segments, self.desired = [], self.position.copy()
        self.history.append(self.desired.copy())
        if not self.silent:
            self._stamp_ns = self._stamp_ns if self.frozen else time.time_ns()
            set_stamp(self._message.header.stamp, self._stamp_ns)
            self._message.position = [*self.position[::-1].tolist(), 7.0]
            self._publisher.publish(self._message)
