"""Runs the stages of a study, each a ``lavla`` command in a process of its own, and says what came of the cells.

A stage that is finished is not repeated, so that a study that was stopped, or killed, goes on. A training that
diverged is finished too: its cell has no policy, and is shown as such. Outputs may be deleted, such as where only
records and evaluations are kept; one that is needed again is made again, and a dataset must hold what it held.

    OUT/logs/STAGE.json    a finished stage: what went into it, how long it took
    OUT/logs/STAGE.before  the same of a stage that is being made again
    OUT/logs/STAGE.log     what it said
    OUT/configs/STAGE.yaml what a training was configured with
    OUT/inputs.json        what the data were when the study began
    OUT/datasets, latent_models, labelled, policies, evaluations, live    the stages' outputs
    OUT/study.json, study.md, report.html    what came of it
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavla_ros.errors import DIVERGED
from lavla_ros.lifeline import lifeline
from lavla_ros.outputs import sole_writer
from lavla_ros.yaml_text import dump_yaml, load_yaml
from sim_bridges.files import write_json
from sim_bridges.paper.grid import Study
from sim_bridges.paper.plan import Plan, Stage, StudyError, plan_study
from sim_bridges.paper.results import write_results
from training.latent_actions.labels import dataset_hash

_POLL_S = 0.1


def run_study(
    study: Study, out: Path, say: Callable[[str], None], *, workers: int, lavla: Sequence[str], plan_only: bool = False
) -> Path:
    """Run what is not done yet; returns the table (Markdown). ``lavla``: the program whose commands the stages are.

    Raises ConfigError for a cell that cannot be, RoomError for too little disk, StudyError for data that have changed
    and, when all else is done, for stages that failed, OutputError if another study writes ``out``.
    """
    with sole_writer(out):
        records = Records(out)
        finished = records.finished()
        plan = plan_study(study, out, finished, records.inputs())
        gone = plan.gone(finished)
        for key in sorted(gone):
            say(f"{key}: its output is gone and is needed; it is made again")
        left = finished.keys() - gone
        say(plan.table(left, workers))
        if plan_only:
            return out
        plan.require_disk(left, out)
        records.make_again(gone)
        write_json(out / "inputs.json", plan.inputs)
        for file, contract in plan.contracts.items():
            file.write_text(dump_yaml(contract.to_dict()), encoding="utf-8")
        runner = _Runner(plan, records, say, lavla, workers, gone)
        try:
            with _children_end(runner):
                runner.run()
        finally:  # what an interrupted study has is shown too
            table = write_results(study, plan, records.finished(), out)
        if runner.failed:
            raise StudyError(runner.what_failed())
        return table


class Records:
    """What the study's folder knows of its stages."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.logs, self.configs = out / "logs", out / "configs"
        for folder in (self.logs, self.configs):
            folder.mkdir(parents=True, exist_ok=True)

    def finished(self) -> dict[str, dict[str, Any]]:
        """Key → record, of every finished stage, also of those that the study no longer has. A stage that was finished
        and is being made again has ``again``: its output is not to be used."""
        again = {file.stem: _read(file) | {"again": True} for file in sorted(self.logs.glob("*.before"))}
        return again | {file.stem: _read(file) for file in sorted(self.logs.glob("*.json"))}

    def inputs(self) -> dict[str, dict[str, Any]]:
        file = self.out / "inputs.json"
        return _read(file) if file.exists() else {}

    def log(self, key: str) -> Path:
        return self.logs / f"{key}.log"

    def make_again(self, keys: Iterable[str]) -> None:
        """Until these stages are finished once more their outputs are not to be used, also after an interruption."""
        for key in keys:
            if (file := self.logs / f"{key}.json").exists():
                file.replace(file.with_suffix(".before"))

    def finish(self, stage: Stage, record: Mapping[str, Any]) -> None:
        write_json(
            self.logs / f"{stage.key}.json",
            {"kind": stage.kind, "identity": stage.identity, "inputs": stage.inputs, "units": stage.units, **record},
        )
        (self.logs / f"{stage.key}.before").unlink(missing_ok=True)


@dataclass(slots=True)
class _Running:
    stage: Stage
    process: subprocess.Popen[bytes]
    began: float


