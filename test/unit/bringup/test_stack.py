"""A stack in a namespace."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lavla_ros.bringup.domain import DomainError, claim_role
from lavla_ros.bringup.stack import StackError, load_stack
from lavla_ros.resources import config_path

LOCKSTEP = ("lockstep", "libero", "robotwin")


@pytest.mark.parametrize("name", sorted(file.stem for file in config_path("stacks").iterdir()))
def test_every_node_of_a_stack_goes_to_its_namespace_with_its_parameters_and_its_clock(
    name: str, tmp_path: Path
) -> None:
    arguments = {"namespace": "arms/left/"} | ({"policy": "p"} if name.removesuffix("_policy") in LOCKSTEP else {})
    stack = load_stack(name, arguments, run_dir=tmp_path)
    assert stack.namespace == "/arms/left"
    for process in (p for p in stack.processes if p.is_node):
        command = process.command(tmp_path)
        assert "__ns:=/arms/left" in command and "/clock:=/arms/left/clock" in command
        if process.parameters:
            values = yaml.safe_load((tmp_path / f"{process.name}.yaml").read_text(encoding="utf-8"))
            assert list(values) == [f"/arms/left/{process.name}"]
    root = load_stack(name, {**arguments, "namespace": ""}, run_dir=tmp_path)
    assert not any("__ns" in word for p in root.processes for word in p.command(tmp_path))


@pytest.mark.parametrize("name", ["jaka_policy", "record_demos"])
def test_the_executor_waits_for_all_that_the_motion_depends_on(name: str, tmp_path: Path) -> None:
    processes = {process.name: process for process in load_stack(name, {}, run_dir=tmp_path).processes}
    off = {"emulated_arm"}  # instead of the table, for another model
    assert set(processes["executor"].after) - off == set(processes) - {"executor", "problems"}
    assert not any("executor" in process.after for process in processes.values())


@pytest.mark.parametrize("namespace", ["left arm", "9", "a//-b"])
def test_what_is_no_namespace_is_refused(namespace: str, tmp_path: Path) -> None:
    with pytest.raises(StackError, match="namespace"):
        load_stack("jaka_policy", {"namespace": namespace}, run_dir=tmp_path)


def test_a_stack_file_does_not_declare_it(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("arguments: {namespace: {default: left}}\nprocesses: []\n", encoding="utf-8")
    with pytest.raises(StackError, match=r"own\.yaml: argument namespace is one that every stack has"):
        load_stack(file, {}, run_dir=tmp_path)


def test_a_role_is_claimed_for_a_namespace() -> None:
    left, right = claim_role("executor", 199, "/left"), claim_role("executor", 199, "/right")
    try:
        claim_role("executor", 199).close()
        with pytest.raises(DomainError, match="namespace /left of ROS domain 199 already has the executor"):
            claim_role("executor", 199, "/left")
    finally:
        left.close()
        right.close()


def test_another_model_is_emulated_without_the_table_and_within_its_own_limits(tmp_path: Path) -> None:
    table, bare, real = (
        {process.name: process for process in load_stack("jaka_policy", given, run_dir=tmp_path).processes}
        for given in ({}, {"model": "zu5"}, {"model": "zu5", "simulate": "false", "robot_ip": "10.5.5.100"})
    )
    assert {"emulator", "tabletop_camera"} <= set(table) and "emulated_arm" not in table
    assert bare["emulated_arm"].arguments[:2] == ("--model", "zu5")
    assert not {"emulator", "tabletop_camera"} & set(bare) and not {"emulator", "emulated_arm"} & set(real)
    assert [each["executor"].parameters["config"] for each in (table, bare, real)] == [
        "jaka_emulator",
        *["jaka_arm"] * 2,
    ]
    assert [each["executor"].parameters["scene"] for each in (table, bare, real)] == ["tabletop", "empty", "empty"]
    assert [str(each["camera"].parameter_file.stem) for each in (table, bare, real)] == [
        "cameras_simulated", "cameras_blank", "cameras_topics",
    ]  # fmt: skip


def test_a_condition_compares_an_argument_that_there_is(tmp_path: Path) -> None:
    file = tmp_path / "stack.yaml"
    text = "description: One.\nvariables:\n  it: {if: modell is zu5, then: 1, else: 2}\nprocesses: []\n"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(StackError, match="there is no 'modell'; known"):
        load_stack(file, {}, run_dir=tmp_path)
