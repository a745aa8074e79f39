"""From datasets to batches: order, chunks, labels, frames and what they cost in memory, augmentation."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import HORIZON, INSTRUCTION, SIZE, World, load_world, small_config, source, world_contract

from lavla_ros.contract import Contract
from lavla_ros.policy.strategies import LabelSpec
from training import frames as frames_module
from training.augment import augment_images, draw_numbers
from training.config import AugmentConfig, DataConfig, MixturePart
from training.data import LoadedData, load_data, open_sources
from training.dataset import EpisodeDataset
from training.dataset.video import VideoReader
from training.frames import FileFrames, FrameError, MemoryFrames, PackedFrames, Prefetcher, VideoFrames, open_frames
from training.latent_actions.action_config import ActionLamConfig, ActionLamTrainConfig
from training.latent_actions.action_data import load_chunks
from training.latent_actions.action_train import ActionTask
from training.latent_actions.codebook_config import LatentDataConfig
from training.policy_task import PolicyTask
from training.samples import DataError, SampleStream, split_episodes
from training.system_resources import RoomError


@pytest.fixture(scope="module")
def contract() -> Contract:
    return world_contract()


@pytest.fixture(scope="module")
def data(contract, tmp_path_factory) -> LoadedData:
    return load_world(contract, tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def on_disk(contract, tmp_path_factory) -> Path:
    return World(tmp_path_factory.mktemp("d") / "data", episodes=4).write(contract)


# ------------------------------------------------------------------ numbers


def test_chunks_end_with_their_episode(data):
    actions, real = data.chunks(np.array([6, 8, 9, 10]), HORIZON)
    assert real.tolist() == [[True] * 4, [True, True, False, False], [True] + [False] * 3, [True] * 4]
    assert np.array_equal(actions[0], data.actions_NA[6:10])
    assert np.array_equal(actions[1], data.actions_NA[[8, 9, 9, 9]])
    assert np.array_equal(actions[2], data.actions_NA[[9, 9, 9, 9]])


def test_episodes_shorter_than_a_chunk_and_of_one_step_are_usable(contract, tmp_path):
    data = load_world(contract, tmp_path, World(tmp_path / "w", episodes=5, length=1))
    actions, real = data.chunks(np.arange(5), HORIZON)
    assert real.sum() == 5 and np.array_equal(actions, np.repeat(data.actions_NA[:, None], HORIZON, axis=1))


def test_image_labels_are_gathered_per_step_and_action_labels_are_not(contract, tmp_path):
    world = World(tmp_path / "w", episodes=2)
    labels = {
        "z_img": np.arange(20 * 3).reshape(20, 3).astype(np.int16),
        "c_img": np.random.default_rng(0).normal(size=(20, 3, 5)).astype(np.float16),
        "z_act": np.arange(20 * HORIZON).reshape(20, HORIZON).astype(np.int16),
        "c_act": np.random.default_rng(1).normal(size=(20, HORIZON, 5)).astype(np.float16),
    }
    data = load_data([source(world, labels=labels)], contract, DataConfig(), image_size=SIZE, cache_dir=tmp_path)
    rows = np.array([0, 8, 19])
    gathered = data.latent_labels("z_img", rows, HORIZON)
    assert gathered.shape == (3, HORIZON, 3)
    assert gathered[0].tolist() == labels["z_img"][[0, 1, 2, 3]].tolist()
    assert gathered[1].tolist() == labels["z_img"][[8, 9, 9, 9]].tolist()  # not into the next episode
    assert gathered[2].tolist() == labels["z_img"][[19, 19, 19, 19]].tolist()
    assert data.latent_labels("c_img", rows, HORIZON).shape == (3, HORIZON, 3, 5)
    assert np.array_equal(data.latent_labels("z_act", rows, HORIZON), labels["z_act"][rows])
    assert np.array_equal(data.latent_labels("c_act", rows, HORIZON), labels["c_act"][rows])


def test_datasets_of_a_mixture_stay_apart(contract, tmp_path):
    worlds = [World(tmp_path / str(i), episodes=2 + i, seed=i) for i in range(3)]
    sources = [
        source(world, weight=1.0 + i, labels={"z_act": np.full((len(world), 4), i)}) for i, world in enumerate(worlds)
    ]
    data = load_data(sources, contract, DataConfig(), image_size=SIZE, cache_dir=tmp_path)
    assert len(data) == 90 and data.sources == tuple((str(w.path), len(w)) for w in worlds)
    assert data.episode_N.tolist() == np.repeat(np.arange(9), 10).tolist()
    assert data.last_N.tolist() == np.repeat(np.arange(9, 90, 10), 10).tolist()
    assert data.weight_N.tolist() == [1.0] * 20 + [2.0] * 30 + [3.0] * 40
    assert data.labels["z_act"][:, 0].tolist() == [0] * 20 + [1] * 30 + [2] * 40
    assert data.instructions == (INSTRUCTION,)
    rows = np.array([89, 0, 25, 20])
    images = data.frames.take(rows)
    assert data.frames.count == 90
    for image, (world, index) in zip(images, ((2, 39), (0, 0), (1, 5), (1, 0)), strict=True):
        assert np.array_equal(image, np.stack([worlds[world].image(index)] * 2))
    assert data.describe(25) == f"sample 5 of {worlds[1].path} (step 5 of its episode)"
    assert data.describe(89) == f"sample 39 of {worlds[2].path} (step 9 of its episode)"
    assert data.describe(0) == f"sample 0 of {worlds[0].path} (step 0 of its episode)"


# ------------------------------------------------------------------ order


def test_sample_stream_is_a_permutation_per_epoch_and_a_function_of_position():
    stream = SampleStream(np.arange(10, 17), seed=3)
    all_at_once = stream(0, 21)
    for epoch in range(3):
        assert sorted(all_at_once[7 * epoch : 7 * epoch + 7]) == list(range(10, 17))
    again = SampleStream(np.arange(10, 17), seed=3)
    assert again(9, 5).tolist() == all_at_once[9:14].tolist()
    assert not np.array_equal(all_at_once[:7], all_at_once[7:14])


def test_weights_say_how_often_a_sample_is_drawn():
    indices = np.arange(120)
    weights = np.where(indices < 20, 2.25, np.where(indices < 60, 0.5, 1.0)).astype(np.float32)
    stream = SampleStream(indices, seed=0, weights=weights)
    assert stream.epoch_length == 45 + 20 + 60
    drawn = np.bincount(stream(0, 200 * stream.epoch_length), minlength=120) / 200
    assert set(np.bincount(stream(0, stream.epoch_length), minlength=120)[:20]) == {2, 3}
    np.testing.assert_allclose(drawn[:20], 2.25, atol=0.15)
    np.testing.assert_allclose(drawn[20:60], 0.5, atol=0.15)
    assert (drawn[60:] == 1).all()
    again = SampleStream(indices, seed=0, weights=weights)
    assert again(1000, 10).tolist() == stream(990, 20)[10:].tolist()
    with pytest.raises(DataError, match=r"weights of data\.mixture"):
        SampleStream(np.arange(3), seed=0, weights=np.full(3, 0.01, np.float32))
    with pytest.raises(DataError, match="no samples are left"):
        SampleStream(np.arange(0), seed=0)


def test_split_keeps_episodes_whole(data):
    train, validation = split_episodes(data.episode_N, validation=0.25, seed=0)
    assert len(train) + len(validation) == len(data)
    assert not set(data.episode_N[train]) & set(data.episode_N[validation])
    assert len(set(data.episode_N[validation])) == 2
    train, validation = split_episodes(np.zeros(len(data), np.int64), validation=0.25, seed=0)
    assert len(train) == len(data) and len(validation) == 0  # a single episode is trained on


def test_a_fraction_takes_whole_episodes_of_every_instruction_and_nests(contract, tmp_path):
    data = load_world(contract, tmp_path, World(tmp_path / "w", episodes=40))
    tasks = np.where(data.episode_N < 30, 0, 1)  # 30 episodes of one instruction, 10 of another
    whole, validation = split_episodes(data.episode_N, validation=0.1, seed=1, task_N=tasks)
    chosen = {}
    for fraction in (0.5, 0.33, 0.01):
        train, same = split_episodes(data.episode_N, validation=0.1, seed=1, fraction=fraction, task_N=tasks)
        assert np.array_equal(same, validation)
        chosen[fraction] = set(data.episode_N[train])
        assert len(train) == 10 * len(chosen[fraction])
        for task in (0, 1):
            available = len(set(data.episode_N[whole][tasks[whole] == task]))
            used = len(set(data.episode_N[train][tasks[train] == task]))
            assert used == max(1, round(fraction * available))
    assert chosen[0.01] < chosen[0.33] < chosen[0.5] < set(data.episode_N[whole])


@pytest.mark.parametrize(("validation", "shares"), [(0.02, {1}), (0.05, {2, 3}), (0.01, {0, 1})])
def test_every_instruction_has_its_share_of_what_is_held_out(validation, shares):
    tasks = np.repeat(np.arange(10), 50)
    for seed in range(5):
        train, held_out = split_episodes(np.arange(500), validation=validation, seed=seed, task_N=tasks)
        counts = np.bincount(tasks[held_out], minlength=10)
        assert counts.sum() == 500 * validation and set(counts.tolist()) == shares
        assert len(train) + len(held_out) == 500
    # an instruction of its own for every episode: which are held out is up to the seed, and their number stays
    alone = [split_episodes(np.arange(500), validation=validation, seed=s, task_N=np.arange(500))[1] for s in (0, 1)]
    assert len(alone[0]) == len(alone[1]) == 500 * validation and not np.array_equal(*alone)
    train, _ = split_episodes(np.arange(500), validation=validation, seed=0, fraction=0.4, task_N=np.arange(500))
    assert len(train) == round(0.4 * (500 - 500 * validation)), "and a fraction is one of them together"


def test_latent_models_see_and_hold_out_the_episodes_that_a_policy_does(contract, tmp_path):
    root = World(tmp_path / "data", episodes=12).write(contract)
    data = load_world(contract, tmp_path, World(tmp_path / "data", episodes=12))
    policy = small_config(tmp_path / "p", data=DataConfig(fraction=0.5, validation_fraction=0.2))
    lam = ActionLamTrainConfig(
        model=ActionLamConfig(chunk_size=HORIZON), seed=policy.seed,
        data=LatentDataConfig(datasets=(root,), fraction=0.5, validation_fraction=0.2),
    )  # fmt: skip
    one, other = PolicyTask(policy, contract, data), ActionTask(lam, contract, load_chunks(lam.data, contract))
    assert len(one.train_rows) == 50 and len(one.validation_rows) == 20
    assert np.array_equal(one.train_rows, other.train_rows)
    assert np.array_equal(one.validation_rows, other.validation_rows)


# ------------------------------------------------------------------ frames


def test_frames_are_the_same_wherever_they_are_kept(contract, on_disk, tmp_path):
    dataset = EpisodeDataset(on_disk, contract)
    rows = np.array([39, 0, 17, 17, 20])

    def opened(kind, **changes):
        config = DataConfig(frames=kind, decode_threads=2, **changes)
        return open_frames(
            dataset, len(dataset), contract, config, size=16, cache_dir=tmp_path / "cache", memory_left=10**9
        )

    memory, file, packed, video = (opened(kind) for kind in ("memory", "file", "png", "video"))
    assert isinstance(memory, MemoryFrames) and isinstance(file, FileFrames) and isinstance(video, VideoFrames)
    assert isinstance(packed, PackedFrames) and packed.path.stat().st_size < file.path.stat().st_size / 2
    assert memory.count == file.count == packed.count == video.count == 40
    expected = memory.take(rows)
    assert expected.shape == (5, 2, 16, 16, 3)
    for frames in (file, packed, video):
        assert np.array_equal(frames.take(rows), expected)
    assert abs(int(expected[0, 0].max()) - 255) < 12
    prefetcher = Prefetcher(file.take)
    prefetcher.request(rows)
    assert np.array_equal(prefetcher.take(rows), expected)
    prefetcher.request(rows[:2])
    assert np.array_equal(prefetcher.take(rows), expected)  # not what was requested: read now


def test_auto_takes_memory_then_a_file_then_the_videos(contract, on_disk, tmp_path, monkeypatch):
    dataset = EpisodeDataset(on_disk, contract)

    def kind(memory_left: int):
        return type(
            open_frames(
                dataset, 40, contract, DataConfig(), size=16, cache_dir=tmp_path / "cache", memory_left=memory_left
            )
        )

    assert kind(10**6) is MemoryFrames
    monkeypatch.setattr(frames_module, "free_disk", lambda folder: 1000)
    assert kind(1000) is VideoFrames
    monkeypatch.undo()
    assert kind(1000) is FileFrames
    monkeypatch.setattr(frames_module, "free_disk", lambda folder: 1000)
    assert kind(1000) is FileFrames  # it exists
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert kind(10**6) is FileFrames  # shared by the processes of a machine


def test_a_frame_file_is_decoded_once_and_made_anew_when_the_data_change(contract, on_disk, tmp_path):
    def load(world_contract=contract):
        seen = []
        sources = open_sources(DataConfig(dataset=on_disk), world_contract, {})
        load_data(
            sources,
            world_contract,
            DataConfig(dataset=on_disk, frames="file"),
            image_size=16,
            cache_dir=tmp_path,
            on_frame=lambda done, total: seen.append((done, total)),
        )
        return seen

    first = load()
    assert first[0] == (1, 80) and first[-1] == (80, 80)
    assert load() == []
    video = next((on_disk / "videos").rglob("*.mp4"))
    os.utime(video, ns=(1, 1))
    assert load()[-1] == (80, 80)


@pytest.mark.parametrize(("kind", "at_once"), [("file", "ends before sample 39"), ("png", "damaged at sample 39")])
def test_a_frame_file_that_was_cut_off_is_refused(contract, on_disk, tmp_path, kind, at_once):
    dataset = EpisodeDataset(on_disk, contract)
    arguments = (dataset, 40, contract, DataConfig(frames=kind))
    opened = open_frames(*arguments, size=16, cache_dir=tmp_path, memory_left=0)
    with opened.path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(FrameError, match=at_once):
        opened.take(np.array([39]))
    with pytest.raises(FrameError, match="cut off or replaced"):
        open_frames(*arguments, size=16, cache_dir=tmp_path, memory_left=0)
    shutil.rmtree(opened.path.parent)  # as told
    assert open_frames(*arguments, size=16, cache_dir=tmp_path, memory_left=0).take(np.array([39])).any()


def test_a_disk_that_fills_while_frames_are_packed_leaves_nothing_that_looks_whole(
    contract, on_disk, tmp_path, monkeypatch
):
    dataset = EpisodeDataset(on_disk, contract)
    arguments = (dataset, 40, contract, DataConfig(frames="png"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(frames_module, "_DISK_IS_FULL", (errno.EFBIG,))  # what a limit on files says
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(RoomError, match="frames of 40 samples"):
            open_frames(*arguments, size=16, cache_dir=tmp_path, memory_left=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert open_frames(*arguments, size=16, cache_dir=tmp_path, memory_left=0).take(np.array([39])).any()


def test_processes_that_want_the_same_frame_file_decode_it_once(contract, on_disk, tmp_path):
    dataset = EpisodeDataset(on_disk, contract)
    decoded, results = [], []

    def load():
        frames = open_frames(
            dataset, 40, contract, DataConfig(frames="file"), size=16, cache_dir=tmp_path, memory_left=0,
            on_frame=lambda done, total: decoded.append(done),
        )  # fmt: skip
        results.append(frames.take(np.arange(40)).sum())

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 80 and len(results) == 3 and len(set(results)) == 1


def test_a_disk_that_is_too_small_is_found_before_decoding(contract, tmp_path, monkeypatch):
    monkeypatch.setattr("training.system_resources.free_disk", lambda folder: 1000)
    with pytest.raises(RoomError, match="frame file of 80 samples"):
        load_world(contract, tmp_path, frames="file")


def resident_bytes() -> int:
    """All of this process's memory, its own and mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Rss")) * 1024


