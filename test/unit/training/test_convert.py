"""Bags to datasets: labels, reasons for rejection, and independence of the number of processes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_bags import MS, T0, convert, joint_values, make_bag, picture
from synthetic_messages import small_contract

from lavla_ros.contract import Contract
from lavla_ros.recording import BagError, BagReader, EpisodeRecorder
from training.dataset import EpisodeDataset, layout, validate
from training.dataset.labels import LabelTrack
from training.ingest.bag import Bags
from training.ingest.build import IngestError

CONTRACT = small_contract(size=32)


def expected_action(step: int) -> list[float]:
    values = joint_values((step + 1) * 0.1)
    return [values["a"] + 1, values["b"], values["gripper"]]


@pytest.mark.parametrize("tick_ms", [0, 8])
def test_labels_are_the_commands_in_force_one_step_later(tmp_path: Path, tick_ms: int) -> None:
    """One rule serves commands per step (simulator) and per servo tick (the live arm)."""
    bag = make_bag(tmp_path / "bags", CONTRACT, 12, tick_ms=tick_ms)
    report = convert([bag], tmp_path / "data", CONTRACT, jobs=1)
    dataset = EpisodeDataset(tmp_path / "data", CONTRACT)
    assert report.steps == 12 == len(dataset) and report.rejected == {} and report.dropped == {}
    # per tick the newest command before t + dt lies at most one tick earlier
    tolerance = 1e-6 if tick_ms == 0 else 0.008 * 0.4
    for step in range(12):
        sample = dataset[step]
        np.testing.assert_allclose(sample.actions_HA[0], expected_action(step), atol=tolerance)
        values = joint_values(step * 0.1)
        np.testing.assert_allclose(sample.state, [values["a"], values["b"], values["gripper"]], atol=1e-6)
        assert sample.instruction == "put the mango into the bowl"
        for number, camera in enumerate(("front", "wrist")):
            error = np.abs(sample.images[camera].astype(int) - picture(32, 0, step, number))
            assert error.mean() < 6, (step, camera)


def test_states_serve_as_labels_where_a_person_taught_by_hand(tmp_path: Path) -> None:
    contract = small_contract(size=32, source="next_state")
    bag = make_bag(tmp_path / "bags", contract, 12, without=("/joint_command",))
    report = convert([bag], tmp_path / "data", contract, jobs=1)
    dataset = EpisodeDataset(tmp_path / "data", contract)
    assert report.steps == 11 and report.dropped == {"no_label": 1}  # nothing follows the last state
    np.testing.assert_allclose(dataset.actions[:10], dataset.states[1:])


def test_delta_labels_from_states_leave_the_gripper_absolute() -> None:
    contract = small_contract(source="next_state")
    contract = replace(contract, action=replace(contract.action, mode="delta"))
    track = LabelTrack(contract)
    from synthetic_messages import joints

    track.add("/joint_states", joints(0, {"a": 1.0, "b": 2.0, "gripper": 0.2}), 0)
    track.add("/joint_states", joints(100 * MS, {"a": 1.5, "b": 1.0, "gripper": 0.9}), 100 * MS)
    np.testing.assert_allclose(track.at(0), [0.5, -1.0, 0.9], rtol=1e-6)
    assert track.at(100 * MS) is None


def test_unusable_labels_are_counted_and_never_used() -> None:
    from types import SimpleNamespace

    from synthetic_messages import header

    def command(**change: Any) -> SimpleNamespace:
        point = SimpleNamespace(positions=[0.1, 0.2, 0.3], time_from_start=SimpleNamespace(sec=0, nanosec=50 * MS))
        message = SimpleNamespace(header=header(50 * MS), joint_names=["a", "b", "gripper"], points=[point])
        for key, value in change.items():
            setattr(point if hasattr(point, key) else message, key, value)
        return message

    track = LabelTrack(CONTRACT)
    for message in (
        command(points=[]),
        command(joint_names=["a", "b", "c"]),
        command(positions=[1.0]),
        command(positions=[float("nan"), 0, 0]),
        command(positions=[0, 0, 1.5]),
    ):
        track.add("/joint_command", message, 0)
    assert track.at(0) is None
    assert {k: v for k, v in track.counters.items() if k != "label.messages"} == {
        "label.wrong_points": 1,
        "label.missing_name": 1,
        "label.wrong_size": 1,
        "label.non_finite": 1,
        "label.out_of_range": 1,
    }
    track.add("/joint_command", command(), 0)
    np.testing.assert_allclose(track.at(0), [0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(track.at(50 * MS), [0.1, 0.2, 0.3], rtol=1e-6)
    assert track.at(51 * MS) is None  # older than command_tolerance_s
    assert track.at(-1 * MS) is None  # not in force yet


def test_bad_episodes_are_rejected_by_name_and_the_rest_converts(tmp_path: Path) -> None:
    root = tmp_path / "bags"
    bags = {
        "good": make_bag(root, CONTRACT, 10, episode=1),
        "outcome": make_bag(root, CONTRACT, 10, outcome="failed"),
        "gap": make_bag(root, CONTRACT, 20, skip=lambda topic, step: topic == "/observation/wrist" and step == 7),
        "short": make_bag(root, CONTRACT, 1),
        "command gap": make_bag(root, CONTRACT, 20, skip=lambda topic, step: topic == "/joint_command" and step == 5),
        "bag": make_bag(root, CONTRACT, 10, without=("/joint_states",)),
        "bag camera": make_bag(root, CONTRACT, 10, without=("/observation/front",)),
        "contract": make_bag(root, CONTRACT, 10, metadata={"contract_hash": "feedfeedfeedfeed"}),
        "bag truncated": make_bag(root, CONTRACT, 10),
        "last": make_bag(root, CONTRACT, 11, episode=2, metadata={"contract_hash": CONTRACT.hash}),
    }
    file = next(bags["bag truncated"].glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:-2000])
    seen = []
    report = convert(list(bags.values()), tmp_path / "data", CONTRACT, jobs=1, progress=seen.append)
    assert list(report.sources) == seen
    reasons = dict(zip(bags, report.sources, strict=True))
    assert {name: r.episode for name, r in reasons.items() if not r.rejected} == {"good": 0, "last": 1}
    for name, r in reasons.items():
        if r.rejected:
            assert r.rejected.kind == name.replace("command ", "").split()[0], (name, r.rejected)
    assert "after step 6: 200 ms instead of 100 ms" in reasons["gap"].rejected.text
    assert "wrist_missing" in reasons["gap"].rejected.text and str(bags["gap"]) in reasons["gap"].rejected.text
    assert "'no_label': 1" in reasons["command gap"].rejected.text
    assert "/joint_states" in reasons["bag"].rejected.text and "'front'" in reasons["bag camera"].rejected.text
    assert report.rejected == {"outcome": 1, "gap": 2, "short": 1, "bag": 3, "contract": 1}
    assert (report.episodes, report.steps) == (2, 21)
    assert validate(tmp_path / "data") == []
    kept = json.loads((tmp_path / "data" / layout.CONVERSION).read_text())
    assert [row["kind"] for row in kept["bags"]] == [r.rejected.kind if r.rejected else "" for r in report.sources]
    assert kept["rejected"] == report.rejected and kept["contract_hash"] == CONTRACT.hash


def test_options_admit_what_is_rejected_by_default(tmp_path: Path) -> None:
    root = tmp_path / "bags"
    bags = [
        make_bag(root, CONTRACT, 10, outcome="failed"),
        make_bag(root, CONTRACT, 20, skip=lambda topic, step: topic == "/observation/wrist" and step == 7),
        make_bag(root, CONTRACT, 1),
        make_bag(root, CONTRACT, 5, instruction=None, metadata={"contract_hash": "feed"}),
    ]
    options = Bags(
        outcomes=("succeeded", "failed"),
        allow_gaps=True,
        min_steps=1,
        instruction="given",
        allow_contract_differences=True,
    )
    report = convert(bags, tmp_path / "data", CONTRACT, options=options, jobs=1)
    assert [b.steps for b in report.sources] == [10, 19, 1, 5] and report.dropped == {"wrist_missing": 1}
    dataset = EpisodeDataset(tmp_path / "data", CONTRACT)
    assert dataset.instruction(34) == "given" and dataset.instruction(0) == "put the mango into the bowl"
    captured = np.array(layout.read_table(tmp_path / "data/data/chunk-000/file-001.parquet")["capture_ns"].to_pylist())
    assert captured[7, 0] - captured[6, 0] == 200 * MS and captured[0].tolist() == [T0, T0, T0]
    assert validate(tmp_path / "data") == []


def test_a_bag_that_says_in_which_ways_its_instruction_can_be_said_is_kept_with_them(tmp_path: Path) -> None:
    told = ["lay the mango in", "put the mango into the bowl"]
    bags = [
        make_bag(tmp_path / "bags", CONTRACT, 10, metadata={"phrasings": told}),
        make_bag(tmp_path / "bags", CONTRACT, 10, episode=1),
    ]
    convert(bags, tmp_path / "data", CONTRACT, options=Bags(min_steps=1), jobs=1)
    dataset = EpisodeDataset(tmp_path / "data", CONTRACT)
    assert dataset.phrasings(0) == ("put the mango into the bowl", "lay the mango in")
    assert dataset.phrasings(1) == () and validate(tmp_path / "data") == []


def test_nothing_to_convert_is_an_error_that_names_every_reason(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "bags", CONTRACT, 0, without=("/joint_command",))
    with pytest.raises(IngestError, match="no images of camera 'front'"):
        convert([bag], tmp_path / "data", CONTRACT, jobs=1)
    assert not (tmp_path / "data").exists()
    with pytest.raises(IngestError, match="no bags"):
        convert([], tmp_path / "data", CONTRACT)
    with pytest.raises(IngestError, match="does not exist"):
        convert([tmp_path / "nowhere"], tmp_path / "data", CONTRACT, jobs=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    with pytest.raises(IngestError, match="exists already"):
        convert([bag], tmp_path / "full", CONTRACT, jobs=1)


def test_a_contract_that_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    odd = small_contract(size=33)
    with pytest.raises(IngestError, match="33x33 is odd"):
        convert([make_bag(tmp_path / "odd", odd, 5)], tmp_path / "b", odd, jobs=1)


def _content(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name != "conversion.json"
    }


def test_the_dataset_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    bags = [
        make_bag(tmp_path / "bags", CONTRACT, 8 + i, episode=i, outcome="failed" if i == 2 else "succeeded")
        for i in range(6)
    ]
    convert(bags, tmp_path / "one", CONTRACT, jobs=1)
    convert(bags, tmp_path / "two", CONTRACT, jobs=2)
    one, two = _content(tmp_path / "one"), _content(tmp_path / "two")
    assert one == two and len(one) == 6 + 5 * 3  # of meta/, and of five episodes
    assert not (tmp_path / "two" / layout.STAGING).exists()


def test_a_camera_topic_of_a_driver_is_prepared_on_the_way(tmp_path: Path) -> None:
    """A bag of ``ros2 bag record -a`` without our camera node: raw driver images, wider than the contract's."""
    raw = small_contract(size=64)
    cameras = tuple(replace(c, topic=c.observation_topic) for c in raw.cameras)
    recorded = replace(raw, cameras=cameras)
    small: Contract = replace(
        recorded,
        cameras=tuple(replace(c, width=32, height=32, name=f"cam_{c.name}", topic=c.topic) for c in cameras),
        alignment=replace(raw.alignment, reference="cam_front"),
    )
    bag = make_bag(tmp_path / "bags", recorded, 6)
    convert([bag], tmp_path / "data", small, jobs=1)
    dataset = EpisodeDataset(tmp_path / "data", small)
    assert dataset[5].images["cam_wrist"].shape == (32, 32, 3)
    with BagReader(bag) as reader, pytest.raises(BagError, match="no messages"):
        reader.require_topics(["/observation/cam_front"])


