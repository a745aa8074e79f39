"""``report.html`` of a study: the verdicts, our figures, and each table and figure of the paper with ours beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from sim_bridges.evaluation.html_parts import bar, document, facts, table, text
from sim_bridges.paper.analysis import Analysis, CellResult, Finding, Row, place_name
from sim_bridges.paper.grid import Study
from sim_bridges.paper.inference import rate
from sim_bridges.paper.methods import METHODS
from sim_bridges.paper.plan import Plan, hours
from sim_bridges.paper.published import PLACEHOLDERS, TABLES, TRAINING, TRAINING_HEAD, Column, Line
from sim_bridges.paper.tables import arithmetic, paper_table

_COLOUR = {"holds": "good", "does not hold": "bad", "cannot tell": "muted"}


def write_page(
    path: Path, study: Study, plan: Plan, cells: Sequence[CellResult], analysis: Analysis, *, wall_s: float, source: str
) -> None:
    """``source``: the study in YAML, for the end of the page."""
    body = [
        _verdicts(analysis.findings),
        _facts(study, cells, wall_s),
        _rates(study, analysis.rows),
        _curves(analysis.rows),
        _beside(study, plan, cells),
        _cells(cells),
        f"<h2>How to reproduce</h2><p><code>lavla study FILE --out OUT</code>; FILE:</p><pre>{text(source)}</pre>",
    ]
    path.write_text(document("Study of latent action supervision", "\n".join(filter(None, body))), encoding="utf-8")


def method_name(method: str) -> str:
    """As the paper calls it, those of Table 6 by what they are."""
    return METHODS.get(method, method) + (" (vision only)" if method.endswith("_vision") else "")


def arm_name(row: Row) -> str:
    return ", ".join(filter(None, [method_name(row.arm.method), row.arm.condition]))


def _verdicts(findings: Sequence[Finding]) -> str:
    parts = []
    for finding in findings:
        lines = "".join(
            f'<li>{text(part.claim)}: <span class="{_COLOUR[part.verdict]}">{part.verdict}</span>; '
            f"{text(part.why)}</li>"
            for part in finding.parts
        )
        words = "cannot tell at this scale" if finding.verdict == "cannot tell" else finding.verdict
        parts.append(
            f'<h3>{finding.number}. {text(finding.text)} <span class="{_COLOUR[finding.verdict]}">{words}</span></h3>'
            f"<ul>{lines}</ul>"
        )
    return f"<h2>The paper's findings</h2>{''.join(parts)}"


def _facts(study: Study, cells: Sequence[CellResult], wall_s: float) -> str:
    states = [each.state for each in cells]
    counted = [
        f"{states.count(state)} {state}" for state in ("finished", "diverged", "not finished") if state in states
    ]
    margin = f"{100 * study.margin:.0f} points"
    values = {
        "Cells": f"{len(cells)}: {', '.join(counted)}",
        "Training": f"{study.steps} optimizer steps per policy",
        "Measure": "share of the episodes that succeed" if study.measure == "success" else "mean score of the episodes",
        "Statistics": "mixed model with training seeds and layouts as random; methods are paired by seed and layout; "
        "95% intervals; p adjusted by Holm's method, for all differences of the table and for all claims",
        "Criteria": "A claim holds if its difference is above 0 at 5%. It does not hold if the difference is below "
        f"{margin} at 5%. A finding holds if all of its claims do, and does not hold if one of them does not.",
        "Diverged": "A training that diverged has no policy: its seed succeeds on no layout.",
        "Time": f"{hours(wall_s)} in which at least one stage ran",
    }
    return facts(values)


def _rates(study: Study, rows: Sequence[Row]) -> str:
    parts = ["<h2>Our figures</h2>"]
    for place in dict.fromkeys(row.place for row in rows):
        lines = []
        for row in (row for row in rows if row.place == place):
            seeds = " ".join(f"{100 * value:.0f}" for value in row.of_seeds)
            gone = f'<small class="error">{len(row.diverged)} diverged</small>' if row.diverged else ""
            r = row.rate
            shown = f"{100 * r.mean:.0f}% <small>({100 * r.low:.0f} to {100 * r.high:.0f})</small>"
            lines.append(
                (
                    f'<td class="words">{text(arm_name(row))}</td>',
                    f"{shown}{bar(r.mean, r.low, r.high)}",
                    f"{text(seeds)} {gone}",
                    _against(row),
                )
            )
        kind = study.tasks[place[0]].kind
        title = text(place_name(place)) + (f" <small>({kind})</small>" if kind else "")
        head = ("method", f"{study.measure}, 95% interval", "of each seed", "points above the baseline")
        parts.append(f"<h3>{title}</h3>{table(head, lines)}")
    return "".join(parts)


def _against(row: Row) -> str:
    if row.against is None:
        return "–"
    d = row.against
    p = f"p = {row.p_holm:.2g}" if row.p_holm is not None else "one seed"
    return f"{100 * d.mean:+.0f} <small>({100 * d.low:+.0f} to {100 * d.high:+.0f}, {p})</small>"


def _curves(rows: Sequence[Row]) -> str:
    """As Fig. 8 and Table 12: the measure over shares of the data and over λ."""
    axes: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
        ("share of the training episodes", lambda row: row.arm.fraction),
        ("weight λ of the latent loss", lambda row: row.arm.weight),
    )
    parts = []
    for title, value in axes:
        for place in dict.fromkeys(row.place for row in rows):
            lines: dict[str, list[tuple[float, float]]] = {}
            for row in (row for row in rows if row.place == place):
                if (x := value(row)) is not None:
                    lines.setdefault(method_name(row.arm.method), []).append((x, row.rate.mean))
            if len({x for points in lines.values() for x, _ in points}) > 1:
                parts.append(f"<h3>{text(place_name(place))}: {title}</h3>{_chart(lines, title)}")
    return f"<h2>Curves</h2>{''.join(parts)}" if parts else ""


def _chart(lines: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    left, right, top, bottom = 46, 330, 12, 170
    xs = sorted({x for points in lines.values() for x, _ in points})
    scale = (right - left) / (xs[-1] - xs[0])

    def at(x: float, y: float) -> str:
        return f"{left + (x - xs[0]) * scale:.1f},{bottom - y * (bottom - top):.1f}"

    parts = []
    for i, (name, points) in enumerate(lines.items()):
        colour = f"hsl({i * 360 // len(lines)} 65% 50%)"
        dots = "".join(
            f'<circle cx="{(p := at(*point).split(","))[0]}" cy="{p[1]}" r="3.5" fill="{colour}"/>' for point in points
        )
        path = " ".join(at(*point) for point in sorted(points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}')
        parts.append(f'<text x="{right + 12}" y="{top + 14 + 17 * i}" fill="{colour}">{text(name)}</text>')
    marks = "".join(
        f'<text x="{at(x, 0).split(",")[0]}" y="{bottom + 18}" text-anchor="middle">{x:g}</text>' for x in xs
    )
    levels = "".join(
        f'<text x="{left - 8}" y="{bottom - y * (bottom - top) + 5:.0f}" text-anchor="end">{100 * y:.0f}</text>'
        for y in (0, 0.5, 1)
    )
    height = max(bottom + 40, top + 30 + 17 * len(lines))
    return (
        f'<svg viewBox="0 0 500 {height}" role="img" aria-label="{text(title)}" font-size="14" fill="currentColor">'
        f'<line x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="currentColor" stroke-opacity=".4"/>'
        f"{levels}{marks}{''.join(parts)}</svg>"
    )


# ---------------------------------------------------------------------- beside the paper


def _beside(study: Study, plan: Plan, cells: Sequence[CellResult]) -> str:
    shown: list[str] = []
    hidden: list[str] = []
    for each in TABLES:
        used = False

        def ours(line: Line, column: Column) -> tuple[float, str] | None:
            nonlocal used
            found = _ours(study, cells, line, column)
            used = used or found is not None
            return found

        html = paper_table(each, ours)
        (shown if used else hidden).append(html)
    shown += [_placeholders(), _training(plan), arithmetic()]
    words = (
        '<p>In percent. Black: as the paper prints it. <span class="ours" style="display:inline">Blue: ours</span>, '
        "with the 95% interval over seeds and layouts. Backbone, data and simulator are not the paper's: what can be "
        "compared are differences between rows.</p>"
    )
    others = f"<details><summary>Tables without a figure of ours</summary>{''.join(hidden)}</details>" if hidden else ""
    return f"<h2>Beside the paper</h2>{words}{''.join(shown)}{others}"


def _ours(study: Study, cells: Sequence[CellResult], line: Line, column: Column) -> tuple[float, str] | None:
    """The measure over all seeds of what the row and the column ask for."""
    values = []
    for each in cells:
        if not _is_row(study, each, line):
            continue
        for (name, which), results in each.results.items():
            config = study.tasks[name]
            layout = config.suite_options(config.also.get(which)).get("layout", "id" if column.layout else "")
            if config.suite not in column.suites or (layout != column.layout and (column.layout or which)):
                continue
            if episodes := [e for e in results.scored if not column.tasks or e.task in column.tasks]:
                values.append([float(e.success) if study.measure == "success" else e.score for e in episodes])
    if not values or len({len(row) for row in values}) > 1:
        return None
    found = rate([np.array(values)])
    seeds = f"{found.seeds} seed{'s' if found.seeds > 1 else ''}"
    return found.mean, f"{100 * found.low:.0f}–{100 * found.high:.0f}, {seeds}"


def _is_row(study: Study, result: CellResult, line: Line) -> bool:
    cell = result.cell
    if cell.method != line.method or cell.options or cell.align_layer is not None:
        return False
    several = cell.training == "joint" or any(len(study.tasks[name].tasks) > 1 for name in cell.tasks)
    plain = line.weight is None or line.weight == PLACEHOLDERS.get(line.method, ("", "", 0.0))[2]
    return (
        line.training in (None, "joint" if several else "single")
        and cell.weight in ((line.weight, None) if plain else (line.weight,))
        and abs(cell.fraction - line.fraction) < 0.01
    )


def _placeholders() -> str:
    """Table 7, ours from what the policies were trained with."""
    from lavla_ros.policy.config import StrategyConfig
    from lavla_ros.policy.strategies import BackboneShape, build_strategy

    rows = []
    for method, (latent, action, weight) in PLACEHOLDERS.items():
        built = build_strategy(StrategyConfig(name=method), chunk_size=1, shape=BackboneShape(width=8, layers=28))
        counts = {segment.kind: segment.count for segment in built.segments()}
        own = [_times(counts.get("latent", 0)), _times(counts.get("action", 0)), f"{built.weight:g}"]
        cells = [
            f'{text(a)}<span class="ours">{text(b)}</span>'
            for a, b in zip((latent, action, f"{weight:g}"), own, strict=True)
        ]
        rows.append((text(METHODS[method]), *cells))
    head = ("Method", "Latent placeholders", "Action placeholders", "λ")
    return f"<h3>Table 7: Placeholders and weights</h3>{table(head, rows, numbers=(1, 2, 3))}"


def _times(count: int) -> str:
    return "0" if count == 0 else "H" if count == 1 else f"{count}·H"


def _training(plan: Plan) -> str:
    """Table 8, ours from the recipes."""
    recipe = next((stage.recipe for stage in plan.stages.values() if stage.kind == "policy" and stage.recipe), {})
    contract = next(iter(plan.contracts.values()))
    flat = {**recipe, **recipe.get("optim", {}), "chunk_size": contract.chunk_size}
    rows = [
        (text(key.replace("_", " ")), *map(text, values), f'<span class="ours">{text(flat.get(key, "default"))}</span>')
        for key, values in TRAINING.items()
    ]
    return f"<h3>Table 8: Training</h3>{table((*TRAINING_HEAD, 'ours'), rows, numbers=range(1, 5))}"


def _cells(cells: Sequence[CellResult]) -> str:
    rows = []
    for each in sorted(cells, key=lambda cell: cell.state == "finished"):
        said = f'<span class="error">{text(each.state)}: {text(each.said)}</span>' if each.said else text(each.state)
        mse = f"{each.validation_mse:.4f}" if each.validation_mse is not None else "–"
        rates = ", ".join(f"{place_name(p)} {r.tally.successes}/{r.tally.scored}" for p, r in each.results.items())
        name = f'<td class="words">{text(each.cell.name)}</td>'
        rows.append((name, f'<td class="words">{said}</td>', text(rates or "–"), mse, f"{each.train_s / 60:.0f} min"))
    times = [each.train_s for each in cells if each.train_s]
    middle = f" A training took {mean(times) / 60:.0f} minutes in the mean." if times else ""
    head = ("cell", "state", "successes", "validation MSE", "training")
    content = table(head, rows, numbers=(3, 4))
    return f"<h2>Cells</h2><p>All seeds, also those of which little came.{middle}</p>{content}"
