"""A policy on the far side of ROS topics: asked in lock-step, and an error where it does not answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slider_suite

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.contract import ActionChunk
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.evaluation import evaluate
from sim_bridges.evaluation.results import same_episodes
from sim_bridges.evaluation.workers import EvaluationError

pytestmark = [pytest.mark.sim, pytest.mark.ros]
CONTRACT = slider_suite.CONTRACT
CONFIG = EvaluationConfig(suite=slider_suite.NAME, policy="remote", tasks=("near",), episodes=2, videos=0)


@pytest.fixture(autouse=True)
def domain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ros_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(20 + os.getpid() % 80))


@contextmanager
def driving(silent_after: int = 10**6) -> Iterator[list[dict[str, Any]]]:
    """A node that drives to the mark, for so many observations; yields what it heard of episodes."""
    import json

    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory

    from lavla_ros.ros.lifecycle import stamp_to_ns
    from lavla_ros.ros.messages import LATCHED_INPUT_QOS, chunk_to_trajectory

    context = Context()
    context.init()
    node = Node("driver", context=context)
    heard: list[dict[str, Any]] = []
    stamps: list[int] = []
    chunks = node.create_publisher(JointTrajectory, "/action_chunk", 10)

    def on_state(message: JointState) -> None:
        stamps.append(stamp_to_ns(message.header.stamp))
        assert stamps == sorted(set(stamps))  # simulated time only ever rises
        if len(stamps) <= silent_after:
            mark = message.position[list(message.name).index("mark")]
            chunk = ActionChunk(
                stamp_ns=stamps[-1],
                dt_ns=CONTRACT.dt_ns,
                actions_HA=np.full((CONTRACT.chunk_size, 1), mark),
                names=CONTRACT.action.names,
            )
            chunks.publish(chunk_to_trajectory(chunk))

    node.create_subscription(JointState, CONTRACT.state.topic, on_state, 50)
    node.create_subscription(Image, CONTRACT.cameras[0].observation_topic, lambda message: None, 50)
    node.create_subscription(String, CONTRACT.instruction_topic, lambda message: None, LATCHED_INPUT_QOS)
    node.create_subscription(
        String, "/episode/state", lambda message: heard.append(json.loads(message.data)), LATCHED_INPUT_QOS
    )
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        executor.shutdown()
        thread.join(5.0)
        node.destroy_node()
        context.try_shutdown()


def test_a_remote_policy_is_asked_in_lock_step() -> None:
    with driving() as heard:
        results = evaluate(CONFIG)
    with driving():
        again = evaluate(CONFIG)
    assert [(e.error, e.success) for e in results.episodes] == [(None, True)] * 2
    assert all(e.inferences == -(-e.length_steps // 2) and e.latency_ms["p50"] > 0 for e in results.episodes)
    assert same_episodes(results, again)
    states = [(h["trial"], h["state"]) for h in heard]
    for trial in (0, 1):
        assert (trial, "running") in states and (trial, "succeeded") in states


def test_a_policy_that_stops_answering_is_an_error_and_no_failure(tmp_path: Path) -> None:
    config = replace(CONFIG, timeout_s=3.0)
    with driving(silent_after=4):
        results = evaluate(config, out=tmp_path)
    assert all("no /action_chunk for the observation" in str(e.error) for e in results.errors) and results.errors
    assert results.tally.rate in (None, 1.0)
    with driving():
        assert [e.success for e in evaluate(config, out=tmp_path).episodes] == [True, True]


def test_a_remote_policy_that_is_not_there() -> None:
    config = replace(CONFIG, timeout_s=2.0)
    with pytest.raises(EvaluationError, match=r"no subscriber of .*no publisher of /action_chunk.*policy node run"):
        evaluate(config)
    with pytest.raises(EvaluationError, match="one policy node serves one worker"):
        evaluate(config, workers=2)
