"""The arm keeps its distance: it stops before contact, on its path, and goes on when the next plan leads away."""

from __future__ import annotations

import json
from copy import copy
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from arms import HOME, MS, TICK_S, Bench, chunk_of, cramped, over, ramp, variant
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.config import SceneBench
from benchmarks.public_arms import ARMS, as_arm
from benchmarks.scene import BLOCK, SPARE_M, Cell, Incident, _file, _written, run, summary
from lavla_ros.config import ConfigError, from_plain
from lavla_ros.control.arms import arm_named
from lavla_ros.control.chain import Chain
from lavla_ros.control.clearance import Clearance, capsules_of, clearance_of
from lavla_ros.control.executor import ExecutorState
from lavla_ros.control.kinematics import ChainKinematics
from lavla_ros.control.limiter import Limiter
from lavla_ros.control.scene import Box, Scene, Workspace, load_scene
from lavla_ros.control.shield import LONGEST_LEAD_S, Shield
from lavla_ros.control.stopping import brake_path, brake_step, stop_range, stop_travel
from lavla_ros.jaka.arm import MINICOBO

LOW = over(0.06)
DOWN = over(-0.10) - LOW
"""From LOW into the table."""
SPARED = 11055
"""A plan of the campaign that keeps more than 10 mm from everything, though braking would not on the way."""


def slacks_of(bench):
    looked = cramped()
    return np.array([looked.slacks(position).min() for position in bench.positions])


@pytest.mark.parametrize("seconds", [1.0, 2.0])
def test_it_rests_before_the_table_and_goes_on_when_the_plan_leads_away(seconds):
    bench = Bench(start=LOW, clearance=cramped())
    assert bench.submit(chunk_of(ramp(LOW, DOWN, seconds), bench.now_ns)).accepted
    bench.tick(200)
    assert bench.executor.state is ExecutorState.HOLDING and bench.executor.at_rest
    assert "table; the margin is" in bench.executor.hold_reason and "finger" in bench.executor.hold_reason
    slacks = slacks_of(bench)
    assert 0.0 <= slacks.min() < 0.01, "it stops before the margin, and not far from it"
    bench.assert_within_limits()

    rested = bench.measured.copy()
    assert bench.submit(chunk_of(ramp(rested, DOWN, seconds), bench.now_ns)).accepted
    bench.tick(50)
    assert bench.executor.state is ExecutorState.HOLDING and np.abs(bench.measured - rested).max() < 0.02
    assert bench.submit(chunk_of(ramp(bench.measured, -DOWN, seconds), bench.now_ns)).accepted
    bench.tick(100)
    assert bench.executor.state is ExecutorState.TRACKING
    assert np.abs(bench.measured - rested).max() > 0.1
    assert slacks_of(bench).min() >= 0.0
    bench.assert_within_limits()


def test_the_stop_stays_on_the_path():
    """Joints that move at very different speeds: braking each for itself would leave the way between them."""
    offset = DOWN + np.array([0.6, 0.0, 0.0, 0.0, 0.0, 0.3])
    free, kept = Bench(start=LOW), Bench(start=LOW, clearance=cramped())
    for bench in (free, kept):
        assert bench.submit(chunk_of(ramp(LOW, offset), bench.now_ns)).accepted
        bench.tick(200)
    assert kept.counters["stops_before_contact"] == 1
    for position in kept.positions:
        assert np.abs(free.positions - position).max(1).min() < 0.005, "rad off the path"


def test_a_hold_near_the_table_does_not_touch_it():
    """Whenever it is asked to stop on a way that sweeps past the table at 1 cm, it stops without touching it."""
    low = over(0.012, y_m=-0.1)
    for after in range(10, 120, 9):
        bench = Bench(start=low, clearance=cramped())
        bench.submit(chunk_of(ramp(low, [0.9, 0.0, 0.0, 0.0, 0.0, -0.9], 1.5), bench.now_ns))
        bench.tick(after)
        bench.executor.hold("asked to")
        bench.tick(120)
        assert bench.executor.at_rest
        assert slacks_of(bench).min() >= 0.0
        bench.assert_within_limits()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_motion_with_room_to_spare_is_not_changed(seed):
    """What keeps 10 mm more than its margins, its stop included, is never braked."""
    random = np.random.default_rng(seed)
    offset = random.uniform(-1.0, 1.0, 6) * random.choice([0.3, 0.7, 1.0])
    points = ramp(HOME, offset, random.uniform(1.2, 3.0), 20) + random.normal(0.0, 0.001, (20, 6))
    free, kept = Bench(max_step_rad=3.0), Bench(max_step_rad=3.0, clearance=cramped())
    for bench in (free, kept):
        bench.submit(chunk_of(points, bench.now_ns))
        bench.tick(280)
    if slacks_of(free).min() >= 0.01:
        assert "stops_before_contact" not in kept.counters, kept.executor.hold_reason
        assert np.array_equal(free.positions[:250], kept.positions[:250])
    assert slacks_of(kept).min() >= 0.0


