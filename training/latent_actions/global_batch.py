"""The batch that several processes share in equal parts, for what a codebook or a loss must know of all of it.

A codebook follows every latent of a batch, a mask is drawn for all of it, and a mean over some of its samples counts
those of every part. So n processes compute what one does, but for the rounding of sums. One alone exchanges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def whole(part: Tensor) -> Tensor:
    """(N, …) of every process, one after the other; a gradient flows into this process's own part alone."""
    count, rank = _processes()
    if count == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(count)]
    dist.all_gather(parts, part.detach().contiguous())
    parts[rank] = part
    return torch.cat(parts)


def own(batch: Tensor) -> Tensor:
    """This process's part of the (N, …) of all."""
    count, rank = _processes()
    return batch.chunk(count)[rank]


def draw(shape: Sequence[int], device: torch.device) -> Tensor:
    """Numbers (N, …) from [0, 1): this process's part of a draw that all of them make alike."""
    count, _ = _processes()
    return own(torch.rand((count * shape[0], *shape[1:]), device=device))


def mean_count(counted: Tensor) -> Tensor:
    """How many samples of a part count, averaged over the processes; in all of them together at least one does.

    Losses are averaged over processes: a sum divided by this becomes the mean over all that counts in the batch.
    """
    count, _ = _processes()
    total = counted.float()
    if count > 1:
        dist.all_reduce(total)
    return total.clamp(min=1) / count


def from_first(tensor: Tensor) -> Tensor:
    """The first process's tensor, in all of them."""
    if _processes()[0] > 1:
        dist.broadcast(tensor, src=0)
    return tensor


def _processes() -> tuple[int, int]:
    """(their number, this one's place among them)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size(), dist.get_rank()
    return 1, 0
