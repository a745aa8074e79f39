"""`make full-size` at an eighth of the width: all layers of the real model, every stage but the node's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import full_size

pytestmark = pytest.mark.long


def test_the_whole_way_at_an_eighth_of_the_width(tmp_path: Path) -> None:
    """Two steps, killed and resumed, both exports, the same actions from both policies, in a process each."""
    out = tmp_path / "figures.json"
    arguments = ["--size", "eighth", "--strategies", "la_cond", "--steps", "0"]
    assert full_size.main([*arguments, "--folder", str(tmp_path), "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    stages = ["train, killed", "resume", "export", "a chunk, trained", "a chunk, merged"]
    assert list(figures["stages"]) == ["write the base model", *(f"la_cond: {stage}" for stage in stages)]
    assert len(figures["losses"]["la_cond"]) == 2 and all(0 < loss < 20 for loss in figures["losses"]["la_cond"])
    assert 0.3 < figures["peak_gib"] < 2.0
    assert [item for item in tmp_path.iterdir() if item != out] == []
