"""Rescue of bags: of other recorders, of types that nobody knows, of torn files; and where there is nothing to do."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml
from backports import zstd
from foreign_bags import PLAIN, joints, text
from mcap.writer import Writer as McapWriter
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from synthetic_bags import MS, T0, joint_values

from lavla_ros import cli
from lavla_ros.recording import BagError, BagReader, EpisodeRecorder, find_bags, recover_bag
from lavla_ros.recording.types import jazzy

CUSTOM = "control_msgs/msg/DynamicJointState"  # not among the standard messages


def humble_sqlite(file: Path, count: int = 40, *, compressed: bool = False) -> Path:
    """A .db3 as ROS 2 Humble leaves it when it is killed: no metadata.yaml, no definitions, one custom type."""
    file.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(file)
    database.executescript(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,"
        " serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,"
        " data BLOB NOT NULL);"
        "CREATE INDEX timestamp_idx ON messages (timestamp ASC);"
    )
    topics = [(1, "/joint_states", "sensor_msgs/msg/JointState", "cdr", ""), (2, "/dynamic", CUSTOM, "cdr", "")]
    database.executemany("INSERT INTO topics VALUES (?, ?, ?, ?, ?)", topics)
    for i in range(count):
        for topic, raw in (
            (1, joints(T0 + i * MS, joint_values(i * 0.1))[1]),
            (2, b"\0\1\0\0" + bytes([i % 256]) * 900),
        ):
            data = zstd.compress(raw) if compressed else raw
            database.execute(
                "INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", (topic, T0 + i * MS, data)
            )
    database.commit()
    database.close()
    return file


def require_joints(bag: Path, numbers: list[int]) -> None:
    with BagReader(bag) as reader:
        found = [reader.deserialize(m) for m in reader.messages(["/joint_states"])]
    for number, message in zip(numbers, found, strict=True):
        assert dict(zip(message.name, message.position.tolist(), strict=True)) == joint_values(number * 0.1)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_bag_with_a_type_that_nobody_defines_is_copied_whole(tmp_path: Path, compressed: bool) -> None:
    humble_sqlite(tmp_path / "run" / "run_0.db3", compressed=compressed)
    with pytest.raises(BagError, match="lavla recover"):
        BagReader(tmp_path / "run")
    report = recover_bag(tmp_path / "run")
    assert report.messages == {"/joint_states": 40, "/dynamic": 40} and report.damage == ""
    assert report.outcome == "unmarked"
    require_joints(report.path, list(range(40)))
    with AnyReader([report.path], default_typestore=jazzy()) as other:  # it compares definitions with their hashes
        assert other.message_count == 80
    with BagReader(report.path) as reader:
        assert reader.types["/dynamic"] == {CUSTOM} and reader.episode().outcome == "unmarked"
        assert [m.raw[4] for m in reader.messages(["/dynamic"])] == list(range(40))


@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_truncated_sqlite_file_gives_what_is_in_it(tmp_path: Path, share: float) -> None:
    file = humble_sqlite(tmp_path / "run" / "run_0.db3", 400)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    report = recover_bag(tmp_path / "run")
    count = report.messages["/dynamic"]
    assert 400 * share * 0.8 < count < 400 and report.damage
    require_joints(report.path, list(range(report.messages["/joint_states"])))


def test_what_a_killed_recorder_left_in_the_journal_counts(tmp_path: Path) -> None:
    file = humble_sqlite(tmp_path / "live" / "live_0.db3", 5)
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode = WAL")
    raw = joints(T0 + 5 * MS, joint_values(0.5))[1]
    database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (1, ?, ?)", (T0 + 5 * MS, raw))
    database.commit()
    shutil.copytree(tmp_path / "live", tmp_path / "run")  # as it is on disk before anybody closes it
    database.close()
    (tmp_path / "run" / "live_0.db3").rename(tmp_path / "run" / "run_0.db3")
    (tmp_path / "run" / "live_0.db3-wal").rename(tmp_path / "run" / "run_0.db3-wal")
    report = recover_bag(tmp_path / "run")
    require_joints(report.path, list(range(6)))


def test_mcap_with_services_and_foreign_encodings(tmp_path: Path) -> None:
    """Service events have types that no parser of messages takes; JSON beside them is left out and said."""
    folder = tmp_path / "run"
    folder.mkdir()
    with (folder / "run_0.mcap").open("wb") as sink:
        writer = McapWriter(sink)
        writer.start(profile="ros2", library="")
        kind, raw = joints(T0, joint_values(0.0))
        definition, _ = jazzy().generate_msgdef(kind, ros_version=2)
        plain = writer.register_channel(
            "/joint_states", "cdr", writer.register_schema(kind, "ros2msg", definition.encode())
        )
        events = "service_msgs/ServiceEventInfo info\nexample_interfaces/srv/AddTwoInts_Request[<=1] request\n"
        schema = writer.register_schema("example_interfaces/srv/AddTwoInts_Event", "ros2msg", events.encode())
        service = writer.register_channel("/add/_service_event", "cdr", schema)
        other = writer.register_channel("/web", "json", writer.register_schema("Any", "jsonschema", b"{}"))
        for i in range(3):
            writer.add_message(plain, T0 + i, raw, T0 + i)
            writer.add_message(service, T0 + i, b"\0\1\0\0events", T0 + i)
            writer.add_message(other, T0 + i, b"{}", T0 + i)
        writer.finish()
    report = recover_bag(folder)
    assert report.messages == {"/joint_states": 3, "/add/_service_event": 3} and "/web (json)" in report.damage
    assert (report.path / "metadata.yaml").read_text().count("RIHS01_") == 1
    require_joints(report.path, [0, 0, 0])


@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compressed_bags_that_lost_their_metadata(tmp_path: Path, mode: CompressionMode) -> None:
    bag = tmp_path / "bag"
    writer = Writer(bag, version=9, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/joint_states", "sensor_msgs/msg/JointState", typestore=jazzy())
        for i in range(20):
            writer.write(connection, T0 + i, joints(T0 + i, joint_values(i * 0.1))[1])
    (bag / "metadata.yaml").unlink()
    assert find_bags([tmp_path]) == [bag]
    require_joints(recover_bag(bag).path, list(range(20)))


def test_a_whole_bag_is_not_copied(tmp_path: Path) -> None:
    bag = PLAIN.write(tmp_path / "bag", 5)
    for path in (bag, next(bag.glob("*.mcap"))):
        with pytest.raises(BagError, match="is whole"):
            recover_bag(path)
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


def test_nothing_half_made_is_left(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    bag.mkdir()
    (bag / "bag_0.mcap").write_bytes(b"\x89MCAP0\r\n")
    (bag / "other.db3").write_bytes(b"no database")
    with pytest.raises(BagError, match="nothing to recover"):
        recover_bag(bag)
    with pytest.raises(BagError, match="nothing to recover"):
        recover_bag(bag, tmp_path / "deep" / "down")
    assert not list(tmp_path.rglob("*recovered*")) and not list(tmp_path.rglob("down*"))


def test_rescued_bags_of_other_recorders_keep_their_marks(tmp_path: Path) -> None:
    def marked(ns: int, state: str) -> tuple[str, int, tuple[str, bytes]]:
        return "/episode/state", ns, text(json.dumps({"source": "person", "state": state}))

    times = (T0, T0 + 500 * MS, T0 + 1000 * MS)
    extra = tuple(marked(ns, state) for ns, state in zip(times, ("running", "succeeded", "running"), strict=True))
    bag = PLAIN.but(extra=extra).write(tmp_path / "bag", 20)
    (bag / "metadata.yaml").unlink()
    report = recover_bag(bag)
    with BagReader(report.path) as reader:
        assert [e.outcome for e in reader.episodes()] == ["succeeded", "interrupted"]


def test_rescue_is_offered_only_where_it_can_help(tmp_path: Path) -> None:
    bag = PLAIN.write(tmp_path / "bag", 3)
    file = bag / "metadata.yaml"
    data = yaml.safe_load(file.read_text())
    information = data["rosbag2_bagfile_information"]
    for key, value, words in (
        ("version", 10, "newer ROS 2"),
        ("storage_identifier", "tape", "sqlite3 and mcap are read"),
        ("relative_file_paths", ["bag.mcap", "bag_1.mcap"], "copy them there, or `lavla recover"),
    ):
        file.write_text(yaml.safe_dump({"rosbag2_bagfile_information": {**information, key: value}}))
        with pytest.raises(BagError, match=words) as caught:
            BagReader(bag)
        assert ("lavla recover" in str(caught.value)) == (key == "relative_file_paths")
    (tmp_path / "px4.mcap").write_bytes(b"")
    with (tmp_path / "px4.mcap").open("wb") as sink:
        writer = McapWriter(sink)
        writer.start(profile="px4", library="")
        writer.finish()
    with pytest.raises(BagError, match="no recording of ROS 2") as caught:
        BagReader(tmp_path / "px4.mcap")
    assert "recover" not in str(caught.value)


def test_the_command_rescues_a_killed_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = EpisodeRecorder(tmp_path, {"/joint_states": "sensor_msgs/msg/JointState"}, min_free_bytes=0)
    path = recorder.start({"task": "t"}, stamp_ns=T0)
    recorder.write("/joint_states", joints(T0, joint_values(0.0))[1], T0)
    recorder.flush()
    cut = tmp_path / "killed"
    shutil.copytree(path, cut)
    recorder.discard()
    cli.main(["recover", str(cut), "--out", str(tmp_path / "good")])
    assert "2 messages recovered" in capsys.readouterr().out
    with BagReader(tmp_path / "good") as reader:
        assert reader.episode().outcome == "interrupted" and reader.episode().scene == {"task": "t"}
    with AnyReader([tmp_path / "good"]) as other:
        assert other.message_count == 2
    with pytest.raises(SystemExit):
        cli.main(["recover", str(tmp_path / "good")])
    assert "is whole" in capsys.readouterr().err
