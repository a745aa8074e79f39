"""Labels beside a dataset: what they say, that they don't depend on how they were made, and what is refused."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from labelled_squares import CODES, save_action_model, save_image_model
from moving_square import FEATURES, SMALL, square_contract, write_squares

from lavla_ros.outputs import OutputError, sole_writer
from lavla_ros.policy.checkpoint import CheckpointError
from training import system_resources
from training.dataset import DatasetError, EpisodeDataset, layout
from training.latent_actions import labelling
from training.latent_actions.action_model import ActionLatentModel
from training.latent_actions.checkpoint import content_hash, load_latent_model
from training.latent_actions.features import FeatureExtractor, cached_features, load_features
from training.latent_actions.image_model import ImageLatentModel
from training.latent_actions.label_shard import _ActionLabeller, _write_shard, pairs, quantizer_of
from training.latent_actions.labelling import label
from training.latent_actions.labels import (
    LabelError,
    dataset_hash,
    label_sets,
    labels_in_use,
    labels_of,
    read_labels,
)
from training.system_resources import RoomError
from training.task_pool import Workers

LENGTHS = (9, 1, 70, 2, 12)
"""One step, fewer than δ, more than a batch of 64."""
ONE = Workers(jobs=1)


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("labels") / "squares", LENGTHS)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, squares: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "action": save_action_model(root / "action", squares),
        "image": save_image_model(root / "image", squares),
    }


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, squares: Path, models: dict[str, Path]) -> Path:
    """Labelled by both models, several shards each, in this process."""
    data = Path(shutil.copytree(squares, tmp_path_factory.mktemp("whole") / "data"))
    for model in models.values():
        label(data, model, workers=ONE, shard_steps=20)
    return data


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


def content(folder: Path) -> dict[str, str]:
    files = [p for p in folder.iterdir() if p.name != ".lock"]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


# ---------------------------------------------------------------------- what they say


def test_image_labels_are_of_each_step_and_the_one_delta_later(whole: Path, models: dict[str, Path]) -> None:
    model = load_latent_model(models["image"], ImageLatentModel)
    dataset = EpisodeDataset(whole, square_contract())
    extractor = load_features(model.config.features)
    codebook_Kd = quantizer_of(model).codebook_Kd.detach().numpy()
    found = read_labels(whole, ["z_img", "c_img"])
    assert found["z_img"].shape == (94, 4) and found["z_img"].dtype == np.int16
    assert found["c_img"].shape == (94, 4, 8) and found["c_img"].dtype == np.float16
    for step in range(94):
        episode = dataset.episodes[int(dataset.episode_of[step])]
        later = min(step + SMALL.delta, episode.first + episode.length - 1)
        images = np.stack([dataset[i].images["front"] for i in (step, later)])
        now, future = torch.from_numpy(extractor.extract(images)).float().split(1)
        with torch.no_grad():
            c, z = model.encode(now, future)[0].numpy(), model.tokenize(now, future)[0].numpy()
        np.testing.assert_allclose(found["c_img"][step], c, atol=2e-3, rtol=2e-3)
        # Of two codes that are as near, batches of another size may take the other: 0.2% of a distance was seen.
        distance_TK = np.linalg.norm(codebook_Kd - c[:, None], axis=-1)
        assert (distance_TK[range(4), found["z_img"][step]] <= distance_TK[range(4), z] + 1e-4).all()
    assert len(np.unique(found["z_img"])) > 1


def test_code_vectors_are_the_codebooks_and_old_sets_get_them_without_being_made_again(
    data: Path, models: dict[str, Path]
) -> None:
    model = load_latent_model(models["image"], ImageLatentModel)
    found = read_labels(data, ["e_img", "z_img"])
    assert list(found) == ["e_img", "z_img"] and found["e_img"].shape == (94, 4, 8)
    vectors = quantizer_of(model).codes_to_values(torch.from_numpy(found["z_img"].astype(np.int64)))
    np.testing.assert_allclose(found["e_img"], vectors, atol=2e-3, rtol=2e-3)
    manifest = data / "latent/image/manifest.json"
    before = content(data / "latent/image")
    plain = layout.read_json(manifest)
    layout.write_json(manifest, {key: value for key, value in plain.items() if key != "codebook"})
    assert set(read_labels(data, ["z_img", "c_img"])) == {"z_img", "c_img"}
    with pytest.raises(LabelError, match=r"do not say which vectors.*lavla latent label"):
        read_labels(data, ["e_img"])
    report = label(data, models["image"], workers=ONE, shard_steps=20)
    assert report.reused == report.shards and content(data / "latent/image") == before


def test_a_policy_can_say_what_its_labels_were_made_of(whole: Path, models: dict[str, Path]) -> None:
    used = labels_in_use(whole, ["z_img", "c_img", "z_act"])
    assert set(used) == {"image", "action"}
    assert used["image"]["model_hash"] == content_hash(models["image"])
    assert used["image"]["settings"]["action_weight"] == 0.5
    assert used["action"]["data_hash"] == dataset_hash(whole)


def test_action_labels_are_those_of_the_chunk_that_begins_at_the_step(whole: Path, models: dict[str, Path]) -> None:
    model = load_latent_model(models["action"], ActionLatentModel)
    dataset = EpisodeDataset(whole, square_contract())
    found = read_labels(whole, ["c_act", "z_act"])
    assert list(found) == ["c_act", "z_act"]
    assert found["z_act"].shape == (94, 4) and found["c_act"].shape == (94, 4, 16)
    for step in range(94):
        chunk, _ = dataset.chunk(step)
        np.testing.assert_array_equal(found["z_act"][step], model.encode_raw(chunk, dataset.states[step]))
        with torch.no_grad():
            c = model.encode(model.normalise(chunk[None], dataset.states[step][None]))[0].numpy()
        np.testing.assert_allclose(found["c_act"][step], c, atol=2e-3, rtol=2e-3)
    assert len(np.unique(found["z_act"])) > 1


@pytest.mark.parametrize("length", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("delta", [1, 2, 6, 30])
@pytest.mark.parametrize("block", [1, 4, 64])
def test_pairs_are_steps_and_their_later_ones(length: int, delta: int, block: int) -> None:
    rows = np.arange(length, dtype=np.float16)[:, None]
    found = list(pairs((rows[i : i + block] for i in range(0, length, block)), delta))
    now, future = (np.concatenate([pair[i] for pair in found])[:, 0] for i in (0, 1))
    np.testing.assert_array_equal(now, np.arange(length))
    np.testing.assert_array_equal(future, np.minimum(np.arange(length) + delta, length - 1))
    assert max(len(pair[0]) for pair in found) <= max(delta, block)


def test_the_manifest_says_where_labels_come_from(whole: Path, models: dict[str, Path]) -> None:
    sets = label_sets(whole)
    assert list(sets) == ["action", "image"]
    image = sets["image"]
    assert (image.model, image.data_hash, image.steps) == (str(models["image"]), dataset_hash(whole), 94)
    trained = {"seed": 0, "action_weight": 0.5}  # as training.json says
    assert (image.settings, image.codebook_size) == ({"camera": "front", "delta": 2, **trained}, 6)
    assert [(s.first_episode, s.episodes, s.first_step, s.steps) for s in image.shards] == [
        (0, 3, 0, 80),
        (3, 2, 80, 14),
    ]
    assert sets["action"].settings == {"chunk_size": 4, "seed": 0} and sets["action"].codebook_size == CODES
    table = pq.read_table(whole / "latent/image/part-00001.parquet")
    assert table.column_names == ["index", "z_img", "c_img"] and table["index"].to_pylist() == list(range(80, 94))
    folder, manifest = labels_of(whole, models["image"])
    assert (folder, manifest) == (whole / "latent/image", image)


def test_features_that_training_left_are_used(
    squares: Path, models: dict[str, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(squares, tmp_path / "data"))
    cached_features(EpisodeDataset(data, square_contract()), "front", load_features(FEATURES), batch=7)

    def extract(*_: object) -> None:
        raise AssertionError("features are computed again")

    monkeypatch.setattr(FeatureExtractor, "extract", extract)
    label(data, models["image"], workers=ONE)
    found, wanted = read_labels(data, ["z_img", "c_img"]), read_labels(whole, ["z_img", "c_img"])
    np.testing.assert_array_equal(found["z_img"], wanted["z_img"])
    np.testing.assert_allclose(found["c_img"], wanted["c_img"], atol=2e-3, rtol=2e-3)


def test_codes_alone(squares: Path, models: dict[str, Path], whole: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(squares, tmp_path / "data"))
    report = label(data, models["action"], codes_only=True, workers=ONE)
    np.testing.assert_array_equal(read_labels(data, ["z_act"])["z_act"], read_labels(whole, ["z_act"])["z_act"])
    assert report.health.tokens == 94 * 4 and report.health.size == CODES
    with pytest.raises(LabelError, match="no labels 'c_act'"):
        read_labels(data, ["z_act", "c_act"])


# ---------------------------------------------------------------------- how they are made


def test_codes_in_bfloat16_are_held_against_those_in_float32(
    squares: Path, models: dict[str, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(squares, tmp_path / "data"))
    said: list[str] = []
    monkeypatch.setattr(labelling, "LEAST_AGREEMENT", 1.01)
    with pytest.raises(LabelError, match=r"codes are others than in float32; .*: label with precision float32"):
        label(data, models["image"], precision="bfloat16", workers=ONE, shard_steps=20)
    monkeypatch.undo()
    label(data, models["image"], precision="bfloat16", workers=ONE, shard_steps=20, log=said.append)
    assert re.search(r"in bfloat16 (9\d|100)\.\d% of the first episode's codes are those of float32", said[-1])
    found, wanted = (read_labels(path, ["z_img", "c_img"]) for path in (data, whole))
    assert (found["z_img"] == wanted["z_img"]).mean() > 0.9
    assert not np.array_equal(found["c_img"], wanted["c_img"])
    np.testing.assert_allclose(found["c_img"], wanted["c_img"], atol=0.1)
    again = label(data, models["image"], workers=ONE, shard_steps=20)
    assert again.reused == 0 and content(data / "latent/image") == content(whole / "latent/image")
    label(data, models["action"], precision="bfloat16", workers=ONE, shard_steps=20)
    assert content(data / "latent/action") == content(whole / "latent/action"), "always in float32"


def test_bytes_do_not_depend_on_the_number_of_processes(
    squares: Path, models: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(squares, tmp_path / "data"))
    report = label(data, models["image"], workers=Workers(jobs=2), shard_steps=20)
    assert (report.shards, report.reused, report.steps) == (2, 0, 94)
    assert content(data / "latent/image") == content(whole / "latent/image")


def test_only_what_is_missing_is_computed_again(data: Path, models: dict[str, Path], whole: Path) -> None:
    folder = data / "latent/action"
    (folder / "part-00001.parquet").unlink()
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    (folder / "part-00001.parquet.feed.tmp").write_bytes(b"half")
    kept = (folder / "part-00000.parquet").stat().st_ino
    with pytest.raises(LabelError, match=r"latent/action are partial: 1 of 2 shards .*lavla latent label .* to go on"):
        read_labels(data, ["z_act"])
    progress: list[tuple[int, int]] = []
    report = label(data, models["action"], workers=ONE, shard_steps=20, progress=lambda *f: progress.append(f))
    assert (report.reused, progress) == (1, [(1, 1)])
    assert (folder / "part-00000.parquet").stat().st_ino == kept
    assert content(folder) == content(whole / "latent/action")
    assert label(data, models["action"], workers=ONE, shard_steps=20).reused == 2


def _label_slowly(data: Path, model: Path) -> None:
    label(data, model, workers=ONE, shard_steps=1, progress=lambda done, total: time.sleep(0.1))


def test_a_killed_run_goes_on_where_it_was(models: dict[str, Path], tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data", [3] * 12)
    fresh = Path(shutil.copytree(data, tmp_path / "fresh"))
    child = multiprocessing.get_context("fork").Process(target=_label_slowly, args=(data, models["image"]))
    child.start()
    folder = data / "latent/image"
    deadline = time.monotonic() + 60
    while len(list(folder.glob("part-*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    child.kill()
    child.join()
    done = len(list(folder.glob("part-*.parquet")))
    assert 3 <= done < 12
    with pytest.raises(LabelError, match=rf"partial: {done} of 12"):
        read_labels(data, ["z_img"])
    report = label(data, models["image"], workers=ONE, shard_steps=1)
    assert (report.reused, report.shards) == (done, 12)
    label(fresh, models["image"], workers=ONE, shard_steps=1)
    assert content(folder) == content(fresh / "latent/image")


def test_two_runs_on_one_set_do_not_meet(data: Path, models: dict[str, Path]) -> None:
    with sole_writer(data / "latent/action"), pytest.raises(OutputError, match="being written by another process"):
        label(data, models["action"], workers=ONE)


# ---------------------------------------------------------------------- what is refused


def _rewrite_a_byte(file: Path) -> None:
    """Another content, of the same size and time."""
    stat = file.stat()
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    "file",
    [
        "videos/observation.images.wrist/chunk-000/file-002.mp4",
        "data/chunk-000/file-001.parquet",
        "meta/tasks.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
    ],
)
def test_a_byte_of_the_data_makes_labels_stale(data: Path, file: str) -> None:
    before = dataset_hash(data)
    assert set(read_labels(data, ["z_img", "z_act"], before)) == {"z_img", "z_act"}
    _rewrite_a_byte(data / file)
    assert dataset_hash(data) != before
    with pytest.raises(LabelError, match=rf"latent/image are stale: .* data {before}.*run `lavla latent label"):
        read_labels(data, ["z_img"])


def test_the_hash_is_of_the_data_and_not_of_labels_or_reports(data: Path, whole: Path) -> None:
    shutil.rmtree(data / "latent")
    (data / "meta/stats.json").unlink()
    assert dataset_hash(data) == dataset_hash(whole) == dataset_hash(EpisodeDataset(whole, square_contract()))
    with pytest.raises(LabelError, match="not a LeRobotDataset"):
        dataset_hash(data / "videos")


def test_a_model_that_changed_makes_labels_stale_and_labelling_again_mends_it(
    data: Path, squares: Path, tmp_path: Path
) -> None:
    model = save_action_model(tmp_path / "model", squares, seed=1)
    said: list[str] = []
    label(data, model, workers=ONE, shard_steps=20, log=said.append)
    assert "replaced" in said[0]
    before = read_labels(data, ["z_act"])["z_act"]
    save_action_model(model, squares, seed=2)
    with pytest.raises(LabelError, match=rf"stale: the model {model} has changed"):
        read_labels(data, ["z_act"])
    with pytest.raises(LabelError, match="no labels of the model"):
        labels_of(data, model)
    label(data, model, workers=ONE)  # other shards, too
    assert (read_labels(data, ["z_act"])["z_act"] != before).any()
    assert len(list((data / "latent/action").glob("part-*"))) == 1
    (model / "model.safetensors").unlink()
    with pytest.raises(LabelError, match="is damaged"):
        read_labels(data, ["z_act"])
    shutil.rmtree(model)  # gone is not changed
    read_labels(data, ["z_act"])


def test_missing_and_ambiguous_labels_are_named(data: Path, squares: Path, models: dict[str, Path]) -> None:
    with pytest.raises(LabelError, match=r"no labels 'z_img' \(label sets there: none\).*an image latent action model"):
        read_labels(squares, ["z_img"])
    label(data, models["action"], name="again", codes_only=True, workers=ONE)
    with pytest.raises(LabelError, match=r"several sets .*\['action', 'again'\]"):
        read_labels(data, ["z_act"])
    again, first = (read_labels(data, ["z_act"], sets=[name])["z_act"] for name in ("again", "action"))
    np.testing.assert_array_equal(again, first)
    with pytest.raises(LabelError, match=r"no label sets \['other'\]"):
        read_labels(data, ["z_act"], sets=["other"])
    with pytest.raises(LabelError, match="can't be a label set's name"):
        label(data, models["action"], name="features", workers=ONE)


def test_another_codebook_size_is_refused(data: Path) -> None:
    assert read_labels(data, ["z_img"], codebooks={"z_img": 6})["z_img"].max() < 6
    with pytest.raises(LabelError, match=r"'z_img' .* codebook of 6 codes; expected 16"):
        read_labels(data, ["z_img"], codebooks={"z_img": 16})


def test_damaged_shards_are_refused(data: Path, whole: Path) -> None:
    folder = data / "latent/action"
    file = folder / "part-00000.parquet"
    _rewrite_a_byte(file)  # in the middle of a page of c_act
    with pytest.raises(LabelError, match=r"part-00000\.parquet cannot be read.*delete it"):
        read_labels(data, ["c_act"])
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(LabelError, match=r"part-00000\.parquet cannot be read"):
        read_labels(data, ["z_act"])
    shutil.copy(whole / "latent/image/part-00000.parquet", file)
    with pytest.raises(LabelError, match="not part of this label set"):
        read_labels(data, ["z_act"])
    file.unlink()
    with pytest.raises(LabelError, match=r"part-00000\.parquet cannot be read"):
        read_labels(data, ["z_act"])
    (folder / "manifest.json").write_text("{")
    with pytest.raises(LabelError, match=r"manifest\.json is not valid JSON"):
        read_labels(data, ["z_act"])


def test_impossible_labels_are_refused(data: Path) -> None:
    folder = data / "latent/image"
    manifest = label_sets(data)["image"]
    shard = manifest.shards[1]
    z, c = np.zeros((14, 4), np.int16), np.zeros((14, 4, 8), np.float16)
    z[3, 1] = 6
    c[13, 3, 7] = -np.inf
    _write_shard(folder, manifest, shard, {"z_img": z, "c_img": c})
    with pytest.raises(LabelError, match=r"part-00001\.parquet: z_img has codes 0 to 6; the codebook has 6"):
        read_labels(data, ["z_img"])
    with pytest.raises(LabelError, match=r"part-00001\.parquet: c_img has values that are not finite"):
        read_labels(data, ["c_img"])


def test_models_and_data_that_do_not_fit_are_refused(
    data: Path, squares: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save_image_model(tmp_path / "first", squares, config=replace(SMALL, stage=1))
    with pytest.raises(LabelError, match="stage 1"):
        label(data, first, workers=ONE)
    with pytest.raises(CheckpointError, match="not a directory"):
        label(data, tmp_path / "nowhere", workers=ONE)
    info = layout.read_json(data / layout.INFO)
    layout.write_json(data / layout.INFO, {**info, "fps": 20})
    with pytest.raises(DatasetError, match="20 fps"):
        label(data, models["action"], workers=ONE)
    layout.write_json(data / layout.INFO, info)
    shutil.rmtree(data / "latent")
    monkeypatch.setattr(system_resources, "free_disk", lambda folder: 1000)
    with pytest.raises(RoomError, match="labels of 94 steps"):
        label(data, models["action"], workers=ONE)
    assert not list(data.glob("latent/*/part*"))


def test_too_little_memory_is_said_before_anything_is_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_resources, "available_memory", lambda: 10)
    with pytest.raises(RoomError, match="reading c_act of 94 steps"):
        read_labels(data, ["c_act"])


def test_embeddings_beyond_half_precision_are_an_error(
    squares: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(squares, tmp_path / "data"))
    original: Any = _ActionLabeller.latents
    monkeypatch.setattr(_ActionLabeller, "latents", lambda self, e, p: (1e6 * c for c in original(self, e, p)))
    with pytest.raises(LabelError, match="float16 can't hold"), np.errstate(over="ignore"):
        label(data, models["action"], workers=ONE)
    assert not label_sets(data)["action"].complete
