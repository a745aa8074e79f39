"""Results as an evaluation would write them, without running one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim_bridges.evaluation.results import EpisodeResult, Results


def episode(
    index: int, *, success: bool, task: str = "a task", error: str | None = None, **changes: Any
) -> EpisodeResult:
    values: dict[str, Any] = {
        "index": index,
        "task": task,
        "trial": index,
        "seed": 7,
        "state_index": index,
        "initial_state": f"state{index}",
        "success": success,
        "score": float(success),
        "length_steps": 100 + index,
        "error": error,
        "trajectory": "t",
        "inferences": 0 if error else 4,
        "latency_ms": {} if error else {"p50": 11.0, "p99": 12.0, "max": 13.0, "mean": 11.5},
    }
    return EpisodeResult(**(values | changes))


def results(
    went: Sequence[bool | None], *, suite: str = "libero_object", method: str = "baseline", **changes: Any
) -> Results:
    """``went``: for every episode whether it succeeded; None for one in error."""
    episodes = tuple(
        episode(i, success=bool(success), error="worker <killed>" if success is None else None)
        for i, success in enumerate(went)
    )
    values: dict[str, Any] = {
        "suite": suite,
        "task": "a task",
        "policy": "runs/p",
        "contract_hash": "c",
        "settings": {"max_steps": 280},
        "episodes": episodes,
        "assets": {"source": "a folder", "hash": "h", "stand_ins": 15},
        "comparable": "Not comparable: stand-ins.",
        "method": method,
    }
    return Results(**(values | changes))
