"""Bags of robots whose numbers come in pieces: right, or refused with the piece named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from foreign_bags import joints, raw_image, text
from robot_bags import Row, array, camera_rows, write_rows
from synthetic_bags import MS, T0, convert
from synthetic_messages import small_contract

from lavla_ros.contract import ActionSpec, Contract, DepthSpec, StateSpec
from lavla_ros.pieces import Piece
from training.dataset import EpisodeDataset, check, drop, layout
from training.dataset.repair import repair
from training.dataset.video import depth_frames
from training.ingest.bag import Bags
from training.ingest.build import IngestError

TAKEN = Bags(outcomes=("unmarked",), instruction="put it there")
ARRAY = "std_msgs/msg/Float64MultiArray"
SMALL = small_contract(size=32)
CONTRACT = replace(
    SMALL,
    cameras=(replace(SMALL.cameras[0], topic="/cam/image_raw"),),
    state=StateSpec(
        fields=SMALL.state.fields,
        pieces=(
            Piece(topic="/arm/joint_states", names=("a", "b"), message_names=("one", "two"), unit="deg"),
            Piece(topic="/gripper/joint_states", names=("gripper",), unit="percent"),
        ),
    ),
    action=ActionSpec(
        dims=SMALL.action.dims, pieces=(Piece(topic="/commands", type=ARRAY, names=("gripper", "b", "a")),)
    ),
)


def rows(gripper: bool = True, command: Callable[[int, float], tuple[str, bytes]] | None = None) -> list[Row]:
    """Two seconds: a camera of 30 Hz, an arm of 50 Hz in degrees, a gripper in percent, commands without names."""
    command = command or (lambda tick, t: array(0.5, t, -t))
    found = camera_rows("/cam/image_raw", 2.0)
    for tick in range(101):
        at_ns, t = T0 + tick * 20 * MS, tick * 0.02
        arm = {"two": float(np.rad2deg(-t)), "else": 9.0, "one": float(np.rad2deg(t))}
        found.append((at_ns + MS, "/arm/joint_states", joints(at_ns, arm)))
        if gripper:
            found.append((at_ns + MS, "/gripper/joint_states", joints(at_ns, {"gripper": 25.0})))
        found.append((at_ns, "/commands", command(tick, t)))
    return found


def convert_rows(tmp_path: Path, contract: Contract = CONTRACT, **changes: object) -> str:
    bag = write_rows(tmp_path / "bag", rows(**changes))  # type: ignore[arg-type]
    return str(convert([bag], tmp_path / "data", contract, options=TAKEN, jobs=1))


def test_pieces_of_other_topics_units_and_types_become_one_state_and_one_action(tmp_path: Path) -> None:
    assert "look at" not in convert_rows(tmp_path)
    data = EpisodeDataset(tmp_path / "data", CONTRACT)
    steps_s = np.arange(19) / 10
    np.testing.assert_allclose(data.states[:19], np.stack([steps_s, -steps_s, 0.25 + 0 * steps_s], 1), atol=0.021)
    np.testing.assert_allclose(
        data.actions[:19], np.stack([-steps_s - 0.1, steps_s + 0.1, 0.5 + 0 * steps_s], 1), atol=1e-6
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gripper": False}, r"no messages on \['/gripper/joint_states'\]"),
        ({"command": lambda tick, t: text("go")}, r"/commands holds std_msgs/msg/String; expected .*Float64MultiArray"),
        (
            {"command": lambda tick, t: array(0.5, t)},
            r"label: /commands: 101 of 101 .* 2 numbers in one .* has 3 there",
        ),
        ({"command": lambda tick, t: array(0.5, t, np.nan)}, r"data of \['a'\] is not finite"),
    ],
)
def test_a_bag_that_lacks_a_piece_is_rejected_by_its_name(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(IngestError, match=said):
        convert_rows(tmp_path, **changes)


def test_an_array_of_another_length_is_told_where_steps_can_do_without_it_and_ends_the_episode_where_not(
    tmp_path: Path,
) -> None:
    told = convert_rows(tmp_path, command=lambda tick, t: array(0.5, t) if tick == 50 else array(0.5, t, -t))
    assert "command: 1 messages were not used: 2 numbers in one Float64MultiArray; the contract has 3 there" in told
    (tmp_path / "gap").mkdir()
    with pytest.raises(IngestError, match=r"gap: .*2 numbers in one Float64MultiArray"):
        convert_rows(tmp_path / "gap", command=lambda tick, t: array(0.5, t) if 50 <= tick < 60 else array(0.5, t, -t))


def test_an_offset_that_makes_time_run_backwards_is_refused(tmp_path: Path) -> None:
    shifted = tuple(replace(piece, time_offset_s=0.5) for piece in CONTRACT.state.pieces)
    contract = replace(CONTRACT, state=replace(CONTRACT.state, pieces=shifted))
    with pytest.raises(IngestError, match=r"time_offset_s 0.5 puts a message 499.0 ms after its own arrival"):
        convert_rows(tmp_path, contract)


def test_depth_is_kept_to_the_bit_and_is_a_part_of_its_episode(tmp_path: Path) -> None:
    deep = replace(CONTRACT, depth=(DepthSpec(name="far", topic="/far"),))
    assert deep.hash == CONTRACT.hash  # no policy reads it
    for name, count in (("one", 2.0), ("two", 1.0)):
        found = rows() if name == "one" else [(at, t, m) for at, t, m in rows() if at < T0 + count * 1e9]
        pictures = [
            (at + MS, "/far", raw_image(at, _mm(i)[:, :, None].view(np.uint8), "16UC1")) for i, at in _ticks(count)
        ]
        write_rows(tmp_path / name, [*found, *pictures])
    bags, root = [tmp_path / "one", tmp_path / "two"], tmp_path / "data"
    convert(bags, root, deep, options=TAKEN, jobs=1)
    first, second = layout.read_episodes(root)
    kept = list(depth_frames(layout.depth_file(root, first, "far")))
    assert len(kept) == first["length"]
    for step in range(3):
        np.testing.assert_array_equal(kept[step], _mm(step * 3))
    assert check(root).errors == []
    drop(root, [0], tmp_path / "later")
    (later,) = layout.read_episodes(tmp_path / "later")
    copied, original = layout.depth_file(tmp_path / "later", later, "far"), layout.depth_file(root, second, "far")
    assert copied.read_bytes() == original.read_bytes() and check(tmp_path / "later").errors == []
    layout.depth_file(root, second, "far").unlink()
    [missing] = check(root).errors
    assert missing == "episode 1: depth/far/chunk-000/file-001.mkv is missing"
    assert any("removed episode 1" in line and "is missing" in line for line in repair(root))
    assert check(root).errors == [] and len(layout.read_episodes(root)) == 1
    with pytest.raises(IngestError, match=r"has the depth cameras \['far'\]; ours are \[\]"):
        convert(bags[1:], root, CONTRACT, options=TAKEN, jobs=1, resume=True)
    with pytest.raises(IngestError, match=r"no images of camera 'far' on any of \['/far', '/far/compressedDepth'"):
        convert([write_rows(tmp_path / "none", rows())], tmp_path / "other", deep, options=TAKEN, jobs=1)


def _mm(frame: int) -> np.ndarray:
    return np.random.default_rng(frame).integers(0, 2**16, (6, 8), dtype=np.uint16)


def _ticks(seconds: float) -> list[tuple[int, int]]:
    return [(i, T0 + round(i * 1e9 / 30)) for i in range(int(30 * seconds))]
