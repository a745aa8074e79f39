"""The stages of a study: one ``lavla`` command each, with what goes into it, what it needs, what it costs.

A stage is known by a hash of what goes into it: the content of the data, the recipe with its seed, and the stages
before it. So what two cells have in common is made once, an unchanged cell is never made again, and a changed recipe
makes new stages beside the old.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lavla_ros.config import ConfigError, from_plain, merge, read_plain, to_plain
from lavla_ros.contract import Contract
from lavla_ros.errors import UserError
from lavla_ros.policy.backbone import image_size_of
from lavla_ros.policy.config import PolicyConfig, StrategyConfig
from lavla_ros.policy.model import OBJECTIVE
from lavla_ros.policy.strategies import BackboneShape, build_strategy, find_strategy, label_specs
from lavla_ros.recording import find_bags
from sim_bridges.paper.grid import Cell, Study, TaskConfig, cells_of
from sim_bridges.suites import choose_tasks, load_suite, protocol_starts
from sim_bridges.world import Recipes, Suite
from training.config import TrainConfig
from training.dataset import layout
from training.latent_actions.action_config import ActionLamTrainConfig
from training.latent_actions.image_config import ImageLamTrainConfig
from training.latent_actions.labels import dataset_hash
from training.system_resources import GIB, require_disk

Kind = Literal["record", "dataset", "action", "image", "labels", "policy", "evaluation", "live"]
UNITS: dict[Kind, str] = {
    "record": "episodes", "dataset": "frames", "action": "samples", "image": "samples", "labels": "frames",
    "policy": "samples", "evaluation": "episodes", "live": "episodes",
}  # fmt: skip
FOLDERS: dict[Kind, str] = {
    "record": "bags", "dataset": "datasets", "action": "latent_models", "image": "latent_models", "labels": "labelled",
    "policy": "policies", "evaluation": "evaluations", "live": "live",
}  # fmt: skip
SECONDS: dict[str, float] = {
    "record": 6.0, "dataset": 0.004, "action": 0.0028, "image": 0.002, "labels": 0.002, "policy": 0.019,
    "evaluation": 2.5, "live": 25.0,
}  # fmt: skip
"""Of one core for one unit, with the recipes on the ``tiny`` backbone."""
PLACEHOLDERS_AS_ONE_SAMPLE = 200
"""Placeholders beyond the baseline's that take as long as a whole sample does without them, with the tiny recipes."""
_TINY_POLICY, _POLICY = 25 * 2**20, 12 * 2**30  # best, last, and the state to go on from, twice while it is replaced
_TINY_LATENT, _LATENT = 12 * 2**20, 3 * 2**30
_EVALUATION = 3 * 2**20
_PASSING = frozenset({"output", "threads", "device", "trackers", "wandb_project", "log_every", "save_every", "resume"})
"""Settings of a training that change nothing of what is learned."""
_PASSING_DATA = frozenset(
    {"dataset", "datasets", "mixture", "contract", "frames", "cache_dir", "cache_bound_gib", "decode_threads"}
)
"""The same of its section ``data``; what the data hold is known otherwise."""


