"""The topics of a robot without one: pictures at a rate, state and command at 125 Hz, a report of its executor."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros import topics
from lavla_ros.contract import load_contract
from lavla_ros.episode import ExecutorReport
from lavla_ros.ros.lifecycle import LavlaNode, set_stamp
from lavla_ros.ros.messages import IMAGE_QOS, LATCHED_QOS, STATE_QOS, ImageBuffer, joint_state, single_point
from lavla_ros.ros.parameters import NodeParameters, parameter
from lavla_ros.ros.process import run_node

PERIOD_S = 0.008
FRAMES = 30
"""Pictures, one after another; the same again afterwards."""


@dataclass(frozen=True, kw_only=True)
class RobotParameters(NodeParameters):
    contract: str = parameter(help="Contract: a shipped name or a YAML file.")
    camera_rate_hz: float = parameter(help="Pictures of each camera.", low=1.0, high=120.0, unit="Hz")


class RobotNode(LavlaNode):
    parameters_type = RobotParameters
    parameters: RobotParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("robot", **options)

    def start(self) -> None:
        contract, made = load_contract(self.parameters.contract), self.activated
        self._state = made.publisher(JointState, contract.wire(contract.state.topic), STATE_QOS)
        self._command = made.publisher(JointTrajectory, contract.wire(contract.action.topic), STATE_QOS)
        self._states = joint_state(contract.state.names)
        self._commands = single_point(contract.action.names, int(PERIOD_S * 1e9))
        self._cameras = [
            (
                made.publisher(Image, contract.wire(spec.observation_topic), IMAGE_QOS),
                ImageBuffer(spec.name),
                [_picture(number, spec.height, spec.width) for number in range(FRAMES)],
            )
            for spec in contract.cameras
        ]
        self._shown = 0
        report = made.publisher(String, topics.EXECUTOR_STATE, LATCHED_QOS)
        report.publish(String(data=ExecutorReport(state="tracking", commander="policy").to_json()))
        made.timer(PERIOD_S, self._tick)
        made.timer(1.0 / self.parameters.camera_rate_hz, self._show)

    def _tick(self) -> None:
        now_ns = self.now_ns()
        for publisher, message in ((self._state, self._states), (self._command, self._commands)):
            set_stamp(message.header.stamp, now_ns)
            publisher.publish(message)

    def _show(self) -> None:
        for publisher, buffer, pictures in self._cameras:
            publisher.publish(buffer.fill(pictures[self._shown % FRAMES], self.now_ns()))
        self._shown += 1


def _picture(number: int, height: int, width: int) -> Any:
    """(H, W, 3) uint8: coloured patches in front of a shaded ground, with a camera's noise."""
    drawn = np.random.default_rng(number)
    ground = np.linspace(90, 170, width)[None, :, None] + np.linspace(-30, 30, height)[:, None, None]
    picture = np.ascontiguousarray(np.broadcast_to(ground, (height, width, 3)), np.float32)
    for patch in range(12):
        at = tuple(int(v) for v in np.random.default_rng(patch).uniform(0, (width, height)) + number)
        colour = tuple(float(v) for v in np.random.default_rng(patch).uniform(20, 230, 3))
        cv2.circle(picture, at, width // 14, colour, -1)
    return np.clip(picture + drawn.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def main() -> int:
    return run_node(RobotNode)


if __name__ == "__main__":
    sys.exit(main())
