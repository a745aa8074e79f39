"""Checkpoints and the policy around them: written, read, refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lavla_ros.policy.checkpoint import CheckpointError, save_checkpoint, trained_parameters
from lavla_ros.policy.images import ImageSizeError, shrink
from lavla_ros.policy.policy import ObservationError, load_policy
from lavla_ros.policy.prompt import PromptError, token_ids, train_tokenizer


@pytest.fixture
def checkpoint(model, config, contract, stats, tokenizer, tmp_path):
    path = tmp_path / "policy"
    save_checkpoint(
        path,
        config=config,
        contract=contract,
        stats=stats,
        tokenizer=tokenizer,
        tensors=trained_parameters(model),
        training={"step": 1},
    )
    return path


def test_prediction_has_the_contracts_form(checkpoint, contract, observation):
    policy = load_policy(checkpoint, threads=1)
    assert torch.get_num_threads() == 1
    policy.reset()
    chunk = policy.predict(observation)
    assert chunk.stamp_ns == observation.stamp_ns
    assert chunk.dt_ns == contract.dt_ns
    assert chunk.names == contract.action.names
    assert chunk.actions_HA.shape == (contract.chunk_size, 7)
    assert chunk.actions_HA.dtype == np.float64


def test_same_input_same_bits_across_loads(checkpoint, observation):
    first = load_policy(checkpoint).predict(observation)
    policy = load_policy(checkpoint)
    for _ in range(3):
        np.testing.assert_array_equal(policy.predict(observation).actions_HA, first.actions_HA)


def test_half_precision_storage_is_close(model, config, contract, stats, tokenizer, tmp_path, checkpoint, observation):
    half = tmp_path / "half"
    save_checkpoint(
        half,
        config=config,
        contract=contract,
        stats=stats,
        tokenizer=tokenizer,
        tensors=trained_parameters(model),
        training={},
        half=True,
    )
    size = [(p / "model.safetensors").stat().st_size for p in (half, checkpoint)]
    assert size[0] < 0.6 * size[1]
    exact, stored = (load_policy(p).predict(observation).actions_HA for p in (checkpoint, half))
    np.testing.assert_allclose(stored, exact, atol=2e-3)


def test_saving_replaces_the_directory_whole(model, config, contract, stats, tokenizer, checkpoint):
    (checkpoint / "stray").write_text("x")
    save_checkpoint(
        checkpoint,
        config=config,
        contract=contract,
        stats=stats,
        tokenizer=tokenizer,
        tensors=trained_parameters(model),
        training={"step": 2},
    )
    assert not (checkpoint / "stray").exists()
    assert load_policy(checkpoint).checkpoint.training["step"] == 2
    assert [p.name for p in checkpoint.parent.iterdir()] == ["policy"]


@pytest.mark.parametrize("name", ["config.yaml", "contract.yaml", "stats.json", "model.safetensors", "tokenizer"])
def test_missing_file_is_named(checkpoint, name):
    target = checkpoint / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        load_policy(checkpoint)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", b"policy: [", "not valid YAML"),
        ("config.yaml", b"schema: 9\npolicy: {}", "schema 1"),
        ("config.yaml", b"schema: 1\npolicy: {backbone: {kind: huge}}", "backbone.kind is 'huge'"),
        ("contract.yaml", b"name: x", "contract"),
        ("stats.json", b"{", "cannot be read as JSON"),
        ("stats.json", b"{}", "lack q01"),
        ("model.safetensors", b"\x00" * 40, "safetensors"),
        ("tokenizer/tokenizer.json", b"{}", "tokenizer"),
    ],
)
def test_corrupt_file_is_named(checkpoint, name, content, message):
    (checkpoint / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_policy(checkpoint)
    assert str(checkpoint) in str(error.value)


def test_truncated_weights(checkpoint):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="safetensors"):
        load_policy(checkpoint)


def rewrite(checkpoint, change):
    file = checkpoint / "model.safetensors"
    with safe_open(str(file), framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata=metadata)


def test_weights_that_do_not_fit_are_listed(checkpoint):
    def change(tensors):
        tensors["head.norm.weight"] = torch.zeros(3)
        del tensors["head.queries"]
        tensors["stranger"] = torch.zeros(1)
        tensors["head.norm.bias"] = torch.full_like(tensors["head.norm.bias"], float("nan"))

    rewrite(checkpoint, change)
    with pytest.raises(CheckpointError) as error:
        load_policy(checkpoint)
    text = str(error.value)
    for part in ("missing head.queries", "unexpected stranger", "head.norm.weight has shape (3,)", "head.norm.bias"):
        assert part in text


def test_another_contract_beside_the_weights_is_noticed(checkpoint):
    file = checkpoint / "contract.yaml"
    data = yaml.safe_load(file.read_text())
    data["rate_hz"] = 20.0
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(CheckpointError, match="one of the two files was replaced"):
        load_policy(checkpoint)


def test_foreign_tokenizer_is_refused(checkpoint):
    file = checkpoint / "tokenizer" / "tokenizer.json"
    text = json.loads(file.read_text())
    vocabulary = text["model"]["vocab"]
    vocabulary["[OTHER]"] = vocabulary.pop("[ACTION]")
    for token in text["added_tokens"]:
        token["content"] = token["content"].replace("[ACTION]", "[OTHER]")
    file.write_text(json.dumps(text))
    config = checkpoint / "tokenizer" / "tokenizer_config.json"
    config.write_text(config.read_text().replace("[ACTION]", "[OTHER]"))
    with pytest.raises(CheckpointError, match=r"\[ACTION\]"):
        load_policy(checkpoint)


def test_no_such_directory(tmp_path):
    with pytest.raises(CheckpointError, match="not a directory"):
        load_policy(tmp_path / "nothing")


def test_observations_that_do_not_fit_are_named(checkpoint, observation):
    policy = load_policy(checkpoint)
    images = dict(observation.images)
    cases = [
        ({"images": {"front": images["front"]}}, "no image of camera 'wrist'"),
        ({"images": images | {"front": images["front"][:50]}}, r"camera 'front' has shape \(50, 64, 3\)"),
        ({"images": images | {"wrist": images["wrist"].astype(np.float32)}}, "type float32"),
        ({"state": observation.state[:5]}, r"shape \(5,\)"),
        ({"state": np.where(np.arange(7) == 2, np.nan, observation.state)}, r"\['joint_3'\] is not finite"),
    ]
    for change, message in cases:
        with pytest.raises(ObservationError, match=message):
            policy.predict(replace(observation, **change))
    with pytest.raises(PromptError, match="instruction is empty"):
        policy.predict(replace(observation, instruction="  "))
    with pytest.raises(PromptError, match="at most"):
        policy.predict(replace(observation, instruction="a" * 1000))


def test_shrink_averages_and_rounds_half_up():
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[0, 0] = 2  # mean 0.5
    image[2, 2], image[2, 3] = 255, 254
    small = shrink(image, 2)
    assert small[0, 0].tolist() == [1, 1, 1]
    assert small[1, 1].tolist() == [127, 127, 127]
    assert shrink(image, 4) is image
    with pytest.raises(ImageSizeError, match="cannot be reduced"):
        shrink(image, 3)


def test_halving_is_the_same_rule_done_faster():
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    whole = image.astype(np.uint16)
    expected = (whole[::2, ::2] + whole[1::2, ::2] + whole[::2, 1::2] + whole[1::2, 1::2] + 2) // 4
    assert np.array_equal(shrink(image, 112), expected)
    assert np.array_equal(shrink(image[None], 112)[0], expected)


def test_tokenizer_encodes_any_text_and_not_special_tokens_in_it(prompt, model):
    assert train_tokenizer(["a b"], 300, 6).get_vocab() == train_tokenizer(["a b"], 300, 6).get_vocab()
    tokens = prompt(["ignore [ACTION] <|image_pad|> 马 \x00"])
    ids = token_ids(prompt.tokenizer)
    assert int((tokens == ids.placeholder("action")).sum()) == 6
    assert int((tokens == ids.image).sum()) == 2 * model.backbone.image_tokens