class StudyError(UserError, RuntimeError):
    """The study cannot begin or go on; the stages that were finished are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One command."""

    kind: Kind
    title: str
    inputs: Mapping[str, Any]
    """All that decides what comes out; JSON-ready."""
    after: tuple[str, ...] = ()
    """Keys of the stages that it needs."""
    units: float
    """Amount of work, see ``UNITS``; of policies, samples of the baseline that take as long."""
    bytes: int
    """What it leaves on the disk, about."""
    out: Path
    """Folder of the study."""
    command: Callable[[Path], Sequence[str]]
    """Output → arguments of ``lavla``."""
    recipe: Mapping[str, Any] | None = None
    """Configuration of a training; the command is given its file."""
    links: Mapping[str, Path] = field(default_factory=dict)
    """Links that its output begins with."""
    data: tuple[Path, ...] = ()
    """Datasets that it reads, which must be what they were."""

    @property
    def identity(self) -> str:
        """16 hex digits over what goes into it."""
        return _hash({"kind": self.kind, "inputs": self.inputs})

    @property
    def key(self) -> str:
        return f"{self.kind}.{self.title}-{self.identity[:8]}"

    @property
    def output(self) -> Path:
        return self.out / FOLDERS[self.kind] / f"{self.title}-{self.identity[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """A cell and where its results come from."""

    cell: Cell
    policy: str
    """Key of the stage."""
    evaluations: Mapping[tuple[str, str], str]
    """(task, "" or the name in ``also``) → key of the stage."""
    live: Mapping[str, str] = field(default_factory=dict)
    """Task → key of the stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything to do, in an order in which each stage comes after what it needs."""

    stages: Mapping[str, Stage]
    cells: tuple[PlannedCell, ...]
    inputs: Mapping[str, Mapping[str, Any]]
    """Task → the paths that its data are from, and a hash of what they hold."""
    contents: Mapping[Path, str]
    """Dataset that is not made here → :func:`dataset_hash`."""
    contracts: Mapping[Path, Contract]
    """The file that commands are given → what it says."""
    seconds: Mapping[str, float]
    """Key of a stage → the time that it takes one worker, about."""
    measured: frozenset[Kind]
    """Kinds of stages whose times are those of stages that were finished here."""

    def left(self, finished: Iterable[str]) -> list[Stage]:
        done = set(finished)
        return [stage for key, stage in self.stages.items() if key not in done]

    def gone(self, finished: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """Keys of the finished stages whose outputs were deleted and are needed by the rest of the plan."""
        gone: set[str] = set()
        doing = [stage for key, stage in self.stages.items() if key not in finished]
        while doing:
            for key in doing.pop().after:
                record = finished.get(key, {})
                there = self.stages[key].output.exists() and not record.get("again")
                if record.get("status") == 0 and not there and key not in gone:
                    gone.add(key)
                    doing.append(self.stages[key])
        return gone

    def wall_s(self, finished: Iterable[str], workers: int) -> float:
        """Time that ``workers`` take for the rest: what they share out, but never less than the longest chain."""
        left = self.left(finished)
        until: dict[str, float] = {}
        for stage in left:
            until[stage.key] = self.seconds[stage.key] + max((until.get(k, 0.0) for k in stage.after), default=0.0)
        shared = sum(self.seconds[s.key] for s in left if s.kind != "live") / workers
        alone = sum(self.seconds[s.key] for s in left if s.kind == "live")
        return max(shared, max(until.values(), default=0.0)) + alone

    def bytes(self, finished: Iterable[str]) -> int:
        return sum(stage.bytes for stage in self.left(finished))

    def require_disk(self, finished: Iterable[str], out: Path) -> None:
        """Raise RoomError if the rest is not going to fit."""
        advice = "Free some, give --out on a larger disk, or leave cells out; what is finished is kept"
        require_disk(self.bytes(finished), out, "the rest of this study", advice)

    def table(self, finished: Iterable[str], workers: int) -> str:
        """For people: what is to be done, and what it costs."""
        done = set(finished)
        lines = [
            f"{len(self.cells)} cells, {len(self.stages)} stages, {len(done & self.stages.keys())} of them finished"
        ]
        for kind, unit in UNITS.items():
            of_kind = [stage for stage in self.stages.values() if stage.kind == kind]
            if not of_kind:
                continue
            left = [stage for stage in of_kind if stage.key not in done]
            seconds, amount = sum(self.seconds[s.key] for s in left), sum(s.units for s in left)
            rate = (
                f"{seconds / amount:.3g} s each, {'measured' if kind in self.measured else 'estimated'}" if left else ""
            )
            lines.append(
                f"  {kind:10} {len(left):4} of {len(of_kind)} left: {amount:11,.0f} {unit:8} {hours(seconds):>9} of a "
                f"worker  {rate}".rstrip()
            )
        lines.append(
            f"about {hours(self.wall_s(done, workers))} with {workers} workers, and {self.bytes(done) / GIB:.1f} GiB"
        )
        return "\n".join(lines)


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task with its suite."""

    name: str
    config: TaskConfig
    suite: Suite
    tasks: tuple[str, ...]
    recipes: Recipes
    contract: Path
    """File of its contract."""
    frames: int
    """About, where they are not recorded yet."""


