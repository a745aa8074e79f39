"""One rollout as it is scored: what a key or a click does. Nothing here knows a terminal, a page, ROS or a clock.

A sheet is a value. :class:`Scoring` replaces it by the next one only after that has been kept, so that what a person is
shown is on the disk: if the disk is full, the key has not been pressed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from lavla_ros.errors import UserError
from sim_bridges.judging.rubrics import Rubric, ScoreError, read_outlines, wiped_share

Phase = Literal["laying_out", "running", "judging", "scored", "error"]
DOUBLE_S = 0.3
"""The same key again within so long is one press of a finger."""


class SheetError(UserError, RuntimeError):
    """What is asked for cannot be done now; nothing has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A score that was given."""

    part: int
    value: float
    at_s: float
    """Since the rollout began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A try of a rollout. JSON-ready as :func:`dataclasses.asdict` makes it."""

    phase: Phase = "laying_out"
    marks: tuple[Mark, ...] = ()
    """In the order in which they were given; the last one of a part counts."""
    correct_s: tuple[float, ...] = ()
    """When the person said that the arm did something correct, since the rollout began."""
    notes: tuple[str, ...] = ()
    outlines: Mapping[str, str] = field(default_factory=dict)
    """``before`` and ``after``: the stain's, px."""
    ended: str = ""
    """Why the rollout ended."""
    length_s: float = 0.0
    error: str = ""
    """Why it does not count, and is to be repeated."""
    began: str = ""
    """Date and time."""
    bag: str = ""
    simulated: Mapping[str, Any] = field(default_factory=dict)
    """What a simulator said of the same rollout; it is no score."""

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Sheet:
        """Raises TypeError for missing or unknown keys."""
        marks = tuple(Mark(**mark) for mark in data.get("marks", ()))
        lists = {name: tuple(data.get(name, ())) for name in ("correct_s", "notes")}
        return cls(**{**data, "marks": marks, **lists})

    def values(self, rubric: Rubric) -> list[float | None]:
        """The score of each part, None where there is none yet."""
        found: list[float | None] = [None] * len(rubric.parts)
        for mark in self.marks:
            found[mark.part] = mark.value
        return found


