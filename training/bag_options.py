"""What is taken from bags. Imports little: the help of the command line waits for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BagOptions:
    """Which episodes of bags are converted, and how."""

    outcomes: tuple[str, ...] = ("succeeded",)
    """Outcomes of the episodes to convert; add "unmarked" for bags of other recorders."""
    instruction: str | None = None
    """Instruction for bags that contain none."""
    allow_gaps: bool = False
    """Keep episodes that lost steps; capture_ns has the true times."""
    min_steps: int = 2
    """Smallest number of steps of an episode; shorter ones are rejected."""
    allow_contract_differences: bool = False
    """Convert bags that were recorded under another contract, if topics and names fit."""
    log_time: tuple[str, ...] = ()
    """Streams (cameras, state, command) whose log times are used, because their stamps are 0 or come from another
    clock."""
    marks_topic: str = ""
    """Topic (std_msgs/String or Bool) on which another recorder says when an episode begins and ends."""