@pytest.mark.parametrize("seed", range(6))
def test_what_is_not_looked_at_would_not_have_changed_the_decision(seed, monkeypatch):
    """Every tick is decided as it would be by looking at every pair on every tick of both ways to rest."""
    looked, taken, decisions = cramped(), Shield.admits, []
    limits = [np.array(each) for each in (MINICOBO.limits.acceleration_rad_s2, MINICOBO.limits.jerk_rad_s3)]

    def is_clear(path_NJ):
        return all(looked.slacks(position).min() >= -1e-6 for position in path_NJ)

    def admits(shield, state, planned, at_ns, speed_scale):
        admitted = taken(shield, state, planned, at_ns, speed_scale)
        allowed = is_clear(brake_path(state, *limits, TICK_S))
        for path in (shield._path, shield._way_onto):
            if not allowed and path is not None and path.planned is planned:
                row = (at_ns - path.from_ns) // (8 * MS)
                if (begin := path.next_stop(row, speed_scale)) is not None:
                    last = begin + ceil(path.stop_s_N[begin] / 2 / TICK_S)
                    allowed = is_clear(path.position_NJ[row : last + 1])
        decisions.append((allowed, admitted))
        return admitted

    monkeypatch.setattr(Shield, "admits", admits)
    random = np.random.default_rng(seed)
    bench = Bench(start=LOW, clearance=cramped())
    points = ramp(LOW, DOWN + random.uniform(-0.5, 0.5, 6), 1.0) + random.normal(
        0.0, random.choice([0, 0.002]), (20, 6)
    )
    assert bench.submit(chunk_of(points, bench.now_ns)).accepted
    bench.tick(80)
    assert decisions and all(allowed == admitted for allowed, admitted in decisions)


@pytest.mark.parametrize("name", ["jaka_zu5", "panda"])
def test_the_known_way_to_rest_is_clear_of_every_pair(name, monkeypatch):
    """Also of pairs that braking would not come near: a stop along the curve goes elsewhere, and further. The first
    plan is held where only that stop comes near one."""
    cell, taken, ways = cell_of(name), Shield.admits, []
    limits = cell.limits

    def admits(shield, state, *planned):
        admitted = taken(shield, state, *planned)
        if admitted and not shield._floor_P.any():
            stop = shield._stop
            if stop is None:
                path_NJ = brake_path(state, np.array(limits.acceleration_rad_s2), np.array(limits.jerk_rad_s3), TICK_S)
            else:
                stop = copy(stop)
                path_NJ = [stop.next()[0] for _ in range(ceil(stop._duration_s / TICK_S) - stop._ticks + 1)]
            ways.append((stop is None, min(cell.looked.slacks(position).min() for position in path_NJ)))
        return admitted

    monkeypatch.setattr(Shield, "admits", admits)
    for seed in (1079, *range(8)):
        cell.follow(seed)
    assert min(slack for _, slack in ways) >= -1e-5
    assert {braking for braking, _ in ways} == {True, False}


def test_what_is_planned_goes_on_where_braking_would_lead_into_something(monkeypatch):
    """The plan keeps its distance, and is not stopped. Held there, the arm goes on to where it can slow down."""
    arm, taken, leads = arm_named("jaka_zu5"), Shield.admits, {}
    cell = Cell(arm.chain, arm)

    def admits(shield, *planned):
        admitted = taken(shield, *planned)
        leads[len(leads)] = 0 if shield._stop is None else -shield._stop._ticks
        return admitted

    monkeypatch.setattr(Shield, "admits", admits)
    followed = cell.follow(SPARED)
    assert followed.stops == 0 and followed.free_m >= 0.01 and followed.excess <= 0.0
    ticks = [tick for tick, lead in leads.items() if lead > 0]
    assert ticks and max(leads.values()) <= LONGEST_LEAD_S / TICK_S
    for tick in ticks:
        monkeypatch.setattr("benchmarks.scene._incident", lambda _, tick=tick: Incident(kind="hold", tick=tick))
        held = cell.follow(SPARED)
        assert held.rested and not held.closer and held.excess <= 0.0 and held.ticks < followed.ticks


