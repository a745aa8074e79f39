"""Episodes listed, labelled, discarded and restored, each with a way back."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from synthetic_bags import convert, make_bag
from synthetic_messages import small_contract

from lavla_ros.console.pictures import frames, thumbnail
from lavla_ros.errors import is_users
from lavla_ros.recording.library import Library, LibraryError
from lavla_ros.recording.reader import LABEL_FILE, BagError, BagReader, find_bags
from training.dataset import EpisodeDataset

CONTRACT = small_contract(size=32)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    for outcome in ("succeeded", "failed"):
        said = {"instruction": "put the mango into the bowl"}
        make_bag(tmp_path / "bags", CONTRACT, 4, outcome=outcome, metadata=said)
    return Library(tmp_path / "bags")


def shown(library: Library) -> list[tuple[str, str, bool]]:
    return [(each.name, each.outcome, each.discarded) for each in library.episodes()]


def test_the_newest_is_first(library: Library) -> None:
    assert shown(library) == [("episode_000001", "failed", False), ("episode_000000", "succeeded", False)]
    first = library.episodes()[0]
    assert (
        first.instruction == "put the mango into the bowl" and 0.3 < first.duration_s < 0.5 and len(first.cameras) == 2
    )


def test_what_is_discarded_is_not_converted_and_comes_back(library: Library) -> None:
    library.discard("episode_000000")
    assert shown(library) == [("episode_000001", "failed", False), ("episode_000000", "succeeded", True)]
    assert [bag.name for bag in find_bags([library.root])] == ["episode_000001"]
    assert thumbnail(library.path("episode_000000")), "it can be looked at before it is restored"
    library.restore("episode_000000")
    assert [bag.name for bag in find_bags([library.root])] == ["episode_000000", "episode_000001"]
    with pytest.raises(LibraryError, match="no episode"):
        library.restore("episode_000000")


def test_labels_count_in_a_conversion_and_the_bag_stays_as_it_was(library: Library, tmp_path: Path) -> None:
    bag = library.root / "episode_000001"
    before = {file.name: file.read_bytes() for file in bag.iterdir()}
    library.label("episode_000001", outcome="succeeded", instruction="  put the bowl away ", note="first slip")
    library.label("episode_000001", note="it slipped")
    library.label("episode_000001", note="it slipped")  # said again: nothing new
    assert {file.name: file.read_bytes() for file in bag.iterdir() if file.name != LABEL_FILE} == before
    listed = library.episodes()[0]
    assert (listed.outcome, listed.instruction, listed.note) == ("succeeded", "put the bowl away", "it slipped")
    history = json.loads((bag / LABEL_FILE).read_text())["history"]
    assert [each["note"] for each in history] == ["", "first slip"]

    report = convert([bag], tmp_path / "dataset", CONTRACT)
    assert (
        report.rejected == {} and EpisodeDataset(tmp_path / "dataset", CONTRACT).instruction(0) == "put the bowl away"
    )
    library.label("episode_000001", outcome="failed")
    report = convert([library.root / "episode_000000", bag], tmp_path / "other", CONTRACT)
    assert report.rejected == {"outcome": 1}


@pytest.mark.parametrize(
    ("name", "said", "words"),
    [
        ("episode_000000", {"outcome": "splendid"}, "'splendid'; expected one of"),
        ("episode_000000", {"instruction": "  "}, "instruction is empty"),
        ("episode_000009", {"note": "x"}, "no episode 'episode_000009'"),
        ("../bags/episode_000000", {"note": "x"}, "not the name of an episode"),
        (".discarded", {"note": "x"}, "not the name of an episode"),
    ],
)
def test_what_cannot_be_said_is_refused_and_nothing_written(
    library: Library, name: str, said: dict[str, str], words: str
) -> None:
    with pytest.raises(LibraryError, match=words):
        library.label(name, **said)
    assert not list(library.root.rglob(LABEL_FILE))


def test_on_a_full_disk_nothing_is_said_and_what_was_said_stays(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.label("episode_000001", note="it slipped")
    before = (library.root / "episode_000001" / LABEL_FILE).read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as refused:
        library.label("episode_000001", outcome="succeeded")
    assert is_users(refused.value), "the console's page says so"
    monkeypatch.undo()
    assert (library.root / "episode_000001" / LABEL_FILE).read_bytes() == before
    assert library.episode("episode_000001").outcome == "failed"
    assert not list(library.root.rglob("*.tmp"))


def test_a_label_that_cannot_be_read_is_told_and_not_passed_over(library: Library) -> None:
    path = library.root / "episode_000000" / LABEL_FILE
    path.write_text('{"outcome": "fai')
    with BagReader(path.parent) as bag, pytest.raises(BagError, match="restore it, or remove it"):
        bag.episodes()
    assert "restore it" in library.episodes()[1].problem


def test_pictures_and_what_has_none(library: Library) -> None:
    seen = list(frames(library.path("episode_000000")))
    assert len(seen) == 4 and [stamp for stamp, _ in seen] == sorted(stamp for stamp, _ in seen)
    pixels = cv2.imdecode(np.frombuffer(seen[0][1], np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape[:2] == (CONTRACT.cameras[0].height, CONTRACT.cameras[0].width)
    with pytest.raises(LibraryError, match="no pictures on /nowhere"):
        next(frames(library.path("episode_000000"), "/nowhere"))


def test_what_is_being_recorded_is_not_listed_and_what_was_killed_is_told(library: Library) -> None:
    bag = library.root / "episode_000001"
    (bag / "metadata.yaml").unlink()
    now = time.time()
    for file in bag.iterdir():
        os.utime(file, (now, now))
    assert [name for name, *_ in shown(library)] == ["episode_000000"]
    for file in bag.iterdir():
        os.utime(file, (now - 60, now - 60))
    killed = library.episodes()[0]
    assert killed.outcome == "interrupted" and "lavla recover" in killed.problem


def test_what_is_moved_while_it_is_listed_has_no_problem(library: Library) -> None:
    done = threading.Event()

    def move() -> None:
        while not done.is_set():
            library.discard("episode_000000")
            library.restore("episode_000000")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        listings = [library.episodes() for _ in range(60)]
    finally:
        done.set()
        mover.join()
    assert not [each.problem for listed in listings for each in listed if each.problem]
    assert all("episode_000001" in [each.name for each in listed] for listed in listings)
