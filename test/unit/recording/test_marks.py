"""Marks of other recorders: words, truths, and files of times."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavla_ros.recording.marks import MarksError, listed_episodes, spoken_episodes

S = 10**9
T0 = 1_700_000_000 * S


def spoken(*said: str | bool) -> list[tuple[int, int | None, str, str]]:
    """One mark a second: (second of the beginning, of the end, outcome, instruction)."""
    found = spoken_episodes("/marks", [(T0 + i * S, each) for i, each in enumerate(said)])
    ends = [None if e.end_ns is None else (e.end_ns - T0) // S for e in found]
    return [
        ((e.start_ns - T0) // S, end, str(e.outcome), e.metadata.get("instruction", ""))
        for e, end in zip(found, ends, strict=True)
    ]


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (
            ["stop", "start: Put it there.", "success", "Start", "failed"],
            [(1, 2, "succeeded", "Put it there."), (3, 4, "failed", "")],
        ),
        (["start", "stop", "success"], [(0, 1, "succeeded", "")]),  # the outcome comes after the end
        (["start", "stop", "stop"], [(0, 1, "unmarked", "")]),
        (["begin", "end", "record"], [(0, 1, "unmarked", ""), (2, None, "interrupted", "")]),
        ([False, True, True, False, False, True, False], [(1, 3, "unmarked", ""), (5, 6, "unmarked", "")]),
        (["start", "rerecord"], [(0, 1, "discarded", "")]),
        ([], []),
    ],
)
def test_words_and_truths_part_episodes(said: list[str | bool], wanted: list[tuple[int, int | None, str, str]]) -> None:
    assert spoken(*said) == wanted


def test_marks_that_overlap_or_are_none_are_refused() -> None:
    with pytest.raises(MarksError, match=r"marks overlap: 'start' at 1700000001000000000 ns on /marks, while"):
        spoken("start", "start")
    with pytest.raises(MarksError, match=r"'go on' at .* is no mark; known are \['start'"):
        spoken("start", "go on")


def listed(tmp_path: Path, text: str) -> list[tuple[float, float, str, str]]:
    file = tmp_path / "episodes.yaml"
    file.write_text(text)
    found = listed_episodes(file, T0, T0 + 60 * S)
    return [
        (
            round((e.start_ns - T0) / S, 6),
            round(((e.end_ns or 0) - T0) / S, 6),
            str(e.outcome),
            e.metadata.get("instruction", ""),
        )
        for e in found
    ]


def test_a_file_lists_times_since_the_beginning_or_since_1970(tmp_path: Path) -> None:
    text = """
episodes:
  - {start_s: 1.5, end_s: 3, outcome: succeeded, instruction: Put it there.}
  - {start_s: 1700000010.25, end_s: 1700000020}
"""
    assert listed(tmp_path, text) == [(1.5, 3.0, "succeeded", "Put it there."), (10.25, 20.0, "unmarked", "")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("episodes: [{start_s: 1.0, end_s: 3.0}, {start_s: 2.0, end_s: 4.0}]", r"\[1\] begins at 2 s, before the one"),
        ("episodes: [{start_s: 3.0, end_s: 1.0}]", r"0 <= start_s < end_s"),
        ("episodes: [{start_s: 70.0, end_s: 71.0}]", r"\[0\] is outside of the bag, which is 60.0 s long"),
        ("episodes: [{start_s: 1.0, end_s: 2.0, outcome: good}]", r"outcome is 'good'; expected one of"),
        ("episodes: [{start_s: 1.0, end_s: 2.0, note: x}]", r"unknown keys \['note'\]"),
        ("episodes: []", r"lists no episode"),
        ("episodes: [", r"episodes.yaml|expected"),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(MarksError, match=said):
        listed(tmp_path, text)
