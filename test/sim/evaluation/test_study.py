"""The comparison of strategies end to end on three demonstrations, in a suite and with a strategy from outside: every
stage is real, all of them are small."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from forked_lavla import forked_lavla

from lavla_ros.policy.checkpoint import load_checkpoint
from lavla_ros.resources import config_path
from sim_bridges.evaluation.results import Results
from sim_bridges.lockstep.config import RecordConfig
from sim_bridges.lockstep.record import record_expert
from sim_bridges.paper.config import StudyConfig
from sim_bridges.paper.plan import StudyError
from sim_bridges.paper.study import run_study
from sim_bridges.suites import load_suite

OUTSIDE, FOLDER = "outside_strategy:FIRST_TOKEN", Path(__file__).parent
pytestmark = [pytest.mark.sim, pytest.mark.ros, pytest.mark.long]
Run = Callable[[StudyConfig, list[str]], Path]


def recipe(shipped: str, out: Path, **changes: object) -> Path:
    """A shipped recipe, made short."""
    content = yaml.safe_load(config_path(f"{shipped}.yaml").read_text())
    for path, value in changes.items():
        *parents, key = path.split("__")
        section = content
        for parent in parents:
            section = section.setdefault(parent, {})
        section[key] = value
    out.write_text(yaml.safe_dump(content))
    return out


@pytest.fixture(scope="module", autouse=True)
def importable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The strategy and the suite from outside, for the stages; the folder of all of it."""
    folder, outside = tmp_path_factory.mktemp("study"), [str(FOLDER.parents[1] / "unit"), str(FOLDER)]
    with pytest.MonkeyPatch.context() as patch:
        for path in outside:
            patch.syspath_prepend(path)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [*outside, os.environ.get("PYTHONPATH", "")])))
        patch.setenv("SLIDER_BAGS", str(folder / "bags"))
        yield folder


@pytest.fixture(scope="module")
def config(importable: Path) -> StudyConfig:
    """Of a suite from outside the package."""
    folder, suite, options = importable, "slider_suite:LiveSuite", {"mass_kg": "2.0"}
    recorded = RecordConfig(
        out=folder / "bags", suite=suite, options=options, task="far", episodes=3, disturb=False, max_steps=40
    )
    record_expert(recorded, lambda episode: None)
    contract = folder / "slider.yaml"
    contract.write_text(yaml.safe_dump(load_suite(suite).contract.to_dict()), encoding="utf-8")
    data = {"data__contract": str(contract), "data__validation_fraction": 0.4}
    return StudyConfig(
        bags=(folder / "bags",),
        out=folder / "out",
        suite=suite,
        options=options,
        tasks=("far",),
        steps=3,
        fraction=0.5,
        strategies=("la_cond", OUTSIDE),
        episodes=2,
        replan_steps=4,
        live_episodes=1,
        action_recipe=recipe("latent/action_tabletop", folder / "action.yaml", steps=6, batch_size=8, **data),
        image_recipe=recipe(
            "latent/image_tabletop",
            folder / "image.yaml",
            stage_one_steps=4,
            steps=6,
            warmup_steps=2,
            batch_size=8,
            model__delta=4,
            **data,
        ),
        policy_recipe=recipe(
            "training/tabletop_tiny",
            folder / "policy.yaml",
            batch_size=4,
            validate_every=3,
            save_every=3,
            policy__backbone={"kind": "tiny", "tiny": {"depth": 2, "image_size": 32}},
            **data,
        ),
    )


@pytest.fixture(scope="module")
def run(importable: Path) -> Iterator[Run]:
    with forked_lavla(importable) as lavla:
        yield lambda config, told: run_study(
            config.study(), config.out, told.append, workers=config.workers, lavla=lavla
        )


@pytest.fixture(scope="module")
def table(config: StudyConfig, run: Run) -> str:
    """Of the study, which is run here."""
    return run(config, []).read_text()


def test_from_bags_to_a_table_and_again_without_work(config: StudyConfig, run: Run, table: str) -> None:
    study = json.loads((config.out / "study.json").read_text())
    assert [(cell["method"], cell["state"], cell["best_step"]) for cell in study["cells"]] == [
        ("la_cond", "finished", 3),
        (OUTSIDE, "finished", 3),
    ]
    live = [cell["live"]["task"] for cell in study["cells"]]
    assert live[0] == "1/1" and live[1].startswith("stopped: logs/live.")
    assert "the cart is stuck" in (config.out / live[1].removeprefix("stopped: ")).read_text()
    assert "| LA-Cond, 50% of the episodes | task | 1 |" in table and "one seed" not in table, "there is no baseline"
    for cell in study["cells"]:
        assert cell["evaluations"]["task"]["episodes"] == 2
        policy = load_checkpoint(config.out / cell["policy"])
        assert policy.config.strategy.name == cell["method"]
        training = yaml.safe_load((config.out / cell["policy"] / "config.yaml").read_text())["training"]
        assert training["episodes"] == 1  # of two: the third is held out
        assert {made["settings"]["fraction"] for sets in training["labels"].values() for made in sets.values()} == {0.5}
    results = [Results.read(file) for file in sorted((config.out / "evaluations").iterdir())]
    assert {each.settings["replan_steps"] for each in results} == {4}
    assert {each.method for each in results} == {"la_cond", OUTSIDE}

    told: list[str] = []
    assert run(config, told).read_text() == table
    assert told[1:] and all(line.endswith("done before") for line in told[1:])
    assert json.loads((config.out / "study.json").read_text())["seconds"] == study["seconds"]


@pytest.mark.usefixtures("table")
def test_a_stage_that_fails_is_named_with_its_log_and_the_others_are_kept(config: StudyConfig, run: Run) -> None:
    """A latent action model that cannot be trained, beside a policy that needs none."""
    broken = recipe("latent/image_tabletop", config.out.parent / "broken.yaml", initial="nowhere")
    other = replace(config, image_recipe=broken, strategies=("la_cond", "baseline"), live_episodes=0)
    told: list[str] = []
    with pytest.raises(StudyError, match=r"image\.task.* ended with status 1; the end of .*\.log") as caught:
        run(other, told)
    assert "nowhere" in str(caught.value)
    states = {c["method"]: c["state"] for c in json.loads((config.out / "study.json").read_text())["cells"]}
    assert states == {"la_cond": "not finished", "baseline": "finished"}


def test_what_cannot_be_is_refused_before_anything_runs(config: StudyConfig, run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fractions is \(0,\); expected above 0"):
        StudyConfig(bags=(tmp_path,), out=tmp_path / "out", fraction=0).study()
    wrong = replace(config, out=tmp_path / "out", strategies=("la_tik",))
    with pytest.raises(ValueError, match="'la_tik'"):
        run(wrong, [])
    assert not (tmp_path / "out" / "datasets").exists()
