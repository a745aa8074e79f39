"""Demonstrations at the keyboard: `lavla record --by person` on the simulated stack, as a person would use it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from ros_harness import wait_until

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.contract import load_contract
from lavla_ros.observation import ObservationPipeline
from lavla_ros.recording import BagReader

CONTRACT = load_contract("jaka_minicobo")
TEXT = "Put the mango into the bowl, gently."


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
    process = record(out, "standby:=true", instruction=TEXT)
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
            until("RECORDING")
            bag_grows(f"episode_{number:06d}")
            press(key)
            until(answer)
        press("x")
        until("'x' means nothing here")
        press("q")
        assert process.wait(30) == 0, process.stdout.read()
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


def test_a_controller_that_is_not_there_is_an_error_with_its_cause(tmp_path: Path) -> None:
    process = record(tmp_path / "bags", "simulate:=false", "robot_ip:=127.0.0.1")
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 1 and "JAKA controller 127.0.0.1" in output and "Traceback" not in output, output
