"""Pictures of recorded episodes, and live ones, as a browser takes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from lavla_ros.observation.images import decode_image
from lavla_ros.recording.library import LibraryError, cameras_of
from lavla_ros.recording.reader import BagError, BagReader


def frames(bag: Path, camera: str = "") -> Iterator[tuple[int, bytes]]:
    """(log time in ns, JPEG) of a camera's pictures; the first camera's by default.

    Raises LibraryError if there is no such camera, or if the bag cannot be read.
    """
    try:
        with BagReader(bag) as reader:
            topics = cameras_of(reader)
            if (camera and camera not in topics) or not topics:
                raise LibraryError(f"{bag.name} has no pictures on {camera or 'any topic'}; it has {list(topics)}")
            for message in reader.messages([camera or topics[0]]):
                yield message.stamp_ns, jpeg(decode_image(reader.deserialize(message)))
    except BagError as error:
        raise LibraryError(str(error)) from error


def thumbnail(bag: Path) -> bytes:
    """JPEG of the first picture. Raises LibraryError as :func:`frames` does."""
    for _, picture in frames(bag):
        return picture
    raise LibraryError(f"{bag.name} has no picture")


def jpeg(image_rgb: Any, quality: int = 80) -> bytes:
    """(H, W, 3) uint8 RGB as JPEG."""
    return bytes(cv2.imencode(".jpg", image_rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1])
