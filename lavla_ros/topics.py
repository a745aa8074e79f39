"""Names of topics and services that no contract has: relative, so that each goes with the namespace of its node.

A bag has them, like the contract's topics, as they are without a namespace (:func:`in_bag`): what a stack in a
namespace has recorded is read like every other bag. ``python -m lavla_ros.topics`` prints docs/reference/topics.md.
"""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path

ACTION_CHUNK = "action_chunk"
"""trajectory_msgs/JointTrajectory: the policy's chunks, to the executor. One node publishes at a time."""
PERSON_CHUNK = "person_chunk"
"""trajectory_msgs/JointTrajectory: a person's chunks, to the executor. They come before those of `action_chunk`."""
TELEOP_EVENTS = "teleop/events"
"""std_msgs/String: JSON, what a person holds now on the console's page or in another program."""
EPISODE_STATE = "episode/state"
"""std_msgs/String, latched: JSON (`lavla_ros.episode.EpisodeState`) of every simulator and of the recorder."""
EXECUTOR_STATE = "executor/state"
"""std_msgs/String, latched: JSON (`lavla_ros.episode.ExecutorReport`) of the executor: why the arm stands."""
TOOL_WRENCH = "tool_wrench"
"""geometry_msgs/WrenchStamped: what presses on the tool, of an arm with a force sensor; from the executor."""
DIAGNOSTICS = "diagnostics"
"""diagnostic_msgs/DiagnosticArray: what every node says of itself, once a second."""
CLOCK = "clock"
"""rosgraph_msgs/Clock: the time of a simulator in lock-step."""

EPISODE_RESET = "episode/reset"
"""std_srvs/Trigger: the simulator begins its next episode."""
EPISODE_START, EPISODE_STOP, EPISODE_DISCARD = "episode/start", "episode/stop", "episode/discard"
"""std_srvs/Trigger: the recorder begins an episode, ends and keeps it, or ends and deletes it."""
EPISODE_MARK = "episode/mark"
"""std_srvs/SetBool: whether the episode that is being recorded is a success."""
EPISODE_CHECK = "episode/check"
"""std_srvs/Trigger: whether every stream reaches the recorder; the answer names those that do not."""
EXECUTOR_HOLD, EXECUTOR_RESUME = "executor/hold", "executor/resume"
"""std_srvs/Trigger: the arm comes to rest and stays; it may move again."""
EXECUTOR_HAND_BACK = "executor/hand_back"
"""std_srvs/Trigger: a person who has taken over gives the arm back to the policy."""
EXECUTOR_ACKNOWLEDGE = "executor/acknowledge"
"""std_srvs/Trigger: the fault is cleared. Nothing moves before `executor/resume`."""
EXECUTOR_HOME = "executor/home"
"""std_srvs/Trigger: the arm moves to its pose `home`, and holds there."""
EXECUTOR_MOVE_TO = "executor/move_to"
"""rcl_interfaces/SetParametersAtomically: the arm moves to a pose, and holds there: every joint by name, or `pose`."""
EXECUTOR_POWER_ON, EXECUTOR_ENABLE = "executor/power_on", "executor/enable"
"""std_srvs/Trigger: the arm gets power; its servos are enabled."""


def in_bag(topic: str) -> str:
    """The name that a topic has in bags, and in a stack without a namespace."""
    return f"/{topic.lstrip('/')}"


def page() -> str:
    """docs/reference/topics.md: the names of this module with their types and meaning."""
    lines = [
        "# Topics and services",
        "",
        "Every name is relative: in a stack with `namespace:=left`, `action_chunk` is `/left/action_chunk`. A bag has",
        "the names of a stack without a namespace. The contract names the other topics: those of the cameras, of the",
        "state, of the commands and of the instruction. `python -m lavla_ros.topics` prints this page.",
        "",
        "| name | type | meaning |",
        "|---|---|---|",
    ]
    for made, said in pairwise(ast.parse(Path(__file__).read_text(encoding="utf-8")).body):
        if isinstance(made, ast.Assign) and isinstance(said, ast.Expr):
            names, (kind, _, meaning) = ast.literal_eval(made.value), ast.literal_eval(said.value).partition(": ")
            named = ", ".join(f"`{name}`" for name in ([names] if isinstance(names, str) else names))
            lines.append(f"| {named} | {kind} | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
