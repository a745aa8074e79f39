"""An arm in its scene for a person to check: three drawings to scale, and how near recorded motion came to anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lavla_ros.control.arm import Arm
from lavla_ros.control.chain import transform
from lavla_ros.control.clearance import Clearance, capsules_of
from lavla_ros.control.kinematics import model_of
from lavla_ros.control.scene import BASE, Capsule, Scene
from lavla_ros.typing import FloatArray

_VIEWS = (("from above", 0, 1), ("from the side", 0, 2), ("from the front", 1, 2))
_AXES = "xyz"
_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 48)), np.sin(np.linspace(0, 2 * np.pi, 48))], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """Where recorded motion came nearest to one pair's margin."""

    first: str
    second: str
    slack_m: float
    """Distance less margin; below 0 the executor would have braked."""
    state: int
    """Index of the state."""
    below: int
    """How many states are below the margin."""


def nearest(clearance: Clearance, states_NJ: FloatArray) -> list[Nearest]:
    """Every pair, the one that is nearest to its margin first; ``states_NJ``: joint positions, rad."""
    slacks_NP = np.array([clearance.slacks(state) for state in states_NJ])
    found = [
        Nearest(
            first=first,
            second=second,
            slack_m=float(slacks_NP[:, pair].min()),
            state=int(slacks_NP[:, pair].argmin()),
            below=int((slacks_NP[:, pair] < 0.0).sum()),
        )
        for pair, (first, second) in enumerate(clearance.pairs)
    ]
    return sorted(found, key=lambda each: each.slack_m)


FORMATS = ("png", "svg", "pdf")


def draw_scene(
    path: Path,
    kind: str,
    arm: Arm,
    scene: Scene,
    position_rad: Sequence[float],
    states_NJ: FloatArray | None,
) -> None:
    """The arm's capsules, the scene and where the tip went in ``states_NJ``, in three views. ``kind``: of FORMATS."""
    from matplotlib.figure import Figure

    assert arm.chain is not None
    frames = _frames(arm, position_rad)
    capsules = (*(arm.capsules or capsules_of(arm.chain)), *scene.tool)
    ends = [_ends(capsule, frames) for capsule in capsules]
    cloud_N3 = np.array([]).reshape(0, 3) if states_NJ is None else _tips(arm, scene, states_NJ)
    low, high = _room(ends, scene, cloud_N3)
    figure = Figure(figsize=(15, 5.4), layout="constrained")
    figure.suptitle("arm in grey, tool in blue; hatched: solid; dashed: the workspace of the tip", fontsize=10)
    for axes, (title, i, j) in zip(figure.subplots(1, 3), _VIEWS, strict=True):
        axes.set(title=title, xlabel=f"{_AXES[i]} (m)", ylabel=f"{_AXES[j]} (m)", aspect="equal")
        axes.set(xlim=(low[i], high[i]), ylim=(low[j], high[j]))
        for outline, faces, look in _solids(scene, low, high):
            if faces in (None, i, j):
                _fill(axes, outline[:, [i, j]], look)
        axes.scatter(cloud_N3[:, i], cloud_N3[:, j], s=2, color="tab:orange", label="tip in the recorded motion")
        for capsule, (start, end) in zip(capsules, ends, strict=True):
            rounds = np.vstack([_CIRCLE * capsule.radius_m + point[[i, j]] for point in (start, end)])
            colour = "tab:blue" if capsule in scene.tool else "0.45"
            _fill(axes, rounds, {"facecolor": colour, "alpha": 0.35, "edgecolor": colour})
        for name, (x, y) in _labels(capsules, ends, i, j):
            axes.annotate(name, (x, y), fontsize=6.5, ha="center", va="center")
        if scene.workspace is not None:
            (x, y), (X, Y) = (np.array(side)[[i, j]] for side in (scene.workspace.low_m, scene.workspace.high_m))
            axes.plot([x, X, X, x, x], [y, y, Y, Y, y], "--", color="tab:green", linewidth=1)
        axes.grid(alpha=0.3)
    if len(cloud_N3):
        axes.legend(loc="upper right", fontsize=8)
    figure.savefig(path, format=kind, dpi=110)


