"""Episodes to bags and back: marks, numbers, kills, full disks, foreign and truncated files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from lavla_ros.outputs import OutputError
from lavla_ros.recording import BagError, BagReader, EpisodeRecorder, RecordingError, find_bags, recover_bag
from lavla_ros.recording.stream_stats import StreamStats, behind, raw_stamp_ns
from lavla_ros.recording.types import EpisodeMarks, jazzy, string_cdr

TOPICS = {
    "/joint_states": "sensor_msgs/msg/JointState",
    "/observation/front": "sensor_msgs/msg/Image",
    "/instruction": "std_msgs/msg/String",
}
T0 = 1_700_000_000_000_000_000


def joint_state(stamp_ns: int) -> bytes:
    types = jazzy().types
    header = types["std_msgs/msg/Header"](
        stamp=types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id=""
    )
    message = types["sensor_msgs/msg/JointState"](
        header=header, name=["a", "b"], position=np.array([1.0, 2.0]), velocity=np.empty(0), effort=np.empty(0)
    )
    return bytes(jazzy().serialize_cdr(message, "sensor_msgs/msg/JointState"))


def record(root: Path, count: int = 20, outcome: str = "succeeded") -> Path:
    recorder = EpisodeRecorder(root, TOPICS)
    recorder.start({"task": "pick_place", "seed": 7, "instruction": "put it"}, stamp_ns=T0)
    assert recorder.write("/instruction", string_cdr("put it"), T0)
    for i in range(count):
        assert recorder.write("/joint_states", joint_state(T0 + i * 8_000_000), T0 + i * 8_000_000)
    return recorder.stop(outcome).path  # type: ignore[arg-type]


def test_what_is_learned_of_an_episode_while_it_runs_is_what_the_bag_says(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path, TOPICS)
    recorder.describe({"seed": 3})  # nothing is open
    path = recorder.start({"task": "pick_place", "seed": 6}, stamp_ns=T0)
    recorder.describe({"seed": 7, "initial_state": 2})
    recorder.stop("succeeded", stamp_ns=T0 + 1)
    with BagReader(path) as bag:
        assert bag.episode().scene == {"task": "pick_place", "seed": 7, "initial_state": 2}


def test_who_is_behind_and_who_has_another_clock() -> None:
    stats = {name: StreamStats() for name in ("state", "late", "level", "ahead", "another clock", "silent")}
    for name, age_ns in {"state": 0, "late": 10**8, "level": 0, "ahead": -(10**8), "another clock": 5 * 10**9}.items():
        stats[name].add(raw_stamp_ns(joint_state(T0 - age_ns)))
    assert behind(stats, ["state"], within_s=2.0) == ["late"]
    assert behind(stats, ["state"], within_s=0.1) == []


def test_an_episode_reads_back(tmp_path: Path) -> None:
    path = record(tmp_path)
    with BagReader(path) as bag:
        assert bag.counts == {"/joint_states": 20, "/observation/front": 0, "/instruction": 1, "/episode/state": 2}
        messages = list(bag.messages(["/joint_states"]))
        assert [m.stamp_ns for m in messages] == [T0 + i * 8_000_000 for i in range(20)]
        assert messages[3].raw == joint_state(T0 + 24_000_000)
        assert bag.deserialize(messages[3]).name == ["a", "b"]
        episode = bag.episode()
        assert (episode.outcome, episode.instruction) == ("succeeded", "put it")
        assert episode.scene == {"task": "pick_place", "seed": 7}
        last = list(bag.messages(["/episode/state"]))[-1]
        assert json.loads(bag.deserialize(last).data)["state"] == "succeeded"
        with pytest.raises(BagError, match=r"/nowhere.*it has"):
            bag.require_topics(["/joint_states", "/nowhere"])
        with pytest.raises(BagError, match="/observation/front"):
            bag.require_topics(["/observation/front"])


def test_numbers_are_never_used_twice(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path, TOPICS)
    first = recorder.start()
    assert recorder.discard() == first and not first.exists()
    second = recorder.start()
    assert recorder.stop().episode == 1
    again = EpisodeRecorder(tmp_path, TOPICS)
    again.start()
    again.discard()
    assert EpisodeRecorder(tmp_path, TOPICS).start().name == "episode_000003"
    (tmp_path / ".next_episode").unlink()  # the folders themselves are a second witness
    assert EpisodeRecorder(tmp_path, TOPICS).start().name == "episode_000004"
    assert second.name == "episode_000001"


def test_misuse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="made_up/msg/Thing"):
        EpisodeRecorder(tmp_path, {"/x": "made_up/msg/Thing"})
    recorder = EpisodeRecorder(tmp_path, TOPICS)
    assert recorder.write("/instruction", b"", 0) is False
    with pytest.raises(RecordingError, match="no episode is open"):
        recorder.stop()
    with pytest.raises(RecordingError, match="nothing to discard"):
        recorder.discard()
    recorder.start()
    with pytest.raises(RecordingError, match="still open"):
        recorder.start()
    with pytest.raises(RecordingError, match="/other"):
        recorder.write("/other", b"", 0)
    with pytest.raises(RecordingError, match="great"):
        recorder.stop("great")  # type: ignore[arg-type]
    recorder.discard()


def test_an_unwritable_or_full_place_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RecordingError, match="cannot record below"):
        EpisodeRecorder(file / "bags", TOPICS).start()
    with pytest.raises(RecordingError, match="MiB are free"):
        EpisodeRecorder(tmp_path / "bags", TOPICS, min_free_bytes=2**60).start()


_CHILD = """
import resource, sys, time
from pathlib import Path
from lavla_ros.recording import EpisodeRecorder, RecordingError
mode, root = sys.argv[1], Path(sys.argv[2])
if mode == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
recorder = EpisodeRecorder(root, {"/data": "std_msgs/msg/String"}, min_free_bytes=0)
recorder.start({"task": "t"}, stamp_ns=time.time_ns())
from lavla_ros.recording.types import string_cdr
i = 0
while True:
    try:
        recorder.write("/data", string_cdr(f"{i} " + "x" * 5000), time.time_ns())
    except RecordingError as error:
        print("REFUSED", error, flush=True)
        sys.exit(3)
    print(i, flush=True)
    i += 1
    time.sleep(0.005)