def cell_of(name):
    chain, limits = ARMS[name]
    return Cell(chain, as_arm(chain, limits))


@pytest.mark.parametrize("name", ARMS)
def test_five_arms_keep_their_distance_and_stop_only_with_need(name):
    cell = cell_of(name)
    found = [cell.follow(seed) for seed in range(15)]
    assert min(each.worst_m for each in found) >= -1e-5
    assert max(each.excess for each in found) <= 0.0
    assert not any(each.needless for each in found) and all(each.rested for each in found)
    assert any(each.stops for each in found) and any(not each.stops for each in found), "plans of both kinds"


ZU5_STOPPED, ZU5_NEAR = (11, 28, 32), (17,)
"""Plans of the Zu5 that lead into something, and one that keeps 11 to 12 mm more than every margin."""


def without_a_shield(cell, monkeypatch):
    monkeypatch.setattr(Shield, "admits", lambda *_: True)
    return ZU5_STOPPED, "closer_than_a_margin"


def with_margins_smaller_by_3_mm(cell, monkeypatch):
    cell.kept = clearance_with(cell, -0.003)
    return ZU5_STOPPED, "closer_than_a_margin"


def with_margins_larger_by_15_mm(cell, monkeypatch):
    cell.kept = clearance_with(cell, 0.015)
    return ZU5_NEAR, "stopped_needlessly"


def with_acceleration_higher_by_5_percent(cell, monkeypatch):
    limits = replace(cell.limits, acceleration_rad_s2=tuple(1.05 * a for a in cell.limits.acceleration_rad_s2))
    cell.config = replace(cell.config, limits=limits)
    return (1,), "beyond_a_limit"


def without_brakes(cell, monkeypatch):
    monkeypatch.setattr(Limiter, "brake", lambda _: None)
    return (1, 2), "not_at_rest_in_the_end"


def clearance_with(cell, more_m):
    scene = replace(cell.scene, margin_m=cell.scene.margin_m + more_m, self_margin_m=cell.scene.self_margin_m + more_m)
    return Clearance(cell.arm.chain, cell.arm.capsules, scene)


@pytest.mark.parametrize(
    "broken",
    [
        without_a_shield,
        with_margins_smaller_by_3_mm,
        with_margins_larger_by_15_mm,
        with_acceleration_higher_by_5_percent,
        without_brakes,
    ],
)
def test_the_campaign_counts_what_a_broken_arm_does(broken, monkeypatch):
    """A campaign without violations says something only if it would have found them."""
    cell = cell_of("jaka_zu5")
    seeds, counted = broken(cell, monkeypatch)
    assert summary([cell.follow(seed) for seed in seeds])[counted] == len(seeds)
    monkeypatch.undo()
    whole = cell_of("jaka_zu5")
    assert summary([whole.follow(seed) for seed in seeds])[counted] == 0


def test_the_campaign_looks_at_every_tick_on_which_something_is_near():
    cell, random = cell_of("jaka_zu5"), np.random.default_rng(0)
    near = 0
    for _ in range(12):
        points = np.cumsum(random.uniform(-0.02, 0.02, (80, 6)) + random.uniform(-0.01, 0.01, 6), axis=0)
        path_NJ = random.uniform(-1.5, 1.5, 6) + points
        exact, found = cell.worst(path_NJ, fully=True), cell.worst(path_NJ)
        assert found == exact if exact < SPARE_M else found >= SPARE_M
        near += exact < SPARE_M
    assert 0 < near < 12


def test_the_benchmark_has_plans_for_every_arm_that_it_names():
    arms = SceneBench().arms
    assert [run(SceneBench(arms=(name,), plans=1))[name]["plans"] for name in arms] == [1] * len(arms)