def _frames(arm: Arm, position_rad: Sequence[float]) -> dict[str, FloatArray]:
    """Link → pose (4, 4) in the base frame."""
    import pinocchio as pin

    model = model_of(arm.chain)
    data = model.createData()
    pin.forwardKinematics(model, data, np.asarray(position_rad, dtype=np.float64))
    return {BASE: np.eye(4)} | {name: data.oMi[i].homogeneous for i, name in enumerate(model.names) if i}


def _ends(capsule: Capsule, frames: dict[str, FloatArray]) -> tuple[FloatArray, FloatArray]:
    pose = frames[capsule.link]
    start, end = (pose[:3, :3] @ np.array(point) + pose[:3, 3] for point in (capsule.start_m, capsule.end_m))
    return start, end


def _tips(arm: Arm, scene: Scene, states_NJ: FloatArray) -> FloatArray:
    tips = []
    for state in states_NJ:
        pose = _frames(arm, state)[arm.joint_names[-1]]
        tips.append(pose[:3, :3] @ np.array(scene.tip_m) + pose[:3, 3])
    return np.array(tips).reshape(-1, 3)


def _room(
    ends: list[tuple[FloatArray, FloatArray]], scene: Scene, cloud_N3: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The corners of what is drawn: the arm, the boxes near it, the workspace, and where the tip went."""
    points = [point for pair in ends for point in pair] + [np.array(box.centre_m) for box in scene.boxes]
    points += [np.array(plane.point_m) for plane in scene.planes if np.linalg.norm(plane.point_m) < 2.0]
    points += [np.array(side) for side in (scene.workspace.low_m, scene.workspace.high_m)] if scene.workspace else []
    all_N3 = np.vstack((*points, cloud_N3))
    return all_N3.min(0) - 0.15, all_N3.max(0) + 0.15


def _labels(
    capsules: Sequence[Capsule], ends: list[tuple[FloatArray, FloatArray]], i: int, j: int
) -> Iterator[tuple[str, tuple[float, float]]]:
    """The capsules' names and where they stand in a view; those that would lie upon one another are one text."""
    texts: list[tuple[list[str], FloatArray]] = []
    for capsule, (start, end) in zip(capsules, ends, strict=True):
        middle = ((start + end) / 2)[[i, j]]
        near = [names for names, place in texts if (np.abs(place - middle) < (0.06, 0.02)).all()]
        if near:
            near[0].append(capsule.name)
        else:
            texts.append(([capsule.name], middle))
    for names, (x, y) in texts:
        yield "\n".join(names), (float(x), float(y))


def _solids(scene: Scene, low: FloatArray, high: FloatArray) -> Iterator[tuple[FloatArray, int | None, dict[str, Any]]]:
    """Points (N, 3) whose outline is drawn, and how: boxes, and what is behind each plane that looks along an axis.

    The number is that axis: it is not drawn by a view along it, which it would fill.
    """
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    look = {"facecolor": "none", "edgecolor": "saddlebrown", "hatch": "///", "linewidth": 1.0}
    for box in scene.boxes:
        pose = transform(box.centre_m, box.rpy_rad)
        yield ((corners - 0.5) * np.array(box.size_m)) @ pose[:3, :3].T + pose[:3, 3], None, look
    for plane in scene.planes:
        normal = np.array(plane.normal) / np.linalg.norm(plane.normal)
        axis = int(np.argmax(np.abs(normal)))
        if abs(normal[axis]) > 0.999:
            start, end = low.copy(), high.copy()
            (end if normal[axis] > 0 else start)[axis] = plane.point_m[axis]
            if (end > start).all():
                yield start + corners * (end - start), axis, look


def _fill(axes: Any, points_N2: FloatArray, look: dict[str, Any]) -> None:
    """The convex outline of points, by Andrew's monotone chain."""
    ordered = sorted(map(tuple, points_N2.tolist()))
    outline: list[tuple[float, ...]] = []
    for sweep in (ordered, ordered[::-1]):
        side: list[tuple[float, ...]] = []
        for point in sweep:
            while len(side) > 1 and _turn(side[-2], side[-1], point) <= 0.0:
                side.pop()
            side.append(point)
        outline += side[:-1]
    axes.fill(*zip(*outline, strict=True), **look)


def _turn(a: tuple[float, ...], b: tuple[float, ...], c: tuple[float, ...]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
