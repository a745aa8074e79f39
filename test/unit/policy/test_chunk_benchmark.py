"""Both ways of the chunk benchmark run, and give the same actions."""

from __future__ import annotations

from benchmarks import chunk


def test_the_bundled_policy_is_timed() -> None:
    figures = chunk.run(threads=1, rounds=3)
    assert figures["largest_difference"] < 1e-5
    assert all(0 < figures[way]["p50_ms"] <= figures[way]["p99_ms"] for way in ("as trained", "as run"))
