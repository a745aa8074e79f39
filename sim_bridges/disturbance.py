"""Short, seeded bursts of offsets for recording demonstrations that show recovery.

After DART (Laskey et al. 2017, "DART: Noise Injection for Robust Imitation Learning"): what is *executed* is
disturbed, what is *recorded* is the expert's clean answer to where the disturbance has led.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavla_ros.config import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstConfig:
    """How often bursts come, and how long they last."""

    start_probability: float
    """Chance per undisturbed step that a burst starts."""
    steps: tuple[int, int]
    """Shortest and longest burst, steps."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.start_probability <= 1.0:
            raise ConfigError(f"start_probability is {self.start_probability}; expected 0 to 1")
        if not 1 <= self.steps[0] <= self.steps[1]:
            raise ConfigError(f"steps is {self.steps}; expected 1 <= shortest <= longest")


class Bursts:
    """The bursts of one episode: the same seed gives the same ones. Call :meth:`swell` once per step."""

    def __init__(self, config: BurstConfig, std: Sequence[float], seed: int) -> None:
        """``std``: standard deviations of the offset at a burst's height."""
        self._config, self._std = config, tuple(std)
        self._rng = np.random.default_rng([seed, 20_17])
        self._left, self._length = 0, 1
        self.offset = np.zeros(len(self._std))
        """At the height of the present burst."""

    def swell(self) -> float:
        """The part of ``offset`` for this step: it rises from 0 to 1 and falls again; 0 between bursts."""
        if self._left == 0:
            if self._rng.random() >= self._config.start_probability:
                return 0.0
            shortest, longest = self._config.steps
            self._length = self._left = int(self._rng.integers(shortest, longest + 1))
            self.offset = self._rng.normal(0.0, self._std)
        part = math.sin(math.pi * (self._left - 0.5) / self._length)
        self._left -= 1
        return part
