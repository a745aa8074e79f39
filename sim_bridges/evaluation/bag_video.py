"""A recorded episode as a video: its pictures side by side, its commands below. What was recorded is what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lavla_ros.contract import Contract
from lavla_ros.recording import BagError, BagReader
from lavla_ros.typing import NS_PER_S
from sim_bridges.evaluation.video import write_episode_video


def write_bag_video(bag: Path, out: Path, contract: Contract, *, caption: str) -> None:
    """Raises BagError for a bag that cannot be read, or holds no pictures or no commands."""
    from lavla_ros.observation import decode_image

    topics = {  # a bag has one of them for each camera
        topic: spec.name for spec in contract.cameras for topic in spec.topic_choices
    }
    frames: dict[str, dict[int, Any]] = {name: {} for name in contract.camera_names}
    command_ns: list[int] = []
    commands: list[list[float]] = []
    with BagReader(bag) as reader:
        for message in reader.messages([*topics, contract.action.topic]):
            data = reader.deserialize(message)
            stamp = data.header.stamp
            stamp_ns = stamp.sec * NS_PER_S + stamp.nanosec
            if message.topic in topics:
                frames[topics[message.topic]][stamp_ns] = decode_image(data)
            else:
                order = [list(data.joint_names).index(name) for name in contract.action.names]
                commands.append([float(data.points[0].positions[i]) for i in order])
                command_ns.append(stamp_ns)
    common = sorted(set.intersection(*(set(images) for images in frames.values())))
    if not common or not commands:
        raise BagError(f"{bag} holds {len(common)} pictures and {len(commands)} commands; expected both")
    write_episode_video(
        out,
        {name: [images[t] for t in common] for name, images in frames.items()},
        [(t - common[0]) / NS_PER_S for t in common],
        (np.array(command_ns) - common[0]) / NS_PER_S,
        np.array(commands),
        contract.action.names,
        fps=round(contract.rate_hz),
        caption=caption,
    )
