"""What goes into the executor and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class ExecutorState(IntEnum):
    """IDLE → (activate) → HOLDING ⇄ TRACKING → FAULT, which stays until a person acknowledges."""

    IDLE = 0
    """Not activated: nothing may be sent."""
    TRACKING = 1
    """Following an action chunk, or on the way of a move."""
    HOLDING = 2
    """No chunk to follow: ramping to rest, then keeping still."""
    FAULT = 3
    """Latched: ramping to rest, then keeping still, and refusing chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to send in this cycle. It is meant to be reached one cycle (8 ms) after ``stamp_ns``."""

    stamp_ns: int
    position_rad: NDArray[np.float64]
    """(dof,) in the order of ``ExecutorConfig.joint_names``."""
    velocity_rad_s: NDArray[np.float64]
    """(dof,) velocity of the commanded motion at the end of the cycle."""
    gripper: float
    """1 open, 0 closed."""
    state: ExecutorState
    fault: str | None
    """Cause of the latched fault; None unless ``state`` is FAULT."""
    chunk_stamp_ns: int | None
    """Stamp of the chunk being followed; None unless ``state`` is TRACKING, and while that is a move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitResult:
    """Whether a chunk is being executed now, and if not, why."""

    accepted: bool
    reason: str
    """``"accepted"``, or a sentence naming the offending value and the limit."""
