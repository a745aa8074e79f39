"""From the stand-in's expert to a file in RoboTwin's layout, and from there to a dataset."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from lavla_ros.contract import load_contract
from sim_bridges.worlds.robotwin.standin import TASKS, make_task
from sim_bridges.worlds.robotwin.standin.hdf5_episodes import CollectConfig, collect, demonstrate
from training.data import EpisodeDataset
from training.ingest import ingest
from training.task_pool import Workers

pytestmark = [pytest.mark.sim, pytest.mark.usefixtures("vulkan")]


def test_episodes_become_a_dataset(tmp_path: Path) -> None:
    source = tmp_path / "move_blocks_to_pads" / "standin"
    seeds = collect(CollectConfig(task="move_blocks_to_pads", out=source, episodes=2, first_seed=3))
    assert seeds == [3, 4]
    frames = demonstrate(make_task("move_blocks_to_pads"), 3)
    with h5py.File(source / "data/episode0.hdf5") as file:
        # What RoboTwin's own files hold.
        assert set(file) == {"observation", "joint_action", "endpose", "pointcloud"}
        assert set(file["joint_action"]) == {"left_arm", "left_gripper", "right_arm", "right_gripper", "vector"}
        assert set(file["endpose"]) == {"left_endpose", "left_gripper", "right_endpose", "right_gripper"}
        assert set(file["observation"]) == {"head_camera", "left_camera", "right_camera"}
        assert set(file["observation/head_camera"]) == {"rgb", "intrinsic_cv", "extrinsic_cv", "cam2world_gl"}
        assert file["observation/left_camera/extrinsic_cv"].shape == (len(frames), 3, 4)
        assert file["joint_action/vector"].dtype == np.float64 and file["endpose/left_endpose"].shape[1] == 7
        assert file["observation/head_camera/rgb"].dtype.kind == "S"
        vector = file["joint_action/vector"][()]
    report = ingest("robotwin", [source], tmp_path / "out", workers=Workers(jobs=1))
    assert [s.rejected for s in report.sources] == [None, None]
    assert report.sources[0].steps == len(vector) - 1 == len(frames) - 1
    contract = load_contract("robotwin_aloha")
    dataset = EpisodeDataset(tmp_path / "out", contract)
    np.testing.assert_allclose(dataset.states[: len(vector) - 1], vector[:-1], rtol=1e-6)
    np.testing.assert_allclose(dataset.actions[: len(vector) - 1], vector[1:], rtol=1e-6)
    words = json.loads((source / "instructions/episode0.json").read_text())
    assert dataset.instruction(0) == words["seen"][0] and len(words["unseen"]) == 3
    for camera, name in (("head", "head_camera"), ("left_wrist", "left_camera"), ("right_wrist", "right_camera")):
        drawn = frames[5]["observation"][name]["rgb"]
        expected = cv2.resize(drawn, (224, 224), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(dataset[5].images[camera].astype(int) - expected).mean() < 6, "another picture, or red and blue"


def test_an_expert_that_always_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim_bridges.worlds.robotwin.standin.hdf5_episodes.demonstrate", lambda task, seed: [])
    with pytest.raises(RuntimeError, match="fails on all of the 20 seeds before 20"):
        collect(CollectConfig(task=TASKS[0], out=tmp_path, episodes=1))
    assert not list(tmp_path.iterdir())
    for wrong in ({"task": "x"}, {"task": TASKS[0], "episodes": 0}, {"task": TASKS[0], "first_seed": -1}):
        with pytest.raises(ValueError, match=r"task is|nothing to collect"):
            CollectConfig(out=tmp_path, **wrong)
