"""Random plans in a cramped cell: what comes closer than its margin, what is braked without need, what ticks cost.

The executor follows every plan with an arm that is where it was commanded to be, and a stopped one once more without
a scene. A third of the plans is told to hold on the way, and to another third something else happens
(:class:`Incident`). A stop is *needless* if the motion without the scene keeps :data:`SPARE_M` more than every margin,
its end included.

Distances are looked at on every tick on which a pair can have come below :data:`SPARE_M` since it was looked at last,
by the most that a joint can move it; in every :data:`FULLY`-th plan on every tick, whatever that bound says.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.config import SceneBench
from benchmarks.public_arms import FIGURES, as_arm
from lavla_ros.contract import ActionChunk, Contract, load_contract
from lavla_ros.control.arm import Arm, ArmState
from lavla_ros.control.arms import arm_named
from lavla_ros.control.chain import Chain
from lavla_ros.control.clearance import Clearance
from lavla_ros.control.executor import ChunkExecutor, ExecutorConfig, ExecutorState
from lavla_ros.control.scene import Box, Capsule, Plane, Scene, Workspace
from lavla_ros.control.types import Command
from lavla_ros.defaults import DEFAULT_CONTRACT
from lavla_ros.errors import InputError
from lavla_ros.outputs import replacing, sole_writer
from lavla_ros.typing import FloatArray
from sim_bridges.worlds import DEFAULT_SUITE

SPARE_M = 0.010
CHUNKS, CHUNK_TICKS, STEPS, SHORTEST, TICKS = 2, 40, 10, 5, 260
"""Overlapping chunks of a plan, ticks between two of them, the most and the fewest steps of each, and ticks within
which the arm rests."""
BLOCK = 500
"""Plans whose figures are one file."""
FULLY, TIMED = 100, 20
"""Every so many plans distances are looked at on every tick; and one is followed once more, with everything on that a
scene can have, to time the ticks."""
_PHYSICS_STEPS = 80
"""Contract steps of an episode in physics: what one without a post takes, and some more."""
_T0_NS = 10**18
_ROUNDING = (1e-6, 1e-5, 1e-2)
"""Of velocity, acceleration and jerk, seen through differences over 8 ms."""
_BIN_US, _BINS = 5, 1000
"""Of the histograms of the ticks' costs; the last bin has all that cost more."""
_HISTOGRAMS = {
    "cost": "tick_cpu_us_at_most",
    "cost_of_everything": "tick_cpu_us_at_most_with_everything",
}
"""Where they are, and what their percentiles are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What came of one plan."""

    seed: int
    worst_m: float
    """Least slack on any tick, exact if it is below :data:`SPARE_M`; below 0: closer than the margin."""
    free_m: float
    """The same without the scene."""
    stops: int
    rested: bool
    """Whether the arm came to rest in the end."""
    excess: float
    """How far a velocity, acceleration or jerk was beyond its limit, rounding apart; 0 or less: none was."""
    ticks: int
    cost_us: list[float]
    """Time of the processor that each tick took."""
    everything_us: list[float]
    """Likewise with everything on that a scene can have; empty if it was not followed so."""

    @property
    def closer(self) -> bool:
        return self.worst_m < -1e-5

    @property
    def needless(self) -> bool:
        return self.stops > 0 and self.free_m >= SPARE_M


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """What happens to a plan on its way."""

    kind: str = ""
    """hold, latched; fault; slow: a lower speed scale, and the old one again; missed: ticks that do not come; wild: the
    points of the second chunk are anywhere near; person: the second chunk is a person's; or nothing."""
    tick: int = -1
    size: float = 0.0
    """Of what happens, from 0 to 1."""


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
        self.arm, self.scene = arm, scene
        self.looked = Clearance(chain, arm.capsules, scene)
        """Judges the paths."""
        self.kept = Clearance(chain, arm.capsules, scene)
        """What the executor knows."""
        most = 0.9 * reach_m
        everything = replace(
            scene,
            tip_m=_tip(chain),
            workspace=Workspace(low_m=(-most, -most, -0.02), high_m=(most, most, most)),
            tool_speed_m_s=1.0,
            singular_margin=0.02,
        )
        self.everything = Clearance(chain, arm.capsules, everything)
        """With every part that a scene can have, for the time that a tick takes."""

    def follow(self, seed: int, scale: float = 1.0) -> Followed:
        """A random plan from a random start that is clear; the same for the same ``seed``."""
        random = np.random.default_rng(seed)
        lower, upper = np.maximum(self.limits.lower(), -3.2), np.minimum(self.limits.upper(), 3.2)
        while not self._is_clear(start := random.uniform(lower, upper)):
            pass
        chunks = list(_plan(random, start, lower, upper))
        hold = int(random.integers(5, 120)) if random.random() < 0.3 else None
        incident = Incident(kind="hold", tick=hold) if hold is not None else _incident(np.random.default_rng((seed, 1)))
        if incident.kind == "wild":
            away = np.random.default_rng((seed, 2)).uniform(-incident.size, incident.size, chunks[-1].shape)
            chunks[-1] = np.clip(start + away, lower, upper)
        run = partial(self._run, start, chunks, scale, incident)
        kept = run(self.kept)
        worst_m = self.worst(kept.path_NJ, fully=seed % FULLY == 0)
        free_m = self.worst(run(None).path_NJ) if kept.stops else worst_m
        return Followed(
            seed=seed,
            worst_m=worst_m,
            free_m=free_m,
            stops=kept.stops,
            rested=kept.rested,
            excess=self._excess(start, kept, scale),
            ticks=len(kept.path_NJ),
            cost_us=kept.cost_us,
            everything_us=run(self.everything).cost_us if seed % TIMED == 0 else [],
        )

    def _is_clear(self, position: FloatArray) -> bool:
        self.looked.place(position)
        return all(self.looked.slack_of(pair) > 0.005 for pair in range(len(self.looked.pairs)))

    def worst(self, path_NJ: FloatArray, *, fully: bool = False) -> float:
        """The least slack on a path, exact if it is below SPARE_M. ``fully``: every pair is looked at on every tick;
        else where it can have come below SPARE_M since it was looked at last."""
        if fully:
            return min(float(self.looked.slacks(position).min()) for position in path_NJ)
        travel_NP = np.zeros((len(path_NJ), len(self.looked.pairs)))
        np.cumsum(np.abs(np.diff(path_NJ, axis=0)) @ self.looked.reach_PJ.T, axis=0, out=travel_NP[1:])
        travel_PN, worst = travel_NP.T.copy(), np.inf
        due = {0: list(range(len(travel_PN)))}
        while due:
            row = min(due)
            pairs = due.pop(row)
            self.looked.place(path_NJ[row])
            for pair in pairs:
                slack, travel_N = self.looked.slack_of(pair), travel_PN[pair]
                worst = min(worst, slack)
                near = max(row + 1, int(travel_N.searchsorted(travel_N[row] + slack - SPARE_M, side="right")))
                if near < len(travel_N):
                    due.setdefault(near, []).append(pair)
        return worst

    def _excess(self, start: FloatArray, kept: _Motion, scale: float) -> float:
        limits, most = self.limits, -np.inf
        accelerations, jerks = np.array(limits.acceleration_rad_s2), np.array(limits.jerk_rad_s3)
        bounds = np.array(limits.velocity_rad_s) * scale, accelerations, jerks
        stood = start
        for path_NJ in np.split(kept.path_NJ, kept.stalls):  # it stands before each of them
            path_NJ = np.vstack((stood, stood, stood, path_NJ))
            stood = path_NJ[-1]
            most = max(most, float(np.maximum(limits.lower() - path_NJ, path_NJ - limits.upper()).max()) - 1e-6)
            differences = path_NJ
            for order, (bound, rounding) in enumerate(zip(bounds, _ROUNDING, strict=True), start=1):
                differences = differences[1:] - differences[:-1]
                most = max(most, float((np.abs(differences) / 0.008**order - bound).max()) - rounding)
        return most

    def _run(
        self,
        start: FloatArray,
        chunks: list[FloatArray],
        scale: float,
        incident: Incident,
        clearance: Clearance | None,
    ) -> _Motion:
        if self.config.speed_scale != scale:
            self.config = replace(self.config, speed_scale=scale)
        executor = ChunkExecutor(self.contract, self.config, clearance)
        names, dt_ns, tick_ns = self.contract.action.names, self.contract.dt_ns, self.config.tick_ns
        now_ns, position = _T0_NS, start
        executor.activate(_state(now_ns, position), now_ns)
        path, stalls = [], []
        cost_us: list[float] = []
        tick_of = _timed(executor.tick, cost_us)
        for tick in range(TICKS):
            if tick % CHUNK_TICKS == 0 and tick // CHUNK_TICKS < len(chunks):
                number = tick // CHUNK_TICKS
                actions = np.hstack((chunks[number], np.ones((len(chunks[number]), 1))))
                executor.submit(
                    ActionChunk(stamp_ns=now_ns, dt_ns=dt_ns, actions_HA=actions, names=names),
                    now_ns,
                    person=incident.kind == "person" and number > 0,
                )
            if tick == incident.tick:
                if incident.kind == "hold":
                    executor.hold("asked to", latch=True)
                elif incident.kind == "fault":
                    executor.fault("asked to")
                elif incident.kind == "slow":
                    executor.set_speed_scale(scale * (0.1 + 0.8 * incident.size))
                elif incident.kind == "missed":
                    now_ns += (self.config.bridged_ticks + 1 + int(10 * incident.size)) * tick_ns
                    stalls.append(tick)
            if incident.kind == "slow" and tick == incident.tick + CHUNK_TICKS:
                executor.set_speed_scale(scale)
            state = _state(now_ns, position)
            position = tick_of(now_ns, state).position_rad
            path.append(position)
            now_ns += tick_ns
            over = tick > CHUNK_TICKS * len(chunks) or (incident.kind in ("hold", "fault") and tick > incident.tick)
            if over and executor.at_rest and executor.state is not ExecutorState.TRACKING:
                break
        return _Motion(
            path_NJ=np.array(path),
            stalls=stalls,
            stops=executor.counters["stops_before_contact"],
            rested=executor.at_rest,
            cost_us=cost_us,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Motion:
    """What was commanded."""

    path_NJ: FloatArray
    stalls: list[int]
    """Ticks before which some did not come, so that the arm stands."""
    stops: int
    rested: bool
    """In the end."""
    cost_us: list[float]


OBSTACLE = f"{DEFAULT_SUITE}_obstacle"
"""The scene of the usual suite with a post in the bundled policy's way."""
EVERYTHING = f"""\
extends: scenes/{OBSTACLE}
tool_speed_m_s: 1.0
singular_margin: 0.02
workspace: {{low_m: [-0.6, -0.6, -0.02], high_m: [0.6, 0.6, 0.8]}}
"""
"""The same with every part that a scene can have."""


def in_physics(episodes: int, scene: str) -> dict[str, Any]:
    """The bundled policy in the usual suite with a post in its way: in this scene, or (empty) in none."""
    from lavla_ros.policy.policy import load_policy
    from sim_bridges.suites import load_suite

    suite: Any = load_suite(DEFAULT_SUITE, {"scene": scene, "obstacles": OBSTACLE})
    policy = load_policy(suite.policy, threads=1)
    task, replan = suite.default_tasks[0], suite.rules.replan_steps
    environment = suite.environment(task, images=True)
    contacts, stopped, succeeded = [], 0, 0
    cost_us: list[float] = []
    try:
        for trial in range(episodes):
            start = suite.plan(task, trial, 0)
            environment.session.reset(start.seed)
            executor = environment.session.executor
            executor.tick = _timed(executor.tick, cost_us)
            for step in range(_PHYSICS_STEPS):
                environment.step(None if step % replan else policy.predict(environment.observe(images=True)))
                if environment.outcome().success:
                    succeeded += 1
                    break
            contacts.append(environment.sim.obstacle_contacts)
            stopped += executor.counters["stops_before_contact"] > 0
    finally:
        environment.close()
    return {
        "episodes": episodes,
        "with_contact": sum(count > 0 for count in contacts),
        "contact_steps": sum(contacts),
        "stopped": stopped,
        "succeeded": succeeded,
        "cost": _histogram(cost_us),
    }


def _timed(tick: Callable[..., Command], cost_us: list[float]) -> Callable[..., Command]:
    """The same, and what it takes of the processor's time. As in a servo process, Python collects nothing meanwhile."""

    def timed(now_ns: int, state: ArmState) -> Command:
        gc.disable()
        begun = time.thread_time_ns()
        command = tick(now_ns, state)
        cost_us.append((time.thread_time_ns() - begun) * 1e-3)
        gc.enable()
        return command

    return timed


def run(config: SceneBench) -> dict[str, Any]:
    """The figures of each arm. Raises ConfigError for an unknown arm, OutputError if another process writes results."""
    for name in config.arms:
        _arm(name)  # an unknown one is found before the first has run
    folder = Path(config.results) if config.results else None
    blocks = [
        (name, config.speed_scale, range(first, min(first + BLOCK, config.seed + config.plans)))
        for first in range(config.seed, config.seed + config.plans, BLOCK)
        for name in config.arms
    ]
    figures: dict[str, Any] = {}
    with sole_writer(folder) if folder is not None else nullcontext():
        known = [] if folder is None else [block for block in blocks if _file(folder, *block).exists()]
        with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
            for name, new in pool.map(partial(_written, folder), [block for block in blocks if block not in known]):
                figures[name] = _joined(figures.get(name), new)
        for block in known:
            assert folder is not None
            found = json.loads(_file(folder, *block).read_text(encoding="utf-8"))
            figures[block[0]] = _joined(figures.get(block[0]), found)
    if config.episodes:
        with TemporaryDirectory(prefix="lavla-bench-") as made:
            everything = Path(made) / "everything.yaml"
            everything.write_text(EVERYTHING, encoding="utf-8")
            scenes = {"without a scene": "", "with the scene": OBSTACLE, "with everything on": str(everything)}
            figures["a post in the policy's way"] = {
                what: shown(in_physics(config.episodes, scene)) for what, scene in scenes.items()
            }
    return {name: shown(found) for name, found in figures.items()}


def _written(folder: Path | None, block: tuple[str, float, range]) -> tuple[str, dict[str, Any]]:
    """Run a block, and keep its figures in a file of its own: what was interrupted goes on there."""
    name, scale, seeds = block
    arm = _arm(name)
    assert arm.chain is not None
    cell = Cell(arm.chain, arm)
    found = summary([cell.follow(seed, scale) for seed in seeds])
    if folder is not None:
        with replacing(_file(folder, *block)) as file:
            file.write_text(json.dumps(found), encoding="utf-8")
    return name, found


def _file(folder: Path, name: str, scale: float, seeds: range) -> Path:
    return folder / f"{Path(name).stem}_{scale:g}_{seeds.start}_{seeds.stop}.json"


def summary(found: list[Followed]) -> dict[str, Any]:
    """The figures of many plans, such that those of several blocks can be added."""
    return {
        "plans": len(found),
        "ticks": sum(each.ticks for each in found),
        "closer_than_a_margin": sum(each.closer for each in found),
        "worst_slack_mm": 1e3 * min(each.worst_m for each in found),
        "beyond_a_limit": sum(each.excess > 0.0 for each in found),
        "not_at_rest_in_the_end": sum(not each.rested for each in found),
        "would_have_been_closer": sum(each.free_m < 0.0 for each in found),
        "stopped": sum(each.stops > 0 for each in found),
        "had_room_to_spare": sum(each.free_m >= SPARE_M for each in found),
        "stopped_needlessly": sum(each.needless for each in found),
        "seeds_of_violations": [each.seed for each in found if each.closer or each.excess > 0.0 or not each.rested],
        "seeds_of_needless_stops": [each.seed for each in found if each.needless],
        "cost": _histogram([cost_us for each in found for cost_us in each.cost_us]),
        "cost_of_everything": _histogram([cost_us for each in found for cost_us in each.everything_us]),
    }


def _histogram(cost_us: list[float]) -> list[int]:
    places = np.minimum(np.array(cost_us) // _BIN_US, _BINS - 1).astype(int)
    counts: list[int] = np.bincount(places, minlength=_BINS).tolist()
    return counts


def _joined(one: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    """The figures of both."""
    if one is None:
        return other
    joined = {key: one[key] + value for key, value in other.items() if key not in ("worst_slack_mm", *_HISTOGRAMS)}
    worst = min(one["worst_slack_mm"], other["worst_slack_mm"])
    costs = {key: [a + b for a, b in zip(one[key], other[key], strict=True)] for key in _HISTOGRAMS}
    return joined | {"worst_slack_mm": worst} | costs


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """Figures for people: percentiles in place of histograms, in time of the processor."""
    figures = {key: value for key, value in found.items() if key not in _HISTOGRAMS}
    for key in [key for key in _HISTOGRAMS if key in found]:
        share = np.cumsum(found[key]) / max(1, sum(found[key]))
        percentiles = {f"p{q:g}": _BIN_US * (1 + int(np.searchsorted(share, q / 100))) for q in (50, 99, 99.9)}
        figures[_HISTOGRAMS[key]] = percentiles
    return figures


def _arm(name: str) -> Arm:
    """An arm by its name, one of public figures included. Raises ConfigError."""
    if name not in FIGURES:
        arm = arm_named(name)
        if arm.chain is None:
            raise InputError(f"arm {name!r} has no chain, so that no distance is known")
        return arm
    return as_arm(*FIGURES[name])


def _plan(random: np.random.Generator, start: FloatArray, lower: FloatArray, upper: FloatArray) -> Iterator[FloatArray]:
    """Chunks (at most STEPS, J) at 10 Hz, each from where the one before has come to, that end soon after the motion
    does; half of the plans are noisy."""
    joints = len(start)
    way = random.uniform(-1.0, 1.0, joints) * random.choice([0.3, 0.7, 1.2])
    target = np.clip(start + way, lower, upper)
    seconds = max(0.4, float(np.abs(target - start).max()) / random.uniform(0.3, 1.5))
    noise = random.choice([0.0, 0.002])
    for chunk in range(CHUNKS):
        at_s = 0.1 * np.arange(1, STEPS + 1)[:, None] + 0.008 * CHUNK_TICKS * chunk
        u = np.clip(at_s / seconds, 0.0, 1.0)
        points = start + (target - start) * (u * u * (3.0 - 2.0 * u)) + random.normal(0.0, noise, (STEPS, joints))
        steps = max(SHORTEST, int((at_s < seconds + 0.2).sum()))
        yield np.clip(points[:steps], lower, upper)


def _incident(random: np.random.Generator) -> Incident:
    """Half of the plans have none."""
    kind = str(random.choice(["fault", "slow", "missed", "wild", "person"])) if random.random() < 0.5 else ""
    return Incident(kind=kind, tick=int(random.integers(5, 120)), size=float(random.random()))


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
