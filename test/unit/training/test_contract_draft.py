"""``lavla contract draft``: from a recording to a contract that loads when a person has filled its blanks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from foreign_bags import PLAIN, Foreign, joints, raw_image, trajectory
from robot_bags import (
    SO101,
    UR_COMMAND,
    UR_STATE,
    VIPER,
    array,
    bimanual,
    camera_rows,
    depth_picture,
    so101,
    ur5e,
    write_rows,
)
from synthetic_bags import MS, T0, convert, joint_values, make_bag
from synthetic_messages import small_contract

from lavla_ros import cli
from lavla_ros.contract import Contract, ContractError, load_contract
from lavla_ros.recording.types import jazzy
from training.dataset import EpisodeDataset, layout
from training.dataset.video import depth_frames
from training.dataset.writer import column_array
from training.ingest.bag import Bags

SIDES = ("left", "right")
FOREIGN = Bags(outcomes=("unmarked",), instruction="put it there")


def _draft(source: Path, tmp_path: Path) -> tuple[Path, str]:
    out = tmp_path / "drafted.yaml"
    cli.main(["contract", "draft", str(source), "--out", str(out), "--name", "mine"])
    return out, out.read_text(encoding="utf-8")


def _filled(file: Path, values: Mapping[str, str]) -> Contract:
    """The contract, after a person has given ``values`` for the keys that are marked."""
    text = re.sub(r"(\w+):   # FILL IN: .*", lambda found: f"{found[1]}: {values[found[1]]}", file.read_text("utf-8"))
    file.write_text(text, encoding="utf-8")
    return load_contract(file)


def _captured_s(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """When each picture of the first camera, and each state, of the first episode was captured, since T0."""
    table = layout.read_table(root / layout.DATA_PATH.format(chunk_index=0, file_index=0), [layout.CAPTURE])
    captured_s = (column_array(table, layout.CAPTURE) - T0) / 1e9
    return captured_s[:, 0], captured_s[:, -1]


def test_a_ur5e_needs_its_name_alone(tmp_path: Path) -> None:
    bag = ur5e(tmp_path / "bag")
    file, text = _draft(bag, tmp_path)
    assert text.count("# FILL IN") == 1
    with pytest.raises(ContractError, match="robot is None"):
        load_contract(file)
    contract = _filled(file, {"robot": "ur5e"})
    assert contract.camera_names == ("scene", "wrist")
    assert contract.camera("wrist").topic == "/wrist/color/image_raw"
    assert contract.state.names == tuple(f"{name}_joint" for name in UR_STATE)
    assert contract.action.names == tuple(f"{name}_joint" for name in UR_COMMAND)
    assert {d.unit for d in (*contract.state.fields, *contract.action.dims)} == {"rad"}
    assert [spec.topic for spec in contract.depth] == ["/scene/depth/image_rect_raw"]
    report = convert([bag], tmp_path / "dataset", contract, options=FOREIGN)
    assert not report.rejected
    data = EpisodeDataset(tmp_path / "dataset", contract)
    assert len(data.states) >= 18
    frames_s, _ = _captured_s(tmp_path / "dataset")
    [row] = layout.read_episodes(tmp_path / "dataset")
    depth = list(depth_frames(layout.depth_file(tmp_path / "dataset", row, "scene_depth")))
    assert len(depth) == len(data.states)
    for at_s, image in zip(frames_s, depth, strict=True):
        np.testing.assert_array_equal(image, depth_picture(round(at_s * 30)))
    elbow = contract.state.names.index("elbow_joint")
    ahead = data.actions[:, contract.action.names.index("elbow_joint")] - data.states[:, elbow]
    assert np.all(ahead[:10] > 0.03)  # commands of the same joint, a step ahead: matched by name, not by place


def test_a_pair_of_arms_with_leaders_needs_names_and_ends_alone(tmp_path: Path) -> None:
    bag = bimanual(tmp_path / "bag")
    file, text = _draft(bag, tmp_path)
    assert "CANNOT" not in re.sub("^#.*$", "", text, flags=re.MULTILINE)
    contract = _filled(file, {"robot": "pair", "low": "-1", "high": "1"})
    assert contract.state.names == tuple(f"{side}_{name}" for side in ("left", "right") for name in VIPER)
    assert contract.action.names == contract.state.names and contract.action.source == "command"
    assert [piece.topic for piece in contract.state.pieces] == [f"/follower_{s}/joint_states" for s in SIDES]
    assert [piece.topic for piece in contract.action.pieces] == [f"/leader_{s}/joint_states" for s in SIDES]
    assert contract.action.pieces[1].there == VIPER
    assert not convert([bag], tmp_path / "dataset", contract, options=FOREIGN).rejected
    data = EpisodeDataset(tmp_path / "dataset", contract)
    assert len(data.states) >= 18
    step_s, stamps_s = _captured_s(tmp_path / "dataset")
    waves = np.sin(stamps_s[:, None] + np.arange(len(VIPER)))
    np.testing.assert_allclose(data.states, np.hstack([waves, waves]), atol=1e-6)
    in_force_s = np.floor((step_s + 0.1) / 0.02 + 1e-6) * 0.02 + 0.02  # a leader is 20 ms ahead of its stamp
    np.testing.assert_allclose(data.actions[:-1, :7], np.sin(in_force_s[:-1, None] + np.arange(7)), atol=1e-6)


def test_an_so101_in_degrees_and_percent_becomes_rad_and_a_fraction(tmp_path: Path) -> None:
    bag = so101(tmp_path / "bag")
    file, text = _draft(bag, tmp_path)
    assert "unit: deg   # GUESS: of the messages, which have values up to 60" in text
    assert "FILL IN: its value at one end; recorded 0.5 to 0.9" in text
    contract = _filled(file, {"robot": "so101", "low": "0", "high": "1"})
    assert contract.state.names == contract.action.names == SO101
    assert [d.kind for d in contract.action.dims] == ["arm"] * 5 + ["gripper"]
    assert [d.unit for d in contract.action.dims] == ["rad"] * 5 + ["fraction"]
    assert {piece.topic for piece in contract.action.pieces} == {"/leader/joint_states"}
    assert not convert([bag], tmp_path / "dataset", contract, options=FOREIGN).rejected
    data = EpisodeDataset(tmp_path / "dataset", contract)
    _, stamps_s = _captured_s(tmp_path / "dataset")
    np.testing.assert_allclose(data.states[:, 0], np.deg2rad(60 * np.sin(stamps_s)), atol=1e-6)
    np.testing.assert_allclose(data.states[:, 5], 0.5 + 0.4 * np.sin(stamps_s), atol=1e-6)


def test_numbers_without_names_are_given_the_states(tmp_path: Path) -> None:
    """As ros2_control's forward controllers are commanded: an array for the arm, another for the gripper."""
    rows = []
    for tick in range(60):
        at_ns, t = T0 + tick * 20 * MS, tick * 0.02
        rows.append((at_ns, "/joint_states", joints(at_ns, {"b": t, "gripper": 0.5, "a": -t})))
        rows.append((at_ns, "/forward_position_controller/commands", array(t + 1, -t - 1)))
        rows.append((at_ns, "/gripper_controller/commands", array(0.25)))
    bag = write_rows(tmp_path / "bag", [*camera_rows("/cam/image_raw", 1.2), *rows])
    file, text = _draft(bag, tmp_path)
    assert "names: [b, a]   # GUESS of the order" in text
    contract = _filled(file, {"robot": "other", "low": "0", "high": "1"})
    assert not convert([bag], tmp_path / "dataset", contract, options=FOREIGN).rejected
    data = EpisodeDataset(tmp_path / "dataset", contract)
    assert contract.action.names == ("b", "a", "gripper")
    np.testing.assert_allclose(data.actions[3], [1.4, -1.4, 0.25], atol=1e-6)


