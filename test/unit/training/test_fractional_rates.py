"""Rates that are no whole number of hertz: from the contract through recordings and videos to datasets and back."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robot_bags import write_rows
from synthetic_bags import convert, make_bag, picture
from synthetic_messages import small_contract
from test_pieces_in_bags import CONTRACT as IN_PIECES
from test_pieces_in_bags import TAKEN, rows

from training.dataset import DatasetError, EpisodeDataset, check, drop, layout, repair
from training.dataset.video import VideoReader, VideoWriter, scan
from training.ingest.build import build_dataset
from training.ingest.lerobot import LeRobotMapping, find_lerobot

RATES = (12.5, 29.97, 30000 / 1001)
HOUR_S = 3600


@settings(max_examples=300, deadline=None)
@given(rate_hz=st.one_of(st.floats(0.5, 240.0), st.sampled_from(RATES)), timescale=st.integers(1000, 1_000_000))
def test_no_frame_of_an_hour_is_off_by_half_a_period(rate_hz: float, timescale: int) -> None:
    """Frame i belongs to i / rate: in the video, in the column timestamp, and when it is asked for by its number."""
    exact, stored = Fraction(rate_hz), layout.frame_rate(rate_hz)
    for frame in (1, round(HOUR_S * rate_hz / 3), int(HOUR_S * rate_hz)):
        due_s = frame / exact
        shown_s = frame / stored
        ticks = round(shown_s * max(timescale, round(4 * rate_hz)))  # as a container counts that has this timescale
        in_file_s = Fraction(ticks, max(timescale, round(4 * rate_hz)))
        column_s = Fraction(float(np.float32(frame / rate_hz)))
        for at_s in (shown_s, in_file_s, column_s):
            assert abs(at_s - due_s) < 1 / (2 * exact)
        assert round(in_file_s * stored) == frame


@pytest.mark.parametrize("rate_hz", RATES)
def test_a_file_has_every_frame_at_its_time_and_gives_it_by_its_number(tmp_path: Path, rate_hz: float) -> None:
    file, frames = tmp_path / "video.mp4", 90
    pictures = [np.full((32, 32, 3), 4 * (i % 50) + 20, np.uint8) for i in range(frames)]
    with VideoWriter(file, width=32, height=32, fps=rate_hz) as video:
        for pixels in pictures:
            video.write(pixels)
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert abs(float(stream.average_rate) - rate_hz) < 1e-4
        times_s = [float(frame.pts * frame.time_base) for frame in container.decode(stream)]
    np.testing.assert_allclose(times_s, np.arange(frames) / rate_hz, atol=1e-5)
    assert sum(1 for _ in scan(file, rate_hz)) == frames
    with closing(VideoReader(file, rate_hz)) as reader:
        for number in (0, 89, 1, 44, 45, 3, 88):
            assert abs(float(reader.frame(number).mean()) - pictures[number].mean()) < 2
        with pytest.raises(DatasetError, match="no frame 90"):
            reader.frame(90)


@pytest.mark.parametrize("rate_hz", RATES[:2])
def test_a_recording_becomes_a_dataset_that_is_read_checked_mended_and_taken_again(
    tmp_path: Path, rate_hz: float
) -> None:
    contract = small_contract(size=32, rate_hz=rate_hz)
    bags = [make_bag(tmp_path / "bags", contract, 20, episode=i) for i in range(2)]
    root = tmp_path / "data"
    convert(bags, root, contract, jobs=1)
    info = json.loads((root / layout.INFO).read_text())
    assert info["fps"] == rate_hz and info["features"]["observation.images.front"]["info"]["video.fps"] == rate_hz
    data = EpisodeDataset(root, contract)
    steps = data.episodes[1].length
    assert data.fps == rate_hz and steps >= 18
    shown = data[data.episodes[1].first + 7].images["front"].astype(float)
    assert np.abs(shown - picture(32, 1, 7, 0)).mean() < np.abs(shown - picture(32, 1, 8, 0)).mean()
    table = layout.read_table(layout.data_file(root, info, layout.read_episodes(root)[1]))
    np.testing.assert_allclose(table["timestamp"].to_numpy(), np.arange(steps) / rate_hz, atol=1e-5)
    row = layout.read_episodes(root)[1]
    assert row["videos/observation.images.front/to_timestamp"] == pytest.approx(steps / rate_hz)
    report = check(root, deep=True, jobs=1)
    assert [f for f in report.findings if f.severity == "error"] == []
    drop(root, [0], tmp_path / "one")
    assert EpisodeDataset(tmp_path / "one", contract).fps == rate_hz
    (root / layout.INFO).unlink()
    repair(root)
    assert json.loads((root / layout.INFO).read_text())["fps"] == rate_hz
    assert len(EpisodeDataset(root, contract)) == len(data)
    mapping = LeRobotMapping(
        cameras={"front": "observation.images.front", "wrist": "observation.images.wrist"},
        state={name: f"observation.state/{name}" for name in contract.state.names},
        action={name: f"action/{name}" for name in contract.action.names},
    )
    episodes = find_lerobot(root, contract, mapping)
    build_dataset(episodes, tmp_path / "again", contract, kind="lerobot", options={}, first_frames=False)
    np.testing.assert_array_equal(EpisodeDataset(tmp_path / "again", contract).states, data.states)


def test_a_camera_of_30_hz_gives_steps_of_12_and_a_half(tmp_path: Path) -> None:
    contract = replace(IN_PIECES, rate_hz=12.5)
    convert([write_rows(tmp_path / "bag", rows())], tmp_path / "data", contract, options=TAKEN, jobs=1)
    data = EpisodeDataset(tmp_path / "data", contract)
    table = layout.read_table(layout.data_file(data.path, data.info, layout.read_episodes(data.path)[0]))
    captured_ns = np.array(table[layout.CAPTURE].to_pylist())[:, 0]
    off_s = (captured_ns - captured_ns[0]) * 1e-9 - np.arange(len(captured_ns)) / 12.5
    assert len(data) >= 23 and np.abs(off_s).max() <= 0.5 / 30 + 1e-6


def test_a_whole_rate_is_written_as_it_was(tmp_path: Path) -> None:
    """LeRobot's own tools that write videos take whole numbers only."""
    contract = small_contract(size=32)
    convert([make_bag(tmp_path / "bags", contract, 5)], tmp_path / "data", contract, jobs=1)
    assert '"fps": 10,' in (tmp_path / "data" / layout.INFO).read_text()


@pytest.mark.parametrize("fps", [None, "12.5", 0, -3.0, True, 5000, [12.5]])
def test_a_rate_that_is_none_is_refused_by_its_name(tmp_path: Path, fps: object) -> None:
    contract = small_contract(size=32)
    root = tmp_path / "data"
    convert([make_bag(tmp_path / "bags", contract, 5)], root, contract, jobs=1)
    info = json.loads((root / layout.INFO).read_text())
    (root / layout.INFO).write_text(json.dumps({**info, "fps": fps}))
    with pytest.raises(DatasetError, match="fps"):
        EpisodeDataset(root, contract)
    assert any("fps" in str(finding) for finding in check(root).findings)
