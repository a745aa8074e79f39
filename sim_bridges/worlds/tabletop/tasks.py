"""The tasks: where things are at the start, and the paper's rubrics (Appendix F.2) as code.

Positions on the table are polar about the robot's base, azimuth 0 straight ahead (``-x``), so that every
region is equally well reached. The regions of one task are disjoint: objects never start touching.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavla_ros.config import ConfigError
from lavla_ros.errors import FailedError
from sim_bridges.worlds.tabletop.names import LayoutName, TaskName
from sim_bridges.worlds.tabletop.scene import FRUIT_BOWL, MANGO_HALF_AXES_M, STACK_BOWL, TABLE_Z_M

PICKED_HEIGHT_M = 0.03
"""An object counts as picked once it was held this far above where it stood."""
REST_SPEED_M_S = 0.03
REST_TURN_RAD_S = 1.0
REST_TIME_S = 0.2
"""Released and slower than this for this long: at rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A sector of the table around the base and a range of headings."""

    radius_m: tuple[float, float]
    azimuth_rad: tuple[float, float]
    yaw_rad: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for key in ("radius_m", "azimuth_rad", "yaw_rad"):
            low, high = getattr(self, key)
            if low > high:
                raise ConfigError(f"region: {key} is ({low}, {high}); expected low <= high")

    def sample(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """x (m), y (m), yaw (rad), uniform in radius, azimuth and yaw."""
        radius, azimuth = rng.uniform(*self.radius_m), rng.uniform(*self.azimuth_rad)
        return -radius * math.cos(azimuth), -radius * math.sin(azimuth), rng.uniform(*self.yaw_rad)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task: objects, start regions by layout, instruction."""

    name: TaskName
    instruction: str
    moved: str
    """The object that is to be picked up."""
    target: str
    """The object that it is to be put into."""
    regions: Mapping[LayoutName, Mapping[str, Region]]
    """Layout → object → where it starts. Objects not named in a layout are not in that scene."""
    clearance_m: float
    """Smallest distance between the centres of any two objects at the start."""

    def objects(self, layout: LayoutName) -> tuple[str, ...]:
        return tuple(self.regions[layout])

    def sample(self, layout: LayoutName, rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
        """Object → (x, y, yaw). Redraws the whole layout until the clearance holds."""
        for _ in range(10_000):
            poses = {name: region.sample(rng) for name, region in self.regions[layout].items()}
            points = np.array([p[:2] for p in poses.values()])
            gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) + 10.0 * np.eye(len(points))
            if float(gaps.min()) >= self.clearance_m:
                return poses
        raise FailedError(f"task {self.name}, layout {layout}: no layout with {self.clearance_m} m between objects")


_ANYWHERE = Region(radius_m=(0.22, 0.40), azimuth_rad=(-1.1, 1.1), yaw_rad=(-math.pi, math.pi))

TASKS: Mapping[str, Task] = {
    "pick_place": Task(
        name="pick_place",
        instruction="pick up the mango and place it in the bowl",
        moved="mango",
        target="bowl",
        clearance_m=0.115,
        regions={
            # 18 x 20 cm and 10 x 14 cm in the middle of the sectors.
            "id": {
                "mango": Region(radius_m=(0.22, 0.39), azimuth_rad=(-0.68, -0.01), yaw_rad=(-0.9, 0.9)),
                "bowl": Region(radius_m=(0.24, 0.34), azimuth_rad=(0.44, 0.92)),
            },
            # The sides are exchanged, the mango's heading is free, and there are two things never seen before.
            "ood": {
                "mango": Region(radius_m=(0.22, 0.38), azimuth_rad=(0.10, 0.95), yaw_rad=(-math.pi, math.pi)),
                "bowl": Region(radius_m=(0.24, 0.34), azimuth_rad=(-0.95, -0.35)),
                "block": _ANYWHERE,
                "can": _ANYWHERE,
            },
        },
    ),
    "stack_bowls": Task(
        name="stack_bowls",
        instruction="stack the bowls",
        moved="red_bowl",
        target="blue_bowl",
        clearance_m=0.145,
        regions={
            "id": {
                "red_bowl": Region(radius_m=(0.23, 0.34), azimuth_rad=(-0.75, -0.15)),
                "blue_bowl": Region(radius_m=(0.24, 0.33), azimuth_rad=(0.38, 0.86)),
            },
            "ood": {
                "red_bowl": Region(radius_m=(0.23, 0.34), azimuth_rad=(0.20, 0.90)),
                "blue_bowl": Region(radius_m=(0.24, 0.33), azimuth_rad=(-0.90, -0.38)),
                "block": _ANYWHERE,
                "can": _ANYWHERE,
            },
        },
    ),
}

START_HEIGHT_M = {
    "mango": MANGO_HALF_AXES_M[2],
    "bowl": 0.0,
    "red_bowl": 0.0,
    "blue_bowl": 0.0,
    "block": 0.022,
    "can": 0.030,
}
"""Height of an object's frame above the table when it stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How far an episode has come, judged from the physics state alone."""

    success: bool
    score: float
    """0 to 1. pick_place: half for the pick, half for the place. stack_bowls: 0, 0.5, 0.8 or 1 by nesting."""
    picked: bool
    """The object was held above the table at some time in this episode."""
    placed: bool
    """The object is in (pick_place) or nested in (stack_bowls) the target, let go and at rest."""
    released: bool
    at_rest: bool


def inside_fruit_bowl(bowl_pose_44: NDArray[np.float64], point_m: NDArray[np.float64]) -> bool:
    """Whether a point (3,) is within the bowl's rim and below it."""
    local = bowl_pose_44[:3, :3].T @ (point_m - bowl_pose_44[:3, 3])
    radial = math.hypot(float(local[0]), float(local[1]))
    return radial < FRUIT_BOWL.top_radius_m - 0.01 and 0.0 < float(local[2]) < FRUIT_BOWL.height_m + 0.012


def nesting_score(upper_44: NDArray[np.float64], lower_44: NDArray[np.float64]) -> float:
    """The rubric for one stacked bowl: 1 fully nested, 0.8 seated with a visible gap or lean, 0.5 inside but
    standing askew, 0 not inside."""
    local = lower_44[:3, :3].T @ (upper_44[:3, 3] - lower_44[:3, 3])
    offset_m = math.hypot(float(local[0]), float(local[1]))
    lean_rad = math.acos(max(-1.0, min(1.0, float(upper_44[:3, 2] @ lower_44[:3, 2]))))
    gap_m = float(local[2]) - STACK_BOWL.nested_offset_m
    if offset_m > STACK_BOWL.top_radius_m or not 0.0 < float(local[2]) < STACK_BOWL.height_m:
        return 0.0
    if lean_rad < math.radians(5) and gap_m < 0.007 and offset_m < 0.006:
        return 1.0
    if lean_rad < math.radians(15) and gap_m < 0.015:
        return 0.8
    return 0.5


def table_pose(name: str, x_m: float, y_m: float, yaw_rad: float) -> NDArray[np.float64]:
    """Free-joint coordinates (7,) of an object that stands on the table: position, quaternion (w first)."""
    z = TABLE_Z_M + START_HEIGHT_M[name] + 0.0005
    return np.array([x_m, y_m, z, math.cos(yaw_rad / 2), 0.0, 0.0, math.sin(yaw_rad / 2)])