def test_a_campaign_goes_on_where_it_was_interrupted(tmp_path):
    blocks = [("jaka_minicobo", 1.0, range(BLOCK)), ("jaka_minicobo", 1.0, range(BLOCK, BLOCK + 2))]
    _, figures = _written(tmp_path, blocks[1])
    _file(tmp_path, *blocks[0]).write_text(json.dumps(figures | {"plans": BLOCK, "worst_slack_mm": -7.0}))
    config = SceneBench(arms=("jaka_minicobo",), plans=BLOCK + 2, results=str(tmp_path))
    found = run(config)["jaka_minicobo"]  # without a single plan
    assert found["plans"] == BLOCK + 2 and found["worst_slack_mm"] == -7.0
    assert found["ticks"] == 2 * figures["ticks"] and found["tick_cpu_us_at_most"]["p50"] > 0


def test_from_within_a_margin_it_may_only_lead_out():
    inside = over(-0.01)
    looked = cramped()
    assert -0.05 < looked.slacks(inside).min() < -0.005
    bench = Bench(start=inside, clearance=cramped())
    bench.submit(chunk_of(ramp(inside, DOWN), bench.now_ns))
    bench.tick(50)
    assert bench.executor.state is ExecutorState.HOLDING and "it would get less" in bench.executor.hold_reason
    assert np.abs(bench.measured - inside).max() < 1e-6
    bench.submit(chunk_of(ramp(bench.measured, -DOWN), bench.now_ns))
    bench.tick(190)
    assert bench.executor.state is ExecutorState.TRACKING
    slacks = slacks_of(bench)
    assert slacks[-1] > 0.0 and (np.diff(slacks)[slacks[1:] < 0.0] > -1e-5).all()


def singular(margin):
    scene = replace(load_scene("empty"), singular_margin=margin)
    return Clearance(MINICOBO.chain, MINICOBO.capsules, scene)


def test_it_rests_before_a_singular_posture_and_goes_on_when_the_plan_leads_away():
    """Through joint 5 at 0, where the axes of joints 4 and 6 are in line; in a contract of joints alone."""
    fold = np.array([0.0, 0.0, 0.0, 0.0, -2.0, 0.0])
    looked = singular(0.05)

    def values(bench):
        return np.array([looked.slacks(position)[-1] + 0.05 for position in bench.positions])

    free, kept = Bench(max_step_rad=1.0, clearance=singular(0.0)), Bench(max_step_rad=1.0, clearance=looked)
    for bench in (free, kept):
        assert bench.submit(chunk_of(ramp(HOME, fold), bench.now_ns)).accepted
        bench.tick(230)
    assert values(free).min() < 0.005
    assert 0.05 - 1e-6 <= values(kept).min() < 0.06, "it stops before the margin, and not far from it"
    assert kept.executor.at_rest and "singular posture" in kept.executor.hold_reason
    assert kept.counters["stops_before_singularity"] == 1
    assert kept.submit(chunk_of(ramp(kept.measured, -fold / 2), kept.now_ns)).accepted
    kept.tick(120)
    assert kept.executor.state is ExecutorState.TRACKING and values(kept)[-1] > 0.08
    kept.assert_within_limits()


def test_out_of_a_singular_posture_it_may_be_led():
    inside, fold = [0.0, 0.0, 1.2, 0.0, 0.1, 0.0], np.array([0.0, 0.0, 0.0, 0.0, -1.0, 0.0])
    bench = Bench(start=inside, max_step_rad=1.0, clearance=singular(0.05))
    bench.submit(chunk_of(ramp(inside, fold), bench.now_ns))
    bench.tick(60)
    assert bench.executor.state is ExecutorState.HOLDING and "it would get less" in bench.executor.hold_reason
    bench.submit(chunk_of(ramp(bench.measured, -fold), bench.now_ns))
    bench.tick(190)
    assert bench.measured[4] > 0.9


@pytest.mark.parametrize("name", ARMS)
def test_the_smallest_singular_value_is_that_of_the_jacobian(name):
    chain, limits = ARMS[name]
    scene = Scene(singular_margin=0.01, tip_m=(0.0, 0.03, 0.2))
    random, clearance = np.random.default_rng(0), Clearance(chain, (), scene)
    length = sum(np.linalg.norm(xyz) for xyz in chain.origin_xyz_m[1:]) + np.linalg.norm(scene.tip_m)
    tipped = replace(chain, tool_xyz_m=(0.0, 0.0, 0.0), flange_xyz_m=scene.tip_m, flange_rpy_rad=(0.0, 0.0, 0.0))
    for _ in range(50):
        at = random.uniform(limits.lower(), limits.upper())
        jacobian = ChainKinematics(tipped).jacobian(at)
        jacobian[:3] /= length
        value = clearance.slacks(at)[-1] + 0.01
        assert value == pytest.approx(np.linalg.svd(jacobian, compute_uv=False).min(), abs=1e-9)
        step = random.uniform(-0.05, 0.05, len(at))
        change = abs(clearance.slacks(at + step)[-1] + 0.01 - value)
        assert change <= clearance.reach_PJ[-1] @ np.abs(step) + 1e-9


