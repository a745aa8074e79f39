"""Kinematics of a chain of joints: Pinocchio against the numbers that were there before it."""

from __future__ import annotations

import numpy as np
import pytest

from lavla_ros.jaka import kinematics as former
from lavla_ros.jaka.arm import MINICOBO

LOWER, UPPER = MINICOBO.limits.lower(), MINICOBO.limits.upper()


def test_pinocchio_computes_what_was_computed_by_hand() -> None:
    now, rng = MINICOBO.kinematics, np.random.default_rng(0)
    for _ in range(200):
        q = rng.uniform(LOWER, UPPER)
        frames = former.joint_frames(q)
        np.testing.assert_allclose(now.joint_frames(q), frames, atol=1e-12)
        np.testing.assert_allclose(now.jacobian(q), former.jacobian(frames), atol=1e-12)
        seed = q + rng.uniform(-0.3, 0.3, 6)
        try:
            expected = former.inverse(frames[-1], seed)
        except former.IKError:
            with pytest.raises(Exception, match="misses the target by"):
                now.inverse(frames[-1], seed, MINICOBO.limits)
            continue
        np.testing.assert_allclose(now.inverse(frames[-1], seed, MINICOBO.limits), expected, atol=1e-9)
