"""What each check says of made-up facts: ok, warn or wrong, with a fix for all that is not ok."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.doctor import checks
from benchmarks.doctor.chain import StackFacts, StreamFacts, check_chain, first_broken
from benchmarks.doctor.checks import GIB, MIB, CameraFacts, ControllerFacts, Finding
from lavla_ros.contract import load_contract
from lavla_ros.episode import ExecutorReport

CONTRACT = load_contract("jaka_minicobo")
FRONT = CONTRACT.cameras[0]
CAMERA = CameraFacts(publishers=("/camera",), rate_hz=10.0, latency_s=0.03, size=(FRONT.height, FRONT.width))
ARM = ControllerFacts(
    address="10.5.5.100:10001", rate_hz=125.0, powered_on=True, enabled=True, tool_outputs=4, differences=()
)


def _realtime(limit: int = 50, memory: bool = True, awake: bool = True, root: bool = False) -> Finding:
    return checks.check_realtime(limit, memory_locked=memory, keeps_awake=awake, root=root)


@pytest.mark.parametrize(
    ("finding", "level", "says"),
    [
        (checks.check_gl("egl", "", "p"), "ok", "drawn with egl"),
        (checks.check_gl(None, "no display", "libegl1"), "warn", "no display"),
        (checks.check_ros("", "", 7, "LOCALHOST"), "ok", "domain 7"),
        (checks.check_ros("", "", 7, "SUBNET"), "warn", "other machines can command the arm"),
        (checks.check_ros("No module named 'rclpy'", "", 0, ""), "wrong", "rclpy"),
        (checks.check_shared_memory(GIB, GIB, 0), "ok", "1024 of 1024 MiB"),
        (checks.check_shared_memory(GIB, 200 * MIB, 0), "warn", "a stack takes 256"),
        (checks.check_shared_memory(64 * MIB, 60 * MIB, 9), "wrong", "9 files are left"),
        (checks.check_udp_buffer(212_992), "warn", "0.2 MiB"),
        (checks.check_udp_buffer(8 * MIB), "ok", "8.0 MiB"),
        (checks.check_udp_buffer(None), "ok", "does not say"),
        (checks.check_clock(True, 0.01, 0.0), "ok", "10 ms"),
        (checks.check_clock(False, 16.0, 0.0), "warn", "not synchronised"),
        (checks.check_clock(True, 0.01, -0.5), "wrong", "-0.500 s"),
        (checks.check_clock(None, 0.0, 0.0), "ok", "does not say"),
        (checks.check_governor({}), "ok", "its own"),
        (checks.check_governor({"powersave": 4}), "warn", "4 cores powersave"),
        (checks.check_governor({"performance": 4}), "ok", "4 cores performance"),
        (_realtime(), "ok", "priority 50"),
        (_realtime(limit=0, memory=False), "warn", "rtprio is 0, not 50; memory cannot be locked"),
        (_realtime(awake=False), "warn", "cpu_dma_latency"),
        (_realtime(root=True), "warn", "root"),
        (checks.check_disk("runs", 100 * GIB, 500.0 * MIB, CONTRACT), "ok", "500 MiB/s, 100 GiB free"),
        (checks.check_disk("runs", 5 * GIB, 500.0 * MIB, CONTRACT), "warn", "5 GiB"),
        (checks.check_disk("runs", 100 * GIB, 1.0 * MIB, CONTRACT), "wrong", "1 MiB/s"),
        (checks.check_disk("runs", 0, None, CONTRACT), "wrong", "nothing can be written"),
        (checks.check_gpu((), None), "ok", "on the CPU"),
        (checks.check_gpu(("H200",), True), "ok", "H200"),
        (checks.check_gpu(("H200",), False), "wrong", "cannot use"),
        (checks.check_inputs({}), "ok", "none"),
        (checks.check_inputs({"pad": True, "mouse": False}), "warn", "may not be read: mouse"),
        (checks.check_video({"/dev/video0": False}), "wrong", "/dev/video0"),
        (checks.check_video({"/dev/video0": True}), "ok", "/dev/video0"),
    ],
)
def test_a_check_of_the_machine(finding: Finding, level: str, says: str) -> None:
    assert (finding.level, says in finding.seen) == (level, True), finding
    assert bool(finding.fix) is (level != "ok")
    assert (finding.fix in str(finding)) and str(finding).startswith(level)


@pytest.mark.parametrize(
    ("changes", "name", "level", "says"),
    [
        ({}, "arm", "ok", "powered"),
        ({"error": "no route"}, "controller", "wrong", "no route"),
        ({"rate_hz": 2.0}, "controller", "wrong", "2.0 times a second"),
        ({"faults": ("protective stop",)}, "arm", "wrong", "protective stop"),
        ({"taken": "in drag mode"}, "arm", "wrong", "drag mode"),
        ({"powered_on": False}, "arm", "warn", "no power"),
        ({"enabled": False}, "arm", "warn", "not enabled"),
        ({"differences": ("joint 3: a 1 mm, not 2 mm",)}, "arm's model", "wrong", "joint 3"),
        ({"differences": None}, "arm's model", "warn", "does not tell"),
        ({"busy": "process 7"}, "arm's model", "ok", "process 7"),
        ({"says_commanded": False}, "firmware", "warn", "commanded position"),
        ({"tool_outputs": 0}, "tool outputs", "warn", "0 are told"),
    ],
)
def test_a_check_of_the_controller(changes: dict[str, object], name: str, level: str, says: str) -> None:
    findings = checks.check_controller(replace(ARM, **changes), gripper_output=0)  # type: ignore[arg-type]
    (found,) = (each for each in findings if each.name == name)
    assert found.level == level and says in found.seen
    if level != "ok":
        assert found.fix
    assert all(each.level == "ok" for each in findings) is (not changes or "busy" in changes)


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, "ok", "10.0 pictures a second"),
        ({"publishers": ()}, "wrong", "nobody publishes"),
        ({"rate_hz": 0.0}, "wrong", "publishes nothing"),
        ({"rate_hz": 5.0}, "wrong", "5.0 pictures a second, the contract needs 10"),
        ({"size": (480, 640)}, "wrong", "pictures are 640 x 480"),
        ({"latency_s": 0.3}, "warn", "300 ms"),
        ({"latency_s": 900.0}, "wrong", "900.00 s after"),
        ({"latency_s": -3.0}, "wrong", "-3.00 s after"),
        ({"bright": 0.4}, "warn", "40% of the pixels are white"),
        ({"dark": 0.9}, "warn", "90% are black"),
    ],
)
def test_a_check_of_a_camera(changes: dict[str, object], level: str, says: str) -> None:
    (found,) = checks.check_camera(replace(CAMERA, **changes), FRONT, CONTRACT)  # type: ignore[arg-type]
    assert found.level == level and says in found.seen


MOVING = StackFacts(
    cameras={spec.name: replace(CAMERA, size=(spec.height, spec.width)) for spec in CONTRACT.cameras},
    states={"/joint_states": StreamFacts(publishers=("/executor",), count=500, rate_hz=100.0)},
    instruction="put the mango into the bowl",
    chunks=StreamFacts(publishers=("/policy",), count=5, rate_hz=1.0),
    commands=StreamFacts(publishers=("/executor",), count=600, rate_hz=125.0),
    executor=ExecutorReport(state="tracking"),
    values={"policy": {"policy": "bundled"}, "executor": {"speed_scale": "1.0"}},
    moved_rad=0.3,
)
SILENT = StreamFacts()
REFUSED = {
    "executor": ExecutorReport(state="holding", reason="too far"),
    "values": {"policy": {}, "executor": {"executor.rejected_jump": "4"}},
}


@pytest.mark.parametrize(
    ("changes", "link", "says"),
    [
        ({"cameras": {}}, "camera front", "nobody publishes"),
        ({"states": {"/joint_states": SILENT}}, "observation", "nothing comes on /joint_states"),
        ({"instruction": None, "chunks": SILENT}, "observation", "nobody has said what is to be done"),
        ({"values": {"executor": {}}, "chunks": SILENT}, "policy", "no policy node runs"),
        ({"problems": {"policy": ["inference failed: NaN"]}}, "policy", "inference failed: NaN"),
        ({"episode": "waiting"}, "policy", "the simulator's episode is waiting"),
        ({"chunks": replace(MOVING.chunks, publishers=("/policy", "/teleop"))}, "chunk", "/policy, /teleop publish"),
        ({"chunks": replace(MOVING.chunks, count=0)}, "chunk", "none was published"),
        ({"executor": None}, "executor", "says nothing"),
        ({"executor": ExecutorReport(state="fault", fault="collision")}, "executor", "fault: collision"),
        ({"executor": ExecutorReport(state="holding", held="a person asked")}, "executor", "held: a person asked"),
        ({"executor": ExecutorReport(state="idle")}, "executor", "it is idle"),
        (REFUSED, "executor", "although chunks come: too far (executor.rejected_jump 4)"),
        ({"problems": {"executor": ["commands have no effect"]}}, "driver", "no effect"),
        ({"commands": SILENT}, "driver", "no command is sent"),
    ],
)
def test_the_arm_does_not_move_and_one_is_told_where(changes: dict[str, object], link: str, says: str) -> None:
    findings = check_chain(replace(MOVING, **changes), CONTRACT)  # type: ignore[arg-type]
    broken = next(each for each in findings if each.level == "wrong")
    assert broken.name == link and says in broken.seen and broken.fix
    assert first_broken(findings) == f"the chain is broken at the {link}: {broken.seen}"


def test_a_whole_chain_is_said_to_be_whole() -> None:
    findings = check_chain(MOVING, CONTRACT)
    assert {each.level for each in findings} == {"ok"} and first_broken(findings).startswith("the chain is whole")
    slow = check_chain(replace(MOVING, values={**MOVING.values, "executor": {"speed_scale": "0.01"}}), CONTRACT)
    assert [each.seen for each in slow if each.level == "warn"] == ["tracking, at 1% of the speed"]
    still = check_chain(replace(MOVING, moved_rad=0.0), CONTRACT)
    assert ["no joint moved" in each.seen for each in still if each.level == "warn"] == [True]


def test_where_no_stack_is_the_domain_is_named() -> None:
    nothing = StackFacts(
        cameras={}, states={}, instruction=None, chunks=SILENT, commands=SILENT, executor=None, domain=42
    )
    (found,) = check_chain(nothing, CONTRACT)
    assert found.level == "wrong" and "none is heard in ROS domain 42" in found.seen and "ROS_DOMAIN_ID" in found.fix
