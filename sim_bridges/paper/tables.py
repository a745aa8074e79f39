"""The paper's tables as HTML, our figures below the printed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean, stdev

from sim_bridges.evaluation.html_parts import table, text
from sim_bridges.evaluation.report import Published
from sim_bridges.evaluation.results import Results, Tally
from sim_bridges.judging.folder import SUITE as JUDGED
from sim_bridges.judging.protocol import judged_task
from sim_bridges.paper.methods import METHODS, method_of
from sim_bridges.paper.published import LIBERO, TABLES, Column, Line, Table
from sim_bridges.paper.rollouts import recompute


def our_figures(results: Iterable[Results]) -> dict[str, dict[str, list[Tally]]]:
    """Method → LIBERO suite → how each policy did, as of several seeds; of one policy evaluated twice, the last."""
    found: dict[str, dict[str, dict[str, Tally]]] = {}
    for each in results:
        if each.method and each.suite in LIBERO and each.scored:
            policy = str(each.settings.get("policy_hash") or each.policy)
            found.setdefault(each.method, {}).setdefault(each.suite, {})[policy] = Tally.of(each.episodes)
    return {
        method: {suite: list(of_policy.values()) for suite, of_policy in suites.items()}
        for method, suites in found.items()
    }


def paper_tables(results: Sequence[Results]) -> str:
    """The paper's tables, our figures below the printed ones; "" unless something ran on LIBERO, or on an arm."""
    return _libero_tables(results) + _real_tables(results)


def _real_tables(results: Sequence[Results]) -> str:
    """Fig. 4 and Table 3, with the mean scores of rollouts that a person judged."""
    scores: dict[tuple[str, str], list[float]] = {}
    for each in results:
        for episode in each.scored if each.suite == JUDGED else ():
            scores.setdefault((each.method, episode.task), []).append(episode.score)
    if not scores:
        return ""

    def found(line: Line, column: Column) -> tuple[float, str] | None:
        names = [judged_task(task, column.layout) for task in column.tasks]
        values = [score for name in names for score in scores.get((line.method, name), [])]
        if JUDGED not in column.suites or not values:
            return None
        spread = f" ± {100 * stdev(values):.0f}" if len(values) > 1 else ""
        return mean(values), f"{len(values)} rollouts{spread}"

    tables_ = [paper_table(each, found) for each in TABLES if any(JUDGED in column.suites for column in each.columns)]
    words = (
        "<p>Mean scores in percent, by the rubrics of Appendix F.2. Black: as printed in the paper. "
        '<span class="ours" style="display:inline">Blue: ours</span>, with the number of rollouts and their standard '
        "deviation. Arm, scenes, data and the person who judges are not the paper's: what can be compared are "
        "differences between rows.</p>"
    )
    return f"<h2>Beside the paper's rollouts</h2>{words}{''.join(tables_)}{arithmetic()}"


def _libero_tables(results: Sequence[Results]) -> str:
    ran = [each for each in results if each.suite.startswith("libero_")]
    if not ran:
        return ""
    ours = our_figures(ran)
    shown: list[str] = []
    hidden: list[str] = []

    def found(line: Line, column: Column) -> tuple[float, str] | None:
        suites = ours.get(line.method, {}) if not line.condition else {}
        tallies = next((suites[suite] for suite in column.suites if suite in suites), [])
        rates = [tally.rate for tally in tallies if tally.rate is not None]
        return (mean(rates), _detail(tallies)) if rates else None

    for each in TABLES:
        if {suite for column in each.columns for suite in column.suites} <= set(LIBERO):
            used = any(line.method in ours and not line.condition for line in each.rows)
            (shown if used else hidden).append(paper_table(each, found))
    comparable = all(each.is_comparable for each in ran)
    warning = "" if comparable else "<strong>Not comparable</strong>: see the top of the page."
    lines = [
        "<h2>Beside the paper</h2>",
        '<p>Success rates in percent. Black: as printed in the paper. <span class="ours" style="display:inline">Blue: '
        "ours</span>, with the number of episodes and the Wilson 95% interval. An average is ours only where all four "
        f"suites were evaluated. {warning}</p>",
        *shown,
    ]
    if not shown:
        lines.append("<p>The policy is none of the paper's methods, so that no row of its tables is ours.</p>")
    if hidden:
        lines.append(f"<details><summary>Tables without a figure of ours</summary>{''.join(hidden)}</details>")
    return "\n".join(lines)


def paper_table(printed: Table, ours: Callable[[Line, Column], tuple[float, str] | None]) -> str:
    """``ours``: what belongs in a row and a column, as a share with words in HTML that say how sure it is."""
    rows = []
    for line in printed.rows:
        cells, rates = [], []
        for column, figure in zip(printed.columns, line.figures, strict=True):
            found = ours(line, column) if column.suites else None
            rates += [found[0]] if found else []
            cell = f"{figure:.1f}" if figure is not None else "–"
            if found:
                cell += f'<span class="ours">{100 * found[0]:.1f} <small>({found[1]})</small></span>'
            elif not column.suites and rates and len(rates) == sum(bool(each.suites) for each in printed.columns):
                cell += f'<span class="ours">{100 * mean(rates):.1f}</span>'
            cells.append(cell)
        rows.append((text(", ".join(filter(None, [METHODS[line.method], line.condition]))), *cells))
    head = ("Method", *(column.title for column in printed.columns))
    name = printed.number if printed.number.startswith("Fig") else f"Table {printed.number}"
    return f"<h3>{name}: {text(printed.title)}</h3>" + table(head, rows, numbers=range(1, len(head)))


def arithmetic() -> str:
    """Where the paper's figures do not match its own rollouts, row by row."""
    found = recompute()
    rows = [
        (f'<td class="words">{text(c.where)}</td>', text(c.printed), text(f"{float(c.exact):.4g}")) for c in found.wrong
    ]
    scores = [value for values in found.off_rubric.values() for value in values]
    words = (
        f"Of {len(found.checks)} figures that the paper calculates from its rollouts ({text(found.source)}), these do "
        f"not match them. {len(scores)} scores of bowls, in {len(found.off_rubric)} rollouts, are no level of the "
        "rubric; <code>lavla paper</code> names each."
    )
    head = table(("figure", "printed", "by the rows"), rows, numbers=(1, 2))
    return f"<details><summary>The paper's own arithmetic</summary><p>{words}</p>{head}</details>"


def _detail(tallies: Sequence[Tally]) -> str:
    """One policy with its Wilson interval, several with their standard deviation and range."""
    rates = [100 * tally.rate for tally in tallies if tally.rate is not None]
    if len(rates) > 1:
        return f"± {stdev(rates):.1f} of {len(rates)} policies, {min(rates):.0f}–{max(rates):.0f}"
    (tally,) = tallies
    low, high = tally.wilson95 or (0.0, 1.0)
    return f"{tally.successes}/{tally.scored}, {100 * low:.0f}–{100 * high:.0f}"


PAPER = Published(methods=METHODS, method_of=method_of, section=paper_tables)
"""What the harness is given: the paper's methods by name, and its tables with our figures."""