def test_a_recorder_that_fell_behind_and_wrote_topic_after_topic_loses_nothing(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "bags", CONTRACT, 40)
    with BagReader(bag) as reader:
        messages = list(reader.messages())
        behind = EpisodeRecorder(tmp_path / "behind", {m.topic: m.msgtype for m in messages}, min_free_bytes=0)
        path = behind.start({"task": "pick_place", "seed": 0}, stamp_ns=T0)
        late_ns = T0 + 3_000 * MS  # all of the first three seconds is written then, cameras first
        rank = {m.topic: i for i, m in enumerate(sorted(messages, key=lambda m: "observation" not in m.topic))}
        for message in sorted(messages, key=lambda m: (max(m.stamp_ns, late_ns), rank[m.topic])):
            if message.topic != "/episode/state":
                stamp_ns = message.stamp_ns if message.topic == "/instruction" else max(message.stamp_ns, late_ns)
                behind.write(message.topic, message.raw, stamp_ns)
        behind.stop("succeeded")
    convert([bag], tmp_path / "one", CONTRACT, jobs=1)
    report = convert([path], tmp_path / "two", CONTRACT, jobs=1)
    assert report.steps == 40 and report.dropped == {}
    one, two = EpisodeDataset(tmp_path / "one", CONTRACT), EpisodeDataset(tmp_path / "two", CONTRACT)
    for step in range(40):
        assert np.array_equal(one[step].state, two[step].state)
        assert np.array_equal(one[step].images["wrist"], two[step].images["wrist"])
