"""Other people's bags: right numbers, or the first cause in the field's words."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from foreign_bags import (
    COMPRESSED,
    CONTRACT,
    IMAGE,
    JOINTS,
    PLAIN,
    STRING,
    TRAJECTORY,
    Foreign,
    commanded,
    header,
    joints,
    message,
    raw_image,
    text,
    trajectory,
)
from mcap.reader import make_reader
from mcap.writer import Writer as McapWriter
from synthetic_bags import MS, T0, convert, joint_values, make_bag, picture

from lavla_ros import cli
from lavla_ros.contract import Contract
from lavla_ros.recording import BagReader, find_bags, recover_bag
from lavla_ros.recording.types import jazzy
from training.dataset import EpisodeDataset, layout, validate
from training.dataset.labels import LabelTrack
from training.dataset.writer import DatasetWriter
from training.ingest.bag import Bags
from training.ingest.build import EpisodeReport, IngestError, Kind, Rejection
from training.ingest.diagnosis import Clocks

UNMARKED = Bags(outcomes=("succeeded", "failed", "unmarked"))


def require_right(
    dataset: EpisodeDataset, steps: int, *, tolerance: float = 6, first: int = 0, offset: int = 0
) -> None:
    """Every step has the picture, state and label of its time."""
    for step in range(steps):
        sample, t = dataset[offset + step], (first + step) * 0.1
        values, wanted = joint_values(t), commanded(t + 0.1)
        np.testing.assert_allclose(sample.state, [values["a"], values["b"], values["gripper"]], atol=1e-6)
        np.testing.assert_allclose(sample.actions_HA[0], [wanted["a"], wanted["b"], wanted["gripper"]], atol=1e-6)
        for number, camera in enumerate(("front", "wrist")):
            error = np.abs(sample.images[camera].astype(int) - picture(32, 0, first + step, number))
            assert error.mean() < tolerance, (step, camera)


def converted(bag: Path, out: Path, options: Bags = UNMARKED, contract: Contract = CONTRACT) -> EpisodeDataset:
    convert([bag], out, contract, options=options, jobs=1)
    return EpisodeDataset(out, contract)


def jpeg(number: int, stamp_ns: int, rgb: np.ndarray, stored: str = "bgr8") -> tuple[str, bytes]:
    """As compressed_image_transport does it: what is named rgb8 reaches the codec in that order."""
    pixels = rgb if stored == "rgb8" else rgb[:, :, ::-1]
    data = cv2.imencode(".png", np.ascontiguousarray(pixels))[1].ravel()
    return message(COMPRESSED, header=header(stamp_ns), format=f"rgb8; png compressed {stored}", data=data)


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(PLAIN, id="rgb8"),
        pytest.param(PLAIN.but(camera=lambda n, ns, rgb: raw_image(ns, rgb, "bgr8")), id="bgr8"),
        pytest.param(PLAIN.but(camera=lambda n, ns, rgb: raw_image(ns, rgb, "yuv422_yuy2")), id="yuy2"),
        pytest.param(PLAIN.but(camera=jpeg, camera_suffix="/compressed"), id="bgr8 in png"),
        pytest.param(
            PLAIN.but(camera=lambda n, ns, rgb: jpeg(n, ns, rgb, "rgb8"), camera_suffix="/compressed"),
            id="rgb8 in png",
        ),
    ],
)
def test_cameras_of_every_kind_give_the_same_pictures(tmp_path: Path, foreign: Foreign) -> None:
    dataset = converted(foreign.write(tmp_path / "bag"), tmp_path / "data")
    assert len(dataset) == 20
    require_right(dataset, 20, tolerance=10)


def test_images_without_channel_order_are_taken_as_the_contract_says(tmp_path: Path) -> None:
    bag = PLAIN.but(camera=lambda n, ns, rgb: raw_image(ns, np.ascontiguousarray(rgb[:, :, ::-1]), "8UC3")).write(
        tmp_path / "bag"
    )
    with pytest.raises(IngestError, match=r"front.*on /camera/front/image_raw.*8UC3.*channel_order: bgr8"):
        converted(bag, tmp_path / "none")
    cameras = tuple(replace(spec, channel_order="bgr8") for spec in CONTRACT.cameras)
    dataset = converted(bag, tmp_path / "data", contract=replace(CONTRACT, cameras=cameras))
    require_right(dataset, 20)


def _prefixed(t: float, stamp_ns: int) -> list[tuple[str, bytes]]:
    return [joints(stamp_ns, {f"arm_{name}": value for name, value in joint_values(t).items()})]


def _parted(t: float, stamp_ns: int) -> list[tuple[str, bytes]]:
    values = joint_values(t)
    gripper = {"gripper": values.pop("gripper")}
    return [joints(stamp_ns, values), joints(stamp_ns, gripper)]


def _array(stamp_ns: int) -> tuple[str, bytes]:
    empty = jazzy().types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return message("std_msgs/msg/Float64MultiArray", layout=empty, data=np.array([1.0]))


REFUSED = {
    "encoding": (
        PLAIN.but(camera=lambda n, ns, rgb: raw_image(ns, rgb, "yuv444_planar")),
        ("image: camera 'front': 20 of 20 messages refused", "on /camera/front/image_raw", "yuv444_planar", "have the"),
    ),
    "depth": (
        PLAIN.but(camera=lambda n, ns, rgb: raw_image(ns, rgb, "16UC1")),
        ("image: camera 'front'", "16UC1", "name the colour camera's topic"),
    ),
    "prefixed joints": (
        PLAIN.but(state=_prefixed),
        (
            "state: /joint_states: 20 of 20 messages refused",
            "arm_gripper",
            "the contract also needs ['a', 'b', 'gripper']",
        ),
    ),
    "a joint missing": (
        PLAIN.but(state=lambda t, ns: [joints(ns, {"a": 0.0, "b": 0.0})]),
        ("state: /joint_states", "['a', 'b']", "also needs ['gripper']"),
    ),
    "arm and gripper apart": (
        PLAIN.but(state=_parted),
        ("state: /joint_states: 40 of 40", "one message"),
    ),
    "out of bounds": (
        PLAIN.but(command=lambda t, ns: trajectory(ns, {**commanded(t), "b": 57.3}, 100 * MS)),
        ("label: /joint_command: 20 of 20", "'b' is 57.3 rad; the contract has -3 to 3"),
    ),
    "unstamped pictures": (
        PLAIN.but(camera=lambda n, ns, rgb: raw_image(0, rgb)),
        ("image: camera 'front': 19 of 20", "does not stamp", "--log-time front"),
    ),
    "another clock": (
        PLAIN.but(stamp_delay_ms={"/joint_states": 20_000}),
        (
            "state: 20 steps have no sample of 'state' within 50 ms",
            "'front' run from 1700000000.000",
            "-19999 ms later",
        ),
    ),
    "commands of another time": (
        PLAIN.but(stamp_delay_ms={"/joint_command": 20_000}),
        ("label: 20 steps have no command in force", "'command' run from 1700000020.000"),
    ),
    "no instruction": (PLAIN.but(instruction=None), ("instruction: 20 steps have none", "--instruction")),
    "command of another type": (
        PLAIN.but(command=lambda t, ns: joints(ns, commanded(t))),
        ("/joint_command", f"holds {JOINTS}", f"expected {TRAJECTORY}"),
    ),
    "state of another type": (
        PLAIN.but(state=lambda t, ns: [_array(ns)]),
        ("/joint_states", "Float64MultiArray", JOINTS),
    ),
    "camera of another type": (
        PLAIN.but(camera=lambda n, ns, rgb: text("picture")),
        ("/camera/front/image_raw", STRING, IMAGE, COMPRESSED),
    ),
    "instruction of another type": (
        PLAIN.but(instruction=lambda: _array(0)),
        ("/instruction", "Float64MultiArray", STRING),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_rejection_names_its_first_cause(tmp_path: Path, name: str) -> None:
    foreign, words = REFUSED[name]
    bag = foreign.write(tmp_path / "bag")
    with pytest.raises(IngestError) as caught:
        convert([bag], tmp_path / "data", CONTRACT, options=UNMARKED, jobs=1)
    said = str(caught.value)
    assert "short:" not in said and str(bag) in said
    for word in words:
        assert word in said, said
    assert caught.value.report is not None and str(caught.value.report.sources[0].rejected) in said
    assert not (tmp_path / "data").exists()


def test_a_rejection_is_machine_readable_where_nothing_converts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = REFUSED["encoding"][0].write(tmp_path / "bag")
    contract = tmp_path / "contract.yaml"
    contract.write_text(yaml.safe_dump(CONTRACT.to_dict()))
    arguments = ["convert", str(bag), "--out", str(tmp_path / "data"), "--contract", str(contract), "--jobs", "1"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--outcomes", "unmarked", "--json"])
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert ended.value.code == 1 and report["bags"][0]["rejected"].startswith("image:")
    assert report["bags"][0]["kind"] == "image"
    assert report["bags"][0]["counters"]["front.wrong_encoding"] == 20


def test_a_foreign_bag_beside_good_ones_costs_only_itself(tmp_path: Path) -> None:
    bags = [
        PLAIN.write(tmp_path / "first"),
        REFUSED["command of another type"][0].write(tmp_path / "foreign"),
        PLAIN.write(tmp_path / "last", start_ns=T0 + 10**12),
    ]
    report = convert(bags, tmp_path / "data", CONTRACT, options=UNMARKED, jobs=2)
    assert [bag.episode for bag in report.sources] == [0, None, 1] and report.steps == 40
    assert TRAJECTORY in report.sources[1].rejected.text and validate(tmp_path / "data") == []


def test_an_error_of_the_program_costs_one_bag_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bags = [PLAIN.write(tmp_path / "a"), PLAIN.write(tmp_path / "b", start_ns=T0 + 10**12)]
    add, seen = LabelTrack.add, []

    def failing(self: LabelTrack, topic: str, msg: Any, log_ns: int) -> None:
        seen.append(msg)
        if len(seen) == 5:
            raise ZeroDivisionError("made up")
        add(self, topic, msg, log_ns)

    monkeypatch.setattr(LabelTrack, "add", failing)
    with caplog.at_level(logging.ERROR):
        report = convert(bags, tmp_path / "data", CONTRACT, options=UNMARKED, jobs=1)
    assert [bag.episode for bag in report.sources] == [None, 0]
    assert report.sources[0].rejected == Rejection(Kind.ERROR, "ZeroDivisionError: made up")
    assert "Traceback" in caplog.text and str(bags[0]) in caplog.text and "in failing" in caplog.text


def test_messages_are_found_whatever_qos_metadata_says(tmp_path: Path) -> None:
    bag = PLAIN.write(tmp_path / "bag")
    file = bag / "metadata.yaml"
    data = yaml.safe_load(file.read_text())
    qos = {"history": "keep_last", "depth": 5, "reliability": "best_effort", "durability": "volatile"}
    never = {"sec": 2147483647, "nsec": 4294967295}
    qos |= {"deadline": never, "lifespan": never, "liveliness": "automatic", "liveliness_lease_duration": never}
    for topic in data["rosbag2_bagfile_information"]["topics_with_message_count"]:
        topic["topic_metadata"]["offered_qos_profiles"] = [{**qos, "avoid_ros_namespace_conventions": False}]
        topic["topic_metadata"]["type_description_hash"] = "RIHS01_" + "0" * 64
    file.write_text(yaml.safe_dump(data))
    require_right(converted(bag, tmp_path / "data"), 20)


def test_fewer_messages_than_metadata_counts_are_not_taken_for_all(tmp_path: Path) -> None:
    bag = PLAIN.write(tmp_path / "bag")
    file = bag / "metadata.yaml"
    data = yaml.safe_load(file.read_text())
    for topic in data["rosbag2_bagfile_information"]["topics_with_message_count"]:
        topic["message_count"] += 7 if topic["topic_metadata"]["name"] == "/joint_states" else 0
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(IngestError, match=r"/joint_states.*metadata\.yaml counts \d+.*lavla recover"):
        converted(bag, tmp_path / "data")
    assert recover_bag(bag).messages["/joint_states"] == 20


def test_single_files_in_a_folder_are_bags_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "day"
    folder.mkdir()
    for i in range(3):
        bag = PLAIN.write(tmp_path / f"take{i}", 5 + i, start_ns=T0 + i * 10**12)
        next(bag.glob("*.mcap")).rename(folder / f"take{i}.mcap")
    bags = find_bags([folder])
    assert [bag.name for bag in bags] == ["take0.mcap", "take1.mcap", "take2.mcap"]
    report = convert(bags, tmp_path / "data", CONTRACT, options=UNMARKED, jobs=1)
    assert [bag.steps for bag in report.sources] == [5, 6, 7]


def test_a_bag_by_two_paths_is_one_bag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = PLAIN.write(tmp_path / "bag", 3)
    (tmp_path / "link").symlink_to(bag)
    monkeypatch.chdir(tmp_path)
    assert len(find_bags([bag, Path("bag"), tmp_path / "link", next(bag.glob("*.mcap")), tmp_path])) == 1


def test_an_mcap_file_without_a_profile_reads(tmp_path: Path) -> None:
    bag = PLAIN.write(tmp_path / "bag")
    whole = next(bag.glob("*.mcap"))
    bare = tmp_path / "bare.mcap"
    with whole.open("rb") as source, bare.open("wb") as sink:
        writer = McapWriter(sink)
        writer.start(profile="", library="other recorder")
        channels: dict[str, int] = {}
        for schema, channel, record in make_reader(source).iter_messages():
            assert schema is not None
            if channel.topic not in channels:
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.topic] = writer.register_channel(channel.topic, "cdr", number)
            writer.add_message(channels[channel.topic], record.log_time, record.data, record.publish_time)
        writer.finish()
    require_right(converted(bare, tmp_path / "data"), 20)


def mark(stamp_ns: int, state: str, **more: Any) -> tuple[str, int, tuple[str, bytes]]:
    return "/episode/state", stamp_ns, text(json.dumps({"source": "person", "state": state, **more}))


def test_marks_cut_a_bag_into_its_episodes(tmp_path: Path) -> None:
    """60 steps: what lies before, between and after the marks belongs to no episode."""
    times = [T0 + round(s * 1000) * MS for s in (0.55, 1.55, 2.05, 3.45, 4.05)]
    marks = (
        mark(T0 - 1, "succeeded", seed=9),  # of an episode before the bag
        mark(times[0], "running", task="x", seed=1),
        mark(times[0] + 100 * MS, "running", task="x", seed=1),  # said again
        mark(times[1], "succeeded", task="x", seed=1),
        mark(times[2], "running", seed=2),
        mark(times[3], "failed", seed=2),
        mark(times[4], "running", seed=3),
    )
    instruction = ("/instruction", times[2] - 10 * MS, text("the second"))
    bag = PLAIN.but(extra=(*marks, instruction)).write(tmp_path / "bag", 60)
    with BagReader(bag) as reader:
        assert [e.outcome for e in reader.episodes()] == ["succeeded", "failed", "interrupted"]
    options = replace(UNMARKED, outcomes=("succeeded", "failed"))
    report = convert([bag], tmp_path / "data", CONTRACT, options=options, jobs=1)
    assert [(b.part, b.episode, b.steps) for b in report.sources] == [(1, 0, 10), (2, 1, 14), (3, None, 0)]
    assert [b.scene.get("seed") for b in report.sources] == [1, 2, 3] and "interrupted" in report.sources[
        2
    ].rejected.text
    dataset = EpisodeDataset(tmp_path / "data", CONTRACT)
    require_right(dataset, 10, first=6)
    require_right(dataset, 14, first=21, offset=10)
    assert (dataset.instruction(0), dataset.instruction(10)) == ("put it there", "the second")
    again = convert([bag], tmp_path / "data", CONTRACT, options=UNMARKED, jobs=1, resume=True)
    assert [b.part for b in again.sources] == [1, 2, 3] and again.sources[2].rejected.kind == "outcome"
    assert (again.episodes, again.steps) == (2, 24)


def test_marks_of_other_recorders_and_files_of_times_cut_too(tmp_path: Path) -> None:
    said = ((0.55, "start: the first"), (1.55, "success"), (2.05, "start"), (3.45, "stop"))
    marks = tuple(("/marks", T0 + round(s * 1000) * MS, text(word)) for s, word in said)
    bag = PLAIN.but(extra=marks, instruction=None).write(tmp_path / "bag", 60)
    options = replace(UNMARKED, marks_topic="/marks", instruction="the second")
    convert([bag], tmp_path / "data", CONTRACT, options=options, jobs=1)
    dataset = EpisodeDataset(tmp_path / "data", CONTRACT)
    require_right(dataset, 10, first=6)
    require_right(dataset, 14, first=21, offset=10)
    assert (dataset.instruction(0), dataset.instruction(10)) == ("the first", "the second")
    (bag / "episodes.yaml").write_text("episodes: [{start_s: 2.05, end_s: 3.45, instruction: listed}]")
    convert([bag], tmp_path / "listed", CONTRACT, options=UNMARKED, jobs=1)
    dataset = EpisodeDataset(tmp_path / "listed", CONTRACT)
    assert len(dataset) == 14 and dataset.instruction(0) == "listed"
    require_right(dataset, 14, first=21)
    (bag / "episodes.yaml").write_text("episodes: [{start_s: 2, end_s: 4}, {start_s: 3, end_s: 5}]")
    with pytest.raises(IngestError, match=r"bag: .*episodes\[1\] begins at 3 s, before the one before it ends"):
        convert([bag], tmp_path / "none", CONTRACT, options=UNMARKED, jobs=1)


def test_a_trajectory_stamped_zero_begins_when_it_is_logged(tmp_path: Path) -> None:
    bag = PLAIN.but(command=lambda t, ns: trajectory(0, commanded(t + 0.1), 98 * MS)).write(tmp_path / "bag")
    report = convert([bag], tmp_path / "data", CONTRACT, options=UNMARKED, jobs=1)
    require_right(EpisodeDataset(tmp_path / "data", CONTRACT), 20)
    [notice] = report.sources[0].warnings
    assert str(notice) == "command: 20 messages are stamped 0 (at once): their log times were taken"
    assert "look at" in str(report)
    assert EpisodeReport.from_dict(report.sources[0].to_dict("bag")) == report.sources[0]


def test_streams_of_another_clock_are_told_and_can_be_taken_by_log_time(tmp_path: Path) -> None:
    plain = PLAIN.but(log_delay_ms=dict.fromkeys(("/joint_states", "/joint_command"), 0))
    ahead = plain.but(stamp_delay_ms={"/camera/front/image_raw": 100, "/camera/wrist/image_raw": 100})
    bag = ahead.write(tmp_path / "bag")
    report = convert([bag], tmp_path / "data", CONTRACT, options=UNMARKED, jobs=1)
    [bag_report] = report.sources
    assert bag_report.delay_ms == {"command": 0.0, "front": -99.0, "wrist": -99.0, "state": 0.0}
    assert [notice.stream for notice in bag_report.warnings] == ["command", "state"]
    assert "99 ms apart, where the contract tolerates 50" in bag_report.warnings[1].text
    options = replace(UNMARKED, log_time=("front", "wrist"))
    report = convert([bag], tmp_path / "right", CONTRACT, options=options, jobs=1)
    assert report.sources[0].warnings == ()
    require_right(EpisodeDataset(tmp_path / "right", CONTRACT), 19)
    with pytest.raises(IngestError, match=r"log_time names \['rear'\]"):
        replace(options, log_time=("rear",)).find([bag], CONTRACT)


def test_a_simulators_slow_clock_is_no_other_clock() -> None:
    """Delays grow all the time; what counts is that they are the same in all streams at a time."""
    clocks = Clocks()
    for ms in range(0, 10_000, 10):
        log_ns, stamp_ns = T0 + ms * MS, 10**9 + ms * MS // 2
        if ms % 100 == 0:
            clocks.add("front", stamp_ns, log_ns)
        if ms > 5_000:
            clocks.add("state", stamp_ns, log_ns)
            clocks.add("command", stamp_ns - 80 * MS, log_ns)
    assert clocks.delay_ms()["state"] - clocks.delay_ms()["front"] > 1000
    assert [notice.stream for notice in clocks.warnings(CONTRACT, ())] == ["command"]


def test_unstamped_pictures_are_taken_by_log_time(tmp_path: Path) -> None:
    bag = REFUSED["unstamped pictures"][0].write(tmp_path / "bag")
    dataset = converted(bag, tmp_path / "data", replace(UNMARKED, log_time=("front", "wrist")))
    require_right(dataset, 20)


class Killed(BaseException):
    """What ends a conversion in the midst of it."""


def files(root: Path) -> dict[str, bytes]:
    kept = ("meta/conversion.json", "meta/stats.json")  # image statistics of old episodes come from their videos
    return {
        name: p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and (name := p.relative_to(root).as_posix()) not in kept
    }


@pytest.mark.parametrize("after", ["bag 1", "bag 3", "the third note of what is to come"])
def test_a_conversion_that_was_broken_off_goes_on(tmp_path: Path, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bags = [make_bag(tmp_path / "bags", CONTRACT, 8 + i, episode=i, start_ns=T0 + i * 10**12) for i in range(4)]
    bags.insert(1, make_bag(tmp_path / "bags", CONTRACT, 5, outcome="failed"))
    whole = convert(bags, tmp_path / "whole", CONTRACT, jobs=1)
    seen: list[Any] = []

    def end(report: Any) -> None:
        seen.append(report)
        if after == f"bag {len(seen)}":
            raise Killed

    append = DatasetWriter.append

    def dying_append(self: DatasetWriter, *episode: Any) -> int:
        if not after.startswith("bag") and self.episodes == 2:
            raise Killed
        return append(self, *episode)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(DatasetWriter, "append", dying_append)
        convert(bags, tmp_path / "data", CONTRACT, jobs=1, progress=end)
    with pytest.raises(IngestError, match=r"exists already.*--resume"):
        convert(bags, tmp_path / "data", CONTRACT, jobs=1)
    before = len(seen)
    report = convert(bags, tmp_path / "data", CONTRACT, jobs=1, resume=True, progress=seen.append)
    assert len(seen) - before == (4 if after == "bag 1" else 3)  # the rejected bag is tried again
    assert (report.episodes, report.steps, report.rejected) == (whole.episodes, whole.steps, whole.rejected)
    assert files(tmp_path / "data") == files(tmp_path / "whole") and validate(tmp_path / "data") == []
    kept = json.loads((tmp_path / "data" / layout.CONVERSION).read_text())["bags"]
    assert {b["episode"]: b["bag"] for b in kept if not b["rejected"]} == dict(
        enumerate(map(str, [bags[0], *bags[2:]]))
    )


def test_a_conversion_that_ended_before_its_first_episode_begins_anew(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "bags", CONTRACT, 8)
    DatasetWriter(tmp_path / "data", CONTRACT).close()  # what is there when a conversion is killed early
    assert convert([bag], tmp_path / "data", CONTRACT, jobs=1).episodes == 1


def test_bags_that_came_later_are_added_once(tmp_path: Path) -> None:
    first = make_bag(tmp_path / "bags", CONTRACT, 8)
    convert([first], tmp_path / "data", CONTRACT, jobs=1)
    second = make_bag(tmp_path / "bags", CONTRACT, 9, start_ns=T0 + 10**12)
    copy = tmp_path / "copy_of_first"
    first.rename(copy)  # and it was moved meanwhile
    report = convert([copy, second], tmp_path / "data", CONTRACT, jobs=1, resume=True)
    assert (report.episodes, report.steps) == (2, 17)
    assert report.rejected == {"duplicate": 1} and validate(tmp_path / "data") == []


def test_a_bag_of_a_rewired_robot_converts(tmp_path: Path) -> None:
    """What was recorded says its own topics; what the pictures and numbers mean has to be the same."""
    bag = make_bag(tmp_path / "bags", CONTRACT, 10, metadata=CONTRACT.described())
    rewired = replace(
        CONTRACT,
        name="other",
        chunk_size=16,
        cameras=tuple(replace(spec, topic=f"/new{spec.topic}") for spec in CONTRACT.cameras),
        state=replace(CONTRACT.state, topic="/arm/joint_states"),
        action=replace(CONTRACT.action, topic="/arm/joint_command"),
        alignment=replace(CONTRACT.alignment, state_tolerance_s=0.03),
    )
    assert convert([bag], tmp_path / "data", rewired, jobs=1).steps == 10
    require_right(EpisodeDataset(tmp_path / "data", CONTRACT), 10)  # and the dataset serves the old one as well
    fields = tuple(replace(f, unit="1") for f in CONTRACT.state.fields)
    other = replace(CONTRACT, state=replace(CONTRACT.state, fields=fields))
    with pytest.raises(IngestError, match=r"state\.a\.unit: '1' != 'rad'.*--allow-contract-differences"):
        convert([bag], tmp_path / "no", other, jobs=1)
    options = Bags(allow_contract_differences=True)
    assert convert([bag], tmp_path / "yes", other, jobs=1, options=options).steps == 10


def test_bags_from_before_definitions_were_recorded_convert(tmp_path: Path) -> None:
    old = make_bag(tmp_path / "bags", CONTRACT, 10, metadata={"contract": "small", "contract_hash": CONTRACT.full_hash})
    assert convert([old], tmp_path / "data", CONTRACT, jobs=1).steps == 10
