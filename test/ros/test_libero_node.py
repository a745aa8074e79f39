"""LIBERO over topics: the same episodes as in one process, bit for bit; and every way in which one can end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_policy import TINY
from ros_harness import World, fails_to_start, pixels_of, refusal, running, wait_until
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.contract import ActionChunk, load_contract
from lavla_ros.policy.backbone import build_backbone
from lavla_ros.policy.checkpoint import save_checkpoint, trained_parameters
from lavla_ros.policy.config import ActionCodingConfig, BackboneConfig, PolicyConfig
from lavla_ros.policy.model import LatentActionVLA
from lavla_ros.policy.normalization import compute_stats
from lavla_ros.policy.policy import load_policy
from lavla_ros.policy.prompt import train_tokenizer
from lavla_ros.ros.lifecycle import stamp_to_ns
from lavla_ros.ros.messages import LATCHED_INPUT_QOS, chunk_to_trajectory
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.evaluation import evaluate
from sim_bridges.lockstep.node import LockstepNode
from sim_bridges.worlds.libero.environment import LiberoEnvironment
from sim_bridges.worlds.libero.tasks import find_task
from training.dataset import EpisodeDataset
from training.ingest import ingest

pytest.importorskip("libero", reason="LIBERO is not installed")
pytestmark = [pytest.mark.timeout(600), pytest.mark.long]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "libero_assets"
ASSETS = os.environ.get("LAVLA_LIBERO_ASSETS", "") or str(SHARED)
needs_assets = pytest.mark.skipif(not Path(ASSETS).is_dir(), reason="no LIBERO assets on this machine")
MODULE = "sim_bridges.lockstep.node"
STEPS, REPLAN, SEED = 20, 8, 7
CONTRACT = load_contract("libero")


def write_checkpoint(path: Path) -> Path:
    """A policy of random weights for LIBERO's contract."""
    coding = ActionCodingConfig(relative_actions=False, per_step_statistics=False)
    config = PolicyConfig(backbone=BackboneConfig(tiny=TINY), actions=coding)
    tokenizer = train_tokenizer(["pick up the soup"], TINY.vocab_size, CONTRACT.chunk_size)
    torch.manual_seed(0)
    model = LatentActionVLA(config, CONTRACT, build_backbone(config.backbone, tokenizer))
    rng = np.random.default_rng(0)
    shape = (64, CONTRACT.chunk_size, CONTRACT.action_dim)
    stats = compute_stats(
        CONTRACT,
        coding,
        states_NS=rng.normal(0.0, 1.0, (64, CONTRACT.state_dim)),
        actions_NHA=rng.uniform(-1.0, 1.0, shape),
        mask_NH=np.ones(shape[:2], bool),
    )
    tensors = trained_parameters(model)
    save_checkpoint(
        path, config=config, contract=CONTRACT, stats=stats, tokenizer=tokenizer, tensors=tensors, training={}
    )
    return path


def in_process(checkpoint: Path, initial_state: int) -> str:
    """The episode's trajectory, without topics."""
    policy = load_policy(checkpoint, threads=1)
    environment = LiberoEnvironment("libero_object", 3, assets=ASSETS)
    environment.reset(initial_state, SEED)
    actions = np.empty((0, 7))
    for step in range(STEPS):
        if step % REPLAN == 0:
            actions = policy.predict(environment.observe()).actions_HA
        environment.step(actions[step % REPLAN])
    environment.close()
    return environment.trajectory


def parameters(**more: Any) -> dict[str, Any]:
    return {
        "assets": ASSETS,
        "suite": "libero_object",
        "task": 3,
        "seed": SEED,
        "max_steps": STEPS,
        "timeout_s": 60.0,
        **more,
    }


