"""The rubrics of the paper's Appendix F.2, on hand-made scenes."""

from __future__ import annotations

import numpy as np
import pytest

from sim_bridges.worlds.tabletop.scene import STACK_BOWL, TABLE_Z_M, BowlShape
from sim_bridges.worlds.tabletop.sim import TabletopSim
from sim_bridges.worlds.tabletop.tasks import Region, nesting_score

pytestmark = pytest.mark.sim


def drop(sim: TabletopSim, name: str, above: str, height_m: float, aside_m: float = 0.0, tilt_rad: float = 0.0) -> None:
    """Let an object fall onto another one."""
    joint = sim.data.joint(name)
    x, y, z = sim.object_pose(above)[:3, 3]
    joint.qpos[:] = [x + aside_m, y, z + height_m, np.cos(tilt_rad / 2), np.sin(tilt_rad / 2), 0.0, 0.0]
    joint.qvel[:] = 0.0
    sim.advance(2_000_000_000)


def test_mango_dropped_into_the_bowl_is_placed_but_not_picked(pick_sim: TabletopSim) -> None:
    pick_sim.reset(0)
    drop(pick_sim, "mango", "bowl", 0.09)
    outcome = pick_sim.outcome()
    assert (outcome.placed, outcome.picked, outcome.success, outcome.score) == (True, False, False, 0.5)


def test_mango_beside_the_bowl_is_not_placed(pick_sim: TabletopSim) -> None:
    pick_sim.reset(0)
    drop(pick_sim, "mango", "bowl", 0.06, aside_m=-0.14)
    outcome = pick_sim.outcome()
    assert outcome.score == 0.0
    assert outcome.at_rest
    assert not outcome.placed


def test_a_mango_in_the_air_is_not_at_rest(pick_sim: TabletopSim) -> None:
    pick_sim.reset(0)
    joint = pick_sim.data.joint("mango")
    joint.qpos[2] += 0.3
    pick_sim.advance(100_000_000)
    assert not pick_sim.outcome().at_rest
    assert not pick_sim.outcome().picked  # up, but not held


def test_a_bowl_dropped_upright_into_the_other_nests_fully(stack_sim: TabletopSim) -> None:
    stack_sim.reset(0)
    drop(stack_sim, "red_bowl", "blue_bowl", STACK_BOWL.nested_offset_m + 0.02)
    outcome = stack_sim.outcome()
    assert outcome.score == 1.0
    assert outcome.success
    offset = stack_sim.object_pose("red_bowl")[2, 3] - stack_sim.object_pose("blue_bowl")[2, 3]
    assert offset == pytest.approx(STACK_BOWL.nested_offset_m, abs=0.005)


def test_a_bowl_standing_askew_in_the_other_is_half_a_success(stack_sim: TabletopSim) -> None:
    stack_sim.reset(0)
    drop(stack_sim, "red_bowl", "blue_bowl", 0.09, tilt_rad=1.5)
    assert stack_sim.outcome().score in (0.0, 0.5)
    assert not stack_sim.outcome().success


def test_a_stack_is_worth_the_mean_of_its_placements_and_keeps_it_while_it_is_carried() -> None:
    sim = TabletopSim("stack_3_bowls")
    sim.reset(0)
    drop(sim, "red_bowl", "blue_bowl", STACK_BOWL.nested_offset_m + 0.02)
    assert sim.outcome().score == 0.5 and not sim.outcome().success
    assert sim.seated(0) and not sim.seated(1)
    joints = [sim.data.joint(name) for name in ("blue_bowl", "red_bowl")]
    x, y, z = sim.object_pose("green_bowl")[:3, 3]
    for joint, height_m in zip(joints, (0.06, 0.06 + STACK_BOWL.nested_offset_m), strict=True):
        joint.qpos[:], joint.qvel[:] = [x, y, z + height_m, 1.0, 0.0, 0.0, 0.0], 0.0
    sim.advance(40_000_000)
    assert sim.outcome().score == 0.5 and not sim.outcome().at_rest  # falling, one in the other
    sim.advance(2_000_000_000)
    assert sim.outcome().score == 1.0 and sim.outcome().success
    # Out of the stack again: that placement is lost.
    joints[1].qpos[:3] += [0.25, 0.0, 0.1]
    sim.advance(40_000_000)
    assert sim.outcome().score == 0.5 and not sim.seated(0)


