"""What a study leaves behind: ``study.json``, ``study.md`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lavla_ros.config import to_plain
from lavla_ros.yaml_text import dump_yaml
from sim_bridges.evaluation.results import Results
from sim_bridges.files import write_json
from sim_bridges.paper.analysis import Analysis, CellResult, Row, analyse, collect, place_name
from sim_bridges.paper.grid import Study
from sim_bridges.paper.page import arm_name, write_page
from sim_bridges.paper.plan import Plan


def write_results(study: Study, plan: Plan, finished: Mapping[str, Mapping[str, Any]], out: Path) -> Path:
    """Returns the table (Markdown)."""
    cells = collect(plan, finished, Results.read)
    analysis = analyse(study, cells)
    wall_s = total_s(finished)
    write_json(out / "study.json", _plain(study, cells, analysis, wall_s, out))
    source = dump_yaml({key: value for key, value in to_plain(study).items() if value not in (None, {}, [])})
    write_page(out / "report.html", study, plan, cells, analysis, wall_s=wall_s, source=source)
    table = out / "study.md"
    table.write_text(_markdown(study, cells, analysis, wall_s), encoding="utf-8")
    return table


def total_s(finished: Mapping[str, Mapping[str, Any]]) -> float:
    """Wall time in which at least one stage ran."""
    total, until = 0.0, 0.0
    for began, ended in sorted((record["began"], record["ended"]) for record in finished.values()):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def against(row: Row) -> str:
    """The difference from the baseline in points, with its interval and p."""
    if row.against is None:
        return "–"
    points = f"{100 * row.against.mean:+.0f} ({100 * row.against.low:+.0f} to {100 * row.against.high:+.0f})"
    return f"{points}, p = {row.p_holm:.2g}" if row.p_holm is not None else f"{points}, one seed"


def _markdown(study: Study, cells: Sequence[CellResult], analysis: Analysis, wall_s: float) -> str:
    states = [each.state for each in cells]
    lines = [
        f"{len(cells)} cells of {study.steps} optimizer steps: {states.count('finished')} finished, "
        f"{states.count('diverged')} diverged, {states.count('not finished')} not finished; {wall_s / 60:.0f} minutes "
        "in all. Intervals are of 95%, over training seeds and layouts; differences are in points, p is "
        "adjusted by Holm's method.",
        "",
        "| method | task | seeds | "
        + study.measure
        + " | 95% | against the baseline | live | validation MSE | training |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in analysis.rows:
        of_arm = [each for each in cells if each.cell.arm == row.arm.arm]
        mse = [each.validation_mse for each in of_arm if each.validation_mse is not None]
        live = ", ".join(each.live[row.place[0]] for each in of_arm if row.place[0] in each.live)
        minutes = sum(each.train_s for each in of_arm) / 60
        gone = f", {len(row.diverged)} diverged" if row.diverged else ""
        lines.append(
            f"| {arm_name(row)} | {place_name(row.place)} | {len(row.seeds)}{gone} | {percent(row.rate.mean)} "
            f"| {percent(row.rate.low)} to {percent(row.rate.high)} | {against(row)} | {live or '–'} "
            f"| {f'{sum(mse) / len(mse):.4f}' if mse else '–'} | {minutes:.1f} min |"
        )
    for finding in analysis.findings:
        lines += ["", f"{finding.number}. {finding.text} **{finding.verdict}**"]
        lines += [f"   - {part.claim}: {part.verdict} ({part.why})" for part in finding.parts]
    for each in cells:
        if each.state == "diverged":
            lines += ["", f"{each.cell.name} diverged: {each.said}"]
    return "\n".join(lines) + "\n"


def _plain(study: Study, cells: Sequence[CellResult], analysis: Analysis, wall_s: float, out: Path) -> dict[str, Any]:
    return {
        "study": to_plain(study),
        "seconds": wall_s,
        "findings": [asdict(finding) for finding in analysis.findings],
        "rows": [
            {**asdict(row), "arm": {**asdict(row.arm), "seed": None}, "condition": row.arm.condition}
            for row in analysis.rows
        ],
        "cells": [
            {
                **asdict(each.cell),
                "name": each.cell.name,
                "state": each.state,
                "said": each.said,
                "policy": str(each.policy.relative_to(out)) if each.policy else "",
                "validation_mse": each.validation_mse,
                "best_step": each.best_step,
                "train_s": each.train_s,
                "live": dict(each.live),
                "evaluations": {
                    place_name(place): {
                        "successes": results.tally.successes,
                        "episodes": results.tally.scored,
                        "score": sum(e.score for e in results.scored) / max(1, len(results.scored)),
                        "fingerprint": results.fingerprint,
                    }
                    for place, results in each.results.items()
                },
            }
            for each in cells
        ],
    }
