"""What RoboTwin's evaluation script gets of a policy, called as it calls it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from robotwin_checkpoint import write_checkpoint
from swing_task import LIMIT, SwingTask

from lavla_ros.policy.policy import load_policy
from sim_bridges.worlds.robotwin import deploy_policy
from sim_bridges.worlds.robotwin.environment import RobotwinEnvironment, RobotwinError

FOLDER = Path(deploy_policy.__file__).parent


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("policy") / "policy")


def settings(**overrides: Any) -> dict[str, Any]:
    return {**yaml.safe_load((FOLDER / "deploy_policy.yml").read_text()), "device": "cpu", **overrides}


def test_linked_into_a_checkout_it_runs_an_episode(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "lavla").symlink_to(FOLDER)
    monkeypatch.syspath_prepend(str(tmp_path / "policy"))
    package = importlib.import_module("lavla")
    model = package.get_model(settings(checkpoint=str(checkpoint)))
    task = SwingTask()
    task.setup_demo(seed=100_001, eval_mode=True)
    task.set_instruction("swing")
    package.reset_model(model)
    calls = 0
    while task.take_action_cnt < task.step_lim:  # RoboTwin's loop
        package.eval(task, model, task.get_obs())
        calls += 1
        if task.eval_success:
            break
    assert task.take_action_cnt == LIMIT and calls == 3  # 25, 25, 10
    del sys.modules["lavla"]


def test_the_policy_sees_what_the_bridge_shows(checkpoint: Path) -> None:
    task = SwingTask()
    environment = RobotwinEnvironment(task, {"eval_mode": True})
    environment.reset(100_001, instruction="swing")
    ours, theirs = environment.observe(), deploy_policy.encode_obs(task.get_obs(), "swing")
    assert np.array_equal(ours.state, theirs.state) and ours.instruction == theirs.instruction
    assert all(np.array_equal(ours.images[name], theirs.images[name]) for name in ours.images)
    policy = load_policy(checkpoint)
    assert np.array_equal(policy.predict(ours).actions_HA, policy.predict(theirs).actions_HA)


def test_commands_end_with_success(checkpoint: Path) -> None:
    model = deploy_policy.get_model(settings(checkpoint=str(checkpoint), replan_steps=3))
    task = SwingTask()
    task.setup_demo(seed=100_001, eval_mode=True)
    task.set_instruction("swing")
    task.check_success = lambda: True  # type: ignore[method-assign]
    deploy_policy.eval(task, model, task.get_obs())
    assert task.eval_success and task.take_action_cnt == 1


def test_wrong_settings(checkpoint: Path) -> None:
    with pytest.raises(RobotwinError, match="checkpoint is not set"):
        deploy_policy.get_model(settings())
    with pytest.raises(RobotwinError, match="replan_steps is 30"):
        deploy_policy.get_model(settings(checkpoint=str(checkpoint), replan_steps=30))
    with pytest.raises(ValueError, match="does not match"):
        deploy_policy.get_model(settings(checkpoint="bundled"))
    seen = SwingTask()
    seen.setup_demo(seed=1)
    observation = {**seen.get_obs(), "joint_action": {"vector": np.zeros(16)}}
    with pytest.raises(RobotwinError, match=r"shape \(16,\)"):
        deploy_policy.encode_obs(observation)
