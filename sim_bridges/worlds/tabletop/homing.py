"""A calm way home: minimum-jerk action chunks from wherever the arm is, through the same executor as a policy's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import ActionChunk, Contract, ContractError
from lavla_ros.jaka.limits import JOINT_NAMES
from lavla_ros.typing import NS_PER_S
from sim_bridges.worlds.tabletop.render import CAMERAS

SOURCE = "tabletop homing"
"""Whose its chunks are."""
PEAK_SPEED_RAD_S = 0.8
"""Top speed of the joint that has furthest to go."""
SHORTEST_S = 1.0
GRIPPER = "gripper"


def require_tabletop_contract(contract: Contract) -> None:
    """Raise ContractError unless the tabletop has the contract's cameras and takes its actions."""
    unknown = sorted(set(contract.camera_names) - set(CAMERAS))
    if unknown:
        raise ContractError(f"contract {contract.name} has the cameras {unknown}; the tabletop has {list(CAMERAS)}")
    wanted, action = {*JOINT_NAMES, GRIPPER}, contract.action
    if set(action.names) != wanted or action.space != "joint" or action.mode != "absolute":
        raise ContractError(f"contract {contract.name} does not command the tabletop's {sorted(wanted)} absolutely")


@dataclass(frozen=True, slots=True, kw_only=True)
class Homing:
    """One motion from ``start_rad`` to ``goal_rad`` (both (6,)), begun at ``begin_ns``, with the gripper open."""

    begin_ns: int
    start_rad: NDArray[np.float64]
    goal_rad: NDArray[np.float64]

    @property
    def duration_s(self) -> float:
        # A minimum-jerk profile peaks at 1.875 times its mean speed.
        furthest = float(np.abs(self.goal_rad - self.start_rad).max())
        return max(SHORTEST_S, 1.875 * furthest / PEAK_SPEED_RAD_S)

    def position_rad(self, time_ns: int) -> NDArray[np.float64]:
        """(6,) joint positions due at ``time_ns``."""
        s = float(np.clip((time_ns - self.begin_ns) / (self.duration_s * NS_PER_S), 0.0, 1.0))
        return self.start_rad + (self.goal_rad - self.start_rad) * s**3 * (10.0 - 15.0 * s + 6.0 * s**2)

    def chunk(self, contract: Contract, now_ns: int) -> ActionChunk:
        """The next ``chunk_size`` steps. For contracts with the arm's joints and a gripper as absolute actions."""
        rows = []
        for step in range(contract.chunk_size):
            due = self.position_rad(now_ns + (step + 1) * contract.dt_ns)
            values = dict(zip(JOINT_NAMES, due, strict=True)) | {GRIPPER: 1.0}
            rows.append([float(values[name]) for name in contract.action.names])
        return ActionChunk(
            stamp_ns=now_ns, dt_ns=contract.dt_ns, actions_HA=np.array(rows), names=contract.action.names
        )
