"""Short, seeded bursts of offsets for recording demonstrations that show recovery.

After DART (Laskey et al. 2017, "DART: Noise Injection for Robust Imitation Learning"): what is *executed* is
disturbed, what is *recorded* is the expert's clean answer to where the disturbance has led.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lavla_ros.config import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstConfig:
    """How often bursts come, and how long they last."""

    start_probability: float
    """Chance per undisturbed step that a burst starts."""
    steps: tuple[int, int]
    """Shortest and longest burst, steps."""
    std: tuple[float, ...]
    """Standard deviations of the offset at a burst's height."""
    size: ClassVar[int]
    """How many of them there are."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.start_probability <= 1.0:
            raise ConfigError(f"start_probability is {self.start_probability}; expected 0 to 1")
        if not 1 <= self.steps[0] <= self.steps[1]:
            raise ConfigError(f"steps is {self.steps}; expected 1 <= shortest <= longest")
        if len(self.std) != self.size or min(self.std) < 0:
            raise ConfigError(f"std is {self.std}; expected {self.size} values >= 0")


class Bursts:
    """The bursts of one episode: the same seed gives the same ones. Call :meth:`swell` once per step."""

    def __init__(self, config: BurstConfig, seed: int) -> None:
        self._config = config
        self._rng = np.random.default_rng([seed, 20_17])
        self._left, self._length = 0, 1
        self.offset = np.zeros(config.size)
        """At the height of the present burst."""

    def swell(self) -> float:
        """The part of ``offset`` for this step: it rises from 0 to 1 and falls again; 0 between bursts."""
        if self._left == 0:
            if self._rng.random() >= self._config.start_probability:
                return 0.0
            shortest, longest = self._config.steps
            self._length = self._left = int(self._rng.integers(shortest, longest + 1))
            self.offset = self._rng.normal(0.0, self._config.std)
        part = math.sin(math.pi * (self._left - 0.5) / self._length)
        self._left -= 1
        return part