def test_reading_a_frame_file_takes_a_batch_of_memory_whatever_its_size(contract, tmp_path):
    world = World(tmp_path / "w", episodes=500, length=20)
    data = load_world(contract, tmp_path, world, frames="file")
    rng = np.random.default_rng(0)
    data.frames.take(rng.integers(0, len(data), 32))
    before = resident_bytes()
    for _ in range(1500):  # five times all of it
        data.frames.take(rng.integers(0, len(data), 32))
    batch = 32 * 2 * SIZE * SIZE * 3
    assert len(data) * 2 * SIZE * SIZE * 3 > 60e6
    assert resident_bytes() - before < 2e6 + batch


def test_decoding_at_random_access_holds_a_bounded_number_of_decoders(contract, tmp_path):
    root = World(tmp_path / "data", episodes=12, length=4).write(contract)
    frames = VideoFrames(EpisodeDataset(root, contract, open_videos=3), contract, SIZE, threads=2)
    rng = np.random.default_rng(0)
    opened = []
    for _ in range(20):
        frames.take(rng.integers(0, 48, 24))
        links = [link for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link)]
        opened.append(sum(str(link.readlink()).startswith(str(root)) for link in links))
    assert max(opened) == 2 * 3, "of 24 videos, three per thread are open"


def test_neither_opening_nor_seeking_leaks(on_disk):
    """A long training does millions of either: nothing may stay, however little."""
    file = next((on_disk / "videos").rglob("*.mp4"))
    kept = VideoReader(file, 10)

    def use(times: int) -> None:
        for i in range(times):
            kept.frame((3 * i) % 10)
            fresh = VideoReader(file, 10)
            fresh.frame(i % 10)
            fresh.close()

    use(300)
    before = resident_bytes()
    use(2500)
    assert resident_bytes() - before < 500_000  # PyAV's demuxers, left early, take 1.2 MB


