"""Bursts of joint offsets on the stand-in (see :mod:`sim_bridges.disturbance`), never into the table."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lavla_ros.config import ConfigError
from lavla_ros.contract import ActionChunk
from sim_bridges.disturbance import BurstConfig, Bursts
from sim_bridges.worlds.robotwin.interface import ARM_JOINTS, COMMAND_SIZE
from sim_bridges.worlds.robotwin.standin.kinematics import LIMITS_RAD, forward
from sim_bridges.worlds.robotwin.standin.robot import BASES_M, SIDES

_LOWEST_M = 0.755
"""No push brings a tool point below: fingertips stay 5 mm above the table."""


@dataclass(frozen=True, kw_only=True)
class DisturbanceConfig(BurstConfig):
    """How often, how long (commands) and how strong."""

    start_probability: float = 0.05
    steps: tuple[int, int] = (3, 6)
    size = ARM_JOINTS
    std: tuple[float, ...] = (0.05, 0.03, 0.03, 0.02, 0.03, 0.08)
    """Of a burst's largest offset, rad, the first joint first, of either arm. Commands add up: the expert
    goes on from where it was pushed to."""
    holding: float = 0.3
    """Part of a push that an arm gets whose gripper is closed: hands that hold one thing must not tear it apart."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.holding <= 1.0:
            raise ConfigError(f"holding is {self.holding}; expected 0 to 1")


class DisturbanceSource:
    """The bursts of one episode, of each arm its own: the same seed gives the same ones. One call per command."""

    def __init__(self, config: DisturbanceConfig, seed: int) -> None:
        self._holding = config.holding
        self._bursts = [Bursts(config, 2 * seed + arm) for arm in range(len(SIDES))]

    def apply(self, chunk: ActionChunk) -> ActionChunk:
        """What to execute instead of the expert's command (1, 14), within the joints' limits. Grippers are left alone;
        so is an arm that a push would bring too near to the table. Raises ValueError for another shape."""
        if chunk.actions_HA.shape != (1, COMMAND_SIZE):
            raise ConfigError(f"the chunk has shape {chunk.actions_HA.shape}; expected (1, {COMMAND_SIZE})")
        command = chunk.actions_HA[0]
        executed = command.copy()
        low, high = np.array(LIMITS_RAD).T
        for index, (side, bursts) in enumerate(zip(SIDES, self._bursts, strict=True)):
            joints = slice(index * (ARM_JOINTS + 1), index * (ARM_JOINTS + 1) + ARM_JOINTS)
            part = bursts.swell() * (self._holding if command[joints.stop] < 0.5 else 1.0)
            pushed = np.clip(command[joints] + part * bursts.offset, low, high)
            height = BASES_M[side][2] + forward(pushed)[0][2]
            if height >= min(_LOWEST_M, BASES_M[side][2] + forward(command[joints])[0][2]):
                executed[joints] = pushed
        return replace(chunk, actions_HA=executed[None])
