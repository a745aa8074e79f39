"""Names of topics and services that no contract has: relative, so that each goes with the namespace of its node.

A bag has them, like the contract's topics, as they are without a namespace (:func:`in_bag`): what a stack in a
namespace has recorded is read like every other bag.
"""

from __future__ import annotations

ACTION_CHUNK = "action_chunk"
"""trajectory_msgs/JointTrajectory: the policy's chunks, to the executor. One node publishes at a time."""
EPISODE_STATE = "episode/state"
"""std_msgs/String, latched: :class:`lavla_ros.episode.EpisodeState` of every simulator and of the recorder."""
EXECUTOR_STATE = "executor/state"
"""std_msgs/String, latched: :class:`lavla_ros.episode.ExecutorReport`."""
DIAGNOSTICS = "diagnostics"
"""diagnostic_msgs/DiagnosticArray of every node, once a second."""
CLOCK = "clock"
"""rosgraph_msgs/Clock of a simulator in lock-step."""

EPISODE_RESET = "episode/reset"
"""std_srvs/Trigger of a simulator: begin the next episode."""
EPISODE_START, EPISODE_STOP, EPISODE_DISCARD = "episode/start", "episode/stop", "episode/discard"
"""std_srvs/Trigger of the recorder."""
EPISODE_MARK = "episode/mark"
"""std_srvs/SetBool of the recorder: whether the episode in progress is a success."""
EPISODE_CHECK = "episode/check"
"""std_srvs/Trigger of the recorder: whether every stream comes."""


def executor_service(verb: str) -> str:
    """std_srvs/Trigger of the executor: hold, acknowledge, power_on, enable, resume."""
    return f"executor/{verb}"


def in_bag(topic: str) -> str:
    """The name that a topic has in bags, and in a stack without a namespace."""
    return f"/{topic.lstrip('/')}"
