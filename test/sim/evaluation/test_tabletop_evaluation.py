"""Lock-step evaluation of the tabletop: equal seeds give equal episodes, whoever commands and however many workers."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavla_ros import cli
from lavla_ros.contract import Observation
from lavla_ros.policy.policy import ObservationError
from lavla_ros.resources import config_path
from lavla_ros.yaml_text import load_yaml
from sim_bridges.episode import ExpertActor, Observer, PolicyError, run_episode
from sim_bridges.evaluation import evaluation
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.evaluation import evaluate
from sim_bridges.evaluation.policy_server import ServedPolicy, served_policy
from sim_bridges.evaluation.results import Results, same_episodes
from sim_bridges.lockstep import record as recording
from sim_bridges.lockstep.config import RecordConfig
from sim_bridges.lockstep.record import RecordSummary
from sim_bridges.world import EpisodePlan
from sim_bridges.worlds.tabletop.suite import EVALUATION_SEED_BASE, TabletopSuite
from sim_bridges.worlds.tabletop.tasks import TASKS
from training.dataset import DatasetWriter, EpisodeArrays, layout, stats
from training.dataset.video import VideoWriter

sys.path.insert(0, str(Path(__file__).parents[2] / "ros"))

from random_policy import write_random_checkpoint

pytestmark = [pytest.mark.sim, pytest.mark.long]

SHORT = EvaluationConfig(suite="tabletop", policy="bundled", episodes=2, max_steps=20, videos=0)
EXPERT = replace(SHORT, policy="expert")


@pytest.fixture(scope="module")
def once() -> Results:
    """The bundled policy's episodes, by one worker and without videos."""
    return evaluate(SHORT)


def test_bundled_policy_twice_is_the_same_bit_for_bit(once: Results) -> None:
    assert [e.error for e in once.episodes] == [None, None]
    assert all(e.length_steps > 0 and e.inferences == 2 and len(e.trajectory) == 16 for e in once.episodes)
    assert same_episodes(once, evaluate(SHORT))


def test_another_seed_is_another_episode() -> None:
    once, other = (evaluate(replace(EXPERT, seed=s, episodes=1)) for s in (0, 1))
    assert once.episodes[0].seed == EVALUATION_SEED_BASE
    assert not same_episodes(once, other)


def test_an_episode_does_not_depend_on_the_one_before() -> None:
    two = evaluate(EXPERT)
    again = evaluate(EXPERT, workers=2)
    assert same_episodes(two, again)


@pytest.mark.parametrize("task", ["pick_place", "stack_bowls"])
def test_expert_solves_evaluation_layouts(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["eval", "tabletop", "--task", task, "--policy", "expert", "--episodes", "5", "--out", str(tmp_path)])
    assert "5/5 succeeded" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["success_rate"] == 1.0
    assert results["wilson95"][0] < 0.6 < results["wilson95"][1]
    page = (tmp_path / "report.html").read_text()
    assert "100%" in page
    assert "lavla eval tabletop" in page


