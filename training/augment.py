"""Image augmentation on batches of uint8 frames, on the device where they are.

Everything random comes from numbers drawn in advance per sample, so that what happens to a sample
depends on its place in the stream of samples alone, not on processes, batches or devices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import AugmentConfig

DRAWS = 9
"""Uniform numbers per image: shift row and column, crop area, row and column, brightness, contrast, saturation, hue."""


def draw_numbers(seed: int, positions: Sequence[int], cameras: int) -> Tensor:
    """(B, cameras, DRAWS) numbers in [0, 1) for the samples at these positions of the stream."""
    shape = (cameras, DRAWS)
    rows = [np.random.default_rng((seed, 17, position)).random(shape, np.float32) for position in positions]
    return torch.from_numpy(np.stack(rows))


def augment_images(images: Tensor, config: AugmentConfig, draws: Tensor) -> Tensor:
    """(B, cameras, s, s, 3) uint8 and (B, cameras, DRAWS) → the same shape and type, each image changed on its own."""
    flat = images.flatten(0, 1)
    if config.shift_px > 0:
        flat = _shift(flat, config.shift_px, draws.flatten(0, 1)[:, 0:2])
    numbers = draws.flatten(0, 1)
    if images.is_cuda:  # which fetches them by itself only from there
        numbers = numbers.pin_memory().to(images.device, non_blocking=True)
    recolours = max(config.brightness, config.contrast, config.saturation, config.hue) > 0
    if config.crop_area < 1 or recolours:
        pixels = flat.permute(0, 3, 1, 2).float() / 255
        if config.crop_area < 1:
            pixels = _crop(pixels, config.crop_area, numbers[:, 2:5])
        if recolours:
            pixels = _recolour(pixels, config, numbers[:, 5:9])
        flat = (pixels * 255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return flat.reshape(images.shape)


def _shift(images: Tensor, limit: int, numbers: Tensor) -> Tensor:
    """(n, s, s, 3): pad by repeating the edge, then cut out at a random place."""
    side = images.shape[1]
    padded = images
    for axis in (1, 2):
        first, last = padded.narrow(axis, 0, 1), padded.narrow(axis, side - 1, 1)
        shape = [limit if i == axis else -1 for i in range(4)]
        padded = torch.cat([first.expand(shape), padded, last.expand(shape)], dim=axis)
    shifted = torch.empty_like(images)
    places = (numbers * (2 * limit + 1)).floor().long().tolist()
    for target, image, (row, column) in zip(shifted, padded, places, strict=True):
        target.copy_(image[row : row + side, column : column + side])
    return shifted


def _crop(pixels: Tensor, smallest: float, numbers: Tensor) -> Tensor:
    """(n, 3, s, s): a random square of the image, enlarged to its full size (bilinear)."""
    side = (smallest + (1 - smallest) * numbers[:, 0]).sqrt()  # of the crop, as a share of the image's
    theta = torch.zeros(len(pixels), 2, 3, device=pixels.device)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = (numbers[:, 1:3] * 2 - 1) * (1 - side).unsqueeze(-1)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _recolour(pixels: Tensor, config: AugmentConfig, numbers: Tensor) -> Tensor:
    """(n, 3, s, s) in [0, 1], clipped before the hue is turned."""
    signed = (numbers * 2 - 1).view(-1, 4, 1, 1, 1)
    pixels = pixels * (1 + config.brightness * signed[:, 0])
    if config.contrast > 0:
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = (pixels - mean) * (1 + config.contrast * signed[:, 1]) + mean
    if config.saturation > 0:
        weights = torch.tensor([0.299, 0.587, 0.114], device=pixels.device).view(1, 3, 1, 1)
        grey = (pixels * weights).sum(dim=1, keepdim=True)
        pixels = (pixels - grey) * (1 + config.saturation * signed[:, 2]) + grey
    pixels = pixels.clamp(0, 1)
    return _turn_hue(pixels, config.hue * signed[:, 3, 0]) if config.hue > 0 else pixels


def _turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of HSV by (n, 1, 1) whole turns; value and saturation stay."""
    value, brightest = pixels.max(dim=1)
    chroma = value - pixels.amin(dim=1)
    red, green, blue = pixels.unbind(1)
    safe = chroma.clamp(min=1e-6)
    sixths = torch.stack([(green - blue) / safe, (blue - red) / safe + 2, (red - green) / safe + 4], dim=1)
    hue = sixths.gather(1, brightest.unsqueeze(1)).squeeze(1) + 6 * turns

    def channel(offset: int) -> Tensor:
        k = (hue + offset) % 6
        return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)

    return torch.stack([channel(5), channel(3), channel(1)], dim=1)
