"""Contracts, states and chunks that the control tests share."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from lavla_ros.contract import ActionChunk, Contract, load_contract
from lavla_ros.control.arm import ArmState
from lavla_ros.control.clearance import Clearance
from lavla_ros.control.executor import ChunkExecutor, Command, ExecutorConfig
from lavla_ros.control.scene import Box, Plane, load_scene
from lavla_ros.jaka.arm import MINICOBO

CONTRACT = load_contract("jaka_minicobo")
MS = 1_000_000
TICK_S = 0.008
T0 = 10**18
HOME = [0.0, 0.0, 1.2, 0.0, 1.2, 0.0]


def arm(stamp_ns: int, position: Any, *, enabled: bool = True, servo_mode: bool = True, fault: str | None = None):
    return ArmState(
        stamp_ns=stamp_ns,
        position_rad=np.array(position, dtype=float),
        gripper=1.0,
        enabled=enabled,
        servo_mode=servo_mode,
        fault=fault,
    )


def chunk_of(points: Any, stamp_ns: int, *, gripper: Any = 1.0, contract: Contract = CONTRACT) -> ActionChunk:
    """A chunk of (H, 6) arm values and one gripper value, or one per step."""
    arm_H6 = np.atleast_2d(np.asarray(points, dtype=float))
    gripper_H1 = np.broadcast_to(np.asarray(gripper, dtype=float), len(arm_H6))[:, None]
    return ActionChunk(
        stamp_ns=stamp_ns, dt_ns=contract.dt_ns, actions_HA=np.hstack((arm_H6, gripper_H1)), names=contract.action.names
    )


def variant(space: str, mode: str) -> Contract:
    """The MiniCobo's contract with another action space."""
    data = CONTRACT.to_dict()
    names = [f"joint_{i}" for i in range(1, 7)] if space == "joint" else ["x", "y", "z", "rx", "ry", "rz"]
    bound = 0.3 if mode == "delta" else 7.0
    arms = [{"name": n, "unit": "rad", "kind": "arm", "low": -bound, "high": bound} for n in names]
    data["action"] |= {"space": space, "mode": mode, "dims": [*arms, data["action"]["dims"][-1]]}
    return Contract.from_dict(data)


TABLE_M = -0.05
"""Height of the table of :func:`cramped`."""


def over(height_m: float, x_m: float = -0.30, y_m: float = 0.0, table_m: float = TABLE_M) -> np.ndarray:
    """Joint positions (6,) with the tool straight down and the fingertips at a height above the table."""
    target = np.array([[1, 0, 0, x_m], [0, -1, 0, y_m], [0, 0, -1, table_m + height_m + 0.152], [0, 0, 0, 1]], float)
    assert MINICOBO.kinematics is not None
    return MINICOBO.kinematics.inverse(target, np.array(MINICOBO.start_rad), MINICOBO.limits)


def ramp(start: Any, offset: Any, seconds: float = 2.0, steps: int = 20) -> np.ndarray:
    """(steps, 6) points at 10 Hz of a smooth motion that takes ``seconds``."""
    u = np.clip(np.arange(1, steps + 1)[:, None] * 0.1 / seconds, 0.0, 1.0)
    return np.asarray(start) + np.asarray(offset) * (u * u * (3.0 - 2.0 * u))


def cramped() -> Clearance:
    """The MiniCobo with the tabletop's gripper over a high table, with a post beside it."""
    assert MINICOBO.chain is not None
    scene = replace(
        load_scene("tabletop"),
        planes=(Plane(name="table", point_m=(0.0, 0.0, TABLE_M), normal=(0.0, 0.0, 1.0)),),
        boxes=(Box(name="post", centre_m=(-0.25, 0.3, 0.1), size_m=(0.1, 0.1, 0.5)),),
    )
    return Clearance(MINICOBO.chain, MINICOBO.capsules, scene)


