"""What the lock-step node is told: how it runs, and which episode."""

from __future__ import annotations

from dataclasses import dataclass

from lavla_ros.ros.parameters import NodeParameters, parameter
from sim_bridges.lockstep.config import PATIENCE_S


@dataclass(frozen=True, kw_only=True)
class LockstepParameters(NodeParameters):
    commander: str = parameter("topic", "Who acts: /action_chunk, or the expert.", choices=("topic", "expert"))
    policy: str = parameter(
        "", "Expert: checkpoint, or bundled, that acts instead, and that the expert corrects; empty: the expert alone."
    )
    patience_s: float = parameter(
        PATIENCE_S, "The expert takes over from the policy after so long without progress.", low=0.1, unit="s"
    )
    disturb: bool = parameter(False, "Expert: push the arm now and then; the published commands stay clean (DART).")
    replan_steps: int = parameter(0, "Steps between two pictures for the policy; 0: the suite's own.", low=0, high=256)
    max_steps: int = parameter(
        0, "Number of steps after which an episode has failed; 0: the official limit.", low=0, high=10_000
    )
    episodes: int = parameter(0, "Episodes that begin by themselves; 0: only at /episode/reset.", low=0, high=10_000)
    every: int = parameter(1, "Distance between the initial states, or seeds, of two of them.", low=1, high=64)
    exit_when_done: bool = parameter(False, "End after the last of these; with status 1 after an error.")
    record: bool = parameter(False, "Record every episode through the recorder node's services.")
    progress: str = parameter("", "File that gets one JSON line per episode.")
    timeout_s: float = parameter(10.0, "Wait for a chunk, a subscriber or a service.", low=0.1, high=600.0, unit="s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An episode to be run."""

    suite: str
    task: str
    seed: int
    initial_state: int
    number: int | None
    """Among the episodes that begin by themselves; None: exactly this one was asked for."""
