"""Random plans in a cramped cell: what comes closer than its margin, what is braked without need, what a tick costs.

The executor follows every plan twice, without a scene and with one, with an arm that is where it was commanded to be.
A stop is *needless* if the motion without the scene keeps :data:`SPARE_M` more than every margin, its end included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

from benchmarks.config import SceneBench
from lavla_ros.contract import ActionChunk, Contract, load_contract
from lavla_ros.control.arm import Arm, ArmState
from lavla_ros.control.arms import arm_named
from lavla_ros.control.chain import Chain
from lavla_ros.control.clearance import Clearance
from lavla_ros.control.executor import ChunkExecutor, ExecutorConfig
from lavla_ros.control.scene import Box, Capsule, Plane, Scene
from lavla_ros.defaults import DEFAULT_CONTRACT
from lavla_ros.typing import FloatArray

SPARE_M = 0.010
CHUNKS, CHUNK_TICKS, TICKS = 3, 63, 380
"""Overlapping chunks of a plan, ticks between two of them, and ticks until the last one is over and the arm rests."""
_T0_NS = 10**18
_ROUNDING = (1e-6, 1e-5, 1e-2)
"""Of velocity, acceleration and jerk, seen through differences over 8 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What came of one plan."""

    worst_m: float
    """Least slack on any tick; below 0: closer than the margin."""
    free_m: float
    """The same without the scene."""
    stops: int
    excess: float
    """How far a velocity, acceleration or jerk was beyond its limit, rounding apart; 0 or less: none was."""
    cost_us: FloatArray
    """(TICKS,) wall time of each tick with the scene: it counts what else the machine does."""

    @property
    def needless(self) -> bool:
        return self.stops > 0 and self.free_m >= SPARE_M


class Cell:
    """An arm with a tool over a table, between two posts."""

    def __init__(self, chain: Chain, arm: Arm) -> None:
        last = chain.joint_names[-1]
        reach_m = sum(float(np.linalg.norm(xyz)) for xyz in chain.origin_xyz_m)
        tool = Capsule(name="tool", link=last, start_m=chain.flange_xyz_m, end_m=_tip(chain), radius_m=0.03)
        post = (0.1, 0.1, 2.0 * reach_m)
        scene = Scene(
            planes=(Plane(name="table", point_m=(0.0, 0.0, -0.03), normal=(0.0, 0.0, 1.0)),),
            boxes=(
                Box(name="left post", centre_m=(0.1 * reach_m, 0.55 * reach_m, 0.0), size_m=post),
                Box(name="right post", centre_m=(-0.3 * reach_m, -0.45 * reach_m, 0.0), size_m=post),
            ),
            tool=(tool,),
        )
        self.contract = _contract(arm)
        self.limits = arm.limits
        self.config = replace(
            ExecutorConfig.from_contract(self.contract, arm),
            max_step_rad=10.0,
            max_start_jump_rad=10.0,
            max_engage_jump_rad=10.0,
            max_chunk_age_s=10.0,
        )
        self._clearance = partial(Clearance, chain, arm.capsules, scene)
        self.looked = self._clearance()

    def follow(self, seed: int, scale: float = 1.0) -> Followed:
        """A random plan from a random start that is clear; the same for the same ``seed``."""
        random = np.random.default_rng(seed)
        lower, upper = np.maximum(self.limits.lower(), -3.2), np.minimum(self.limits.upper(), 3.2)
        while True:
            start = random.uniform(lower, upper)
            if self.looked.slacks(start).min() > 0.005:
                break
        chunks = list(_plan(random, start, lower, upper))
        free_NJ, _, _ = self._run(start, chunks, scale, None)
        kept_NJ, stops, cost_us = self._run(start, chunks, scale, self._clearance())
        return Followed(
            worst_m=self._worst(kept_NJ),
            free_m=self._worst(free_NJ),
            stops=stops,
            excess=self._excess(start, kept_NJ, scale),
            cost_us=cost_us,
        )

    def _worst(self, path_NJ: FloatArray) -> float:
        return min(float(self.looked.slacks(position).min()) for position in path_NJ)

    def _excess(self, start: FloatArray, path_NJ: FloatArray, scale: float) -> float:
        limits, path_NJ = self.limits, np.vstack((np.repeat(start[None], 3, axis=0), path_NJ))
        bounds = (np.array(limits.velocity_rad_s) * scale, limits.acceleration_rad_s2, limits.jerk_rad_s3)
        differences = (np.abs(np.diff(path_NJ, order, axis=0)) / 0.008**order for order in (1, 2, 3))
        return max(
            float((found - np.asarray(bound)).max()) - rounding
            for found, bound, rounding in zip(differences, bounds, _ROUNDING, strict=True)
        )

    def _run(
        self, start: FloatArray, chunks: list[FloatArray], scale: float, clearance: Clearance | None
    ) -> tuple[FloatArray, int, FloatArray]:
        executor = ChunkExecutor(self.contract, replace(self.config, speed_scale=scale), clearance)
        now_ns, position = _T0_NS, start
        executor.activate(_state(now_ns, position), now_ns)
        path, cost_us = [], np.zeros(TICKS)
        for tick in range(TICKS):
            if tick % CHUNK_TICKS == 0 and tick // CHUNK_TICKS < len(chunks):
                actions = np.hstack((chunks[tick // CHUNK_TICKS], np.ones((len(chunks[0]), 1))))
                names, dt_ns = self.contract.action.names, self.contract.dt_ns
                executor.submit(ActionChunk(stamp_ns=now_ns, dt_ns=dt_ns, actions_HA=actions, names=names), now_ns)
            begun = time.perf_counter_ns()
            position = executor.tick(now_ns, _state(now_ns, position)).position_rad
            cost_us[tick] = (time.perf_counter_ns() - begun) * 1e-3
            path.append(position)
            now_ns += executor.config.tick_ns
        return np.array(path), executor.counters.get("stops_before_contact", 0), cost_us


def run(config: SceneBench) -> dict[str, Any]:
    """The figures of each arm. Raises ConfigError for an unknown arm."""
    figures = {}
    for name in config.arms:
        arm_named(name)  # an unknown one is found before the first has run
    with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
        for name in config.arms:
            parts = [range(config.seed + i, config.seed + config.plans, config.workers) for i in range(config.workers)]
            found = [f for part in pool.map(partial(_some, name, config.speed_scale), parts) for f in part]
            figures[name] = summary(found)
    return figures


def summary(found: list[Followed]) -> dict[str, Any]:
    """The figures of many plans."""
    cost_us = np.concatenate([each.cost_us for each in found])
    return {
        "plans": len(found),
        "ticks": len(cost_us),
        "closer_than_a_margin": sum(each.worst_m < -1e-5 for each in found),
        "worst_slack_mm": 1e3 * min(each.worst_m for each in found),
        "beyond_a_limit": sum(each.excess > 0.0 for each in found),
        "would_have_been_closer": sum(each.free_m < 0.0 for each in found),
        "stopped": sum(each.stops > 0 for each in found),
        "had_room_to_spare": sum(each.free_m >= SPARE_M for each in found),
        "stopped_needlessly": sum(each.needless for each in found),
        "tick_us": {f"p{q:g}": float(np.percentile(cost_us, q)) for q in (50, 99, 99.9)},
    }


def _some(name: str, scale: float, seeds: range) -> list[Followed]:
    arm = arm_named(name)
    assert arm.chain is not None
    cell = Cell(arm.chain, arm)
    return [cell.follow(seed, scale) for seed in seeds]


def _plan(random: np.random.Generator, start: FloatArray, lower: FloatArray, upper: FloatArray) -> Iterator[FloatArray]:
    """Chunks (20, J) at 10 Hz, each from where the one before has come to; half of the plans have a policy's noise."""
    joints = len(start)
    way = random.uniform(-1.0, 1.0, joints) * random.choice([0.3, 0.7, 1.2])
    target = np.clip(start + way, lower, upper)
    seconds = max(0.4, float(np.abs(target - start).max()) / random.uniform(0.2, 1.2))
    noise = random.choice([0.0, 0.002])
    for chunk in range(CHUNKS):
        at_s = 0.1 * np.arange(1, 21)[:, None] + 0.008 * CHUNK_TICKS * chunk
        u = np.clip(at_s / seconds, 0.0, 1.0)
        points = start + (target - start) * (u * u * (3.0 - 2.0 * u)) + random.normal(0.0, noise, (20, joints))
        yield np.clip(points, lower, upper)


def _tip(chain: Chain) -> tuple[float, float, float]:
    """12 cm further than the flange, in the direction from the wrist to the flange."""
    ahead = np.array(chain.flange_xyz_m) if any(chain.flange_xyz_m) else np.array([0.0, 0.0, 1.0])
    x, y, z = np.array(chain.flange_xyz_m) + 0.12 * ahead / np.linalg.norm(ahead)
    return float(x), float(y), float(z)


def _contract(arm: Arm) -> Contract:
    """A contract in the joints of an arm, with a gripper."""
    data = load_contract(DEFAULT_CONTRACT).to_dict()
    gripper = next(dim for dim in data["action"]["dims"] if dim["kind"] == "gripper")
    bounds = zip(arm.joint_names, arm.limits.lower_rad, arm.limits.upper_rad, strict=True)
    dims = [{"name": name, "unit": "rad", "kind": "arm", "low": low, "high": high} for name, low, high in bounds]
    data["action"]["dims"] = [*dims, gripper]
    return Contract.from_dict(data)


def _state(now_ns: int, position: FloatArray) -> ArmState:
    return ArmState(stamp_ns=now_ns, position_rad=position, gripper=1.0, enabled=True, servo_mode=True, fault=None)
