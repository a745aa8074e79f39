"""The lock-step node with a policy node as its commander: the same episodes as in one process, bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from random_policy import write_random_checkpoint
from ros_harness import fails_to_start, running, wait_until

from lavla_ros.bringup.launcher import up
from lavla_ros.yaml_text import dump_yaml
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.evaluation import evaluate
from sim_bridges.measure import show
from sim_bridges.suites import make_plans

MODULE = "sim_bridges.lockstep.node"
STEPS, REPLAN = 25, 10


def parameters(**more: Any) -> dict[str, Any]:
    return {"suite": "tabletop", "replan_steps": REPLAN, "max_steps": STEPS, **more}


def test_a_policy_node_commands_the_bridge(tmp_path: Path) -> None:
    checkpoint, progress = write_random_checkpoint(tmp_path / "checkpoint"), tmp_path / "progress.jsonl"
    nodes: dict[str, dict[str, Any]] = {
        "camera": {"transport": "raw", "frozen_after_s": 0.0},
        "policy": {"policy": str(checkpoint), "replan_steps": REPLAN},
    }
    evaluation = EvaluationConfig(
        suite="tabletop", policy=str(checkpoint), episodes=2, max_steps=STEPS, replan_steps=REPLAN, videos=0
    )
    in_process = evaluate(evaluation).episodes
    node = parameters(seed=in_process[0].seed, episodes=2, timeout_s=60.0, progress=str(progress))
    with (
        running("lavla_ros.nodes.camera_node", "camera", tmp_path, use_sim_time=True, **nodes["camera"]),
        running("lavla_ros.nodes.policy_node", "policy", tmp_path, use_sim_time=True, **nodes["policy"]),
        running(MODULE, "lockstep", tmp_path, **node),
    ):
        wait_until(lambda: progress.is_file() and len(progress.read_text().splitlines()) == 2, "two episodes", 100.0)
    episodes = [json.loads(line) for line in progress.read_text().splitlines()]
    assert [(e["state"], e["steps"]) for e in episodes] == [("failed", STEPS)] * 2, episodes
    ours, theirs = [(e["seed"], e["trajectory"]) for e in episodes], [(e.seed, e.trajectory) for e in in_process]
    assert ours == theirs and len({trajectory for _, trajectory in ours}) == 2


def test_a_silent_commander_is_an_error_that_says_so(tmp_path: Path) -> None:
    node = parameters(episodes=1, timeout_s=1.0, exit_when_done=True)
    said = fails_to_start(MODULE, "lockstep", tmp_path, **node)
    assert "no publisher of /action_chunk" in said and "policy node run" in said


def test_the_stack_of_any_suite_runs_one_from_outside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(Path(__file__).parents[1] / "sim" / "evaluation")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH", "")])))
    import slider_suite

    suite = slider_suite.SliderSuite(slider_suite.SliderOptions(mass_kg=2.0))
    plans = make_plans({"near": [suite.plan("near", trial, 3) for trial in (1, 2)]}, max_steps=suite.rules.max_steps)
    environment = suite.environment("near", images=False)
    in_process = [show(environment, plan, suite.contract) for plan in plans]
    contract, progress, log = (tmp_path / name for name in ("slider.yaml", "progress.jsonl", "log"))
    contract.write_text(dump_yaml(suite.contract.to_dict()), encoding="utf-8")
    stack = {"suite": slider_suite.NAME, "options": "mass_kg=2.0", "contract": str(contract), "expert": "true"}
    episodes_of = {
        "task": "near",
        "replan_steps": "2",
        "initial_state": "1",
        "episodes": "2",
        "progress": str(progress),
    }
    with log.open("w", encoding="utf-8") as file:
        assert up("lockstep", stack | episodes_of, log=file) == 0, log.read_text(encoding="utf-8")
    episodes = [json.loads(line) for line in progress.read_text().splitlines()]
    assert [(e["suite"], e["task"], e["seed"], e["initial_state"]) for e in episodes] == [
        ("slider", "near", 3, 1), ("slider", "near", 3, 2),
    ]  # fmt: skip
    assert [(e["state"], e["steps"], e["trajectory"]) for e in episodes] == [
        ("succeeded", e.steps, e.trajectory) for e in in_process
    ]
    differs = {"suite": slider_suite.NAME, "contract": "jaka_minicobo"}
    said = fails_to_start(MODULE, "lockstep", tmp_path, **differs)
    assert "does not match that of parameter contract, jaka_minicobo" in said
