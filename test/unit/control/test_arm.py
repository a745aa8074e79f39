"""Whose arm is commanded: found by the contract's robot, and never with the kinematics of another one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from arms import CONTRACT, HOME, variant

from lavla_ros.config import ConfigError, read_config
from lavla_ros.contract import Contract
from lavla_ros.control.actions import ActionDecoder
from lavla_ros.control.arm_file import ArmFile
from lavla_ros.control.arms import arm_named, arm_of, shipped_arms
from lavla_ros.control.executor import ChunkExecutor, ExecutorConfig
from lavla_ros.jaka.limits import SERVO_MAX_SPEED_RAD_S
from lavla_ros.resources import config_path

MINICOBO = arm_of(CONTRACT)
BLIND = replace(MINICOBO, kinematics=None)
"""An arm with the joints of the MiniCobo and an unknown geometry."""


def contract_of(robot: str, space: str = "joint") -> Contract:
    return Contract.from_dict({**variant(space, "absolute").to_dict(), "robot": robot})


@pytest.mark.parametrize("mode", ["absolute", "delta"])
@pytest.mark.parametrize("made", [ActionDecoder, ChunkExecutor])
def test_the_end_effector_of_an_arm_without_kinematics_is_refused(made: type, mode: str) -> None:
    contract = variant("end_effector", mode)
    with pytest.raises(ConfigError, match=r"end effector.*'jaka_minicobo' has no kinematics; command joints instead"):
        made(contract, ExecutorConfig.from_contract(contract, BLIND))
    made(variant("joint", mode), ExecutorConfig.from_contract(variant("joint", mode), BLIND))


def test_an_arm_that_a_contract_names_by_module_brings_its_own_kinematics() -> None:
    contract = contract_of(f"{__name__}:BLIND", "end_effector")
    assert arm_of(contract) is BLIND
    with pytest.raises(ConfigError, match="has no kinematics"):
        ChunkExecutor(contract, ExecutorConfig.from_contract(contract))


@pytest.mark.parametrize(
    ("robot", "text"),
    [
        (
            "libero",
            r"there is no arm 'libero'; there are \['jaka_a12'.*\], or give your own as a YAML file or as module:att",
        ),
        ("no.such.module:ARM", r"arm 'no.such.module:ARM': there is no module 'no.such.module' on this Python's path"),
        ("lavla_ros.jaka.arm:MAXICOBO", "MAXICOBO"),
        ("lavla_ros.jaka.limits:JOINTS", r"this is 6; expected an instance of lavla_ros\.control\.arm\.Arm"),
    ],
)
def test_what_is_no_arm_is_refused_by_name(robot: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"contract '{CONTRACT.name}' is for robot '{robot}'.*{text}|{text}"):
        ExecutorConfig.from_contract(contract_of(robot))


def test_every_arm_of_the_list_can_be_made() -> None:
    assert len(shipped_arms()) == 22
    for name in shipped_arms():
        arm = arm_named(name)
        assert ExecutorConfig.from_contract(contract_of(name)).joint_names == arm.joint_names
        # Nothing of the figures is without a source, and none is beyond what servo commands can do.
        file = read_config(ArmFile, config_path(f"arms/{name}.yaml"))
        assert set(file.limits.source) == {"position", "velocity", "acceleration", "jerk"}
        assert max(arm.limits.velocity_rad_s) <= SERVO_MAX_SPEED_RAD_S and arm.payload.limit_kg > 0


@pytest.mark.parametrize(
    ("change", "text"),
    [({"joint_names": ("a",) * 6}, "each name once"), ({"joint_names": ("a", "b")}, "6 joints; joint_names has 2"),
     ({"servo_period_ns": 8}, "1 ms to 100 ms"), ({"options": dict}, "a dataclass"),
     ({"start_rad": (9.0,) * 6}, "within its limits"), ({"start_rad": (0.0,)}, "6 positions")],
)  # fmt: skip
def test_the_parts_of_an_arm_fit_together(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(MINICOBO, **change)  # type: ignore[arg-type]


def test_a_dry_run_starts_within_the_limits() -> None:
    assert MINICOBO.limits.contains(np.array(replace(MINICOBO, start_rad=()).start_rad))
    assert MINICOBO.limits.contains(np.array(HOME))


def test_only_the_arm_knows_its_joints() -> None:
    for name in ("joint_names", "kinematics", "tick_ns"):
        with pytest.raises(ConfigError, match=rf"unknown executor parameters \['{name}'\]"):
            ExecutorConfig.from_contract(CONTRACT, **{name: getattr(ExecutorConfig.from_contract(CONTRACT), name)})
