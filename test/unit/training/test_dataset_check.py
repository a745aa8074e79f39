"""Every sort of damage is found by the check, what is sound is not reported, and repair loses nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_bags import T0
from synthetic_messages import small_contract

from lavla_ros import cli
from training.dataset import DatasetError, DatasetWriter, EpisodeArrays, EpisodeDataset, check, layout, repair, stats
from training.dataset.video import VideoWriter
from training.dataset.writer import column_array

SIZE, FPS, LENGTH, EPISODES = 64, 10, 40, 5
CONTRACT = small_contract(size=SIZE)
FRONT, WRIST = (layout.video_key(name) for name in CONTRACT.camera_names)
Image = Callable[[int, int, int], np.ndarray]


def states(episode: int) -> np.ndarray:
    """Rest, motion, rest, motion: (LENGTH, 3) of a, b and the gripper."""
    moves = np.interp(np.arange(LENGTH), [0, 6, 18, 24, 34, 40], [0, 0, 0.7, 0.7, 0.1, 0.1])
    b = 1 + 0.5 * moves + 0.02 * episode
    return np.column_stack([moves - 0.1 * episode, b, np.interp(moves, [0, 0.7], [0.2, 0.8])])


def following(episode: int) -> np.ndarray:
    return np.concatenate([states(episode)[1:], states(episode)[-1:]])


def scene(episode: int, step: int, camera: int) -> np.ndarray:
    """A tool that goes where the state says, over a background of its own for each camera."""
    yy, xx = np.mgrid[0:SIZE, 0:SIZE]
    image = np.stack([xx * 2 + 40, yy * 2 + 40, np.full_like(xx, 50 + 120 * camera)], 2)
    if camera:
        image[:, :, 0] = 200 - image[:, :, 0] // 2
    left = round(float(states(episode)[step, 0] + 0.1 * episode) * 55) + 4
    image[20:40, left : left + 12] = 240
    image[50:, : 12 + 8 * episode] = 20
    return image.astype(np.uint8)


def encode(path: Path, episode: int, camera: int, image: Image = scene, length: int = LENGTH) -> np.ndarray:
    """Write a video; returns the histogram of its sampled frames."""
    histogram = np.zeros((3, 256), np.int64)
    with VideoWriter(path, width=SIZE, height=SIZE, fps=FPS) as out:
        for step in range(length):
            out.write(image(episode, step, camera))
            if step in stats.sample_frames(length):
                histogram += stats.image_histogram(image(episode, step, camera))
    return histogram


def build(root: Path, *, image: Image = scene, state: Callable[[int], np.ndarray] = states, **given: Any) -> Path:
    """A dataset by our writer. ``given``: action or capture, functions of the episode, and tasks, a text of one."""
    with DatasetWriter(root, CONTRACT) as writer:
        for episode in range(EPISODES):
            videos, histograms = {}, {}
            for number, name in enumerate(CONTRACT.camera_names):
                videos[name] = root / layout.STAGING / f"{name}.mp4"
                histograms[name] = encode(videos[name], episode, number, image)
            stamps = np.repeat((T0 + np.arange(LENGTH) * CONTRACT.dt_ns)[:, None], 3, axis=1)
            writer.append(
                EpisodeArrays(
                    state_LS=state(episode).astype(np.float32),
                    action_LA=given.get("action", following)(episode).astype(np.float32),
                    capture_ns_LK=given.get("capture", lambda _, nominal: nominal)(episode, stamps),
                    instructions=(given.get("tasks", lambda _: "put it there")(episode),) * LENGTH,
                    histograms=histograms,
                ),
                videos,
            )
        writer.finish()
    return root


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("sound") / "data")


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "data"))


def video(root: Path, key: str, number: int) -> Path:
    return root / layout.VIDEO_PATH.format(video_key=key, chunk_index=0, file_index=number)


def table_file(root: Path, number: int) -> Path:
    return root / layout.DATA_PATH.format(chunk_index=0, file_index=number)


def edit_episode(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The row of the first."""
    rows = layout.read_episodes(root, with_stats=True)
    change(rows[0])
    layout.write_episodes(root, rows)


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def without_sums(root: Path) -> None:
    """As a dataset of another tool, or of an older version."""
    (root / layout.SUMS).unlink()


