"""Kinematics against the published figures, finite differences and an independent DH chain."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lavla_ros.control.arm import JointLimits
from lavla_ros.jaka.kinematics import (
    MINICOBO_DH,
    IKConfig,
    IKError,
    forward,
    inverse,
    jacobian,
    joint_frames,
    rotation_vector,
)
from lavla_ros.jaka.limits import MINICOBO_LIMITS

LOWER, UPPER = MINICOBO_LIMITS.lower(), MINICOBO_LIMITS.upper()
positions = st.tuples(*(st.floats(lo, hi) for lo, hi in zip(LOWER, UPPER, strict=True))).map(np.array)


def test_published_poses() -> None:
    np.testing.assert_allclose(forward(np.zeros(6))[:3, 3], (0.0, -0.006, 0.7668), atol=1e-12)
    pose = forward((0.0, 0.0, math.pi / 2, 0.0, math.pi / 2, 0.0))
    np.testing.assert_allclose(pose[:3, 3], (-0.2105, -0.006, 0.2377), atol=1e-12)
    np.testing.assert_allclose(pose[:3, 2], (0.0, 0.0, -1.0), atol=1e-12)


@given(q=positions)
@settings(max_examples=100, deadline=None)
def test_forward_equals_the_dh_chain(q: NDArray[np.float64]) -> None:
    pose = np.eye(4)
    dh = MINICOBO_DH
    for i in range(6):
        ca, sa = math.cos(dh.alpha_rad[i]), math.sin(dh.alpha_rad[i])
        ct, st_ = math.cos(q[i] + dh.home_offset_rad[i]), math.sin(q[i] + dh.home_offset_rad[i])
        rx_tx = np.array([[1, 0, 0, dh.a_m[i]], [0, ca, -sa, 0], [0, sa, ca, 0], [0, 0, 0, 1.0]])
        rz_tz = np.array([[ct, -st_, 0, 0], [st_, ct, 0, 0], [0, 0, 1, dh.d_m[i]], [0, 0, 0, 1.0]])
        pose = pose @ rx_tx @ rz_tz
    np.testing.assert_allclose(forward(q), pose, atol=1e-12)


@given(q=positions)
@settings(max_examples=100, deadline=None)
def test_jacobian_equals_central_differences(q: NDArray[np.float64]) -> None:
    step = 1e-6
    numeric = np.empty((6, 6))
    for j in range(6):
        delta = np.zeros(6)
        delta[j] = step
        ahead, behind = forward(q + delta), forward(q - delta)
        numeric[:3, j] = (ahead[:3, 3] - behind[:3, 3]) / (2 * step)
        numeric[3:, j] = rotation_vector(ahead[:3, :3] @ behind[:3, :3].T) / (2 * step)
    np.testing.assert_allclose(jacobian(joint_frames(q)), numeric, atol=1e-7)


@given(q=positions, offset=st.tuples(*[st.floats(-0.3, 0.3)] * 6).map(np.array))
@settings(max_examples=150, deadline=None)
def test_inverse_reaches_what_forward_says_from_a_near_seed(
    q: NDArray[np.float64], offset: NDArray[np.float64]
) -> None:
    target = forward(q)
    try:
        found = inverse(target, q + offset)
    except IKError as error:
        # Honest: the residual it names is the one of the position it names.
        pose = forward(error.best_rad)
        assert np.linalg.norm(pose[:3, 3] - target[:3, 3]) == pytest.approx(error.position_error_m, abs=1e-9)
        assert max(error.position_error_m, error.rotation_error_rad) > 1e-6
        found = inverse(target, q + offset, config=IKConfig(restarts=40))
    assert MINICOBO_LIMITS.contains(found)
    reached = forward(found)
    np.testing.assert_allclose(reached, target, atol=5e-6)


def test_inverse_converges_from_near_seeds_almost_always() -> None:
    rng = np.random.default_rng(3)
    failures = 0
    for _ in range(200):
        q = rng.uniform(LOWER, UPPER)
        try:
            inverse(forward(q), q + rng.uniform(-0.2, 0.2, 6))
        except IKError:
            failures += 1
    assert failures <= 6


def test_inverse_stays_on_the_seeds_branch_along_a_line() -> None:
    q = np.array([0.1, 0.3, 1.4, 0.0, 1.4, 0.2])
    target = forward(q)
    for _ in range(100):
        target[:3, 3] += (0.0005, 0.0008, 0.0003)
        new = inverse(target, q)
        assert np.abs(new - q).max() < 0.02
        q = new


def test_inverse_fails_honestly_outside_the_workspace() -> None:
    target = forward(np.zeros(6))
    target[2, 3] += 0.2
    with pytest.raises(IKError, match="misses the target by") as caught:
        inverse(target, np.full(6, 0.1), config=IKConfig(restarts=3))
    # The arm is stretched out straight up: 0.2 m is what remains at least.
    assert 0.19 < caught.value.position_error_m < 0.5


def test_inverse_respects_narrow_limits() -> None:
    target = forward((0.0, 0.3, 1.2, 0.0, 1.0, 0.0))
    narrow = JointLimits(
        lower_rad=(-6.28, -2.09, -0.5, -6.28, -2.09, -6.28),
        upper_rad=(6.28, 2.09, 0.5, 6.28, 2.09, 6.28),
        velocity_rad_s=(1.0,) * 6,
        acceleration_rad_s2=(1.0,) * 6,
        jerk_rad_s3=(1.0,) * 6,
    )
    with pytest.raises(IKError) as caught:
        inverse(target, np.zeros(6), limits=narrow, config=IKConfig(restarts=5))
    assert narrow.contains(caught.value.best_rad)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, math.pi - 1e-8, math.pi])
def test_rotation_vector_at_every_angle(angle: float) -> None:
    axis = np.array([1.0, -2.0, 0.5]) / np.linalg.norm([1.0, -2.0, 0.5])
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k
    vector = rotation_vector(rotation)
    assert min(np.abs(vector - axis * angle).max(), np.abs(vector + axis * angle).max() + (angle < 3)) < 1e-6


@pytest.mark.parametrize("bad", [np.zeros(5), [0, 0, 0, 0, 0, math.nan], np.zeros((1, 6))])
def test_joint_positions_are_checked(bad: object) -> None:
    with pytest.raises(ValueError, match="6 finite numbers"):
        forward(bad)  # type: ignore[arg-type]


def test_targets_are_checked() -> None:
    with pytest.raises(ValueError, match="not a rotation"):
        inverse(np.diag([1.0, 1.0, -1.0, 1.0]), np.zeros(6))
    with pytest.raises(ValueError, match="finite"):
        inverse(np.full((4, 4), np.nan), np.zeros(6))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lower_rad": (7.0,) + (-1.0,) * 5}, "below"),
        ({"velocity_rad_s": (0.0,) * 6}, "positive"),
        ({"jerk_rad_s3": (1.0,) * 5}, "5 values"),
        ({"upper_rad": (math.inf,) * 6}, "finite"),
    ],
)
def test_limits_are_checked(change: dict[str, tuple[float, ...]], match: str) -> None:
    good = {name: getattr(MINICOBO_LIMITS, name) for name in JointLimits.__dataclass_fields__}
    with pytest.raises(ValueError, match=match):
        JointLimits(**{**good, **change})