class Scoring:
    """A sheet in use."""

    def __init__(
        self, rubric: Rubric, keep: Callable[[Mapping[str, Any]], None], *, idle_s: float, longest_s: float
    ) -> None:
        """``keep``: writes a sheet; what it raises is raised by whatever was asked for."""
        self.rubric = rubric
        self.sheet = Sheet()
        self._keep, self._idle_s, self._longest_s = keep, idle_s, longest_s
        self._before: list[Sheet] = []
        self._began_s, self._pressed = 0.0, ("", float("-inf"))

    def begin(self, now_s: float, *, began: str, bag: str = "") -> None:
        """The policy has been told what to do. ``now_s``: of any clock that does not jump, here and below."""
        self._require("laying_out")
        self._began_s = now_s
        self._take(replace(self.sheet, phase="running", began=began, bag=bag))

    def press(self, key: str, now_s: float) -> str:
        """A key that stands for a score: of the first part without one. What to show.

        Raises ScoreError if the rubric has no such key, SheetError if it was pressed before.
        """
        if key not in self.rubric.keys:
            raise ScoreError(
                f"{key!r} is no score of the rubric {self.rubric.name}; it has {', '.join(self.rubric.keys)}"
            )
        before, at_s = self._pressed
        self._pressed = (key, now_s)
        if key == before and now_s - at_s < DOUBLE_S:
            raise SheetError(f"{key} was pressed twice within {DOUBLE_S:g} s; it counts once")
        return self.give(self.rubric.keys[key], now_s)

    def give(self, value: float, now_s: float, part: int | None = None) -> str:
        """A score of ``part`` (from 0; None: the first without one). What to show.

        Raises ScoreError for one that the rubric does not have, SheetError if every part has one.
        """
        self._require("running", "judging")
        if part is None:
            given = self.sheet.values(self.rubric)
            if None not in given:
                raise SheetError("every part has a score; undo the last one first")
            part = given.index(None)
        self.rubric.check(part, value)
        mark = Mark(part=part, value=value, at_s=self._at_s(now_s))
        correct = (*self.sheet.correct_s, mark.at_s) if self.sheet.phase == "running" and value > 0 else ()
        self._take(replace(self.sheet, marks=(*self.sheet.marks, mark), correct_s=correct or self.sheet.correct_s))
        return f"{self.rubric.parts[part]}: {value:g}"

    def correct(self, now_s: float) -> str:
        """The arm has done something correct: the 20 seconds begin again."""
        self._require("running")
        self._take(replace(self.sheet, correct_s=(*self.sheet.correct_s, self._at_s(now_s))))
        return f"correct; {self._idle_s:g} s from now"

    def note(self, text: str) -> str:
        self._require("laying_out", "running", "judging")
        self._take(replace(self.sheet, notes=(*self.sheet.notes, text)))
        return f"noted: {text}"

    def outline(self, when: Literal["before", "after"], text: str, now_s: float) -> str:
        """The stain's outlines (``x,y x,y x,y; …``, px; none after: it is gone). With both, the share is scored.

        Raises ScoreError for an outline that is none.
        """
        self._require("laying_out", "running", "judging")
        if self.rubric.name != "wipe":
            raise SheetError(f"the rubric {self.rubric.name} has no stain")
        outlines = {**self.sheet.outlines, when: text}
        share = wiped_share(read_outlines(outlines.get("before", text)), read_outlines(outlines.get("after", "")))
        if "before" in outlines and "after" in outlines and self.sheet.phase != "laying_out":
            mark = Mark(part=0, value=share, at_s=self._at_s(now_s))
            self._take(replace(self.sheet, outlines=outlines, marks=(*self.sheet.marks, mark)))
            return f"{self.rubric.parts[0]}: {share:.3f}"
        self._take(replace(self.sheet, outlines=outlines))
        return f"outline {when}: kept"

    def undo(self) -> str:
        """Take back what was given or noted last; of an earlier phase the scores alone. Raises SheetError."""
        self._require("laying_out", "running", "judging")
        if not self._before and not self.sheet.marks:
            raise SheetError("there is nothing to undo")
        sheet = self._before[-1] if self._before else replace(self.sheet, marks=self.sheet.marks[:-1])
        self._write(sheet)
        self._before[-1:] = []
        self.sheet, self._pressed = sheet, ("", float("-inf"))
        return "undone"

    def idle_left_s(self, now_s: float) -> float:
        """Until the rollout ends by itself, s; of a rollout that runs."""
        last = max(self.sheet.correct_s, default=0.0)
        elapsed = now_s - self._began_s
        return min(last + self._idle_s, self._longest_s) - elapsed

    def over(self, now_s: float) -> str:
        """Why a rollout that runs is over by itself; empty: it is not."""
        if self.sheet.phase != "running" or self.idle_left_s(now_s) > 0:
            return ""
        if now_s - self._began_s >= self._longest_s:
            return f"{self._longest_s:g} s are over"
        return f"nothing correct was done for {self._idle_s:g} s"

    def end(self, now_s: float, why: str) -> None:
        """The rollout is over: nothing moves any more, and its last scores can be given.

        What is not done by now is 0 by the rubric, a stain excepted, whose share is measured.
        """
        self._require("running")
        sheet = replace(self.sheet, phase="judging", ended=why, length_s=self._at_s(now_s))
        if self.rubric.keys and why != "ended by the judge":
            missing = [part for part, value in enumerate(sheet.values(self.rubric)) if value is None]
            zeros = [Mark(part=part, value=0.0, at_s=sheet.length_s) for part in missing]
            sheet = replace(sheet, marks=(*sheet.marks, *zeros))
        self._take(sheet)

    def confirm(self) -> float:
        """The score of the rollout, which counts from now on. Raises SheetError if a part has none."""
        self._require("judging")
        values = self.sheet.values(self.rubric)
        missing = [part for part, value in zip(self.rubric.parts, values, strict=True) if value is None]
        if missing:
            raise SheetError(f"{', '.join(missing)} has no score yet")
        score = self.rubric.score([value for value in values if value is not None])
        self._take(replace(self.sheet, phase="scored"))
        return score

    def fail(self, why: str, now_s: float) -> None:
        """Something broke, or the person leaves: the rollout has no score, and is repeated."""
        self._require("laying_out", "running", "judging")
        length_s = self._at_s(now_s) if self.sheet.phase == "running" else self.sheet.length_s
        self._take(replace(self.sheet, phase="error", error=why, length_s=length_s))

    def tell(self, **known: Any) -> None:
        """Fields of the sheet that others know, such as the bag."""
        self._write(sheet := replace(self.sheet, **known))
        self.sheet, self._before = sheet, [replace(before, **known) for before in self._before]

    def _at_s(self, now_s: float) -> float:
        return round(now_s - self._began_s, 3) if self.sheet.phase == "running" else self.sheet.length_s

    def _require(self, *phases: Phase) -> None:
        if self.sheet.phase not in phases:
            now = self.sheet.phase.replace("_", " ")
            raise SheetError(f"the rollout is {now}; this is for one that is {' or '.join(phases).replace('_', ' ')}")

    def _write(self, sheet: Sheet) -> None:
        self._keep(asdict(sheet))

    def _take(self, sheet: Sheet) -> None:
        self._write(sheet)
        if sheet.phase == self.sheet.phase:
            self._before.append(self.sheet)
        else:
            self._before.clear()
        self.sheet = sheet