def test_missed_cycles_and_faults_near_the_table_touch_nothing():
    low = over(0.012, y_m=-0.1)
    bench = Bench(start=low, clearance=cramped())
    bench.submit(chunk_of(ramp(low, [0.9, 0.0, 0.0, 0.0, 0.0, -0.9], 1.5), bench.now_ns))
    bench.tick(60)
    bench.now_ns += 60 * MS  # nothing was sent: the arm stands
    bench.tick(20)
    bench.executor.fault("asked to")
    bench.tick(100)
    assert bench.executor.state is ExecutorState.FAULT and bench.executor.at_rest
    assert slacks_of(bench).min() >= 0.0


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_a_fast_plan_is_followed_at_the_speed_that_the_tool_may_have(noise):
    """The whole way is gone, only later; on every tick the tip is no faster than its limit."""
    chain, scene = MINICOBO.chain, replace(load_scene("tabletop"), tool_speed_m_s=0.25)
    bench = Bench(start=LOW, clearance=Clearance(chain, MINICOBO.capsules, scene))
    random = np.random.default_rng(0)
    goal = LOW + np.array([0.9, -0.2, 0.1, 0.0, 0.2, -0.9])
    for _ in range(12):  # as a policy would: from where the arm is, towards the goal, within a second
        points = ramp(bench.measured, goal - bench.measured, 1.0) + random.normal(0.0, noise, (20, 6))
        assert bench.submit(chunk_of(points, bench.now_ns)).accepted
        bench.tick(60)
    bench.tick(300)
    looked = Clearance(chain, MINICOBO.capsules, scene)
    speeds = np.linalg.norm(np.diff([looked.tip(position) for position in bench.positions], axis=0), axis=1) / 0.008
    assert speeds.max() <= 0.25 + 1e-6 and speeds.max() > 0.2
    assert np.abs(bench.measured - goal).max() < 0.02
    assert bench.counters["chunks_slowed"] > 0
    bench.assert_within_limits()


def test_fast_deltas_are_stopped_at_the_speed_that_the_tool_may_have():
    """Deltas have no curve whose time could be stretched."""
    scene = replace(load_scene("tabletop"), tool_speed_m_s=0.25)
    contract = variant("joint", "delta")
    bench = Bench(start=LOW, contract=contract, clearance=Clearance(MINICOBO.chain, MINICOBO.capsules, scene))
    random = np.random.default_rng(0)
    for size in (0.005, 0.03, 0.08, 0.2):
        for _ in range(4):
            steps = np.tile(random.uniform(-size, size, 6), (20, 1))
            bench.submit(chunk_of(steps, bench.now_ns, contract=contract))
            bench.tick(60)
    looked = Clearance(MINICOBO.chain, MINICOBO.capsules, scene)
    speeds = np.linalg.norm(np.diff([looked.tip(position) for position in bench.positions], axis=0), axis=1) / 0.008
    assert speeds.max() <= 0.25 + 1e-3
    assert bench.counters["stops_too_fast"] > 0
    bench.assert_within_limits()


def test_a_path_of_braking_is_what_braking_does():
    random = np.random.default_rng(0)
    a_max, j_max = np.full(6, 5.0), np.full(6, 50.0)
    for _ in range(50):
        state = tuple(random.uniform(-limit, limit, 6).tolist() for limit in (1.0, 1.5, 5.0))
        path_NJ = brake_path(state, a_max, j_max, 0.008)
        p, v, a = (list(values) for values in state)
        assert np.array_equal(path_NJ[0], p)
        for row in path_NJ[1:]:
            for i in range(6):
                p[i], v[i], a[i] = brake_step(p[i], v[i], a[i], 5.0, 50.0, 0.008)
            assert np.allclose(row, p, atol=1e-12)
        assert np.abs(v).max() < 1e-9


