"""Oriented boxes in the world frame: how LIBERO's collision geometry is seen by the expert."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import cv2
import mujoco
import numpy as np

from lavla_ros.typing import FloatArray

_SIGNS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])


@dataclass(frozen=True, slots=True)
class Boxes:
    """N boxes: centres (N, 3), axes as columns (N, 3, 3), half edge lengths (N, 3), all in metres."""

    centres: FloatArray
    axes: FloatArray
    halves: FloatArray

    def corners(self) -> FloatArray:
        """(N, 8, 3)."""
        corners: FloatArray = self.centres[:, None] + (_SIGNS * self.halves[:, None]) @ self.axes.transpose(0, 2, 1)
        return corners

    def near(self, point: FloatArray, radius_m: float) -> Boxes:
        """Those that come within ``radius_m`` of the point (3,), roughly: bounded by spheres."""
        near = np.linalg.norm(self.centres - point, axis=1) < radius_m + np.linalg.norm(self.halves, axis=1)
        return Boxes(self.centres[near], self.axes[near], self.halves[near])

    def distance(self, points: FloatArray) -> FloatArray:
        """Signed distance from each of the points (P, 3) to the nearest box; negative inside. inf without boxes."""
        if not len(self.centres):
            return np.full(len(points), np.inf)
        beyond = np.abs((points - self.centres[:, None]) @ self.axes) - self.halves[:, None]
        outside = np.linalg.norm(np.maximum(beyond, 0.0), axis=-1)
        nearest: FloatArray = (outside + np.minimum(beyond.max(axis=-1), 0.0)).min(axis=0)
        return nearest

    def top_along(self, start: FloatArray, end: FloatArray, margin_m: float) -> float:
        """Height of the highest box within ``margin_m`` of the way from ``start`` to ``end``, seen from above.

        -inf where the way is free. A box counts with its upright bounding box.
        """
        if not len(self.centres):
            return -np.inf
        corners = self.corners()
        low, high = corners.min(axis=1), corners.max(axis=1)
        way = np.linspace(start[:2], end[:2], 24)[:, None]
        miss = np.maximum(np.maximum(low[:, :2] - way, way - high[:, :2]), 0.0)
        near = (np.linalg.norm(miss, axis=-1) < margin_m).any(axis=0)
        return float(high[near, 2].max()) if near.any() else -np.inf


def collision_boxes(model: Any, data: Any, bodies: Collection[int]) -> Boxes:
    """What can be touched of the bodies (ids), as boxes: boxes are exact, everything else is bounded by one."""
    touchable = (np.asarray(model.geom_contype) | np.asarray(model.geom_conaffinity)) != 0
    chosen = np.isin(model.geom_bodyid, list(bodies)) & (np.asarray(model.geom_type) != mujoco.mjtGeom.mjGEOM_PLANE)
    ids = np.flatnonzero(touchable & chosen)
    axes = np.array(data.geom_xmat[ids]).reshape(-1, 3, 3)
    # geom_aabb: centre and half lengths of the box around a geom, in the geom's own frame
    around = np.array(model.geom_aabb[ids]).reshape(-1, 6)
    centres = np.array(data.geom_xpos[ids]).reshape(-1, 3) + np.einsum("nij,nj->ni", axes, around[:, :3])
    return Boxes(centres, axes, around[:, 3:])


def bodies_below(model: Any, root: int) -> frozenset[int]:
    """The body and everything attached to it."""
    found = {root}
    for body, parent in enumerate(np.asarray(model.body_parentid).tolist()):
        if parent in found:  # parents come before their children
            found.add(body)
    return frozenset(found)


def sample_points(boxes: Boxes, spacing_m: float) -> FloatArray:
    """(P, 3) points in and on the boxes, corners included, at most ``spacing_m`` apart along every axis."""
    points = [np.empty((0, 3))]
    for centre, axes, half in zip(boxes.centres, boxes.axes, boxes.halves, strict=True):
        ticks = [np.linspace(-h, h, 1 + max(1, math.ceil(2 * h / spacing_m))) for h in half]
        points.append(centre + np.stack(np.meshgrid(*ticks), axis=-1).reshape(-1, 3) @ axes.T)
    return np.concatenate(points)


@dataclass(frozen=True, slots=True)
class Footprint:
    """The smallest rectangle around something seen from above, and its vertical extent. Metres and radians."""

    centre: FloatArray
    """(2,)"""
    short_m: float
    long_m: float
    short_yaw_rad: float
    """Direction of the short side, in [0, π)."""
    bottom_m: float
    top_m: float


def footprint(boxes: Boxes) -> Footprint:
    """Raises ValueError if there are no boxes."""
    if not len(boxes.centres):
        raise ValueError("an object without collision geometry has no footprint")
    corners = boxes.corners().reshape(-1, 3)
    origin = corners[:, :2].mean(axis=0)
    # cv2 works in float32: millimetres around the object's own centre keep it exact enough
    (x, y), (width, height), degrees = cv2.minAreaRect(((corners[:, :2] - origin) * 1e3).astype(np.float32))
    yaw = np.deg2rad(degrees) + (0.0 if width <= height else np.pi / 2)
    return Footprint(
        centre=origin + np.array([x, y]) * 1e-3,
        short_m=min(width, height) * 1e-3,
        long_m=max(width, height) * 1e-3,
        short_yaw_rad=float(yaw % np.pi),
        bottom_m=float(corners[:, 2].min()),
        top_m=float(corners[:, 2].max()),
    )
