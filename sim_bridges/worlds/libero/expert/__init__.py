"""Scripted experts for LIBERO: they see the simulator's state and give its 7-D actions at 20 Hz."""

from sim_bridges.worlds.libero.expert.disturbance import DisturbanceConfig, DisturbanceSource
from sim_bridges.worlds.libero.expert.expert import ExpertConfig, LiberoExpert, Phase
from sim_bridges.worlds.libero.expert.grasp import GraspConfig

__all__ = [
    "DisturbanceConfig",
    "DisturbanceSource",
    "ExpertConfig",
    "GraspConfig",
    "LiberoExpert",
    "Phase",
]