def test_the_tip_is_never_faster_while_it_brakes_than_it_was_said_to_become():
    limits, random = MINICOBO.limits, np.random.default_rng(0)
    a_max, j_max = np.array(limits.acceleration_rad_s2), np.array(limits.jerk_rad_s3)
    clearance = Clearance(MINICOBO.chain, MINICOBO.capsules, replace(load_scene("tabletop"), tool_speed_m_s=0.25))
    shield, refused = Shield(clearance, limits, 8 * MS), 0
    for _ in range(2000):
        size = random.uniform(0.02, 1.0)
        state = tuple(random.uniform(-most, most, 6).tolist() for most in (1.5, size, 5.0 * size))
        shield.reset(state[0])
        said_m_s = shield._tip_speeds(state)[2]
        tips = np.array([clearance.tip(position) for position in brake_path(state, a_max, j_max, TICK_S)])
        fastest_m_s = np.linalg.norm(np.diff(tips, axis=0), axis=1).max(initial=0.0) / TICK_S
        assert fastest_m_s <= max(said_m_s, 0.25) + 1e-9
        if said_m_s > 0.25:
            assert said_m_s == pytest.approx(fastest_m_s), "what is refused was looked at"
        refused += said_m_s > 0.25
    assert 0 < refused < 2000


def test_what_a_joint_travels_while_it_brakes():
    random = np.random.default_rng(0)
    one = np.array([5.0]), np.array([50.0])
    for _ in range(500):
        v, a = random.uniform(-1.0, 1.0, 2) * random.choice([1e-6, 0.1, 3.0, 5.0], 2)
        path = brake_path(([0.0], [v], [a]), *one, 0.001)[:, 0]
        end, travel = stop_travel(v, a, 5.0, 50.0)
        assert end == pytest.approx(path[-1], abs=1e-9), (v, a)
        assert travel == pytest.approx(np.abs(np.diff(path)).sum(), abs=2e-6), (v, a)
        low, high = stop_range(0.0, v, a, 5.0, 50.0)
        assert max(-low, high) <= travel + 1e-12


def test_distances_are_those_of_geometry():
    """The fingertips over a plane, a post beside the hand, the tip in its workspace: by hand from the forward
    kinematics."""
    clearance = cramped()
    at = np.array([0.0, 0.0, np.pi / 2, 0.0, np.pi / 2, 0.0])  # the flange looks straight down
    flange = MINICOBO.kinematics.forward(at)
    pairs = dict(zip(clearance.pairs, clearance.slacks(at), strict=True))
    tip_z = flange[2, 3] - 0.140 - 0.010
    assert pairs[("left finger", "table")] == pytest.approx(tip_z + 0.05 - 0.01, abs=1e-6)
    boxed = Clearance(
        MINICOBO.chain,
        MINICOBO.capsules,
        Scene(workspace=Workspace(low_m=(-1.0, -1.0, 0.0), high_m=(1.0, 1.0, 1.0)), tip_m=(0.0, 0.0, 0.14)),
    )
    pairs = dict(zip(boxed.pairs, boxed.slacks(at), strict=True))
    assert pairs[("tool tip", "z ≥ 0 m")] == pytest.approx(flange[2, 3] - 0.14, abs=1e-3)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_no_slack_changes_by_more_than_the_reach_says(seed):
    random = np.random.default_rng(seed)
    clearance = cramped()
    before = random.uniform(MINICOBO.limits.lower(), MINICOBO.limits.upper())
    step = random.uniform(-0.05, 0.05, 6)
    change = np.abs(clearance.slacks(before + step) - clearance.slacks(before))
    assert (change <= clearance.reach_PJ @ np.abs(step) + 1e-6).all()


def test_a_chain_without_capsules_gets_some_that_do_not_touch_at_rest():
    chain = Chain(  # of the size and form of a six-axis cobot
        joint_names=tuple("abcdef"),
        origin_xyz_m=((0, 0, 0.12), (0, 0, 0), (0.43, 0, 0), (0.37, 0, -0.114), (0, -0.1135, 0), (0, 0.107, 0)),
        origin_rpy_rad=((0, 0, 0), (np.pi / 2, 0, 0), (0, 0, 0), (0, 0, 0), (np.pi / 2, 0, 0), (-np.pi / 2, 0, 0)),
    )
    capsules = capsules_of(chain)
    assert [c.link for c in capsules] == ["base", "b", "c", "d", "e"]
    clearance = Clearance(chain, (), Scene())
    assert clearance.slacks([0.0, np.pi / 2, 0.0, np.pi / 2, 0.0, 0.0]).min() > 0.0
    assert clearance.slacks([0.0, np.pi / 2, np.pi, 0.0, 0.0, 0.0]).min() < 0.0, "folded onto itself"


