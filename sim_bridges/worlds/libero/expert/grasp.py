"""Where to grip an object from above: candidates from its shape, ordered by how free the hand is there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lavla_ros.config import ConfigError
from lavla_ros.typing import FloatArray
from sim_bridges.worlds.libero.expert.boxes import Boxes, footprint
from sim_bridges.worlds.libero.expert.scene import Scene

_FINGER_M = 0.02
"""Width of a fingertip."""
_TIP_BELOW_M = 0.009
"""The fingertips reach this far below the grip point."""
_FREE_M = (0.036, 0.060)
"""Where the wide open fingers are, from the grip point."""
_CELL_M = 0.002
_ASKEW_M = 0.005
"""How unevenly a wall may lie under a fingertip."""
_SHOULDER_ABOVE_M, _WRIST_ABOVE_M, _WRIST_BEHIND_M = 0.333, 0.210, 0.088
"""The Panda's: joint 2 over the base; joint 6 over the grip point, and nearer to the base than it."""
_HAND_M = 0.25
"""No part of the hand is further than this from a gripped object's middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraspConfig:
    """Lengths that the grasps are made of."""

    tall_m: float = 0.05
    """Objects taller than this are gripped near their top, others near the ground."""
    below_top_m: float = 0.035
    above_ground_m: float = 0.010
    """Height of the grip point over the underside of a low object: the fingertips reach 9 mm below that point."""
    widest_m: float = 0.072
    """Widest side that the open fingers (80 mm) are put around."""
    narrow_m: float = 0.03
    """Widest part of a wide object, such as a wall or a handle, that is gripped by itself."""
    side_shifts: tuple[float, ...] = (0.0, -0.25, 0.25, -0.5, 0.5)
    """Where to grip along the side that is not gripped, as parts of its half length: beside tall neighbours the hand
    has no room over the middle."""
    side_turns_rad: tuple[float, ...] = (0.0, -0.3, 0.3)
    """How far askew the fingers may meet the sides; closing, they straighten the object."""
    rim_radius_m: float = 0.049
    """Distance of the grip point from the bowl's centre: one finger inside, one outside, the wall between them."""
    rim_depths_m: tuple[float, ...] = (0.026, 0.020, 0.014)
    """How far below the bowl's rim to grip, best first: deeper holds better, but the hand needs room above."""
    rim_points: int = 24
    clear_m: float = 0.015
    """More room than this around the hand is not better."""
    touch_cost: float = 10.0
    """Room given up per metre that the hand would be inside something: walls are thin, so that this is never much."""
    turn_cost_m: float = 0.003
    """Room given up per radian that the hand need not turn."""
    stretch_m: float = 0.68
    """Distance from shoulder to wrist beyond which the elbow may bend over to its other side, and get stuck there."""
    stretch_cost: float = 0.5
    """Room given up per metre that the arm is not stretched further than that."""
    depth_cost: float = 0.4
    """Room given up per metre of grip depth below the rim."""
    shift_cost: float = 0.1
    """Room given up per metre that a grip is nearer to the object's middle."""

    def __post_init__(self) -> None:
        for key in (
            "tall_m",
            "below_top_m",
            "above_ground_m",
            "widest_m",
            "narrow_m",
            "rim_radius_m",
            "clear_m",
            "stretch_m",
        ):
            if not 0 < getattr(self, key) < 1:
                raise ConfigError(f"{key} is {getattr(self, key)}; expected metres between 0 and 1")
        if self.rim_points < 4 or not self.rim_depths_m:
            raise ConfigError(f"rim_points is {self.rim_points}, rim_depths_m {self.rim_depths_m}: nothing to choose")
        if 0.0 not in self.side_shifts or max(abs(shift) for shift in self.side_shifts) >= 1:
            raise ConfigError(f"side_shifts is {self.side_shifts}; expected 0 among parts of a half length, below 1")
        if 0.0 not in self.side_turns_rad or max(abs(turn) for turn in self.side_turns_rad) > math.pi / 4:
            raise ConfigError(f"side_turns_rad is {self.side_turns_rad}; expected 0 among turns of at most π/4")


