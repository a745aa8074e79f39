"""The dataset on disk: reading, chunks at episode ends, checks, crashes and repair."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic_bags import T0, convert, make_bag, picture
from synthetic_messages import small_contract

from training.dataset import (
    DatasetError,
    DatasetWriter,
    EpisodeArrays,
    EpisodeDataset,
    check,
    layout,
    repair,
    stats,
    validate,
)
from training.dataset.video import VideoWriter

CONTRACT = small_contract(size=32, chunk=4)
LENGTHS = (9, 5, 12)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    bags = [make_bag(root / "bags", CONTRACT, n, episode=i, instruction=f"task {i % 2}") for i, n in enumerate(LENGTHS)]
    convert(bags, root / "data", CONTRACT, jobs=1)
    return root / "data"


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(original, tmp_path / "data"))


def test_layout_is_lerobot_v3(original: Path) -> None:
    info = json.loads((original / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 10
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 26, 2)
    assert info["splits"] == {"train": "0:3"}
    assert list(info["features"]) == [
        "observation.state",
        "action",
        "capture_ns",
        "observation.images.front",
        "observation.images.wrist",
        "timestamp",
        "frame_index",
        "episode_index",
        "index",
        "task_index",
    ]
    table = pq.read_table(original / "data/chunk-000/file-001.parquet")
    assert table["index"].to_pylist() == list(range(9, 14)) and table["episode_index"].to_pylist() == [1] * 5
    assert table["timestamp"].to_pylist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert "observation.images.front" not in table.column_names
    rows = pq.read_table(original / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [r["tasks"] for r in rows] == [["task 0"], ["task 1"], ["task 0"]]
    assert rows[2]["videos/observation.images.wrist/file_index"] == 2
    assert rows[2]["videos/observation.images.wrist/to_timestamp"] == pytest.approx(1.2)
    assert rows[1]["meta/episodes/file_index"] == 0 and len(rows[1]["stats/action/q99"]) == 3
    assert np.shape(rows[1]["stats/observation.images.front/mean"]) == (3, 1, 1)
    tasks = pq.read_table(original / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    report = check(original, deep=True)
    assert (report.errors, report.warnings) == ([], [])


def test_chunks_end_with_their_episode(original: Path) -> None:
    dataset = EpisodeDataset(original, CONTRACT)
    assert len(dataset) == 26 and [e.length for e in dataset.episodes] == list(LENGTHS)
    np.testing.assert_array_equal(dataset[0].actions_HA, dataset.actions[:4])
    assert dataset[0].action_mask.all()
    sample = dataset[7]
    assert sample.action_mask.tolist() == [True, True, False, False]
    np.testing.assert_array_equal(sample.actions_HA, dataset.actions[[7, 8, 8, 8]])
    assert (sample.episode_index, dataset[9].episode_index, dataset[-1].index) == (0, 1, 25)
    assert dataset[9].instruction == "task 1"
    longer = EpisodeDataset(original, replace(CONTRACT, chunk_size=20))
    assert longer[0].actions_HA.shape == (20, 3) and longer[0].action_mask.sum() == 9
    with pytest.raises(IndexError):
        dataset[26]


def test_random_access_and_frames_in_order_agree(original: Path) -> None:
    dataset = EpisodeDataset(original, CONTRACT, open_videos=2)
    for number, camera in enumerate(("front", "wrist")):
        in_order = dict(dataset.frames(camera))
        assert list(in_order) == list(range(26))
        for index in np.random.default_rng(0).permutation(26):
            np.testing.assert_array_equal(dataset[int(index)].images[camera], in_order[int(index)])
        wanted = picture(32, 2, 11, number).astype(int)
        assert np.abs(in_order[25] - wanted).mean() < np.abs(in_order[24] - wanted).mean()
    assert len(dataset._open) <= 2
    dataset.close()
    first = next(iter(dataset.frames("front")))  # leaving early must not hang
    assert first[0] == 0


def test_statistics_are_those_of_the_data(original: Path) -> None:
    dataset = EpisodeDataset(original, CONTRACT)
    found = dataset.stats
    for key, values in (("observation.state", dataset.states), ("action", dataset.actions)):
        assert found[key]["count"].tolist() == [26]
        np.testing.assert_allclose(found[key]["mean"], values.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found[key]["std"], values.std(0), rtol=1e-4)
        np.testing.assert_allclose(found[key]["q99"], np.quantile(values, 0.99, axis=0), rtol=1e-5)
        assert (found[key]["min"] <= found[key]["q01"]).all() and (found[key]["q99"] <= found[key]["max"]).all()
    images = np.stack([image for _, image in dataset.frames("front")]) / 255
    assert found["observation.images.front"]["mean"].shape == (3, 1, 1)
    np.testing.assert_allclose(found["observation.images.front"]["mean"].ravel(), images.mean((0, 1, 2)), atol=0.02)
    np.testing.assert_allclose(found["observation.images.front"]["std"].ravel(), images.std((0, 1, 2)), atol=0.02)


def test_image_statistics_of_known_pixels() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:8, :, 1] = 255
    found = stats.from_histogram(stats.image_histogram(image), 1)
    assert found["mean"].ravel().tolist() == [0, 0.5, 0] and found["std"].ravel().tolist() == [0, 0.5, 0]
    assert found["max"].ravel().tolist() == [0, 1, 0] and found["q10"].ravel().tolist() == [0, 0, 0]
    assert found["q90"].ravel().tolist() == [0, 1, 0]


def test_another_contract_is_refused_with_the_difference(original: Path) -> None:
    camera = replace(CONTRACT.cameras[1], rotate_deg=180)
    with pytest.raises(DatasetError, match="rotate_deg"):
        EpisodeDataset(original, replace(CONTRACT, cameras=(CONTRACT.cameras[0], camera)))
    with pytest.raises(DatasetError, match="not a LeRobotDataset"):
        EpisodeDataset(original.parent, CONTRACT)


def test_columns_are_matched_by_name_in_foreign_datasets(data: Path) -> None:
    (data / layout.CONTRACT).unlink()
    state = replace(CONTRACT.state, fields=tuple(reversed(CONTRACT.state.fields)))
    turned = EpisodeDataset(data, replace(CONTRACT, state=state))
    np.testing.assert_array_equal(turned.states[:, ::-1], EpisodeDataset(data, CONTRACT).states)
    elbow = replace(CONTRACT.state.fields[0], name="elbow")
    other = replace(CONTRACT.state, fields=(elbow, *CONTRACT.state.fields[1:]))
    with pytest.raises(DatasetError, match="elbow"):
        EpisodeDataset(data, replace(CONTRACT, state=other))


def test_every_damage_is_found_and_what_is_whole_is_rescued(data: Path) -> None:
    video = data / "videos/observation.images.wrist/chunk-000/file-001.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    (data / layout.STATS).unlink()
    (data / layout.STAGING / "000007").mkdir(parents=True)
    info = json.loads((data / layout.INFO).read_text())
    (data / layout.INFO).write_text(json.dumps({**info, "total_frames": 99}))
    problems = "\n".join(validate(data))
    for expected in ("episode 1: observation.images.wrist", "stats.json", ".staging", "counts 99 frames"):
        assert expected in problems
    done = "\n".join(repair(data))
    assert "removed episode 1" in done and "episode 2 is now episode 1" in done
    assert validate(data) == []
    dataset = EpisodeDataset(data, CONTRACT)
    assert len(dataset) == 21 and dataset[20].episode_index == 1
    wanted = picture(32, 2, 11, 1).astype(int)  # the videos moved with their episode
    assert np.abs(dataset[20].images["wrist"] - wanted).mean() < 6
    assert dataset.stats["action"]["count"].tolist() == [21]
    assert repair(data) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("data/chunk-000/file-000.parquet", "cannot read"),
        ("meta/tasks.parquet", "cannot read"),
        ("meta/episodes/chunk-000/file-000.parquet", "cannot read"),
        ("meta/info.json", "not valid JSON"),
    ],
)
def test_truncated_files_are_named(data: Path, damage: str, message: str) -> None:
    file = data / damage
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DatasetError, match=message):
        EpisodeDataset(data, CONTRACT)
    assert any(message in problem and file.name in problem for problem in validate(data))


def test_a_missing_or_cut_video_is_named_when_it_is_read(data: Path) -> None:
    (data / "videos/observation.images.front/chunk-000/file-002.mp4").unlink()
    dataset = EpisodeDataset(data, CONTRACT)
    assert dataset[0].images["front"].shape == (32, 32, 3)
    with pytest.raises(DatasetError, match=r"file-002\.mp4"):
        dataset[20]
    with pytest.raises(DatasetError, match=r"file-002\.mp4"):
        list(dataset.frames("front"))


def phrasings(episode: int) -> tuple[str, ...]:
    """Those of every second episode."""
    return ("task 1", "the first task", f"what episode {episode} shows") if episode % 2 else ()


def arrays(episode: int, length: int) -> EpisodeArrays:
    step = np.arange(length)
    stamps = T0 + step * CONTRACT.dt_ns
    return EpisodeArrays(
        state_LS=np.column_stack([step * 0.02, 1 + step * 0.01, 0.5 + step * 0.01]).astype(np.float32) + episode / 100,
        action_LA=np.column_stack([step * 0.02, 1 + step * 0.01, 0.5 + step * 0.01]).astype(np.float32),
        capture_ns_LK=np.repeat(stamps[:, None], 3, axis=1),
        instructions=(f"task {episode % 2}",) * length,
        phrasings=phrasings(episode),
        histograms={
            name: np.sum(
                [stats.image_histogram(picture(32, episode, s, c)) for s in sorted(stats.sample_frames(length))], axis=0
            )
            for c, name in enumerate(CONTRACT.camera_names)
        },
    )


def append(writer: DatasetWriter, episode: int, length: int = 8) -> None:
    videos = {}
    for number, name in enumerate(CONTRACT.camera_names):
        videos[name] = writer.root / layout.STAGING / f"{episode}-{name}.mp4"
        with VideoWriter(videos[name], width=32, height=32, fps=10) as out:
            for step in range(length):
                out.write(picture(32, episode, step, number))
    writer.append(arrays(episode, length), videos)


def test_a_dataset_grows_by_parts_as_in_one_go(tmp_path: Path) -> None:
    """Interrupted after an episode, in the middle of one, after the end, and after a repair that renumbered."""
    with DatasetWriter(tmp_path / "whole", CONTRACT) as writer:
        for episode in range(6):
            append(writer, episode)
        writer.finish()
    root = tmp_path / "parts"
    with DatasetWriter(root, CONTRACT, append=True) as writer:  # nothing there yet
        assert writer.found == 0
        append(writer, 0)
        append(writer, 1)
    # an episode that was never committed
    (root / "videos/observation.images.front/chunk-000/file-002.mp4").write_bytes(b"half")
    (root / "data/chunk-000/file-002.parquet").write_bytes(b"half")
    layout.write_episodes(root, [{"episode_index": 2, "length": 3}], file_index=2)
    (root / layout.STAGING / "left").mkdir(parents=True)
    with DatasetWriter(root, CONTRACT, append=True) as writer:
        assert (writer.found, writer.episodes, writer.frames) == (2, 2, 16)
        append(writer, 2)
        append(writer, 3)
        writer.finish()
    with DatasetWriter(root, CONTRACT, append=True) as writer:
        for episode in (4, 5):
            append(writer, episode)
        with pytest.raises(DatasetError, match="being written by another process"):
            DatasetWriter(root, CONTRACT, append=True)
        writer.finish()
    assert validate(root) == []
    one, two = EpisodeDataset(tmp_path / "whole", CONTRACT), EpisodeDataset(root, CONTRACT)
    for name in ("states", "actions", "task_of", "episode_of"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for dataset in (one, two):
        assert [dataset.phrasings(episode) for episode in range(6)] == [phrasings(episode) for episode in range(6)]
    for index in range(len(one)):
        for camera in CONTRACT.camera_names:
            np.testing.assert_array_equal(one[index].images[camera], two[index].images[camera])
    for key, found in one.stats.items():
        for name, value in found.items():  # pictures of earlier parts are counted as they were coded
            if "images" not in key or name in ("mean", "std", "count"):
                np.testing.assert_allclose(two.stats[key][name], value, atol=0.02 if "images" in key else 1e-9)


def test_episodes_added_after_a_repair_overwrite_none(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with DatasetWriter(root, CONTRACT) as writer:
        for episode in range(3):
            append(writer, episode)
        writer.finish()
    (root / "data/chunk-000/file-000.parquet").unlink()
    repair(root)
    with DatasetWriter(root, CONTRACT, append=True) as writer:
        assert writer.found == 2
        append(writer, 3)
        writer.finish()
    assert validate(root) == []
    dataset = EpisodeDataset(root, CONTRACT)
    for episode, source in enumerate((1, 2, 3)):
        shown = dataset[episode * 8 + 5].images["front"].astype(int)
        assert np.abs(shown - picture(32, source, 5, 0)).mean() < 6
        assert dataset.states[episode * 8, 0] == pytest.approx(source / 100)
        assert dataset.phrasings(episode) == phrasings(source)
    # and where no episode has several, there is no column for them
    append_only = tmp_path / "plain"
    with DatasetWriter(append_only, CONTRACT) as writer:
        append(writer, 0)
        writer.finish()
    assert "phrasings" not in layout.read_episodes(append_only)[0]


def test_phrasings_are_of_the_one_instruction_of_all_steps() -> None:
    good = arrays(1, 3)
    with pytest.raises(DatasetError, match=r"instructions \['task 1'\] and the phrasings \['another', 'task 1'\]"):
        replace(good, phrasings=("another", "task 1"))
    with pytest.raises(DatasetError, match="expected one instruction"):
        replace(good, instructions=("task 1", "task 1", "then this"))
    with pytest.raises(DatasetError, match="empty phrasing"):
        replace(good, phrasings=("task 1", " "))


def test_only_a_dataset_of_the_same_contract_is_added_to(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="exists already"):
        DatasetWriter(data, CONTRACT)
    with pytest.raises(DatasetError, match="chunk_size"):
        DatasetWriter(data, replace(CONTRACT, chunk_size=9), append=True)
    with pytest.raises(DatasetError, match="codec 'av1'"):
        DatasetWriter(data, CONTRACT, codec="libsvtav1", append=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"cannot read .*info\.json"):
        DatasetWriter(tmp_path / "other", CONTRACT, append=True)
    info = json.loads((data / layout.INFO).read_text())
    (data / layout.INFO).write_text(json.dumps({**info, "total_episodes": 4}))
    with pytest.raises(DatasetError, match="lavla dataset repair"):
        DatasetWriter(data, CONTRACT, append=True)
    (data / layout.CONTRACT).unlink()
    with pytest.raises(DatasetError, match=r"no meta/contract\.yaml"):
        DatasetWriter(data, CONTRACT, append=True)


_CONVERT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from synthetic_messages import small_contract
from lavla_ros.recording import find_bags
from synthetic_bags import convert
import time
def slow(report):
    print(report.episode, flush=True)
    time.sleep(0.05)
convert(find_bags([Path(sys.argv[2])]), Path(sys.argv[3]), small_contract(size=32, chunk=4), jobs=1, progress=slow)
"""


