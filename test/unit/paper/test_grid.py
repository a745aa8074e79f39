"""What a study runs, in which order and how often: with commands that stand in for the real ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lavla_ros.config import ConfigError, from_plain, read_config
from sim_bridges.paper.grid import Study, cells_of
from sim_bridges.paper.plan import StudyError, plan_study
from sim_bridges.paper.study import run_study
from training.system_resources import RoomError

QUICK = (sys.executable, str(Path(__file__).with_name("quick_lavla.py")))
ROOT = Path(__file__).parents[3]


def study(dataset: Path, **changes: object) -> Study:
    tasks = {"pick": {"dataset": str(dataset), "tasks": ["pick_place"]}}
    tasks["stack"] = {"dataset": str(dataset.with_name("more")), "tasks": ["stack_bowls"], "kind": "long"}
    plain = {
        "tasks": tasks,
        "grids": [{"methods": ["baseline", "la_tok"], "seeds": [0, 1], "tasks": ["pick"]}],
        "episodes": 10,
    }
    return from_plain(Study, plain | changes, source="the test")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """As much of one as a study itself reads; another is ``more`` beside it."""
    for folder in ("data", "more"):
        for name, text in (("meta/info.json", '{"total_frames": 1000}'), ("data/file.parquet", f"numbers of {folder}")):
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True)
            file.write_text(text)
    return tmp_path / "data"


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICK_JOURNAL", str(tmp_path / "journal"))
    return tmp_path / "journal"


def ran(journal: Path) -> list[str]:
    """The commands since the last time."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    journal.unlink(missing_ok=True)
    return sorted(" ".join(line.split()[: 1 + line.startswith("latent")]) for line in lines)


def run(config: Study, out: Path, *, workers: int = 2) -> dict[str, Any]:
    run_study(config, out, lambda text: None, workers=workers, lavla=QUICK)
    found: dict[str, Any] = json.loads((out / "study.json").read_text())
    return found


EVERYTHING = ["eval"] * 4 + ["latent label"] * 2 + ["latent train"] * 2 + ["train"] * 4
"""Of the study below: for each of two seeds a latent model with its labels, and two policies."""


def test_what_cells_have_in_common_is_made_once_and_nothing_twice(dataset: Path, tmp_path: Path, journal: Path) -> None:
    out = tmp_path / "out"
    found = run(study(dataset), out)
    assert ran(journal) == EVERYTHING
    assert {cell["state"] for cell in found["cells"]} == {"finished"}
    difference = next(row for row in found["rows"] if row["arm"]["method"] == "la_tok")["against"]
    assert difference["mean"] == pytest.approx(0.5, abs=0.2) and difference["seeds"] == 2
    assert run(study(dataset), out) == found and ran(journal) == []

    more = {"methods": ["la_tok"], "seeds": [0], "tasks": ["pick"], "weights": [0.1, 0.5]}
    grids = [{"methods": ["baseline", "la_tok"], "seeds": [0, 1], "tasks": ["pick"]}, more]
    run(study(dataset, grids=grids), out)
    assert ran(journal) == ["eval", "train"], "0.1 is the usual weight; another is another policy from the same labels"
    run(study(dataset, steps=2001), out)
    assert ran(journal) == ["eval"] * 4 + ["train"] * 4
    run(study(dataset, episodes=8), out)
    assert ran(journal) == ["eval"] * 4


def test_a_joint_policy_learns_from_labels_of_one_model_and_is_evaluated_on_every_task(
    dataset: Path, tmp_path: Path, journal: Path
) -> None:
    grid = {"methods": ["la_cond"], "seeds": [0, 1], "training": ["joint"]}
    found = run(study(dataset, grids=[grid]), tmp_path / "out")
    assert ran(journal) == ["eval"] * 4 + ["latent label"] * 4 + ["latent train"] * 2 + ["train"] * 2
    assert [set(cell["evaluations"]) for cell in found["cells"]] == [{"pick", "stack"}] * 2
    (recipe, _) = sorted((tmp_path / "out" / "configs").glob("policy.*.yaml"))
    written = yaml.safe_load(recipe.read_text())
    assert len(written["data"]["mixture"]) == 2 and written["steps"] == 4000


