"""A picture of an episode: what the cameras saw, where the arm was, what it was told, and what had been planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lavla_ros.outputs import new_file
from lavla_ros.typing import NS_PER_S
from training.view.episode import Moment, ShownEpisode, ViewError

_PICTURES = 8
"""Of each camera, evenly spread."""
_SMALL = 160
"""Height of a picture, in pixels."""
_COLOURS = {"state": "#0072b2", "action": "#d55e00", "policy": "#6b6b6b", "person": "#009e73"}


def write_timeline(episode: ShownEpisode, out: Path) -> int:
    """Write the picture ``out`` (PNG, or what its suffix says); returns the steps shown. Raises ViewError."""
    moments = [_reduced(moment) for moment in episode.moments]
    if not moments:
        raise ViewError(f"{episode.name} has no steps")
    with new_file(out) as file, matplotlib.rc_context({"svg.hashsalt": "lavla"}):
        _figure(episode, moments).savefig(file, format=out.suffix.removeprefix(".") or "png", dpi=110)
    return len(moments)


def _figure(episode: ShownEpisode, moments: list[Moment]) -> Figure:
    contract, begin_ns = episode.contract, moments[0].stamp_ns
    cameras, names = contract.camera_names, contract.action.names
    times_s = np.array([moment.stamp_ns - begin_ns for moment in moments]) / NS_PER_S
    figure = Figure(figsize=(14, 1.7 * len(cameras) + 1.15 * len(names) + 0.8), layout="constrained")
    axes = figure.subplots(
        len(cameras) + len(names), 1, height_ratios=[1.6] * len(cameras) + [1.1] * len(names), squeeze=False
    )[:, 0]
    told = [f"“{moments[0].instruction}”", episode.outcome, f"{len(moments)} steps"]
    figure.suptitle(f"{episode.name}: {', '.join(filter(None, told))}", fontsize=11)

    for axis, camera in zip(axes, cameras, strict=False):
        shown = np.linspace(0, len(moments) - 1, min(_PICTURES, len(moments))).round().astype(int)
        framed = [np.pad(moments[i].images[camera], ((0, 0), (2, 2), (0, 0)), constant_values=255) for i in shown]
        axis.imshow(np.concatenate(framed, axis=1), aspect="equal")
        width = framed[0].shape[1]
        axis.set_xticks([width * (n + 0.5) for n in range(len(shown))], [f"{times_s[i]:.1f} s" for i in shown])
        axis.set_yticks([])
        axis.set_ylabel(camera, fontsize=8)
        axis.tick_params(labelsize=7, length=0)

    states = np.array([moment.state for moment in moments])
    actions = np.array([moment.action for moment in moments])
    person = np.array([moment.person for moment in moments])
    due_s = times_s + contract.dt_s
    for row, (axis, name) in enumerate(zip(axes[len(cameras) :], names, strict=True)):
        for chunk in episode.chunks:
            due = (chunk.due_ns - begin_ns) / NS_PER_S
            colour = _COLOURS[chunk.sender]
            axis.plot(due, chunk.actions_HA[:, row], color=colour, linewidth=0.9, alpha=0.6, zorder=1)
        if name in contract.state.names:
            values = states[:, contract.state.names.index(name)]
            axis.plot(times_s, values, color=_COLOURS["state"], linewidth=1.4, zorder=3)
        axis.plot(due_s, actions[:, row], color=_COLOURS["action"], linewidth=1.0, zorder=2)
        for first, last in _stretches(person):
            axis.axvspan(times_s[first], due_s[last], color=_COLOURS["person"], alpha=0.12, linewidth=0)
        axis.set_xlim(times_s[0], due_s[-1])
        axis.set_ylabel(f"{name}\n{contract.action.dims[row].unit}", fontsize=8)
        axis.tick_params(labelsize=7, labelbottom=row == len(names) - 1)
        axis.grid(alpha=0.25, linewidth=0.5)
    axes[-1].set_xlabel("seconds since the first step", fontsize=8)
    kinds = {"measured": "state", "commanded": "action"}
    kinds |= {f"planned by a {sender}": sender for sender in ("policy", "person") if _sent(episode, sender)}
    lines = [matplotlib.lines.Line2D([], [], color=_COLOURS[kind]) for kind in kinds.values()]
    patches = [matplotlib.patches.Patch(color=_COLOURS["person"], alpha=0.2)] * bool(person.any())
    labels = [*kinds, *["commanded by a person"] * bool(patches)]
    figure.legend([*lines, *patches], labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def _sent(episode: ShownEpisode, sender: str) -> bool:
    return any(chunk.sender == sender for chunk in episode.chunks)


def _stretches(flags: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """(first, last) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(first), int(after) - 1) for first, after in edges.reshape(-1, 2)]


def _reduced(moment: Moment) -> Moment:
    """An hour of whole pictures would not fit into memory."""
    small = {
        name: np.asarray(cv2.resize(image, _size(image.shape), interpolation=cv2.INTER_AREA), np.uint8)
        for name, image in moment.images.items()
    }
    return replace(moment, images=small)


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    return max(1, round(shape[1] * _SMALL / shape[0])), _SMALL
