"""What came of the cells of a study: rates, differences, and a verdict on each finding of the paper.

The criteria are here and in docs/study.md, so they are written down before a study runs; the study's file has the rest
of them: which tasks are of which kind, what is measured, and the margin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lavla_ros.errors import DIVERGED
from sim_bridges.evaluation.results import EpisodeResult, Results
from sim_bridges.paper.grid import Cell, Study
from sim_bridges.paper.inference import Estimate, difference, holm, rate, t_two_sided
from sim_bridges.paper.plan import Plan, StudyError

State = Literal["finished", "diverged", "not finished"]
Place = tuple[str, str]
"""A task of the study, and "" or the name of its further evaluation."""
Layout = tuple[str, int, int, int | None]
"""Task of the suite, trial, seed, initial state."""
IMAGE, DIRECT, DISCRETE = ("la_align", "la_direct", "la_cond"), ("la_direct", "la_tok"), ("la_direct", "la_tok")
OTHERS = ("la_align", "la_cond")
LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What came of a cell."""

    cell: Cell
    state: State
    said: str = ""
    """Why it diverged."""
    policy: Path | None = None
    results: Mapping[Place, Results] = field(default_factory=dict)
    validation_mse: float | None = None
    best_step: int | None = None
    train_s: float = 0.0
    live: Mapping[str, str] = field(default_factory=dict)
    """Task → how many of the live episodes succeeded, or that they were stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A method under a condition on one task: all its seeds."""

    arm: Cell
    """One of its cells, whose seed does not count."""
    place: Place
    seeds: tuple[int, ...]
    diverged: tuple[int, ...]
    """Those of the seeds whose training diverged: they succeed nowhere."""
    rate: Estimate
    of_seeds: tuple[float, ...]
    against: Estimate | None = None
    """The difference from the baseline under the same condition; None for itself, or if there is no pair of seeds."""
    p_holm: float | None = None
    """Of that difference, adjusted for all rows of the study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the claims that make up a finding."""

    claim: str
    verdict: Literal["holds", "does not hold", "cannot tell"]
    why: str
    difference: Estimate | None = None
    p_holm: float | None = None
    """That there is no difference, adjusted for all parts."""
    p_margin: float | None = None
    """That it is as large as the margin, adjusted likewise; None if it is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One of the paper's."""

    number: int
    text: str
    verdict: Literal["holds", "does not hold", "cannot tell"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]


def place_name(place: Place) -> str:
    return "/".join(filter(None, place))


def analyse(study: Study, cells: Sequence[CellResult]) -> Analysis:
    """Raises StudyError if evaluations that belong together did not begin in the same scenes."""
    outcomes = Outcomes(study, cells)
    return Analysis(rows=_rows(outcomes, cells), findings=_findings(study, outcomes, cells))


class Outcomes:
    """The measure of every layout, by arm, place and seed."""

    def __init__(self, study: Study, cells: Sequence[CellResult]) -> None:
        self.measure = study.measure
        self._values: dict[tuple[tuple[object, ...], Place], dict[int, dict[Layout, float] | None]] = {}
        self._scenes: dict[tuple[Place, Layout], str] = {}
        for each in cells:
            places = [(task, which) for task in each.cell.tasks for which in ("", *study.tasks[task].also)]
            for place in places:
                of_arm = self._values.setdefault((each.cell.arm, place), {})
                if each.state == "diverged":
                    of_arm[each.cell.seed] = None  # no policy, no success
                elif place in each.results:
                    of_arm[each.cell.seed] = self._of(place, each.results[place].scored)

    def seeds(self, arm: Cell, place: Place) -> tuple[int, ...]:
        return tuple(sorted(self._values.get((arm.arm, place), {})))

    def table(self, arm: Cell, place: Place, seeds: Sequence[int]) -> NDArray[np.float64]:
        """(S, L): these seeds on all layouts that the place was evaluated on."""
        layouts = sorted((layout for where, layout in self._scenes if where == place), key=str)
        of_arm = self._values[arm.arm, place]
        rows = [dict.fromkeys(layouts, 0.0) if (found := of_arm[seed]) is None else found for seed in seeds]
        shared = [layout for layout in layouts if all(layout in row for row in rows)]
        if len(shared) < len(layouts):
            raise StudyError(
                f"{arm.name} was evaluated on {len(shared)} of the {len(layouts)} layouts of {place}; all cells "
                "of a study need the same: run the command again"
            )
        return np.array([[row[layout] for layout in layouts] for row in rows], np.float64)

    def has_layouts(self, place: Place) -> bool:
        return any(where == place for where, _ in self._scenes)

    def _of(self, place: Place, episodes: Iterable[EpisodeResult]) -> dict[Layout, float]:
        found: dict[Layout, float] = {}
        for e in episodes:
            layout: Layout = (e.task, e.trial, e.seed, e.state_index)
            if (scene := self._scenes.setdefault((place, layout), e.initial_state)) != e.initial_state:
                raise StudyError(
                    f"episode {e.trial} of {e.task!r} began in state {scene} with one policy and in {e.initial_state} "
                    "with another: other versions of the simulator? Such evaluations cannot be paired; repeat one"
                )
            found[layout] = float(e.success) if self.measure == "success" else e.score
        return found


