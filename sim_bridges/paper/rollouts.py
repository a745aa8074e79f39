"""The paper's real-world rollouts, Fig. 4 and Table 3 recomputed from them, and where its arithmetic does not match.

The rows are those of config/rollouts/paper.yaml. Everything is calculated with fractions, so that a printed figure is
right or wrong, and not nearly right: it is right if it is at most half a unit of its last digit away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

from lavla_ros.config import read_plain
from lavla_ros.resources import config_file
from sim_bridges.judging.rubrics import NESTING, mean
from sim_bridges.paper.methods import METHODS
from sim_bridges.paper.published import TABLES

STACKS = ("stack_bowls", "stack_3_bowls", "stack_4_bowls")
MANIPULATION = (*STACKS, "wipe_stain")
OBJECTS = ("place_mango", "place_sponge", "place_bottle")
SETTINGS = ("id", "ood")
Cells = tuple[tuple[Decimal, ...], ...]
"""A printed line: the figures between its bars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout of a task, as the paper scored it."""

    method: str
    task: str
    setting: str
    """``id`` or ``ood``; "" of the manipulation tasks, which have one."""
    number: int
    parts: tuple[Fraction, ...]
    """Of the bottle the score alone is printed."""

    @property
    def score(self) -> Fraction:
        return mean(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A printed figure, and what the rows say."""

    where: str
    printed: Decimal
    exact: Fraction

    @property
    def right(self) -> bool:
        exponent = self.printed.as_tuple().exponent
        assert isinstance(exponent, int)
        return abs(Fraction(self.printed) - self.exact) <= Fraction(1, 2) * Fraction(10) ** exponent

    def __str__(self) -> str:
        return f"{self.where}: printed {self.printed}, by the rows {float(self.exact):.4g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """What comes of the rows."""

    source: str
    fig_4: Mapping[str, tuple[float, ...]]
    """Method → mean scores of the four manipulation tasks, percent."""
    table_3: Mapping[str, tuple[float, ...]]
    """Method → mango, sponge and bottle, ID and OOD each, then the averages of ID, of OOD and of all, percent."""
    checks: tuple[Check, ...]
    off_rubric: Mapping[str, tuple[float, ...]]
    """Table and rollout → scores of bowls that are no level of the paper's own rubric."""

    @property
    def wrong(self) -> list[Check]:
        return [check for check in self.checks if not check.right]

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "fig_4": {method: list(values) for method, values in self.fig_4.items()},
            "table_3": {method: list(values) for method, values in self.table_3.items()},
            "checked": len(self.checks),
            "wrong": [{"where": c.where, "printed": str(c.printed), "by_the_rows": float(c.exact)} for c in self.wrong],
            "off_rubric": {where: list(values) for where, values in self.off_rubric.items()},
        }

    def __str__(self) -> str:
        def lines(table: Mapping[str, Sequence[float]]) -> Iterator[str]:
            for method, values in table.items():
                yield f"  {METHODS[method]:10}" + "".join(f"{value:11.2f}" for value in values)

        def head(*names: str) -> str:
            return " " * 12 + "".join(f"{name:>11}" for name in names)

        scores = [value for values in self.off_rubric.values() for value in values]
        return "\n".join(
            [
                f"Recomputed from the rollouts of {self.source}, in percent",
                "Fig. 4",
                head("stack 2", "stack 3", "stack 4", "wipe"),
                *lines(self.fig_4),
                "Table 3",
                head(*(f"{name} {which}" for name in ("mango", "sponge", "bottle") for which in SETTINGS), *_AVERAGES),
                *lines(self.table_3),
                f"{len(self.wrong)} of {len(self.checks)} printed figures do not match the rows:",
                *(f"  {check}" for check in self.wrong),
                f"{len(scores)} scores of bowls in {len(self.off_rubric)} rollouts are no level of the rubric "
                f"({', '.join(f'{level:g}' for level in NESTING)}); they are "
                + ", ".join(f"{scores.count(v)} × {v:g}" for v in sorted(set(scores))),
                *(f"  {where}: {', '.join(f'{v:g}' for v in values)}" for where, values in self.off_rubric.items()),
            ]
        )