# ------------------------------------------------------------------ bad data


def test_bad_numbers_are_refused_with_the_sample_named(contract, tmp_path):
    nan = World(tmp_path / "w")
    nan.states[17, 2] = np.nan
    with pytest.raises(DataError, match="state of sample 17 is not finite"):
        load_world(contract, tmp_path, nan)
    nan = World(tmp_path / "w")
    nan.actions[3, 0] = np.inf
    with pytest.raises(DataError, match="action of sample 3 is not finite"):
        load_world(contract, tmp_path, nan)
    with pytest.raises(DataError, match="no samples"):
        load_world(contract, tmp_path, World(tmp_path / "w", episodes=0))
    wrong = World(tmp_path / "w")
    wrong.actions = wrong.actions[:, :6]
    with pytest.raises(DataError, match=r"action has shape \(80, 6\); the contract says \(80, 7\)"):
        load_world(contract, tmp_path, wrong)
    mixed = World(tmp_path / "w")
    mixed.episode_of = mixed.episode_of[::-1]
    with pytest.raises(DataError, match="do not stand together"):
        load_world(contract, tmp_path, mixed)


def test_missing_and_misshapen_frames_are_refused(contract, tmp_path):
    class Short(World):
        def frames(self, camera, *, threads=1):
            return (item for item in list(super().frames(camera))[:-1])

    with pytest.raises(FrameError, match="79 frames for 80 steps"):
        load_world(contract, tmp_path, Short(tmp_path / "w"))

    class Large(World):
        def image(self, index):
            return np.zeros((SIZE, SIZE + 2, 3), np.uint8)

    with pytest.raises(FrameError, match=r"'front' at sample 0 has shape \(32, 34, 3\)"):
        load_world(contract, tmp_path, Large(tmp_path / "w"))