class Listener:
    """What the simulator says on /episode/state."""

    def __init__(self, world: World) -> None:
        self._messages = world.collect(String, "/episode/state", LATCHED_INPUT_QOS)

    def states(self) -> list[str]:
        return [s["state"] for s in self._all()]

    def wait(self, state: str, timeout_s: float = 120.0) -> dict[str, Any]:
        found = wait_until(lambda: [s for s in self._all() if s["state"] == state], f"{state!r}", timeout_s)
        return dict(found[-1])

    def _all(self) -> list[dict[str, Any]]:
        read = [json.loads(m.data) for m in list(self._messages)]
        return [s for s in read if s["source"] == "simulator"]


class Commander:
    """Answers every picture of the static camera with ``actions`` (H, 7)."""

    def __init__(self, world: World, actions: np.ndarray | None = None) -> None:
        self._node, self.actions = world.node, actions
        self._publisher = world.node.create_publisher(JointTrajectory, "/action_chunk", 10)
        world.node.create_subscription(Image, "/camera/agentview/image_raw", self._answer, 50)
        for topic, kind in (
            ("/camera/wrist/image_raw", Image),
            (CONTRACT.state.topic, JointState),
            (CONTRACT.instruction_topic, String),
        ):
            world.node.create_subscription(kind, topic, lambda _: None, 50)

    def leave(self) -> None:
        self._node.destroy_publisher(self._publisher)

    def _answer(self, message: Image) -> None:
        if self.actions is None:
            return
        chunk = ActionChunk(
            stamp_ns=stamp_to_ns(message.header.stamp),
            dt_ns=CONTRACT.dt_ns,
            actions_HA=self.actions,
            names=CONTRACT.action.names,
        )
        self._publisher.publish(chunk_to_trajectory(chunk))


