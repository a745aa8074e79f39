"""A post in the bundled policy's way, in physics: without the scene it is hit, with the scene nothing touches it."""

from __future__ import annotations

import pytest

from benchmarks.scene import in_physics

pytestmark = pytest.mark.sim


def test_the_executor_keeps_the_arm_from_an_obstacle_that_the_policy_does_not_see() -> None:
    blind, known = in_physics(1, known=False), in_physics(2, known=True)
    assert blind["with_contact"] == 1 and blind["contact_steps"] > 20, "the post is in the way"
    assert known["with_contact"] == 0 and known["contact_steps"] == 0
    assert known["stopped"] == 2