def test_a_sound_dataset_gives_neither_error_nor_warning(original: Path) -> None:
    report = check(original, deep=True)
    assert (report.errors, report.warnings) == ([], [])
    assert (report.episodes, report.steps) == (EPISODES, EPISODES * LENGTH)
    shallow = check(original)
    assert [f.kind for f in shallow.findings] == ["videos"] and "sound" in str(shallow)


# ---------------------------------------------------------------------- damage to files of a sound dataset


def flip(file: Path, first: int, count: int, value: int | None = None) -> None:
    content = bytearray(file.read_bytes())
    for i in range(first, first + count):
        content[i] = content[i] ^ 16 if value is None else value
    file.write_bytes(content)


def swap(one: Path, two: Path) -> None:
    middle = one.with_suffix(".middle")
    one.rename(middle)
    two.rename(one)
    middle.rename(two)


def rewrite(root: Path, number: int, change: Callable[[pa.Table], pa.Table]) -> None:
    layout.write_table(table_file(root, number), change(pq.read_table(table_file(root, number))))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one flipped bit in a video": (
        lambda d: flip(video(d, FRONT, 1), 3000, 1),
        r"front/chunk-000/file-001\.mp4: its bytes are not those that were committed",
    ),
    "64 zeroed bytes in a video": (
        lambda d: flip(video(d, WRIST, 2), 4000, 64, 0),
        r"wrist/chunk-000/file-002\.mp4: its bytes are not",
    ),
    "the video of another episode": (
        lambda d: shutil.copy(video(d, FRONT, 3), video(d, FRONT, 1)),
        r"front/chunk-000/file-001\.mp4: it holds what was committed as .*front/chunk-000/file-003\.mp4",
    ),
    "two cameras exchanged in an episode": (
        lambda d: swap(video(d, FRONT, 2), video(d, WRIST, 2)),
        r"front/chunk-000/file-002\.mp4: it holds what was committed as .*wrist/chunk-000/file-002\.mp4",
    ),
    "a data file without its episode's rows": (
        lambda d: rewrite(d, 2, lambda t: t.slice(0, 0)),
        r"episode 2: data/chunk-000/file-002\.parquet holds none of its rows; it holds no row at all",
    ),
    "the data file of another episode": (
        lambda d: shutil.copy(table_file(d, 0), table_file(d, 2)),
        r"episode 2: data/chunk-000/file-002\.parquet holds none of its rows; it holds rows of episodes \[0\]",
    ),
    "a flipped bit in a data file": (lambda d: flip(table_file(d, 1), 2000, 1), r"file-001\.parquet"),
    "the contract is missing": (lambda d: (d / layout.CONTRACT).unlink(), r"meta/contract\.yaml is missing"),
    "a wrong mean": (
        lambda d: edit_json(d / layout.STATS, lambda s: s["action"]["mean"].__setitem__(1, 9.0)),
        r"meta/stats\.json: mean of action are not those of the data",
    ),
    "statistics of a wrong shape": (
        lambda d: edit_json(d / layout.STATS, lambda s: s[FRONT].update(mean=[0.5, 0.5, 0.5])),
        r"front: mean has shape \[3\]; expected \[3, 1, 1\]",
    ),
    "statistics of a wrong camera": (
        lambda d: edit_json(d / layout.STATS, lambda s: s.update({FRONT: s[WRIST]})),
        r"mean or std of observation\.images\.front differ",
    ),
    "a wrong number of steps": (
        lambda d: edit_json(d / layout.INFO, lambda i: i.update(total_frames=7)),
        r"counts 7 frames; the episodes have 200",
    ),
    "a wrong number of tasks": (
        lambda d: edit_json(d / layout.INFO, lambda i: i.update(total_tasks=7)),
        r"counts 7 tasks; .* has 1",
    ),
    "an empty task text": (lambda d: layout.write_tasks(d, [" "]), r"tasks\.parquet has a task without text"),
    "another task text": (
        lambda d: layout.write_tasks(d, ["other"]),
        r"episode 0: meta/episodes has the tasks \['put it there'\]; .* \['other'\]",
    ),
    "phrasings of another task": (
        lambda d: edit_episode(d, lambda row: row.update(phrasings=["put it here", "put it there"])),
        r"phrasings \['put it here', 'put it there'\] of \['put it there'\]; expected that one first",
    ),
    "a video that is too long": (
        lambda d: (encode(video(d, FRONT, 1), 1, 0, lambda e, s, c: scene(e, min(s, 39), c), 44), without_sums(d)),
        r"episode 1: .*file-001\.mp4 has 44 frames; expected 40",
    ),
}


