"""What keys do to a sheet, and that nothing is shown that is not kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_bridges.judging.rubrics import ScoreError, rubric
from sim_bridges.judging.sheet import Scoring, Sheet, SheetError


class Disk:
    """Keeps the last sheet; may be full."""

    def __init__(self) -> None:
        self.full = False
        self.last: dict[str, Any] = {}

    def __call__(self, sheet: Mapping[str, Any]) -> None:
        if self.full:
            raise OSError("No space left on device")
        self.last = json.loads(json.dumps(sheet))


def begun(disk: Disk, name: str = "stack", bowls: int = 4) -> Scoring:
    scoring = Scoring(rubric(name, bowls=bowls), disk, idle_s=20.0, longest_s=60.0)  # type: ignore[arg-type]
    scoring.begin(100.0, began="now", bag="b")
    return scoring


def test_one_key_scores_one_part_and_is_kept_before_it_is_shown() -> None:
    disk = Disk()
    scoring = begun(disk)
    assert scoring.press("1", 105.0) == "bowl 2: 1"
    assert disk.last["marks"] == [{"part": 0, "value": 1.0, "at_s": 5.0}]
    assert scoring.press("8", 110.0) == "bowl 3: 0.8" and scoring.press("0", 111.0) == "bowl 4: 0"
    with pytest.raises(SheetError, match="every part has a score"):
        scoring.press("5", 112.0)
    scoring.end(113.0, "ended by the judge")
    assert scoring.confirm() == pytest.approx(0.6)
    assert Sheet.read(disk.last) == scoring.sheet and disk.last["phase"] == "scored" and disk.last["length_s"] == 13.0


def test_a_score_outside_the_rubric_is_refused() -> None:
    scoring = begun(Disk())
    with pytest.raises(ScoreError, match="'7' is no score of the rubric stack; it has 0, 5, 8, 1"):
        scoring.press("7", 101.0)
    with pytest.raises(ScoreError, match=r"0\.7; the rubric stack has"):
        scoring.give(0.7, 101.0)
    with pytest.raises(ScoreError, match="part 4 is scored"):
        scoring.give(1.0, 101.0, part=3)
    assert scoring.sheet.marks == ()


def test_a_double_press_counts_once() -> None:
    scoring = begun(Disk())
    scoring.press("1", 105.0)
    with pytest.raises(SheetError, match=r"1 was pressed twice within 0\.3 s; it counts once"):
        scoring.press("1", 105.2)
    with pytest.raises(SheetError):  # a finger that stays on the key
        scoring.press("1", 105.45)
    assert len(scoring.sheet.marks) == 1
    scoring.press("1", 106.0)
    assert scoring.sheet.values(scoring.rubric) == [1.0, 1.0, None]


def test_on_a_full_disk_a_key_was_not_pressed() -> None:
    disk = Disk()
    scoring = begun(disk)
    scoring.press("1", 105.0)
    disk.full = True
    before = scoring.sheet
    for act in (
        lambda: scoring.press("8", 110.0),
        lambda: scoring.undo(),
        lambda: scoring.note("n"),
        lambda: scoring.correct(110.0),
        lambda: scoring.end(110.0, "ended by the judge"),
        lambda: scoring.fail("f", 110.0),
    ):
        with pytest.raises(OSError, match="No space"):
            act()
        assert scoring.sheet == before == Sheet.read(disk.last)
    disk.full = False
    scoring.press("8", 111.0)
    assert scoring.undo() == "undone" and scoring.sheet == before


def test_twenty_seconds_without_anything_correct_end_a_rollout() -> None:
    scoring = begun(Disk())
    assert scoring.idle_left_s(110.0) == 10.0 and not scoring.over(119.9)
    scoring.press("1", 115.0)  # a bowl is in
    assert not scoring.over(134.9)
    scoring.correct(130.0)  # it grasps the next one
    scoring.press("0", 140.0)  # a bowl that is lost is nothing correct
    assert not scoring.over(149.9)
    why = scoring.over(150.0)
    assert why == "nothing correct was done for 20 s"
    scoring.end(150.0, why)
    assert scoring.sheet.values(scoring.rubric) == [1.0, 0.0, 0.0]  # what is not done in time is 0
    scoring.undo()
    scoring.press("5", 155.0)  # the last bowl stands in the others after all
    assert scoring.confirm() == 0.5
    endless = begun(Disk())
    for at_s in range(110, 160, 10):
        endless.correct(at_s)
    assert endless.over(160.0) == "60 s are over"


def test_a_rollout_without_all_scores_does_not_count() -> None:
    scoring = begun(Disk(), "place")
    with pytest.raises(SheetError, match="the rollout is running; this is for one that is judging"):
        scoring.confirm()
    scoring.press("1", 101.0)
    scoring.end(102.0, "ended by the judge")
    with pytest.raises(SheetError, match="place has no score yet"):
        scoring.confirm()
    scoring.press("0", 103.0)
    assert scoring.confirm() == 0.5
    with pytest.raises(SheetError, match="the rollout is scored"):
        scoring.press("1", 104.0)


def test_an_error_has_no_score() -> None:
    scoring = begun(Disk())
    scoring.press("1", 101.0)
    scoring.fail("the gripper lost power", 102.0)
    assert (scoring.sheet.phase, scoring.sheet.error) == ("error", "the gripper lost power")
    with pytest.raises(SheetError):
        scoring.confirm()


def test_a_stain_is_scored_by_its_outlines() -> None:
    scoring = Scoring(rubric("wipe"), Disk(), idle_s=20.0, longest_s=60.0)
    scoring.outline("before", "0,0 10,0 10,10 0,10", 0.0)
    scoring.begin(0.0, began="now")
    scoring.end(5.0, "nothing correct was done for 20 s")
    with pytest.raises(SheetError, match="wiped share has no score"):
        scoring.confirm()
    with pytest.raises(ScoreError, match="cross"):
        scoring.outline("after", "0,0 10,10 10,0 0,10", 6.0)
    assert scoring.outline("after", "0,0 10,0 10,1 0,1", 6.0) == "wiped share: 0.900"
    assert scoring.outline("after", "", 7.0) == "wiped share: 1.000"
    scoring.undo()
    assert scoring.confirm() == pytest.approx(0.9)
    with pytest.raises(SheetError, match="no stain"):
        begun(Disk()).outline("before", "0,0 1,0 1,1", 101.0)


def press(scoring: Scoring, key: str, now_s: float) -> None:
    if key == "u":
        scoring.undo()
    elif key == ".":
        scoring.correct(now_s)
    elif key == "n":
        scoring.note("n")
    elif key == "end":
        scoring.end(now_s, "ended by the judge")
    elif key == "confirm":
        scoring.confirm()
    elif key == "fail":
        scoring.fail("f", now_s)
    else:
        scoring.press(key, now_s)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["0", "5", "8", "1", "7", "u", ".", "n", "end", "confirm", "fail"]), max_size=25))
def test_whatever_is_pressed_the_disk_has_what_is_shown(keys: list[str]) -> None:
    disk = Disk()
    scoring = begun(disk)
    for i, key in enumerate(keys):
        try:
            press(scoring, key, 101.0 + i)
        except (SheetError, ScoreError):
            continue
        finally:
            assert Sheet.read(disk.last) == scoring.sheet
    if scoring.sheet.phase == "scored":
        assert None not in scoring.sheet.values(scoring.rubric)
