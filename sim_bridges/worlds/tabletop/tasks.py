"""The tasks: where things are at the start, what is to be done, and the paper's rubrics (Appendix F.2) as code.

Positions on the table are polar about the robot's base, azimuth 0 straight ahead (``-x``), so that every
region is equally well reached. Objects never start touching.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lavla_ros.config import ConfigError
from lavla_ros.errors import FailedError
from sim_bridges.worlds.tabletop.names import LayoutName, TaskName
from sim_bridges.worlds.tabletop.scene import (
    COASTER_HEIGHT_M,
    COASTER_RADIUS_M,
    FRONT_AIM_M,
    FRONT_EYE_M,
    FRONT_FOVY_DEG,
    FRUIT_BOWL,
    OBJECTS,
    PLATE,
    SPONGE_HALF_M,
    STACK_BOWL,
    STAIN_CELL_M,
    STAIN_CELLS,
    TABLE_Z_M,
    stain_cells,
)

PICKED_HEIGHT_M = 0.03
"""An object counts as picked once it was held this far above where it stood."""
REST_SPEED_M_S = 0.03
REST_TURN_RAD_S = 1.0
REST_TIME_S = 0.2
"""Released and slower than this for this long: at rest."""
_LAYOUTS = 10_000
"""Layouts that are drawn before there is none."""
WIPED = 0.95
"""This share of the stain gone is success."""


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
class Put:
    """One object that is gripped and let go in or on another. Heights are the grip's above the table, m."""

    moved: str
    target: str
    grip: Literal["across", "rim", "free_rim", "upright"]
    """across: over its middle, the fingers to either side of its long axis; rim: its rim's point towards -y;
    free_rim: the point of its rim with the most room around; upright: around something tall and round."""
    release_m: float
    """Height at which it is let go."""
    carry_m: float
    """Height at which it passes over other things."""
    rise_m: float = 0.045
    """More than this below the carrying height it is only lifted, not moved sideways."""
    grip_m: float = 0.0
    """Where it is gripped, above its frame; a rim where the rim is."""
    over_m: float
    """Nearer than this to the target's middle it is there, not to be fetched again."""
    funnel_m: float | None = None
    """See ExpertConfig; None: as there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wipe:
    """A cloth that is gripped across its ridge, carried to the stain and drawn over what is still dirty."""

    moved: str
    target: str
    grip_m: float
    """Where it is gripped, above its frame; it wipes with its frame on the table."""
    carry_m: float
    rise_m: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task: objects, start regions by layout, instruction, and what is to be done, in that order."""

    name: TaskName
    code: int
    """Its number in seeds and snapshots."""
    instruction: str
    does: tuple[Put | Wipe, ...]
    """One Put is graded by pick and place; bowls put on one another, each with what is in it already, by nesting;
    Wipe by what is clean."""
    regions: Mapping[LayoutName, Mapping[str, Region]]
    """Layout → object → where it starts. Objects not named in a layout are not in that scene."""
    clearance_m: float = 0.0
    """Smallest distance between the centres of any two objects at the start."""
    gap_m: float = 0.0
    """Smallest distance between the upright cylinders around any two objects at the start."""
    tries: int = 20
    """Draws of an object until it is clear of those before it; then the whole layout is drawn again."""
    all_seen: bool = True
    """A layout in which the front camera does not see what the task is about is drawn again, too."""

    def __post_init__(self) -> None:
        for layout, regions in self.regions.items():
            missing = [name for name in (*self.handled, *self.targets) if name not in regions]
            unknown = [name for name in regions if name not in OBJECTS]
            if missing or unknown:
                raise ConfigError(
                    f"task {self.name}, layout {layout}: objects of the task without a region {missing}, "
                    f"regions of unknown objects {unknown}; there are {sorted(OBJECTS)}"
                )

    @property
    def handled(self) -> tuple[str, ...]:
        """What is picked up, in order."""
        return tuple(job.moved for job in self.does)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(job.target for job in self.does)

    @property
    def nests(self) -> bool:
        """Whether it is graded by how bowls nest."""
        return any(isinstance(job, Put) and job.grip in ("rim", "free_rim") for job in self.does)

    @property
    def wipes(self) -> bool:
        """Whether it is graded by what is clean."""
        return any(isinstance(job, Wipe) for job in self.does)

    def objects(self, layout: LayoutName) -> tuple[str, ...]:
        return tuple(self.regions[layout])

    def sample(self, layout: LayoutName, rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
        """Object → (x, y, yaw). Redraws until the clearance holds and the front camera sees what the task is about.
        Raises FailedError saying what stands in the way if no layout of the regions does that."""
        hidden = ""
        for _ in range(_LAYOUTS):
            poses: dict[str, tuple[float, float, float]] = {}
            clear = True
            for name, region in self.regions[layout].items():
                for _ in range(self.tries):
                    pose = region.sample(rng)
                    if here := self._clear(name, pose, poses):
                        break
                poses[name], clear = pose, clear and here
            if clear:
                hidden = unseen(poses, {*self.handled, *self.targets}) if self.all_seen else ""
                if not hidden:
                    return poses
        if hidden:
            raise FailedError(f"task {self.name}, layout {layout}: {hidden}, as in every layout of its regions")
        between = f"{self.clearance_m} m" if self.clearance_m else f"a gap of {self.gap_m} m"
        raise FailedError(f"task {self.name}, layout {layout}: no layout with {between} between objects")

    def _clear(
        self, name: str, pose: tuple[float, float, float], others: Mapping[str, tuple[float, float, float]]
    ) -> bool:
        """Whether an object may stand there beside the others."""
        return all(
            math.hypot(pose[0] - x, pose[1] - y)
            >= max(self.clearance_m, OBJECTS[name].radius_m + OBJECTS[other].radius_m + self.gap_m)
            for other, (x, y, _) in others.items()
        )


def unseen(poses: Mapping[str, tuple[float, float, float]], wanted: set[str]) -> str:
    """Why the front camera does not see one of the objects, in words; empty if it sees them all.

    Objects are upright cylinders here. One is seen if its left, middle and right are within the picture, and the line
    of sight to one of them is free. The arm is not looked at: it moves.
    """
    eye, aim = np.array(FRONT_EYE_M), np.array(FRONT_AIM_M)
    ahead = (aim - eye) / np.linalg.norm(aim - eye)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    half = math.tan(math.radians(FRONT_FOVY_DEG / 2))
    for name in sorted(wanted):
        kind = OBJECTS[name]
        middle = np.array([*poses[name][:2], TABLE_Z_M + kind.height_m / 2])
        points = [middle + side * 0.7 * kind.radius_m * right for side in (0, -1, 1)]
        for way in (point - eye for point in points):
            if max(abs(float(way @ right)), abs(float(way @ np.cross(right, ahead)))) > half * float(way @ ahead):
                return f"{name} at ({middle[0]:.2f}, {middle[1]:.2f}) m reaches out of the front camera's picture"
        hiding = [_in_the_way(eye, point, poses, name) for point in points]
        if all(hiding):
            return f"{hiding[0]} hides {name} from the front camera"
    return ""


def _in_the_way(
    eye_m: NDArray[np.float64], point_m: NDArray[np.float64], poses: Mapping[str, tuple[float, float, float]], of: str
) -> str:
    """The first object, but ``of``, through which the line from the eye to the point goes; empty for none."""
    way = point_m - eye_m
    for name, (x, y, _) in poses.items():
        kind = OBJECTS[name]
        from_axis = eye_m[:2] - (x, y)
        a, b, c = float(way[:2] @ way[:2]), float(way[:2] @ from_axis), float(from_axis @ from_axis) - kind.radius_m**2
        if name == of or b * b <= a * c:
            continue
        root = math.sqrt(b * b - a * c)
        enters, leaves = (-b - root) / a, min(1.0, (-b + root) / a)
        if leaves > 0.0 and enters < 1.0 and float(eye_m[2] + leaves * way[2]) - TABLE_Z_M < kind.height_m:
            return name
    return ""


_ANYWHERE = Region(radius_m=(0.22, 0.40), azimuth_rad=(-1.1, 1.1), yaw_rad=(-math.pi, math.pi))
_ASIDE = Region(radius_m=(0.20, 0.40), azimuth_rad=(-1.35, 1.35), yaw_rad=(-math.pi, math.pi))


def _into_bowl(moved: str) -> Put:
    return Put(
        moved=moved,
        target="bowl",
        grip="across",
        release_m=FRUIT_BOWL.height_m + 0.022,
        carry_m=FRUIT_BOWL.height_m + 0.060,
        over_m=FRUIT_BOWL.top_radius_m - 0.01,
    )


def _onto(moved: str, target: str, *, grip: Literal["rim", "free_rim"] = "free_rim") -> Put:
    """A bowl, with all that is nested in it, put on another one."""
    return Put(
        moved=moved,
        target=target,
        grip=grip,
        # Let go a little above the nested position: the outer finger must not meet the lower bowl's rim.
        release_m=STACK_BOWL.height_m + STACK_BOWL.nested_offset_m + 0.008,
        carry_m=2 * STACK_BOWL.height_m + 0.032,
        rise_m=0.035,
        over_m=0.03,
    )


_BOWLS = ("red_bowl", "blue_bowl", "green_bowl", "yellow_bowl")
_ARC = tuple(
    Region(radius_m=(0.24, 0.33), azimuth_rad=azimuth)
    for azimuth in ((-1.10, -0.80), (-0.50, -0.20), (0.06, 0.36), (0.66, 0.96))
)
"""Four places for bowls, side by side around the base."""
_LEFT, _AHEAD, _RIGHT = (
    Region(radius_m=(0.24, 0.33), azimuth_rad=azimuth) for azimuth in ((-1.0, -0.55), (-0.25, 0.20), (0.50, 0.95))
)


def _place(name: TaskName, code: int, instruction: str, put: Put) -> Task:
    """Something picked up amid clutter and placed. OOD, the sides are exchanged, headings are free, and there are two
    things never seen before."""
    return Task(
        name=name,
        code=code,
        instruction=instruction,
        does=(put,),
        gap_m=0.036,
        regions={
            "id": {
                put.moved: Region(radius_m=(0.24, 0.37), azimuth_rad=(-0.68, -0.05), yaw_rad=(-0.9, 0.9)),
                put.target: Region(radius_m=(0.25, 0.33), azimuth_rad=(0.44, 0.92)),
                "block": Region(radius_m=(0.22, 0.40), azimuth_rad=(-1.1, 1.1), yaw_rad=(-0.7, 0.7)),
                "can": Region(radius_m=(0.22, 0.40), azimuth_rad=(-1.1, 1.1)),
            },
            "ood": {
                put.moved: Region(radius_m=(0.24, 0.37), azimuth_rad=(0.10, 0.90), yaw_rad=(-math.pi, math.pi)),
                put.target: Region(radius_m=(0.25, 0.33), azimuth_rad=(-0.95, -0.35)),
                **dict.fromkeys(("block", "can", "carton", "lemon"), _ANYWHERE),
            },
        },
    )


_TASKS = (
    Task(
        name="pick_place",
        code=0,
        instruction="pick up the mango and place it in the bowl",
        does=(_into_bowl("mango"),),
        clearance_m=0.115,
        # The mango of one OOD layout in a hundred is beyond the picture's edge; they stay what they have always been.
        tries=1,
        all_seen=False,
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
    Task(
        name="stack_bowls",
        code=1,
        instruction="stack the bowls",
        does=(_onto("red_bowl", "blue_bowl", grip="rim"),),
        clearance_m=0.145,
        tries=1,
        all_seen=False,
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
    Task(
        name="stack_3_bowls",
        code=2,
        instruction="stack the bowls",
        does=(_onto("red_bowl", "blue_bowl"), _onto("blue_bowl", "green_bowl")),
        gap_m=0.026,
        regions={
            "id": {"red_bowl": _LEFT, "blue_bowl": _AHEAD, "green_bowl": _RIGHT},
            "ood": {
                "red_bowl": Region(radius_m=(0.24, 0.33), azimuth_rad=(-0.20, 0.20)),
                "blue_bowl": _RIGHT,
                "green_bowl": _LEFT,
                "block": _ASIDE,
                "can": _ASIDE,
            },
        },
    ),
    Task(
        name="stack_4_bowls",
        code=3,
        instruction="stack the bowls",
        does=(
            _onto("red_bowl", "blue_bowl"),
            _onto("blue_bowl", "green_bowl"),
            _onto("green_bowl", "yellow_bowl"),
        ),
        gap_m=0.024,
        regions={
            "id": dict(zip(_BOWLS, _ARC, strict=True)),
            "ood": {**dict(zip(_BOWLS, _ARC[2:] + _ARC[:2], strict=True)), "block": _ASIDE, "can": _ASIDE},
        },
    ),
    Task(
        name="wipe_stain",
        code=4,
        instruction="wipe the dark stain from the table",
        does=(Wipe(moved="cloth", target="stain", grip_m=0.018, carry_m=0.085, rise_m=0.045),),
        gap_m=0.03,
        regions={
            "id": {
                "cloth": Region(radius_m=(0.24, 0.36), azimuth_rad=(-0.80, -0.15), yaw_rad=(-0.9, 0.9)),
                "stain": Region(radius_m=(0.26, 0.33), azimuth_rad=(0.35, 0.75), yaw_rad=(-math.pi, math.pi)),
            },
            "ood": {
                "cloth": Region(radius_m=(0.24, 0.36), azimuth_rad=(0.20, 0.85), yaw_rad=(-math.pi, math.pi)),
                "stain": Region(radius_m=(0.26, 0.33), azimuth_rad=(-0.75, -0.35), yaw_rad=(-math.pi, math.pi)),
                "block": _ASIDE,
                "can": _ASIDE,
            },
        },
    ),
    _place("place_mango", 5, "pick up the mango and place it in the bowl", _into_bowl("crooked_mango")),
    _place(
        "place_sponge",
        6,
        "pick up the sponge and place it on the plate",
        Put(
            moved="sponge",
            target="plate",
            grip="across",
            grip_m=0.005,
            release_m=PLATE.floor_m + SPONGE_HALF_M[2] + 0.005 + 0.006,
            carry_m=0.110,
            over_m=0.045,
        ),
    ),
    _place(
        "place_bottle",
        7,
        "pick up the bottle and place it on the coaster",
        Put(
            moved="bottle",
            target="coaster",
            grip="upright",
            grip_m=0.052,
            release_m=0.052 + COASTER_HEIGHT_M + 0.002,
            carry_m=0.052 + 0.075,
            over_m=0.03,
            funnel_m=0.018,
        ),
    ),
)
TASKS: Mapping[str, Task] = {task.name: task for task in _TASKS}

CLOTH_COLOURS: Mapping[LayoutName, tuple[tuple[float, float, float], ...]] = {
    "id": ((0.24, 0.45, 0.80), (0.86, 0.42, 0.55), (0.93, 0.93, 0.90), (0.93, 0.60, 0.24)),
    "ood": ((0.30, 0.68, 0.42), (0.62, 0.42, 0.78)),
}
"""Those of the demonstrations, and others. An episode has one of them."""


def spill(rng: np.random.Generator) -> NDArray[np.bool_]:
    """(cells,) which cells of the stain's grid are dirty: a blob with a wavy edge."""
    x, y = (stain_cells() / (0.5 * STAIN_CELL_M * np.array(STAIN_CELLS))).T
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    size, wave, phase = rng.uniform(0.80, 0.95), rng.uniform(0.04, 0.13, 2), rng.uniform(0, 2 * math.pi, 2)
    edge = size * (1.0 + wave[0] * np.cos(2 * angle + phase[0]) + wave[1] * np.cos(3 * angle + phase[1]))
    return np.asarray(radius < edge)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How far an episode has come, judged from the physics state alone."""

    success: bool
    score: float
    """0 to 1. Something placed: half for the pick, half for the place. Bowls: 0, 0.5, 0.8 or 1 by nesting, the mean
    of the placements (one less than bowls, as in the paper's Tables 13 to 17). A stain: the share that is gone."""
    picked: bool
    """The object, the last one if there are several, was held above the table at some time in this episode."""
    placed: bool
    """That object is in, on or nested in the target, let go and at rest."""
    released: bool
    at_rest: bool


class _Container(NamedTuple):
    radius_m: float
    height_m: float


CONTAINERS = {
    "bowl": _Container(FRUIT_BOWL.top_radius_m, FRUIT_BOWL.height_m),
    "plate": _Container(PLATE.top_radius_m, PLATE.floor_m + SPONGE_HALF_M[0]),
    "coaster": _Container(COASTER_RADIUS_M, COASTER_HEIGHT_M),
}
"""What things are placed in or on, the plate also if they stand on edge."""


def inside(container: str, pose_44: NDArray[np.float64], point_m: NDArray[np.float64]) -> bool:
    """Whether a point (3,) is within the rim of a container at that pose, and at most 12 mm above it."""
    radius_m, height_m = CONTAINERS[container]
    local = pose_44[:3, :3].T @ (point_m - pose_44[:3, 3])
    radial = math.hypot(float(local[0]), float(local[1]))
    return radial < radius_m - 0.01 and 0.0 < float(local[2]) < height_m + 0.012


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
    """Pose (7,) of an object that stands on the table: position, quaternion (w first)."""
    z = TABLE_Z_M + OBJECTS[name].stand_m + 0.0005
    return np.array([x_m, y_m, z, math.cos(yaw_rad / 2), 0.0, 0.0, math.sin(yaw_rad / 2)])