def test_a_camera_that_the_dataset_lacks_is_refused(contract, on_disk):
    more = replace(contract.cameras[0], name="side", topic="/camera/side/image_raw")
    other = replace(contract, cameras=(*contract.cameras, more))
    with pytest.raises(ValueError, match="side"):
        open_sources(DataConfig(dataset=on_disk), other, {})


def test_labels_that_are_missing_are_refused_before_anything_is_decoded(contract, on_disk):
    specs = {"z_img": LabelSpec(shape=(4,), codebook=16)}
    with pytest.raises(DataError, match=f"{on_disk}.*z_img"):
        open_sources(DataConfig(mixture=(MixturePart(path=on_disk),)), contract, specs)


# ------------------------------------------------------------------ augmentation


def test_draws_depend_on_the_place_in_the_stream_alone():
    whole = draw_numbers(3, range(10, 18), 2)
    assert whole.shape == (8, 2, 9) and whole.min() >= 0 and whole.max() < 1
    assert torch.equal(draw_numbers(3, range(14, 18), 2), whole[4:])
    assert not torch.equal(draw_numbers(4, range(10, 18), 2), whole)
    assert len(set(whole.flatten().tolist())) == whole.numel()


def test_shifts_are_whole_pixels_each_image_on_its_own():
    images = torch.randint(0, 256, (3, 2, 16, 16, 3), dtype=torch.uint8)
    out = augment_images(images, AugmentConfig(shift_px=3), draw_numbers(0, range(3), 2))
    shifts = set()
    for b in range(3):
        for c in range(2):
            found = [
                (dy, dx)
                for dy in range(-3, 4)
                for dx in range(-3, 4)
                if torch.equal(out[b, c, 3:13, 3:13], images[b, c, 3 + dy : 13 + dy, 3 + dx : 13 + dx])
            ]
            assert len(found) == 1
            shifts.add(found[0])
    assert len(shifts) > 1
    assert torch.equal(augment_images(images, AugmentConfig(), draw_numbers(0, range(3), 2)), images)
    # all offsets occur, none beyond the limit
    line = torch.arange(16, dtype=torch.uint8).view(1, 1, 1, 16, 1).expand(500, 1, 16, 16, 3)
    moved = augment_images(line, AugmentConfig(shift_px=2), draw_numbers(0, range(500), 1))
    assert set((moved[:, 0, 8, 8, 0].int() - 8).tolist()) == {-2, -1, 0, 1, 2}


