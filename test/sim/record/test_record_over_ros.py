"""Demonstrations over ROS, end to end: simulator, topics, recorder, bags, dataset."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lavla_ros.config import read_config
from lavla_ros.contract import Observation, load_contract
from lavla_ros.policy.policy import load_policy
from lavla_ros.recording import BagReader, find_bags
from lavla_ros.yaml_text import dump_yaml
from sim_bridges.lockstep.config import RecordConfig
from sim_bridges.lockstep.record import RecordError, record_expert
from training.config import TrainConfig
from training.dataset import EpisodeDataset
from training.dataset.check import validate
from training.ingest import ingest
from training.train import train

pytestmark = [pytest.mark.sim, pytest.mark.ros]


def test_recorded_episodes_convert_without_losing_a_step(tmp_path: Path) -> None:
    told: list[dict[str, object]] = []
    config = RecordConfig(out=tmp_path / "bags", episodes=3, seed=7, workers=2, disturb=False)
    summary = record_expert(config, told.append)
    assert summary.succeeded == 3
    assert {episode["seed"] for episode in told} == {7, 8, 9}
    scenes = []
    for bag in find_bags([tmp_path / "bags"]):
        with BagReader(bag) as reader:
            scenes.append(reader.episode().scene)
    assert sorted(scenes, key=lambda scene: scene["seed"]) == [
        {"task": "pick_place", "layout": "id", "seed": seed} for seed in (7, 8, 9)
    ]
    contract = load_contract("jaka_minicobo")
    report = ingest("bag", [tmp_path / "bags"], tmp_path / "dataset", contract=contract)
    assert report.episodes == 3
    assert report.steps == summary.steps
    assert validate(tmp_path / "dataset") == []
    dataset = EpisodeDataset(tmp_path / "dataset", contract)
    sample = dataset[0]
    assert sample.images["wrist"].shape == (224, 224, 3)
    assert sample.actions_HA.shape == (contract.chunk_size, contract.action_dim)
    assert sample.instruction
    with pytest.raises(RecordError, match="holds recorded episodes"):
        record_expert(config, told.append)


def test_the_expert_corrects_a_policy_and_the_dataset_says_which_steps(tmp_path: Path) -> None:
    """A person without patience: the policy has 5 steps before and 5 after the object is lifted."""
    config = RecordConfig(out=tmp_path / "bags", episodes=2, seed=20, workers=2, policy="bundled", patience_s=0.5)
    assert record_expert(config, lambda episode: None).succeeded == 2
    contract = load_contract("jaka_minicobo")
    ingest("bag", [tmp_path / "bags"], tmp_path / "dataset", contract=contract)
    dataset = EpisodeDataset(tmp_path / "dataset", contract)
    assert dataset.interventions is not None
    for episode in dataset.episodes:
        hands = "".join("-P"[int(person)] for person in dataset.interventions[episode.first :][: episode.length])
        assert re.fullmatch("-{5}P+-{5}P+", hands), hands

    data = {"dataset": str(tmp_path / "dataset"), "interventions": {"only": True}}
    recipe = {"extends": "training/tabletop_tiny", "output": str(tmp_path / "run"), "initial": "bundled", "data": data}
    changes = {"steps": 2, "batch_size": 4, "optim": {"learning_rate": 1e-6, "warmup_steps": 0}}
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe | changes))
    goes_on = load_policy(train(read_config(TrainConfig, tmp_path / "recipe.yaml")))
    seen = Observation(stamp_ns=0, images=dataset[0].images, state=dataset[0].state, instruction=dataset[0].instruction)
    chunks = [policy.predict(seen).actions_HA for policy in (goes_on, load_policy("bundled"))]
    assert 0 < np.abs(chunks[0] - chunks[1]).max() < 0.01, "the bundled policy, and a little more"

    with pytest.raises(RecordError, match="nowhere"):
        record_expert(replace(config, out=tmp_path / "none", policy=str(tmp_path / "nowhere")), lambda episode: None)
