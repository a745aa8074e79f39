"""A post in the bundled policy's way, in physics: without the scene it is hit, with the scene nothing touches it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scene import EVERYTHING, OBSTACLE, in_physics

pytestmark = pytest.mark.sim


def test_the_executor_keeps_the_arm_from_an_obstacle_that_the_policy_does_not_see(tmp_path: Path) -> None:
    everything = tmp_path / "everything.yaml"
    everything.write_text(EVERYTHING)
    blind = in_physics(1, "")
    assert blind["with_contact"] == 1 and blind["contact_steps"] > 20, "the post is in the way"
    for scene in (OBSTACLE, str(everything)):
        known = in_physics(2, scene)
        assert known["with_contact"] == 0 and known["contact_steps"] == 0
        assert known["stopped"] == 2
