"""What a study compares. Imports little: the help of the command line waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lavla_ros.config import ConfigError
from sim_bridges.worlds import DEFAULT_SUITE

if TYPE_CHECKING:
    from sim_bridges.world import Recipes, Suite


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """One study."""

    bags: tuple[Path, ...]
    """Recorded episodes, or folders of them."""
    out: Path
    """Folder of the study."""
    suite: str = DEFAULT_SUITE
    """Suite where the bags were recorded and the policies are evaluated: its name, or module:factory of yours."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the suite."""
    tasks: tuple[str, ...] = ()
    """Tasks of the suite, by name or number. The default is the suite's own choice."""
    steps: int = 2_000
    """Number of optimizer steps of every policy."""
    fraction: float = 1.0
    """Share of the training episodes that latent action models and policies learn from, per instruction (App. E.1). The
    recipes need the same ``seed`` and ``data.validation_fraction`` for all of them to take the same episodes."""
    strategies: tuple[str, ...] = ()
    """Strategies to compare, by name or as module:attribute. The default is all that come with the package."""
    episodes: int | None = None
    """Number of lock-step episodes per task and policy. The default is the suite's for studies."""
    evaluation_seed: int | None = None
    """Seed of the evaluations. The default is the suite's for studies, or else that of its rules."""
    replan_steps: int | None = None
    """Number of contract steps between two inferences. The default is the suite's."""
    live_episodes: int = 3
    """Number of episodes of each policy on the suite's live stack; 0 leaves them out."""
    workers: int = 2
    """Number of policies that are trained and evaluated at a time."""
    action_recipe: Path | None = None
    """Configuration of the action latent action model. The default is the suite's."""
    image_recipe: Path | None = None
    """Configuration of the image latent action model. The default is the suite's."""
    policy_recipe: Path | None = None
    """Configuration of the policies; its strategy is replaced. The default is the suite's."""

    def __post_init__(self) -> None:
        from lavla_ros.policy.strategies import STRATEGIES, find_strategy
        from sim_bridges.suites import load_suite

        if not self.strategies:
            object.__setattr__(self, "strategies", tuple(STRATEGIES))
        for strategy in self.strategies:
            find_strategy(strategy)
        for key, low in (("steps", 1), ("episodes", 1), ("replan_steps", 1), ("live_episodes", 0), ("workers", 1)):
            if (value := getattr(self, key)) is not None and value < low:
                raise ConfigError(f"{key} is {value}; expected at least {low}")
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"fraction is {self.fraction}; expected above 0, at most 1")
        suite = load_suite(self.suite, self.options)
        recipes = self.recipes(suite)
        seed = suite.rules.seed if recipes.seed is None else recipes.seed
        for key, value in (("episodes", recipes.episodes), ("evaluation_seed", seed)):
            if getattr(self, key) is None:
                object.__setattr__(self, key, value)

    def recipes(self, suite: Suite) -> Recipes:
        """The suite's recipes with those given here. Raises ConfigError for one that neither has."""
        from sim_bridges.world import Recipes

        ours: Recipes | None = getattr(suite, "recipes", None)
        given = {name: getattr(self, f"{name}_recipe") for name in ("action", "image", "policy")}
        if ours is not None:
            return replace(ours, **{name: file for name, file in given.items() if file is not None})
        if missing := [name for name, file in given.items() if file is None]:
            raise ConfigError(
                f"suite {suite.name} has no recipes for studies; give your own for {', '.join(missing)} "
                f"({', '.join(f'--{name}-recipe FILE' for name in missing)}), or let the suite have `recipes`"
            )
        return Recipes(**given, episodes=suite.rules.episodes)
