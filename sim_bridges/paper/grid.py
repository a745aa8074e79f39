"""A study as its file says it: tasks to learn, and grids of what is compared on them. docs/study.md explains it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal

from lavla_ros.config import ConfigError, Scalar, check, setting
from sim_bridges.paper.methods import METHODS, VARIANTS
from sim_bridges.worlds import DEFAULT_SUITE

Training = Literal["single", "joint"]


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What a policy learns, and where it is evaluated."""

    bags: tuple[Path, ...] = ()
    """Recorded episodes, or folders of them."""
    dataset: Path | None = None
    """A dataset, in place of bags."""
    record: int = setting(0, low=0)
    """Number of episodes that the suite's expert records, in place of bags and a dataset."""
    suite: str = DEFAULT_SUITE
    """Suite where the episodes are from and the policies are evaluated: its name, or module:factory."""
    options: Mapping[str, Scalar] = field(default_factory=dict)
    """Options of the suite."""
    tasks: tuple[str, ...] = ()
    """Tasks of the suite, by name or number. The default is the suite's own choice."""
    kind: Literal["", "long", "motor"] = ""
    """What the paper's first finding takes the task for: a long horizon, or complex motions (two arms)."""
    also: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    """Further evaluations of the same policies, in scenes that they were not trained on: name → options of the suite
    that differ, as in {ood: {layout: ood}}."""

    def __post_init__(self) -> None:
        given = [name for name in ("bags", "dataset", "record") if getattr(self, name)]
        check(len(given) == 1, "bags, dataset, record", given, "one of the three")

    def suite_options(self, more: Mapping[str, Scalar] | None = None) -> dict[str, str]:
        """As they are written on a command line."""
        texts = {**self.options, **(more or {})}
        return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in texts.items()}


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Every combination of these is a cell, that is a policy, trained and evaluated."""

    methods: tuple[str, ...]
    """Methods of the paper (baseline, ph_direct, la_tok, la_direct_continuous, la_align_early, la_cond_vision, …), or
    strategies of yours as module:attribute."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds, of the latent action models, the split of the episodes and the policies."""
    tasks: tuple[str, ...] = ()
    """Some of the study's tasks. The default is all."""
    fractions: tuple[float, ...] = (1.0,)
    """Shares of the training episodes (App. E.1)."""
    weights: tuple[float, ...] = ()
    """Weights λ of the latent loss (Table 12). The default is the strategy's."""
    align_layers: tuple[str | int, ...] = ()
    """Layers that LA-Align aligns (Table 5): early, middle, final, or a number. The default is the strategy's."""
    training: tuple[Training, ...] = ("single",)
    """single: a policy for each task. joint: one for all tasks of the grid together (App. E.3)."""
    options: Mapping[str, Scalar] = field(default_factory=dict)
    """More options of the strategies."""

    def __post_init__(self) -> None:
        for name in ("methods", "seeds", "fractions", "training"):
            check(len(getattr(self, name)) > 0, name, getattr(self, name), "at least one")
        check(all(seed >= 0 for seed in self.seeds), "seeds", self.seeds, "0 or more")
        check(all(0 < share <= 1 for share in self.fractions), "fractions", self.fractions, "above 0, at most 1")
        check(all(weight >= 0 for weight in self.weights), "weights", self.weights, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Study:
    """The whole of it."""

    tasks: Mapping[str, TaskConfig]
    """Name of yours → task."""
    grids: tuple[GridConfig, ...]
    """What is compared; a cell of two grids is one cell."""
    steps: int = setting(2_000, low=1)
    """Number of optimizer steps of every policy."""
    joint_steps: int | None = setting(None, low=1)
    """The same of one that learns several tasks jointly. The default is ``steps`` for each of them."""
    episodes: int | None = setting(None, low=1)
    """Number of layouts, that is lock-step episodes, per task and policy. The default is the suite's for studies."""
    evaluation_seed: int | None = setting(None, low=0)
    """Seed of the evaluations. The default is the suite's for studies, or else that of its rules."""
    replan_steps: int | None = setting(None, low=1)
    """Number of contract steps between two inferences. The default is the suite's."""
    live_episodes: int = setting(0, low=0)
    """Number of episodes of each policy on the suite's live stack, if it has one."""
    measure: Literal["success", "score"] = "success"
    """What is compared: how many episodes succeed, or the part of the task that is done."""
    margin: float = setting(0.05, low=0, high=1)
    """A difference below this does not count: a finding does not hold if it is shown to be smaller."""
    action_recipe: Path | None = None
    """Configuration of the action latent action models. The default is the suite's."""
    image_recipe: Path | None = None
    """Configuration of the image latent action models. The default is the suite's."""
    policy_recipe: Path | None = None
    """Configuration of the policies; its strategy and seed are replaced. The default is the suite's."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Seconds of one worker for one unit of work, for the plan, until stages of the kind have been finished here: an
    episode (record, evaluation), a frame (dataset, labels), a sample (action, image, policy)."""

    def __post_init__(self) -> None:
        check(len(self.tasks) > 0, "tasks", dict(self.tasks), "at least one")
        check(len(self.grids) > 0, "grids", self.grids, "at least one")
        bad = [name for name in self.tasks if not name.replace("_", "a").replace("-", "a").isalnum()]
        check(not bad, "tasks", bad, "names of letters, digits, - and _")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One policy of a study."""

    method: str
    tasks: tuple[str, ...]
    """That it learns."""
    seed: int
    fraction: float = 1.0
    weight: float | None = None
    align_layer: str | int | None = None
    training: Training = "single"
    options: tuple[tuple[str, Scalar], ...] = ()

    @property
    def condition(self) -> str:
        """What else it is than its method, in words; empty if nothing."""
        parts = [f"λ {self.weight:g}"] if self.weight is not None else []
        parts += [f"layer {self.align_layer}"] if self.align_layer is not None else []
        parts += [f"{self.fraction:.0%} of the episodes"] if self.fraction < 1 else []
        parts += [f"{key} {value}" for key, value in self.options]
        return ", ".join([*parts, *(["joint"] if self.training == "joint" else [])])

    @property
    def name(self) -> str:
        """For messages and files."""
        tasks = "+".join(self.tasks) if len(self.tasks) < 3 else f"{len(self.tasks)}_tasks"
        more = self.condition.replace(" of the episodes", "").replace("λ ", "w").replace("%", "pct")
        words = [self.method, tasks, f"seed{self.seed}", *filter(None, more.split(", "))]
        return ".".join(word.replace(" ", "_").replace(":", ".").replace("/", "_") for word in words)

    @property
    def arm(self) -> tuple[object, ...]:
        """What is the same for all seeds."""
        return self.method, self.tasks, self.fraction, self.weight, self.align_layer, self.training, self.options

    @property
    def strategy(self) -> tuple[str, dict[str, Scalar]]:
        """Name and options."""
        name, options, _ = VARIANTS.get(self.method, (self.method, {}, False))
        options = {**options, **dict(self.options)}
        if self.weight is not None:
            options["weight"] = self.weight
        if self.align_layer is not None:
            options["align_layer"] = self.align_layer
        return name, options

    @property
    def is_vision_only(self) -> bool:
        """Its latent action model sees no actions (Table 6)."""
        return VARIANTS.get(self.method, ("", {}, False))[2]


def cells_of(study: Study) -> tuple[Cell, ...]:
    """All cells, none twice, in the order of the file. Raises ConfigError naming one that cannot be."""
    found: dict[Cell, None] = {}
    for grid in study.grids:
        for cell in _cells(study, grid):
            found.setdefault(cell)
    return tuple(found)


def _cells(study: Study, grid: GridConfig) -> Iterator[Cell]:
    tasks = grid.tasks or tuple(study.tasks)
    if unknown := sorted(set(tasks) - set(study.tasks)):
        raise ConfigError(f"grids: tasks {unknown} are not in the study; it has {sorted(study.tasks)}")
    axes = (grid.training, grid.methods, grid.fractions, grid.weights or (None,), grid.align_layers or (None,))
    for training, method, fraction, weight, layer in product(*axes):
        if method not in METHODS and ":" not in method:
            raise ConfigError(f"grids: there is no method {method!r}; there are {sorted(METHODS)}, or module:attribute")
        for several, seed in product([tasks] if training == "joint" else [(task,) for task in tasks], grid.seeds):
            yield Cell(
                method=method,
                tasks=several,
                seed=seed,
                fraction=fraction,
                weight=weight,
                align_layer=layer,
                training=training,
                options=tuple(sorted(grid.options.items())),
            )
