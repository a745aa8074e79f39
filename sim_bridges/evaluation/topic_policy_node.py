"""A policy node on the far side of ROS topics, seen as an actor of the episode loop.

What goes out is what a policy node hears on the arm, with prepared images on ``/observation/<camera>``; what comes
back is ``/action_chunk``. The policy node needs ``use_sim_time``: stamps are simulated time, which stands still while
it thinks.
"""

from __future__ import annotations

import threading

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from lavla_ros.contract import ActionChunk, Contract, Observation
from lavla_ros.episode import EpisodePhase
from lavla_ros.ros.client import spin
from lavla_ros.ros.scope import Scope
from sim_bridges.lockstep.topics import BridgeError, LockstepTopics
from sim_bridges.world import EpisodePlan


class TopicActor:
    """Acts by what a policy node answers over topics. One per process."""

    needs_images = True
    done = False

    def __init__(self, contract: Contract, *, domain: int | None, timeout_s: float, every: int) -> None:
        """``domain``: ROS domain of the policy node; None: that of the environment. Raises BridgeError if no policy
        node is there."""
        self.every = every
        self._context = Context()
        self._context.init(domain_id=domain)
        self._node = Node("evaluation", context=self._context)
        self._topics = LockstepTopics(Scope(self._node), contract, timeout_s=timeout_s, commanded=True, prepared=True)
        self._plan: EpisodePlan | None = None
        """Of an episode that has not begun: its instruction comes with the first observation."""
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=spin, args=(self._executor,), name="spin", daemon=True)
        self._thread.start()
        try:
            self._topics.wait_for_listeners()
        except BridgeError:
            self.close()
            raise

    def reset(self, plan: EpisodePlan) -> None:
        self._plan = plan

    def chunk(self, observation: Observation) -> ActionChunk:
        """Publish the observation and await its chunk. Raises BridgeError when none comes in time."""
        if (plan := self._plan) is not None:
            self._topics.describe(task=plan.task, seed=plan.seed, initial_state=plan.state_index, trial=plan.trial)
            self._topics.prepare(observation.instruction, first_ns=observation.stamp_ns)
            self._topics.begin()
            self._plan = None
        self._topics.observe(observation.stamp_ns, observation.state, observation.images)
        return self._topics.chunk(observation.stamp_ns, steps=self.every)

    def finish(self, *, success: bool) -> None:
        self._topics.announce(EpisodePhase.SUCCEEDED if success else EpisodePhase.FAILED)

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self._node.destroy_node()
        self._context.try_shutdown()