@pytest.mark.parametrize("damage", FILES)
def test_damage_to_files_is_found_without_decoding(data: Path, damage: str) -> None:
    harm, message = FILES[damage]
    harm(data)
    report = check(data)
    assert any(re.search(message, text) for text in report.errors), report


# ---------------------------------------------------------------------- a dataset that was made of damaged things


def only(episode: int, changed: Image) -> Image:
    return lambda e, step, camera: changed(e, step, camera) if (e, camera) == (episode, 0) else scene(e, step, camera)


def late(by: int) -> Image:
    return lambda e, step, camera: scene(e, max(step - by, 0) if camera == 0 else step, camera)


PICTURES: dict[str, tuple[Image, str, str]] = {
    "frozen": (only(2, lambda e, s, c: scene(e, 0, c)), "error", r"episode 2: camera 'front' shows one picture in all"),
    "frozen midway": (
        only(1, lambda e, s, c: scene(e, min(s, 9), c)),
        "error",
        r"episode 1: camera 'front' shows one picture in steps \d+ to 39",
    ),
    "black": (only(3, lambda e, s, c: np.zeros((SIZE, SIZE, 3), np.uint8)), "error", r"episode 3: .*'front' is black"),
    "black midway": (
        only(3, lambda e, s, c: scene(e, s, c) * np.uint8(s < 20)),
        "error",
        r"episode 3: camera 'front' is black in 20 of 40 frames, first at step 20",
    ),
    "over-exposed": (
        only(0, lambda e, s, c: np.full((SIZE, SIZE, 3), 254, np.uint8)),
        "error",
        r"episode 0: camera 'front' is over-exposed",
    ),
    "late": (late(3), "warning", r"what camera 'front' shows seems to be 0\.30 s \(3 steps\) behind the state"),
    "exchanged in one episode": (
        lambda e, s, c: scene(e, s, 1 - c if e == 2 else c),
        "warning",
        r"episode 2: cameras 'front' and 'wrist' look exchanged",
    ),
}


@pytest.mark.parametrize("damage", PICTURES)
def test_damage_to_pictures_is_found_by_decoding(tmp_path: Path, damage: str) -> None:
    image, level, message = PICTURES[damage]
    report = check(build(tmp_path / "data", image=image), deep=True)
    texts = report.errors if level == "error" else report.warnings
    assert any(re.search(message, text) for text in texts), report
    others = [text for text in report.errors + report.warnings if "front" not in text]
    assert others == [], "nothing else is blamed"


def test_what_checksums_would_say_is_seen_in_the_pictures_where_there_are_none(data: Path) -> None:
    without_sums(data)
    flip(video(data, FRONT, 0), 4000, 64, 0)
    swap(video(data, FRONT, 2), video(data, WRIST, 2))
    shutil.copy(video(data, WRIST, 4), video(data, WRIST, 1))
    text = str(check(data, deep=True))
    assert "front/chunk-000/file-000.mp4 is damaged at frame" in text
    for episode, camera in ((2, "front"), (2, "wrist"), (1, "wrist")):
        assert f"episode {episode}: camera {camera!r}: the pictures are not those" in text
    assert "episode 2: cameras 'front' and 'wrist' look exchanged" in text


def changed(values: Callable[[int], np.ndarray], episode: int, change: Callable[[np.ndarray], None]) -> Any:
    def result(number: int, *nominal: Any) -> np.ndarray:
        found = (values(number) if not nominal else nominal[0]).copy()
        if number == episode:
            change(found)
        return found

    return result


def put(where: Any, value: float) -> Callable[[np.ndarray], None]:
    return lambda found: found.__setitem__(where, value)


def add(where: Any, value: float) -> Callable[[np.ndarray], None]:
    return lambda found: found.__setitem__(where, found[where] + value)


def degrees(found: np.ndarray) -> None:
    found[:, :2] = np.degrees(found[:, :2])


