"""The comparison of strategies end to end on three demonstrations, in a suite and with a strategy from outside: every
stage is real, all of them are small."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lavla_ros.policy.checkpoint import load_checkpoint
from lavla_ros.resources import config_path
from sim_bridges.lockstep.config import RecordConfig
from sim_bridges.lockstep.record import record_expert
from sim_bridges.paper.config import StudyConfig
from sim_bridges.paper.methods import METHODS
from sim_bridges.paper.study import StudyError, run_study
from sim_bridges.suites import load_suite

LAVLA = (sys.executable, "-m", "lavla_ros.cli")
OUTSIDE, FOLDER = "outside_strategy:FIRST_TOKEN", Path(__file__).parent
pytestmark = [pytest.mark.sim, pytest.mark.ros]


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
def table(config: StudyConfig) -> str:
    """Of the study, which is run here."""
    return run_study(config, lambda text: None, lavla=LAVLA).read_text()


def test_from_bags_to_a_table_and_again_without_work(config: StudyConfig, table: str) -> None:
    rows = json.loads((config.out / "study.json").read_text())["rows"]
    assert [row["strategy"] for row in rows] == ["la_cond", OUTSIDE]
    assert all((row["episodes"], row["best_step"]) == (2, 3) for row in rows)
    assert [row["live"] for row in rows] == ["1/1", "stopped: logs/live_outside_strategy.FIRST_TOKEN.log"]
    assert "the cart is stuck" in (config.out / "logs" / "live_outside_strategy.FIRST_TOKEN.log").read_text()
    assert table.count("/2 (") == 2
    page = (config.out / "compared.html").read_text()
    for strategy in config.strategies:
        folder = config.out / strategy.replace(":", ".")
        policy = load_checkpoint(folder / "best")
        assert policy.config.strategy.name == strategy
        training = yaml.safe_load((folder / "best" / "config.yaml").read_text())["training"]
        assert training["episodes"] == 1  # of two: the third is held out
        assert {made["settings"]["fraction"] for sets in training["labels"].values() for made in sets.values()} == {0.5}
        results = json.loads((folder / "evaluation" / "results.json").read_text())
        assert results["settings"]["replan_steps"] == 4
        assert results["method"] == strategy and (METHODS | {OUTSIDE: OUTSIDE})[strategy] in page
    seconds = json.loads((config.out / "study.json").read_text())["seconds"]

    told: list[str] = []
    assert run_study(config, told.append, lavla=LAVLA).read_text() == table
    assert told and all(line.endswith("done before") for line in told)
    assert json.loads((config.out / "study.json").read_text())["seconds"] == seconds
    with pytest.raises(StudyError, match=r"latent_action was finished with other settings \(data: .*fraction"):
        run_study(replace(config, fraction=1.0, workers=1), told.append, lavla=LAVLA)


@pytest.mark.usefixtures("table")
def test_a_stage_that_fails_is_named_with_its_log_and_the_others_are_kept(config: StudyConfig, tmp_path: Path) -> None:
    """In a study that has made everything but its action model."""
    out = tmp_path / "out"
    for kept in ("dataset", "latent_image", "logs"):
        shutil.copytree(config.out / kept, out / kept)
    (out / "logs" / "latent_action.json").unlink()
    broken = recipe("latent/action_tabletop", tmp_path / "broken.yaml", learning_rate=-1.0)
    told: list[str] = []
    with pytest.raises(
        StudyError, match=r"latent_action ended with status 1; the end of .*latent_action\.log"
    ) as caught:
        run_study(replace(config, out=out, action_recipe=broken), told.append, lavla=LAVLA)
    assert "learning_rate is -1.0" in str(caught.value)
    assert {"convert: done before", "latent_image: done before"} <= set(told)
    assert (out / "dataset" / "meta").is_dir() and (out / "latent_image" / "model").is_dir()
    assert not (out / "logs" / "latent_action.json").exists()


def test_strategies_are_checked_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fraction is 0; expected above 0"):
        StudyConfig(bags=(tmp_path,), out=tmp_path / "out", fraction=0)
    with pytest.raises(ValueError, match="'la_tik'"):
        StudyConfig(bags=(tmp_path,), out=tmp_path / "out", strategies=("la_tik",))