def test_a_bag_of_our_recorder_converts_under_its_draft(tmp_path: Path) -> None:
    small = small_contract(size=32)
    bag = make_bag(tmp_path / "bags", small, metadata=small.described())
    file, text = _draft(bag, tmp_path)
    assert not re.search("FILL IN|GUESS|CANNOT", text)
    drafted = load_contract(file)
    assert drafted == small
    assert not convert([bag], tmp_path / "dataset", drafted).rejected
    again, _ = _draft(tmp_path / "dataset", tmp_path / "of_the_dataset")
    assert load_contract(again) == small


def test_a_dataset_of_another_tool_has_names_and_no_topics(tmp_path: Path) -> None:
    names = [f"{name}.pos" for name in SO101]
    vector = {"dtype": "float32", "shape": [6], "names": names}
    image = {"dtype": "video", "shape": [480, 640, 3], "names": ["height", "width", "channels"]}
    features = {layout.STATE: vector, layout.ACTION: vector, "observation.images.front": image}
    info = {"codebase_version": "v3.0", "robot_type": "so101_follower", "fps": 30, "features": features}
    layout.write_json(tmp_path / "source" / layout.INFO, info)
    low, high = [-90.0] * 5 + [2.0], [95.0] * 5 + [97.0]
    layout.write_json(
        tmp_path / "source/meta/stats.json", {key: {"min": low, "max": high} for key in (layout.STATE, layout.ACTION)}
    )
    file, text = _draft(tmp_path / "source", tmp_path)
    assert "look like degrees" in text and 'unit: "1"' in text
    contract = _filled(file, {"topic": "/something", "low": "0", "high": "100"})
    assert (contract.robot, contract.rate_hz, contract.camera_names) == ("so101_follower", 30, ("front",))
    assert contract.action.names == tuple(names)


def _plan(t: float, stamp_ns: int) -> tuple[str, bytes]:
    """A plan of two points."""
    kind, raw = trajectory(stamp_ns, joint_values(t), 0)
    plan = jazzy().deserialize_cdr(raw, kind)
    plan.points.append(plan.points[0])
    return kind, bytes(jazzy().serialize_cdr(plan, kind))


@pytest.mark.parametrize(
    ("bag", "said"),
    [
        (
            PLAIN.but(command=_plan),
            "/joint_command has plans of up to 2 points",
        ),
        (
            PLAIN.but(state=lambda t, ns: [joints(ns, {n: v}) for n, v in joint_values(t).items()]),
            "names: [gripper]",
        ),
        (
            PLAIN.but(command=lambda t, ns: trajectory(ns, {"a": t, "b": t}, 0)),
            "the state has gripper, but these commands have no gripper",
        ),
        (PLAIN.but(camera=lambda number, ns, rgb: raw_image(ns, rgb, "8UC3")), "channel_order:   # FILL IN"),
        (PLAIN.but(stamp_delay_ms={"/joint_states": -20_000}), "another clock"),
    ],
)
def test_what_does_not_fit_is_said_in_its_place(bag: Foreign, said: str, tmp_path: Path) -> None:
    _, text = _draft(bag.write(tmp_path / "bag"), tmp_path)
    assert said in text


def test_a_bag_without_cameras_gives_no_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = PLAIN.but(camera=lambda number, ns, rgb: raw_image(ns, rgb[:, :, :2].copy(), "16UC1"))
    with pytest.raises(SystemExit):
        cli.main(["contract", "draft", str(bag.write(tmp_path / "bag"))])
    assert "has no colour camera, so no contract can be drafted" in capsys.readouterr().err
