"""Every command, from two shells at once: each gives what it gives alone, and an output has one writer."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from safetensors.numpy import load_file
from shells import ended, start

from lavla_ros import cli
from lavla_ros.contract import load_contract
from lavla_ros.outputs import new_file, new_folder, sole_writer
from lavla_ros.recording import BagReader, find_bags
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.evaluation import evaluate
from sim_bridges.paper.config import StudyConfig
from sim_bridges.paper.plan import plan_study
from sim_bridges.paper.study import Records
from training.dataset import DatasetWriter

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "training"))

from small_world import save_small_qwen

pytestmark = [pytest.mark.sim, pytest.mark.ros, pytest.mark.long]

STEPS = 20
ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "config"


# ---------------------------------------------------------------------- shells


class Shell:
    """A process in which commands run one after another; it has imported what they need."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, folder))
        self._process.start()

    def start(self, words: Sequence[object]) -> None:
        self._pipe.send([str(word) for word in words])

    def end(self) -> tuple[int, str]:
        """The status of the command and what it wrote."""
        assert self._pipe.poll(240.0), "no end in four minutes"
        status, said = self._pipe.recv()
        return status, said

    def close(self) -> None:
        self._process.kill()
        self._process.join(10.0)


def _serve(pipe: Connection, folder: Path) -> None:
    os.chdir(folder)
    os.environ.pop("ROS_DOMAIN_ID", None)
    while True:
        words, said, status = pipe.recv(), io.StringIO(), 0
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                cli.main(words)
            except SystemExit as ending:
                status = int(ending.code or 0)
            except BaseException:  # noqa: BLE001 (of a command, whatever it is: the test shows it)
                traceback.print_exc()
                status = -1
        AcceleratorState._reset_state(reset_partial_state=True)  # a process keeps the precision of its first training
        pipe.send((status, said.getvalue()))


@pytest.fixture(scope="module")
def shells(made: Path, imported_once: None) -> Iterator[tuple[Shell, Shell]]:
    both = (Shell(made), Shell(made))
    yield both
    for shell in both:
        shell.close()


