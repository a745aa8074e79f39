"""Registry of supervision strategies: one entry per strategy, nothing else to touch; yours need not even that.

Training, studies, benchmarks and reports know a strategy by its name here, or by ``module:attribute``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lavla_ros.config import ConfigError, from_plain
from lavla_ros.plugins import find
from lavla_ros.policy.config import StrategyConfig
from lavla_ros.policy.strategies.base import (
    BackboneShape,
    LabelSpec,
    PlaceholderStates,
    Segment,
    SegmentKind,
    StrategyOptions,
    SupervisionStrategy,
    check_labels,
    mean_counted,
    mean_loss,
    pool_steps,
)
from lavla_ros.policy.strategies.baseline import Baseline, BaselineOptions
from lavla_ros.policy.strategies.la_align import LaAlign, LaAlignOptions
from lavla_ros.policy.strategies.la_cond import LaCond
from lavla_ros.policy.strategies.la_direct import ImageLatentOptions, LaDirect
from lavla_ros.policy.strategies.la_tok import LaTok, LaTokOptions

STRATEGIES: dict[str, tuple[type[StrategyOptions], Callable[..., SupervisionStrategy]]] = {
    "baseline": (BaselineOptions, Baseline),
    "la_align": (LaAlignOptions, LaAlign),
    "la_direct": (ImageLatentOptions, LaDirect),
    "la_cond": (ImageLatentOptions, LaCond),
    "la_tok": (LaTokOptions, LaTok),
}
"""Name → (frozen dataclass of its options, class). The value is also what ``module:attribute`` has to be."""


def find_strategy(name: str) -> tuple[type[StrategyOptions], Callable[..., SupervisionStrategy]]:
    """By its name in ``STRATEGIES``, or ``module:attribute``. Raises ConfigError naming what there is."""
    options, strategy = find(name, STRATEGIES, "strategy", ConfigError)
    return options, strategy


def build_strategy(config: StrategyConfig, *, chunk_size: int, shape: BackboneShape) -> SupervisionStrategy:
    """The configured strategy for chunks of ``chunk_size`` steps on a backbone of that shape.

    Raises ConfigError for an unknown name, or an option that the strategy doesn't have.
    """
    options, strategy_class = _parse(config)
    return strategy_class(options, chunk_size=chunk_size, shape=shape)


def label_specs(config: StrategyConfig, *, chunk_size: int) -> Mapping[str, LabelSpec]:
    """The latent labels that the configured strategy needs, by key. Raises ConfigError as :func:`build_strategy` does.

    They do not depend on the backbone.
    """
    options, _ = _parse(config)
    return options.labels(chunk_size)


def _parse(config: StrategyConfig) -> tuple[StrategyOptions, Callable[..., SupervisionStrategy]]:
    options_class, strategy_class = find_strategy(config.name)
    source = f"strategy.options of {config.name!r}"
    # a command line gives true as text, a YAML file doesn't
    options = {key: {"true": True, "false": False}.get(str(value), value) for key, value in config.options.items()}
    return from_plain(options_class, options, source=source), strategy_class


__all__ = [
    "STRATEGIES",
    "BackboneShape",
    "LabelSpec",
    "PlaceholderStates",
    "Segment",
    "SegmentKind",
    "StrategyOptions",
    "SupervisionStrategy",
    "build_strategy",
    "check_labels",
    "find_strategy",
    "label_specs",
    "mean_counted",
    "mean_loss",
    "pool_steps",
]
