"""A latent action model's directory: bit for bit, complete or absent, refused when it does not fit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from records import load_training_record
from safetensors.torch import load_file, save_file

from lavla_ros.policy import folder
from lavla_ros.policy.folder import CheckpointError
from training.latent_actions.action_model import ActionLatentModel
from training.latent_actions.checkpoint import (
    LatentModel,
    content_hash,
    load_latent_model,
    save_latent_model,
)


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model"
    save_latent_model(path, model, {"steps": 7, "note": "short"})
    return path


def test_what_is_loaded_is_what_was_saved(model, saved, coded, chunks):
    loaded = load_latent_model(saved, ActionLatentModel)
    theirs, ours = loaded.state_dict(), model.state_dict()
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(theirs[name], value), name
        assert theirs[name].dtype == value.dtype
    assert torch.equal(loaded.tokenize(coded), model.tokenize(coded))
    with torch.no_grad():  # with gradients, torch takes other kernels of the same layers
        assert torch.equal(loaded.encode(coded), model.encode(coded))
    codes = model.encode_raw(chunks.actions_NHA[:5], chunks.states_NS[:5])
    np.testing.assert_array_equal(
        loaded.decode_raw(codes, chunks.states_NS[:5]), model.decode_raw(codes, chunks.states_NS[:5])
    )
    assert loaded.config == model.config
    assert loaded.contract == model.contract
    assert load_training_record(saved) == {"steps": 7, "note": "short"}


def test_a_loaded_model_is_frozen(saved):
    loaded = load_latent_model(saved, LatentModel)
    assert isinstance(loaded, ActionLatentModel)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_hash_follows_the_content_and_not_the_record(model, saved, tmp_path):
    first = content_hash(saved)
    for step in range(5):  # a file format with an order of its own would differ sooner or later
        save_latent_model(tmp_path / "again", model, {"steps": step})
        assert content_hash(tmp_path / "again") == first
    with torch.no_grad():
        model.decoder[0].bias[0] += 1e-6
    save_latent_model(tmp_path / "changed", model, {"steps": 7, "note": "short"})
    assert content_hash(tmp_path / "changed") != first
    stats = json.loads((saved / "stats.json").read_text())
    stats["samples"] += 1
    (saved / "stats.json").write_text(json.dumps(stats))
    assert content_hash(saved) != first


def test_wrong_codebook_size_is_refused(saved):
    document = yaml.safe_load((saved / "config.yaml").read_text())
    document["model"]["codebook_size"] = 64
    (saved / "config.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(
        CheckpointError, match=r"codebook size(.|\n)*embed has shape \(1, 32, 32\), expected \(1, 64, 32\)"
    ):
        load_latent_model(saved, ActionLatentModel)


def says_chunk_size(saved, chunk_size):
    document = yaml.safe_load((saved / "config.yaml").read_text())
    document["model"]["chunk_size"] = chunk_size
    (saved / "config.yaml").write_text(yaml.safe_dump(document))


def test_the_chunk_size_of_a_checkpoint_agrees_with_its_contract(saved):
    """The contract beside it is what counts."""
    says_chunk_size(saved, 6)
    assert load_latent_model(saved, ActionLatentModel).contract.chunk_size == 6
    says_chunk_size(saved, 9)
    with pytest.raises(
        CheckpointError, match="chunk_size is 9; expected the chunk_size of contract 'jaka_minicobo', 6"
    ):
        load_latent_model(saved, ActionLatentModel)


def test_contract_with_other_chunks_is_refused(saved):
    document = yaml.safe_load((saved / "contract.yaml").read_text())
    document["chunk_size"] = 9
    (saved / "contract.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(CheckpointError, match="chunk_size is 6; expected"):
        load_latent_model(saved, ActionLatentModel)


def test_files_of_two_models_are_not_mixed(saved):
    document = yaml.safe_load((saved / "contract.yaml").read_text())
    document["action"]["dims"][0]["unit"] = "m"
    (saved / "contract.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(CheckpointError, match="one of the two files was replaced"):
        load_latent_model(saved, ActionLatentModel)


@pytest.mark.parametrize("name", ["config.yaml", "contract.yaml", "stats.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_named(saved, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2] if name.endswith("safetensors") else b"{nonsense: [")
    with pytest.raises(CheckpointError, match=name):
        load_latent_model(saved, ActionLatentModel)
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        load_latent_model(saved, ActionLatentModel)


def test_missing_extra_and_broken_weights_are_named(saved):
    tensors = load_file(str(saved / "model.safetensors"))
    del tensors["mask_d"]
    tensors["stranger"] = torch.zeros(1)
    tensors["decoder.0.bias"][0] = torch.nan
    contract = load_latent_model(saved, ActionLatentModel).contract
    save_file(tensors, str(saved / "model.safetensors"), metadata={"contract": contract.hash})
    with pytest.raises(CheckpointError) as caught:
        load_latent_model(saved, ActionLatentModel)
    for expected in ("missing mask_d", "unexpected stranger", "decoder.0.bias holds values that are not finite"):
        assert expected in str(caught.value)


def test_another_kind_is_refused(saved):
    class Other(LatentModel):
        kind = "image"

    with pytest.raises(CheckpointError, match="kind 'action'; expected 'image'"):
        load_latent_model(saved, Other)


def test_no_directory_and_unknown_kind(saved, tmp_path):
    with pytest.raises(CheckpointError, match="not a directory"):
        load_latent_model(tmp_path / "nothing", LatentModel)
    text = (saved / "config.yaml").read_text()
    (saved / "config.yaml").write_text(text.replace("kind: action", "kind: sound"))
    with pytest.raises(CheckpointError, match="'sound'; expected one of"):
        load_latent_model(saved, LatentModel)


def test_an_interrupted_save_leaves_the_old_model_whole(model, saved, monkeypatch):
    before = content_hash(saved)
    with torch.no_grad():
        model.mask_d += 1

    def dies(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "save_file", dies)
    with pytest.raises(KeyboardInterrupt):
        save_latent_model(saved, model, {})
    assert content_hash(saved) == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    load_latent_model(saved, ActionLatentModel)


def test_interrupted_first_save_leaves_nothing(model, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "save_file", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_latent_model(tmp_path / "m", model, {})
    assert list(tmp_path.iterdir()) == []


def test_broken_weights_are_not_saved(model, saved, tmp_path):
    with torch.no_grad():
        model.mask_d[0] = torch.inf
    with pytest.raises(CheckpointError, match="mask_d"):
        save_latent_model(saved, model, {})
    shutil.rmtree(saved)
    with pytest.raises(CheckpointError, match="mask_d"):
        save_latent_model(saved, model, {})
    assert not saved.exists()