BOX = {"name": "b", "centre_m": [1, 0, 0], "size_m": [1, 1, 1]}
SHAPES = {"name": "a", "link": "joint_6", "start_m": [0, 0, 0], "end_m": [0, 0, 0.1], "radius_m": 0.02}


@pytest.mark.parametrize(
    ("scene", "says"),
    [
        ({"margin_m": -0.01}, "margin_m is -0.01"),
        ({"self_margin_m": -0.01}, "self_margin_m is -0.01"),
        ({"singular_margin": -0.01}, "singular_margin is -0.01"),
        ({"boxes": [BOX | {"margin_m": -0.01}]}, "box b: margin_m is -0.01"),
        ({"planes": [{"name": "t", "point_m": [0, 0, 0], "normal": [0, 0, 0]}]}, "not zero"),
        ({"boxes": [{"name": "t", "centre_m": [0, 0, 0], "size_m": [1, 0, 1]}]}, "three positive lengths"),
        ({"workspace": {"low_m": [0, 0, 0], "high_m": [1, 1, -1]}}, "below high_m"),
        ({"tool": [SHAPES, SHAPES]}, "each name once"),
        ({"tool": [SHAPES | {"radius_m": 0.0}]}, "radius_m is 0.0"),
        ({"planes": [{"name": "t", "point_m": [0, 0, float("nan")], "normal": [0, 0, 1]}]}, "finite"),
    ],
)
def test_a_scene_that_makes_no_sense_is_refused(scene, says):
    with pytest.raises(ConfigError, match=says):
        from_plain(Scene, scene, source="cell.yaml")


def test_it_stops_before_one_of_a_thousand_boxes():
    """What a tick costs then is said in docs/real_arm.md."""
    tower = [
        Box(name=f"box {i}", centre_m=(3.0, 0.1 * (i % 30), 0.1 * (i // 30)), size_m=(0.1,) * 3) for i in range(999)
    ]
    table = Box(name="low box", centre_m=(-0.3, 0.0, -0.1), size_m=(1.0, 1.0, 0.1))
    shapes = load_scene("tabletop")
    scene = replace(shapes, planes=(), ignore=(), boxes=(*tower, table), tool=shapes.tool[2:4])  # the fingers
    bench = Bench(start=LOW, clearance=Clearance(MINICOBO.chain, MINICOBO.capsules[-1:], scene))
    bench.submit(chunk_of(ramp(LOW, DOWN), bench.now_ns))
    bench.tick(150)
    assert "finger would be" in bench.executor.hold_reason and "mm from low box" in bench.executor.hold_reason
    assert slacks_of(bench).min() >= 0.0


def test_a_scene_that_does_not_fit_the_arm_is_refused(tmp_path):
    def said(text):
        file = tmp_path / "cell.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError) as raised:
            clearance_of(MINICOBO, file)
        return str(raised.value)

    assert "cell.yaml" in said("tool: [{name: a, link: joint_9, start_m: [0,0,0], end_m: [0,0,1], radius_m: 0.1}]")
    assert "ignore names ['desk']" in said("ignore: [[palm, desk]]".replace("palm", "hand"))
    assert "shapes named ['hand']" in said("boxes: [{name: hand, centre_m: [1,1,1], size_m: [1,1,1]}]")
    inside = said("boxes: [{name: cabinet, centre_m: [0,0,0.3], size_m: [1,1,1]}]")
    assert "where the arm starts" in inside and "cabinet" in inside
    fat = replace(MINICOBO, capsules=tuple(replace(each, radius_m=0.2) for each in MINICOBO.capsules))
    with pytest.raises(
        ConfigError, match=r"where the arm starts, .* would be -.* mm from .*name pairs that cannot touch"
    ):
        clearance_of(fat, "empty")
    with pytest.raises(ConfigError, match="no chain"):
        clearance_of(replace(MINICOBO, chain=None), "empty")
    with pytest.raises(ConfigError, match="tabletop"):
        load_scene("no_such_cell")
