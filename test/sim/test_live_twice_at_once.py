"""What runs live, from two shells at once: each has its own arm, ports and domain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shells import ended, start

pytestmark = [pytest.mark.sim, pytest.mark.ros, pytest.mark.long, pytest.mark.timeout(700)]


def test_two_safety_campaigns(tmp_path: Path) -> None:
    words = ("bench", "safety", "--scenarios", "refused for 24 ms", "--out")
    ended([start(tmp_path, *words, f"{i}.json") for i in (0, 1)])
    for i in (0, 1):
        (row,) = json.loads((tmp_path / f"{i}.json").read_text(encoding="utf-8"))["scenarios"]
        assert "error" not in row, row


def test_two_benchmarks_of_a_suite(tmp_path: Path) -> None:
    options = ("--rounds", 1, "--steps", 10, "--workers", 1, "--episodes", 1, "--policy", "expert")
    ended([start(tmp_path, "bench", "tabletop", *options, "--out", f"{i}.json") for i in (0, 1)])
    first, second = (json.loads((tmp_path / f"{i}.json").read_text(encoding="utf-8")) for i in (0, 1))
    for measured in (first, second):
        assert measured["lockstep"]["equal_states"] and measured["evaluations"]["expert"]["episodes"] == 1
    states = [{t["trajectory"] for t in m["lockstep"]["all"]["topics"]} for m in (first, second)]
    assert states[0] == states[1]


def test_two_emulators_on_free_ports(tmp_path: Path) -> None:
    ports = []
    started = [start(tmp_path, "emulator", "--port", 0, "--status-port", 0) for _ in range(2)]
    try:
        for process in started:
            assert process.stdout is not None
            line = next(text for text in process.stdout if "commands on" in text)
            ports.append(line.split("127.0.0.1:")[1].split(",")[0])
    finally:
        for process in started:
            process.terminate()
            process.communicate(timeout=20.0)
    assert len(set(ports)) == 2
