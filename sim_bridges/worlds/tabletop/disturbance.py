"""Bursts of joint offsets on the tabletop (see :mod:`sim_bridges.disturbance`), never into the table."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lavla_ros.contract import ActionChunk
from lavla_ros.jaka.limits import JOINT_NAMES
from sim_bridges.disturbance import BurstConfig, Bursts
from sim_bridges.worlds.tabletop.robot import FINGERTIP_BELOW_GRASP_M
from sim_bridges.worlds.tabletop.scene import TABLE_Z_M
from sim_bridges.worlds.tabletop.tool import tool_of


@dataclass(frozen=True, kw_only=True)
class DisturbanceConfig(BurstConfig):
    """How often, how long and how strong."""

    start_probability: float = 0.07
    steps: tuple[int, int] = (5, 9)
    size = len(JOINT_NAMES)
    std: tuple[float, ...] = (0.060, 0.040, 0.040, 0.015, 0.030, 0.080)
    """Of the burst's largest offset, rad, joint_1 first. It swells and ebbs away within the
    burst, so that the executor can follow. Steps add up: the expert goes on from where it was pushed to."""
    clearance_m: float = 0.004
    """A push that would bring the fingertips nearer to the table than this is turned around, or left out."""


class DisturbanceSource:
    """The bursts of one episode: the same seed gives the same bursts."""

    def __init__(self, config: DisturbanceConfig, seed: int) -> None:
        self.config = config
        self._bursts = Bursts(config, seed)

    def apply(self, chunk: ActionChunk) -> ActionChunk:
        """The chunk with the step's offset on its joints; the chunk itself between bursts."""
        bursts = self._bursts
        if swell := bursts.swell():
            columns = [chunk.names.index(n) for n in JOINT_NAMES]
            lowest = TABLE_Z_M + FINGERTIP_BELOW_GRASP_M + self.config.clearance_m
            for sign in (1.0, -1.0):
                offset = sign * swell * bursts.offset
                tool, _ = tool_of(chunk.actions_HA[0, columns] + offset)
                if float(tool[2]) >= lowest:
                    bursts.offset = sign * bursts.offset
                    actions = chunk.actions_HA.copy()
                    actions[:, columns] += offset
                    return replace(chunk, actions_HA=actions)
        return chunk
