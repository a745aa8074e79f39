"""``lavla contract draft``: from a recording to a contract that loads when a person has filled its blanks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from foreign_bags import PLAIN, Foreign, joints, raw_image, trajectory
from robot_bags import SO101, UR_COMMAND, UR_STATE, VIPER, bimanual, so101, ur5e
from synthetic_bags import convert, joint_values, make_bag
from synthetic_messages import small_contract

from lavla_ros import cli
from lavla_ros.contract import Contract, ContractError, load_contract
from lavla_ros.recording.types import jazzy
from training.dataset import EpisodeDataset, layout
from training.ingest.bag import Bags

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
    assert "CANNOT BE SAID: /scene/depth/image_rect_raw (16UC1)" in text
    report = convert([bag], tmp_path / "dataset", contract, options=FOREIGN)
    assert not report.rejected
    data = EpisodeDataset(tmp_path / "dataset", contract)
    assert len(data.states) >= 18
    elbow = contract.state.names.index("elbow_joint")
    ahead = data.actions[:, contract.action.names.index("elbow_joint")] - data.states[:, elbow]
    assert np.all(ahead[:10] > 0.03)  # commands of the same joint, a step ahead: matched by name, not by place


def test_a_pair_of_arms_says_what_no_contract_can(tmp_path: Path) -> None:
    file, text = _draft(bimanual(tmp_path / "bag", seconds=0.5), tmp_path)
    said = " ".join(text.split())
    assert "CANNOT BE SAID: the joints come on 2 topics (/follower_left/joint_states, /follower_right" in said
    assert "CANNOT BE SAID: /leader_left/joint_states, /leader_right/joint_states: commands as JointState" in said
    contract = _filled(file, {"robot": "pair", "topic": "/joint_states", "low": "-0.5", "high": "1.5"})
    assert contract.state.names == tuple(f"{side}_{name}" for side in ("left", "right") for name in VIPER)
    assert contract.action.source == "next_state"


def test_an_so101_in_degrees_is_told_and_converts(tmp_path: Path) -> None:
    bag = so101(tmp_path / "bag")
    file, text = _draft(bag, tmp_path)
    assert "look like degrees" in text
    assert "FILL IN: its value at one end; recorded 50 to 90" in text
    contract = _filled(file, {"robot": "so101", "low": "0", "high": "100"})
    assert contract.state.names == SO101
    assert [d.kind for d in contract.action.dims] == ["arm"] * 5 + ["gripper"]
    assert {d.unit for d in contract.action.dims} == {"1"}
    assert not convert([bag], tmp_path / "dataset", contract, options=FOREIGN).rejected


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
    assert "values up to 95 look like degrees" in text
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
            "some messages lack some joints",
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
