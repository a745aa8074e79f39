"""A layout for Foxglove, which opens our bags as they are: cameras, joints, executor and episode of one contract."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lavla_ros import topics
from lavla_ros.contract import CameraSpec, Contract
from lavla_ros.outputs import new_file
from lavla_ros.pieces import JOINTS, PLURAL, TRAJECTORY, Piece


def write_layout(contract: Contract, out: Path, recorded: Collection[str] = ()) -> None:
    """Write :func:`foxglove_layout` to ``out``. Foxglove: Layout → Import from file."""
    with new_file(out) as file:
        file.write_text(json.dumps(foxglove_layout(contract, recorded), indent=2) + "\n", encoding="utf-8")


def foxglove_layout(contract: Contract, recorded: Collection[str] = ()) -> dict[str, Any]:
    """A picture of each camera above; a plot for each dimension, and what the nodes say, below.

    ``recorded``: topics that there are; of a camera's, the first of them is shown, or else the driver's.
    """
    panels: dict[str, dict[str, Any]] = {}

    def panel(kind: str, name: str, **settings: Any) -> str:
        panels[f"{kind}!{name}"] = settings
        return f"{kind}!{name}"

    cameras = [
        panel("Image", spec.name, imageMode={"imageTopic": _pictures(spec, recorded)}, foxglovePanelTitle=spec.name)
        for spec in contract.cameras
    ]
    plots = [panel("Plot", name, foxglovePanelTitle=name, **_plot(contract, name)) for name in contract.action.names]
    told = [
        panel("RawMessages", topic.replace("/", "_"), topicPath=topics.in_bag(topic), diffEnabled=False)
        for topic in (topics.EXECUTOR_STATE, topics.EPISODE_STATE)
    ]
    below = _split([_split(plots, "column"), _split(told, "column")], "row", 75)
    return {
        "configById": panels,
        "globalVariables": {},
        "userNodes": {},
        "playbackConfig": {"speed": 1},
        "layout": _split([_split(cameras, "row"), below], "column", 40),
    }


def _pictures(spec: CameraSpec, recorded: Collection[str]) -> str:
    there = (topic for topic in spec.topic_choices if topic in recorded)
    return next(there, topics.in_bag(spec.topic))


def _plot(contract: Contract, name: str) -> dict[str, Any]:
    paths = []
    for sources, label in ((contract.state.sources, "measured"), (contract.action.sources, "commanded")):
        for piece in sources:
            if name in piece.names and (place := _place(piece)):
                # Foxglove finds no joint by its name: the number is its place among the piece's
                value = f"{piece.topic}.{place}[{piece.names.index(name)}]"
                paths.append({"value": value, "label": label, "enabled": True, "timestampMethod": "headerStamp"})
    return {"paths": paths, "showLegend": True, "legendDisplay": "floating", "isSynced": True, "xAxisVal": "timestamp"}


def _place(piece: Piece) -> str:
    """Where the array of a message is; empty for types without one, which are not plotted."""
    if piece.type == TRAJECTORY:
        return f"points[0].{PLURAL[piece.read_field]}"
    return piece.read_field if piece.type == JOINTS or piece.type.endswith("MultiArray") else ""


def _split(panels: list[Any], direction: str, share: float | None = None) -> Any:
    """Panels beside or above one another, of equal size; ``share``: percent of the first."""
    if len(panels) == 1:
        return panels[0]
    rest = _split(panels[1:], direction)
    return {
        "first": panels[0],
        "second": rest,
        "direction": direction,
        "splitPercentage": share if share is not None else round(100 / len(panels), 1),
    }