def test_the_papers_protocol_has_its_counts_and_makes_up_for_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20, 15 and 15 demonstrations of the stacks, 50 of each other task (Appendix F.1); every fifth one fails here."""
    config, made = RecordConfig(out=tmp_path, protocol="paper", seed=100), []

    def recorded(one: RecordConfig, on_episode: Callable[[dict[str, object]], None]) -> RecordSummary:
        made.append((one.task, one.seed, one.count, one.out.relative_to(tmp_path).as_posix()))
        good = sum((one.seed + i) % 5 != 0 for i in range(one.count))
        return RecordSummary(episodes=one.count, succeeded=good, steps=0, wall_s=0.0, bags=())

    monkeypatch.setattr(recording, "record_expert", recorded)
    assert recording.record_protocol(config, lambda episode: None).succeeded == 250
    assert [(task, count) for task, seed, count, _ in made if seed == 100] == [
        *(("stack_bowls", 20), ("stack_3_bowls", 15), ("stack_4_bowls", 15), ("wipe_stain", 50)),
        *((f"place_{name}", 50) for name in ("mango", "sponge", "bottle")),
    ]
    assert made[:2] == [
        ("stack_bowls", 100, 20, "stack_bowls/from_seed_100"),
        ("stack_bowls", 120, 4, "stack_bowls/from_seed_120"),
    ]
    monkeypatch.setattr(recording, "record_expert", lambda one, _: replace(recorded(one, print), succeeded=0))
    with pytest.raises(recording.RecordError, match=r"0 of 150 demonstrations of wipe_stain succeeded; 50 are wanted"):
        recording.record_protocol(replace(config, task="wipe_stain"), lambda episode: None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"protocol": "paper", "episodes": 3}, "episodes is 3, and the protocol 'paper' says how many"),
        ({"protocol": "papers"}, r"has no protocol 'papers'; it has \['paper'\]"),
        ({"protocol": "paper", "task": "pick_place"}, "task 'pick_place' is not one of the protocol 'paper'"),
        ({"protocol": "paper", "suite": "libero_object"}, "libero_object has no protocol 'paper'; it has none"),
    ],
)
def test_a_protocol_that_cannot_be_recorded_is_refused(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        RecordConfig(out=tmp_path, **given)


def test_every_task_has_a_limit_and_the_stack_offers_it() -> None:
    suite = TabletopSuite()
    assert [suite.plan(task, 0, 0).max_steps for task in ("pick_place", "stack_4_bowls")] == [400, 800]
    assert set(suite.demonstration_steps) == set(suite.tasks) == set(TASKS)
    stack = load_yaml(config_path("stacks/jaka_policy.yaml").read_text())
    assert stack["arguments"]["task"]["choices"] == list(suite.tasks)


def test_training_and_evaluation_seeds_do_not_meet(tmp_path: Path) -> None:
    last = RecordConfig(out=tmp_path, episodes=10, seed=EVALUATION_SEED_BASE - 10)
    assert last.seed + last.episodes - 1 < TabletopSuite().plan("pick_place", 0, 0).seed
    with pytest.raises(ValueError, match="evaluation"):
        RecordConfig(out=tmp_path, episodes=11, seed=EVALUATION_SEED_BASE - 10)


def test_videos_of_what_the_policy_saw_are_in_the_report_and_change_nothing_nor_do_two_workers(
    once: Results, tmp_path: Path
) -> None:
    config = replace(SHORT, videos=1)
    results = evaluate(config, out=tmp_path, workers=2)
    assert same_episodes(results, once)
    kept = sorted(int(file.stem) for file in (tmp_path / "clips").iterdir())
    first = {e.success: e.index for e in reversed(results.episodes)}
    assert kept == sorted(first.values())
    assert (tmp_path / "report.html").read_text().count("data:video/mp4;base64,") == len(kept)


@pytest.mark.ros
def test_workers_that_share_a_policy_as_on_a_gpu_have_the_episodes_of_one(
    once: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, where each has its own otherwise, the bits can be compared."""
    loaded: list[str] = []

    def here(*arguments: Any, **options: Any) -> Any:
        loaded.append("a server")
        return served_policy(*arguments, **options)

    monkeypatch.setattr(evaluation, "on_a_gpu", lambda device: True)
    monkeypatch.setattr(evaluation, "served_policy", here)
    assert same_episodes(once, evaluate(SHORT, workers=2)) and loaded == ["a server"]


def test_a_policy_that_cannot_be_served_is_refused_and_one_that_dies_is_noticed(tmp_path: Path) -> None:
    with (
        pytest.raises(PolicyError, match=r"nothing is not a directory"),
        served_policy(str(tmp_path / "nothing"), device="cpu"),
    ):
        pass
    with served_policy("bundled", device="cpu") as (address, watch):
        policy = ServedPolicy(address)
        watch()
        with pytest.raises(ObservationError, match="the observation has no image"):
            policy.predict(Observation(stamp_ns=0, images={}, state=np.zeros(7), instruction="go"))
        (child,) = multiprocessing.active_children()
        child.kill()
        child.join()
        with pytest.raises(PolicyError, match="is gone"):
            policy.predict(Observation(stamp_ns=0, images={}, state=np.zeros(7), instruction="go"))
        with pytest.raises(PolicyError, match="ended with status -9"):
            watch()