"""


def _spawn(mode: str, root: Path) -> subprocess.Popen[str]:
    repository = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, mode, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )


def test_kill_9_loses_less_than_a_second(tmp_path: Path) -> None:
    child = _spawn("kill", tmp_path)
    assert child.stdout is not None
    written = []
    deadline = time.monotonic() + 20
    for _ in child.stdout:
        written.append(time.time_ns())
        if len(written) >= 300 or time.monotonic() > deadline:
            break
    child.send_signal(signal.SIGKILL)
    killed_ns = time.time_ns()
    child.wait()
    child.stdout.close()
    bag = tmp_path / "episode_000000"
    assert not (bag / "metadata.yaml").exists()
    with pytest.raises(BagError, match=r"killed before closing.*recover"):
        BagReader(bag)
    report = recover_bag(bag)
    assert report.outcome == "interrupted" and report.messages["/episode/state"] == 1
    with BagReader(report.path) as reader:
        data = list(reader.messages(["/data"]))
        numbers = [int(reader.deserialize(m).data.split()[0]) for m in data]
        assert reader.episode().outcome == "interrupted" and reader.episode().scene == {"task": "t"}
    assert numbers == list(range(len(numbers))) and len(numbers) == report.messages["/data"]
    assert killed_ns - data[-1].stamp_ns < 10**9
    with pytest.raises(OutputError, match="exists already"):
        recover_bag(bag)


def test_a_pause_does_not_leave_old_messages_in_memory(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path, TOPICS, flush_interval_s=0.05)
    path = recorder.start(stamp_ns=T0)
    recorder.write("/instruction", string_cdr("only one"), T0)
    time.sleep(0.3)  # nothing more comes: the flush must not need another write
    assert recover_bag(path, tmp_path / "copy").messages == {"/instruction": 1, "/episode/state": 1}
    recorder.discard()


def test_a_full_disk_stops_recording_and_keeps_what_was_written(tmp_path: Path) -> None:
    child = _spawn("full", tmp_path)
    out, _ = child.communicate(timeout=30)
    assert child.returncode == 3 and "REFUSED" in out and "recover" in out
    report = recover_bag(tmp_path / "episode_000000")
    assert 50 <= report.messages["/data"] < 120 and report.damage


def test_a_file_cut_anywhere_is_an_error_to_read_and_recovers_a_prefix(tmp_path: Path) -> None:
    path = record(tmp_path / "bags", count=400)
    whole = (path / f"{path.name}.mcap").read_bytes()
    recovered = []
    for i, size in enumerate([0, 4, 30, 3000, len(whole) // 2, len(whole) - 3000, len(whole) - 10]):
        cut = tmp_path / f"cut_{i}"
        cut.mkdir()
        (cut / "metadata.yaml").write_text((path / "metadata.yaml").read_text())
        (cut / f"{path.name}.mcap").write_bytes(whole[:size])
        with pytest.raises(BagError, match=f"cut_{i}"), BagReader(cut) as bag:
            list(bag.messages())
        try:
            recovered.append(sum(recover_bag(cut).messages.values()))
        except BagError as error:
            assert "nothing to recover" in str(error)
            recovered.append(0)
    assert recovered == sorted(recovered) and recovered[0] == 0 and recovered[-1] == 403


def test_flipped_bytes_never_crash_the_reader(tmp_path: Path) -> None:
    path = record(tmp_path / "bags", count=30)
    file = path / f"{path.name}.mcap"
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 4):
            damaged[position] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        try:
            with BagReader(path) as bag:
                for message in bag.messages():
                    bag.deserialize(message)
        except BagError:
            continue


def test_foreign_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="does not exist"):
        BagReader(tmp_path / "nothing")
    (tmp_path / "ros1.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(BagError, match="ROS 1 bag"):
        BagReader(tmp_path / "ros1.bag")
    (tmp_path / "zip.mcap").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(BagError, match=r"zip\.mcap cannot be opened"):
        BagReader(tmp_path / "zip.mcap")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("")
    with pytest.raises(BagError, match=r"not a rosbag2 bag.*notes\.txt"):
        BagReader(folder)
    with pytest.raises(BagError, match="holds no rosbag2 bag"):
        find_bags([folder])
    (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: 99}\n")
    with pytest.raises(BagError, match="99"):
        BagReader(folder)


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_bags_of_other_recorders_read_the_same(tmp_path: Path, plugin: StoragePlugin) -> None:
    """``ros2 bag record`` writes this layout, with either storage and no episode marks of ours."""
    with Writer(tmp_path / "bag", version=9, storage_plugin=plugin) as writer:
        connection = writer.add_connection("/joint_states", "sensor_msgs/msg/JointState", typestore=jazzy())
        marks = writer.add_connection("/episode/state", "std_msgs/msg/String", typestore=jazzy())
        for i in range(5):
            writer.write(connection, T0 + i, joint_state(T0 + i))
        # latched from the episode before: says nothing about this one
        writer.write(marks, T0 + 4, string_cdr('{"source": "sim", "state": "succeeded", "task": "y"}'))
        writer.write(marks, T0 + 5, string_cdr('{"source": "sim", "state": "running", "task": "x"}'))
        writer.write(marks, T0 + 6, string_cdr('{"source": "sim", "state": "failed", "task": "x"}'))
        writer.write(marks, T0 + 7, string_cdr('{"state": "idle"}'))
        writer.write(marks, T0 + 8, string_cdr("not json"))
    with BagReader(tmp_path / "bag") as bag:
        assert [m.raw for m in bag.messages(["/joint_states"])] == [joint_state(T0 + i) for i in range(5)]
        assert bag.episode().outcome == "failed" and bag.episode().scene == {"task": "x"}
    assert find_bags([tmp_path]) == [tmp_path / "bag"]


def test_a_mark_counts_only_for_the_episode_in_the_bag() -> None:
    marks = EpisodeMarks()
    for text in ('{"source": "sim", "state": "succeeded"}', '{"source": "recorder", "state": "running"}', "[1]", "{"):
        marks.add(text)
    assert marks.outcome is None
    marks.add('{"source": "sim", "state": "running", "seed": 4}')
    marks.add('{"source": "sim", "state": "succeeded"}')
    assert marks.outcome == "succeeded" and marks.metadata["seed"] == 4
    marks.add('{"source": "sim", "state": "running"}')
    assert marks.outcome is None


def test_writing_keeps_up_with_two_cameras(tmp_path: Path) -> None:
    """10 s of two 640×480 cameras at 30 Hz and joints at 125 Hz must take well under 10 s."""
    recorder = EpisodeRecorder(tmp_path, TOPICS)
    recorder.start()
    picture = os.urandom(640 * 480 * 3)
    start = time.perf_counter()
    for i in range(200):
        recorder.write("/observation/front", picture, T0 + i)
    elapsed = time.perf_counter() - start
    recorder.discard()
    assert elapsed < 6.0, f"{200 * 0.92 / elapsed:.0f} MB/s"
