"""The paper's comparison, end to end and unattended: bags → latent actions → five policies → a table.

Every stage is one ``lavla`` command in a process of its own, with its output in ``OUT/logs``; a stage that has been
finished is not repeated, so a study that was stopped goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavla_ros.config import read_plain
from lavla_ros.errors import UserError
from lavla_ros.resources import config_path
from lavla_ros.yaml_text import dump_yaml, load_yaml
from sim_bridges.evaluation.results import write_json
from sim_bridges.evaluation.statistics import wilson95
from sim_bridges.evaluation.suites import load_suite

STRATEGIES = ("baseline", "la_align", "la_direct", "la_cond", "la_tok")


class StudyError(UserError, RuntimeError):
    """A stage failed; the stages before it are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipes:
    """What a study of a simulator begins from: the contract, and shipped configurations for two CPU cores."""

    contract: str
    action: str
    image: str
    policy: str
    episodes: int
    """Per task and policy."""


TABLETOP = Recipes(
    contract="jaka_minicobo",
    action="latent/action_tabletop",
    image="latent/image_tabletop",
    policy="training/tabletop_tiny",
    episodes=100,
)
LIBERO = Recipes(
    contract="libero",
    action="latent/action_libero_tiny",
    image="latent/image_libero_tiny",
    policy="training/libero_tiny",
    episodes=20,
)
ROBOTWIN = Recipes(
    contract="robotwin_aloha",
    action="latent/action_robotwin_tiny",
    image="latent/image_robotwin_tiny",
    policy="training/robotwin_tiny",
    episodes=100,
)