@dataclass(frozen=True, slots=True)
class Grasp:
    """Gripper pointing straight down."""

    offset: FloatArray
    """(3,) grip point minus the object's position, m."""
    yaw_rad: float
    """Direction along which the fingers close, in the world's xy plane; half turns are equal."""
    shift_m: float = 0.0
    """Distance from the middle of what is gripped."""


def plan_grasps(scene: Scene, name: str, config: GraspConfig, home_yaw_rad: float) -> list[Grasp]:
    """All grasps of the object of that name, best first; never empty.

    Best is: room around the open hand, then little turning of the wrist away from ``home_yaw_rad``, the closing
    direction at which the episode started; no grasp turns it by more than a quarter turn.
    """
    boxes = scene.boxes(name)
    if "bowl" in name:
        grasps = _rim_grasps(boxes, scene.position(name), config)
    else:
        grasps = _side_grasps(boxes, scene.position(name), config)
        if footprint(boxes).short_m > config.widest_m:
            grasps = _part_grasps(boxes, scene.position(name), config) or grasps
    centre, base = scene.position(name), scene.base_position
    hand, obstacles = scene.open_gripper_points(), scene.obstacles(name).near(centre, _HAND_M)
    top = float(boxes.corners()[..., 2].max())

    def cost(grasp: Grasp) -> float:
        points = centre + grasp.offset + hand @ down(grasp.yaw_rad).T
        room = min(config.clear_m, float(obstacles.distance(points).min()))
        depth = top - float(centre[2] + grasp.offset[2])
        given_up = config.turn_cost_m * abs(grasp.yaw_rad - home_yaw_rad) + config.shift_cost * grasp.shift_m
        given_up += config.touch_cost * max(-room, 0.0)
        given_up += config.stretch_cost * max(stretch_m(centre + grasp.offset - base) - config.stretch_m, 0.0)
        return given_up - room - config.depth_cost * depth

    turned = [replace(g, yaw_rad=nearest_half_turn(g.yaw_rad, home_yaw_rad)) for g in grasps]
    return sorted(turned, key=cost)


def _side_grasps(boxes: Boxes, position: FloatArray, config: GraspConfig) -> list[Grasp]:
    """Across the short side and, if it is narrow enough, across the long one; beside the middle and askew as well."""
    shape = footprint(boxes)
    if shape.top_m - shape.bottom_m > config.tall_m:
        height = shape.top_m - config.below_top_m
    else:
        height = shape.bottom_m + config.above_ground_m
    middle = np.array([*shape.centre, height]) - position
    grasps: list[Grasp] = []
    for across_m, along_m, yaw in (
        (shape.short_m, shape.long_m, shape.short_yaw_rad),
        (shape.long_m, shape.short_m, shape.short_yaw_rad + math.pi / 2),
    ):
        for turn in config.side_turns_rad:
            reached = across_m / math.cos(turn) + _FINGER_M * abs(math.tan(turn)) <= config.widest_m
            if not reached and grasps:
                continue  # the first, straight across the short side, is tried whatever it measures
            for part in config.side_shifts:
                shift = part * along_m / 2
                aside = shift * np.array([-math.sin(yaw), math.cos(yaw), 0.0])
                grasps.append(Grasp(middle + aside, yaw + turn, abs(shift)))
    return grasps


def _rim_grasps(boxes: Boxes, position: FloatArray, config: GraspConfig) -> list[Grasp]:
    """The wall between the fingers, all around the rim and at several depths."""
    shape = footprint(boxes)
    grasps = []
    for depth in config.rim_depths_m:
        for angle in np.arange(config.rim_points) * (2 * math.pi / config.rim_points):
            outwards = config.rim_radius_m * np.array([math.cos(angle), math.sin(angle)])
            point = np.array([*(shape.centre + outwards), shape.top_m - depth])
            grasps.append(Grasp(point - position, float(angle)))
    return grasps


