"""What `benchmarks.align` says of labels and policies that are made for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_world import SIZE, World, small_config, source, world_contract

from benchmarks.align import about_labels, about_policy, aligned, between_steps, common_part, explained, retrieval
from lavla_ros.policy.checkpoint import load_checkpoint
from lavla_ros.policy.config import StrategyConfig
from training.config import DataConfig
from training.data import BatchMaker, load_data
from training.loop import Trainer
from training.policy_task import PolicyTask

EPISODES, LENGTH = 20, 30


class Silent:
    def step(self, step: int, figures: object) -> None: ...
    def message(self, text: str) -> None: ...


def walk(rng: np.random.Generator, pace: float) -> np.ndarray:
    """(N, 8): episodes whose steps are ``pace`` apart, from places that are about 1 apart."""
    starts = np.repeat(rng.normal(size=(EPISODES, 1, 8)), LENGTH, axis=1)
    return (starts + pace * rng.normal(size=(EPISODES, LENGTH, 8)).cumsum(1)).reshape(-1, 8)


def test_what_labels_have_in_common_is_told_from_what_differs() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(size=(2000, 8))
    assert common_part(own)["constant_cosine"] < 0.1
    assert common_part(own)["effective_dimensions"] == pytest.approx(8, abs=0.2)
    shifted = common_part(own + 10)
    assert shifted["constant_cosine"] > 0.99 and shifted["mean_share_of_energy"] > 0.98
    assert shifted["constant_cosine_centred"] < 0.1


def test_neighbouring_steps_of_an_episode_are_told_apart_or_not() -> None:
    rng, last = np.random.default_rng(0), np.repeat(np.arange(EPISODES) * LENGTH + LENGTH - 1, LENGTH)
    slow, fast = (between_steps(walk(rng, pace), last, 8) for pace in (0.02, 3.0))
    assert slow["apart_1"] < 0.01 and slow["one_vector_per_chunk"] > 0.95
    assert fast["apart_1"] > 5 * slow["apart_1"] and fast["one_vector_per_chunk"] < slow["one_vector_per_chunk"]
    noise = between_steps(rng.normal(size=(EPISODES * LENGTH, 8)), last, 8)
    assert noise["apart_1"] == pytest.approx(1, abs=0.1)


def test_the_nearest_label_is_a_neighbours_and_of_a_like_action_if_labels_tell_these() -> None:
    rng, episode = np.random.default_rng(0), np.repeat(np.arange(EPISODES), LENGTH)
    told = walk(rng, 0.3)
    found = retrieval(told, episode, told, 200)
    assert found["adjacent"] > 0.7 > 0.2 > found["adjacent_chance"] and found["action_distance"] < 0.7
    noise = retrieval(rng.normal(size=told.shape), episode, told, 200)
    assert noise["adjacent"] < 0.3 and noise["action_distance"] == pytest.approx(1, abs=0.3)
    assert explained(told, told[:, :2], episode) > 0.99 and explained(rng.normal(size=told.shape), told, episode) < 0.05


def test_of_a_policy_it_tells_every_layer_and_both_gradients_there(tmp_path: Path) -> None:
    contract, world = world_contract(), World(tmp_path / "world")
    labels = {"c_img": np.random.default_rng(0).normal(size=(len(world), 4, 128)).astype(np.float16)}
    data = load_data([source(world, labels=labels)], contract, DataConfig(), image_size=SIZE, cache_dir=tmp_path)
    config = small_config(tmp_path / "run", steps=1, batch_size=8)
    config = replace(config, policy=replace(config.policy, strategy=StrategyConfig(name="la_align")))
    policy = load_checkpoint(Trainer(PolicyTask(config, contract, data), Silent()).run())

    assert about_labels(data, policy.normalizer, delta=3, count=20)["episodes"] == 8
    found = about_policy(policy, data, np.arange(0, len(data), 2))
    depth = config.policy.backbone.tiny.depth
    assert [row["layer"] for row in found["layers"]] == list(range(depth + 1))
    # states of the first layer, embeddings, have seen nothing: a placeholder's is the same whatever the images are
    assert found["layers"][0]["r2_of_action"] <= 0
    middle = policy.model.strategy.layer
    own = found["gradients"]["own"]
    rows = own["states"]
    assert all(row["action_images"] > 0 for row in rows)
    assert all((row["latent_images"] > 0) == (row["layer"] < middle) for row in rows)
    assert all((row["latent_text"] > 0) == (row["layer"] <= middle) for row in rows)
    assert own["backbone"].keys() == {"latent_share", "latent_agreement"}
    # and a policy that was not aligned is given the linear map that fits: better than the one it began with
    batch = BatchMaker(data, policy.normalizer, policy.prompt, required_labels=("c_img",), loss_on_padding=True)(
        np.arange(40), data.frames.take(np.arange(40))
    )
    fitted = aligned(policy, data, [batch], {"align_layer": 1}).model
    assert fitted.terms(batch).figures["latent_cosine"] > policy.model.terms(batch).figures["latent_cosine"] + 0.05
    assert fitted.terms(batch).action == policy.model.terms(batch).action