# ---------------------------------------------------------------------- what the commands work on


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two evaluations and two recordings, made at once."""
    folder = tmp_path_factory.mktemp("twice")
    short = ["--episodes", 1, "--max-steps", STEPS, "--videos", 0]
    started = [
        start(folder, "eval", "tabletop", "--through", "nodes", *short, "--seed", seed, "--out", f"eval_{seed}")
        for seed in (0, 1)
    ]
    started += [start(folder, "record", "--episodes", 1, "--seed", s, "--out", f"bags_{s}") for s in (0, 500)]
    ended(started)
    _cut_off(folder / "bags_0", folder / "cut")
    for i in (0, 1):
        shutil.copytree(*find_bags([folder / "bags_0"]), folder / f"spare_{i}")
    _study_without_stages(folder)
    save_small_qwen(folder / "qwen")
    return folder


def _cut_off(bags: Path, to: Path) -> None:
    """A bag as one is whose recorder was killed."""
    (bag,) = find_bags([bags])
    shutil.copytree(bag, to)
    (file,) = to.glob("*.mcap")
    os.truncate(file, file.stat().st_size * 2 // 3)
    (to / "metadata.yaml").unlink()


def _study_without_stages(folder: Path) -> None:
    """Two studies whose stages have all been run, so that the table is left to do."""
    for i in (0, 1):
        out = folder / f"study_{i}"
        study = StudyConfig(bags=(folder / "bags_0",), out=out, live_episodes=0).study()
        plan, records = plan_study(study, out, {}, {}), Records(out)
        for stage in plan.stages.values():
            if stage.kind == "evaluation":
                shutil.copytree(folder / "eval_0", stage.output)
            if stage.kind == "policy":
                (stage.output / "best").mkdir(parents=True)
                best = "training: {step: 2, validation: {mse: 0.5}}\n"
                (stage.output / "best" / "config.yaml").write_text(best, encoding="utf-8")
            records.finish(stage, {"status": 0, "began": 1.0, "ended": 61.0})


# ---------------------------------------------------------------------- each command


Hold = Callable[[Path], AbstractContextManager[Any]]
OUT = object()


@dataclass(frozen=True)
class Case:
    """A command, with 0 and 1 in the place of every {}, and its output in that of OUT."""

    words: tuple[object, ...]
    output: str = ""
    """What it writes; empty: nothing but what it says."""
    pattern: str = "*"
    """Which files of a folder are compared."""
    held: Hold | None = None
    """Writes the output as the command does."""

    def spelt(self, i: int, output: Path | None = None) -> list[str]:
        words = [output or self.output if word is OUT else word for word in self.words]
        return [str(word).replace("{}", str(i)) for word in words]

    def content(self, folder: Path, i: int) -> dict[str, Any]:
        name = self.output.format(i)
        files = sorted((folder / name).rglob(self.pattern)) if (folder / name).is_dir() else [folder / name]
        return {
            str(file.relative_to(folder / name)).replace(name, "OUT"): _read(file, name)
            for file in files
            if file.is_file()
        }


def _read(file: Path, name: str) -> Any:
    if file.suffix == ".safetensors":  # the order of a header's entries is left to chance
        return {key: tensor.tobytes() for key, tensor in load_file(file).items()}
    if name.startswith("bench"):  # its times differ
        (measured,) = json.loads(file.read_text(encoding="utf-8"))["strategies"].values()
        return measured["losses"]
    if name.startswith("plans"):
        (measured,) = json.loads(file.read_text(encoding="utf-8")).values()
        return {key: value for key, value in measured.items() if not key.startswith("tick_cpu_us_at_most")}
    return file.read_bytes().replace(name.encode(), b"OUT")


def _dataset(folder: Path) -> DatasetWriter:
    return DatasetWriter(folder, load_contract("jaka_minicobo"))


def _made(folder: Path) -> AbstractContextManager[None]:
    return nullcontext(folder.mkdir())


def _chosen(folder: Path) -> AbstractContextManager[Path]:
    return new_folder(folder / "chosen")


_RECIPES = Path(__file__).parents[2] / "config"
_SHORT = ("--data.validation-fraction", 0, "--steps", 2, "--batch-size", 4)
_ACTION = ("--config", _RECIPES / "latent/action_tabletop.yaml", "--data.datasets", "dataset_{}", *_SHORT)
_POLICY = ("--config", _RECIPES / "training/tabletop_tiny.yaml", "--data.dataset", "dataset_{}", *_SHORT)
_QWEN = ("--policy.backbone.kind", "pretrained", "--policy.backbone.path", "qwen", "policy.backbone.lora:lora-config")
_LAM = ("--model", "latent_{}/model")
CASES = {
    "recover": Case(("cut", "--out", OUT), "whole_{}", "*.mcap", new_folder),
    "convert": Case(("bags_0", "bags_500", "--out", OUT), "dataset_{}", "*.parquet"),
    "import": Case(("bag", "bags_0", "--contract", "jaka_minicobo", "--out", OUT), "import_{}", "*.parquet"),
    "dataset check": Case(("dataset_0",)),
    "dataset repair": Case(("import_{}",), "import_{}", "*.parquet"),
    "latent train action": Case((*_ACTION, "--output", OUT), "latent_{}", "*.safetensors", sole_writer),
    "latent label": Case(("dataset_{}", *_LAM), "dataset_{}/latent/action", "*.parquet", sole_writer),
    "latent encode": Case(("dataset_0", *_LAM, "--out", OUT), "codes_{}.npy", held=new_file),
    "latent decode": Case(
        ("codes_{}.npy", "--states", "dataset_0", *_LAM, "--out", OUT), "actions_{}.npy", held=new_file
    ),
    "latent inspect": Case(("dataset_0", "--model", "latent_0/model", "--out", OUT), "meaning_{}", held=new_folder),
    "train": Case((*_POLICY, "--output", OUT, *_QWEN), "policy_{}", "best/*.safetensors", sole_writer),
    "export": Case(("policy_{}/best", "--out", OUT), "export_{}", "*.safetensors", new_folder),
    "compare": Case(("eval_0", "eval_0", "--out", OUT), "compared_{}.html", held=new_file),
    "paper": Case(("--json",)),
    "study": Case(("bags_0", "--out", OUT, "--live-episodes", 0), "study_{}", "study.*", sole_writer),
    "bags info": Case(("whole_0",)),
    "bags list": Case((".",)),
    "bags show": Case(("whole_0",)),
    "bags relabel": Case(("whole_{}", "--note", "seen"), "whole_{}", "*.mcap"),
    "bags drop": Case(("spare_{}",), ".discarded/spare_{}", "*.mcap"),
    "dataset stats": Case(("dataset_0",)),
    "dataset split": Case(("dataset_0", "--episodes", 0, "--out-folder", OUT), "split_{}", "*.parquet", _chosen),
    "dataset merge": Case(
        ("split_{}/chosen", "split_{}/rest", "--out", OUT), "merged_{}", "data/**/*.parquet", new_folder
    ),
    "dataset drop": Case(("dataset_0", "--episodes", 0, "--out", OUT), "fewer_{}", "data/**/*.parquet", new_folder),
    "dataset relabel": Case(
        ("dataset_0", "--episodes", 0, "--instruction", "go", "--out", OUT),
        "said_{}",
        "data/**/*.parquet",
        new_folder,
    ),
    "view": Case(("dataset_0", "--picture", OUT), "seen_{}.png", held=new_file),
    "contract draft": Case(("dataset_0", "--name", "mine", "--out", OUT), "contract_{}.yaml", held=new_file),
    "scene show": Case(("tabletop", "dataset_0", "--out", OUT), "scene_{}.png", held=new_file),
    "bench scene": Case(("--plans", 1, "--arms", "jaka_minicobo", "--out", OUT), "plans_{}.json", held=new_file),
    "bench train": Case(
        ("--size", "small", "--batch-size", 2, "--strategies", "baseline", "--out", OUT),
        "bench_{}.json",
        held=new_file,
    ),
}
"""In an order in which each finds what it needs."""
LIVE = {
    "eval": "sim/test_twice_at_once.py::test_what_is_evaluated_and_recorded_at_once_is_what_is_made_alone",
    "record": "sim/test_twice_at_once.py::test_what_is_evaluated_and_recorded_at_once_is_what_is_made_alone",
    "emulator": "sim/test_live_twice_at_once.py::test_two_emulators_on_free_ports",
    "console": "ros/test_console.py::test_two_consoles_at_once_but_not_on_the_same_bags",
    "judge": "ros/test_launcher.py::test_a_simulated_stack_is_brought_up_twice_at_once",
    "doctor": "unit/doctor/test_probes.py::test_two_doctors_at_once",
    "up": "ros/test_launcher.py::test_a_simulated_stack_is_brought_up_twice_at_once",
    "view live": "ros/test_viewer_node.py::test_foxglove_sees_what_would_be_recorded",
    "teleop": "ros/test_teleop.py::test_of_two_people_one_commands",
    "demo": "ros/test_stacks_at_once.py::test_two_demos_at_once",
    "bench safety": "sim/test_live_twice_at_once.py::test_two_safety_campaigns",
    "bench servo": "ros/test_stacks_at_once.py::test_two_benchmarks_of_the_live_stack",
    "bench pipeline": "ros/test_stacks_at_once.py::test_two_benchmarks_of_the_live_stack",
    "bench console": "ros/test_console.py::test_two_benchmarks_of_the_console",
    "bench": "sim/test_live_twice_at_once.py::test_two_benchmarks_of_a_suite",
    "demo-bimanual": "ros/test_robotwin_demo.py::test_two_arms_solve_a_task_and_it_is_shown",
}
"""Those that start nodes or simulators, and where they run twice at once."""
_BAG = ("bag", "bags_0", "--contract", "jaka_minicobo")
MORE_WRITERS = {
    "eval": Case(("tabletop", "--policy", "expert", "--episodes", 1, "--out", OUT), held=sole_writer),
    "record": Case(("--out", OUT), held=sole_writer),
    "record --by person": Case(("--out", OUT), held=sole_writer),
    "convert": Case(("bags_0", "--out", OUT), held=_dataset),
    "import": Case(("bag", "bags_0", "--contract", "jaka_minicobo", "--out", OUT), held=_dataset),
    "demo": Case(("--out", OUT), held=_made),
    "demo-bimanual": Case(("--out", OUT), held=_made),
}
"""How the others that write are given their outputs; ``held`` is as above."""


def test_every_command_is_run_twice_at_once() -> None:
    for name in cli.COMMANDS:
        assert name in LIVE or any(f"{case} ".startswith(f"{name} ") for case in CASES), name
    for test in LIVE.values():
        file, name = test.split("::")
        assert f"def {name}(" in (Path(__file__).parents[1] / file).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def ran(made: Path, shells: tuple[Shell, Shell]) -> dict[str, list[tuple[int, str]]]:
    """What each command said, twice at once."""
    said = {}
    for name, case in CASES.items():
        for i, shell in enumerate(shells):
            shell.start([*name.split(), *case.spelt(i)])
        said[name] = [shell.end() for shell in shells]
    return said


@pytest.mark.parametrize("name", CASES)
def test_twice_at_once(name: str, made: Path, ran: dict[str, list[tuple[int, str]]]) -> None:
    assert [status for status, _ in ran[name]] == [0, 0], ran[name]
    case = CASES[name]
    if not case.output:
        assert ran[name][0] == ran[name][1]
    else:
        first, second = (case.content(made, i) for i in (0, 1))
        assert first and first == second


_WRITERS = {name: case for name, case in CASES.items() if case.held} | MORE_WRITERS


@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize("name", _WRITERS)
def test_an_output_has_one_writer(name: str, made: Path, shells: tuple[Shell, Shell]) -> None:
    case = _WRITERS[name]
    held = made / f"held {name}{Path(case.output).suffix}"
    assert case.held is not None
    with pytest.raises(_Interrupted), case.held(held if OUT in case.words else made / case.output.format(0)):
        shells[0].start([*name.split(), *case.spelt(0, held)])
        status, said = shells[0].end()
        raise _Interrupted
    last = said.splitlines()[-1]
    assert status == 1 and re.search(r"^lavla.* (is being written by another process|exists already)", last), said
    assert "Traceback" not in said


class _Interrupted(Exception):
    """The writer that came first makes nothing."""


def test_what_is_evaluated_and_recorded_at_once_is_what_is_made_alone(made: Path) -> None:
    for seed in (0, 1):
        alone = evaluate(
            EvaluationConfig(suite="tabletop", policy="bundled", episodes=1, max_steps=STEPS, seed=seed, videos=0)
        )
        results = json.loads((made / f"eval_{seed}" / "results.json").read_text(encoding="utf-8"))
        assert [e["trajectory"] for e in results["episodes"]] == [e.trajectory for e in alone.episodes]
    for seed in (0, 500):
        (bag,) = find_bags([made / f"bags_{seed}"])
        with BagReader(bag) as reader:
            assert reader.episode().scene["seed"] == seed
