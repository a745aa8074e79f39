"""From a contract's camera image to the pixels that a backbone sees: one exact integer rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract
from lavla_ros.errors import UserError


class ImageSizeError(UserError, ValueError):
    """An image cannot be brought to the backbone's size by whole-number averaging."""


def require_sizes(contract: Contract, size: int) -> None:
    """Raise ImageSizeError for a camera of the contract whose images :func:`shrink` cannot bring to ``size``."""
    unfit = {c.name: f"{c.width} x {c.height}" for c in contract.cameras if c.width != c.height or c.width % size}
    if unfit:
        raise ImageSizeError(
            f"contract {contract.name!r} has the camera sizes {unfit}; the network sees {size} x {size}, so width and "
            f"height must be equal, and a multiple of {size}; change them in the contract"
        )


def shrink(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(…, k·size, k·size, 3) uint8 → (…, size, size, 3): mean over k × k pixels, rounded half up.

    The same integers come out wherever and however often it is run, so that what was cached for
    training equals what is seen live. Raises ImageSizeError for sides that are no multiple of ``size``.
    """
    height, width = image.shape[-3], image.shape[-2]
    if height != width or height % size != 0:
        raise ImageSizeError(
            f"an image of {width} x {height} cannot be reduced to {size} x {size}; "
            f"the contract's cameras must be square with a side that is a multiple of {size}"
        )
    k = height // size
    if k == 1:
        return image
    if k == 2 and image.ndim == 3:  # OpenCV's rule for halving is this one, (a + b + c + d + 2) >> 2; 10 x as fast
        import cv2

        return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    total = np.zeros((*image.shape[:-3], size, size, 3), dtype=np.uint32 if k > 16 else np.uint16)
    for row in range(k):
        for column in range(k):
            total += image[..., row::k, column::k, :]
    mean: NDArray[np.uint8] = ((total + (k * k) // 2) // (k * k)).astype(np.uint8)
    return mean
