"""Recorded episodes for a person's eyes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from synthetic_bags import T0, convert, joint_values, make_bag, picture
from synthetic_messages import small_contract

from lavla_ros import cli
from lavla_ros.contract import load_contract
from training.dataset import layout
from training.view.episode import ViewError, open_episode
from training.view.foxglove import foxglove_layout
from training.view.timeline import write_timeline

CONTRACT = small_contract()
NAMES = CONTRACT.action.names
PERSON_FROM, PERSON_TO = 8, 14


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A failure of 20 steps: a policy's chunks at steps 0 and 4, a person's at 8, who has the arm until step 14."""
    return make_bag(
        tmp_path_factory.mktemp("bags"),
        CONTRACT,
        outcome="failed",
        metadata={"contract": CONTRACT.name, "contract_definition": CONTRACT.to_dict()},
        hands={0: "policy", PERSON_FROM: "person", PERSON_TO: "policy"},
        chunks={0: "/action_chunk", 4: "/action_chunk", 8: "/person_chunk"},
    )


def test_a_bag_is_shown_whatever_became_of_it(bag: Path) -> None:
    shown = open_episode(bag)
    moments = list(shown.moments)
    assert shown.outcome == "failed" and len(moments) == 20
    assert {moment.instruction for moment in moments} == {"put the mango into the bowl"}
    assert [m.stamp_ns for m in moments] == [T0 + i * CONTRACT.dt_ns for i in range(20)]
    for i, moment in enumerate(moments):
        at, then = joint_values(i / 10), joint_values((i + 1) / 10)
        assert moment.state == pytest.approx([at[name] for name in CONTRACT.state.names])
        assert moment.action == pytest.approx([then[name] + (name == "a") for name in NAMES])
        assert np.array_equal(moment.images[CONTRACT.camera_names[0]], picture(16, 0, i, 0))
        assert moment.person == (PERSON_FROM <= i < PERSON_TO)


def test_chunks_are_read_by_the_names_of_their_joints(bag: Path) -> None:
    chunks = open_episode(bag).chunks
    assert [(c.stamp_ns - T0, c.sender) for c in chunks] == [
        (0, "policy"), (4 * CONTRACT.dt_ns, "policy"), (8 * CONTRACT.dt_ns, "person"),
    ]  # fmt: skip
    for chunk in chunks:
        for due_ns, action in zip(chunk.due_ns, chunk.actions_HA, strict=True):
            then = joint_values((due_ns - T0) / 1e9)
            assert action == pytest.approx([then[name] for name in NAMES])
        assert chunk.due_ns[0] == chunk.stamp_ns + CONTRACT.dt_ns


def test_an_episode_of_a_dataset_is_what_its_bag_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bags = [make_bag(tmp_path / "bags", CONTRACT, episode=i, steps=6 + i, hands={3: "person"}) for i in range(2)]
    convert(bags, tmp_path / "data", CONTRACT, interventions=True)
    shown = open_episode(tmp_path / "data", 1)
    ours, theirs = (
        list(shown.moments),
        list(open_episode(bags[1], contract=str(tmp_path / "data" / layout.CONTRACT)).moments),
    )
    assert len(ours) == len(theirs) == 7 and shown.outcome == ""
    for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one.stamp_ns == i * CONTRACT.dt_ns
        assert np.array_equal(one.state, other.state) and np.array_equal(one.action, other.action)
        assert one.person == other.person == (i >= 3)
        for name in CONTRACT.camera_names:
            assert np.abs(one.images[name].astype(int) - other.images[name]).mean() < 12
    with pytest.raises(ViewError, match="has the episodes 0 to 1, not 2"):
        open_episode(tmp_path / "data", 2)
    with pytest.raises(SystemExit):
        cli.main(["view", str(tmp_path / "data"), "--foxglove", str(tmp_path / "l.json")])
    assert "Foxglove opens bags" in capsys.readouterr().err and not (tmp_path / "l.json").exists()


def test_a_picture_has_what_was_measured_commanded_planned_and_who_commanded(bag: Path, tmp_path: Path) -> None:
    assert write_timeline(open_episode(bag), tmp_path / "a.png") == 20
    image = cv2.imread(str(tmp_path / "a.png"))[..., ::-1].astype(int)
    plain = make_bag(tmp_path / "plain", CONTRACT, metadata={"contract_definition": CONTRACT.to_dict()})
    write_timeline(open_episode(plain), tmp_path / "b.png")
    other = cv2.imread(str(tmp_path / "b.png"))[..., ::-1].astype(int)

    def near(picture: np.ndarray, colour: str) -> int:
        wanted = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)])
        return int((np.abs(picture - wanted).sum(-1) < 12).sum())

    for colour in ("0072b2", "d55e00"):  # measured, commanded
        assert near(image, colour) > 300 and near(other, colour) > 300
    band = np.round(255 - 0.12 * (255 - np.array([0x00, 0x9E, 0x73]))).astype(int)
    told = "".join(f"{value:02x}" for value in band)
    assert near(image, told) > 10_000 and near(other, told) == 0
    assert image.shape[1] == other.shape[1]


def test_a_layout_for_foxglove_shows_every_camera_and_every_joint() -> None:
    contract = load_contract("jaka_minicobo")
    made = foxglove_layout(contract)
    panels = made["configById"]

    def leaves(node: Any) -> list[str]:
        return [node] if isinstance(node, str) else leaves(node["first"]) + leaves(node["second"])

    assert sorted(leaves(made["layout"])) == sorted(panels)
    images = [panels[f"Image!{name}"]["imageMode"]["imageTopic"] for name in contract.camera_names]
    assert images == ["/camera/front/image_raw", "/camera/wrist/image_raw"]
    prepared = foxglove_layout(contract, ["/observation/wrist", "/camera/wrist/image_raw"])["configById"]
    assert prepared["Image!wrist"]["imageMode"]["imageTopic"] == "/observation/wrist"
    joint = [path["value"] for path in panels["Plot!joint_2"]["paths"]]
    assert joint == ["/joint_states.position[1]", "/joint_command.points[0].positions[1]"]
    assert len([name for name in panels if name.startswith("Plot!")]) == contract.action_dim


def test_the_command_writes_what_is_asked_for(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.main(["view", str(bag)])
    assert "20 steps" in capsys.readouterr().out
    (made,) = tmp_path.glob("*.png")
    with pytest.raises(SystemExit):
        cli.main(["view", str(bag), "--picture", str(made)])
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["view", str(bag), "--picture", "a.jpeg"])
    assert "expected one of" in capsys.readouterr().err
    cli.main(["view", str(bag), "--foxglove", "layout.json"])
    assert json.loads((tmp_path / "layout.json").read_text())["layout"]


def test_a_bag_that_does_not_say_its_contract_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = make_bag(tmp_path / "bags", CONTRACT)
    with pytest.raises(SystemExit):
        cli.main(["view", str(bag), "--picture", str(tmp_path / "a.png")])
    assert "--contract" in capsys.readouterr().err and not (tmp_path / "a.png").exists()


def test_rerun(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.rrd"
    if importlib.util.find_spec("rerun") is None:
        with pytest.raises(SystemExit):
            cli.main(["view", str(bag), "--rerun", str(out)])
        assert "pip install lavla_ros[view]" in capsys.readouterr().err and not out.exists()
        return
    cli.main(["view", str(bag), "--rerun", str(out)])
    raw = out.read_bytes()
    assert raw[:4] == b"RRF2"
    for entity in ("camera/", "measured", "commanded", "planned", "person"):
        assert entity.encode() in raw