_AVERAGES = ("ID", "OOD", "all")


@cache
def recompute() -> Recomputed:
    """Everything that the paper calculates from its rollouts."""
    data = read_plain(config_file("paper", "rollouts"))
    rollouts = [*_read(data)]
    by_task: dict[tuple[str, str, str], list[Rollout]] = {}
    for each in rollouts:
        by_task.setdefault((each.method, each.task, each.setting), []).append(each)
    means = {key: mean([each.score for each in group]) for key, group in by_task.items()}
    fig_4 = {method: [means[method, task, ""] for task in MANIPULATION] for method in data["manipulation"]}
    table_3 = {
        method: [
            *(means[method, task, setting] for task in OBJECTS for setting in SETTINGS),
            *(mean([means[method, task, setting] for task in OBJECTS]) for setting in SETTINGS),
            mean([means[method, task, setting] for task in OBJECTS for setting in SETTINGS]),
        ]
        for method in data["pick_and_place"]
    }
    return Recomputed(
        source=data["source"],
        fig_4={method: _percent(values) for method, values in fig_4.items()},
        table_3={method: _percent(values) for method, values in table_3.items()},
        checks=(
            *_manipulation(data["manipulation"], by_task),
            *_pick_and_place(data["pick_and_place"], by_task),
            *_said(data["said"], fig_4, table_3, by_task),
        ),
        off_rubric=_off_rubric(data, rollouts),
    )


def _percent(values: Sequence[Fraction]) -> tuple[float, ...]:
    return tuple(float(100 * value) for value in values)


def _cells(line: str) -> Cells:
    return tuple(tuple(map(Decimal, cell.split())) for cell in line.split("|"))


def _read(data: Mapping[str, Any]) -> Iterator[Rollout]:
    for method, table in data["manipulation"].items():
        for number, line in enumerate(table["rollouts"], start=1):
            for task, cell in zip(MANIPULATION, _cells(line), strict=True):
                yield _rollout(method, task, "", number, cell[:-1] if len(cell) > 1 else cell)
    for method, table in data["pick_and_place"].items():
        number = 0
        for setting in SETTINGS:
            for line in table[setting]["rollouts"]:
                number += 1
                for task, cell in zip(OBJECTS, _cells(line), strict=True):
                    yield _rollout(method, task, setting, number, cell[:-1] if len(cell) > 1 else cell)


def _rollout(method: str, task: str, setting: str, number: int, parts: Sequence[Decimal]) -> Rollout:
    return Rollout(method=method, task=task, setting=setting, number=number, parts=tuple(map(Fraction, parts)))


def _manipulation(
    tables: Mapping[str, Any], by_task: Mapping[tuple[str, str, str], Sequence[Rollout]]
) -> Iterator[Check]:
    for method, table in tables.items():
        name = f"Table {table['table']} ({METHODS[method]})"
        for number, line in enumerate(table["rollouts"]):
            for task, cell in zip(MANIPULATION, _cells(line), strict=True):
                if len(cell) > 1:
                    exact = by_task[method, task, ""][number].score
                    yield Check(where=f"{name}, {task}, rollout {number + 1}", printed=cell[-1], exact=exact)
        for task, (printed,) in zip(MANIPULATION, _cells(table["average"]), strict=True):
            exact = mean([each.score for each in by_task[method, task, ""]])
            yield Check(where=f"{name}, {task}, average", printed=printed, exact=exact)