class _Runner:
    """As many commands at a time as there are workers; those that others wait for longest come first."""

    def __init__(
        self,
        plan: Plan,
        records: Records,
        say: Callable[[str], None],
        lavla: Sequence[str],
        workers: int,
        again: Collection[str],
    ) -> None:
        self._plan, self._records, self._say, self._lavla = plan, records, say, lavla
        self._workers = workers
        self._threads = max(1, (os.cpu_count() or 1) // workers)
        self._contents: dict[Path, tuple[int, str]] = {}
        self.running: list[_Running] = []
        found = records.finished()
        self.finished = {key: record for key, record in found.items() if key not in again}
        self._before = {key: found[key] for key in again}
        """Records of the stages that are made again."""
        self.failed: dict[str, str] = {}
        """Stage that failed → why."""
        self._behind = _time_behind(plan)

    def run(self) -> None:
        for key in self._plan.stages:
            if key in self.finished:
                self._say(f"{key}: done before")
        while True:
            self._begin()
            if not self.running:
                return
            time.sleep(_POLL_S)
            for each in [each for each in self.running if each.process.poll() is not None]:
                self.running.remove(each)
                self._end(each)

    def _begin(self) -> None:
        ready = sorted(filter(self._is_ready, self._plan.stages.values()), key=lambda s: -self._behind[s.key])
        together = [stage for stage in ready if stage.kind != "live"]
        for stage in together[: self._workers - len(self.running)]:
            self._start(stage)
        if not together and not self.running:  # in real time, so with nothing beside it
            for stage in ready[:1]:
                self._start(stage)

    def _is_ready(self, stage: Stage) -> bool:
        begun = {each.stage.key for each in self.running} | self.finished.keys() | self.failed.keys()
        return stage.key not in begun and all(self._is_good(key) for key in stage.after)

    def _is_good(self, key: str) -> bool:
        return key in self.finished and self.finished[key]["status"] == 0

    def _start(self, stage: Stage) -> None:
        self._require_unchanged(stage)
        arguments = list(stage.command(stage.output))
        if stage.recipe is not None:
            file = self._records.configs / f"{stage.key}.yaml"
            threads = {"threads": self._threads} if stage.kind == "policy" else {}
            recipe = {**stage.recipe, **threads, "output": str(stage.output)}
            file.write_text(dump_yaml(recipe), encoding="utf-8")
            arguments += ["--config", str(file)]
        if stage.output.exists():
            with sole_writer(stage.output, wait=True):
                pass  # a command of a study that was killed is about to end
            if stage.kind == "record":  # the only one that does not go on with what there is
                shutil.rmtree(stage.output)
        for name, target in stage.links.items():
            link = stage.output / name
            if not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target)
        self._say(f"{stage.key}: lavla {' '.join(arguments)}")
        with self._records.log(stage.key).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [*self._lavla, *arguments],
                stdout=log,
                stderr=log,
                env=os.environ | lifeline(),
                stdin=subprocess.DEVNULL,
            )
        self.running.append(_Running(stage, process, time.time()))

    def _end(self, ran: _Running) -> None:
        stage, status, ended = ran.stage, ran.process.returncode, time.time()
        record: dict[str, Any] = {"status": status, "began": ran.began, "ended": ended}
        log = self._records.log(stage.key)
        tail = log.read_text(errors="replace", encoding="utf-8").splitlines()[-6:]
        if status == DIVERGED:
            record["said"] = tail[-1] if tail else ""
        elif status != 0 and stage.kind != "live":  # of which failing is a result like another
            self.failed[stage.key] = f"ended with status {status}; the end of {log}:\n  " + "\n  ".join(tail)
            self._say(f"{stage.key}: failed, status {status}")
            return
        if stage.kind == "dataset" and status == 0:
            record["content"] = content = dataset_hash(stage.output)
            if (before := self._before.get(stage.key, record).get("content")) != content:
                self.failed[stage.key] = (
                    f"was made again, and {stage.output} is not what it was when this study began: it was {before} and "
                    f"is {content}. What is finished is of the former. Bring that dataset here, or give another --out"
                )
                self._say(f"{stage.key}: failed, other data than before")
                return
        if stage.kind == "policy" and status == 0:
            best = load_yaml((stage.output / "best" / "config.yaml").read_text(encoding="utf-8"))["training"]
            record["training"] = {key: best[key] for key in ("step", "validation") if key in best}
        self._records.finish(stage, record)
        self.finished[stage.key] = {"kind": stage.kind, "units": stage.units, **record}
        end = {0: "", DIVERGED: ", diverged"}.get(status, f", status {status}")
        self._say(f"{stage.key}: {(ended - ran.began) / 60:.1f} min{end}")

    def _require_unchanged(self, stage: Stage) -> None:
        """Raise StudyError if a dataset of the stage is not what it was."""
        made = {self._plan.stages[key].output: self.finished[key].get("content") for key in stage.after}
        for path in stage.data:
            expected = self._plan.contents.get(path) or made.get(path)
            signature = _signature(path)
            if self._contents.get(path, (0, ""))[0] != signature:
                self._contents[path] = signature, dataset_hash(path)
            if expected is not None and (found := self._contents[path][1]) != expected:
                raise StudyError(
                    f"{stage.key}: the dataset {path} has changed since this study began: it was {expected} and is "
                    f"{found}. What is finished is of the former. Restore it, or give another --out"
                )

    def stop(self) -> None:
        """End what runs."""
        for each in self.running:
            each.process.terminate()
        for each in self.running:
            each.process.wait()

    def what_failed(self) -> str:
        key, why = next(iter(self.failed.items()))
        others = f" {len(self.failed) - 1} others failed as well." if len(self.failed) > 1 else ""
        return f"{key} {why}\n{others} What is finished is kept; the same command tries the rest again".replace(
            "\n ", "\n"
        )


@contextmanager
def _children_end(runner: _Runner) -> Iterator[None]:
    """Ctrl-C, SIGTERM and errors end the commands that run, and begin no others."""
    try:
        yield
    finally:
        runner.stop()


def _time_behind(plan: Plan) -> dict[str, float]:
    """Stage → the time of the longest chain that begins with it."""
    behind = dict.fromkeys(plan.stages, 0.0)
    for key, stage in reversed(list(plan.stages.items())):  # each comes after those that it needs
        behind[key] += plan.seconds[key]
        for needed in stage.after:
            behind[needed] = max(behind[needed], behind[key])
    return behind


def _signature(dataset: Path) -> int:
    files = sorted(file for folder in ("data", "meta", "videos") for file in (dataset / folder).rglob("*.*"))
    return hash(tuple((str(file), (found := file.stat()).st_size, found.st_mtime_ns) for file in files))


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(f"{file} is damaged ({error}); delete it, and the stage is repeated") from None
    return found
