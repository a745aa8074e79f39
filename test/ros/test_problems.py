"""What a person is told of /diagnostics: every new problem once."""

from __future__ import annotations

from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ros_harness import World, wait_until

from lavla_ros.ros.client import watch_problems
from lavla_ros.ros.diagnostics import NewProblems, Report


def array(*warnings: str, errors: tuple[str, ...] = ()) -> Any:
    report = Report("camera: lavla", "/camera")
    for text in warnings:
        report.warn(text)
    for text in errors:
        report.error(text)
    return DiagnosticArray(status=[report.finish("active")])


def test_every_problem_is_said_once_whatever_its_numbers_and_company() -> None:
    problems = NewProblems(forget_s=30.0)
    assert problems.take(array(), 0.0) == []
    silent = "camera front: no frame for {} s; is its driver running?"
    assert problems.take(array(silent.format("2.1")), 1.0) == ["warning: camera: " + silent.format("2.1")]
    assert problems.take(array(silent.format("13.1"), errors=("joint_1 is off",)), 2.0) == [
        "error: camera: joint_1 is off"
    ]
    assert problems.take(array(silent.format("14"), errors=("joint_2 is off",)), 3.0) == [
        "error: camera: joint_2 is off"
    ]
    assert problems.take(array(), 4.0) == []
    assert problems.take(array(silent.format("1.1")), 32.0) == [], "it comes and goes"
    assert problems.take(array(silent.format("1.1")), 70.0), "it is back after half a minute without"


def test_nodes_of_others_are_heard_too(world: World) -> None:
    said: list[str] = []
    watch_problems(world.node, said.append)
    publisher = world.publisher(DiagnosticArray, "/diagnostics")

    def both_heard() -> bool:  # best effort: repeated until heard
        for level, text in ((DiagnosticStatus.OK, "fine"), (DiagnosticStatus.STALE, "silent"), (b"\x01", "hot")):
            status = DiagnosticStatus(level=level, name="realsense: front", message=text)
            publisher.publish(DiagnosticArray(status=[status]))
        return len(said) >= 2

    wait_until(both_heard, "two problems")
    assert sorted(said) == ["stale: realsense: front: silent", "warning: realsense: front: hot"]