@pytest.mark.parametrize("fault", ["kill", "interrupt"])
def test_a_study_that_is_stopped_goes_on(dataset: Path, tmp_path: Path, journal: Path, fault: str) -> None:
    number = 6
    if (study_process := os.fork()) == 0:
        os.environ["QUICK_FAULT"] = f"{fault}:{number}"
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            run(study(dataset), tmp_path / "out", workers=1)
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)
    status = os.waitpid(study_process, 0)[1]
    if fault == "kill":
        assert os.WTERMSIG(status) == signal.SIGKILL
    else:
        assert os.waitstatus_to_exitcode(status) == 130
        shown = json.loads((tmp_path / "out" / "study.json").read_text())
        assert {cell["state"] for cell in shown["cells"]} == {"not finished"}, "what there is is shown"
    assert len(ran(journal)) == number
    done = {file.stem for file in (tmp_path / "out" / "logs").glob("*.json")}
    found = run(study(dataset), tmp_path / "out")
    assert len(done) == number - 1
    assert len(ran(journal)) == len(EVERYTHING) - len(done)
    assert {cell["state"] for cell in found["cells"]} == {"finished"}


def test_what_was_deleted_is_made_again_if_it_is_needed_and_holds_what_it_held(
    tmp_path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that records and evaluations alone are enough to go on from, on another machine."""
    monkeypatch.setenv("QUICK_DATA", "demonstrations")
    out, tasks = tmp_path / "out", {"pick": {"record": 5, "tasks": ["pick_place"]}}
    grid = {"methods": ["baseline", "la_tok"], "seeds": [0, 1]}

    def this(*grids: dict[str, Any]) -> Study:
        return from_plain(Study, {"tasks": tasks, "grids": [grid, *grids], "episodes": 10}, source="the test")

    before = run(this(), out)
    assert ran(journal) == sorted([*EVERYTHING, "record", "convert"])
    for folder in ("bags", "datasets", "latent_models", "labelled", "policies", "configs"):
        shutil.rmtree(out / folder)
    assert run(this(), out) == before and ran(journal) == [], "nothing is left to do that needs them"

    more = this({"methods": ["la_tok"], "weights": [0.5], "seeds": [0]})
    monkeypatch.setenv("QUICK_DATA", "other demonstrations")
    for _ in range(2):
        with pytest.raises(StudyError, match=r"dataset\.pick-\w+ was made again, and .* is not what it was.* --out"):
            run(more, out)
        shutil.rmtree(out / "datasets")
    assert "train" not in ran(journal)
    monkeypatch.setenv("QUICK_DATA", "demonstrations")
    found = run(more, out)
    assert ran(journal) == ["convert", "eval", "latent label", "latent train", "train"], "of seed 0 alone"
    assert [cell for cell in found["cells"] if cell["weight"] is None] == before["cells"]
    assert not list(out.glob("logs/*.before"))


def test_a_recording_that_was_stopped_begins_again(
    tmp_path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = {"pick": {"record": 5, "tasks": ["pick_place"]}}
    grids = [{"methods": ["baseline"], "seeds": [0]}]
    config = from_plain(Study, {"tasks": tasks, "grids": grids, "episodes": 10}, source="the test")
    monkeypatch.setenv("QUICK_DATA", "demonstrations")
    if (study_process := os.fork()) == 0:
        os.environ["QUICK_FAULT"] = "kill:1"
        run(config, tmp_path / "out")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(study_process, 0)[1]) == signal.SIGKILL
    (bags,) = (tmp_path / "out" / "bags").iterdir()
    (bags / "half an episode").touch()
    found = run(config, tmp_path / "out")
    assert {cell["state"] for cell in found["cells"]} == {"finished"} and not list(bags.iterdir())


def test_data_that_have_changed_are_refused_and_what_is_finished_stays(
    dataset: Path, tmp_path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    before = run(study(dataset), out)
    ran(journal)
    (dataset / "data" / "file.parquet").write_text("other numbers")
    with pytest.raises(StudyError, match=r"data of task pick .* have changed since .*they were .* give another --out"):
        run(study(dataset), out)
    assert json.loads((out / "study.json").read_text()) == before and ran(journal) == []
    (dataset / "data" / "file.parquet").write_text("numbers of data")
    run(study(dataset), out)
    assert ran(journal) == []

    def half_way(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
        (dataset / "data" / "file.parquet").write_text("other numbers")
        return popen(words, **options)

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", half_way)
    with pytest.raises(StudyError, match=r"the dataset .*data has changed since this study began: it was .* and is"):
        run(study(dataset), tmp_path / "another", workers=1)
    assert len(ran(journal)) == 1


def test_a_training_that_diverges_is_reported_and_counts_as_no_success(
    dataset: Path, tmp_path: Path, journal: Path
) -> None:
    grid = {"methods": ["baseline", "la_tok"], "seeds": [0, 7], "tasks": ["pick"]}
    found = run(study(dataset, grids=[grid]), tmp_path / "out")
    states = {(cell["method"], cell["seed"]): cell["state"] for cell in found["cells"]}
    assert states == {
        ("baseline", 0): "finished", ("baseline", 7): "diverged", ("la_tok", 0): "finished", ("la_tok", 7): "diverged",
    }  # fmt: skip
    (row,) = (row for row in found["rows"] if row["arm"]["method"] == "la_tok")
    assert row["diverged"] == [7] and row["of_seeds"][1] == 0
    assert "step 3: the loss is nan" in (tmp_path / "out" / "study.md").read_text()
    ran(journal)
    run(study(dataset, grids=[grid]), tmp_path / "out")
    assert ran(journal) == [], "it would diverge again"


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (
            {"methods": ["la_align"], "align_layers": [3]},
            r"la_align\.pick\.seed0\.layer_3 .*align_layer is 3; .*1 to 2",
        ),
        ({"methods": ["la_align_early"]}, r"la_align_early\.pick\.seed0 is impossible: .*both are layer 1"),
        (
            {"methods": ["ph_direct"], "weights": [0.1]},
            r"ph_direct learns from no latent action model; it has no weight",
        ),
        (
            {"methods": ["la_tok"], "options": {"placeholders": "PH-Direct"}},
            r"cell la_tok.* unknown keys \['placeholders'\]",
        ),
        ({"methods": ["la_tok"], "tasks": ["pick"], "training": ["joint"]}, "joint training needs two tasks"),
        ({"methods": ["la_tik"]}, "no method 'la_tik'"),
        ({"methods": ["la_tok"], "tasks": ["pour"]}, r"tasks \['pour'\] are not in the study"),
        ({"methods": ["la_tok"], "fractions": [0.0]}, r"fractions is \(0.0,\); expected above 0"),
        ({"methods": ["la_tok"], "seeds": []}, "seeds is .*at least one"),
    ],
)
def test_impossible_cells_are_named_before_anything_runs(
    grid: dict[str, Any], expected: str, dataset: Path, tmp_path: Path, journal: Path
) -> None:
    with pytest.raises(ConfigError, match=expected):
        run(study(dataset, grids=[{"tasks": ["pick"], **grid}]), tmp_path / "out")
    assert ran(journal) == []


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"tasks": ["pour"]}, "task pick: suite tabletop has no task 'pour'"),
        ({"dataset": "nowhere"}, "task pick: dataset nowhere is no dataset"),
        ({"record": 5}, "one of the three"),
        ({"options": {"layout": "sideways"}}, "task pick: .*sideways"),
        ({"also": {"ood": {"layout": "sideways"}}}, "task pick: .*sideways"),
    ],
)
def test_tasks_that_cannot_be(task: dict[str, Any], expected: str, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        run(
            study(dataset, tasks={"pick": {"dataset": str(dataset), "tasks": ["pick_place"], **task}}), tmp_path / "out"
        )


def test_the_plan_says_what_it_costs_and_measures_as_it_goes(
    dataset: Path, tmp_path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, told = tmp_path / "out", []
    run_study(study(dataset), out, told.append, workers=2, lavla=QUICK, plan_only=True)
    (shown,) = told
    assert "4 cells, 12 stages, 0 of them finished" in shown and "policy" in shown and "estimated" in shown
    assert ran(journal) == [] and not (out / "inputs.json").exists()
    plan = plan_study(study(dataset, cost={"policy": 1.0, "evaluation": 2.0}), out, {}, {})
    seconds = {key: plan.seconds[key] for key in plan.stages}
    assert sum(s for key, s in seconds.items() if key.startswith("policy.")) == 4 * 2000 * 32
    assert sum(s for key, s in seconds.items() if key.startswith("evaluation.")) == 4 * 10 * 2
    record = {"kind": "policy", "identity": "before", "units": 100, "began": 10.0, "ended": 60.0, "status": 0}
    plan = plan_study(study(dataset), out, {"policy.before": record}, {})
    assert sum(s for key, s in plan.seconds.items() if key.startswith("policy.")) == 4 * 2000 * 32 / 2
    assert "measured" in plan.table([], 2)
    assert plan.wall_s([], 1) == pytest.approx(sum(plan.seconds.values()))
    assert plan.wall_s([], 100) < plan.wall_s([], 2) < plan.wall_s([], 1)

    monkeypatch.setattr("training.system_resources.free_disk", lambda folder: 1_000_000)
    with pytest.raises(RoomError, match=r"the rest of this study needs .* GiB .*leave cells out"):
        run(study(dataset), out)
    assert ran(journal) == []


def test_the_studies_that_come_with_the_package_can_be_planned(dataset: Path, tmp_path: Path) -> None:
    for file in sorted((ROOT / "config" / "studies").glob("*.yaml")):
        config = read_config(Study, file)
        plan = plan_study(config, tmp_path, {}, {})
        assert len(plan.cells) == len(cells_of(config)) >= 42
        assert "hour" not in plan.table([], 2) and " h with 2 workers" in plan.table([], 2)
