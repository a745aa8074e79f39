"""The full-size benchmark runs, at a small size, and refuses what it cannot measure."""

from __future__ import annotations

from collections.abc import Iterator

import outside_strategy
import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks import gpu_train
from benchmarks.config import TrainBench
from lavla_ros.policy.strategies import STRATEGIES


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """accelerate keeps the precision of the first run of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_every_strategy_is_measured() -> None:
    compared = (*STRATEGIES, outside_strategy.NAME)
    figures = gpu_train.run(TrainBench(size="small", batch_size=2, steps=2, warmup=1, strategies=compared))
    assert list(figures["strategies"]) == list(compared)
    for measured in figures["strategies"].values():
        assert 0 < measured["step_s"] <= measured["step_s_slowest"]
        assert measured["samples_per_s"] == pytest.approx(2 / measured["step_s"])
    # the head is the same everywhere; LA-Align's projection is what it has more
    counts = {name: measured["trained_parameters"] for name, measured in figures["strategies"].items()}
    assert len({measured["head_parameters"] for measured in figures["strategies"].values()}) == 1
    assert counts["la_align"] - counts["baseline"] == 32 * 4 * 128 + 4 * 128


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_full_size_needs_a_gpu() -> None:
    with pytest.raises(RuntimeError, match="torch sees no GPU"):
        gpu_train.run(TrainBench(size="2b"))