def recipes_of(suite: str) -> Recipes:
    """Raises ValueError for a suite that no study has been prepared for."""
    if suite == "tabletop":
        return TABLETOP
    if suite.startswith("libero_"):
        return LIBERO
    if suite.startswith("robotwin"):
        return ROBOTWIN
    raise ValueError(f"there is no study of suite {suite!r}; there are those of tabletop, LIBERO and RoboTwin")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """One study."""

    bags: tuple[Path, ...]
    """Recorded episodes, or folders of them."""
    out: Path
    suite: str = "tabletop"
    """Where the policies are evaluated, and the bags were recorded."""
    tasks: tuple[str, ...] = ()
    """Of the suite; none: its default ones."""
    steps: int = 2_000
    """Optimizer steps of every policy (Table 8: the same for all methods)."""
    strategies: tuple[str, ...] = STRATEGIES
    episodes: int | None = None
    """Lock-step episodes per task and policy, the same for all; None: 20 in LIBERO, elsewhere 100."""
    evaluation_seed: int | None = None
    """None: 2 on the tabletop, elsewhere that of the suite's protocol."""
    replan_steps: int | None = None
    """Contract steps between two inferences; None: the suite's."""
    live_episodes: int = 3
    """Episodes of each policy through the policy node on the live stack, on the tabletop; 0: none."""
    workers: int = 2
    """Policies that are trained and evaluated at a time."""
    action_recipe: Path | None = None
    """Configuration of the action latent action model; None: the suite's, as for the next two."""
    image_recipe: Path | None = None
    """Configuration of the image latent action model."""
    policy_recipe: Path | None = None
    """Configuration of the policies; its strategy is replaced."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.strategies) - set(STRATEGIES))
        if unknown or not self.strategies:
            raise ValueError(f"strategies {unknown or '()'} are not of {list(STRATEGIES)}")
        for key, low in (("steps", 1), ("episodes", 1), ("replan_steps", 1), ("live_episodes", 0), ("workers", 1)):
            if (value := getattr(self, key)) is not None and value < low:
                raise ValueError(f"{key} is {value}; expected at least {low}")
        recipes = recipes_of(self.suite)
        for key, value in (
            ("episodes", recipes.episodes),
            ("evaluation_seed", 2 if self.suite == "tabletop" else load_suite(self.suite).rules.seed),
        ):
            if getattr(self, key) is None:
                object.__setattr__(self, key, value)


def run_study(config: StudyConfig, say: Callable[[str], None]) -> Path:
    """Run what is not done yet; returns the table (Markdown). Raises StudyError naming the stage and its log."""
    stages, recipes = _Stages(config.out, say), recipes_of(config.suite)
    dataset, action, image = config.out / "dataset", config.out / "latent_action", config.out / "latent_image"
    stages.run("convert", ["convert", *map(str, config.bags), "--contract", recipes.contract], output=dataset)

    def train_latent(name: str, output: Path, given: Path | None) -> None:
        overrides = {"output": str(output), "data.datasets": [str(dataset)]}
        file = stages.write(f"latent_{name}.yaml", _recipe(given, getattr(recipes, name), overrides))
        stages.run(f"latent_{name}", ["latent", "train", name, "--config", str(file)])

    with stages.side_by_side(config.workers) as pool:
        list(pool.map(train_latent, ("action", "image"), (action, image), (config.action_recipe, config.image_recipe)))
    models = [text for output in (action, image) for text in ("--model", str(output / "model"))]
    stages.run("label", ["latent", "label", str(dataset), *models])

    def train_and_evaluate(strategy: str) -> None:
        output = config.out / strategy
        overrides: dict[str, Any] = {
            "output": str(output),
            "steps": config.steps,
            "threads": max(1, (os.cpu_count() or 1) // config.workers),
            "data.dataset": str(dataset),
            "data.frames": "file",  # decoded once for all of them
            "data.cache_dir": str(config.out / "frames"),
            "policy.strategy": {"name": strategy},
        }
        file = stages.write(f"{strategy}.yaml", _recipe(config.policy_recipe, recipes.policy, overrides))
        stages.run(f"train_{strategy}", ["train", "--config", str(file)])
        evaluation = ["eval", config.suite, "--policy", str(output / "best"), "--seed", str(config.evaluation_seed)]
        evaluation += ["--episodes", str(config.episodes), *(["--task", *config.tasks] if config.tasks else [])]
        evaluation += ["--replan-steps", str(config.replan_steps)] if config.replan_steps else []
        stages.run(f"evaluate_{strategy}", evaluation, output=output / "evaluation")

    # those with most placeholders train longest: first, so that nothing is left alone at the end
    longest_first = sorted(config.strategies, key=lambda name: (name != "la_cond", name != "la_direct"))
    with stages.side_by_side(config.workers) as pool:
        list(pool.map(train_and_evaluate, longest_first))
    if len(config.strategies) > 1:
        evaluations = [str(config.out / strategy / "evaluation") for strategy in config.strategies]
        stages.run("compare", ["compare", *evaluations], output=config.out / "compared.html")
    rows: list[dict[str, Any]] = []
    live = config.suite == "tabletop" and config.live_episodes > 0
    for strategy in config.strategies:
        output = config.out / strategy
        if live:  # in real time, so with nothing beside it
            demo = ["demo", "--policy", str(output / "best"), "--episodes", str(config.live_episodes)]
            stages.run(f"live_{strategy}", demo, output=output / "live", must=False)
        rows.append(_row(strategy, output, stages.seconds(f"train_{strategy}"), live=live))
    return _write_table(config, rows, stages)


class _Stages:
    """Runs commands once each and remembers how long they took."""

    def __init__(self, out: Path, say: Callable[[str], None]) -> None:
        self._out, self._say = out, say
        self._logs, self._configs = out / "logs", out / "configs"
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        for folder in (self._logs, self._configs):
            folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, arguments: list[str], *, output: Path | None = None, must: bool = True) -> None:
        """``output``: given as --out; what a stage that was stopped left there is removed first. ``must`` False: its
        failing is a result like another."""
        done = self._logs / f"{name}.json"
        if done.exists():
            self._say(f"{name}: done before")
            return
        if output is not None:
            shutil.rmtree(output, ignore_errors=True)
            arguments = [*arguments, "--out", str(output)]
        self._say(f"{name}: lavla {' '.join(arguments)}")
        log, began = self._logs / f"{name}.log", time.time()
        if self._stopped:
            raise StudyError(f"{name} was not begun: the study was stopped")
        with log.open("a", encoding="utf-8") as file:
            process = subprocess.Popen([sys.executable, "-m", "lavla_ros.cli", *arguments], stdout=file, stderr=file)
            self._running.add(process)
            try:
                status = process.wait()
            finally:
                self._running.discard(process)
                process.terminate()  # where waiting was interrupted
        if self._stopped:
            raise StudyError(f"{name} was stopped; the same command goes on from there")
        if status != 0 and must:
            tail = "\n  ".join(log.read_text(errors="replace", encoding="utf-8").splitlines()[-6:])
            raise StudyError(f"{name} ended with status {status}; the end of {log}:\n  {tail}")
        ended = time.time()
        write_json(done, {"arguments": arguments, "status": status, "began": began, "ended": ended})
        self._say(f"{name}: {(ended - began) / 60:.1f} min" + (f", status {status}" if status else ""))

    @contextmanager
    def side_by_side(self, workers: int) -> Iterator[ThreadPoolExecutor]:
        """Threads for stages that run at a time. Ctrl-C and SIGTERM end their commands and begin no others."""
        with ThreadPoolExecutor(workers) as pool:
            try:
                yield pool
            except KeyboardInterrupt:
                self._stopped = True
                for process in tuple(self._running):
                    process.terminate()
                raise

    def seconds(self, name: str) -> float:
        began, ended = self._times(self._logs / f"{name}.json")
        return ended - began

    @property
    def total_s(self) -> float:
        """Wall time in which at least one stage ran."""
        total, until = 0.0, 0.0
        for began, ended in sorted(self._times(file) for file in self._logs.glob("*.json")):
            total += max(0.0, ended - max(began, until))
            until = max(until, ended)
        return total

    @staticmethod
    def _times(file: Path) -> tuple[float, float]:
        values = json.loads(file.read_text(encoding="utf-8"))
        return values["began"], values["ended"]

    def write(self, name: str, recipe: Mapping[str, Any]) -> Path:
        file = self._configs / name
        file.write_text(dump_yaml(dict(recipe)), encoding="utf-8")
        return file


def _recipe(given: Path | None, shipped: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with some keys (dotted) replaced."""
    file = config_path(f"{shipped}.yaml") if given is None else given
    recipe: dict[str, Any] = read_plain(file)
    for path, value in overrides.items():
        *parents, key = path.split(".")
        section = recipe
        for parent in parents:
            section = section.setdefault(parent, {})
        section[key] = value
    return recipe