def _rows(outcomes: Outcomes, cells: Sequence[CellResult]) -> tuple[Row, ...]:
    arms = {each.cell.arm: replace(each.cell, seed=0) for each in cells}
    diverged = {(each.cell.arm, each.cell.seed) for each in cells if each.state == "diverged"}
    rows: list[Row] = []
    for arm in arms.values():
        for place in _places(cells, arm):
            seeds = outcomes.seeds(arm, place)
            if not seeds or not outcomes.has_layouts(place):
                continue
            table = outcomes.table(arm, place, seeds)
            baseline = replace(arm, method="baseline", weight=None, align_layer=None, options=())
            shared = [seed for seed in seeds if seed in outcomes.seeds(baseline, place)]
            against = None
            if arm.method != "baseline" and shared:
                pair = [outcomes.table(each, place, shared) for each in (baseline, arm)]
                against = difference(pair[:1], pair[1:])
            rows.append(
                Row(
                    arm=arm,
                    place=place,
                    seeds=seeds,
                    diverged=tuple(seed for seed in seeds if (arm.arm, seed) in diverged),
                    rate=rate([table]),
                    of_seeds=tuple(table.mean(axis=1).tolist()),
                    against=against,
                )
            )
    tested = [i for i, row in enumerate(rows) if row.against is not None and row.against.seeds > 1]
    adjusted = holm([row.against.p_value for i in tested if (row := rows[i]).against is not None])
    for i, p_value in zip(tested, adjusted, strict=True):
        rows[i] = replace(rows[i], p_holm=p_value)
    return tuple(rows)


def _places(cells: Sequence[CellResult], arm: Cell) -> list[Place]:
    return list(dict.fromkeys(place for each in cells if each.cell.arm == arm.arm for place in each.results)) or [
        (task, "") for task in arm.tasks
    ]


# ---------------------------------------------------------------------- the findings