def plan_study(
    study: Study, out: Path, finished: Mapping[str, Mapping[str, Any]], inputs: Mapping[str, Mapping[str, Any]]
) -> Plan:
    """``finished``: key of a finished stage → its record (kind, units, began, ended, status). ``inputs``: as
    ``Plan.inputs`` was when the study began.

    Raises ConfigError for a cell that cannot be, naming it, StudyError for data that have changed since.
    """
    return _Planner(study, out, finished, inputs).plan()


class _Planner:
    def __init__(
        self,
        study: Study,
        out: Path,
        finished: Mapping[str, Mapping[str, Any]],
        inputs: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.study, self.out, self.finished = study, out, finished
        self.inputs = dict(inputs)
        self.contents: dict[Path, str] = {}
        self._titles = {
            (record["kind"], record["identity"]): key.removeprefix(f"{record['kind']}.")[: -len("-12345678")]
            for key, record in finished.items()
        }
        self.stages: dict[str, Stage] = {}
        self.tasks = {name: self._task(name, config) for name, config in study.tasks.items()}
        self.sources: dict[str, tuple[Path, str, tuple[str, ...]]] = {}
        """Task → its dataset, what it holds, and the stages that make it."""

    def plan(self) -> Plan:
        cells = cells_of(self.study)
        for cell in cells:
            self._require_possible(cell)
        needed = dict.fromkeys(name for cell in cells for name in cell.tasks)
        self.sources = {name: self._source(self.tasks[name]) for name in needed}
        planned = tuple(self._cell(cell) for cell in cells)
        seconds, measured = self._seconds()
        return Plan(
            stages=self.stages,
            cells=planned,
            inputs=self.inputs,
            contents=self.contents,
            contracts={task.contract: task.suite.contract for task in self.tasks.values()},
            seconds=seconds,
            measured=measured,
        )

    def add(self, stage: Stage) -> Stage:
        """The stage, or, whatever it was called, the one that was planned or finished with the same inputs."""
        name = self._titles.setdefault((stage.kind, stage.identity), stage.title)
        return self.stages.setdefault(f"{stage.kind}.{name}-{stage.identity[:8]}", replace(stage, title=name))

    # ------------------------------------------------------------------ what is possible

    def _task(self, name: str, config: TaskConfig) -> Task:
        try:
            suite = load_suite(config.suite, config.suite_options())
            tasks = choose_tasks(suite, config.tasks)
            recipes = recipes_of(self.study, suite)
            episodes, seed = self._evaluation(suite, recipes)
            for options in [{}, *config.also.values()]:
                protocol_starts(
                    load_suite(config.suite, config.suite_options(options)), tasks, episodes=episodes, seed=seed
                )
            if config.dataset is not None and not (config.dataset / layout.INFO).exists():
                raise ConfigError(f"dataset {config.dataset} is no dataset: it has no {layout.INFO}")
        except UserError as error:
            raise ConfigError(f"task {name}: {error}") from None
        replan = suite.rules.replan_steps if self.study.replan_steps is None else self.study.replan_steps
        if replan > suite.contract.chunk_size:
            raise ConfigError(f"task {name}: replan_steps {replan} exceeds the chunk size {suite.contract.chunk_size}")
        return Task(
            name=name,
            config=config,
            suite=suite,
            tasks=tasks,
            recipes=recipes,
            contract=self.out / "configs" / f"contract-{suite.contract.full_hash[:8]}.yaml",
            frames=self._frames(config, suite, tasks),
        )

    def _evaluation(self, suite: Suite, recipes: Recipes) -> tuple[int, int]:
        """Episodes and seed."""
        seed = suite.rules.seed if recipes.seed is None else recipes.seed
        given = self.study.episodes, self.study.evaluation_seed
        return recipes.episodes if given[0] is None else given[0], seed if given[1] is None else given[1]

    def _frames(self, config: TaskConfig, suite: Suite, tasks: Sequence[str]) -> int:
        if config.dataset is not None:
            return int(layout.read_json(config.dataset / layout.INFO)["total_frames"])
        contract = suite.contract
        if config.bags:
            seconds = sum(map(_bag_seconds, _bags(config.bags)))
            return round(seconds * contract.rate_hz)
        limits: int | Mapping[str, int] = getattr(suite, "demonstration_steps", suite.rules.max_steps)
        longest = limits[tasks[0]] if isinstance(limits, Mapping) else limits
        return round(config.record * longest * 0.4)  # of what a demonstration may take it takes about this

    def _require_possible(self, cell: Cell) -> None:
        """Raise ConfigError, naming the cell, if it cannot be trained."""
        try:
            tasks = [self.tasks[name] for name in cell.tasks]
            hashes = {task.suite.contract.full_hash for task in tasks}
            if len(hashes) > 1:
                raise ConfigError("its tasks have different contracts; joint training needs one")
            if cell.training == "joint" and len(tasks) < 2:
                raise ConfigError("joint training needs two tasks or more")
            name, options = cell.strategy
            given = [key for key in ("weight", "align_layer") if getattr(cell, key) is not None]
            if name == "baseline" and given:
                raise ConfigError(f"{cell.method} learns from no latent action model; it has no {given[0]}")
            strategy = StrategyConfig(name=name, options=options)
            recipe = from_plain(TrainConfig, self._policy_recipe(cell), source=str(tasks[0].recipes.policy))
            build_strategy(strategy, chunk_size=tasks[0].suite.contract.chunk_size, shape=_shape(recipe.policy))
        except UserError as error:
            raise ConfigError(f"cell {cell.name} is impossible: {error}") from None

    # ------------------------------------------------------------------ stages

    def _source(self, task: Task) -> tuple[Path, str, tuple[str, ...]]:
        config, contract = task.config, task.suite.contract
        cameras = sum(camera.height * camera.width for camera in contract.cameras)
        if config.dataset is not None:
            found = self._unchanged(task.name, [config.dataset], dataset_hash(config.dataset))
            self.contents[config.dataset] = found
            return config.dataset, found, ()
        after: tuple[str, ...] = ()
        bags = config.bags
        inputs: dict[str, Any] = {"contract": contract.full_hash}
        if config.record:
            if len(task.tasks) > 1:
                raise ConfigError(f"task {task.name}: record is of one task of the suite; it has {list(task.tasks)}")
            words = ["record", *_suite_words(config, flag="--suite"), "--task", task.tasks[0]]
            words += ["--episodes", str(config.record), "--workers", "2"]
            recording = Stage(
                kind="record",
                title=task.name,
                inputs={"command": words},
                units=config.record,
                bytes=3 * task.frames * cameras,
                out=self.out,
                command=lambda output: [*words, "--out", str(output)],
            )
            recording = self.add(recording)
            after, bags = (recording.key,), (recording.output,)
            inputs["record"] = recording.identity
        else:
            inputs["bags"] = self._unchanged(task.name, config.bags, _listing(config.bags))

        def convert(output: Path) -> list[str]:
            again = ["--resume"] if output.exists() else []
            return ["convert", *map(str, bags), "--contract", str(task.contract), "--out", str(output), *again]

        stage = Stage(
            kind="dataset",
            title=task.name,
            inputs=inputs,
            after=after,
            units=task.frames,
            bytes=round(task.frames * cameras * 0.08),  # as H.264
            out=self.out,
            command=convert,
        )
        stage = self.add(stage)
        return stage.output, stage.identity, (stage.key,)

    def _unchanged(self, name: str, paths: Sequence[Path], found: str) -> str:
        """The hash of what the paths hold. Raises StudyError if they held something else when the study began."""
        texts, before = [str(path) for path in paths], self.inputs.get(name)
        if before is not None and before["paths"] == texts:
            if found and found != before["hash"]:
                raise StudyError(
                    f"the data of task {name} ({', '.join(texts)}) have changed since this study began: they were "
                    f"{before['hash']} and are {found}. What is finished is of the former. Restore them, or give "
                    "another --out"
                )
            return str(before["hash"])  # bags may be deleted once they are converted
        if not found:
            raise ConfigError(f"task {name}: there are no bags in {', '.join(texts)}")
        self.inputs[name] = {"paths": texts, "hash": found}
        return found

    def _cell(self, cell: Cell) -> PlannedCell:
        tasks = [self.tasks[name] for name in cell.tasks]
        contract = tasks[0].suite.contract
        name, options = cell.strategy
        specs = label_specs(StrategyConfig(name=name, options=options), chunk_size=contract.chunk_size)
        kinds = {"action" if key.endswith("_act") else "image" for key in specs}
        models = {kind: self._latent_model(kind, cell) for kind in sorted(kinds)}
        with_c = any(key == "c_act" for key in specs)
        data = {task.name: self._labelled(task, models, with_c, contract) for task in tasks} if models else {}
        parts = [data.get(task.name) or self.sources[task.name] for task in tasks]
        policy = self._policy(cell, tasks, parts)
        evaluations, live = {}, {}
        for task in tasks:
            for which, more in {"": {}, **task.config.also}.items():
                evaluations[task.name, which] = self._evaluate(cell, task, which, more, policy)
            if self.study.live_episodes and hasattr(task.suite, "live"):
                live[task.name] = self._live(cell, task, policy)
        return PlannedCell(cell=cell, policy=policy.key, evaluations=evaluations, live=live)

    def _latent_model(self, kind: str, cell: Cell) -> Stage:
        tasks = [self.tasks[name] for name in cell.tasks]
        file = tasks[0].recipes.action if kind == "action" else tasks[0].recipes.image
        sources = [self.sources[task.name] for task in tasks]
        data: dict[str, Any] = {"datasets": [str(path) for path, _, _ in sources], "fraction": cell.fraction}
        data["contract"] = str(tasks[0].contract)
        if kind == "image":
            data["cache_dir"] = str(self.out / "features")
        changes: dict[str, Any] = {"seed": cell.seed, "data": data}
        vision = cell.is_vision_only and kind == "image"
        if vision:
            changes["action_weight"] = 0.0
        recipe = merge(read_plain(file), changes)
        config: ActionLamTrainConfig | ImageLamTrainConfig
        if kind == "action":
            config = from_plain(ActionLamTrainConfig, recipe, source=str(file))
            steps, tiny, more = config.steps, True, 0
        else:
            config = image = from_plain(ImageLamTrainConfig, recipe, source=str(file))
            steps, tiny = image.steps + image.stage_one_steps, image.model.features.kind == "random"
            side = image.model.features.image_size // image.model.features.patch_size
            more = sum(task.frames for task in tasks) * side * side * image.model.features.width * 2
        share = f".{cell.fraction:.0%}".replace("%", "pct") if cell.fraction < 1 else ""
        stage = Stage(
            kind="action" if kind == "action" else "image",
            title=f"{kind}{'_vision' if vision else ''}.{'+'.join(cell.tasks)}.seed{cell.seed}{share}",
            inputs={"recipe": _decisive(recipe), "data": [identity for _, identity, _ in sources]},
            after=tuple(key for _, _, keys in sources for key in keys),
            units=steps * config.batch_size,
            bytes=(_TINY_LATENT if tiny else _LATENT) + more,
            out=self.out,
            command=lambda output: ["latent", "train", kind],
            recipe=recipe,
            data=tuple(path for path, _, _ in sources),
        )
        return self.add(stage)

    def _labelled(
        self, task: Task, models: Mapping[str, Stage], with_c: bool, contract: Contract
    ) -> tuple[Path, str, tuple[str, ...]]:
        """A view of the dataset with the labels of these models, so that those of others are not in the way."""
        path, identity, keys = self.sources[task.name]
        codes_only = "action" in models and not with_c  # c_act takes 5 kB a step, c_img 1 kB
        words = [text for model in models.values() for text in ("--model", str(model.output / "model"))]
        words += ["--codes-only"] if codes_only else []
        words += ["--jobs", "1", "--cache-dir", str(self.out / "features")]
        per_step = 8 + 2 * (contract.chunk_size * (129 if with_c else 1) if "action" in models else 4 * 129)
        stage = Stage(
            kind="labels",
            title="+".join(model.title for model in models.values()).replace(":", "_") + f".of.{task.name}",
            inputs={
                "data": identity,
                "models": [model.identity for model in models.values()],
                "codes_only": codes_only,
            },
            after=(*keys, *(model.key for model in models.values())),
            units=task.frames,
            bytes=task.frames * per_step,
            out=self.out,
            command=lambda output: ["latent", "label", str(output), *words],
            links={name: path.absolute() / name for name in ("data", "meta", "videos")},
            data=(path,),
        )
        stage = self.add(stage)
        return stage.output, stage.identity, (stage.key,)

    def _policy_recipe(self, cell: Cell, parts: Sequence[Path] = ()) -> dict[str, Any]:
        tasks = [self.tasks[name] for name in cell.tasks]
        name, options = cell.strategy
        joint = self.study.joint_steps or len(tasks) * self.study.steps
        data: dict[str, Any] = {"fraction": cell.fraction, "contract": str(tasks[0].contract)}
        data |= {"frames": "file", "cache_dir": str(self.out / "frames")}  # decoded once for all of them
        if len(parts) == 1:
            data["dataset"] = str(parts[0])
        elif parts:
            data["mixture"] = [{"path": str(part)} for part in parts]
        changes = {"steps": joint if cell.training == "joint" else self.study.steps, "seed": cell.seed, "data": data}
        recipe = merge(read_plain(tasks[0].recipes.policy), changes)
        recipe["policy"] = {**recipe.get("policy", {}), "strategy": {"name": name, "options": options}}
        return dict(recipe)

    def _policy(self, cell: Cell, tasks: Sequence[Task], parts: Sequence[tuple[Path, str, tuple[str, ...]]]) -> Stage:
        recipe = self._policy_recipe(cell, [path for path, _, _ in parts])
        config = from_plain(TrainConfig, recipe, source=str(tasks[0].recipes.policy))
        contract = tasks[0].suite.contract
        name, options = cell.strategy
        strategy = StrategyConfig(name=name, options=options)
        built = build_strategy(strategy, chunk_size=contract.chunk_size, shape=_shape(config.policy))
        more = sum(segment.count for segment in built.segments()) - contract.chunk_size
        tiny = config.policy.backbone.kind == "tiny"
        size = image_size_of(config.policy.backbone)
        # the first policy of a dataset makes its frames: planned with each dataset's first, by the order of cells
        frames = sum(self._first_frames(task) for task in tasks) * len(contract.cameras) * size * size * 3
        stage = Stage(
            kind="policy",
            title=cell.name,
            inputs={
                "recipe": _decisive(recipe),
                "strategy": _all_options(strategy),  # so that what is said to be the default is the default
                "data": [identity for _, identity, _ in parts],
                "objective": OBJECTIVE,
            },
            after=tuple(key for _, _, keys in parts for key in keys),
            units=config.steps * config.batch_size * (1 + max(0, more) / PLACEHOLDERS_AS_ONE_SAMPLE),
            bytes=(_TINY_POLICY if tiny else _POLICY) + frames,
            out=self.out,
            command=lambda output: ["train"],
            recipe=recipe,
            data=tuple(self.sources[task.name][0] for task in tasks),
        )
        return self.add(stage)

    def _first_frames(self, task: Task) -> int:
        planned = any(s.kind == "policy" and self.sources[task.name][0] in s.data for s in self.stages.values())
        return 0 if planned else task.frames

    def _evaluate(self, cell: Cell, task: Task, which: str, more: Mapping[str, Any], policy: Stage) -> str:
        episodes, seed = self._evaluation(task.suite, task.recipes)
        words = ["eval", *_suite_words(task.config, more), "--task", *task.tasks, "--seed", str(seed)]
        words += ["--episodes", str(episodes)]
        words += ["--replan-steps", str(self.study.replan_steps)] if self.study.replan_steps else []
        stage = Stage(
            kind="evaluation",
            title=".".join(filter(None, [cell.name, *([task.name] if len(cell.tasks) > 1 else []), which])),
            inputs={"command": words, "policy": policy.identity},
            after=(policy.key,),
            units=episodes * len(task.tasks),
            bytes=_EVALUATION,
            out=self.out,
            command=lambda output: [*words, "--policy", str(policy.output / "best"), "--out", str(output)],
        )
        return self.add(stage).key

    def _live(self, cell: Cell, task: Task, policy: Stage) -> str:
        _, seed = self._evaluation(task.suite, task.recipes)
        words = ["demo", *_suite_words(task.config), "--task", *task.tasks]
        words += ["--episodes", str(self.study.live_episodes)]
        stage = Stage(
            kind="live",
            title=cell.name,
            inputs={"command": words, "policy": policy.identity, "seed": seed},
            after=(policy.key,),
            units=self.study.live_episodes,
            bytes=_EVALUATION * self.study.live_episodes,
            out=self.out,
            command=lambda output: [*words, "--policy", str(policy.output / "best"), "--out", str(output)],
        )
        return self.add(stage).key

    # ------------------------------------------------------------------ cost

    def _seconds(self) -> tuple[dict[str, float], frozenset[Kind]]:
        """Of finished stages of a kind, where there are any, what they took; else the study's figures, or ours."""
        took: dict[str, tuple[float, float]] = {}
        for record in self.finished.values():
            if record.get("status") == 0 and record["kind"] in UNITS:
                units, seconds = took.get(record["kind"], (0.0, 0.0))
                took[record["kind"]] = units + record["units"], seconds + record["ended"] - record["began"]
        rates: dict[str, float] = {**SECONDS, **self.study.cost}
        rates |= {kind: spent / units for kind, (units, spent) in took.items() if units > 0}
        costs = {key: rates[stage.kind] * stage.units for key, stage in self.stages.items()}
        return costs, frozenset(kind for kind in UNITS if kind in took)


def recipes_of(study: Study, suite: Suite) -> Recipes:
    """The suite's recipes with those given in the study. Raises ConfigError for one that neither has."""
    ours: Recipes | None = getattr(suite, "recipes", None)
    given = {name: getattr(study, f"{name}_recipe") for name in ("action", "image", "policy")}
    if ours is not None:
        return replace(ours, **{name: file for name, file in given.items() if file is not None})
    if missing := [name for name, file in given.items() if file is None]:
        raise ConfigError(
            f"suite {suite.name} has no recipes for studies; give your own for {', '.join(missing)} "
            f"({', '.join(f'--{name}-recipe FILE' for name in missing)}), or let the suite have `recipes`"
        )
    return Recipes(**given, episodes=suite.rules.episodes)


def _suite_words(config: TaskConfig, more: Mapping[str, Any] | None = None, *, flag: str = "") -> list[str]:
    options = config.suite_options(more)
    words = [text for option in options.items() for text in ("-o", "=".join(option))]
    return [*([flag] if flag else []), config.suite, *words]


def _shape(policy: PolicyConfig) -> BackboneShape:
    """Of the backbone; of a pretrained one, what its configuration says, if it is on this machine."""
    if policy.backbone.kind == "tiny":
        return BackboneShape(width=policy.backbone.tiny.width, layers=policy.backbone.tiny.depth)
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(policy.backbone.path, revision=policy.backbone.revision)
    return BackboneShape(width=found.text_config.hidden_size, layers=found.text_config.num_hidden_layers)


def _all_options(strategy: StrategyConfig) -> dict[str, Any]:
    """The strategy's options, those that are not given included."""
    options, _ = find_strategy(strategy.name)
    return {"name": strategy.name, **to_plain(from_plain(options, strategy.options, source=strategy.name))}


def _decisive(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without what changes nothing of the outcome, and without the strategy."""
    kept = {key: value for key, value in recipe.items() if key not in _PASSING}
    if "policy" in kept:
        kept["policy"] = {key: value for key, value in kept["policy"].items() if key != "strategy"}
    kept["data"] = {key: value for key, value in recipe.get("data", {}).items() if key not in _PASSING_DATA}
    return kept


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _bags(paths: Sequence[Path]) -> list[Path]:
    return find_bags([path for path in paths if path.exists()]) if any(path.exists() for path in paths) else []


def _listing(paths: Sequence[Path]) -> str:
    """Of the bags' files, by name and size; empty if they are gone."""
    files = [(str(file.relative_to(path)), file.stat().st_size) for path in paths for file in _files(path)]
    return _hash(files) if files else ""


def _files(path: Path) -> Iterator[Path]:
    return (file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith("."))


def _bag_seconds(bag: Path) -> float:
    try:
        found = re.search(r"duration:\s*\n\s*nanoseconds:\s*(\d+)", (bag / "metadata.yaml").read_text(encoding="utf-8"))
    except OSError:
        return 0.0
    return int(found[1]) / 1e9 if found else 0.0
