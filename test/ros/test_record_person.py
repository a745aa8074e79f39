"""Demonstrations at the keyboard: `lavla record --by person` on the simulated stack, as a person would use it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ros_harness import World, running, wait_until
from test_recorder_node import Robot

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.contract import load_contract
from lavla_ros.nodes.record_console import RecordConsole
from lavla_ros.observation import ObservationPipeline
from lavla_ros.recording import BagReader

CONTRACT = load_contract("jaka_minicobo")
TEXT = "Put the mango into the bowl, gently."


CONVERT = (sys.executable, "-m", "lavla_ros.cli", "convert")


def record(out: Path, *stack: str, **more: str) -> subprocess.Popen[str]:
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        ports = [f"port:={a.getsockname()[1]}", f"status_port:={b.getsockname()[1]}"]
    command = [sys.executable, "-m", "lavla_ros.cli", "record", "--by", "person", "--out", str(out)]
    command += [text for key, value in more.items() for text in (f"--{key}", value)]
    return subprocess.Popen(
        [*command, "--stack", *ports, *stack],
        env=ros_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_episodes_are_begun_marked_and_discarded_by_keys(tmp_path: Path) -> None:
    out = tmp_path / "bags"
    process = record(out, "standby:=true", instruction=TEXT, episodes="2")
    said: list[str] = []
    assert process.stdin is not None and process.stdout is not None

    def until(text: str) -> None:
        for line in process.stdout or ():
            said.append(line)
            if text in line:
                return
        raise AssertionError(f"{text!r} was never said:\n{''.join(said)}")

    def press(key: str) -> None:
        assert process.stdin is not None
        process.stdin.write(key + "\n")
        process.stdin.flush()

    def bag_grows(name: str) -> None:
        wait_until(lambda: sum(f.stat().st_size for f in (out / name).glob("*.mcap")) > 2_000_000, f"{name} grows")

    try:
        until("Enter: begin an episode")
        for number, (key, answer) in enumerate((("", "succeeded"), ("f", "failed"), ("d", "discarded"))):
            press("")
            until("NOT RECORDING: /episode/check: /executor (reliable) publishes /joint_command, but nothing")
            press("")
            until("RECORDING    Enter")
            bag_grows(f"episode_{number:06d}")
            press(key)
            until(answer)
        press("x")
        until("'x' means nothing here")
        until("1 of 2 succeeded")
        press("q")
        said += process.stdout.readlines()
        assert process.wait(30) == 0, said
        # nothing commands the arm in standby, and the contract wants commands for labels
        assert any("episode_000000: LAVLA CONVERT WOULD NOT TAKE IT" in line for line in said), said
    finally:
        if process.poll() is None:
            process.kill()
    assert sorted(p.name for p in out.glob("episode_*")) == ["episode_000000", "episode_000001"]
    with BagReader(out / "episode_000000") as reader:
        pipeline, steps = ObservationPipeline(CONTRACT), []
        for message in reader.messages(pipeline.topics):
            pipeline.add(message.topic, reader.deserialize(message), message.stamp_ns)
            steps += pipeline.pop()
        states = [json.loads(reader.deserialize(m).data) for m in reader.messages(["/episode/state"])]
        assert reader.counts.get("/joint_command", 0) == 0, "in standby nothing commands the arm"
    assert steps and {s.instruction for s in steps} == {TEXT}
    assert [s["state"] for s in states if s["source"] == "recorder"] == ["running", "succeeded"]


def test_counts_what_succeeded_and_says_that_it_can_be_converted(world: World, tmp_path: Path) -> None:
    said: list[str] = []
    with running("lavla_ros.nodes.recorder_node", "recorder", tmp_path, root=str(tmp_path / "bags")):
        robot = Robot(world)
        console = RecordConsole(TEXT, "/instruction", CONVERT, said.append, episodes=1, context=world.context)
        world.spin(console)

        def keys() -> Iterator[str]:
            for end in ("f", ""):
                robot.step()
                wait_until(lambda: world.call("/episode/check").success, "every stream")
                yield ""
                begin_ns = time.time_ns()
                for step in range(40):  # a second of steps; their stamps alone count
                    robot.step(begin_ns + step * 25_000_000)
                yield end
            raise AssertionError("as many as were wanted have succeeded")

        console.converse(keys())
        world.forget(console)
        console.destroy_node()
    assert "0 of 1 succeeded    Enter: begin an episode    q: quit" in said
    assert any("/observation/front: 40 messages, 40.0 Hz, largest gap 0.025 s" in text for text in said), said
    assert said[-1].startswith("episode_000001: lavla convert takes it"), said


def test_a_controller_that_is_not_there_is_an_error_with_its_cause(tmp_path: Path) -> None:
    process = record(tmp_path / "bags", "simulate:=false", "robot_ip:=127.0.0.1")
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 1 and "JAKA controller 127.0.0.1" in output and "Traceback" not in output, output
