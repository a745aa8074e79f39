"""Importers, on small files in the layouts of LIBERO, RoboTwin and LeRobot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import cv2
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from synthetic_bags import picture
from synthetic_messages import small_contract

from lavla_ros import cli
from lavla_ros.contract import Contract, load_contract
from training.dataset import EpisodeDataset, check, layout
from training.ingest import IngestError, build_dataset, ingest
from training.ingest.lerobot import Camera, LeRobotMapping, find_lerobot, load_mapping
from training.ingest.libero import LiberoEpisode, LiberoFiles, instruction_of_name
from training.ingest.robotwin import RobotwinEpisode, RobotwinFiles
from training.task_pool import Workers

SIZE = 32
ALONE = Workers(jobs=1)


def find_libero(path: Path, *, rate_hz: float = 20.0, **said) -> list[LiberoEpisode]:
    return LiberoFiles(**said).find([path], replace(load_contract("libero"), rate_hz=rate_hz))


def find_robotwin(path: Path, **said) -> list[RobotwinEpisode]:
    return RobotwinFiles(**said).find([path], load_contract("robotwin_aloha"))


def resized(name: str, **changes) -> Contract:
    contract = load_contract(name)
    cameras = tuple(replace(camera, width=SIZE, height=SIZE) for camera in contract.cameras)
    return replace(contract, cameras=cameras, **changes)


def smooth(rng: np.random.Generator, length: int, width: int) -> np.ndarray:
    """(length, width) as an arm moves."""
    return rng.normal(0, 0.3, width) + np.cumsum(rng.normal(0, 0.02, (length, width)), axis=0)


def assert_sound(path: Path) -> None:
    report = check(path, deep=True)
    assert (report.errors, report.warnings) == ([], [])


def close(image: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for lossy coding."""
    return float(np.abs(image.astype(int) - expected.astype(int)).mean()) < 6


# ------------------------------------------------------------------ LIBERO


def libero_file(path: Path, lengths=(7, 5), *, original: bool, instruction: str | None = "put it there") -> Path:
    """``original``: as LIBERO's own script writes it, else as it was regenerated for OpenVLA."""
    rng = np.random.default_rng(len(lengths))
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if original:
            data.attrs["macros_image_convention"] = "opengl"
            data.attrs["problem_info"] = json.dumps({"language_instruction": [f'"{instruction}"']})
        for number in sorted(range(len(lengths)), key=str):
            length = lengths[number]
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = np.clip(rng.normal(0, 0.3, (length, 7)), -1, 1)
            demo["states"] = rng.normal(size=(length, 20))
            demo["robot_states"] = rng.normal(size=(length, 9))
            obs = demo.create_group("obs")
            ee = smooth(rng, length, 6)
            obs["ee_states"], obs["ee_pos"], obs["ee_ori"] = ee, ee[:, :3], ee[:, 3:]
            obs["gripper_states"] = rng.uniform(0, 0.04, (length, 2)) * [1, -1]
            obs["joint_states"] = rng.normal(size=(length, 7))
            for camera, key in enumerate(("agentview_rgb", "eye_in_hand_rgb")):
                obs[key] = np.array([picture(64, number, step, camera) for step in range(length)]).reshape(
                    length, 64, 64, 3
                )
            if original:
                demo.attrs["num_samples"] = length
    return path