def _part_grasps(boxes: Boxes, position: FloatArray, config: GraspConfig) -> list[Grasp]:
    """Across what is narrow of a wide object, such as a mug's wall or a pot's handle, near its top.

    Looked for in sections of the object, on a grid: a short way through it, nearly square to the closing direction, and
    room for the open fingers on both sides.
    """
    shape = footprint(boxes)
    low = shape.centre - shape.long_m
    count = math.ceil(2 * shape.long_m / _CELL_M)
    ticks = (np.arange(count) + 0.5) * _CELL_M
    grid = np.stack(np.meshgrid(low[0] + ticks, low[1] + ticks, indexing="ij"), axis=-1).reshape(-1, 2)

    def section(height_m: float) -> NDArray[np.bool_]:
        points = np.column_stack([grid, np.full(len(grid), height_m)])
        return (boxes.distance(points) <= 0.0).reshape(count, count)

    reach = np.arange(-shape.long_m / 2, shape.long_m / 2, _CELL_M)
    rows = np.arange(-shape.long_m / 2, shape.long_m / 2, _FINGER_M / 4)
    grasps = []
    for depth in config.rim_depths_m:
        grip, tips = section(shape.top_m - depth), section(shape.top_m - depth - _TIP_BELOW_M)
        for yaw in np.arange(config.rim_points // 2) * (2 * math.pi / config.rim_points):
            closing, along = np.array([math.cos(yaw), math.sin(yaw)]), np.array([-math.sin(yaw), math.cos(yaw)])
            where = shape.centre + rows[:, None, None] * along + reach[:, None] * closing
            cells = np.clip(((where - low) / _CELL_M).astype(int), 0, count - 1)
            gripped, blocked = grip[cells[..., 0], cells[..., 1]], tips[cells[..., 0], cells[..., 1]]
            middles = [_narrow(row, reach, config.narrow_m) for row in gripped]
            for number in range(2, len(rows) - 2):
                beside = blocked[number - 2 : number + 3].any(axis=0)
                for middle in middles[number]:
                    # The same wall under both edges of the finger, hardly further in or out.
                    edges = [
                        min(middles[n], key=lambda m: abs(m - middle), default=math.inf)
                        for n in (number - 2, number + 2)
                    ]
                    if abs(edges[0] - edges[1]) > _ASKEW_M or abs(edges[0] - middle) > _ASKEW_M:
                        continue
                    away = np.abs(reach - middle)
                    if (beside & (away > _FREE_M[0]) & (away < _FREE_M[1])).any():
                        continue
                    point = shape.centre + rows[number] * along + middle * closing
                    grasps.append(Grasp(np.array([*point, shape.top_m - depth]) - position, float(yaw)))
    return grasps


def _narrow(row: NDArray[np.bool_], reach: FloatArray, widest_m: float) -> list[float]:
    """Middles of the runs in a row of cells that are no wider than that."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(int)))
    return [
        float(reach[first] + reach[after - 1]) / 2
        for first, after in changes.reshape(-1, 2)
        if (after - first) * _CELL_M <= widest_m
    ]


def stretch_m(grip_from_base: FloatArray) -> float:
    """Distance from the Panda's shoulder (joint 2) to its wrist (joint 6) with the gripper pointing down.

    ``grip_from_base``: (3,) grip point in the base's frame, m.
    """
    away = float(np.hypot(grip_from_base[0], grip_from_base[1])) - _WRIST_BEHIND_M
    return math.hypot(away, float(grip_from_base[2]) + _WRIST_ABOVE_M - _SHOULDER_ABOVE_M)


def nearest_half_turn(yaw_rad: float, home_rad: float) -> float:
    """The same closing direction, within a quarter turn of ``home_rad``: fingers are alike."""
    return yaw_rad - math.pi * round((yaw_rad - home_rad) / math.pi)


def down(yaw_rad: float) -> FloatArray:
    """(3, 3) rotation of a gripper that points down and closes along ``yaw_rad``; columns are its axes."""
    closing = np.array([math.cos(yaw_rad), math.sin(yaw_rad), 0.0])
    pointing = np.array([0.0, 0.0, -1.0])
    return np.stack([np.cross(closing, pointing), closing, pointing], axis=1)
