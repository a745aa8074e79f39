"""The controller's Denavit-Hartenberg parameters against the models: one arm is the same however it is described."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lavla_ros.config import ConfigError
from lavla_ros.control.chain import Chain
from lavla_ros.control.kinematics import ChainKinematics
from lavla_ros.jaka.arm import MINICOBO, jaka_arm, jaka_models, models_like
from lavla_ros.jaka.dh import DhParameters, dh_of, differences

ZU5 = jaka_arm("zu5").chain
QUARTER = math.pi / 2


@pytest.mark.parametrize("model", jaka_models())
def test_every_model_has_parameters_that_are_its_own(model: str) -> None:
    chain = jaka_arm(model).chain
    parameters = dh_of(chain)
    np.testing.assert_allclose(parameters.frames()[-1], ChainKinematics(chain).forward(np.zeros(6)), atol=1e-12)
    assert differences(chain, parameters) == [] and model in models_like(parameters)


def test_the_parameters_of_the_minicobo() -> None:
    parameters = dh_of(MINICOBO.chain)
    assert parameters.alpha_rad == (0.0, QUARTER, 0.0, -QUARTER, QUARTER, -QUARTER)
    assert parameters.a_m == (0.0, 0.0, 0.21, 0.0, 0.0, 0.0)
    assert parameters.d_m == (0.187, 0.006, 0.0, 0.2105, 0.0, 0.1593)
    assert parameters.home_offset_rad == (0.0, QUARTER, -QUARTER, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("index", "field", "value", "text"),
    [
        (2, "a_m", 0.36, "joint 3: a 360.00 mm, not 430.00 mm"),
        (3, "d_m", -0.112, "joint 4: d -112.00 mm, not -114.00 mm"),
        (1, "home_offset_rad", math.radians(0.6), "joint 2: offset 0.60 deg, not 0.00 deg"),
        (4, "alpha_rad", math.radians(91), "joint 5: alpha 91.00 deg, not 90.00 deg"),
        (4, "alpha_rad", math.radians(-90), "joint 5: alpha -90.00 deg, not 90.00 deg"),
    ],
)
def test_another_arm_is_named_by_its_parameter(index: int, field: str, value: float, text: str) -> None:
    values = list(getattr(dh_of(ZU5), field))
    values[index] = value
    assert text in "; ".join(differences(ZU5, replace(dh_of(ZU5), **{field: tuple(values)})))


def test_an_arm_that_is_calibrated_is_the_same() -> None:
    rng = np.random.default_rng(0)
    nominal = dh_of(ZU5)
    for _ in range(50):
        near = {
            name: tuple(np.array(getattr(nominal, name)) + rng.uniform(-size, size, 6))
            for name, size in (("a_m", 4e-4), ("d_m", 4e-4), ("home_offset_rad", 1e-3), ("alpha_rad", 1e-3))
        }
        assert differences(ZU5, DhParameters(**near)) == []


def test_what_the_convention_leaves_open_is_no_difference() -> None:
    dh = dh_of(ZU5)
    # Axes 2 to 4 are parallel: where along them the way to the next one begins is anybody's choice.
    shifted = replace(dh, d_m=(dh.d_m[0], -0.1, 0.036, -0.05, *dh.d_m[4:]))
    assert differences(ZU5, shifted) == []
    # x of frame 4 the other way round: the axes of joints 4 and 5 meet there.
    turned = replace(
        dh,
        home_offset_rad=(0.0, 0.0, 0.0, math.pi, math.pi, 0.0),
        alpha_rad=(0.0, QUARTER, 0.0, 0.0, -QUARTER, -QUARTER),
    )
    np.testing.assert_allclose(turned.frames()[-1], dh.frames()[-1], atol=1e-12)
    assert differences(ZU5, turned) == []


def test_what_has_no_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="joint 'joint_2' has no Denavit-Hartenberg parameters"):
        dh_of(replace(ZU5, origin_rpy_rad=((0.0, 0.0, 0.0), (0.0, 0.3, 0.0), *ZU5.origin_rpy_rad[2:])))
    with pytest.raises(ConfigError, match="the flange"):
        dh_of(replace(ZU5, flange_xyz_m=(0.1, 0.0, 0.0)))
    assert differences(ZU5, DhParameters(alpha_rad=(0.0,), a_m=(0.0,), d_m=(0.0,), home_offset_rad=(0.0,))) == [
        "1 joints, not 6"
    ]


@pytest.mark.parametrize(
    ("model", "rows", "found"),
    [
        (
            "a5",
            [((0, -0.00022535, 0.12015), (0, 0, 0)), ((0, 0, 0), (1.5708, 0, 0)), ((0.43, 0, 0), (0, 0, 0)),
             ((0.3685, 0, -0.115), (0, 0, 0)), ((0, -0.1135, 0), (1.5708, -0.00010901, 0)),
             ((0, 0.107, 0), (-1.5708, 0, -0.00010901))],
            [],
        ),
        (
            "s7",
            [((0, -0.00022535, 0.12015), (0, 0, 0)), ((0, 0, 0), (1.5708, 1.5708, 0)), ((0, 0.36, 0), (0, 0, 0)),
             ((0, 0.3035, -0.11501), (0, 0, -1.5708)), ((0, 0.1135, 0), (-1.5708, 0, 0)),
             ((0, -0.1175, 0), (1.5708, 0, 0))],
            ["joint 6: offset 0.00 deg, not -180.00 deg"],
        ),
    ],
)  # fmt: skip
def test_a_vendors_export_with_its_noise_and_its_own_frames_is_the_arm(
    model: str, rows: list[tuple[tuple[float, ...], tuple[float, ...]]], found: list[str]
) -> None:
    """The vendor's URDF figures as they are, against the parameters of the arm; the S7's flange is turned there."""
    chain = Chain(
        joint_names=ZU5.joint_names,
        origin_xyz_m=tuple(xyz for xyz, _ in rows),
        origin_rpy_rad=tuple(rpy for _, rpy in rows),
    )
    assert [text.replace("not 180", "not -180") for text in differences(chain, dh_of(jaka_arm(model).chain))] == found
