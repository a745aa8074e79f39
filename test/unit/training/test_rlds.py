"""RLDS datasets, on shards written here as TFDS writes them: tensorboard frames the records, the messages are put
together byte by byte."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from synthetic_bags import picture
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as slow_masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter
from test_importers import ALONE, SIZE, assert_sound, close, resized, smooth, write

from lavla_ros import cli
from training.dataset import EpisodeDataset
from training.ingest import IngestError, IngestReport, ingest
from training.ingest.tfrecord import masked_crc32c

LENGTHS = ((6, 4), (5, 3, 7))
"""Steps of the episodes of each shard."""
IMAGE = "tensorflow_datasets.core.features.image_feature.Image"
TENSOR = "tensorflow_datasets.core.features.tensor_feature.Tensor"
TEXT = "tensorflow_datasets.core.features.text_feature.Text"


# ------------------------------------------------------------------ what TensorFlow would write


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features: dict[str, list[bytes] | np.ndarray]) -> bytes:
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            kind = field(1, b"".join(field(1, each) for each in values))
        elif values.dtype == np.int64:
            kind = field(3, field(1, b"".join(varint(int(v)) for v in values)))
        else:
            kind = field(2, field(1, values.astype("<f4").tobytes()))
        entries += field(1, field(1, name.encode()) + field(2, kind))
    return field(1, entries)


def images(length: int, number: int, camera: int, encoding: str) -> list[bytes]:
    found = []
    for step in range(length):
        bgr = cv2.cvtColor(picture(64, number, step, camera), cv2.COLOR_RGB2BGR)
        found.append(cv2.imencode(f".{encoding}", bgr)[1].tobytes())
    return found


def image(encoding: str) -> dict:
    return {
        "pythonClassName": IMAGE,
        "image": {"shape": {"dimensions": ["64", "64", "3"]}, "dtype": "uint8", "encodingFormat": encoding},
    }


def tensor(width: int, encoding: str = "none") -> dict:
    return {
        "pythonClassName": TENSOR,
        "tensor": {"shape": {"dimensions": [str(width)]}, "dtype": "float32", "encoding": encoding},
    }


def folder(node: dict) -> dict:
    return {"pythonClassName": "…FeaturesDict", "featuresDict": {"features": node}}


def libero_features() -> dict:
    observation = {"image": image("jpeg"), "wrist_image": image("jpeg"), "state": tensor(8)}
    observation["joint_state"] = tensor(7)
    return {"observation": folder(observation), "action": tensor(7), "language_instruction": {"pythonClassName": TEXT}}


def jaka_features() -> dict:
    observation = {"head_camera_image": image("png"), "low_cam_image": image("png"), "state": tensor(7)}
    return {"observation": folder(observation), "action": tensor(7), "language_instruction": {"pythonClassName": TEXT}}


def libero_episode(number: int, length: int) -> dict:
    rng = np.random.default_rng(number)
    return {
        "steps/observation/image": images(length, number, 0, "jpeg"),
        "steps/observation/wrist_image": images(length, number, 1, "jpeg"),
        "steps/observation/state": np.concatenate(
            [smooth(rng, length, 6), rng.uniform(0, 0.04, (length, 2)) * [1, -1]], axis=1
        ).ravel(),
        "steps/observation/joint_state": rng.normal(size=length * 7),
        "steps/action": np.clip(rng.normal(0, 0.3, length * 7), -1, 1),
        "steps/language_instruction": [f"put {number} there".encode()] * length,
        "steps/is_first": np.eye(1, length, dtype=np.int64)[0],
        "episode_metadata/file_path": [b"/somewhere/demo.hdf5"],
    }


def jaka_episode(number: int, length: int) -> dict:
    rng = np.random.default_rng(number)
    joints = np.clip(smooth(rng, length, 6), -2, 2)
    numbers = np.concatenate([joints, rng.uniform(0, 1, (length, 1))], axis=1).ravel()
    return {
        "steps/observation/head_camera_image": images(length, number, 0, "png"),
        "steps/observation/low_cam_image": images(length, number, 1, "png"),
        "steps/observation/state": numbers,
        "steps/action": numbers * 0.9,
        "steps/language_instruction": [b"stack the bowls"] * length,
    }


def dataset(
    root: Path, features: dict, episode: Callable[[int, int], dict], lengths=LENGTHS, split: str = "train"
) -> list[Path]:
    """Write a dataset; returns its shards."""
    root.mkdir(parents=True, exist_ok=True)
    steps = {"pythonClassName": "…Dataset", "sequence": {"feature": folder(features), "length": "-1"}}
    (root / "features.json").write_text(json.dumps(folder({"steps": steps})))
    info = {"name": "mine", "fileFormat": "tfrecord", "version": "1.0.0", "splits": []}
    info["splits"].append({"name": split, "shardLengths": [str(len(shard)) for shard in lengths]})
    (root / "dataset_info.json").write_text(json.dumps(info))
    shards, number = [], 0
    for place, shard in enumerate(lengths):
        file = root / f"mine-{split}.tfrecord-{place:05d}-of-{len(lengths):05d}"
        with file.open("wb") as opened:
            writer = RecordWriter(opened)
            for length in shard:
                writer.write(example(episode(number, length)))
                number += 1
        shards.append(file)
    return shards


def take(root: Path, out: Path, name: str = "libero", **said) -> IngestReport:
    return ingest("rlds", [root], out, contract=resized(name), options=said, workers=ALONE)


def edit(file: Path, name: str, value: object) -> None:
    """Replace every occurrence of a key in a JSON file."""

    def walk(node):
        if isinstance(node, dict):
            for key in node:
                node[key] = value if key == name else node[key]
                walk(node[key])
        elif isinstance(node, list):
            for each in node:
                walk(each)

    found = json.loads(file.read_text())
    walk(found)
    file.write_text(json.dumps(found))


# ------------------------------------------------------------------ what we read


@pytest.mark.parametrize("length", [0, 1, 8, 16383, 16384, 20000])
def test_checksums_are_those_of_the_format(length):
    data = np.random.default_rng(length).bytes(length)
    assert masked_crc32c(data) == slow_masked_crc32c(data)


def test_openvlas_modified_libero(tmp_path):
    root = tmp_path / "libero_object/1.0.0"
    dataset(root, libero_features(), libero_episode)
    contract = resized("libero")
    # the folder above, as it is downloaded
    report = take(root.parent, tmp_path / "out")
    assert [s.steps for s in report.sources] == [6, 4, 5, 3, 7] and report.rejected == {}
    assert [s.part for s in report.sources] == [1, 2, 1, 2, 3]
    found = EpisodeDataset(tmp_path / "out", contract)
    first, third = libero_episode(0, 6), libero_episode(2, 5)
    np.testing.assert_allclose(found.states[:6].ravel(), first["steps/observation/state"], rtol=1e-6)
    np.testing.assert_allclose(found.actions[10:15].ravel(), third["steps/action"], rtol=1e-6)
    assert found.instruction(10) == "put 2 there"
    for number, camera in enumerate(("agentview", "wrist")):
        # they stand as the policy is to see them, though the contract turns the simulator's
        expected = cv2.resize(picture(64, 0, 2, number), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        assert close(found[2].images[camera], expected)
    assert_sound(tmp_path / "out")


def test_the_papers_jaka_recordings_and_one_shard_alone(tmp_path, capsys):
    shards = dataset(tmp_path / "2_bowls", jaka_features(), jaka_episode)
    contract = resized("jaka_minicobo")
    given, out = str(write(tmp_path, contract)), str(tmp_path / "out")
    cli.main(["import", "rlds", str(shards[1]), "--contract", given, "--out", out, "--jobs", "1", "--json"])
    assert [s["steps"] for s in json.loads(capsys.readouterr().out)["sources"]] == [5, 3, 7]
    found = EpisodeDataset(tmp_path / "out", contract)
    np.testing.assert_allclose(found.actions[:5].ravel(), jaka_episode(2, 5)["steps/action"], rtol=1e-6)
    assert found.instruction(0) == "stack the bowls"
    # and the other shard later
    cli.main(["import", "rlds", str(shards[0]), "--contract", given, "--out", out, "--jobs", "1", "--resume"])
    assert len(EpisodeDataset(tmp_path / "out", contract)) == 25


def test_any_other_layout_by_a_mapping(tmp_path):
    features = jaka_features()
    inner = features["observation"]["featuresDict"]["features"]
    inner["top"], inner["joints"] = inner.pop("head_camera_image"), tensor(7, "zlib")

    def episode(number: int, length: int) -> dict:
        found = jaka_episode(number, length)
        found["steps/observation/top"] = found.pop("steps/observation/head_camera_image")
        rows = np.degrees(found.pop("steps/observation/state")).astype(np.float32).reshape(length, 7)
        found["steps/observation/joints"] = [zlib.compress(row.tobytes()) for row in rows]
        return found

    dataset(tmp_path / "mine", features, episode, ((6,),), split="demos")
    with pytest.raises(IngestError, match=r"no split 'train'; it has \['demos'\]"):
        take(tmp_path / "mine", tmp_path / "out", "jaka_minicobo")
    with pytest.raises(IngestError, match=r"layout of none of .*'observation/top': 'Image\[64, 64, 3\] uint8'"):
        take(tmp_path / "mine", tmp_path / "out", "jaka_minicobo", split="demos")
    names = resized("jaka_minicobo").state.names
    mapping = {
        "cameras": {"front": "observation/top", "wrist": "observation/low_cam_image"},
        "state": {n: {"column": f"observation/joints/{i}", "scale": np.pi / 180} for i, n in enumerate(names)},
        "action": {n: f"action/{n}" for n in names},
        "names": {"action": list(names)},
    }
    file = tmp_path / "mapping.yaml"
    file.write_text(yaml.safe_dump(mapping))
    said = {"split": "demos", "mapping": file, "instruction": "wipe"}
    take(tmp_path / "mine", tmp_path / "out", "jaka_minicobo", **said)
    found = EpisodeDataset(tmp_path / "out", resized("jaka_minicobo"))
    np.testing.assert_allclose(found.states.ravel(), jaka_episode(0, 6)["steps/observation/state"], rtol=1e-5)
    assert found.instruction(0) == "wipe"
    file.write_text(yaml.safe_dump(mapping | {"rate_hz": 15}))
    with pytest.raises(IngestError, match="15 steps per second; contract 'jaka_minicobo' has rate_hz 10"):
        take(tmp_path / "mine", tmp_path / "other", "jaka_minicobo", **said)
    file.write_text(yaml.safe_dump(mapping | {"cameras": {"front": "observation/top", "wrist": "observation/no"}}))
    with pytest.raises(IngestError, match="no Image 'observation/no'"):
        take(tmp_path / "mine", tmp_path / "other", "jaka_minicobo", **said)


# ------------------------------------------------------------------ bad input


def test_of_a_shard_cut_off_what_was_before_the_cut_is_kept_and_the_rest_named(tmp_path):
    shards = dataset(tmp_path / "mine", libero_features(), libero_episode)
    data = shards[1].read_bytes()
    shards[1].write_bytes(data[:-100])
    report = take(tmp_path / "mine", tmp_path / "out")
    assert [s.steps for s in report.sources] == [6, 4, 5, 3, 0]
    lost = str(report.sources[-1].rejected)
    assert lost.startswith(f"damaged: the file is cut off at byte {len(data) - 100}: the record at byte")
    assert lost.endswith("its episodes 3 to 3 are lost")
    assert_sound(tmp_path / "out")
    # when it is whole again, what was lost is added
    shards[1].write_bytes(data)
    again = ingest(
        "rlds", [tmp_path / "mine"], tmp_path / "out", contract=resized("libero"), workers=ALONE, resume=True
    )
    assert again.steps == 25 and again.rejected == {}


def test_wrong_checksums_and_missing_files(tmp_path):
    shards = dataset(tmp_path / "mine", libero_features(), libero_episode, ((6, 4, 3), (5, 3), (4,), (2, 2)))
    data = bytearray(shards[0].read_bytes())
    first = len(example(libero_episode(0, 6))) + 16
    data[first + 500] ^= 1  # in the second record's data: only this one is lost
    shards[0].write_bytes(data)
    data = bytearray(shards[1].read_bytes())
    data[3] ^= 1  # the first record's length: where the next begins is unknown
    shards[1].write_bytes(data)
    shards[2].unlink()
    with shards[3].open("wb") as opened:
        RecordWriter(opened).write(example(libero_episode(8, 2)))
    report = take(tmp_path / "mine", tmp_path / "out")
    assert [(s.part, s.steps) for s in report.sources] == [(1, 6), (2, 0), (3, 3), (0, 0), (0, 0), (1, 2), (0, 0)]
    reasons = [str(s.rejected) for s in report.sources if s.rejected]
    assert reasons[0] == f"damaged: the checksum of the record at byte {first} is wrong"
    assert "no record begins at byte 0: the checksum of its length is wrong; its episodes 1 to 2" in reasons[1]
    assert "the file is missing; its episodes 1 to 1 are lost" in reasons[2]
    assert "it has 1 episodes; its episodes 2 to 2 are lost; dataset_info.json says 2" in reasons[3]


def test_episodes_whose_features_do_not_fit_are_rejected_by_reason(tmp_path):
    def episode(number: int, length: int) -> dict:
        found = libero_episode(number, length)
        if number == 1:
            del found["steps/observation/wrist_image"]
        if number == 2:
            found["steps/observation/state"] = found["steps/observation/state"][:-3]
        if number == 3:
            found["steps/action"] = found["steps/action"][:-7]
        if number == 4:
            found["steps/observation/image"][1] = b"no picture"
        if number == 5:
            found["steps/observation/image"][0] = cv2.imencode(".png", np.zeros((9, 64, 3), np.uint8))[1].tobytes()
        if number == 6:
            found["steps/language_instruction"] = found["steps/language_instruction"][:-1]
        if number == 7:
            found["steps/action"][4] = np.nan
        if number == 8:
            found["steps/observation/wrist_image"].pop()
        return found

    dataset(tmp_path / "mine", libero_features(), episode, ((3,) * 9,))
    report = take(tmp_path / "mine", tmp_path / "out")
    reasons = [str(s.rejected) for s in report.sources[1:]]
    for reason, expected in zip(
        reasons,
        [
            "contract: the record has no 'steps/observation/wrist_image'; it has ['episode_metadata/file_path'",
            "shape: steps/observation/state has 21 numbers; features.json says 8 for each step",
            "shape: its features have different numbers of steps: {'action': 2, 'observation/state': 3}",
            "image: observation/image of step 1 cannot be decoded (10 bytes)",
            "shape: observation/image of step 0 is [9, 64, 3]; features.json says [64, 64, 3]",
            "shape: steps/language_instruction has 2 texts for 3 steps",
            "finite: action 'ay' is nan at step 0",
            "frames: camera 'wrist' has 2 frames for 3 steps",
        ],
        strict=True,
    ):
        assert reason.startswith(expected), reason
    assert report.episodes == 1
    assert_sound(tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("features.json", "encodingFormat", "jxl", "are encoded as 'jxl'; jpeg and png are known"),
        ("features.json", "encoding", "brotli", "is encoded as 'brotli'; none, bytes and zlib are known"),
        ("features.json", "dimensions", ["9"], r"'observation/state' has the shape \[9\]; expected 8"),
        ("features.json", "state", 1, "describes no episodes of steps"),
        ("features.json", "steps", {}, "describes no episodes of steps: it lacks 'sequence'"),
        ("dataset_info.json", "fileFormat", "array_record", "file format 'array_record'; only 'tfrecord'"),
        ("dataset_info.json", "shardLengths", ["x"], "is not what TFDS writes"),
    ],
)
def test_datasets_that_cannot_be_read_are_refused_before_work(tmp_path, file, key, value, message):
    dataset(tmp_path / "mine", libero_features(), libero_episode, ((2,),))
    edit(tmp_path / "mine" / file, key, value)
    with pytest.raises(IngestError, match=message):
        take(tmp_path / "mine", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_dataset(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(IngestError, match=r"no features\.json: not the folder of an RLDS dataset"):
        take(tmp_path / "mine", tmp_path / "out")
    dataset(tmp_path / "mine", libero_features(), libero_episode, ((2,),))
    with pytest.raises(IngestError, match="cameras lacks the contract's"):
        take(tmp_path / "mine", tmp_path / "out", "jaka_minicobo")
    (tmp_path / "mine/features.json").write_text("{")
    with pytest.raises(IngestError, match="cannot read"):
        take(tmp_path / "mine", tmp_path / "out")
