"""A policy node on the far side of ROS topics, seen as a commander of the episode loop.

What goes out is what a policy node hears on the arm, with prepared images on ``/observation/<camera>``; what comes
back is ``/action_chunk``. The policy node needs ``use_sim_time``: stamps are simulated time, which stands still while
it thinks. Over the episodes of one process they keep rising, so that nobody sees time run backwards.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.contract import NS_PER_S, ActionChunk, Contract, Observation
from lavla_ros.nodes.lifecycle import set_stamp, stamp_to_ns
from lavla_ros.nodes.messages import LATCHED_QOS, ImageBuffer, joint_state, trajectory_to_chunk
from sim_bridges.evaluation.policies import Link, PolicyError
from sim_bridges.evaluation.suites import Plan

DEPTH = 50
"""Lock-step loses nothing: a slow subscriber may fall this many messages behind."""


class PolicySilentError(PolicyError):
    """No chunk came for an observation, or nobody listens."""


class TopicCommander:
    """See the module. One per process."""

    needs_images = True

    def __init__(self, contract: Contract, link: Link, *, every: int) -> None:
        self.every = every
        self._contract = contract
        self._timeout_s = link.timeout_s
        self._context = Context()
        self._context.init(domain_id=link.domain)
        self._node = node = Node("evaluation", context=self._context)
        self._buffers = {c.name: ImageBuffer(c.name) for c in contract.cameras}
        self._cameras = {c.name: node.create_publisher(Image, c.observation_topic, DEPTH) for c in contract.cameras}
        self._states = node.create_publisher(JointState, contract.state.topic, DEPTH)
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self._instruction = node.create_publisher(String, contract.instruction_topic, LATCHED_QOS)
        self._episode = node.create_publisher(String, "/episode/state", LATCHED_QOS)
        self._state_message = joint_state(contract.state.names)
        node.create_subscription(JointTrajectory, "/action_chunk", self._on_chunk, 10)
        self._chunk: JointTrajectory | None = None
        self._arrived = threading.Condition()
        self._offset_ns = NS_PER_S
        self._last_ns = 0
        self._plan: Plan | None = None
        self._announced = False
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name="spin", daemon=True)
        self._thread.start()
        self._wait_for_policy()

    def reset(self, plan: Plan) -> None:
        # Further apart than any replanning interval: a late picture of one episode must not silence the next.
        self._offset_ns += self._last_ns + self._contract.chunk_size * self._contract.dt_ns + NS_PER_S
        self._last_ns = 0
        self._plan, self._announced = plan, False
        self._announce("resetting")  # whatever became of the episode before: the policy forgets it at "running"
        self._wait_until_taken(self._episode)

    def chunk(self, observation: Observation) -> ActionChunk:
        """Publish the observation and await its chunk. Raises PolicySilentError when none comes in time."""
        if not self._announced:
            self._begin(observation.instruction)
        self._last_ns = observation.stamp_ns
        wanted_ns = observation.stamp_ns + self._offset_ns
        clock = Clock()
        set_stamp(clock.clock, wanted_ns)
        self._clock.publish(clock)
        set_stamp(self._state_message.header.stamp, wanted_ns)
        self._state_message.position = [float(v) for v in observation.state]
        self._states.publish(self._state_message)
        for name, image in observation.images.items():
            self._cameras[name].publish(self._buffers[name].fill(image, wanted_ns))
        with self._arrived:
            arrived = self._arrived.wait_for(
                lambda: self._chunk is not None and stamp_to_ns(self._chunk.header.stamp) == wanted_ns, self._timeout_s
            )
            message = self._chunk
        if not arrived or message is None:
            last = "none came" if message is None else f"the newest is of {stamp_to_ns(message.header.stamp)} ns"
            raise PolicySilentError(
                f"no /action_chunk for the observation of {wanted_ns} ns within {self._timeout_s:g} s ({last}); is the "
                f"policy node active, with use_sim_time, the same contract and replan_steps {self.every} or less?"
            )
        return replace(trajectory_to_chunk(message, self._contract), stamp_ns=observation.stamp_ns)

    def finish(self, *, success: bool) -> None:
        self._announce("succeeded" if success else "failed")

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def _begin(self, instruction: str) -> None:
        """Pictures must not overtake the instruction: a policy would take the first one for the episode before."""
        self._instruction.publish(String(data=instruction))
        self._announce("running")
        for publisher in (self._instruction, self._episode):
            self._wait_until_taken(publisher)
        self._announced = True

    def _wait_until_taken(self, publisher: Any) -> None:
        if not publisher.wait_for_all_acked(Duration(seconds=self._timeout_s)):
            raise PolicySilentError(f"a subscriber of {publisher.topic_name} takes no message ({self._timeout_s:g} s)")

    def _announce(self, state: str) -> None:
        assert self._plan is not None
        data = {
            "source": "simulator",
            "state": state,
            "task": self._plan.task,
            "seed": self._plan.seed,
            "trial": self._plan.trial,
        }
        self._episode.publish(String(data=json.dumps(data)))

    def _wait_for_policy(self) -> None:
        """Until somebody listens to every stream: what is published before would not arrive."""
        waiting = threading.Event()
        publishers = [*self._cameras.values(), self._states, self._instruction, self._episode]
        attempts = max(1, round(self._timeout_s / 0.05))
        for _ in range(attempts):
            missing = [f"subscriber of {p.topic_name}" for p in publishers if p.get_subscription_count() == 0]
            if self._node.count_publishers("/action_chunk") == 0:
                missing.append("publisher of /action_chunk")
            if not missing:
                return
            waiting.wait(0.05)
        self.close()
        raise PolicySilentError(
            f"no {', no '.join(missing)} after {self._timeout_s:g} s; does a policy node run, active, in this domain?"
        )

    def _on_chunk(self, message: JointTrajectory) -> None:
        with self._arrived:
            self._chunk = message
            self._arrived.notify_all()
