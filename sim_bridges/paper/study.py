"""The paper's comparison, end to end and unattended: bags → latent actions → five policies → a table.

Every stage is one ``lavla`` command in a process of its own, with its output in ``OUT/logs``; a stage that has been
finished is not repeated, so a study that was stopped goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lavla_ros.config import read_plain
from lavla_ros.errors import UserError
from lavla_ros.outputs import sole_writer
from lavla_ros.policy.config import StrategyConfig
from lavla_ros.policy.strategies import BackboneShape, build_strategy
from lavla_ros.yaml_text import dump_yaml, load_yaml
from sim_bridges.evaluation.statistics import wilson95
from sim_bridges.files import write_json
from sim_bridges.paper.config import StudyConfig
from sim_bridges.suites import load_suite


class StudyError(UserError, RuntimeError):
    """A stage failed; the stages before it are kept."""


def run_study(config: StudyConfig, say: Callable[[str], None], *, lavla: Sequence[str]) -> Path:
    """Run what is not done yet; returns the table (Markdown). ``lavla``: the program whose commands the stages are.

    Raises StudyError naming the stage and its log, OutputError if another study writes ``out``.
    """
    with sole_writer(config.out):
        return _run(config, say, lavla)


def _run(config: StudyConfig, say: Callable[[str], None], lavla: Sequence[str]) -> Path:
    suite = load_suite(config.suite, config.options)
    stages, recipes = _Stages(config.out, lavla, say), config.recipes(suite)
    shown = [config.suite, *(text for option in config.options.items() for text in ("-o", "=".join(option)))]
    shown += ["--task", *config.tasks] if config.tasks else []
    contract = stages.write("contract.yaml", suite.contract.to_dict())
    dataset, action, image = config.out / "dataset", config.out / "latent_action", config.out / "latent_image"
    stages.run("convert", ["convert", *map(str, config.bags), "--contract", str(contract)], output=dataset)

    def train_latent(name: str, output: Path, recipe: Path) -> None:
        overrides = {"output": str(output), "data.datasets": [str(dataset)], "data.fraction": config.fraction}
        file = stages.write(f"latent_{name}.yaml", _recipe(recipe, overrides), stage=f"latent_{name}")
        stages.run(f"latent_{name}", ["latent", "train", name, "--config", str(file)])

    with stages.side_by_side(config.workers) as pool:
        list(pool.map(train_latent, ("action", "image"), (action, image), (recipes.action, recipes.image)))
    models = [text for output in (action, image) for text in ("--model", str(output / "model"))]
    stages.run("label", ["latent", "label", str(dataset), *models])

    def train_and_evaluate(strategy: str) -> None:
        name = _file_name(strategy)
        output = config.out / name
        overrides: dict[str, Any] = {
            "output": str(output),
            "steps": config.steps,
            "threads": max(1, (os.cpu_count() or 1) // config.workers),
            "data.dataset": str(dataset),
            "data.fraction": config.fraction,
            "data.frames": "file",  # decoded once for all of them
            "data.cache_dir": str(config.out / "frames"),
            "policy.strategy": {"name": strategy},
        }
        file = stages.write(f"{name}.yaml", _recipe(recipes.policy, overrides), stage=f"train_{name}")
        stages.run(f"train_{name}", ["train", "--config", str(file)])
        evaluation = ["eval", *shown, "--policy", str(output / "best"), "--seed", str(config.evaluation_seed)]
        evaluation += ["--episodes", str(config.episodes)]
        evaluation += ["--replan-steps", str(config.replan_steps)] if config.replan_steps else []
        stages.run(f"evaluate_{name}", evaluation, output=output / "evaluation")

    # those with most placeholders train longest: first, so that nothing is left alone at the end
    longest_first = sorted(config.strategies, key=_placeholders, reverse=True)
    with stages.side_by_side(config.workers) as pool:
        list(pool.map(train_and_evaluate, longest_first))
    if len(config.strategies) > 1:
        evaluations = [str(config.out / _file_name(strategy) / "evaluation") for strategy in config.strategies]
        stages.run("compare", ["compare", *evaluations], output=config.out / "compared.html")
    rows: list[dict[str, Any]] = []
    live = hasattr(suite, "live") and config.live_episodes > 0
    for strategy in config.strategies:
        name = _file_name(strategy)
        output = config.out / name
        if live:  # in real time, so with nothing beside it
            demo = ["demo", *shown, "--policy", str(output / "best"), "--episodes", str(config.live_episodes)]
            stages.run(f"live_{name}", demo, output=output / "live", must=False)
        rows.append(_row(strategy, output, stages.seconds(f"train_{name}"), live=live))
    return _write_table(config, rows, stages)


class _Stages:
    """Runs commands once each and remembers how long they took."""

    def __init__(self, out: Path, lavla: Sequence[str], say: Callable[[str], None]) -> None:
        self._lavla, self._say = lavla, say
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
            process = subprocess.Popen([*self._lavla, *arguments], stdout=file, stderr=file)
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

    def write(self, name: str, recipe: Mapping[str, Any], *, stage: str = "") -> Path:
        """``stage``: that the file is of. Raises StudyError if it has been finished with other settings."""
        file = self._configs / name
        if (self._logs / f"{stage}.json").exists() and file.exists():
            before = load_yaml(file.read_text(encoding="utf-8"))
            keys = sorted({*before, *recipe} - {"threads"})
            if changed := [f"{k}: {before.get(k)} → {recipe.get(k)}" for k in keys if before.get(k) != recipe.get(k)]:
                raise StudyError(
                    f"{stage} was finished with other settings ({'; '.join(changed)}); choose another folder for this "
                    f"study, or delete {self._logs / stage}.json and what the stage wrote"
                )
        file.write_text(dump_yaml(dict(recipe)), encoding="utf-8")
        return file


def _file_name(strategy: str) -> str:
    """Of a strategy's files; one from elsewhere has a colon in its name."""
    return strategy.replace(":", ".")


def _placeholders(strategy: str) -> int:
    """How many placeholders a step of the chunk has in the prompt."""
    built = build_strategy(StrategyConfig(name=strategy), chunk_size=1, shape=BackboneShape(width=8, layers=28))
    return sum(segment.count for segment in built.segments())


def _recipe(file: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with some keys (dotted) replaced."""
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
        # Such as by a fault of the executor, which latches.
        row["live"] = f"stopped: logs/live_{_file_name(strategy)}.log"
    return row


def _write_table(config: StudyConfig, rows: list[dict[str, Any]], stages: _Stages) -> Path:
    lines = [
        f"{config.suite}: {config.steps} optimizer steps per policy, one training seed, {config.fraction:.0%} of the "
        f"training episodes; {rows[0]['episodes']} lock-step episodes of evaluation seed {config.evaluation_seed} "
        f"each; {stages.total_s / 60:.0f} minutes in all.",
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
        {"suite": config.suite, "steps": config.steps, "fraction": config.fraction}
        | {"rows": rows, "seconds": stages.total_s},
    )
    table = config.out / "study.md"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table