def test_a_crop_enlarges_a_part_of_at_least_the_area():
    ramp = torch.linspace(0, 250, 100).round().to(torch.uint8)
    image = ramp.view(1, 1, 1, 100, 1).expand(300, 1, 100, 100, 3)
    out = augment_images(image, AugmentConfig(crop_area=0.81), draw_numbers(0, range(300), 1))[:, 0, 50, :, 0].float()
    spans = (out[:, 95] - out[:, 5]) / (float(ramp[95]) - float(ramp[5]))  # 1 is the whole image, 0.9 the smallest crop
    assert spans.min() > 0.87 and spans.max() <= 1.02 and spans.std() > 0.02
    left = out[:, 0]
    assert left.min() < 5 and left.max() > 15 and left.max() < 30  # at random places, never outside


def test_colours_change_within_their_bounds():
    draws = draw_numbers(0, range(400), 1)
    grey = torch.full((400, 1, 8, 8, 3), 100, dtype=torch.uint8)
    bright = augment_images(grey, AugmentConfig(brightness=0.2), draws).float()
    assert bright.min() >= 80 and bright.max() <= 120 and bright.std() > 5
    assert torch.equal(augment_images(grey, AugmentConfig(contrast=0.2, saturation=0.2, hue=0.05), draws), grey)
    halves = grey.clone()
    halves[:, :, :4] = 140
    contrast = augment_images(halves, AugmentConfig(contrast=0.2), draws).float()
    difference = contrast[:, 0, 0, 0, 0] - contrast[:, 0, 7, 0, 0]
    assert difference.min() >= 31 and difference.max() <= 49 and difference.std() > 2
    colour = torch.tensor([200, 100, 50], dtype=torch.uint8).expand(400, 1, 8, 8, 3)
    saturated = augment_images(colour, AugmentConfig(saturation=0.2), draws).float()[:, 0, 0, 0]
    spread = (saturated.amax(1) - saturated.amin(1)) / 150
    assert spread.min() > 0.79 and spread.max() < 1.21 and spread.std() > 0.05


def test_hue_turns_the_colour_wheel_and_nothing_else():
    import colorsys

    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (64, 3), dtype=np.uint8)
    images = torch.from_numpy(colours).view(64, 1, 1, 1, 3)
    draws = draw_numbers(0, range(64), 1)
    out = augment_images(images, AugmentConfig(hue=0.05), draws).view(64, 3).numpy()
    for colour, turned, number in zip(colours, out, draws[:, 0, 8].tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(colour / 255))
        expected = colorsys.hsv_to_rgb((hue + 0.05 * (2 * number - 1)) % 1, saturation, value)
        np.testing.assert_allclose(turned, np.array(expected) * 255, atol=1.0)
