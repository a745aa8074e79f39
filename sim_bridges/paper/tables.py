"""The paper's LIBERO tables, and our figures in them.

Figures are success rates in percent, as printed. Table 1 stands here without the other groups' methods, which the
paper quotes for reference only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from sim_bridges.evaluation.html_parts import table, text
from sim_bridges.evaluation.report import Published
from sim_bridges.evaluation.results import Results, Tally
from sim_bridges.paper.methods import METHODS, method_of

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
COLUMNS = ("Spatial", "Object", "Goal", "Long", "Avg.")
_BASELINE = (96.6, 97.2, 92.8, 85.8, 93.1)
_ALIGN = (97.4, 98.6, 97.2, 94.8, 97.0)
_DIRECT = (97.2, 98.6, 95.8, 96.6, 97.1)
_COND = (97.0, 99.4, 95.8, 94.2, 96.6)
_TOK = (97.0, 100.0, 92.2, 92.6, 95.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table: method → its five figures, in the paper's order of rows."""

    number: str
    title: str
    rows: tuple[tuple[str, tuple[float, ...]], ...]


TABLES = (
    Table(
        number="1",
        title="Success rates on LIBERO",
        rows=(
            ("baseline", _BASELINE),
            ("la_align", _ALIGN),
            ("la_direct", _DIRECT),
            ("la_cond", _COND),
            ("la_tok", _TOK),
        ),
    ),
    Table(
        number="4 (left)",
        title="Continuous or discrete latent actions: LA-Direct",
        rows=(
            ("baseline", _BASELINE),
            ("la_direct_continuous", (95.4, 97.0, 90.0, 95.2, 94.4)),
            ("la_direct", _DIRECT),
        ),
    ),
    Table(
        number="4 (right)",
        title="Continuous or discrete latent actions: LA-Tok",
        rows=(("baseline", _BASELINE), ("la_tok_continuous", (95.6, 98.4, 87.6, 91.6, 93.3)), ("la_tok", _TOK)),
    ),
    Table(
        number="5",
        title="Layer that LA-Align aligns",
        rows=(
            ("baseline", _BASELINE),
            ("la_align_early", (94.0, 96.2, 91.0, 85.2, 91.6)),
            ("la_align_final", (96.8, 99.2, 92.2, 91.8, 95.0)),
            ("la_align", _ALIGN),
        ),
    ),
    Table(
        number="6",
        title="Image-based latent actions without action supervision",
        rows=(
            ("baseline", _BASELINE),
            ("la_align_vision", (97.4, 98.4, 97.4, 94.0, 96.8)),
            ("la_direct_vision", (97.2, 98.4, 97.2, 94.8, 96.9)),
            ("la_cond_vision", (98.4, 99.4, 96.2, 92.8, 96.7)),
        ),
    ),
    Table(
        number="9",
        title="Longer action placeholders against LA-Direct",
        rows=(("baseline", _BASELINE), ("ph_direct", (94.0, 94.8, 93.0, 85.8, 91.9)), ("la_direct", _DIRECT)),
    ),
    Table(
        number="10",
        title="Longer action placeholders against LA-Cond",
        rows=(("baseline", _BASELINE), ("ph_cond", (96.8, 98.6, 92.0, 88.4, 94.0)), ("la_cond", _COND)),
    ),
)


def our_figures(results: Iterable[Results]) -> dict[str, dict[str, list[Tally]]]:
    """Method → LIBERO suite → how each policy did, as of several seeds; of one policy evaluated twice, the last."""
    found: dict[str, dict[str, dict[str, Tally]]] = {}
    for each in results:
        if each.method and each.suite in SUITES and each.scored:
            policy = str(each.settings.get("policy_hash") or each.policy)
            found.setdefault(each.method, {}).setdefault(each.suite, {})[policy] = Tally.of(each.episodes)
    return {
        method: {suite: list(of_policy.values()) for suite, of_policy in suites.items()}
        for method, suites in found.items()
    }


def paper_tables(results: Sequence[Results]) -> str:
    """The paper's tables, our figures below the printed ones; "" unless something ran on LIBERO."""
    ran = [each for each in results if each.suite.startswith("libero_")]
    if not ran:
        return ""
    ours = our_figures(ran)
    shown: list[str] = []
    hidden: list[str] = []
    for each in TABLES:
        (shown if any(method in ours for method, _ in each.rows) else hidden).append(_paper_table(each, ours))
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


def _paper_table(printed: Table, ours: Mapping[str, Mapping[str, Sequence[Tally]]]) -> str:
    rows = []
    for method, figures in printed.rows:
        tallies = [ours.get(method, {}).get(suite, ()) for suite in SUITES]
        cells = [f"{figure:.1f}{_our_cell(tally)}" for figure, tally in zip(figures, tallies, strict=False)]
        average = f"{figures[-1]:.1f}"
        rates = [mean(tally.rate or 0.0 for tally in of_suite) for of_suite in tallies if of_suite]
        if len(rates) == len(SUITES):
            average += f'<span class="ours">{100 * sum(rates) / len(rates):.1f}</span>'
        rows.append((text(METHODS[method]), *cells, average))
    head = ("Method", *COLUMNS)
    return f"<h3>Table {printed.number}: {text(printed.title)}</h3>" + table(head, rows, numbers=range(1, 6))


def _our_cell(tallies: Sequence[Tally]) -> str:
    """One policy with its Wilson interval, several with their mean, standard deviation and range."""
    rates = [100 * tally.rate for tally in tallies if tally.rate is not None]
    if len(rates) > 1:
        detail = f"± {stdev(rates):.1f} of {len(rates)} policies, {min(rates):.0f}–{max(rates):.0f}"
        return f'<span class="ours">{mean(rates):.1f} <small>({detail})</small></span>'
    if not rates or (interval := tallies[0].wilson95) is None:
        return ""
    (tally,), (low, high) = tallies, interval
    detail = f"{tally.successes}/{tally.scored}, {100 * low:.0f}–{100 * high:.0f}"
    return f'<span class="ours">{rates[0]:.1f} <small>({detail})</small></span>'


PAPER = Published(methods=METHODS, method_of=method_of, section=paper_tables)
"""What the harness is given: the paper's methods by name, and its tables with our figures."""
