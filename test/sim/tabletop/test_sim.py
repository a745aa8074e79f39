"""Determinism, snapshots, start layouts, and what the simulator refuses."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from lavla_ros.errors import FailedError
from sim_bridges.worlds.tabletop import tasks
from sim_bridges.worlds.tabletop.names import TaskName
from sim_bridges.worlds.tabletop.scene import OBJECTS
from sim_bridges.worlds.tabletop.sim import TabletopSim
from sim_bridges.worlds.tabletop.tasks import CLOTH_COLOURS, TASKS, Region, unseen
from sim_bridges.worlds.tabletop.tool import tool_down_joints

pytestmark = pytest.mark.sim


def wave(sim: TabletopSim, seconds: float) -> np.ndarray:
    """A busy motion that also closes the gripper; returns the final state."""
    start = sim.joint_target_rad
    for step in range(round(seconds / 0.008)):
        t = step * 0.008
        offset = 0.2 * np.sin(2.0 * t) * np.array([1.0, 0.5, 0.5, 0.2, 0.5, 1.0])
        sim.set_targets(start + offset, 1.0 if step % 100 < 50 else 0.0)
        sim.advance(8_000_000)
    return sim.snapshot()


def test_looking_does_not_change_what_happens(pick_sim: TabletopSim) -> None:
    ends = []
    for look in (False, True):
        pick_sim.reset(9)
        for _ in range(30):
            pick_sim.set_targets(pick_sim.joint_target_rad + 0.002, 1.0)
            pick_sim.advance(8_000_000)
            if look:
                pick_sim.outcome()
                pick_sim.restore(pick_sim.snapshot())
        ends.append(pick_sim.snapshot())
    assert np.array_equal(*ends)


def test_same_seed_same_episode_bit_for_bit(pick_sim: TabletopSim) -> None:
    pick_sim.reset(7)
    first = wave(pick_sim, 1.5)
    pick_sim.reset(8)
    other = wave(pick_sim, 0.5)
    pick_sim.reset(7)
    assert np.array_equal(wave(pick_sim, 1.5), first)
    fresh = TabletopSim("pick_place")
    fresh.reset(7)
    assert np.array_equal(wave(fresh, 1.5), first)
    assert not np.array_equal(other[: first.size], first)


def test_a_snapshot_continues_bit_for_bit_in_another_simulator(stack_sim: TabletopSim) -> None:
    stack_sim.reset(2)
    wave(stack_sim, 0.5)
    stack_sim.set_targets(stack_sim.joint_target_rad + 0.01, 0.0)
    stack_sim.advance(4_000_000)  # in the middle of a ramp
    middle, stack_sim_time = stack_sim.snapshot(), stack_sim.time_ns
    assert middle.shape == (stack_sim.snapshot_size,)
    end = wave(stack_sim, 0.7)
    other = TabletopSim("stack_bowls")
    other.restore(middle)
    assert other.time_ns == stack_sim_time
    assert np.array_equal(wave(other, 0.7), end)


def test_a_foreign_snapshot_is_refused(pick_sim: TabletopSim, stack_sim: TabletopSim) -> None:
    stack_sim.reset(0)
    state = stack_sim.snapshot()
    with pytest.raises(ValueError, match="numbers"):
        pick_sim.restore(state[:-1])
    forged = np.resize(state, pick_sim.snapshot_size)
    with pytest.raises(ValueError, match="another scene"):
        pick_sim.restore(forged)


def test_advance_in_parts_or_at_once_is_the_same(pick_sim: TabletopSim) -> None:
    ends = []
    for parts in ((40_000_000,), (4_000_000,) * 10, (12_000_000, 28_000_000)):
        pick_sim.reset(1)
        pick_sim.set_targets(pick_sim.joint_target_rad + 0.02, 0.0)
        for part in parts:
            pick_sim.advance(part)
        ends.append(pick_sim.snapshot())
    assert np.array_equal(ends[0], ends[1])
    assert np.array_equal(ends[0], ends[2])


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("layout", ["id", "ood"])
def test_layouts_are_clear_reachable_and_different(task: str, layout: str) -> None:
    starts = []
    for seed in range(60):
        poses = TASKS[task].sample(layout, np.random.default_rng(seed))  # type: ignore[arg-type]
        points = np.array([p[:2] for p in poses.values()])
        for (one, a), (other, b) in itertools.combinations(zip(poses, points, strict=True), 2):
            apart = OBJECTS[one].radius_m + OBJECTS[other].radius_m + TASKS[task].gap_m
            assert np.linalg.norm(a - b) >= max(TASKS[task].clearance_m, apart), (one, other)
        for name in (*TASKS[task].handled, *TASKS[task].targets):
            x, y, _ = poses[name]
            tool_down_joints((x, y, -0.05), 0.0)
        assert not TASKS[task].all_seen or not unseen(poses, set(TASKS[task].handled))
        starts.append(points)
    assert np.std(np.array(starts), axis=0).min() > 0.02


def test_ood_positions_lie_outside_the_training_regions() -> None:
    for task in TASKS.values():
        ood, regions = task.regions["ood"], task.regions["id"]
        for name in (*task.handled, *task.targets):
            low, high = ood[name].azimuth_rad
            assert low > regions[name].azimuth_rad[1] or high < regions[name].azimuth_rad[0], (task.name, name)
        assert set(ood) > set(regions)  # things never seen before


def at(x_m: float, y_m: float) -> Region:
    """One place."""
    radius, azimuth = float(np.hypot(x_m, y_m)), float(np.arctan2(-y_m, -x_m))
    return Region(radius_m=(radius, radius), azimuth_rad=(azimuth, azimuth))


def test_a_layout_that_hides_an_object_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_LAYOUTS", 5)
    monkeypatch.setitem(OBJECTS, "screen", replace(OBJECTS["can"], radius_m=0.06, height_m=0.3))
    task = TASKS["place_sponge"]
    plate = {"plate": at(-0.20, -0.20)}
    hides = {"sponge": at(-0.25, 0.15), "screen": at(-0.40, 0.07), **plate}
    with pytest.raises(FailedError, match=r"place_sponge, layout id: screen hides sponge from the front camera"):
        replace(task, gap_m=0.0, regions={"id": hides}).sample("id", np.random.default_rng(0))
    away = {"sponge": at(-0.10, 0.45), **plate}
    with pytest.raises(FailedError, match=r"sponge at \(-0.10, 0.45\) m reaches out of the front camera's picture"):
        replace(task, regions={"id": away}).sample("id", np.random.default_rng(0))
    with pytest.raises(FailedError, match=r"a gap of 0\.4 m between"):
        replace(task, gap_m=0.4).sample("id", np.random.default_rng(0))


def test_a_task_whose_objects_have_no_place_is_refused() -> None:
    with pytest.raises(ValueError, match=r"without a region \['plate'\].*unknown objects \['melon'\]"):
        replace(TASKS["place_sponge"], regions={"id": {"sponge": at(-0.3, 0.0), "melon": at(-0.3, 0.2)}})


@pytest.mark.parametrize("layout", ["id", "ood"])
def test_the_cloth_has_another_colour_in_another_episode(wipe_sim: TabletopSim, layout: str) -> None:
    assert not set(CLOTH_COLOURS["id"]) & set(CLOTH_COLOURS["ood"])
    sim = wipe_sim if layout == "id" else TabletopSim("wipe_stain", layout="ood")
    seen = []
    for seed in range(2):
        sim.reset(seed)
        seen.append(tuple(sim.model.geom("cloth_left").rgba[:3].tolist()))
    assert seen[0] != seen[1] and set(seen) <= {tuple(np.float32(c).tolist()) for c in CLOTH_COLOURS[layout]}


def test_a_snapshot_knows_what_is_wiped_and_which_cloth_it_is(wipe_sim: TabletopSim) -> None:
    wipe_sim.reset(1)
    wipe_sim._dirty[:70] = False
    other = TabletopSim("wipe_stain")
    other.restore(wipe_sim.snapshot())
    assert np.array_equal(other.dirty_m, wipe_sim.dirty_m) and len(other.dirty_m) > 0
    assert other.outcome() == wipe_sim.outcome() and other.outcome().score > 0.2
    wipe_sim._paint()
    assert np.array_equal(other.model.geom_rgba, wipe_sim.model.geom_rgba)


@pytest.mark.parametrize("task", ["pick_place", "place_bottle", "place_sponge", "wipe_stain", "stack_4_bowls"])
def test_objects_stand_still_at_the_start(task: TaskName, pick_sim: TabletopSim) -> None:
    sim = pick_sim if task == "pick_place" else TabletopSim(task, layout="ood")
    sim.reset(5)
    before = {name: sim.object_pose(name) for name in sim.objects}
    sim.advance(1_000_000_000)
    for name, pose in before.items():
        assert np.abs(sim.object_pose(name)[:3, 3] - pose[:3, 3]).max() < 1e-3, name


def test_bad_arguments_are_named(pick_sim: TabletopSim) -> None:
    with pytest.raises(ValueError, match="juggle"):
        TabletopSim("juggle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layout"):
        TabletopSim("pick_place", layout="moon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="-3"):
        pick_sim.reset(-3)
    with pytest.raises(ValueError, match="5000000"):
        pick_sim.advance(5_000_000)
    for q, gripper in (([0.0] * 5, 1.0), ([0.0, 0.0, np.nan, 0.0, 0.0, 0.0], 1.0), ([0.0] * 6, np.inf)):
        with pytest.raises(ValueError, match="finite"):
            pick_sim.set_targets(q, gripper)
    with pytest.raises(KeyError, match="melon"):
        pick_sim.object_pose("melon")
