"""Short, seeded bursts of action offsets for recording demonstrations that show recovery.

After DART (Laskey et al. 2017, "DART: Noise Injection for Robust Imitation Learning"): what is *executed* is
disturbed, what is *recorded* is the expert's clean answer to where the disturbance has led.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sim_bridges.libero.expert.boxes import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class DisturbanceConfig:
    """How often, how long and how strong."""

    start_probability: float = 0.04
    """Chance per undisturbed step that a burst starts."""
    steps: tuple[int, int] = (4, 8)
    """Shortest and longest burst, 20 Hz steps."""
    action_std: tuple[float, ...] = (0.5, 0.5, 0.3, 0.05, 0.05, 0.15)
    """Standard deviation of a burst's largest offset: position and axis-angle commands, where 1 is 5 cm or 0.5 rad.
    The vertical offset is taken upwards: pushed down, fingers would press on the table and on what is under them."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.start_probability <= 1.0:
            raise ValueError(f"start_probability is {self.start_probability}; expected 0 to 1")
        if not 1 <= self.steps[0] <= self.steps[1]:
            raise ValueError(f"steps is {self.steps}; expected 1 <= shortest <= longest")
        if len(self.action_std) != 6 or min(self.action_std) < 0:
            raise ValueError(f"action_std is {self.action_std}; expected 6 values >= 0")


class DisturbanceSource:
    """The bursts of one episode: the same seed gives the same bursts. Call :meth:`apply` once per step."""

    def __init__(self, config: DisturbanceConfig, seed: int) -> None:
        self.config = config
        self._rng = np.random.default_rng([seed, 20_17])
        self._left, self._length = 0, 1
        self._offset = np.zeros(6)

    def apply(self, action: FloatArray) -> FloatArray:
        """What to execute instead of the expert's action (7,), within ±1. The gripper's command is left alone.

        Raises ValueError for another shape.
        """
        if action.shape != (7,):
            raise ValueError(f"the action has shape {action.shape}; LIBERO's actions have 7 values")
        executed = action.copy()
        executed[:6] = np.clip(action[:6] + self._next_offset(), -1.0, 1.0)
        return executed

    def _next_offset(self) -> FloatArray:
        if self._left == 0:
            if self._rng.random() >= self.config.start_probability:
                return np.zeros(6)
            self._length = self._left = int(self._rng.integers(self.config.steps[0], self.config.steps[1] + 1))
            self._offset = self._rng.normal(0.0, self.config.action_std)
            self._offset[2] = abs(self._offset[2])
        swell = math.sin(math.pi * (self._left - 0.5) / self._length)
        self._left -= 1
        return swell * self._offset
