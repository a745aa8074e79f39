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


VARIANTS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "baseline": ("baseline", {}, False),
    "la_align": ("la_align", {}, False),
    "la_direct": ("la_direct", {}, False),
    "la_cond": ("la_cond", {}, False),
    "la_tok": ("la_tok", {}, False),
    "la_direct_continuous": ("la_direct", {"continuous": True}, False),
    "la_tok_continuous": ("la_tok", {"continuous": True}, False),
    "la_align_early": ("la_align", {"align_layer": "early"}, False),
    "la_align_final": ("la_align", {"align_layer": "final"}, False),
    "la_align_vision": ("la_align", {}, True),
    "la_direct_vision": ("la_direct", {}, True),
    "la_cond_vision": ("la_cond", {}, True),
    "ph_direct": ("baseline", {"placeholders": "PH-Direct"}, False),
    "ph_cond": ("baseline", {"placeholders": "PH-Cond"}, False),
}
"""Method → its strategy, the options that differ from the usual ones, and whether its latent model saw no actions."""
_PLAIN: dict[str, dict[str, Any]] = {
    "baseline": {"placeholders": "H", "tokens": 4},
    "la_align": {"weight": 1.0, "tokens": 4, "embedding": 128, "target": "embedding", "projector": "linear"}
    | {"align_layer": "middle", "centre": False},
    "la_direct": {"weight": 0.1, "tokens": 4, "codebook": 16, "embedding": 128, "continuous": False},
    "la_cond": {"weight": 0.1, "tokens": 4, "codebook": 16, "embedding": 128, "continuous": False},
    "la_tok": {"weight": 0.1, "codebook": 256, "embedding": 128, "continuous": False},
}
"""Strategy → the options that the paper's tables are of (Table 7, App. D.2)."""
_LAYERS = {7: "early", 17: "middle", 28: "final"}
"""Of Qwen3-VL-2B."""


def method_of(policy: Mapping[str, Any], training: Mapping[str, Any] | None = None) -> str:
    """The method of a checkpoint's ``policy`` configuration, and of its ``training`` as far as that is known.

    "" for a variant of the paper's strategies that its tables do not have, as with another λ; a strategy of someone
    else's is a method by its own name.
    """
    strategy = policy.get("strategy")
    if not isinstance(strategy, Mapping):
        return ""
    name, options = str(strategy.get("name", "")), dict(strategy.get("options") or {})
    if name not in _PLAIN:
        return name
    if (policy.get("backbone") or {}).get("kind") == "pretrained" and options.get("align_layer") in _LAYERS:
        options["align_layer"] = _LAYERS[options["align_layer"]]
    changed = {key: value for key, value in options.items() if value != _PLAIN[name].get(key)}
    variant = (name, changed, not _saw_actions(training or {}))
    return next((method for method, known in VARIANTS.items() if known == variant), "")


def _saw_actions(training: Mapping[str, Any]) -> bool:
    """False if a latent action model that taught the policy was trained without action supervision (Table 6)."""
    labels = training.get("labels")
    sets = [made for of_dataset in labels.values() for made in of_dataset.values()] if labels else []
    return all(made.get("settings", {}).get("action_weight", 1.0) > 0 for made in sets)