def slide(sim: TabletopSim, height_m: float, speed_m_s: float) -> float:
    """Let the cloth lie beside the middle of the stain, or hold it above, and draw it 24 mm; the score afterwards."""
    sim.reset(0)
    joint = sim.data.joint("cloth")
    x, y, z = sim.object_pose("stain")[:3, 3]
    joint.qpos[:] = [x - 0.05, y, z + height_m, 1.0, 0.0, 0.0, 0.0]
    for _ in range(10):
        joint.qvel[:] = [speed_m_s, 0.0, 0.0, 0.0, 0.0, 0.0]
        if height_m:
            joint.qpos[2] = z + height_m
        sim.advance(8_000_000)
    return sim.outcome().score


def test_only_a_cloth_that_slides_on_the_table_wipes(wipe_sim: TabletopSim) -> None:
    assert slide(wipe_sim, 0.06, 0.3) == 0.0
    assert slide(wipe_sim, -0.001, 0.0) == 0.0
    before = len(wipe_sim.dirty_m)
    score = slide(wipe_sim, -0.001, 0.3)
    assert 0.1 < score < 0.95 and score == pytest.approx(1 - len(wipe_sim.dirty_m) / before)
    # What is gone lies below the cloth, and what is left does not.
    reach = np.abs(wipe_sim.dirty_m[:, :2] - wipe_sim.object_pose("cloth")[:2, 3])
    assert not (reach < 0.02).all(axis=1).any()


def test_a_bottle_that_lies_on_the_coaster_is_not_placed() -> None:
    sim = TabletopSim("place_bottle")
    sim.reset(0)
    drop(sim, "bottle", "coaster", 0.006)
    assert sim.outcome().placed and sim.outcome().score == 0.5
    drop(sim, "bottle", "coaster", 0.03, aside_m=0.0, tilt_rad=1.57)
    assert not sim.outcome().placed and sim.outcome().score == 0.0


def test_a_sponge_on_the_plate_is_placed_and_beside_it_is_not() -> None:
    sim = TabletopSim("place_sponge")
    sim.reset(0)
    for tilt_rad in (0.0, 1.57):  # on edge, too
        drop(sim, "sponge", "plate", 0.03 + 0.01 * tilt_rad, tilt_rad=tilt_rad)
        assert sim.outcome().placed
    drop(sim, "sponge", "plate", 0.03, aside_m=-0.13)
    assert not sim.outcome().placed


def pose(x: float = 0.0, z: float = 0.0, lean_deg: float = 0.0) -> np.ndarray:
    c, s = np.cos(np.radians(lean_deg)), np.sin(np.radians(lean_deg))
    out = np.eye(4)
    out[:3, :3] = [[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]
    out[0, 3], out[2, 3] = x, z
    return out


@pytest.mark.parametrize(
    ("upper", "score"),
    [
        (pose(z=STACK_BOWL.nested_offset_m), 1.0),
        (pose(z=STACK_BOWL.nested_offset_m + 0.004, lean_deg=3.0), 1.0),
        (pose(z=STACK_BOWL.nested_offset_m + 0.010, lean_deg=3.0), 0.8),
        (pose(z=STACK_BOWL.nested_offset_m + 0.004, lean_deg=10.0), 0.8),
        (pose(z=STACK_BOWL.nested_offset_m + 0.025, lean_deg=40.0), 0.5),
        (pose(x=0.13), 0.0),
        (pose(z=0.10), 0.0),
        (pose(z=-0.01), 0.0),
    ],
)
def test_nesting_score(upper: np.ndarray, score: float) -> None:
    assert nesting_score(upper, pose()) == score


def test_impossible_shapes_and_regions_are_refused() -> None:
    with pytest.raises(ValueError, match="wider"):
        BowlShape(bottom_radius_m=0.06, top_radius_m=0.05, height_m=0.04)
    with pytest.raises(ValueError, match="radius_m"):
        Region(radius_m=(0.3, 0.2), azimuth_rad=(0.0, 1.0))


def test_the_table_is_where_the_objects_stand(stack_sim: TabletopSim) -> None:
    stack_sim.reset(3)
    assert stack_sim.object_pose("blue_bowl")[2, 3] == pytest.approx(TABLE_Z_M, abs=1e-3)
