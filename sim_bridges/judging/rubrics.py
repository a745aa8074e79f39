"""The rubrics of the paper's Appendix F.2, as functions: from the scores of parts to a rollout's, from those to a mean.

Everything here is pure. A rollout has a score for each part of its task, and its own score is their mean:

- stacking: a part is a bowl that is placed, 0, 0.5, 0.8 or 1 by how it nests. N bowls have N − 1 parts, as in the
  paper's Tables 13 to 17: the lowest bowl is placed by nobody.
- picking and placing: two parts, 0 or 1 each, so that each is worth half.
- wiping: one part, the share of the stain that is gone, from its outlines before and after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Literal, TypeVar

from lavla_ros.errors import UserError

RubricName = Literal["stack", "place", "wipe"]
Point = tuple[float, float]
Number = TypeVar("Number", float, Fraction)
NESTING = (0.0, 0.5, 0.8, 1.0)
"""Not inserted in time; inserted, but standing; seated with a gap; fully nested."""
IDLE_S = 20.0
"""A rollout ends when no correct action was executed for so long."""


class ScoreError(UserError, ValueError):
    """A score, or an outline, is none that the rubric knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubric:
    """What is scored of a rollout, and with which values."""

    name: RubricName
    parts: tuple[str, ...]
    """In words, in the order in which they are done."""
    keys: Mapping[str, float] = field(default_factory=dict)
    """Key → the score that it stands for; empty: any share from 0 to 1, which is measured."""
    success_from: float
    """A rollout is a success if each of its parts has at least this score."""

    def check(self, part: int, value: float) -> None:
        """Raise ScoreError unless ``value`` is a score that part number ``part`` (from 0) can have."""
        if not 0 <= part < len(self.parts):
            raise ScoreError(f"part {part + 1} is scored, but the rubric {self.name} has {len(self.parts)}")
        if self.keys and value not in self.keys.values():
            allowed = ", ".join(f"{level:g}" for level in sorted(self.keys.values()))
            raise ScoreError(f"{self.parts[part]} is scored {value:g}; the rubric {self.name} has {allowed}")
        if not 0.0 <= value <= 1.0:  # also false for NaN
            raise ScoreError(f"{self.parts[part]} is scored {value:g}; expected a share from 0 to 1")

    def score(self, values: Sequence[float]) -> float:
        """Of a rollout, 0 to 1. Raises ScoreError unless each part has a score that it can have."""
        if len(values) != len(self.parts):
            raise ScoreError(f"{len(values)} scores; the rubric {self.name} has the parts {', '.join(self.parts)}")
        for part, value in enumerate(values):
            self.check(part, value)
        return mean(list(values))

    def success(self, values: Sequence[float]) -> bool:
        """Raises ScoreError as :meth:`score` does."""
        self.score(values)
        return min(values) >= self.success_from


def rubric(name: RubricName, *, bowls: int = 2) -> Rubric:
    """``bowls``: of a stack, the lowest included. Raises ScoreError if there are fewer than two."""
    if name == "stack":
        if bowls < 2:
            raise ScoreError(f"a stack of {bowls} bowls is none; expected 2 or more")
        parts = tuple(f"bowl {number}" for number in range(2, bowls + 1))
        return Rubric(name=name, parts=parts, keys={"0": 0.0, "5": 0.5, "8": 0.8, "1": 1.0}, success_from=0.8)
    if name == "place":
        return Rubric(name=name, parts=("pick", "place"), keys={"0": 0.0, "1": 1.0}, success_from=1.0)
    return Rubric(name=name, parts=("wiped share",), success_from=0.95)


def mean(values: Sequence[Number]) -> Number:
    """Of parts, of rollouts, of tasks: all of App. F's averages. Raises ScoreError for none."""
    if not values:
        raise ScoreError("there is no score to average")
    return sum(values[1:], start=values[0]) / len(values)


def wiped_share(before: Sequence[Sequence[Point]], after: Sequence[Sequence[Point]]) -> float:
    """1 − A_remain / A_init, clipped to [0, 1]. ``before``, ``after``: outlines in the same picture, px; each outline
    its corners in order, the last joined to the first. No outline after: nothing remains.

    Raises ScoreError for an outline that is none, or no stain before.
    """
    initial = sum(map(outline_area, before))
    if not initial > 0.0:
        raise ScoreError("the stain has no outline before the rollout; its share cannot be said")
    return min(1.0, max(0.0, 1.0 - sum(map(outline_area, after)) / initial))


def outline_area(corners: Sequence[Point]) -> float:
    """px². Raises ScoreError for fewer than three corners, one that is not finite, or sides that cross."""
    if len(corners) < 3:
        raise ScoreError(f"an outline has {len(corners)} corners; expected 3 or more")
    if not all(math.isfinite(x) for corner in corners for x in corner):
        raise ScoreError(f"an outline has the corner {next(c for c in corners if not all(map(math.isfinite, c)))}")
    sides = list(pairwise([*corners, corners[0]]))
    for i, side in enumerate(sides):
        for j, other in enumerate(sides[i + 2 :], start=i + 2):
            if (i, j) != (0, len(sides) - 1) and _cross(*side, *other):
                raise ScoreError(f"sides {i + 1} and {j + 1} of an outline cross; go around the stain in one direction")
    return abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in sides)) / 2.0


def read_outlines(text: str) -> list[list[Point]]:
    """``x,y x,y x,y; x,y …`` → outlines, px. Empty: none. Raises ScoreError quoting what is not understood."""
    try:
        return [[_point(word) for word in part.split()] for part in text.split(";") if part.strip()]
    except ValueError:
        raise ScoreError(f"{text!r} is no outline; write x,y x,y x,y with ; between outlines") from None


def _point(word: str) -> Point:
    x, y = map(float, word.split(","))
    return x, y


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the sides a–b and c–d cross within both."""

    def turn(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0
