"""The lock-step bridge with a policy node as its commander: the same episodes as in one process, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from random_policy import write_random_checkpoint
from ros_harness import running

from lavla_ros.bringup.environment import ros_environment
from sim_bridges.evaluation.tabletop import TabletopEvaluation, evaluate

STEPS, REPLAN = 25, 10


def bridge(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sim_bridges.tabletop.lockstep_node", "--commander", "topic"]
    command += ["--replan-steps", str(REPLAN), "--max-steps", str(STEPS), *arguments]
    return subprocess.run(command, env=ros_environment(), capture_output=True, text=True, timeout=120, check=False)


def test_a_policy_node_commands_the_bridge(tmp_path: Path) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "checkpoint")
    nodes: dict[str, dict[str, Any]] = {
        "camera": {"transport": "raw", "frozen_after_s": 0.0},
        "policy": {"policy": str(checkpoint), "replan_steps": REPLAN},
    }
    evaluation = TabletopEvaluation(policy=str(checkpoint), episodes=2, max_steps=STEPS, replan_steps=REPLAN)
    in_process = evaluate(evaluation).episodes
    with (
        running("lavla_ros.nodes.camera_node", "camera", tmp_path, use_sim_time=True, **nodes["camera"]),
        running("lavla_ros.nodes.policy_node", "policy", tmp_path, use_sim_time=True, **nodes["policy"]),
    ):
        result = bridge("--seeds", *(str(e.seed) for e in in_process))
    assert result.returncode == 0, result.stderr
    episodes = [json.loads(line) for line in result.stdout.splitlines()]
    assert [e["steps"] for e in episodes] == [STEPS, STEPS]
    ours, theirs = [(e["seed"], e["trajectory"]) for e in episodes], [(e.seed, e.trajectory) for e in in_process]
    assert ours == theirs and len({trajectory for _, trajectory in ours}) == 2


def test_a_silent_commander_is_an_error_that_says_so() -> None:
    result = bridge("--timeout", "1", "--seeds", "0")
    assert result.returncode == 1
    assert "no publisher of /action_chunk" in result.stderr and "policy node run" in result.stderr
