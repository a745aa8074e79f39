"""Is a codebook used? Perplexity, dead codes, a histogram, and words when it is not well.

A codebook that collapsed still trains without complaint, and everything built on its codes learns
nothing; so its health is part of every log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CodebookHealth:
    """How often each code was used; everything else follows from that."""

    counts_K: NDArray[np.int64]
    """(K,) uses of each code."""

    @classmethod
    def of_codes(cls, codes: NDArray[np.integer[Any]] | Tensor, size: int) -> CodebookHealth:
        """Count codes of any shape. Raises ValueError for a code outside [0, size)."""
        flat = (codes.detach().cpu().numpy() if isinstance(codes, Tensor) else codes).reshape(-1).astype(np.int64)
        if flat.size and (flat.min() < 0 or flat.max() >= size):
            raise ValueError(f"codes lie in [{flat.min()}, {flat.max()}]; expected [0, {size})")
        return cls(np.bincount(flat, minlength=size).astype(np.int64))

    @property
    def size(self) -> int:
        """K."""
        return len(self.counts_K)

    @property
    def tokens(self) -> int:
        """How many codes were counted."""
        return int(self.counts_K.sum())

    @property
    def usage_K(self) -> NDArray[np.float64]:
        """(K,) share of the tokens; zeros when nothing was counted."""
        return self.counts_K / max(self.tokens, 1)

    @property
    def perplexity(self) -> float:
        """exp(entropy): how many equally used codes would be as varied. In [1, K]; 0 without tokens."""
        if self.tokens == 0:
            return 0.0
        used = self.usage_K[self.counts_K > 0]
        return float(np.exp(-(used * np.log(used)).sum()))

    @property
    def dead(self) -> int:
        """Codes that were never used."""
        return int((self.counts_K == 0).sum())

    def figures(self) -> dict[str, float]:
        """The numbers for a log."""
        return {
            "perplexity": self.perplexity,
            "perplexity_share": self.perplexity / self.size,
            "dead_codes": float(self.dead),
            "largest_share": float(self.usage_K.max(initial=0.0)),
        }

    def warnings(self, min_perplexity: float, *, allow_dead: bool = False) -> tuple[str, ...]:
        """Sentences on what is wrong; empty for a healthy codebook.

        ``min_perplexity`` is a number of codes. ``allow_dead`` is for the short windows between two
        log entries, where a rare code may be absent without being dead.
        """
        found = []
        if self.perplexity < min_perplexity:
            found.append(
                f"codebook perplexity is {self.perplexity:.1f} of {self.size} codes (healthy: {min_perplexity:.1f} or "
                "more): few codes carry most of the data; train longer, raise restart_below, or use a smaller codebook"
            )
        if self.dead and not allow_dead:
            found.append(
                f"{self.dead} of {self.size} codes are never used on {self.tokens} tokens: train longer, raise "
                "restart_below, or use a smaller codebook"
            )
        return tuple(found)

    def plot_usage(self, path: Path, *, title: str = "Codebook usage") -> None:
        """Draw the share of every code, most used first, into a picture file."""
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.bar(np.arange(self.size), np.sort(self.usage_K)[::-1], width=1.0, color="#4878a8")
        axes.axhline(1.0 / self.size, color="#888888", linewidth=0.8, linestyle="--", label="uniform")
        axes.set_xlim(-0.5, self.size - 0.5)
        axes.set_xlabel("codes, most used first")
        axes.set_ylabel("share of tokens")
        axes.set_title(f"{title}: perplexity {self.perplexity:.1f} of {self.size}, {self.dead} dead")
        axes.legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)


class HealthTracker:
    """Counts codes between two log entries."""

    def __init__(self, size: int) -> None:
        self._counts = np.zeros(size, dtype=np.int64)

    def add(self, codes: NDArray[np.integer[Any]] | Tensor | Sequence[int]) -> None:
        """Codes of one batch, any shape."""
        array = codes if isinstance(codes, Tensor) else np.asarray(codes)
        self._counts += CodebookHealth.of_codes(array, len(self._counts)).counts_K

    def take(self) -> CodebookHealth:
        """Health since the last call; counting starts again."""
        health = CodebookHealth(self._counts)
        self._counts = np.zeros_like(self._counts)
        return health
