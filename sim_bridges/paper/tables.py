"""The paper's LIBERO tables, and which row of them a policy of ours belongs to.

Figures are success rates in percent, as printed. Table 1 stands here without the other groups' methods, which the
paper quotes for reference only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sim_bridges.evaluation.results import Results, Tally

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
COLUMNS = ("Spatial", "Object", "Goal", "Long", "Avg.")
METHODS: dict[str, str] = {
    "baseline": "Baseline",
    "la_align": "LA-Align",
    "la_direct": "LA-Direct",
    "la_cond": "LA-Cond",
    "la_tok": "LA-Tok",
    "la_direct_continuous": "LA-Direct (C)",
    "la_tok_continuous": "LA-Tok (C)",
    "la_align_early": "LA-Align (early)",
    "la_align_final": "LA-Align (final)",
    "la_align_vision": "LA-Align",
    "la_direct_vision": "LA-Direct",
    "la_cond_vision": "LA-Cond",
    "ph_direct": "Baseline (PH-Direct)",
    "ph_cond": "Baseline (PH-Cond)",
}
"""Method → its name in the paper. ``_vision``: with a latent action model that saw no actions (Table 6)."""

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


def method_of(policy: Mapping[str, Any]) -> str:
    """The method of a checkpoint's ``policy`` configuration; "" where it is none of the paper's."""
    strategy = policy.get("strategy")
    if not isinstance(strategy, Mapping):
        return ""
    name, options = str(strategy.get("name", "")), strategy.get("options") or {}
    if name == "baseline":
        name = {"PH-Direct": "ph_direct", "PH-Cond": "ph_cond"}.get(options.get("placeholders", "H"), "baseline")
    elif name == "la_align":
        layer = options.get("align_layer", "middle")
        name = {"middle": "la_align", "early": "la_align_early", "final": "la_align_final"}.get(layer, "")
    elif options.get("continuous"):
        name = f"{name}_continuous"
    return name if name in METHODS else ""


def our_figures(results: Iterable[Results]) -> dict[str, dict[str, Tally]]:
    """Method → LIBERO suite → how it went; of several results of one method and suite, the last."""
    figures: dict[str, dict[str, Tally]] = {}
    for each in results:
        if each.method and each.suite in SUITES and each.scored:
            figures.setdefault(each.method, {})[each.suite] = Tally.of(each.episodes)
    return figures
