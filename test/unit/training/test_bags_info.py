"""``lavla bags info``: what a bag holds, told without a contract."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from foreign_bags import COMPRESSED, PLAIN, Foreign, raw_image, text
from robot_bags import UR_STATE, bimanual, so101, ur5e
from synthetic_bags import MS, T0

from lavla_ros import cli
from training.ingest.inspection import JOINTS, Topic, inspect_bag


def _by_name(path: Path) -> dict[str, Topic]:
    return {topic.name: topic for topic in inspect_bag(path).topics}


def test_what_the_bag_of_a_ur5e_holds(tmp_path: Path) -> None:
    facts = inspect_bag(ur5e(tmp_path / "bag"))
    topics = {topic.name: topic for topic in facts.topics}
    scene, wrist = topics["/scene/color/image_raw"], topics["/wrist/color/image_raw/compressed"]
    assert scene.pictures is not None
    assert wrist.pictures is not None
    assert (scene.pictures.encoding, scene.pictures.width, scene.pictures.height) == ("rgb8", 64, 48)
    assert (wrist.pictures.encoding, wrist.pictures.width, wrist.pictures.height) == (
        "rgb8; jpeg compressed bgr8", 64, 48,
    )  # fmt: skip
    assert wrist.types == (COMPRESSED,)
    assert scene.rate_hz == pytest.approx(30, rel=1e-3)
    assert (scene.clock, scene.delay_ms, wrist.delay_ms) == ("header", 30.0, 20.0)
    depth = topics["/scene/depth/image_rect_raw"].pictures
    assert depth is not None
    assert "depth" in depth.problem
    state = topics["/joint_states"]
    assert state.types == (JOINTS,)
    assert state.joints is not None
    assert state.joints.names == tuple(f"{name}_joint" for name in UR_STATE)
    assert state.rate_hz == pytest.approx(100)
    assert state.joints.low[0] == pytest.approx(0.0)
    assert state.joints.high[0] == pytest.approx(1.0, abs=1e-3)
    assert facts.findings == ()
    assert [episode.outcome for episode in facts.episodes] == ["unmarked"]


def test_every_stream_of_other_robots_is_told(tmp_path: Path) -> None:
    topics = _by_name(bimanual(tmp_path / "pair"))
    arms = {f"/{who}_{side}/joint_states" for who in ("leader", "follower") for side in ("left", "right")}
    assert {name for name, topic in topics.items() if topic.joints} == arms
    leader = _by_name(so101(tmp_path / "so101"))["/leader/joint_states"]
    assert leader.joints is not None
    assert max(high for high in leader.joints.high if high is not None) > 59


@pytest.mark.parametrize(
    ("bag", "finding"),
    [
        (PLAIN.but(log_delay_ms={"/joint_states": 180}), r"/joint_states: logged a median 180 ms .*--log-time"),
        (PLAIN.but(stamp_delay_ms={"/joint_states": -20_000}), r"/joint_states: .* 20\.\d+ s after .* another clock"),
        (PLAIN.but(camera=lambda number, ns, rgb: raw_image(0, rgb)), r"image_raw: 20 of 20 messages are stamped 0"),
        (PLAIN.but(stamp_delay_ms={"/joint_states": 40}), r"/joint_states: .* 39 ms before the stamps"),
    ],
)
def test_clocks_that_look_wrong_are_named(bag: Foreign, finding: str, tmp_path: Path) -> None:
    found = inspect_bag(bag.write(tmp_path / "bag")).findings
    assert any(re.search(finding, line) for line in found), found


def test_stamps_that_all_count_from_a_simulations_start_are_said_once(tmp_path: Path) -> None:
    """As in every bag of a lock-step recording: nothing is wrong with it."""
    contract = PLAIN.contract
    topics = [contract.state.topic, contract.action.topic, *(camera.topic for camera in contract.cameras)]
    late = dict.fromkeys(topics, -20_000)
    (only,) = inspect_bag(PLAIN.but(stamp_delay_ms=late).write(tmp_path / "bag")).findings
    assert "every stream" in only and "20 s after" in only and "convert as they are" in only


def test_a_gap_and_marked_episodes_are_told(tmp_path: Path) -> None:
    marks = [(0, "running"), (900, "succeeded"), (1000, "running"), (1900, "failed")]
    told = [json.dumps({"source": "me", "state": state, "seed": at // 1000}) for at, state in marks]
    late_ns = T0 + 9_000 * MS
    extra = [("/episode/state", T0 + at * MS, text(said)) for (at, _), said in zip(marks, told, strict=True)]
    extra += [("/camera/front/image_raw", late_ns, raw_image(late_ns, np.zeros((32, 32, 3), np.uint8)))]
    facts = inspect_bag(PLAIN.but(extra=tuple(extra)).write(tmp_path / "bag"))
    assert [episode.outcome for episode in facts.episodes] == ["succeeded", "failed"]
    assert any("largest gap is 7.100 s" in line for line in facts.findings)


def test_the_command_prints_a_table_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    bag = str(so101(tmp_path / "bag", seconds=0.5))
    cli.main(["bags", "info", bag])
    shown = capsys.readouterr().out
    assert "shoulder_pan, shoulder_lift, elbow_flex, wrist_flex, wrist_roll, gripper" in shown
    assert "64x48 bgr8" in shown
    cli.main(["bags", "info", bag, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert {topic["name"] for topic in told["topics"]} == {"/camera/image_raw", "/joint_states", "/leader/joint_states"}