def _findings(study: Study, outcomes: Outcomes, cells: Sequence[CellResult]) -> tuple[Finding, ...]:
    plain = {each.cell.arm: each.cell for each in cells if not _is_special(each.cell)}
    trained = {each.method for each in plain.values()}
    usual: list[Place] = [(task, "") for task in study.tasks]
    kinds = {kind: [(n, "") for n, task in study.tasks.items() if task.kind == kind] for kind in ("long", "motor")}
    scenes: list[Place] = [(name, which) for name, task in study.tasks.items() for which in task.also]

    def claim(
        text: str,
        left: Sequence[str],
        right: Sequence[str],
        places: Sequence[Place],
        *trainings: str,
        missing: str = "",
    ) -> tuple[Part, Estimate | None]:
        """``left``: methods that are to be better than ``right``; all of them have to be there."""
        sides = [
            [cell for cell in plain.values() if cell.method in methods and cell.training == training]
            for methods, training in zip((left, right), trainings or ("single", "single"), strict=True)
        ]
        lacking = sorted({*left, *right} - trained)
        if not places:
            return Part(claim=text, verdict="cannot tell", why=missing), None
        if lacking or not all(sides):
            what = missing if trainings and not sides[0] else f"without {', '.join(lacking)}"
            return Part(claim=text, verdict="cannot tell", why=f"the study is {what}"), None
        tables = _paired(outcomes, sides[0], sides[1], places)
        if tables is None:
            return Part(claim=text, verdict="cannot tell", why="no seed is finished on both sides"), None
        found = difference(tables[1], tables[0])
        return Part(claim=text, verdict="cannot tell", why="", difference=found), found

    latent = [m for m in ("la_align", "la_direct", "la_cond", "la_tok") if (m, "joint") in _methods(plain)] or [
        "la_cond"
    ]
    no_joint = "without joint training"
    made = [
        (
            1,
            "Image-based latent actions help with long horizons and new scenes, action-based ones with hard motions.",
            [
                claim("LA-Align, LA-Direct and LA-Cond are better than LA-Tok on long tasks", IMAGE, ["la_tok"],
                      kinds["long"], missing="no task is of the kind long"),
                claim("LA-Align, LA-Direct and LA-Cond are better than LA-Tok in scenes that were not trained on",
                      IMAGE, ["la_tok"], scenes, missing="no task is evaluated in other scenes"),
                claim("LA-Tok is better than LA-Align, LA-Direct and LA-Cond on complex motions", ["la_tok"], IMAGE,
                      kinds["motor"], missing="no task is of the kind motor"),
            ],
        ),
        (
            2,
            "Supervising the model directly with discrete latent actions is most effective.",
            [
                claim("LA-Direct and LA-Tok are better than the baseline", DIRECT, ["baseline"], usual),
                claim("LA-Direct is better than a baseline with as many placeholders", ["la_direct"], ["ph_direct"],
                      usual),
                claim("LA-Direct and LA-Tok are better than LA-Align and LA-Cond", DIRECT, OTHERS, usual),
                claim("Discrete targets are better than continuous ones", DISCRETE,
                      [f"{m}_continuous" for m in DISCRETE], usual),
            ],
        ),
        (
            3,
            "Latent action supervision improves joint training on several tasks.",
            [
                claim("Trained jointly, latent actions are better than the baseline", latent, ["baseline"], usual,
                      "joint", "joint", missing=no_joint),
                claim("With latent actions joint training is better than single", latent, latent, usual, "joint",
                      "single", missing=no_joint),
            ],
        ),
    ]  # fmt: skip
    judged = _judge([part for _, _, parts in made for part in parts], study.margin)
    findings, taken = [], 0
    for number, text, parts in made:
        own = judged[taken : taken + len(parts)]
        taken += len(parts)
        verdicts = {part.verdict for part in own}
        verdict = next((v for v in ("does not hold", "cannot tell") if v in verdicts), "holds")
        findings.append(Finding(number=number, text=text, verdict=verdict, parts=tuple(own)))  # type: ignore[arg-type]
    return tuple(findings)


def _judge(parts: Sequence[tuple[Part, Estimate | None]], margin: float) -> list[Part]:
    """A claim holds if its difference is shown to be above 0, and does not hold if it is shown to be below the margin.

    Both at 5%, by Student's t, adjusted for all claims by Holm's method.
    """
    tested = [(i, e) for i, (_, e) in enumerate(parts) if e is not None and e.seeds > 1]
    zero = holm([e.p_value for _, e in tested])
    below = holm([_p_at_least(e, margin) for _, e in tested])
    judged = [part for part, _ in parts]
    for (i, e), p_zero, p_margin in zip(tested, zero, below, strict=True):
        shown = f"{100 * e.mean:+.1f} points, {100 * e.low:+.1f} to {100 * e.high:+.1f}"
        if e.mean > 0 and p_zero < LEVEL:
            verdict, why = "holds", f"the difference is {shown} (p = {p_zero:.2g})"
        elif e.mean < margin and p_margin < LEVEL:
            verdict, why = "does not hold", f"it is below {100 * margin:.0f} points: {shown} (p = {p_margin:.2g})"
        else:
            verdict, why = "cannot tell", f"{shown}: neither above 0 nor below {100 * margin:.0f} points at 5%"
        judged[i] = replace(judged[i], verdict=verdict, why=why, p_holm=p_zero, p_margin=p_margin)  # type: ignore[arg-type]
    for i, (part, found) in enumerate(parts):
        if found is not None and found.seeds == 1:
            shown = f"{100 * found.mean:+.1f} points"
            judged[i] = replace(part, why=f"one seed on both sides, which says nothing of methods: {shown}")
    return judged


