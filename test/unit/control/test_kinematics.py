"""Kinematics of chains of joints: published poses, finite differences, round trips, and the figures from before."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.public_arms import ARMS
from lavla_ros.control.arm import JointLimits
from lavla_ros.control.chain import Chain
from lavla_ros.control.kinematics import ChainKinematics, IKConfig, IKError, model_of, rotation_vector
from lavla_ros.control.rotations import rotation_from_rpy, rpy_from_rotation
from lavla_ros.jaka.arm import MINICOBO

LIMITS = MINICOBO.limits
LOWER, UPPER = LIMITS.lower(), LIMITS.upper()
KINEMATICS = ChainKinematics(MINICOBO.chain)
forward = KINEMATICS.forward
positions = st.tuples(*(st.floats(lo, hi) for lo, hi in zip(LOWER, UPPER, strict=True))).map(np.array)


PINNED = (
    [
        [-0.4685151034292372, -0.8697679616590784, -0.15491058947051756, 0.02802786500070634],
        [0.5714669042186754, -0.4320870280414945, 0.6976577797036252, 0.12115997944236229],
        [-0.6737352412048924, 0.23833693182064908, 0.6994829030711937, 0.6529278250265911],
        [0.0, 0.0, 0.0, 1.0],
    ],
    [
        [-0.12115997944236229, -0.4451178525468332, -0.2916747060603756, -0.1151870505844853, 0.05607370435547138, 0.0],
        [
            0.02802786500070634,
            -0.13769108714112666,
            -0.09022555967870582,
            0.01872466546309262,
            0.11159605983203022,
            0.0,
        ],
        [0.0, 0.06258126431135179, -0.0727044500085633, -0.04418564385546038, -0.09888654665737469, 0.0],
        [0.0, 0.29552020666133955, 0.29552020666133955, -0.3720255519422598, -0.923091679134702, -0.15491058947051756],
        [0.0, -0.955336489125606, -0.955336489125606, -0.11508098899676873, 0.15005664956135087, 0.6976577797036252],
        [1.0, 0.0, 0.0, 0.9210609940028851, -0.35409709661997857, 0.6994829030711937],
    ],
    [
        0.2999999999304742,
        -0.7000000000001132,
        1.0999999999866337,
        -1.9999999999188613,
        0.8999999999726996,
        3.99999999998662,
    ],
)
"""Pose, Jacobian and an inverse of the MiniCobo at one position, as computed by hand before Pinocchio."""


def inverse(target: object, seed: object, limits: JointLimits = LIMITS, config: IKConfig | None = None) -> object:
    return KINEMATICS.inverse(target, seed, limits, config)


def test_published_poses() -> None:
    np.testing.assert_allclose(forward(np.zeros(6))[:3, 3], (0.0, -0.006, 0.7668), atol=1e-12)
    pose = forward((0.0, 0.0, math.pi / 2, 0.0, math.pi / 2, 0.0))
    np.testing.assert_allclose(pose[:3, 3], (-0.2105, -0.006, 0.2377), atol=1e-12)
    np.testing.assert_allclose(pose[:3, 2], (0.0, 0.0, -1.0), atol=1e-12)
    ur5e, panda = ARMS["ur5e"][0], ARMS["panda"][0]
    np.testing.assert_allclose(ChainKinematics(ur5e).forward(np.zeros(6))[:3, 3], (0.8172, 0.2329, 0.0628), atol=1e-12)
    np.testing.assert_allclose(ChainKinematics(panda).forward(np.zeros(7))[:3, 3], (0.088, 0.0, 0.926), atol=1e-12)


def test_the_figures_from_before_pinocchio() -> None:
    q = np.array([0.3, -0.7, 1.1, -2.0, 0.9, 4.0])
    pose, jac, found = PINNED
    np.testing.assert_allclose(forward(q), pose, atol=1e-12)
    np.testing.assert_allclose(KINEMATICS.jacobian(q), jac, atol=1e-12)
    np.testing.assert_allclose(inverse(forward(q), q + 0.2), found, atol=1e-9)


@pytest.mark.parametrize("name", ARMS)
def test_jacobian_equals_central_differences(name: str) -> None:
    chain, limits = ARMS[name]
    kinematics, rng, step = ChainKinematics(chain), np.random.default_rng(1), 1e-6
    for _ in range(20):
        q = rng.uniform(limits.lower(), limits.upper())
        numeric = np.empty((6, len(q)))
        for j, delta in enumerate(np.eye(len(q)) * step):
            ahead, behind = kinematics.forward(q + delta), kinematics.forward(q - delta)
            numeric[:3, j] = (ahead[:3, 3] - behind[:3, 3]) / (2 * step)
            numeric[3:, j] = rotation_vector(ahead[:3, :3] @ behind[:3, :3].T) / (2 * step)
        np.testing.assert_allclose(kinematics.jacobian(q), numeric, atol=1e-7)


@pytest.mark.parametrize("name", ARMS)
def test_inverse_reaches_what_forward_says(name: str) -> None:
    chain, limits = ARMS[name]
    kinematics, rng, failures = ChainKinematics(chain), np.random.default_rng(2), 0
    for _ in range(60):
        q = rng.uniform(limits.lower(), limits.upper())
        target, seed = kinematics.forward(q), q + rng.uniform(-0.2, 0.2, len(q))
        try:
            found = kinematics.inverse(target, seed, limits)
        except IKError as error:
            failures += 1
            pose = kinematics.forward(error.best_rad)
            assert np.linalg.norm(pose[:3, 3] - target[:3, 3]) == pytest.approx(error.position_error_m, abs=1e-9)
            assert max(error.position_error_m, error.rotation_error_rad) > 1e-6
            found = kinematics.inverse(target, seed, limits, IKConfig(restarts=40))
        assert limits.contains(found)
        np.testing.assert_allclose(kinematics.forward(found), target, atol=5e-6)
    assert failures <= 2, failures


def test_seven_joints_stay_near_the_seed_although_there_are_many_ways() -> None:
    chain, limits = ARMS["panda"]
    kinematics, q = ChainKinematics(chain), np.array([0.0, -0.5, 0.0, -2.0, 0.0, 1.6, 0.7])
    target = kinematics.forward(q)
    for _ in range(100):
        target[:3, 3] += (0.0005, 0.0008, 0.0003)
        new = kinematics.inverse(target, q, limits)
        assert np.abs(new - q).max() < 0.02
        q = new


def test_inverse_through_a_singular_posture() -> None:
    """Joints 4 and 6 of the MiniCobo on one line: nothing grows without bound, and the pose is reached."""
    q = np.array([0.1, 0.3, 1.4, 0.0, 0.0, 0.2])
    target = forward(q)
    target[:3, 3] += (0.0, 0.0, -0.005)
    found = inverse(target, q)
    np.testing.assert_allclose(forward(found), target, atol=5e-6)
    assert np.abs(found - q).max() < 0.6


@given(q=positions, offset=st.tuples(*[st.floats(-0.3, 0.3)] * 6).map(np.array))
@settings(max_examples=60, deadline=None)
def test_inverse_reaches_or_says_by_how_much_it_misses(q: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
    target = forward(q)
    try:
        found = inverse(target, q + offset)
    except IKError as error:
        pose = forward(error.best_rad)
        assert np.linalg.norm(pose[:3, 3] - target[:3, 3]) == pytest.approx(error.position_error_m, abs=1e-9)
        assert max(error.position_error_m, error.rotation_error_rad) > 1e-6
        found = inverse(target, q + offset, config=IKConfig(restarts=40))
    assert LIMITS.contains(found)
    np.testing.assert_allclose(forward(found), target, atol=5e-6)


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
        inverse(target, np.zeros(6), narrow, IKConfig(restarts=5))
    assert narrow.contains(caught.value.best_rad)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, math.pi - 1e-8, math.pi])
def test_rotation_vector_at_every_angle(angle: float) -> None:
    axis = np.array([1.0, -2.0, 0.5]) / np.linalg.norm([1.0, -2.0, 0.5])
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k
    vector = rotation_vector(rotation)
    assert min(np.abs(vector - axis * angle).max(), np.abs(vector + axis * angle).max() + (angle < 3)) < 1e-6


@given(rpy=st.tuples(*[st.one_of(st.floats(-3.14, 3.14), st.sampled_from([math.pi / 2, -math.pi / 2, 0.0]))] * 3))
@settings(max_examples=100, deadline=None)
def test_roll_pitch_yaw_of_a_rotation(rpy: tuple[float, float, float]) -> None:
    rotation = rotation_from_rpy(*rpy)
    np.testing.assert_allclose(rotation_from_rpy(*rpy_from_rotation(rotation)), rotation, atol=3e-9)


@pytest.mark.parametrize("bad", [np.zeros(5), [0, 0, 0, 0, 0, math.nan], np.zeros((1, 6))])
def test_joint_positions_are_checked(bad: object) -> None:
    with pytest.raises(ValueError, match="6 finite numbers"):
        forward(bad)


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
    good = {name: getattr(LIMITS, name) for name in JointLimits.__dataclass_fields__}
    with pytest.raises(ValueError, match=match):
        JointLimits(**{**good, **change})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"origin_xyz_m": ((0.0, 0.0, 0.0),)}, "origin_xyz_m: 1 values for the 2 joints"),
        ({"axis": ((0.0, 0.0, 2.0),) * 2}, r"axis of joint 'a' is \(0\.0, 0\.0, 2\.0\); expected a unit vector"),
        ({"tool_xyz_m": (0.0, math.nan, 0.0)}, "tool_xyz_m is .*three finite numbers"),
    ],
)
def test_chains_are_checked(change: dict[str, object], match: str) -> None:
    good = {"joint_names": ("a", "b"), "origin_xyz_m": ((0.0, 0.0, 0.1),) * 2, "origin_rpy_rad": ((0.0, 0.0, 0.0),) * 2}
    with pytest.raises(ValueError, match=match):
        Chain(**{**good, **change})


def test_the_tool_is_part_of_the_pose_and_the_model_of_equal_chains_is_one() -> None:
    chain = Chain(
        joint_names=("a",),
        origin_xyz_m=((0.0, 0.0, 0.1),),
        origin_rpy_rad=((0.0, 0.0, 0.0),),
        axis=((0.6, 0.0, 0.8),),
        flange_xyz_m=(0.2, 0.0, 0.0),
        tool_xyz_m=(0.0, 0.0, 0.3),
        tool_rpy_rad=(0.0, math.pi / 2, 0.0),
    )
    pose = ChainKinematics(chain).forward([0.0])
    np.testing.assert_allclose(pose[:3, 3], (0.2, 0.0, 0.4), atol=1e-15)
    np.testing.assert_allclose(pose[:3, 0], (0.0, 0.0, -1.0), atol=1e-15)
    same = Chain(**{name: getattr(chain, name) for name in Chain.__dataclass_fields__})
    assert model_of(chain) is model_of(same) and model_of(chain).nq == 1
