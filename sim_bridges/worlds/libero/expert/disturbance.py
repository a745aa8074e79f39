"""Bursts of offsets on LIBERO's actions (see :mod:`sim_bridges.disturbance`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lavla_ros.config import ConfigError
from lavla_ros.contract import ActionChunk
from sim_bridges.disturbance import BurstConfig, Bursts


@dataclass(frozen=True, kw_only=True)
class DisturbanceConfig(BurstConfig):
    """How often, how long (20 Hz steps) and how strong."""

    start_probability: float = 0.04
    steps: tuple[int, int] = (4, 8)
    size = 6
    std: tuple[float, ...] = (0.5, 0.5, 0.3, 0.05, 0.05, 0.15)
    """Of a burst's largest offset: position and axis-angle commands, where 1 is 5 cm or 0.5 rad.
    The vertical offset is taken upwards: pushed down, fingers would press on the table and on what is under them."""


class DisturbanceSource:
    """The bursts of one episode: the same seed gives the same bursts. Call :meth:`apply` once per step."""

    def __init__(self, config: DisturbanceConfig, seed: int) -> None:
        self._bursts = Bursts(config, seed)

    def apply(self, chunk: ActionChunk) -> ActionChunk:
        """What to execute instead of the expert's action (1, 7), within ±1. The gripper's command is left alone.

        Raises ValueError for another shape.
        """
        if chunk.actions_HA.shape != (1, 7):
            raise ConfigError(f"the chunk has shape {chunk.actions_HA.shape}; the expert gives one action of 7 values")
        push = self._bursts.swell() * self._bursts.offset
        push[2] = abs(push[2])
        executed = chunk.actions_HA.copy()
        executed[0, :6] = np.clip(executed[0, :6] + push, -1.0, 1.0)
        return replace(chunk, actions_HA=executed)
