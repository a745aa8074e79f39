"""The paper's methods, and which of them a policy of ours is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def method_of(policy: Mapping[str, Any]) -> str:
    """The method of a checkpoint's ``policy`` configuration.

    "" for a variant of the paper's strategies that its tables do not have; a strategy of somebody else's is a method by
    its own name.
    """
    strategy = policy.get("strategy")
    if not isinstance(strategy, Mapping):
        return ""
    name, options = str(strategy.get("name", "")), strategy.get("options") or {}
    if name not in METHODS:
        return name
    if name == "baseline":
        name = {"PH-Direct": "ph_direct", "PH-Cond": "ph_cond"}.get(options.get("placeholders", "H"), "baseline")
    elif name == "la_align":
        layer = options.get("align_layer", "middle")
        name = {"middle": "la_align", "early": "la_align_early", "final": "la_align_final"}.get(layer, "")
    elif options.get("continuous"):
        name = f"{name}_continuous"
    return name if name in METHODS else ""
