"""Frozen encoders: which pixels and words they see, that they are whole and the right ones; the file of features."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_square import FEATURES, SIZE, TEXT, square_contract, write_squares
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Dinov2Config, Dinov2Model, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from lavla_ros.config import ConfigError
from training.dataset import EpisodeDataset
from training.latent_actions.features import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    FeatureExtractor,
    TextEncoder,
    cached_features,
    load_features,
)
from training.latent_actions.image_config import TextConfig
from training.samples import DataError

LENGTHS = (6, 1, 9)


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return load_features(FEATURES)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares") / "data", LENGTHS)


@pytest.fixture
def dataset(original, tmp_path) -> EpisodeDataset:
    return EpisodeDataset(shutil.copytree(original, tmp_path / "data"), square_contract())


# ------------------------------------------------------------------ images


def test_features_are_the_patches_of_normalised_pixels(extractor, images):
    found = extractor(torch.from_numpy(images))
    assert found.shape == (3, FEATURES.tokens, FEATURES.width) == (3, 16, 16)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    states = extractor.network(pixels).last_hidden_state
    assert states.shape[1] == 1 + 4 + 16  # class, registers, patches
    torch.testing.assert_close(found, states[:, 5:])


def test_token_n_is_the_patch_at_row_and_column_of_n(extractor, images):
    changed = images[:1].copy()
    changed[0, 7:14, 14:21] = 255 - changed[0, 7:14, 14:21]  # row 1, column 2 of 4 x 4 patches
    moved = (extractor(torch.from_numpy(changed)) - extractor(torch.from_numpy(images[:1]))).norm(dim=-1)[0]
    assert int(moved.argmax()) == 1 * 4 + 2


def test_images_of_another_size_are_resized(extractor):
    plain = np.full((1, 2 * SIZE, 2 * SIZE, 3), 90, np.uint8)
    small = np.full((1, SIZE, SIZE, 3), 90, np.uint8)
    torch.testing.assert_close(extractor(torch.from_numpy(plain)), extractor(torch.from_numpy(small)))


@pytest.mark.parametrize("bad", [np.zeros((1, 3, SIZE, SIZE), np.uint8), np.zeros((1, SIZE, SIZE, 3), np.float32)])
def test_images_in_another_layout_are_refused(extractor, bad):
    with pytest.raises(ValueError, match="expected uint8"):
        extractor(torch.from_numpy(bad))


def test_random_encoder_is_made_by_its_seed_alone(extractor, images):
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    again = load_features(FEATURES)
    assert torch.equal(torch.rand(1), before), "loading an encoder must not disturb the run's random numbers"
    assert again.fingerprint == extractor.fingerprint
    np.testing.assert_array_equal(again.extract(images), extractor.extract(images))
    other = load_features(replace(FEATURES, seed=1))
    assert other.fingerprint != extractor.fingerprint
    with pytest.raises(ConfigError, match=rf"features.fingerprint.*{other.fingerprint}.*train again"):
        load_features(replace(FEATURES, seed=1, fingerprint=extractor.fingerprint))


def test_encoder_is_frozen_and_stays_in_evaluation_mode(extractor, images):
    extractor.train()
    assert not any(module.training for module in extractor.modules())
    assert not any(p.requires_grad for p in extractor.parameters())
    assert not extractor(torch.from_numpy(images)).requires_grad


def test_features_that_float16_cannot_hold_are_refused(images):
    broken = load_features(FEATURES)
    with torch.no_grad():
        broken.network.layernorm.weight.fill_(1e6)
    with pytest.raises(DataError, match="not finite in float16"):
        broken.extract(images)


# ------------------------------------------------------------------ pretrained encoders


@pytest.fixture
def folder(extractor, tmp_path) -> Path:
    extractor.network.save_pretrained(tmp_path / "dino")
    return tmp_path / "dino"


def test_pretrained_encoder_is_read_from_a_folder(extractor, folder, images):
    config = replace(FEATURES, kind="dinov2", path=str(folder))
    loaded = load_features(config)
    np.testing.assert_array_equal(loaded.extract(images), extractor.extract(images))
    assert loaded.fingerprint == extractor.fingerprint
    with pytest.raises(ConfigError, match=r"features.width is 32; expected 16"):
        load_features(replace(config, width=32))


@pytest.mark.parametrize("change", [lambda tensor: None, lambda tensor: tensor[1:].clone()], ids=["gone", "misshapen"])
def test_weights_that_do_not_fit_are_refused_rather_than_made_up(folder, change):
    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in tensors if "norm1.weight" in n)
    tensors[name] = change(tensors[name])
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"incomplete or misshapen: encoder\.layer\.0\.norm1\.weight"):
        load_features(replace(FEATURES, kind="dinov2", path=str(folder)))


def test_weights_that_are_cut_off_are_refused(folder):
    os.truncate(folder / "model.safetensors", 5000)
    with pytest.raises(ConfigError, match="which cannot be loaded"):
        load_features(replace(FEATURES, kind="dinov2", path=str(folder)))


def test_other_networks_and_empty_folders_are_refused(tmp_path):
    Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path / "d"
    )
    with pytest.raises(ConfigError, match="'dinov2'; expected a DINOv2 with registers"):
        load_features(replace(FEATURES, kind="dinov2", path=str(tmp_path / "d")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"features.path is .*empty.*cannot be loaded"):
        load_features(replace(FEATURES, kind="dinov2", path=str(tmp_path / "empty")))


# ------------------------------------------------------------------ language


def test_hashed_words_are_the_same_everywhere_and_padding_is_marked():
    states, mask = TextEncoder(TEXT)(["Move the cup", "cup", ""])
    assert states.shape == (3, 3, 12)
    assert mask.tolist() == [[True, True, True], [True, False, False], [True, False, False]]
    assert torch.equal(states[0, 2], states[1, 0])
    assert not torch.equal(states[0, 0], states[0, 1])
    assert float(states[1, 1:].abs().max()) == 0
    cut, _ = TextEncoder(replace(TEXT, max_tokens=2))(["Move the cup"])
    assert torch.equal(cut, states[:1, :2])


def test_t5_reads_an_instruction_alike_alone_and_beside_a_longer_one(tmp_path):
    words = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", "move", "the", "cup", "now"))}
    bare = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>", eos_token="</s>").save_pretrained(tmp_path)
    torch.manual_seed(0)
    T5EncoderModel(T5Config(vocab_size=7, d_model=12, d_kv=4, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    encoder = TextEncoder(TextConfig(kind="t5", path=str(tmp_path), width=12))
    states, mask = encoder(["move", "move the cup now"])
    assert mask.tolist() == [[True, False, False, False], [True, True, True, True]]
    torch.testing.assert_close(encoder(["move"]).states_BLE[0, 0], states[0, 0])
    assert not any(p.requires_grad for p in encoder.parameters())
    with pytest.raises(ConfigError, match=r"text.width is 10; expected 12"):
        TextEncoder(TextConfig(kind="t5", path=str(tmp_path), width=10))


# ------------------------------------------------------------------ the file


def test_file_holds_the_features_of_every_frame_and_is_made_once(dataset, extractor):
    seen = []
    found = cached_features(dataset, "front", extractor, batch=4, on_frame=lambda done, of: seen.append((done, of)))
    assert found.shape == (16, 16, 16) and found.dtype == np.float16 and isinstance(found, np.memmap)
    assert seen == [(4, 16), (8, 16), (12, 16), (16, 16)]
    for index in (0, 6, 15):
        alone = extractor.extract(dataset[index].images["front"][None])[0]
        np.testing.assert_allclose(found[index].astype(np.float32), alone.astype(np.float32), atol=2e-3)
    seen.clear()
    again = cached_features(dataset, "front", extractor, on_frame=lambda done, of: seen.append((done, of)))
    assert seen == []
    np.testing.assert_array_equal(again, found)
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 0
    wrist = cached_features(dataset, "wrist", extractor)
    assert not np.array_equal(wrist, found)


def test_changed_videos_and_other_encoders_get_files_of_their_own(dataset, extractor, tmp_path):
    folder = tmp_path / "cache"
    cached_features(dataset, "front", extractor, folder)
    cached_features(dataset, "front", load_features(replace(FEATURES, seed=1)), folder)
    assert len(list(folder.glob("front-*.npy"))) == 2
    # the same frames in another place are the same content
    copied = EpisodeDataset(shutil.copytree(dataset.path, tmp_path / "copy"), square_contract())
    cached_features(copied, "front", extractor, folder)
    assert len(list(folder.glob("front-*.npy"))) == 2
    first, other = (copied.episodes[i].videos["front"][0] for i in (0, 2))
    shutil.copyfile(other, first)  # a longer video of the same kind
    cached_features(copied, "front", extractor, folder)
    assert len(list(folder.glob("front-*.npy"))) == 3


def test_an_interruption_leaves_nothing_that_looks_whole(dataset, extractor, tmp_path):
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(dataset, "front", extractor, tmp_path, batch=4, on_frame=interrupt)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [".lock"]
    assert len(cached_features(dataset, "front", extractor, tmp_path)) == 16


def test_missing_video_is_named(dataset, extractor):
    file, _ = dataset.episodes[1].videos["wrist"]
    file.unlink()
    with pytest.raises(DataError, match=rf"{file.name} cannot be read"):
        cached_features(dataset, "wrist", extractor)