@needs_assets
def test_a_policy_node_gives_the_episodes_of_one_process(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    expected = [in_process(checkpoint, index) for index in (2, 3)]
    progress = tmp_path / "progress.jsonl"
    camera = {"contract": "libero", "frozen_after_s": 0.0, "missing_after_s": 60.0}
    policy = {"contract": "libero", "policy": str(checkpoint), "replan_steps": REPLAN}
    node = parameters(initial_state=2, episodes=2, progress=str(progress))
    with (
        running("lavla_ros.nodes.camera_node", "camera", tmp_path, use_sim_time=True, **camera),
        running("lavla_ros.nodes.policy_node", "policy", tmp_path, use_sim_time=True, **policy),
        running(MODULE, "libero", tmp_path, **node),
    ):
        wait_until(lambda: progress.is_file() and len(progress.read_text().splitlines()) == 2, "two episodes", 200.0)
    episodes = [json.loads(line) for line in progress.read_text().splitlines()]
    assert [e["state"] for e in episodes] == ["failed", "failed"], episodes
    assert [e["steps"] for e in episodes] == [STEPS, STEPS] and "20 steps" in episodes[0]["reason"]
    assert [e["trajectory"] for e in episodes] == expected and expected[0] != expected[1]


@pytest.fixture
def still() -> Iterator[np.ndarray]:
    yield np.tile([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0], (CONTRACT.chunk_size, 1))


@needs_assets
def test_episodes_by_service(world: World, tmp_path: Path, still: np.ndarray) -> None:
    listener = Listener(world)
    pictures = world.collect(Image, "/camera/agentview/image_raw")
    commands = world.collect(JointTrajectory, CONTRACT.action.topic)
    states = world.collect(JointState, CONTRACT.state.topic, 500)
    Commander(world, still)
    with running(MODULE, "libero", tmp_path, **parameters(initial_state=4)):
        answer = world.call("/episode/reset")
        assert answer.success and json.loads(answer.message)["initial_state"] == 4
        ended = listener.wait("failed")
        assert ended["steps"] == STEPS and ended["task"] == 3 and ended["instruction"]
        assert set(ended) >= {"assets", "comparable", "seed", "suite", "reason"}
        assert listener.states()[-3:] == ["resetting", "running", "failed"]
        wait_until(lambda: len(states) == STEPS + 1 and len(commands) == STEPS and len(pictures) == 4, "all messages")
    # one picture per plan and one of the end, upside down as from the simulator
    assert [stamp_to_ns(p.header.stamp) - stamp_to_ns(pictures[0].header.stamp) for p in pictures] == [
        0, 400_000_000, 800_000_000, 1_000_000_000,
    ]  # fmt: skip
    environment = LiberoEnvironment("libero_object", 3, assets=ASSETS)
    environment.reset(4, SEED)
    np.testing.assert_array_equal(pixels_of(pictures[0]), environment.raw_images()["agentview"])
    np.testing.assert_array_equal(list(states[0].position), environment.state())
    environment.close()
    assert tuple(states[0].name) == CONTRACT.state.names
    assert list(commands[0].points[0].positions) == still[0].tolist()
    assert stamp_to_ns(commands[0].header.stamp) == stamp_to_ns(states[0].header.stamp)


@needs_assets
def test_what_a_commander_does_wrong_is_an_error_not_a_failure(world: World, tmp_path: Path) -> None:
    """One after another in one node: after an error the episodes that were to follow wait for a person's reset."""
    listener, progress = Listener(world), tmp_path / "progress.jsonl"
    wrong = [
        (np.full((8, 7), np.nan), "nan"),
        (np.full((8, 7), 3.0), "3.0"),
        (np.zeros((4, 7)), "4 steps"),
        (None, "no publisher of /action_chunk"),
    ]
    commander = Commander(world, wrong[0][0])
    with running(MODULE, "libero", tmp_path, **parameters(episodes=3, timeout_s=6.0, progress=str(progress))):
        for number, (actions, words) in enumerate(wrong, 1):
            commander.actions = actions
            if actions is None:
                commander.leave()
            if number > 1:
                assert world.call("/episode/reset").success
            wait_until(lambda n=number: listener.states().count("error") == n, f"an error because of {words}", 60.0)
            ended = listener.wait("error")
            assert words in ended["reason"] and ended["steps"] == 0
            assert "failed" not in listener.states()
            wait_until(lambda n=number: progress.is_file() and len(progress.read_text().splitlines()) == n, "its line")
    assert len(progress.read_text().splitlines()) == len(wrong)


@needs_assets
def test_a_commander_that_falls_silent_and_a_reset_in_between(world: World, tmp_path: Path, still: np.ndarray) -> None:
    listener = Listener(world)
    world.node.create_publisher(JointTrajectory, "/action_chunk", 10)  # is there, and says nothing
    for topic, kind in (
        *((c.topic, Image) for c in CONTRACT.cameras),
        (CONTRACT.state.topic, JointState),
        (CONTRACT.instruction_topic, String),
    ):
        world.node.create_subscription(kind, topic, lambda _: None, 50)
    with running(MODULE, "libero", tmp_path, **parameters(timeout_s=4.0)):
        world.call("/episode/reset")
        listener.wait("running")
        world.call("/episode/reset")
        first = listener.wait("error")
        assert first["reason"] == "/episode/reset was called"
        wait_until(lambda: listener.states().count("error") == 2, "the second episode's end", 60.0)
        assert "no /action_chunk for the observation" in listener.wait("error")["reason"]


@needs_assets
def test_demonstrations_become_bags_and_a_dataset_and_repeat_themselves(tmp_path: Path) -> None:
    bags, dataset, progress = tmp_path / "bags", tmp_path / "dataset", tmp_path / "progress.jsonl"
    camera = {"contract": "libero", "frozen_after_s": 0.0, "missing_after_s": 60.0}
    recorder = {"contract": "libero", "root": str(bags), "silent_after_s": 60.0}
    node = parameters(commander="expert", record=True, initial_state=11, episodes=2, resolution=64, max_steps=0)
    with (
        running("lavla_ros.nodes.camera_node", "camera", tmp_path, use_sim_time=True, **camera),
        running("lavla_ros.nodes.recorder_node", "recorder", tmp_path, **recorder),
        running(MODULE, "libero", tmp_path, **node, progress=str(progress)),
    ):
        wait_until(lambda: progress.is_file() and len(progress.read_text().splitlines()) == 2, "two episodes", 300.0)
    episodes = [json.loads(line) for line in progress.read_text().splitlines()]
    assert [e["state"] for e in episodes] == ["succeeded", "succeeded"], episodes
    report = ingest("bag", [bags], dataset, contract=CONTRACT)
    assert [(bag.scene["suite"], bag.scene["task"], bag.scene["initial_state"]) for bag in report.sources] == [
        ("libero_object", 3, 11),
        ("libero_object", 3, 12),
    ]
    assert report.steps == sum(e["steps"] for e in episodes)
    sample = EpisodeDataset(dataset, CONTRACT)[0]
    assert sample.instruction == find_task("libero_object", 3).instruction
    assert sample.images["wrist"].shape == (224, 224, 3)

    replayed = evaluate(
        EvaluationConfig(suite="libero_object", tasks=("3",), policy=f"replay:{dataset}", options={"assets": ASSETS})
    )
    # not to the last bit: datasets hold actions as float32
    assert [(e.state_index, e.success) for e in replayed.episodes] == [(11, True), (12, True)]


@needs_assets
def test_a_stack_ends_after_its_last_episode(tmp_path: Path) -> None:
    progress = tmp_path / "progress.jsonl"
    arguments = {"expert": "true", "task": 3, "episodes": 2, "max_steps": 5, "assets": ASSETS, "progress": progress}
    command = [sys.executable, "-m", "lavla_ros.cli", "up", "libero_policy"]
    ended = subprocess.run(
        [*command, *(f"{name}:={value}" for name, value in arguments.items())],
        env=ros_environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    episodes = [json.loads(line) for line in progress.read_text().splitlines()]
    assert [(e["initial_state"], e["state"], e["steps"]) for e in episodes] == [(0, "failed", 5), (1, "failed", 5)]


@needs_assets
def test_an_error_ends_a_node_that_is_to_exit_when_done(tmp_path: Path) -> None:
    progress = tmp_path / "progress.jsonl"
    node = parameters(episodes=3, timeout_s=1.0, exit_when_done=True, progress=str(progress))
    assert "no publisher of /action_chunk" in fails_to_start(MODULE, "libero", tmp_path, **node)
    assert [json.loads(line)["state"] for line in progress.read_text().splitlines()] == ["error"]


@needs_assets
def test_what_cannot_be_reset_to_is_refused(world: World, tmp_path: Path) -> None:
    count = 50
    for values, words in (
        ({"suite": "libero_kitchen"}, "libero_kitchen"),
        ({"task": 12}, "12"),
        ({"initial_state": count}, "0 to 49"),
        ({"initial_state": 40, "episodes": 11}, "initial state 50"),
        ({"assets": str(tmp_path / "none")}, "does not exist"),
        ({"replan_steps": 9}, "replan_steps is 9"),
        ({"contract": "jaka_minicobo"}, "front"),
        ({"suite": "libero_goal", "commander": "expert"}, "no scripted expert"),
    ):
        assert words in refusal(world, LockstepNode, **parameters(**values)), values


def test_the_stack_names_the_protocol() -> None:
    from lavla_ros.bringup.stack import load_stack

    stack = load_stack("libero_policy", {"policy": "runs/x", "task": "3"}, run_dir=Path("/tmp"))
    by_name = {p.name: p for p in stack.processes}
    assert list(by_name) == ["camera", "policy", "libero"]
    assert by_name["libero"].parameters["seed"] == 7 and by_name["libero"].parameters["commander"] == "topic"
    assert find_task("libero_object", by_name["libero"].parameters["task"]).index == 3
    expert = load_stack("libero_policy", {"expert": "true", "record": "true"}, run_dir=Path("/tmp"))
    assert [p.name for p in expert.processes] == ["camera", "recorder", "libero"]
    assert expert.processes[-1].parameters["commander"] == "expert"
