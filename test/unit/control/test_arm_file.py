"""An arm from a YAML file, with a URDF or with numbers: what it says is what is driven, and what is wrong is named."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import yaml
from arms import MS, T0, Bench, chunk_of, variant

from lavla_ros.config import ConfigError, setting
from lavla_ros.contract import Contract, load_contract
from lavla_ros.control.arm import Arm, DriverKind, JointLimits
from lavla_ros.control.arm_file import load_arm
from lavla_ros.control.arms import arm_of
from lavla_ros.control.config import ExecutorConfig, LimitOptions
from lavla_ros.control.kinematics import rotation_vector
from lavla_ros.control.loopback import LoopbackDriver, LoopbackOptions

JOINT = """
  <joint name="{name}" type="{kind}">
    <parent link="{parent}"/><child link="{child}"/>
    <origin xyz="{xyz}" rpy="{rpy}"/><axis xyz="{axis}"/>{limit}{extra}
  </joint>"""
ROWS: list[tuple[str, str, str]] = [
    ("0 0 0.2", "0 0 0", "0 0 1"),
    ("0 0.05 0", "1.5708 0 0.2", "0 0 1"),
    ("0.3 0 0", "0 0 0", "0 1 0"),
    ("0.25 0 0.01", "0 0.4 0", "0 0 1"),
    ("0 -0.1 0", "-1.5708 0 0", "0 0 -2"),
    ("0 0 0.08", "0 1.5708 0", "0.6 0 0.8"),
    ("0 0 0.07", "0.1 0.2 0.3", "1 0 0"),
]
LIMIT = '<limit lower="-2.5" upper="2.6" velocity="2.0" effort="10"/>'


def urdf(joints: int = 6, **changes: dict[str, str]) -> str:
    """A made-up arm; ``changes`` by joint name. Joint 3 hangs on a fixed joint, and the flange on another one."""
    text = '<robot name="made_up"><link name="world"/><link name="mount"/><link name="flange"/><link name="finger"/>'
    text += "".join(
        f'<link name="link_{i}"><visual><geometry><mesh filename="package://nowhere/{i}.stl"/></geometry></visual></link>'
        for i in range(1, joints + 1)
    )
    fixed = {"kind": "fixed", "limit": "", "extra": "", "axis": "1 0 0"}
    text += JOINT.format(name="stand", parent="link_2", child="mount", xyz="0 0 0.03", rpy="0 0 1.5708", **fixed)
    for i, (xyz, rpy, axis) in enumerate(ROWS[:joints], start=1):
        parts = {
            "name": f"j{i}",
            "kind": "revolute",
            "parent": "world" if i == 1 else "mount" if i == 3 else f"link_{i - 1}",
            "child": f"link_{i}",
            "xyz": xyz,
            "rpy": rpy,
            "axis": axis,
            "limit": LIMIT,
            "extra": "",
        }
        text += JOINT.format(**parts | changes.get(f"j{i}", {}))
    end = f"link_{joints}"
    text += JOINT.format(name="to_flange", parent=end, child="flange", xyz="0 0 0.1", rpy="0 1.5708 0", **fixed)
    finger = {"kind": "prismatic", "limit": LIMIT, "extra": '<mimic joint="other"/>', "axis": "1 0 0"}
    return (
        text
        + JOINT.format(name="grip", parent="flange", child="finger", xyz="0 0 0", rpy="0 0 0", **finger)
        + "</robot>"
    )


HAND = '<link name="hand"/>' + JOINT.format(
    name="j8",
    kind="revolute",
    parent="flange",
    child="hand",
    xyz="0 0 0",
    rpy="0 0 0",
    axis="0 0 1",
    limit=LIMIT,
    extra="",
)
GOOD: dict[str, Any] = {
    "urdf": "arm.urdf",
    "tip": "flange",
    "limits": {"acceleration_rad_s2": 5.0, "jerk_rad_s3": 50.0},
    "driver": "loopback",
}
NUMBERS: dict[str, Any] = {
    "joints": [
        {"name": f"j{i}", "xyz_m": [0.0, 0.0, 0.1], "axis": [0.0, float(i % 2), float(1 - i % 2)]} for i in range(6)
    ],
    "limits": {
        "lower_rad": -2.0,
        "upper_rad": [2.0, 2.0, 2.5, 2.0, 2.0, 2.0],
        "velocity_rad_s": 1.0,
        "acceleration_rad_s2": 5.0,
        "jerk_rad_s3": 50.0,
    },
    "driver": "loopback",
}


def arm(folder: Path, file: dict[str, Any], text: str | None = None) -> Arm:
    (folder / "arm.urdf").write_text(urdf() if text is None else text)
    (folder / "my_arm.yaml").write_text(yaml.safe_dump(file))
    return load_arm(folder / "my_arm.yaml")


@pytest.mark.parametrize("joints", [6, 7])
def test_the_kinematics_of_a_urdf_are_those_of_pinocchio(tmp_path: Path, joints: int) -> None:
    import pinocchio as pin

    text = urdf(joints)
    ours = arm(tmp_path, GOOD, text)
    model = pin.buildModelFromXML(text.replace('type="prismatic"', 'type="fixed"'))
    data, flange, rng = model.createData(), model.getFrameId("flange"), np.random.default_rng(0)
    assert ours.joint_names == tuple(f"j{i + 1}" for i in range(joints)) and model.nq == joints
    for _ in range(20):
        q = rng.uniform(-2.5, 2.5, joints)
        pin.framesForwardKinematics(model, data, q)
        np.testing.assert_allclose(ours.kinematics.forward(q), data.oMf[flange].homogeneous, atol=1e-9)


def test_what_the_file_does_not_say_is_the_urdfs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = arm(tmp_path, {**GOOD, "limits": {**GOOD["limits"], "velocity_rad_s": 1.0}})
    assert made.limits.lower_rad == (-2.5,) * 6 and made.limits.velocity_rad_s == (1.0,) * 6
    assert made.servo_period_ns == 8_000_000 and made.options is LoopbackOptions
    # Neither the meshes, which are nowhere, nor the gripper's joint, which mimics another one, are needed.
    assert "not needed for kinematics and not read: 6 files of meshes, the joints ['grip']" in caplog.text
    driver = made.driver(LoopbackOptions(), made.limits)
    assert isinstance(driver, LoopbackDriver)
    np.testing.assert_allclose(driver.read().position_rad, (0.05,) * 6)


def test_numbers_instead_of_a_urdf_and_a_tool(tmp_path: Path) -> None:
    made = arm(
        tmp_path, {**NUMBERS, "tool": {"xyz_m": [0.0, 0.0, 0.2], "rpy_deg": [0.0, 90.0, 0.0]}, "start_rad": [0.1] * 6}
    )
    np.testing.assert_allclose(made.kinematics.forward(np.zeros(6))[:3, 3], (0.0, 0.0, 0.8), atol=1e-15)
    assert made.limits.upper_rad[2] == 2.5 and made.start_rad == (0.1,) * 6 and made.name == "my_arm"


def test_a_contract_names_the_file(tmp_path: Path) -> None:
    arm(tmp_path, NUMBERS)
    plain = load_contract("jaka_minicobo").to_dict()
    dims = [{**d, "name": f"j{i}"} for i, d in enumerate(plain["action"]["dims"][:6])]
    data = {**plain, "robot": str(tmp_path / "my_arm.yaml"), "action": {**plain["action"], "dims": dims}}
    contract = Contract.from_dict({**data, "state": {**plain["state"], "fields": dims}})
    config = ExecutorConfig.from_contract(contract)
    assert config.joint_names == arm_of(contract).joint_names and config.limits.velocity_rad_s == (1.0,) * 6
    assert config.kinematics is not None
    missing = Contract.from_dict({**contract.to_dict(), "robot": str(tmp_path / "no.yaml")})
    with pytest.raises(
        ConfigError, match=r"contract 'jaka_minicobo' is for robot '.*no\.yaml': cannot read .*no\.yaml"
    ):
        arm_of(missing)


@pytest.mark.parametrize("joints", [6, 7])
def test_the_tool_of_an_arm_from_a_urdf_goes_where_an_end_effector_contract_says(tmp_path: Path, joints: int) -> None:
    made = arm(tmp_path, {**GOOD, "tool": {"xyz_m": [0.0, 0.0, 0.1]}}, urdf(joints))
    contract = Contract.from_dict(
        {**variant("end_effector", "absolute").to_dict(), "robot": str(tmp_path / "my_arm.yaml")}
    )
    start = np.linspace(1.2, 0.1, joints)
    bench, pose = Bench(start, contract), made.kinematics.forward(start)
    line = [[*(pose[:3, 3] + [0.0, 0.0, -0.0005 * h]), *rotation_vector(pose[:3, :3])] for h in range(1, 21)]
    accepted = bench.submit(chunk_of(line, T0, contract=contract))
    assert accepted.accepted, accepted.reason
    bench.run_until(T0 + 2500 * MS)
    reached = made.kinematics.forward(bench.positions[-1])
    np.testing.assert_allclose(reached[:3, 3] - pose[:3, 3], (0.0, 0.0, -0.01), atol=3e-4)
    np.testing.assert_allclose(reached[:3, :3], pose[:3, :3], atol=5e-3)
    bench.assert_within_limits()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"limit": ""}, "joint 'j2' has no <limit lower=… upper=… velocity=…>: give the arm's own, in rad"),
        ({"limit": '<limit effort="3" velocity="1"/>'}, "joint 'j2' has no <limit"),
        ({"limit": LIMIT.replace("2.6", "2,6")}, "joint 'j2': limit upper is '2,6'; expected 1 finite numbers"),
        (
            {"limit": LIMIT.replace("2.6", "-2.6")},
            r"joint 'j2' has limits -2.5 to -2.6 rad at 2.0 rad/s; expected lower <",
        ),
        (
            {"extra": '<mimic joint="j1"/>'},
            "joint 'j2' between base and tip mimics 'j1'; expected a joint that is comm",
        ),
        ({"kind": "continuous"}, "joint 'j2' is continuous, so it has no position limits"),
        ({"kind": "prismatic"}, "joint 'j2' between base and tip is 'prismatic'; expected revolute or fixed"),
        ({"kind": "floating"}, "joint 'j2' between base and tip is 'floating'"),
        ({"axis": "0 0 0"}, r"joint 'j2': axis is \(0.0, 0.0, 0.0\); expected a direction"),
        ({"xyz": "0 1"}, "joint 'j2': origin xyz is '0 1'; expected 3 finite numbers"),
        ({"parent": "shoulder"}, "joint 'j2': parent is 'shoulder', which is no link of this file"),
        ({"child": "link_3"}, "link 'link_3' is the child of two joints, 'j2' and 'j3'"),
    ],
)
def test_a_joint_that_cannot_be_kept_is_named(tmp_path: Path, changes: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=r"arm\.urdf: " + text):
        arm(tmp_path, GOOD, urdf(j2=changes))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("<robot", "not valid XML"),
        ("<sdf/>", "the root element is <sdf>; expected <robot>"),
        ('<robot name="empty"/>', "there is no link"),
        (urdf().replace('<link name="world"/>', '<link name="world"/><link name="table"/>'), "base must be given"),
        (urdf(5), r"the arm has 5 joints, \['j1', .*\]; expected 6 or 7"),
        (urdf(7).replace("</robot>", f"{HAND}</robot>"), r"the arm has 8 joints"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_arm_is_refused(tmp_path: Path, file: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        arm(tmp_path, {**GOOD, "tip": "hand"} if "hand" in file else GOOD, file)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tip": "hand"}, r"arm\.urdf: tip is 'hand'; expected a link of this file: \['world', "),
        ({"base": "finger"}, "there is no way from base 'finger' to tip 'flange'; it ends above 'world'"),
        ({"tip": "world"}, r"joint_names of a chain is \(\); expected one or more"),
        ({"limits": {**GOOD["limits"], "upper_rad": 2.7}}, "of 'j1' is 2.7, which is wider than the URDF's 2.6"),
        ({"limits": {**GOOD["limits"], "lower_rad": [-2.5] * 5 + [-3.0]}}, "lower_rad of 'j6' is -3.0, which is"),
        ({"limits": {**GOOD["limits"], "velocity_rad_s": 2.5}}, "limits.velocity_rad_s of 'j1' is 2.5, which is wider"),
        ({"limits": {**GOOD["limits"], "velocity_rad_s": [1.0, 2.0]}}, "expected one value, or one for each of"),
        ({"limits": {"jerk_rad_s3": 50.0}}, "limits.acceleration_rad_s2 must be given: a URDF does not have it"),
        ({"limits": {**GOOD["limits"], "jerk_rad_s3": -1.0}}, "limits: jerk_rad_s3: every value must be positive"),
        ({"limits": {**GOOD["limits"], "speed": 1.0}}, r"unknown keys \['speed'\] in limits"),
        ({"payload_kg": 1.0, "tool": {"mass_kg": 1.2}}, r"tool\.mass_kg is 1\.2; expected at most the arm's pay"),
        ({"tool": {"xyz_m": [0.0, 0.1]}}, r"tool\.xyz_m is \(0\.0, 0\.1\); expected three finite numbers"),
        ({"tool": {"mass_kg": -1.0}}, r"tool\.mass_kg is -1\.0"),
        ({"urdf": "no.urdf"}, r"no\.urdf: cannot be read: No such file"),
        ({"urdf": "arm.urdf.xacro"}, r"this is a xacro file; expand it first"),
        ({"urdf": ""}, "urdf is ''; expected a URDF file, or joints, and not both"),
        ({"driver": "magic"}, r"no driver 'magic'; there are \['jaka_tcp', 'loopback', 'ros2_control'\], or give"),
        ({"driver": "lavla_ros.jaka.limits:JOINTS"}, "is 6; expected an instance of DriverKind"),
        ({"servo_period_s": 1.0}, r"servo_period_s is 1\.0; expected 0\.001 to 0\.1 s"),
        ({"start_rad": [0.0]}, "start_rad of an arm is"),
    ],
)  # fmt: skip
def test_what_contradicts_the_arm_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        arm(tmp_path, {**GOOD, **change})
    assert str(tmp_path) in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class SlowOptions:
    gain: float = setting(0.5, "Share of the way.", low=0.1, high=1.0)


def slow_driver(options: SlowOptions, limits: JointLimits, described: Arm) -> LoopbackDriver:
    assert limits.velocity_rad_s[0] == 0.5 < described.limits.velocity_rad_s[0] and options.gain == 0.25
    return LoopbackDriver(start_rad=described.start_rad)


SLOW = DriverKind(options=SlowOptions, make=slow_driver, leave_servo=lambda options: options.gain > 0.2)


def test_a_driver_of_ones_own_is_told_the_arm_and_the_narrower_limits(tmp_path: Path) -> None:
    made = arm(tmp_path, {**NUMBERS, "driver": f"{__name__}:SLOW", "start_rad": [0.3] * 6})
    limits = LimitOptions(velocity_rad_s=0.5).applied(made.limits)
    driver = made.driver(SlowOptions(gain=0.25), limits)
    np.testing.assert_allclose(driver.read().position_rad, [0.3] * 6)
    assert made.options is SlowOptions and made.leave_servo(SlowOptions())


def test_numbers_need_every_limit(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"my_arm\.yaml: limits\.lower_rad must be given: there is no URDF that has it"
    ):
        arm(tmp_path, {**NUMBERS, "limits": GOOD["limits"]})
    with pytest.raises(ConfigError, match="tip is 'flange'; expected nothing: it is for a URDF"):
        arm(tmp_path, {**NUMBERS, "tip": "flange"})


def test_an_arm_is_read_without_the_library_of_kinematics() -> None:
    import subprocess
    import sys

    code = """
        import sys
        from lavla_ros.control.arms import arm_named
        arm = arm_named("jaka_zu5")
        assert "pinocchio" not in sys.modules
        arm.kinematics.forward(arm.start_rad)
        assert "pinocchio" in sys.modules and "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", dedent(code)], check=True)