def _pick_and_place(
    tables: Mapping[str, Any], by_task: Mapping[tuple[str, str, str], Sequence[Rollout]]
) -> Iterator[Check]:
    for method, table in tables.items():
        name = f"Table {table['table']} ({METHODS[method]})"
        groups = {setting: table[setting]["average"] for setting in SETTINGS} | {"total": table["total"]}
        for setting in SETTINGS:
            for row, line in enumerate(table[setting]["rollouts"]):
                for task, cell in zip(OBJECTS, _cells(line), strict=True):
                    each = by_task[method, task, setting][row]
                    if len(cell) > 1:
                        where = f"{name}, {task}, rollout {each.number}"
                        yield Check(where=where, printed=cell[-1], exact=each.score)
        for group, line in groups.items():
            settings = SETTINGS if group == "total" else (group,)
            *cells, (overall,) = _cells(line)
            scores = []
            for task, cell in zip(OBJECTS, cells, strict=True):
                rows = [each for setting in settings for each in by_task[method, task, setting]]
                scores.append(mean([each.score for each in rows]))
                parts = [mean([each.parts[i] for each in rows]) for i in range(len(cell) - 1)]
                for what, printed, exact in zip(
                    ("pick", "place", "score")[-len(cell) :], cell, [*parts, scores[-1]], strict=True
                ):
                    yield Check(where=f"{name}, {task}, average of {what} ({group})", printed=printed, exact=exact)
            yield Check(where=f"{name}, average of the tasks ({group})", printed=overall, exact=mean(scores))


def _said(
    said: Mapping[str, Any],
    fig_4: Mapping[str, Sequence[Fraction]],
    table_3: Mapping[str, Sequence[Fraction]],
    by_task: Mapping[tuple[str, str, str], Sequence[Rollout]],
) -> Iterator[Check]:
    """What Fig. 4, Table 3 and the text say of the rows."""
    printed = {table.number: {line.method: line.figures for line in table.rows} for table in TABLES}
    columns = [f"{task} ({setting})" for task in OBJECTS for setting in SETTINGS]
    for method, values in table_3.items():
        averages, *above = _cells(said["table_3"][method])
        figures = [Decimal(str(figure)).quantize(Decimal(1)) for figure in printed["3"][method]]
        names = [*columns, *(f"average ({which})" for which in _AVERAGES)]
        for column, figure, exact in zip(names, [*figures, *averages], values, strict=True):
            yield Check(where=f"Table 3, {METHODS[method]}, {column}", printed=figure, exact=100 * exact)
        for column, figure, exact, base in (
            row
            for points in above
            for row in zip(names[-3:], points, values[-3:], table_3["baseline"][-3:], strict=True)
        ):
            if figure.is_finite():
                where = f"Table 3, {METHODS[method]}, {column}, points above the baseline"
                yield Check(where=where, printed=figure, exact=100 * (exact - base))
    for method, values in fig_4.items():
        for task, bar, exact in zip(MANIPULATION, printed["Fig. 4"][method], values, strict=True):
            whole = Decimal(str(bar)).quantize(Decimal(1))
            yield Check(where=f"Fig. 4, {METHODS[method]}, {task}", printed=whole, exact=100 * exact)
    for method, average in said["figure_4"].items():
        where = f"Section 5.3, {METHODS[method]}, mean of Fig. 4"
        yield Check(where=where, printed=Decimal(average), exact=100 * mean(fig_4[method]))
    for kind, settings in (("task", ("",)), ("setting", SETTINGS)):
        counts = {len(group) for (*_, setting), group in by_task.items() if setting in settings}
        where = f"Appendix F.2, rollouts of a method in each {kind}" + (
            " of a pick-and-place task" if len(settings) > 1 else ""
        )
        for count in sorted(counts):
            yield Check(where=where, printed=Decimal(said[f"rollouts_of_a_{kind}"]), exact=Fraction(count))


def _off_rubric(data: Mapping[str, Any], rollouts: Sequence[Rollout]) -> dict[str, tuple[float, ...]]:
    found = {}
    for each in rollouts:
        values = tuple(float(part) for part in each.parts if float(part) not in NESTING)
        if each.task in STACKS and values:
            table = data["manipulation"][each.method]["table"]
            found[f"Table {table} ({METHODS[each.method]}), {each.task}, rollout {each.number}"] = values
    return found
