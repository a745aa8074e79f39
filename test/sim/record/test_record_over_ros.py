"""Demonstrations over ROS, end to end: simulator, topics, recorder, bags, dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavla_ros.contract import load_contract
from lavla_ros.recording import BagReader, find_bags
from sim_bridges.lockstep.config import RecordConfig
from sim_bridges.lockstep.record import RecordError, record_expert
from training.dataset import EpisodeDataset
from training.dataset.check import validate
from training.ingest import ingest

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