def test_libero_pairs_observations_with_the_action_decided_on_them(tmp_path):
    contract = resized("libero")
    for original in (True, False):
        file = libero_file(tmp_path / f"{original}/KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5", original=original)
        report = build_dataset(find_libero(file.parent), tmp_path / f"out{original}", contract, workers=ALONE)
        shift = int(original)
        assert [s.steps for s in report.sources] == [7 - shift, 5 - shift] and report.rejected == {}
        dataset = EpisodeDataset(tmp_path / f"out{original}", contract)
        with h5py.File(file) as source:
            demo = source["data/demo_0"]
            length = 7 - shift
            np.testing.assert_allclose(dataset.actions[:length], demo["actions"][shift:], rtol=1e-6)
            expected = np.concatenate([demo["obs/ee_states"][:length], demo["obs/gripper_states"][:length]], axis=1)
            np.testing.assert_allclose(dataset.states[:length], expected, rtol=1e-6)
        sample = dataset[2]
        assert sample.instruction == ("put it there" if original else "turn on the stove")
        for number, camera in enumerate(("agentview", "wrist")):
            turned = picture(64, 0, 2, number)[::-1, ::-1]
            assert close(sample.images[camera], cv2.resize(turned, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
        assert_sound(tmp_path / f"out{original}")


def test_libero_demonstrations_are_in_order_of_their_numbers(tmp_path, capsys):
    libero_file(tmp_path / "a_demo.hdf5", lengths=tuple(range(3, 15)), original=False)
    assert [e.demo for e in find_libero(tmp_path)] == [f"demo_{i}" for i in range(12)]
    contract = str(write(tmp_path, resized("libero")))
    out = str(tmp_path / "out")
    cli.main(["import", "libero", str(tmp_path), "--out", out, "--contract", contract, "--jobs", "2", "--json"])
    assert [source["steps"] for source in json.loads(capsys.readouterr().out)["sources"]] == list(range(3, 15))
    # the report is in the dataset too
    assert json.loads((tmp_path / "out" / layout.CONVERSION).read_text())["episodes"] == 12


def write(folder: Path, contract: Contract) -> Path:
    import yaml

    path = folder / "contract.yaml"
    path.write_text(yaml.safe_dump(contract.to_dict()))
    return path


def test_names_of_libero_files_become_instructions():
    assert instruction_of_name("LIVING_ROOM_SCENE10_put_both_pots_on_it_demo.hdf5") == "put both pots on it"
    assert instruction_of_name("pick_up_the_milk_and_place_it_in_the_basket_demo.hdf5") == (
        "pick up the milk and place it in the basket"
    )


def test_a_contract_may_ask_for_joints_and_what_libero_lacks_is_named(tmp_path):
    contract = resized("libero")
    fields = tuple(replace(contract.state.fields[0], name=f"joint_{i}", unit="rad") for i in (3, 1))
    joints = replace(contract, state=replace(contract.state, fields=fields))
    file = libero_file(tmp_path / "a_demo.hdf5", original=False)
    build_dataset(find_libero(file), tmp_path / "out", joints, workers=ALONE)
    with h5py.File(file) as source:
        expected = source["data/demo_0/obs/joint_states"][()][:, [2, 0]]  # by name, never by place
    np.testing.assert_allclose(EpisodeDataset(tmp_path / "out", joints).states[:7], expected, rtol=1e-6)
    unknown = replace(contract, state=replace(contract.state, fields=(replace(fields[0], name="elbow"),)))
    with pytest.raises(IngestError, match=r"contract: the source has no state \['elbow'\]; it has .*joint_7"):
        build_dataset(find_libero(file), tmp_path / "other", unknown, workers=ALONE)
    assert not (tmp_path / "other").exists()


def test_bad_libero_episodes_are_rejected_whole_and_by_reason(tmp_path):
    file = libero_file(tmp_path / "a_demo.hdf5", lengths=(6, 6, 6, 6, 6, 1, 0), original=True)
    with h5py.File(file, "r+") as opened:
        data = opened["data"]
        data["demo_1/actions"][3, 2] = np.nan
        data["demo_2/actions"][1, 6] = 1.5
        del data["demo_3/obs/eye_in_hand_rgb"]
        data["demo_3/obs/eye_in_hand_rgb"] = np.zeros((4, 64, 64, 3), np.uint8)
        del data["demo_4/obs/ee_states"]
    report = build_dataset(find_libero(file), tmp_path / "out", resized("libero"), workers=ALONE)
    reasons = [s.rejected for s in report.sources]
    assert reasons[0] is None and report.sources[0].episode == 0
    assert str(reasons[1]) == "finite: action 'z' is nan at step 2"
    assert str(reasons[2]).startswith("range: action 'gripper' is 1.5 at step 0; the contract has [-1, 1]")
    assert str(reasons[3]).startswith("frames: camera 'wrist' has 3 frames for 5 steps")
    assert str(reasons[4]).startswith("contract: the source has no state ['eef_x'")
    assert str(reasons[5]).startswith("short:") and str(reasons[6]).startswith("short:")
    assert report.rejected == {"finite": 1, "range": 1, "frames": 1, "contract": 1, "short": 2}
    assert "rejected" in str(report)
    assert_sound(tmp_path / "out")


def test_files_that_are_not_liberos_are_refused(tmp_path):
    with pytest.raises(IngestError, match=r"no \*\.hdf5"):
        find_libero(tmp_path)
    (tmp_path / "a.hdf5").write_bytes(b"nonsense")
    with pytest.raises(IngestError, match=r"a\.hdf5 cannot be read"):
        find_libero(tmp_path)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["other"] = 1
    with pytest.raises(IngestError, match="no data/demo_0"):
        find_libero(tmp_path)
    file = libero_file(tmp_path / "b/b_demo.hdf5", original=True)
    with h5py.File(file, "r+") as opened:
        opened["data"].attrs["macros_image_convention"] = "opencv"
    with pytest.raises(IngestError, match="'opencv'"):
        find_libero(file)
    assert find_libero(file, upright=True)[0].upright
    with h5py.File(file, "r+") as opened:
        opened["data"].attrs["macros_image_convention"] = "opengl"
        opened["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 10}})
    with pytest.raises(IngestError, match="leave --upright out"):
        find_libero(file, upright=True)
    with pytest.raises(IngestError, match="recorded at 10 Hz; the contract has rate_hz 20"):
        find_libero(file, rate_hz=20.0)
    assert find_libero(file, rate_hz=10.0)


def test_libero_pictures_that_were_turned_before_are_not_turned_again(tmp_path):
    file = libero_file(tmp_path / "a_demo.hdf5", original=False)
    contract = resized("libero")
    build_dataset(find_libero(file, upright=True), tmp_path / "out", contract, workers=ALONE)
    expected = cv2.resize(picture(64, 0, 2, 0), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    assert close(EpisodeDataset(tmp_path / "out", contract)[2].images["agentview"], expected)
    with pytest.raises(IngestError, match=r"robotwin has no option \['upright'\]; it has \['instruction'\]"):
        ingest("robotwin", [file], tmp_path / "two", options={"upright": True})


def test_pictures_are_enlarged_only_if_it_is_asked_for(tmp_path):
    file = libero_file(tmp_path / "x_demo.hdf5", original=False)
    contract = resized("libero")
    larger = tuple(replace(camera, width=66, height=62) for camera in contract.cameras)
    contract = replace(contract, cameras=larger)
    with pytest.raises(IngestError) as refused:
        ingest("libero", [file], tmp_path / "refused", contract=contract)
    said = str(refused.value.report)
    assert "image: camera 'agentview': the pictures would be enlarged from 64×64 to 66×62" in said
    assert "--enlarge" in said
    taken = tmp_path / "taken"
    given = str(write(tmp_path, contract))
    cli.main(["import", "libero", str(file), "--contract", given, "--out", str(taken), "--enlarge", "--jobs", "1"])
    assert len(EpisodeDataset(taken, contract)) == 12


def test_an_output_that_exists_is_never_touched(tmp_path):
    file = libero_file(tmp_path / "a_demo.hdf5", original=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("")
    with pytest.raises(IngestError, match="exists already"):
        build_dataset(find_libero(file), tmp_path / "out", resized("libero"), workers=ALONE)
    assert (tmp_path / "out/mine").exists()


# ------------------------------------------------------------------ RoboTwin


def coloured(step: int, camera: int) -> np.ndarray:
    """A picture whose channels differ strongly: a swap of red and blue shows."""
    image = picture(64, 0, step, camera)
    return np.ascontiguousarray(np.stack([image[:, :, 0] // 2 + 120, image[:, :, 1], image[:, :, 2] // 4], axis=2))


def jpegs(length: int, camera: int) -> np.ndarray:
    """Encoded as RoboTwin does: the encoder takes the RGB array for BGR."""
    codes = [cv2.imencode(".jpg", coloured(step, camera))[1].tobytes() for step in range(length)]
    return np.array(codes, dtype=f"S{max(map(len, codes))}")


def robotwin_stable(folder: Path, lengths=(6, 4)) -> Path:
    """The layout of the branch stable_2.0."""
    (folder / "data").mkdir(parents=True)
    (folder / "instructions").mkdir()
    rng = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        with h5py.File(folder / f"data/episode{number}.hdf5", "w") as file:
            left, right = smooth(rng, length, 6), smooth(rng, length, 6)
            grippers = rng.uniform(0, 1, (2, length))
            action = file.create_group("joint_action")
            action["left_arm"], action["left_gripper"] = left, grippers[0]
            action["right_arm"], action["right_gripper"] = right, grippers[1]
            action["vector"] = np.concatenate([left, grippers[:1].T, right, grippers[1:].T], axis=1)
            for camera, name in enumerate(("head_camera", "left_camera", "right_camera")):
                file[f"observation/{name}/rgb"] = jpegs(length, camera)
        seen = [f"task {number} in words {i}" for i in range(3)]
        (folder / f"instructions/episode{number}.json").write_text(json.dumps({"seen": seen, "unseen": ["no"]}))
    return folder


def test_robotwins_action_is_the_next_target_and_its_colours_are_rgb(tmp_path):
    contract = resized("robotwin_aloha")
    source = robotwin_stable(tmp_path / "task/demo_clean")
    report = ingest("robotwin", [source], tmp_path / "out", contract=str(write(tmp_path, contract)), workers=ALONE)
    assert [s.steps for s in report.sources] == [5, 3]
    dataset = EpisodeDataset(tmp_path / "out", contract)
    with h5py.File(source / "data/episode0.hdf5") as file:
        vector = file["joint_action/vector"][()]
    np.testing.assert_allclose(dataset.states[:5], vector[:-1], rtol=1e-6)
    np.testing.assert_allclose(dataset.actions[:5], vector[1:], rtol=1e-6)
    assert [dataset.instruction(i) for i in (0, 5)] == ["task 0 in words 0", "task 1 in words 1"]
    # the others that RoboTwin gives to train on; never those that it evaluates with
    assert dataset.phrasings(0) == tuple(f"task 0 in words {i}" for i in (0, 1, 2))
    assert dataset.phrasings(1) == tuple(f"task 1 in words {i}" for i in (1, 2, 0))
    sample = dataset[3]
    for camera, name in enumerate(("head", "left_wrist", "right_wrist")):
        expected = cv2.resize(coloured(3, camera), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        assert close(sample.images[name], expected)
        assert sample.images[name][:, :, 0].mean() > sample.images[name][:, :, 2].mean() + 50, "red and blue swapped"
    assert_sound(tmp_path / "out")


def test_robotwins_newer_layout_gives_the_same(tmp_path):
    contract = resized("robotwin_aloha")
    stable = robotwin_stable(tmp_path / "stable", lengths=(6,))
    newer = tmp_path / "newer/data/episode_0000000.hdf5"
    newer.parent.mkdir(parents=True)
    with h5py.File(stable / "data/episode0.hdf5") as old, h5py.File(newer, "w") as file:
        file["instructions"] = json.dumps(["task 0 in words 0"])
        for key, name in (
            ("left_arm", "left_arm_joint_states"),
            ("left_gripper", "left_ee_joint_states"),
            ("right_arm", "right_arm_joint_states"),
            ("right_gripper", "right_ee_joint_states"),
        ):
            values = np.asarray(old[f"joint_action/{key}"], np.float32).reshape(6, -1)
            file[f"state/{name}"], file[f"action/{name}"] = values[:-1], values[1:]
        for camera, name in enumerate(("cam_head", "cam_left_wrist", "cam_right_wrist")):
            file[f"vision/{name}/colors"] = jpegs(6, camera)[:-1]
    one = build_dataset(find_robotwin(stable), tmp_path / "one", contract, workers=ALONE)
    two = build_dataset(find_robotwin(tmp_path / "newer"), tmp_path / "two", contract, workers=ALONE)
    assert one.steps == two.steps == 5
    a, b = EpisodeDataset(tmp_path / "one", contract), EpisodeDataset(tmp_path / "two", contract)
    assert np.array_equal(a.states, b.states) and np.array_equal(a.actions, b.actions)
    assert a.instruction(0) == b.instruction(0)
    for step in range(5):
        for camera in contract.camera_names:
            assert np.array_equal(a[step].images[camera], b[step].images[camera])


def test_robotwin_episodes_are_ordered_by_number_and_bad_ones_named(tmp_path):
    source = robotwin_stable(tmp_path / "task", lengths=(4,) * 11 + (1,))
    assert [int(e.file.stem[7:]) for e in find_robotwin(source)] == list(range(12))
    with h5py.File(source / "data/episode2.hdf5", "r+") as file:
        del file["observation/left_camera/rgb"]
        file["observation/left_camera/rgb"] = np.array([b"no picture"] * 4)
    with h5py.File(source / "data/episode3.hdf5", "r+") as file:
        del file["observation/right_camera"]
    with h5py.File(source / "data/episode5.hdf5", "r+") as file:
        file["joint_action/left_gripper"][1] = 1.2
    (source / "instructions/episode4.json").write_text(json.dumps({"seen": []}))
    report = build_dataset(find_robotwin(source), tmp_path / "out", resized("robotwin_aloha"), workers=ALONE)
    reasons = {i: s.rejected for i, s in enumerate(report.sources) if s.rejected}
    assert str(reasons[2]).startswith("image: frame 0 of camera 'left_wrist' is no JPEG")
    assert str(reasons[3]).startswith("frames: observation/right_camera/rgb is missing")
    assert str(reasons[4]).startswith("instruction:")
    assert str(reasons[5]).startswith("range: action 'left_gripper' is 1.2 at step 0")
    assert str(reasons[11]).startswith("short:") and len(reasons) == 5
    (source / "instructions/episode4.json").write_text("{")
    with pytest.raises(IngestError, match=r"instructions of .*episode4\.hdf5"):
        find_robotwin(source)
    assert find_robotwin(source, instruction="do it")[4].phrasings == ("do it",)


# ------------------------------------------------------------------ LeRobot

CONTRACT = small_contract(size=SIZE)
MAPPING = """
cameras: {front: observation.images.top, wrist: observation.images.hand}
state:
  a: observation.state/shoulder.pos
  b: {column: observation.state/elbow.pos, scale: 2.0, offset: 0.5}
  gripper: gripper_position
action:
  a: action/shoulder.pos
  b: {column: action/elbow.pos, scale: 2.0, offset: 0.5}
  gripper: {column: action/gripper.pos, scale: 0.01}
"""
LENGTHS = (6, 9, 4)


def lerobot_info(version: str, *, images: bool) -> dict:
    def camera(key: str) -> dict:
        dtype = "image" if images and key == "hand" else "video"
        return {"dtype": dtype, "shape": [64, 64, 3], "names": ["height", "width", "channels"]}

    legacy = version != "v3.0"
    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet" if legacy else layout.DATA_PATH
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    return {
        "codebase_version": version,
        "fps": 10,
        "chunks_size": 2 if legacy else 1000,
        "data_path": data,
        "video_path": video if legacy else layout.VIDEO_PATH,
        "features": {
            # not in the contract's order
            "observation.state": {"dtype": "float32", "shape": [2], "names": ["elbow.pos", "shoulder.pos"]},
            "gripper_position": {"dtype": "float32", "shape": [1], "names": None},
            "action": {
                "dtype": "float32",
                "shape": [3],
                "names": {"motors": ["gripper.pos", "elbow.pos", "shoulder.pos"]},
            },
            "observation.images.top": camera("top"),
            "observation.images.hand": camera("hand"),
            **{
                key: {"dtype": "int64", "shape": [1], "names": None}
                for key in ("episode_index", "frame_index", "index", "task_index")
            },
        },
    }


def video(path: Path, pictures: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"crf": "18", "g": "2"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for image in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())


def lerobot_dataset(root: Path, version: str, *, images: bool = False) -> Path:
    """Three episodes; in v3.0 all in one data file and one video per camera, as LeRobot's writer does."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    layout.write_json(root / "meta/info.json", lerobot_info(version, images=images))
    pictures = {
        c: [[picture(64, e, s, i) for s in range(n)] for e, n in enumerate(LENGTHS)] for i, c in enumerate("th")
    }
    tables, rows = [], []
    for episode, length in enumerate(LENGTHS):
        columns = {
            "observation.state": smooth(rng, length, 2).astype(np.float32).tolist(),
            "gripper_position": rng.uniform(0, 1, length).astype(np.float32),
            "action": np.column_stack([rng.uniform(0, 100, length), smooth(rng, length, 2)]).tolist(),
            "episode_index": [episode] * length,
            "frame_index": list(range(length)),
            "index": list(range(sum(LENGTHS[:episode]), sum(LENGTHS[: episode + 1]))),
            "task_index": [episode % 2] * length,
        }
        if images:
            codes = [cv2.imencode(".png", image[:, :, ::-1])[1].tobytes() for image in pictures["h"][episode]]
            columns["observation.images.hand"] = [{"bytes": code, "path": None} for code in codes]
        tables.append(pa.table(columns))
        rows.append({"episode_index": episode, "tasks": [f"task {episode % 2}"], "length": length})
    cameras = [("t", "observation.images.top")] + ([] if images else [("h", "observation.images.hand")])
    if version != "v3.0":
        for episode, table in enumerate(tables):
            where = f"chunk-{episode // 2:03d}"
            (root / f"data/{where}").mkdir(parents=True, exist_ok=True)
            pq.write_table(table, root / f"data/{where}/episode_{episode:06d}.parquet")
            for short, key in cameras:
                video(root / f"videos/{where}/{key}/episode_{episode:06d}.mp4", pictures[short][episode])
        tasks = [{"task_index": i, "task": f"task {i}"} for i in range(2)]
        (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        (root / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)) + "\n")
        return root
    layout.write_table(root / "data/chunk-000/file-000.parquet", pa.concat_tables(tables))
    for short, key in cameras:
        video(root / f"videos/{key}/chunk-000/file-000.mp4", [image for one in pictures[short] for image in one])
    for episode, row in enumerate(rows):
        first = sum(LENGTHS[:episode])
        row |= {"data/chunk_index": 0, "data/file_index": 0}
        for _, key in cameras:
            row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
            row |= {f"videos/{key}/from_timestamp": first / 10, f"videos/{key}/to_timestamp": first / 10 + 1}
    layout.write_tasks(root, ["task 0", "task 1"])
    layout.write_episodes(root, rows)
    return root


@pytest.fixture(scope="module")
def mapping(tmp_path_factory) -> LeRobotMapping:
    path = tmp_path_factory.mktemp("m") / "mapping.yaml"
    path.write_text(MAPPING)
    return load_mapping(path)


@pytest.mark.parametrize(
    ("version", "images"), [("v2.0", True), ("v2.1", False), ("v3.0", False), ("v3.0", True), ("v2.1", True)]
)
def test_lerobot_datasets_come_in_by_name(tmp_path, mapping, version, images):
    root = lerobot_dataset(tmp_path / "source", version, images=images)
    report = build_dataset(find_lerobot(root, CONTRACT, mapping), tmp_path / "out", CONTRACT, workers=ALONE)
    assert [s.steps for s in report.sources] == list(LENGTHS)
    dataset = EpisodeDataset(tmp_path / "out", CONTRACT)
    files = sorted((root / "data").rglob("*.parquet"))
    table = pa.concat_tables([pq.read_table(f) for f in files])
    state = np.array(table["observation.state"].to_pylist())
    action = np.array(table["action"].to_pylist())
    gripper = np.array(table["gripper_position"].to_pylist())
    np.testing.assert_allclose(
        dataset.states, np.column_stack([state[:, 1], state[:, 0] * 2 + 0.5, gripper]), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        dataset.actions,
        np.column_stack([action[:, 2], action[:, 1] * 2 + 0.5, action[:, 0] / 100]),
        rtol=1e-5,
        atol=1e-6,
    )
    assert [dataset.instruction(i) for i in (0, 6, 15)] == ["task 0", "task 1", "task 0"]
    for index, (episode, step) in ((0, (0, 0)), (7, (1, 1)), (14, (1, 8)), (15, (2, 0)), (18, (2, 3))):
        for number, camera in enumerate(("front", "wrist")):
            expected = cv2.resize(picture(64, episode, step, number), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            assert close(dataset[index].images[camera], expected), (index, camera)
    assert_sound(tmp_path / "out")


def test_our_own_dataset_comes_back_the_same(tmp_path, mapping):
    """What we write is LeRobot v3.0: it can be imported again under another contract."""
    root = lerobot_dataset(tmp_path / "source", "v3.0")
    build_dataset(find_lerobot(root, CONTRACT, mapping), tmp_path / "one", CONTRACT, workers=ALONE)
    again = LeRobotMapping(
        cameras={name: layout.video_key(name) for name in CONTRACT.camera_names},
        state={name: f"observation.state/{name}" for name in CONTRACT.state.names},
        action={name: f"action/{name}" for name in CONTRACT.action.names},
    )
    build_dataset(find_lerobot(tmp_path / "one", CONTRACT, again), tmp_path / "two", CONTRACT, workers=ALONE)
    one, two = EpisodeDataset(tmp_path / "one", CONTRACT), EpisodeDataset(tmp_path / "two", CONTRACT)
    assert np.array_equal(one.states, two.states) and np.array_equal(one.actions, two.actions)
    assert [e.length for e in one.episodes] == [e.length for e in two.episodes]


def test_a_mapping_that_does_not_fit_is_refused_with_the_names_on_both_sides(tmp_path, mapping):
    root = lerobot_dataset(tmp_path / "source", "v3.0")

    def changed(**parts):
        return replace(mapping, **parts)

    for bad, message in (
        (changed(state={"a": "gripper_position"}), r"state lacks the contract's \['b', 'gripper'\] and has \[\]"),
        (changed(state={**mapping.state, "c": "gripper_position"}), r"has \['c'\], which the contract does not have"),
        (changed(action={**mapping.action, "a": "action/wrist.pos"}), r"'action/wrist\.pos', which .* lacks; it has"),
        (changed(action={**mapping.action, "a": "action"}), "'action', which .* lacks"),  # three numbers: which?
        (changed(cameras={**mapping.cameras, "front": "observation.state"}), r"camera 'front' is 'observation\.state'"),
        (changed(cameras={"front": "observation.images.top"}), r"cameras lacks the contract's \['wrist'\]"),
        (changed(names={"action": ("x",)}), r"names of 'action' are \['x'\]"),
    ):
        with pytest.raises(IngestError, match=message):
            find_lerobot(root, CONTRACT, bad)
    with pytest.raises(IngestError, match=r"10 steps per second; contract 'small' has rate_hz 20.* rate_hz: 20"):
        find_lerobot(root, replace(CONTRACT, rate_hz=20.0), mapping)
    info = json.loads((root / "meta/info.json").read_text())
    layout.write_json(root / "meta/info.json", {**info, "codebase_version": "v1.6"})
    with pytest.raises(IngestError, match=r"format 'v1\.6'"):
        find_lerobot(root, CONTRACT, mapping)
    with pytest.raises(IngestError, match=r"cannot read .*info\.json"):
        find_lerobot(tmp_path / "nowhere", CONTRACT, mapping)


@pytest.mark.parametrize("rate_hz", [5.0, 4.0, 3.0])
def test_a_faster_dataset_is_taken_at_the_contracts_rate_and_sees_nothing_later(tmp_path, mapping, rate_hz):
    root = lerobot_dataset(tmp_path / "source", "v3.0")
    slow = replace(CONTRACT, rate_hz=rate_hz)
    with pytest.raises(IngestError, match=r"write in the mapping `resample: true`"):
        find_lerobot(root, slow, mapping)
    build_dataset(find_lerobot(root, CONTRACT, mapping), tmp_path / "all", CONTRACT, workers=ALONE)
    again = replace(mapping, resample=True)
    build_dataset(find_lerobot(root, slow, again), tmp_path / "slow", slow, workers=ALONE)
    every, some = EpisodeDataset(tmp_path / "all", CONTRACT), EpisodeDataset(tmp_path / "slow", slow)
    assert [e.length for e in some.episodes] == [int(e.length * rate_hz / 10) for e in every.episodes]
    for few, many in zip(some.episodes, every.episodes, strict=True):
        for step in range(few.length):
            seen = int(step * 10 / rate_hz + 1e-9)  # not later than the step
            done = int((step + 1) * 10 / rate_hz + 1e-9) - 1  # completed when the step is over, and not before it began
            assert seen <= done
            here = some[few.first + step]
            np.testing.assert_array_equal(here.state, every[many.first + seen].state)
            np.testing.assert_array_equal(here.actions_HA[0], every[many.first + done].actions_HA[0])
            assert close(here.images["front"], every[many.first + seen].images["front"])
    for bad in (replace(CONTRACT, rate_hz=20.0), replace(slow, action=replace(slow.action, mode="delta"))):
        with pytest.raises(IngestError, match=r"makes up no steps, adds up no deltas"):
            find_lerobot(root, bad, again)


def test_features_without_names_are_named_by_the_mapping(tmp_path, mapping):
    root = lerobot_dataset(tmp_path / "source", "v3.0")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.state"]["names"] = None
    layout.write_json(root / "meta/info.json", info)
    with pytest.raises(IngestError, match="lacks"):
        find_lerobot(root, CONTRACT, mapping)
    named = replace(mapping, names={"observation.state": ("elbow.pos", "shoulder.pos")})
    assert len(find_lerobot(root, CONTRACT, named)) == 3


def test_damaged_lerobot_episodes_are_rejected_by_name(tmp_path, mapping):
    root = lerobot_dataset(tmp_path / "source", "v2.1")
    file = root / "videos/chunk-000/observation.images.hand/episode_000000.mp4"
    file.write_bytes(file.read_bytes()[:500])
    (root / "data/chunk-000/episode_000001.parquet").write_bytes(b"PAR1 nonsense")
    report = build_dataset(find_lerobot(root, CONTRACT, mapping), tmp_path / "out", CONTRACT, workers=ALONE)
    assert [s.steps for s in report.sources] == [0, 0, 4]
    assert str(report.sources[0].rejected).startswith("image: cannot open video")
    assert str(report.sources[1].rejected).startswith("damaged:")


def test_mapping_files_are_checked(tmp_path):
    path = tmp_path / "mapping.yaml"
    path.write_text("cameras: {}\nstate: {a: {column: x, factor: 2}}\naction: {}")
    with pytest.raises(IngestError, match=r"state\.a is .*factor"):
        load_mapping(path)
    path.write_text("cameras: {}\nstate: {}")
    with pytest.raises(IngestError, match="action"):
        load_mapping(path)


def test_the_command_says_what_is_missing(tmp_path):
    with pytest.raises(IngestError, match="does not exist"):
        ingest("libero", [tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(IngestError, match="needs a contract"):
        ingest("lerobot", [tmp_path], tmp_path / "out", options={"mapping": tmp_path})
    with pytest.raises(IngestError, match="lerobot needs --mapping"):
        ingest("lerobot", [tmp_path], tmp_path / "out", contract="jaka_minicobo")
    with pytest.raises(IngestError, match="there are no bags, files or episodes"):
        build_dataset([], tmp_path / "out", CONTRACT)


# ------------------------------------------------------------------ the public LIBERO sets

PUBLIC = {
    "v2.0": ("image", "wrist_image", "state", "actions"),
    "v2.1": ("observation.images.image", "observation.images.wrist_image", "observation.state", "action"),
    "v3.0": ("observation.images.image", "observation.images.image2", "observation.state", "action"),
}
"""Format → names of cameras, state and action in sets that were converted from RLDS."""
STATE_NAMES = ("x", "y", "z", "ax", "ay", "az", "finger_l", "finger_r")
ACTION_NAMES = ("x", "y", "z", "ax", "ay", "az", "gripper")


def upright(step: int, camera: int) -> np.ndarray:
    """Red above, with a bright block that tells the step."""
    image = picture(64, 0, step, camera)
    image[:24, :, 0], image[:24, :, 1:] = 200, 30
    image[40:50, 4 * step : 4 * step + 10] = 240
    return image


def public_libero(root: Path, version: str, length: int = 12) -> Path:
    """One episode of 20 Hz that says 10 fps, pictures upright and in the parquet, columns without usable names."""
    top, wrist, state, action = PUBLIC[version]
    names = {"v2.0": ["state"], "v2.1": None, "v3.0": {"motors": [*STATE_NAMES[:6], "gripper", "gripper"]}}[version]
    info = lerobot_info(version, images=True)
    info["features"] = {
        top: {"dtype": "image", "shape": [64, 64, 3], "names": ["height", "width", "channel"]},
        wrist: {"dtype": "image", "shape": [64, 64, 3], "names": ["height", "width", "channel"]},
        state: {"dtype": "float32", "shape": [8], "names": names},
        action: {"dtype": "float32", "shape": [7], "names": ["actions"] if version == "v2.0" else None},
        **{k: f for k, f in info["features"].items() if k.endswith("index")},
    }
    layout.write_json(root / "meta/info.json", info)
    rng = np.random.default_rng(1)
    fingers = rng.uniform(0.01, 0.03, (length, 2)) * [1, -1]
    columns = {
        state: np.concatenate([smooth(rng, length, 6), fingers], axis=1).tolist(),
        action: np.clip(rng.normal(0, 0.3, (length, 7)), -1, 1).tolist(),
        **{key: list(range(length)) for key in ("frame_index", "index")},
        **{key: [0] * length for key in ("episode_index", "task_index")},
    }
    for number, key in enumerate((top, wrist)):
        codes = [cv2.imencode(".png", upright(step, number)[:, :, ::-1])[1].tobytes() for step in range(length)]
        columns[key] = [{"bytes": code, "path": None} for code in codes]
    row = {"episode_index": 0, "tasks": ["pick it up"], "length": length}
    if version == "v3.0":
        layout.write_table(root / "data/chunk-000/file-000.parquet", pa.table(columns))
        layout.write_episodes(root, [{**row, "data/chunk_index": 0, "data/file_index": 0}])
        layout.write_tasks(root, ["pick it up"])
    else:
        layout.write_table(root / "data/chunk-000/episode_000000.parquet", pa.table(columns))
        (root / "meta/episodes.jsonl").write_text(json.dumps(row) + "\n")
        (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "pick it up"}) + "\n")
    return root


@pytest.mark.parametrize("version", PUBLIC)
def test_public_libero_sets_come_in_upright_or_are_refused_with_the_line_that_mends_it(tmp_path, version, capsys):
    """Each refusal says what to write; written as said, the set is imported, and stands as evaluation shows it."""
    root = public_libero(tmp_path / "source", version)
    contract = resized("libero")
    top, wrist, state, action = PUBLIC[version]
    fields = dict(zip(contract.state.names, (f"{state}/{name}" for name in STATE_NAMES), strict=True))
    dims = dict(zip(contract.action.names, (f"{action}/{name}" for name in ACTION_NAMES), strict=True))
    given = {"cameras": {"agentview": top, "wrist": wrist}, "state": fields, "action": dims}
    path = tmp_path / "mapping.yaml"

    def attempt() -> None:
        path.write_text(yaml.safe_dump(given))
        ingest(
            "lerobot",
            [root],
            tmp_path / "out",
            contract=str(write(tmp_path, contract)),
            options={"mapping": path},
            workers=ALONE,
        )

    with pytest.raises(IngestError, match="write in the mapping: rate_hz: 20"):
        attempt()
    given["rate_hz"] = 20
    with pytest.raises(IngestError, match="under names: give the columns of"):
        attempt()
    given["names"] = {state: list(STATE_NAMES), action: list(ACTION_NAMES)}
    for name, key in (("agentview", top), ("wrist", wrist)):
        with pytest.raises(IngestError, match=rf"write {name}: \{{column: {key}, rotate_deg: 0\}}"):
            attempt()
        given["cameras"][name] = {"column": key, "rotate_deg": 0}
    attempt()
    dataset = EpisodeDataset(tmp_path / "out", contract)
    assert len(dataset) == 12 and dataset.fps == 20
    for number, camera in enumerate(contract.camera_names):
        for step in (0, 7, 11):
            expected = cv2.resize(upright(step, number), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            assert close(dataset[step].images[camera], expected)
    assert_sound(tmp_path / "out")
    shown = cv2.imread(str(tmp_path / "out" / layout.FIRST_FRAMES))[:, :, ::-1]
    red = shown[30:60, 60:200].mean((0, 1))  # below the text, right of the corner that tells the episode
    assert red[0] > red[2] + 100


def test_pictures_as_the_camera_gives_them_are_turned(tmp_path):
    root = public_libero(tmp_path / "source", "v2.1")
    contract = resized("libero")
    top, wrist, state, action = PUBLIC["v2.1"]
    mapping = LeRobotMapping(
        cameras={n: Camera(column=k, rotate_deg=180) for n, k in (("agentview", top), ("wrist", wrist))},
        state=dict(zip(contract.state.names, (f"{state}/{name}" for name in STATE_NAMES), strict=True)),
        action=dict(zip(contract.action.names, (f"{action}/{name}" for name in ACTION_NAMES), strict=True)),
        names={state: STATE_NAMES, action: ACTION_NAMES},
        rate_hz=20.0,
    )
    build_dataset(find_lerobot(root, contract, mapping), tmp_path / "out", contract, workers=ALONE)
    expected = cv2.resize(upright(3, 0)[::-1, ::-1], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    assert close(EpisodeDataset(tmp_path / "out", contract)[3].images["agentview"], expected)