def small_degrees(found: np.ndarray) -> None:
    found[:, :2] = np.degrees(found[:, :2]) / 7  # none so large that it alone says so


MS = 1_000_000
NUMBERS: dict[str, tuple[dict[str, Any], str]] = {
    "an action beyond the contract": (
        {"action": changed(following, 1, put((7, 2), 1.7))},
        r"episode 1: action 'gripper' is 1\.7 at step 7 \(1 of 40 steps\); the contract has \[0, 1\]",
    ),
    "a jump": (
        {"state": changed(states, 2, add((slice(20, None), 0), 3.0))},
        r"episode 2: state 'a' jumps by 3 rad after step 19",
    ),
    "degrees": ({"state": changed(states, 3, degrees)}, r"episode 3: state '[ab]' reaches .* rad: degrees\?"),
    "degrees in state and action": (
        {"state": changed(states, 3, degrees), "action": changed(following, 3, degrees)},
        r"episode 3: action .*degrees\?",
    ),
    "a dead sensor": (
        {"state": changed(states, 0, put((slice(None), 1), 0.3))},
        r"episode 0: state 'b' never changes while the action of this name does",
    ),
    "a state that stops": (
        {"state": changed(states, 4, lambda x: x.__setitem__(slice(8, 30), x[8]))},
        r"episode 4: the state stands still in steps 8 to 29",
    ),
    "a gap": (
        {"capture": changed(states, 1, add(slice(25, None), 3000 * MS))},
        r"episode 1: 1 of 39 steps are further apart than 1\.5 periods; the first after step 24: 3100 ms",
    ),
    "no time": (
        {"capture": changed(states, 1, put((slice(10, 14), 1), 0))},
        r"episode 1: capture_ns of 'wrist' is 0 at step 10 \(4 of 40 steps\)",
    ),
    "no time at all": ({"capture": lambda e, nominal: nominal * 0}, r"capture_ns of 'front' is 0 at step 1 \(39 of 40"),
    "a camera behind": (
        {"capture": changed(states, 2, add((slice(None), 1), -300 * MS))},
        r"episode 2: 'wrist' is up to 300 ms older than its step \(40 of 40 steps\); the contract has within 50 ms",
    ),
    "a state ahead": (
        {"capture": changed(states, 2, add((slice(None), 2), 300 * MS))},
        r"episode 2: 'state' is up to 300 ms newer than its step",
    ),
    "another rate": (
        {"capture": lambda e, nominal: T0 + (nominal - T0) * 13 // 10},
        r"steps are 130\.0 ms apart by their capture times; the contract has 100\.0 ms",
    ),
}


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Image:
    plain = np.full((SIZE, SIZE, 3), 90, np.uint8)
    return lambda e, step, camera: plain


@pytest.mark.parametrize("damage", NUMBERS)
def test_damage_to_numbers_and_times_is_found(tmp_path: Path, still: Image, damage: str) -> None:
    given, message = NUMBERS[damage]
    report = check(build(tmp_path / "data", image=still, **given))
    assert any(re.search(message, text) for text in report.errors), report


def test_a_dimension_that_never_changes_is_a_warning(tmp_path: Path, still: Image) -> None:
    def fixed(values: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
        return lambda e: values(e) * [1, 1, 0] + [0, 0, 0.4]

    report = check(build(tmp_path / "data", image=still, state=fixed(states), action=fixed(following)))
    assert report.errors == []
    assert report.warnings == [
        "state ['gripper'] never changes in all 200 steps",
        "action ['gripper'] never changes in all 200 steps",
    ]


@pytest.mark.parametrize(("sway_rad", "found"), [(0.14, False), (0.4, True)])
def test_a_joint_that_is_commanded_to_stay_may_give_way(
    tmp_path: Path, still: Image, sway_rad: float, found: bool
) -> None:
    """0.07 rad were seen where a simulated hand gripped."""

    def swaying(values: np.ndarray) -> None:
        values[:, 1] = 0.3 + sway_rad / 2 * np.sin(np.linspace(0, 6, len(values)))

    given = {"state": changed(states, 0, swaying), "action": changed(following, 0, put((slice(None), 1), 0.3))}
    report = check(build(tmp_path / "data", image=still, **given))
    told = "episode 0: action 'b' never changes while the state of this name does"
    assert (told in report.errors) == found and len(report.errors) == found, report


def test_an_episode_without_instruction_is_named(tmp_path: Path, still: Image) -> None:
    report = check(build(tmp_path / "data", image=still, tasks=lambda e: "" if e == 3 else "go"))
    assert "episode 3: its task has no text" in report.errors


# ---------------------------------------------------------------------- files of many episodes


def packed(source: Path, target: Path, copies: int = 1) -> Path:
    """The same episodes as LeRobot's writer lays them out: all in one data file and one video per camera."""
    info = layout.read_json(source / layout.INFO)
    rows = layout.read_episodes(source, with_stats=True)
    tables, laid = [], []
    for number in range(len(rows) * copies):
        row = dict(rows[number % len(rows)])
        table = pq.read_table(table_file(source, number % len(rows)))
        for name, values in (
            ("episode_index", [number] * LENGTH),
            ("index", range(number * LENGTH, (number + 1) * LENGTH)),
        ):
            table = table.set_column(table.column_names.index(name), name, pa.array(list(values), pa.int64()))
        tables.append(table)
        row |= {"episode_index": number, "data/chunk_index": 0, "data/file_index": 0}
        row |= {"dataset_from_index": number * LENGTH, "dataset_to_index": (number + 1) * LENGTH}
        for key in (FRONT, WRIST):
            row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
            row |= {f"videos/{key}/from_timestamp": number * LENGTH / FPS}
            row |= {f"videos/{key}/to_timestamp": (number + 1) * LENGTH / FPS}
        laid.append(row)
    whole = pa.concat_tables(tables)
    layout.write_table(table_file(target, 0), whole)
    for camera, key in enumerate((FRONT, WRIST)):
        with VideoWriter(video(target, key, 0), width=SIZE, height=SIZE, fps=FPS) as out:
            for number in range(len(laid)):
                for step in range(LENGTH):
                    out.write(scene(number % len(rows), step, camera))
    layout.write_episodes(target, laid)
    shutil.copy(source / layout.TASKS, target / layout.TASKS)
    found = layout.read_json(source / layout.STATS)
    numeric = {k: stats.numeric(column_array(whole, k)) for k in whole.column_names}
    layout.write_json(target / layout.STATS, found | stats.to_json(numeric))
    counts = {"total_episodes": len(laid), "total_frames": len(whole), "splits": {"train": f"0:{len(laid)}"}}
    layout.write_json(target / layout.INFO, info | counts)
    return target


def test_files_of_many_episodes_are_read_once(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = packed(original, tmp_path / "packed", copies=2)
    opened: list[Path] = []
    read = layout.read_table
    monkeypatch.setattr(layout, "read_table", lambda path, *a, **k: (opened.append(Path(path)), read(path, *a, **k))[1])
    report = check(root, deep=True)
    assert opened.count(table_file(root, 0)) == 1
    assert report.errors == [] and [f.kind for f in report.findings if f.level == "warning"] == ["contract"]
    with pytest.raises(DatasetError, match="several episodes in one data file"):
        repair(root)
    rewrite(root, 0, lambda t: t.filter(pa.array(column_array(t, "episode_index") != 4)))
    assert any("episode 4: data/chunk-000/file-000.parquet holds none of its rows" in e for e in check(root).errors)


# ---------------------------------------------------------------------- repair


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_repair_moves_aside_and_deletes_nothing(data: Path) -> None:
    flip(video(data, FRONT, 1), 4000, 64, 0)
    (data / "videos" / FRONT / "chunk-000/file-009.mp4").write_bytes(b"of no episode")
    before = contents(data)
    planned = repair(data, dry_run=True)
    assert contents(data) == before
    assert repair(data) == planned
    assert any(line.startswith("removed episode 1: ") for line in planned)
    assert check(data, deep=True).errors == []
    after = contents(data)
    moved = {name.removeprefix("removed/001/"): found for name, found in after.items() if name.startswith("removed/")}
    for name in (*(video(data, k, 1) for k in (FRONT, WRIST)), table_file(data, 1), video(data, FRONT, 9)):
        relative = name.relative_to(data).as_posix()
        assert relative not in after and moved[relative] == before[relative]
    assert all(moved[name] == before[name] for name in before if name.startswith("meta/"))
    dataset = EpisodeDataset(data, CONTRACT)
    assert len(dataset.episodes) == EPISODES - 1 and dataset.states[LENGTH, 0] == pytest.approx(states(2)[0, 0])
    assert repair(data) == []


def test_a_copy_that_lacks_a_camera_is_refused_and_left_alone(data: Path) -> None:
    shutil.rmtree(data / "videos" / FRONT)
    before = contents(data)
    with pytest.raises(DatasetError, match="no whole episode, so nothing was changed"):
        repair(data)
    assert contents(data) == before


def test_repair_on_a_full_disk_leaves_the_dataset_as_it_was(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video(data, FRONT, 4).unlink()
    before = contents(data)

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layout, "write_text", full)
    with pytest.raises(DatasetError, match="No space left on device"):
        repair(data)
    assert contents(data) == before
    monkeypatch.undo()
    repair(data)
    assert check(data).errors == []


def test_a_repair_that_was_killed_is_taken_up(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after each of its steps: no whole episode is lost."""
    replaced = Path.replace
    for survived in range(10):
        root = Path(shutil.copytree(original, tmp_path / f"data{survived}"))
        video(root, FRONT, 1).unlink()
        left = [survived]

        def dying(self: Path, target: Path, left: list[int] = left) -> Path:
            if layout.REPAIRING in self.parts and not self.name.endswith(".tmp"):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            return replaced(self, target)

        monkeypatch.setattr(Path, "replace", dying)
        try:
            repair(root)
        except KeyboardInterrupt:
            monkeypatch.undo()
            repair(root)
        monkeypatch.undo()
        assert check(root).errors == []
        dataset = EpisodeDataset(root, CONTRACT)
        begins = [float(dataset.states[e.first, 0]) for e in dataset.episodes]
        assert begins == pytest.approx([states(e)[0, 0] for e in (0, 2, 3, 4)])
    assert left[0] >= 0, "the last one was not killed"


LOST: dict[str, tuple[str, str]] = {
    "info": (layout.INFO, "made meta/info.json from meta/contract.yaml"),
    "tasks": (layout.TASKS, "made meta/tasks.parquet from the episodes"),
    "stats": (layout.STATS, "recomputed the statistics"),
    "episodes": (layout.EPISODES_PATH.format(chunk_index=0, file_index=0), "made the row of episode 3"),
}


@pytest.mark.parametrize("lost", LOST)
def test_lost_metadata_are_made_from_the_rest(data: Path, original: Path, lost: str) -> None:
    file, message = LOST[lost]
    (data / file).write_bytes((data / file).read_bytes()[:20])
    assert any(message in line for line in repair(data))
    assert check(data, deep=True).errors == []
    one, two = EpisodeDataset(original, CONTRACT), EpisodeDataset(data, CONTRACT)
    np.testing.assert_array_equal(one.states, two.states)
    assert one.info == two.info and [two.instruction(i) for i in (0, 199)] == ["put it there"] * 2


def test_a_writer_that_was_killed_before_its_first_episode(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "data", CONTRACT) as writer:
        (writer.root / layout.STAGING / "0").mkdir(parents=True)
    assert "ended before the first was committed" in check(tmp_path / "data").errors[0]
    with pytest.raises(DatasetError, match="ended before the first was committed; convert into it again"):
        repair(tmp_path / "data")
    with DatasetWriter(tmp_path / "data", CONTRACT, append=True) as writer:
        assert writer.found == 0


def test_the_command_reports_in_words_and_in_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["dataset", "check", str(data), "--deep"])
    assert capsys.readouterr().out.strip().endswith("5 episodes, 200 steps: sound")
    video(data, FRONT, 1).unlink()
    with pytest.raises(SystemExit):
        cli.main(["dataset", "check", str(data), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert {f["kind"] for f in report["findings"] if f["level"] == "error"} == {"video"}
    cli.main(["dataset", "repair", str(data), "--dry-run"])
    assert "would: removed episode 1" in capsys.readouterr().out
    cli.main(["dataset", "repair", str(data), "--removed", str(data.parent / "aside")])
    assert "4 episodes, 160 steps: sound" in capsys.readouterr().out
    assert (data.parent / "aside/001/meta/info.json").exists() and not (data / layout.REMOVED).exists()