def test_through_nodes_the_episodes_are_those_of_one_process(tmp_path: Path) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "checkpoint")
    config = replace(SHORT, policy=str(checkpoint), max_steps=25)
    in_process = evaluate(config)
    through_nodes = evaluate(replace(config, through="nodes"), out=tmp_path / "out", workers=2)
    assert [e.error for e in through_nodes.episodes] == [None, None]
    assert same_episodes(in_process, through_nodes)
    assert len({e.trajectory for e in in_process.episodes}) == 2


def test_recorded_actions_repeat_the_recorded_episodes(tmp_path: Path) -> None:
    dataset, seeds = tmp_path / "dataset", [11, 12]
    record(dataset, seeds)
    config = replace(SHORT, policy=f"replay:{dataset}", max_steps=200)
    results = evaluate(config)
    assert [(e.seed, e.success) for e in results.episodes] == [(11, True), (12, True)]
    with pytest.raises(RuntimeError, match="has 2 recorded scenes of tabletop, pick_place"):
        evaluate(replace(config, episodes=3))
    (dataset / "meta" / "conversion.json").unlink()
    with pytest.raises(RuntimeError, match="does not say in which scenes"):
        evaluate(config)


class Steps(Observer):
    """Keeps what a recording would."""

    every_step = True

    def __init__(self) -> None:
        self.observations: list[Observation] = []
        self.actions: list[np.ndarray] = []

    def observed(self, observation: Observation) -> None:
        self.observations.append(observation)

    def stepped(self, stamp_ns: int, action_A: np.ndarray | None) -> None:
        assert action_A is not None
        self.actions.append(action_A.copy())


def record(dataset: Path, seeds: list[int]) -> None:
    """The expert's episodes as `lavla convert` would write them, but for black pictures."""
    suite = TabletopSuite()
    contract = suite.contract
    environment = suite.environment("pick_place", images=False)
    writer = DatasetWriter(dataset, contract)
    for seed in seeds:
        steps = Steps()
        plan = EpisodePlan(index=0, task="pick_place", trial=0, seed=seed, state_index=None, max_steps=150)
        run_episode(environment, ExpertActor(environment.expert()), plan, contract=contract, observer=steps)
        videos = {}
        for camera in contract.cameras:
            videos[camera.name] = dataset / layout.STAGING / f"{camera.name}.mp4"
            size = {"width": camera.width, "height": camera.height, "fps": round(contract.rate_hz)}
            with VideoWriter(videos[camera.name], **size) as video:
                for _ in steps.actions:
                    video.write(np.zeros((camera.height, camera.width, 3), np.uint8))
        black = np.zeros((camera.height, camera.width, 3), np.uint8)
        counts = np.asarray(sum(stats.image_histogram(black) for _ in stats.sample_frames(len(steps.actions))))
        stamps = np.array([observation.stamp_ns for observation in steps.observations])
        writer.append(
            EpisodeArrays(
                state_LS=np.stack([observation.state for observation in steps.observations]),
                action_LA=np.stack(steps.actions).astype(np.float32),
                capture_ns_LK=np.repeat(stamps[:, None], len(contract.cameras) + 1, axis=1),
                instructions=(environment.sim.instruction,) * len(steps.actions),
                histograms=dict.fromkeys(contract.camera_names, counts),
            ),
            videos,
        )
    writer.finish()
    bags = [{"episode": i, "scene": {"task": "pick_place", "seed": seed}} for i, seed in enumerate(seeds)]
    layout.write_json(dataset / "meta" / "conversion.json", {"bags": bags})
