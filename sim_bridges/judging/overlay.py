"""The picture that a scene is laid out by, over the one that the camera sees now."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lavla_ros.errors import UserError
from lavla_ros.outputs import replacing

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""


class PictureError(UserError, RuntimeError):
    """A picture cannot be read or written, or has no pixels."""


def overlay(initial: Picture, live: Picture, *, share: float = 0.5) -> tuple[Picture, float]:
    """``initial`` (of any size) over ``live``, and how far apart they are: the mean difference of a pixel, 0 to 1.

    What is where it was looks as it is. Red: it is brighter now; green: it is darker now, as strongly as it differs.
    ``share`` is that of the initial picture in the rest. The result has the size of ``live``.
    """
    if not initial.size or not live.size:
        raise PictureError(f"an overlay of pictures of {initial.shape} and {live.shape} is none")
    size = (live.shape[1], live.shape[0])
    before: Any = cv2.resize(initial, size, interpolation=cv2.INTER_AREA) if initial.shape != live.shape else initial
    a, b = before.astype(np.float32), live.astype(np.float32)
    mixed = share * a + (1.0 - share) * b
    difference = a.mean(axis=2) - b.mean(axis=2)
    mixed[..., 0] += np.clip(-difference, 0.0, None)
    mixed[..., 1] += np.clip(difference, 0.0, None)
    return np.clip(mixed, 0.0, 255.0).astype(np.uint8), float(np.abs(a - b).mean() / 255.0)


def read_picture(file: Path) -> Picture:
    """Raises PictureError."""
    try:
        found = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise PictureError(f"cannot read the picture {file}: {error}") from None
    if found is None:
        raise PictureError(f"{file} is no picture that can be read; give a PNG or JPEG")
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), np.uint8)


def write_picture(file: Path, picture: Picture) -> None:
    """A PNG, whole or not at all. Raises PictureError if it cannot be written."""
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done
    try:
        with replacing(file) as temporary, temporary.open("wb") as opened:
            opened.write(data.tobytes())
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise PictureError(f"cannot write {file}: {error.strerror or error}") from None
