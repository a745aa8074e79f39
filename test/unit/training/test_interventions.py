"""Who commanded each step: from the executor's word in bags to a column, and to how often a step is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_world import SIZE, World, source, world_contract
from synthetic_bags import T0, convert, make_bag
from synthetic_messages import small_contract

from lavla_ros.config import ConfigError
from training.config import DataConfig, InterventionConfig
from training.data import load_data
from training.dataset import EpisodeDataset, layout, validate
from training.ingest import ingest
from training.samples import DataError, SampleStream

CONTRACT = small_contract(size=32)
HANDS = {0: "policy", 4: "person", 7: "", 9: "person", 10: "policy"}
COMMANDED = [False] * 4 + [True] * 3 + [False] * 2 + [True] + [False] * 2


def test_who_commanded_is_a_column_of_the_dataset(tmp_path: Path) -> None:
    make_bag(tmp_path / "bags", CONTRACT, 12, hands=HANDS)
    make_bag(tmp_path / "bags", CONTRACT, 12, episode=1)
    ingest("bag", [tmp_path / "bags"], tmp_path / "data", contract=CONTRACT)
    dataset = EpisodeDataset(tmp_path / "data", CONTRACT)
    assert dataset.interventions is not None
    assert dataset.interventions.tolist() == COMMANDED + [False] * 12, "a bag that says nothing has no interventions"
    assert dataset.info["features"][layout.INTERVENTION] == {"dtype": "int64", "shape": [1], "names": None}
    assert dataset.stats[layout.INTERVENTION]["mean"][0] == pytest.approx(4 / 24)
    assert validate(tmp_path / "data") == []


def test_bags_that_say_nothing_make_the_dataset_that_they_made_before(tmp_path: Path) -> None:
    make_bag(tmp_path / "bags", CONTRACT, 12)
    ingest("bag", [tmp_path / "bags"], tmp_path / "data", contract=CONTRACT)
    dataset = EpisodeDataset(tmp_path / "data", CONTRACT)
    assert dataset.interventions is None and layout.INTERVENTION not in dataset.info["features"]


def test_a_dataset_is_gone_on_with_as_it_was_begun(tmp_path: Path) -> None:
    plain = make_bag(tmp_path / "a", CONTRACT, 12)
    told = make_bag(tmp_path / "b", CONTRACT, 12, start_ns=T0 + 10**12, hands=HANDS)
    convert([plain], tmp_path / "plain", CONTRACT, jobs=1)
    ingest("bag", [plain, told], tmp_path / "plain", contract=CONTRACT, resume=True)
    assert EpisodeDataset(tmp_path / "plain", CONTRACT).interventions is None
    ingest("bag", [told], tmp_path / "told", contract=CONTRACT)
    ingest("bag", [plain, told], tmp_path / "told", contract=CONTRACT, resume=True)
    found = EpisodeDataset(tmp_path / "told", CONTRACT).interventions
    assert found is not None and found.tolist() == COMMANDED + [False] * 12
    for name in ("plain", "told"):
        assert validate(tmp_path / name) == []


def test_interventions_are_drawn_as_often_as_is_asked_for(tmp_path: Path) -> None:
    contract = world_contract()
    world = World(tmp_path / "w", episodes=2)
    world.interventions = np.arange(len(world)) % 5 == 0
    plain = World(tmp_path / "p", episodes=1)

    def weights(wanted: InterventionConfig) -> list[float]:
        sources = [source(world), replace(source(plain), weight=0.5)]
        config = DataConfig(interventions=wanted)
        data = load_data(sources, contract, config, image_size=SIZE, cache_dir=tmp_path)
        return [float(weight) for weight in data.weight_N]

    told = world.interventions.astype(float).tolist()
    assert weights(InterventionConfig()) == [1.0] * len(world) + [0.5] * len(plain)
    assert weights(InterventionConfig(weight=4.0)) == [1.0 + 3.0 * each for each in told] + [0.5] * len(plain)
    with pytest.raises(DataError, match=r"p does not say which steps a person commanded"):
        weights(InterventionConfig(only=True))
    plain.interventions = np.zeros(len(plain), bool)
    only = weights(InterventionConfig(only=True, weight=2.0))
    assert only == [2.0 * each for each in told] + [0.0] * len(plain)
    stream = SampleStream(np.arange(len(only)), 0, np.array(only, np.float32))
    assert set(stream(0, 50).tolist()) == set(np.flatnonzero(world.interventions).tolist())


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), 1e6])
def test_a_weight_that_means_nothing_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.interventions\.weight is"):
        InterventionConfig(weight=weight)