def test_a_killed_conversion_loses_at_most_the_open_episode(tmp_path: Path) -> None:
    for i in range(12):
        make_bag(tmp_path / "bags", CONTRACT, 20, episode=i)
    unit = Path(__file__).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", _CONVERT, str(unit), str(tmp_path / "bags"), str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(unit.parents[1])},
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "5":
            break
    time.sleep(0.06)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert validate(tmp_path / "data")
    repair(tmp_path / "data")
    assert validate(tmp_path / "data") == []
    dataset = EpisodeDataset(tmp_path / "data", CONTRACT)
    assert 6 <= len(dataset.episodes) < 12
    assert dataset[119].images["front"].shape == (32, 32, 3)


def test_a_videos_bytes_are_those_of_its_pictures_whatever_was_in_memory_before(tmp_path: Path) -> None:
    """Of 400 pairs of encoders at once, some 10 gave other pictures while x264's macroblock tree was on."""
    rng, found = np.random.default_rng(0), set()
    for _ in range(250):
        rubbish = [rng.integers(0, 255, int(rng.integers(1000, 200_000)), np.uint8) for _ in range(20)]
        files = [tmp_path / "front.mp4", tmp_path / "wrist.mp4"]
        front, wrist = (VideoWriter(file, width=32, height=32, fps=10) for file in files)
        with front, wrist:
            for step in range(11):
                front.write(picture(32, 3, step, 0))
                wrist.write(picture(32, 3, step, 1))
                del rubbish[:1]
        found.add(tuple(file.read_bytes() for file in files))
    assert len(found) == 1
