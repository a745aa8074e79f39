"""Pieces: what of which message is which dimension, said in a contract, and read alike live and from bags."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from synthetic_messages import header, image, joints, small_contract

from lavla_ros.contract import ActionSpec, Contract, ContractError, DepthSpec, Dimension, RecordedTopic, StateSpec
from lavla_ros.observation import ObservationPipeline
from lavla_ros.pieces import Decoder, Piece
from training.dataset.labels import LabelTrack

MS = 1_000_000
T0 = 1_700_000_000_000_000_000
ARRAY = "std_msgs/msg/Float64MultiArray"
SMALL = small_contract()
UNITS = {"a": "rad", "b": "rad", "grip": "fraction", "speed": "rad/s", "load": "Nm", "x": "m", "fx": "N", "turn": "1"}


def read(piece: Piece, msg: Any) -> tuple[list[float] | None, dict[str, str]]:
    """What a piece reads out of a message, and what it refuses."""
    refused: dict[str, str] = {}
    decoder = Decoder([piece], UNITS, refused.__setitem__, Counter().update)
    found = decoder.read(piece.topic, msg)
    return (found[0][1].tolist() if found else None), refused


def vector(**values: float) -> SimpleNamespace:
    return SimpleNamespace(**values)


POSE = SimpleNamespace(
    position=vector(x=1500.0, y=0.0, z=0.0), orientation=vector(x=0.0, y=0.0, z=-(0.5**0.5), w=-(0.5**0.5))
)
READ = {
    "degrees": (
        Piece(topic="/j", names=("b", "a"), unit="deg", scale=(-1.0, 2.0), offset=(90.0, 0.0)),
        joints(0, {"a": 45.0, "c": 9.0, "b": 180.0}),
        [-np.pi / 2, np.pi / 2],
    ),
    "percent": (Piece(topic="/j", names=("grip",), unit="percent"), joints(0, {"grip": 25.0}), [0.25]),
    "velocity": (
        Piece(topic="/j", field="velocity", names=("speed",), message_names=("a",), unit="deg/s"),
        SimpleNamespace(header=header(0), name=["b", "a"], position=[], velocity=[0.0, 180.0], effort=[]),
        [np.pi],
    ),
    "effort of a command": (
        Piece(topic="/t", type="trajectory_msgs/msg/JointTrajectory", field="effort", names=("load",)),
        SimpleNamespace(joint_names=["load"], points=[SimpleNamespace(effort=[7.0])]),
        [7.0],
    ),
    "array": (Piece(topic="/c", type=ARRAY, names=("b", "a")), SimpleNamespace(data=[1.0, 2.0]), [1.0, 2.0]),
    "one number": (Piece(topic="/g", type="std_msgs/msg/Float64", names=("grip",)), SimpleNamespace(data=0.5), [0.5]),
    "yes or no": (Piece(topic="/g", type="std_msgs/msg/Bool", names=("grip",)), SimpleNamespace(data=True), [1.0]),
    "millimetres of a pose": (
        Piece(topic="/p", type="geometry_msgs/msg/PoseStamped", names=("x",), unit="mm"),
        SimpleNamespace(header=header(0), pose=POSE),
        [1.5],
    ),
    "turn of a pose": (
        Piece(topic="/p", type="geometry_msgs/msg/Pose", names=("a", "b"), message_names=("rz", "yaw")),
        POSE,
        [np.pi / 2, np.pi / 2],
    ),
    "quaternion with w above 0": (
        Piece(topic="/p", type="geometry_msgs/msg/Pose", names=("turn",), message_names=("qw",)),
        POSE,
        [0.5**0.5],
    ),
    "wrench": (
        Piece(topic="/w", type="geometry_msgs/msg/WrenchStamped", names=("load", "fx"), message_names=("tz", "fx")),
        SimpleNamespace(
            header=header(0), wrench=SimpleNamespace(force=vector(x=1.0, y=2, z=3), torque=vector(x=4.0, y=5, z=6))
        ),
        [6.0, 1.0],
    ),
    "twist": (
        Piece(topic="/v", type="geometry_msgs/msg/Twist", names=("speed",), message_names=("wz",)),
        SimpleNamespace(linear=vector(x=1.0, y=2, z=3), angular=vector(x=4.0, y=5, z=6)),
        [6.0],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_piece_reads_its_field_in_the_contracts_units(name: str) -> None:
    piece, message, wanted = READ[name]
    piece.check("pieces[0]", UNITS)
    found, refused = read(piece, message)
    assert refused == {}
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("piece", "message", "kind", "said"),
    [
        (
            Piece(topic="/c", type=ARRAY, names=("a", "b")),
            SimpleNamespace(data=[1.0]),
            "wrong_size",
            "1 numbers in one",
        ),
        (Piece(topic="/c", type=ARRAY, names=("a",)), SimpleNamespace(data=[np.nan]), "non_finite", "['a'] is not fin"),
        (Piece(topic="/j", names=("a",), field="effort"), joints(0, {"a": 1.0}), "wrong_size", "1 names and 0 efforts"),
        (Piece(topic="/j", names=("a", "b")), joints(0, {"a": 1.0}), "missing_name", "also needs ['b']"),
        (
            Piece(topic="/p", type="geometry_msgs/msg/Pose", names=("a",), message_names=("yaw",)),
            SimpleNamespace(position=POSE.position, orientation=vector(x=0.0, y=0.0, z=0.0, w=0.0)),
            "non_finite",
            "pose of ['yaw']",
        ),
    ],
)
def test_what_a_message_lacks_is_refused_in_words(piece: Piece, message: Any, kind: str, said: str) -> None:
    found, refused = read(piece, message)
    assert found is None and list(refused) == [kind] and said in refused[kind]


def parted(*pieces: Piece) -> Contract:
    return replace(SMALL, state=replace(SMALL.state, topic="", pieces=pieces))


ARM, GRIP = Piece(topic="/joint_states", names=("a", "b")), Piece(topic="/joint_states", names=("gripper",))


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ((ARM, replace(GRIP, names=("gripper", "b"))), r"pieces\[1\].names .* no 'b': state.pieces\[0\] gives it"),
        ((ARM,), r"state.pieces .* missing: \['gripper'\]"),
        ((ARM, replace(GRIP, names=("grip",))), r"unknown: \['grip'\]"),
        ((ARM, replace(GRIP, unit="deg")), r"pieces\[1\].unit is 'deg'; expected one of \['fraction', 'percent'\]"),
        ((replace(ARM, field="velocity"), GRIP), "unit of 'a' is 'rad'; expected one of .'rad/s', 'm/s', '1'. for the"),
        ((replace(ARM, type="sensor_msgs/msg/Imu"), GRIP), r"pieces\[0\].type is 'sensor_msgs/msg/Imu'"),
        ((ARM, replace(GRIP, type=ARRAY)), "which another piece says of /joint_states"),
        ((replace(ARM, topic="joint_states"), GRIP), "a topic with a slash before it"),
        ((replace(ARM, field="data"), GRIP), "field is 'data'; expected one of .'position'"),
        ((replace(ARM, message_names=("one",)), GRIP), "2 values, one for each"),
        ((replace(ARM, scale=0.0), GRIP), "scale is 0.0"),
        ((replace(ARM, offset=float("nan")), GRIP), "finite numbers"),
        ((replace(ARM, hold_s=61.0), GRIP), "hold_s is 61.0; expected 0.0 to 60.0 s"),
        ((replace(ARM, clock="log", time_offset_s=0.1), GRIP), "cannot be of later"),
        ((replace(ARM, topic="/c", type=ARRAY, message_names=("x", "y")), GRIP), "these messages have no names"),
    ],
)
def test_pieces_that_do_not_fit_are_refused_when_the_contract_is_read(pieces: tuple[Piece, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parted(*pieces)
    plain = {**SMALL.to_dict()["state"], "pieces": [vars(piece) for piece in pieces]}
    with pytest.raises(ContractError, match=said):
        Contract.from_dict({**SMALL.to_dict(), "state": plain})


def test_a_contract_says_topics_or_pieces() -> None:
    with pytest.raises(ValueError, match=r"state.topic is ''; expected a topic, or state.pieces"):
        parted()
    with pytest.raises(ValueError, match="unit of 'a' is 'Nm'"):
        StateSpec(topic="/joint_states", fields=(Dimension(name="a", unit="Nm"),))
    with pytest.raises(ValueError, match=r"action.topic .* a topic for trajectory_msgs/msg/JointTrajectory"):
        replace(SMALL.action, pieces=(Piece(topic="/joint_command", names=SMALL.action.names),))


def test_pieces_are_wiring_and_survive_being_written_down() -> None:
    contract = parted(replace(ARM, scale=(1.0, -1.0), unit="deg"), GRIP)
    assert contract.hash == SMALL.hash and contract.full_hash != SMALL.full_hash
    plain = contract.to_dict()
    assert Contract.from_dict(plain) == contract
    assert plain["state"]["pieces"][1] == {"topic": "/joint_states", "names": ["gripper"]}
    assert "pieces" not in SMALL.to_dict()["state"]


def test_depth_and_recorded_topics_are_no_part_of_what_is_learned() -> None:
    imu = RecordedTopic(topic="/imu", type="sensor_msgs/msg/Imu")
    more = replace(SMALL, depth=(DepthSpec(name="far", topic="/far"),), record=(imu,))
    assert more.hash == SMALL.hash and Contract.from_dict(more.to_dict()) == more
    assert not {"depth", "record"} & SMALL.to_dict().keys()
    assert more.read_topics["/far"] == "sensor_msgs/msg/Image" and "/imu" not in more.read_topics
    with pytest.raises(
        ValueError, match=r"record is \['/joint_states'\]; expected topics that are not recorded anyway"
    ):
        replace(SMALL, record=(replace(imu, topic="/joint_states"),))
    with pytest.raises(ValueError, match=r"every name once; repeated: \['front'\]"):
        replace(SMALL, depth=(DepthSpec(name="front", topic="/far"),))
    with pytest.raises(ValueError, match=r"a type like sensor_msgs/msg/Imu"):
        RecordedTopic(topic="/imu", type="Imu")


def test_what_speaks_seldom_is_missed_only_after_it_held() -> None:
    held = replace(GRIP, topic="/gripper", type="std_msgs/msg/Float64", hold_s=7.0)
    notes = RecordedTopic(topic="/notes", type="std_msgs/msg/String")
    contract = replace(parted(ARM, held), record=(notes,))
    found = [contract.quiet_s(topic) for topic in ("/joint_states", "/gripper", "/notes", "/instruction")]
    assert found == [0.0, 7.0, np.inf, 0.0]


def test_extra_numbers_are_said_of_joints_and_not_of_poses() -> None:
    counted: Counter[str] = Counter()
    pose, message, _ = READ["turn of a pose"]
    for piece, said in ((pose, message), (replace(ARM, topic="/p"), joints(0, {"a": 1.0, "b": 2.0, "c": 3.0}))):
        decoder = Decoder([piece], UNITS, lambda *_: None, lambda kind: counted.update([kind]))
        assert decoder.read("/p", said) and decoder.read("/p", said)
    assert counted == {"unknown_name": 2}


def test_who_publishes_is_told_by_the_topic() -> None:
    with pytest.raises(ContractError, match=r"state.topic is missing: the state is in pieces on"):
        parted(ARM, GRIP).state.published  # noqa: B018
    assert replace(parted(ARM, GRIP).state, topic="/joint_states").published == ("a", "b", "gripper")
    assert replace(parted(ARM, GRIP).state, topic="/measured").published == SMALL.state.names
    force = replace(GRIP, topic="/gripper", type="std_msgs/msg/Float64")
    assert replace(parted(ARM, force).state, topic="/joint_states").published == ("a", "b")


def observed(contract: Contract, *events: tuple[int, str, Any]) -> tuple[list[Any], ObservationPipeline]:
    """Steps of a pipeline with a picture of both cameras every 100 ms, and these: (arrival ms, topic, message)."""
    pictures = [
        (at + 1, f"/observation/{name}", image(T0 + at * MS)) for at in (0, 100, 200) for name in ("front", "wrist")
    ]
    pipeline = ObservationPipeline(contract, instruction="x")
    steps = []
    for at, topic, message in sorted([*pictures, *events], key=lambda event: event[0]):
        pipeline.add(topic, message, T0 + at * MS)
        steps += pipeline.pop()
    return steps, pipeline


def arm(at: int, **values: float) -> tuple[int, str, Any]:
    return (at + 1, "/joint_states", joints(T0 + at * MS, values))


def test_arm_and_gripper_share_a_topic_in_messages_of_their_own() -> None:
    events = [arm(at, a=at, b=-at) for at in range(-10, 230, 20)] + [arm(at, gripper=0.5) for at in range(-5, 235, 20)]
    steps, pipeline = observed(parted(ARM, GRIP), *events)
    assert [step.state.tolist() for step in steps] == [[-10, 10, 0.5], [90, -90, 0.5], [190, -190, 0.5]]
    assert [step.capture_ns["state"] - T0 for step in steps] == [-10 * MS, 90 * MS, 190 * MS]  # of the older part
    assert not pipeline.examples
    strange = joints(T0, {"elbow": 1.0})
    pipeline.add("/joint_states", strange, T0)
    assert "also needs ['a', 'b', 'gripper']" in pipeline.examples["state.missing_name"]


def test_a_part_that_is_absent_is_named() -> None:
    steps, pipeline = observed(parted(ARM, GRIP), *[arm(at, a=at, b=-at) for at in range(-10, 230, 20)])
    assert steps == [] == pipeline.flush()
    assert pipeline.counters["state.absent./joint_states (gripper)"] == 3


def test_a_gripper_that_speaks_when_it_moves_is_held_and_not_waited_for() -> None:
    held = Piece(topic="/gripper", type="std_msgs/msg/Float64", names=("gripper",), hold_s=10.0)
    events = [arm(at, a=at, b=0.0) for at in range(-10, 210, 10)]
    steps, _ = observed(parted(ARM, held), (-3000, "/gripper", vector(data=0.25)), *events)
    assert [step.state[2] for step in steps] == [0.25, 0.25, 0.25]


def test_an_offset_moves_stamps_but_never_past_the_arrival() -> None:
    late = replace(ARM, topic="/late", time_offset_s=-0.05)
    state = [(at + 1, "/late", joints(T0 + at * MS, {"a": at, "b": 0.0})) for at in range(-50, 300, 10)]
    grip = [arm(at, gripper=0.5) for at in range(-50, 300, 10)]
    steps, _ = observed(parted(late, GRIP), *state, *grip)
    assert [step.state[0] for step in steps] == [50, 150, 250]  # what is stamped 50 ms later is as old as the picture
    steps, pipeline = observed(parted(replace(late, time_offset_s=0.05), GRIP), *state, *grip)
    assert steps == [] and "49.0 ms after its own arrival" in pipeline.examples["state.from_the_future"]
    cameras = tuple(replace(c, time_offset_s=0.05) for c in SMALL.cameras)
    _, pipeline = observed(replace(SMALL, cameras=cameras))
    assert pipeline.counters["front.from_the_future"] == 3


def test_labels_of_two_leaders_are_put_together() -> None:
    leaders = (
        Piece(topic="/leader/joint_states", names=("b", "a"), message_names=("two", "one"), unit="deg"),
        Piece(topic="/gripper/commands", type=ARRAY, names=("gripper",)),
    )
    action = ActionSpec(dims=SMALL.action.dims, pieces=leaders)
    track = LabelTrack(replace(SMALL, action=action))
    assert track.topics == ("/leader/joint_states", "/gripper/commands")
    track.add("/leader/joint_states", joints(T0 + 100 * MS, {"one": 90.0, "two": -90.0}), T0)
    assert track.at(T0) is None  # the gripper says nothing yet
    track.add("/gripper/commands", SimpleNamespace(data=[0.5]), T0 + 90 * MS)
    np.testing.assert_allclose(track.at(T0), [np.pi / 2, -np.pi / 2, 0.5])
    track.add("/leader/joint_states", joints(T0 + 100 * MS, {"one": 270.0, "two": 0.0}), T0)
    assert "'a' is 4.71239 rad; the contract has -3 to 3" in track.examples["label.out_of_range"]


def test_labels_from_states_in_pieces_need_the_actions_dimensions_only() -> None:
    contract = parted(ARM, replace(GRIP, topic="/gripper"))
    action = replace(SMALL.action, source="next_state", dims=SMALL.action.dims[:2])
    track = LabelTrack(replace(contract, action=action))
    assert track.topics == ("/joint_states",)
    track.add("/joint_states", joints(T0 + 100 * MS, {"b": 2.0, "a": 1.0}), T0)
    np.testing.assert_allclose(track.at(T0), [1.0, 2.0])