class Bench:
    """An executor with an arm that is where it was commanded to be one tick ago."""

    def __init__(
        self, start: Any = HOME, contract: Contract = CONTRACT, clearance: Clearance | None = None, **overrides: Any
    ) -> None:
        self.contract = contract
        self.config = ExecutorConfig.from_contract(contract, **overrides)
        self.executor = ChunkExecutor(contract, self.config, clearance)
        self.now_ns = T0
        self.measured = np.array(start, dtype=float)
        self.start = self.measured
        self.executor.activate(arm(self.now_ns, self.measured), self.now_ns)
        self.commands: list[Command] = []

    def tick(self, count: int = 1, **state: Any) -> Command:
        for _ in range(count):
            position = state.pop("position", None) if count == 1 else None
            measured = self.measured if position is None else position
            age_ns = state.get("age_ns", 0)
            rest = {k: v for k, v in state.items() if k != "age_ns"}
            command = self.executor.tick(self.now_ns, arm(self.now_ns - age_ns, measured, **rest))
            self.measured = command.position_rad
            self.commands.append(command)
            self.now_ns += 8 * MS
        return self.commands[-1]

    def clear(self) -> None:
        """Acknowledge the fault and let the arm move again, as a person does."""
        assert self.executor.acknowledge(self.now_ns), self.executor.refusal
        self.tick()
        self.executor.resume(self.now_ns - 1)

    def assert_within_limits(self, scale: float = 1.0) -> None:
        assert_within_limits(self.positions, self.config, scale, restarts_of(self.commands, self.config))

    def run_until(self, time_ns: int) -> None:
        while self.now_ns < time_ns:
            self.tick()

    def submit(self, chunk: ActionChunk, at_ns: int | None = None):
        return self.executor.submit(chunk, self.now_ns if at_ns is None else at_ns)

    @property
    def positions(self) -> np.ndarray:
        return np.array([self.start, *(c.position_rad for c in self.commands)])

    @property
    def counters(self) -> dict[str, int]:
        return self.executor.counters


# Rounding of ruckig's solutions, seen through first to third differences over 8 ms.
TOLERANCE = {1: 1e-6, 2: 1e-5, 3: 1e-2}


def restarts_of(commands: list[Command], config: ExecutorConfig) -> list[int]:
    """Indices of the commands before which too many cycles were missed: the arm stood still there."""
    gaps = np.diff([c.stamp_ns for c in commands])
    return [int(i) + 1 for i in np.flatnonzero(gaps > (config.bridged_ticks + 1) * config.tick_ns)]


def assert_within_limits(
    positions_NJ: np.ndarray, config: ExecutorConfig, scale: float = 1.0, restarts: list[int] | None = None
) -> None:
    """Finite, and within every limit by finite differences of consecutive commands, at rest before the first, and
    at rest again before every command of ``restarts`` (indices of commands, which follow the starting position)."""
    limits = config.limits
    assert np.isfinite(positions_NJ).all()
    assert (positions_NJ >= np.minimum(limits.lower(), positions_NJ[0]) - 1e-6).all(), positions_NJ.min(0)
    assert (positions_NJ <= np.maximum(limits.upper(), positions_NJ[0]) + 1e-6).all(), positions_NJ.max(0)
    bounds = (np.array(limits.velocity_rad_s) * scale, limits.acceleration_rad_s2, limits.jerk_rad_s3)
    edges = [0, *(restarts or []), len(positions_NJ) - 1]
    for first, last in pairwise(edges):
        # From the position at which the arm stands when the first command of this stretch comes.
        stretch = positions_NJ[first : last + 1]
        positions = np.vstack((np.repeat(stretch[:1], 3, axis=0), stretch))
        for order, bound in enumerate(bounds, start=1):
            measured = np.abs(np.diff(positions, order, axis=0)) / TICK_S**order
            worst = np.unravel_index(np.argmax(measured - bound), measured.shape)
            assert (measured <= np.asarray(bound) + TOLERANCE[order]).all(), (first, order, worst, measured[worst])
