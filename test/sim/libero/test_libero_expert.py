"""LIBERO's scripted experts. The full measurement is ``python -m sim_bridges.measure``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from lavla_ros.contract import ActionChunk, load_contract
from sim_bridges.episode import Episode
from sim_bridges.measure import show
from sim_bridges.world import EpisodePlan
from sim_bridges.worlds.libero.assets import LiberoAssets, find_assets
from sim_bridges.worlds.libero.environment import LiberoEnvironment
from sim_bridges.worlds.libero.expert import (
    DisturbanceConfig,
    DisturbanceSource,
    ExpertConfig,
    GraspConfig,
    LiberoExpert,
)
from sim_bridges.worlds.libero.expert.boxes import bodies_below, collision_boxes, footprint, sample_points
from sim_bridges.worlds.libero.expert.grasp import _part_grasps, down, nearest_half_turn
from sim_bridges.worlds.libero.jobs import read_jobs
from sim_bridges.worlds.libero.suite import LiberoTaskEnvironment
from sim_bridges.worlds.libero.tasks import LiberoError

pytestmark = pytest.mark.long

BOXES = """
<mujoco><worldbody>
  <geom type="plane" size="1 1 1"/>
  <body name="brick" pos="0.1 0.2 0.05" euler="0 0 30">
    <geom type="box" size="0.02 0.06 0.03"/>
    <geom type="box" size="0.5 0.5 0.5" contype="0" conaffinity="0"/>
    <body name="lid" pos="0 0 0.04"><geom type="cylinder" size="0.01 0.01"/></body>
  </body>
  <body name="wall" pos="0.5 0 0.1"><geom type="box" size="0.01 0.3 0.1"/></body>
</worldbody></mujoco>
"""


@pytest.fixture(scope="module")
def shapes() -> tuple[Any, Any]:
    model = mujoco.MjModel.from_xml_string(BOXES)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def test_footprint_is_of_what_can_be_touched(shapes: tuple[Any, Any]) -> None:
    model, data = shapes
    brick = bodies_below(model, model.body("brick").id)
    assert brick == {model.body("brick").id, model.body("lid").id}
    shape = footprint(collision_boxes(model, data, brick))
    assert shape.centre == pytest.approx([0.1, 0.2], abs=1e-5)
    assert (shape.short_m, shape.long_m) == pytest.approx((0.04, 0.12), abs=1e-5)
    assert shape.short_yaw_rad == pytest.approx(math.radians(30), abs=1e-4)
    assert (shape.bottom_m, shape.top_m) == pytest.approx((0.02, 0.10))
    with pytest.raises(ValueError, match="no footprint"):
        footprint(collision_boxes(model, data, ()))


def test_distance_and_way(shapes: tuple[Any, Any]) -> None:
    model, data = shapes
    wall = collision_boxes(model, data, {model.body("wall").id})
    points = np.array([[0.5, 0.0, 0.1], [0.53, 0.0, 0.1], [0.5, 0.0, 0.25], [0.54, 0.33, 0.1]])
    assert wall.distance(points) == pytest.approx([-0.01, 0.02, 0.05, math.hypot(0.03, 0.03)])
    assert wall.top_along(np.array([0.0, 0.0]), np.array([1.0, 0.0]), 0.05) == pytest.approx(0.2)
    assert wall.top_along(np.array([0.0, 0.0]), np.array([0.4, 0.0]), 0.05) == -np.inf
    assert wall.top_along(np.array([0.0, 0.0]), np.array([0.4, 0.0]), 0.1) == pytest.approx(0.2)
    assert len(wall.near(np.zeros(3), 0.1).centres) == 0
    assert len(wall.near(np.array([0.5, 0.3, 0.1]), 0.1).centres) == 1


def test_sample_points_cover_a_box(shapes: tuple[Any, Any]) -> None:
    model, data = shapes
    wall = collision_boxes(model, data, {model.body("wall").id})
    points = sample_points(wall, 0.05)
    assert points.min(axis=0) == pytest.approx([0.49, -0.3, 0.0])
    assert points.max(axis=0) == pytest.approx([0.51, 0.3, 0.2])
    assert np.diff(np.unique(points[:, 1].round(9))).max() <= 0.05 + 1e-9
    assert wall.distance(points).max() < 1e-9


MUG = """
<mujoco><worldbody><body name="mug" pos="0.3 -0.1 0">
  <geom type="box" size="0.04 0.04 0.004" pos="0 0 0.004"/>
  {walls}
  <geom type="box" size="0.004 0.008 0.03" pos="-0.07 0 0.05"/>
  <geom type="box" size="0.016 0.008 0.004" pos="-0.055 0 0.076"/>