def _p_at_least(estimate: Estimate, margin: float) -> float:
    """That the difference is ``margin`` or more."""
    if estimate.mean >= margin:
        return 1.0
    return t_two_sided((estimate.mean - margin) / estimate.standard_error, estimate.degrees)


def _paired(
    outcomes: Outcomes, left: Sequence[Cell], right: Sequence[Cell], places: Sequence[Place]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] | None:
    """Of each place the mean of each side's methods, over the seeds that all of them have; None if there are none."""
    arms = [_at(side, place) for side in (left, right) for place in places]
    if not all(arms):
        return None
    shared = set.intersection(
        *({*outcomes.seeds(cell, place)} for side in (left, right) for place in places for cell in _at(side, place))
    )
    if not shared:
        return None
    sides = [
        [
            np.mean([outcomes.table(cell, place, sorted(shared)) for cell in _at(side, place)], axis=0)
            for place in places
        ]
        for side in (left, right)
    ]
    return sides[0], sides[1]


def _at(side: Sequence[Cell], place: Place) -> list[Cell]:
    return [cell for cell in side if place[0] in cell.tasks]


def _is_special(cell: Cell) -> bool:
    return cell.fraction < 1 or cell.weight is not None or cell.align_layer is not None or bool(cell.options)


def _methods(cells: Mapping[Any, Cell]) -> set[tuple[str, str]]:
    return {(cell.method, cell.training) for cell in cells.values()}


# ---------------------------------------------------------------------- what the folder holds


def collect(plan: Plan, finished: Mapping[str, Mapping[str, Any]], read: Callable[[Path], Results]) -> list[CellResult]:
    """What is there of each cell. ``read``: an evaluation's folder → its results."""
    found = []
    for planned in plan.cells:
        stages = [plan.stages[planned.policy]]
        for stage in stages:
            stages += [plan.stages[key] for key in stage.after]
        broken = next((s for s in stages if finished.get(s.key, {}).get("status") == DIVERGED), None)
        if broken is not None:
            said = f"{broken.key}: {finished[broken.key].get('said', '')}"
            found.append(CellResult(cell=planned.cell, state="diverged", said=said))
            continue
        results = {p: read(plan.stages[key].output) for p, key in planned.evaluations.items() if key in finished}
        record = finished.get(planned.policy)
        training = record.get("training", {}) if record else {}  # studies of before did not keep it
        found.append(
            CellResult(
                cell=planned.cell,
                state="finished" if len(results) == len(planned.evaluations) else "not finished",
                policy=plan.stages[planned.policy].output / "best",
                results=results,
                validation_mse=training.get("validation", {}).get("mse"),
                best_step=training.get("step"),
                train_s=record["ended"] - record["began"] if record else 0.0,
                live={task: _live(plan, key, finished) for task, key in planned.live.items() if key in finished},
            )
        )
    return found


def _live(plan: Plan, key: str, finished: Mapping[str, Mapping[str, Any]]) -> str:
    """Such as by a fault of the executor, which latches, it may have been stopped."""
    if finished[key]["status"] != 0:
        return f"stopped: logs/{key}.log"
    episodes = Results.read(plan.stages[key].output).episodes
    return f"{sum(e.success for e in episodes)}/{len(episodes)}"
