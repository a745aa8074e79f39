"""The comparison of strategies end to end on three demonstrations: every stage real, all of them small."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lavla_ros.policy.checkpoint import load_checkpoint
from lavla_ros.resources import config_path
from sim_bridges.lockstep.record import RecordConfig, record_expert
from sim_bridges.paper.methods import METHODS
from sim_bridges.paper.study import StudyConfig, StudyError, run_study

LAVLA = (sys.executable, "-m", "lavla_ros.cli")
OUTSIDE, OUTSIDE_FOLDER = "outside_strategy:FIRST_TOKEN", str(Path(__file__).parents[2] / "unit")
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
def importable() -> Iterator[None]:
    """The strategy from outside, for the stages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(OUTSIDE_FOLDER)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [OUTSIDE_FOLDER, os.environ.get("PYTHONPATH", "")])))
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    folder = tmp_path_factory.mktemp("study")
    record_expert(RecordConfig(out=folder / "bags", episodes=3, seed=7, workers=2, disturb=False), lambda episode: None)
    image = {"stage_one_steps": 4, "steps": 6, "warmup_steps": 2, "batch_size": 8, "data__validation_fraction": 0.4}
    policy = {"batch_size": 4, "validate_every": 3, "save_every": 3, "data__validation_fraction": 0.4}
    return StudyConfig(
        bags=(folder / "bags",),
        out=folder / "out",
        steps=3,
        strategies=("la_cond", OUTSIDE),
        episodes=2,
        replan_steps=6,
        live_episodes=1,
        action_recipe=recipe(
            "latent/action_tabletop", folder / "action.yaml", steps=6, batch_size=8, data__validation_fraction=0.4
        ),
        image_recipe=recipe("latent/image_tabletop", folder / "image.yaml", **image),
        policy_recipe=recipe("training/tabletop_tiny", folder / "policy.yaml", **policy),
    )


def test_from_bags_to_a_table_and_again_without_work(config: StudyConfig) -> None:
    told: list[str] = []
    table = run_study(config, told.append, lavla=LAVLA).read_text()
    rows = json.loads((config.out / "study.json").read_text())["rows"]
    assert [row["strategy"] for row in rows] == ["la_cond", OUTSIDE]
    assert all((row["episodes"], row["best_step"]) == (2, 3) for row in rows)
    # three steps of training: most likely the arm gets nowhere, or is stopped as it presses on the table
    for live in (row["live"] for row in rows):
        assert live in ("0/1", "1/1") or (config.out / live.removeprefix("stopped: ")).is_file(), live
    assert table.count("/2 (") == 2
    page = (config.out / "compared.html").read_text()
    for strategy in config.strategies:
        folder = config.out / strategy.replace(":", ".")
        policy = load_checkpoint(folder / "best")
        assert policy.config.strategy.name == strategy
        results = json.loads((folder / "evaluation" / "results.json").read_text())
        assert results["settings"]["replan_steps"] == 6
        assert results["method"] == strategy and (METHODS | {OUTSIDE: OUTSIDE})[strategy] in page
    seconds = json.loads((config.out / "study.json").read_text())["seconds"]

    told.clear()
    assert run_study(config, told.append, lavla=LAVLA).read_text() == table
    assert told and all(line.endswith("done before") for line in told)
    assert json.loads((config.out / "study.json").read_text())["seconds"] == seconds


def test_a_stage_that_fails_is_named_with_its_log_and_the_others_are_kept(config: StudyConfig, tmp_path: Path) -> None:
    broken = recipe("latent/action_tabletop", tmp_path / "broken.yaml", learning_rate=-1.0)
    failing = replace(config, out=tmp_path / "out", action_recipe=broken)
    with pytest.raises(
        StudyError, match=r"latent_action ended with status 1; the end of .*latent_action\.log"
    ) as caught:
        run_study(failing, lambda text: None, lavla=LAVLA)
    assert "learning_rate is -1.0" in str(caught.value)
    assert (tmp_path / "out" / "dataset" / "meta").is_dir()


def test_strategies_are_checked_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'la_tik'"):
        StudyConfig(bags=(tmp_path,), out=tmp_path / "out", strategies=("la_tik",))