</body></worldbody></mujoco>
"""


def test_a_wide_object_is_gripped_by_its_wall_or_handle() -> None:
    around = np.arange(16) * math.pi / 8
    walls = "".join(
        f'<geom type="box" size="0.002 0.009 0.045" pos="{0.042 * math.cos(a)} {0.042 * math.sin(a)} 0.05" '
        f'euler="0 0 {math.degrees(a)}"/>'
        for a in around
    )
    model = mujoco.MjModel.from_xml_string(MUG.format(walls=walls))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    mug, position = collision_boxes(model, data, {model.body("mug").id}), np.array([0.3, -0.1, 0.0])
    config = GraspConfig()
    assert footprint(mug).short_m > config.widest_m
    grasps = _part_grasps(mug, position, config)
    assert len(grasps) > 20
    handles = 0
    for grasp in grasps:
        x, y, z = grasp.offset
        closing = np.array([math.cos(grasp.yaw_rad), math.sin(grasp.yaw_rad), 0.0])
        # Between the fingers there is something, and nothing where they stand open, down to their tips.
        across = position + grasp.offset + np.linspace(-0.015, 0.015, 31)[:, None] * closing
        assert (mug.distance(across) < 0.0).any()
        fingers = position + grasp.offset + np.array([[side * 0.042] for side in (-1, 1)]) * closing - [0, 0, 0.009]
        assert (mug.distance(fingers) > 0.0).all()
        assert 0.095 - z == pytest.approx(min(config.rim_depths_m, key=lambda depth: abs(0.095 - z - depth)))
        if math.hypot(x, y) > 0.05:
            handles += 1
        else:
            assert abs(math.cos(grasp.yaw_rad - math.atan2(y, x))) > math.cos(0.4)  # square to the wall
    assert 0 < handles < len(grasps)


@pytest.mark.parametrize("yaw", [-1.2, 0.0, 0.4, 2.0, math.pi])
def test_the_gripper_points_down_and_closes_along_the_yaw(yaw: float) -> None:
    rotation = down(yaw)
    assert rotation.T @ rotation == pytest.approx(np.eye(3))
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    assert rotation[:, 1] == pytest.approx([math.cos(yaw), math.sin(yaw), 0.0])
    assert rotation[:, 2] == pytest.approx([0.0, 0.0, -1.0])
    for home in (-math.pi / 2, math.pi / 2):
        near = nearest_half_turn(yaw, home)
        assert abs(near - home) <= math.pi / 2 + 1e-9
        assert math.sin(near - yaw) == pytest.approx(0.0, abs=1e-9)


def test_what_is_no_libero_environment_is_refused() -> None:
    with pytest.raises(TypeError, match="object holds no LIBERO environment"):
        LiberoExpert(object())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: ExpertConfig(hover_m=0.0), "hover_m is 0.0"),
        (lambda: ExpertConfig(grip_steps=0), "grip_steps is 0"),
        (lambda: ExpertConfig(turn_limit=1.5), "turn_limit is 1.5"),
        (lambda: GraspConfig(rim_depths_m=()), "nothing to choose"),
        (lambda: GraspConfig(tall_m=-1.0), "tall_m is -1.0"),
        (lambda: DisturbanceConfig(start_probability=1.5), "start_probability is 1.5"),
        (lambda: DisturbanceConfig(steps=(5, 2)), "shortest <= longest"),
        (lambda: DisturbanceConfig(std=(0.1,)), "expected 6 values"),
    ],
)
def test_bad_configurations_are_refused(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config()


def test_disturbances_come_in_bursts_and_leave_the_gripper_alone() -> None:
    contract = load_contract("libero")
    action = np.array([0.2, -1.0, -0.5, 0.0, 0.1, 0.3, 1.0])
    chunk = ActionChunk(stamp_ns=0, dt_ns=contract.dt_ns, actions_HA=action[None], names=contract.action.names)
    runs = []
    for seed in (3, 3, 4):
        source = DisturbanceSource(DisturbanceConfig(), seed)
        runs.append(np.array([source.apply(chunk).actions_HA[0] for _ in range(500)]))
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert np.abs(runs[0]).max() <= 1.0
    assert (runs[0][:, 6] == 1.0).all()
    assert (runs[0][:, 2] >= -0.5).all()
    pushed = (runs[0] != action).any(axis=1)
    assert 0.08 < pushed.mean() < 0.45
    assert np.flatnonzero(np.diff(pushed.astype(int)) == 1).size > 5
    with pytest.raises(ValueError, match=r"shape \(1, 6\)"):
        DisturbanceSource(DisturbanceConfig(), 0).apply(replace(chunk, actions_HA=np.zeros((1, 6))))


# ---- in LIBERO


SHARED_ASSETS = Path(__file__).resolve().parents[4] / "shared" / "libero_assets"


@pytest.fixture(scope="module")
def assets() -> LiberoAssets:
    try:
        return find_assets(SHARED_ASSETS if SHARED_ASSETS.is_dir() else None, download=False)
    except LiberoError as error:
        pytest.skip(f"needs LIBERO with its assets: {error}")


@pytest.fixture(scope="module", params=[("libero_object", 1), ("libero_spatial", 2)], ids=lambda p: p[0])
def environment(request: pytest.FixtureRequest, assets: LiberoAssets) -> Iterator[LiberoEnvironment]:
    made = LiberoEnvironment(*request.param, assets=assets, cameras=())
    yield made
    made.close()


def shown(environment: LiberoEnvironment, initial_state: int, *, disturb: bool = False) -> Episode:
    limit = environment.task.step_limit
    plan = EpisodePlan(index=0, task=environment.task.name, trial=0, seed=7, state_index=initial_state, max_steps=limit)
    task = LiberoTaskEnvironment(environment, environment.contract)
    return show(task, plan, environment.contract, disturb=disturb)


@pytest.mark.sim
def test_reaches_the_goal_and_does_the_same_again(environment: LiberoEnvironment) -> None:
    runs = []
    for initial_state in (0, 1, 0):
        episode = shown(environment, initial_state)
        assert episode.success, f"{environment.instruction}, initial state {initial_state}: {episode.reason}"
        assert 60 < episode.steps < environment.task.step_limit
        runs.append((episode.steps, episode.trajectory))
    assert runs[0] == runs[2]
    assert runs[0] != runs[1]


@pytest.mark.sim
@pytest.mark.parametrize(("suite", "task"), [("libero_goal", 7), ("libero_10", 6)])
def test_does_what_the_other_suites_ask_for(assets: LiberoAssets, suite: str, task: int) -> None:
    """The stove turned on by its knob; a mug onto a plate by its wall, and then a box beside it."""
    made = LiberoEnvironment(suite, task, assets=assets, cameras=())
    try:
        episode = shown(made, 0)
        assert episode.success, episode.reason
        assert made.env.env._check_success()
    finally:
        made.close()


@pytest.mark.sim
def test_does_again_what_was_undone(assets: LiberoAssets) -> None:
    """The first of two objects is taken out of the basket while the second is carried."""
    made = LiberoEnvironment("libero_10", 1, assets=assets, cameras=())
    try:
        made.reset(0, 7)
        expert, domain, carried = LiberoExpert(made), made.env.env, set()
        first, second = (job.moved for job in read_jobs(made.task))
        joint = domain.objects_dict[first].joints[0]
        start, undone = domain.sim.data.get_joint_qpos(joint).copy(), False
        while not made.success and made.steps < made.task.step_limit:
            action = expert.act()
            if expert.phase == "carry":
                carried.add(expert.job.moved)
            if second in carried and not undone:
                domain.sim.data.set_joint_qpos(joint, start)
                domain.sim.forward()
                undone = True
            made.step(action)
        assert undone
        assert made.success
    finally:
        made.close()


@pytest.mark.sim
def test_recovers_from_disturbances(environment: LiberoEnvironment) -> None:
    plain, disturbed = shown(environment, 2), shown(environment, 2, disturb=True)
    assert plain.success
    assert disturbed.success
    assert disturbed.trajectory != plain.trajectory


@pytest.mark.sim
def test_looking_changes_nothing_and_actions_stay_in_range(environment: LiberoEnvironment) -> None:
    environment.reset(3, 7)
    expert = LiberoExpert(environment)
    before = environment.states()
    action = expert.act()
    assert np.array_equal(environment.states(), before)
    assert action.shape == (7,)
    assert np.abs(action).max() <= 1.0
    assert action[6] == -1.0


@pytest.mark.sim
def test_fetches_an_object_that_was_moved_while_the_hand_came_down(environment: LiberoEnvironment) -> None:
    environment.reset(4, 7)
    expert = LiberoExpert(environment)
    moved = False
    while not environment.success and environment.steps < environment.task.step_limit:
        action = expert.act()
        if expert.phase == "descend" and not moved:
            domain = environment.env.env
            joint = domain.objects_dict[domain.parsed_problem["goal_state"][0][1]].joints[0]
            place = domain.sim.data.get_joint_qpos(joint).copy()
            place[:2] += [-0.03, 0.03]
            domain.sim.data.set_joint_qpos(joint, place)
            domain.sim.forward()
            moved = True
        environment.step(action)
    assert moved
    assert environment.success
