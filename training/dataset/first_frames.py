"""A picture for a person: how the cameras of a dataset stand, and which is which."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.dataset import layout
from training.dataset.layout import DatasetError
from training.dataset.video import VideoReader

_EPISODES = 4
_HEIGHT = 224
_STRIP = 22
"""Pixels of a picture, and of the text above it."""


def write_first_frames(root: Path) -> Path:
    """Write meta/first_frames.png: the first frame of every camera in up to four episodes. Raises DatasetError."""
    info, rows = layout.read_json(root / layout.INFO), layout.read_episodes(root)
    keys = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    chosen = sorted({round(i) for i in np.linspace(0, len(rows) - 1, min(_EPISODES, len(rows)))})
    lines = []
    for number in chosen:
        row = rows[number]
        tiles = []
        for key in keys:
            with closing(VideoReader(layout.video_file(root, info, row, key), layout.fps_of(info))) as video:
                image = video.frame(layout.first_frame(row, key, layout.fps_of(info)))
            tiles.append(_tile(image, f"{layout.camera_of(key)}, episode {row['episode_index']}"))
        lines.append(np.concatenate(tiles, axis=1))
    target = root / layout.FIRST_FRAMES
    target.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(target), np.concatenate(lines, axis=0)[:, :, ::-1]):
        raise DatasetError(f"cannot write {target}")
    return target


def _tile(image_rgb: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    width = round(image_rgb.shape[1] * _HEIGHT / image_rgb.shape[0])
    tile = np.full((_HEIGHT + _STRIP, width + 4, 3), 255, np.uint8)
    tile[_STRIP:, :width] = cv2.resize(image_rgb, (width, _HEIGHT), interpolation=cv2.INTER_AREA)
    cv2.putText(tile, text, (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return tile