def _row(strategy: str, output: Path, train_s: float, *, live: bool) -> dict[str, Any]:
    results = json.loads((output / "evaluation" / "results.json").read_text(encoding="utf-8"))
    successes = sum(bool(e["success"]) for e in results["episodes"])
    trials = len(results["episodes"]) - int(results["errors"])
    low, high = wilson95(successes, trials)
    best = load_yaml((output / "best" / "config.yaml").read_text(encoding="utf-8"))["training"]
    row = {
        "strategy": strategy,
        "successes": successes,
        "episodes": trials,
        "wilson95": [low, high],
        "validation_mse": best["validation"].get("mse"),
        "best_step": best["step"],
        "train_minutes": round(train_s / 60, 1),
    }
    results_live = output / "live" / "results.json"
    if live and results_live.exists():
        shown = json.loads(results_live.read_text(encoding="utf-8"))["episodes"]
        row["live"] = f"{sum(bool(e['success']) for e in shown)}/{len(shown)}"
    elif live:
        row["live"] = f"stopped: logs/live_{strategy}.log"  # such as by a fault of the executor, which latches
    return row


def _write_table(config: StudyConfig, rows: list[dict[str, Any]], stages: _Stages) -> Path:
    lines = [
        f"{config.suite}: {config.steps} optimizer steps per policy, one training seed; {rows[0]['episodes']} "
        f"lock-step episodes of evaluation seed {config.evaluation_seed} each; {stages.total_s / 60:.0f} minutes in "
        "all.",
        "",
        "| strategy | success | Wilson 95% | live | validation MSE | best step | training |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = (100 * bound for bound in row["wilson95"])
        rate = 100 * row["successes"] / max(1, row["episodes"])
        lines.append(
            f"| {row['strategy']} | {row['successes']}/{row['episodes']} ({rate:.0f}%) "
            f"| {low:.0f}% to {high:.0f}% | {row.get('live', '–')} "
            f"| {row['validation_mse']:.4f} | {row['best_step']} | {row['train_minutes']} min |"
        )
    write_json(
        config.out / "study.json",
        {"suite": config.suite, "steps": config.steps, "rows": rows, "seconds": stages.total_s},
    )
    table = config.out / "study.md"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table
