"""The harness on a small real simulator: equal results however they come about, and nothing lost by any accident."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import slider_suite

from lavla_ros import cli
from lavla_ros.outputs import OutputError
from sim_bridges import files
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.evaluation import evaluate
from sim_bridges.evaluation.results import Results, same_episodes
from sim_bridges.evaluation.store import EvaluationFolder, StoreError
from sim_bridges.evaluation.workers import MOST_ERRORS_IN_A_ROW, EvaluationError
from sim_bridges.paper.tables import PAPER
from sim_bridges.world import SuiteError

pytestmark = pytest.mark.sim

CONFIG = EvaluationConfig(suite=slider_suite.NAME, policy="expert", videos=0)
FAILS = {3, 7}
"""Trial 3 of both tasks, as episodes."""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite, for worker processes and for commands."""
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


def outcomes(results: Results) -> dict[int, str]:
    return {e.index: "error" if e.error else "success" if e.success else "failure" for e in results.episodes}


EXPECTED = {i: "failure" if i in FAILS else "success" for i in range(8)}


def test_one_worker_or_two_or_a_process_for_every_task_give_the_same_file(tmp_path: Path) -> None:
    once = evaluate(CONFIG, out=tmp_path / "one")
    assert outcomes(once) == EXPECTED
    assert len({e.trajectory for e in once.episodes}) == 8 and len({e.initial_state for e in once.episodes}) == 4
    twice = evaluate(CONFIG, out=tmp_path / "two", workers=2)
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    for data in (one, two):
        for key in ("wall_s", "real_time_factor"):
            del data[key]
        for episode in data["episodes"]:
            del episode["wall_s"], episode["latency_ms"]
    assert one == two
    assert once.fingerprint == twice.fingerprint == one["fingerprint"]
    single = evaluate(replace(CONFIG, suite="slider_suite:OneTaskSuite"), workers=2)
    assert same_episodes(once, single)


def test_a_subset_of_tasks_and_another_seed() -> None:
    far = evaluate(replace(CONFIG, tasks=("1",), episodes=2))
    assert [(e.task, e.trial, e.state_index) for e in far.episodes] == [("far", 0, 0), ("far", 1, 1)]
    other = evaluate(replace(CONFIG, tasks=("far",), episodes=2, seed=4))
    assert not same_episodes(far, other)


def test_a_killed_evaluation_goes_on_without_redoing_or_losing_an_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, journal = tmp_path / "out", tmp_path / "journal"
    monkeypatch.setenv("SLIDER_JOURNAL", str(journal))
    command = [sys.executable, "-m", "lavla_ros.cli", "eval", slider_suite.NAME, "--policy", "expert", "--videos", "0"]
    process = subprocess.Popen(
        [*command, "--out", str(out)], env=os.environ | {"SLIDER_SLOW": "0.1"}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list((out / "episodes").glob("0*.json"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {int(file.stem) for file in (out / "episodes").glob("0*.json")}
    assert 3 <= len(kept) < 8 and not (out / "results.json").exists()
    resumed = evaluate(CONFIG, out=out)
    assert outcomes(resumed) == EXPECTED
    assert resumed.fingerprint == evaluate(CONFIG).fingerprint  # journals these 8 too
    begun = Counter(journal.read_text().splitlines())
    tasks = [f"{task} {trial}" for task in ("near", "far") for trial in range(4)]
    for index, name in enumerate(tasks):
        most = 2 if index in kept else 3  # a kept one: before the kill, and in the uninterrupted run
        assert 2 <= begun[name] <= most, (name, begun)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("die:1", ("killed by signal 9", "at step 2")),
        ("hang:1", ("no answer of the policy within 2 s", "at step 2")),
        ("raise:1", ("ValueError: the driver fell asleep",)),
        ("nan:1", ("PolicyError", "x = nan", "finite")),
        ("wide:1", ("PolicyError", "(1, 2)", "(H, 1)")),
    ],
)
def test_an_accident_is_an_error_and_no_failure_and_is_mended_by_the_same_command(
    fault: str, says: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, timeout_s=2.0)
    monkeypatch.setenv("SLIDER_FAULT", fault)
    results = evaluate(config, out=tmp_path, workers=2)
    assert outcomes(results) == EXPECTED | {1: "error"}
    assert all(words in str(results.episodes[1].error) for words in says), results.episodes[1].error
    assert len(results.scored) == 7 and results.tally.successes == 5
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["errors"] == 1 and data["tasks"]["near"]["scored"] == 3
    monkeypatch.delenv("SLIDER_FAULT")
    assert outcomes(evaluate(config, out=tmp_path)) == EXPECTED
    assert Results.read(tmp_path).errors == []


def test_errors_in_a_row_stop_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIDER_FAULT", "raise:-1")
    config = replace(CONFIG, tasks=("near",), episodes=8)
    with pytest.raises(EvaluationError, match=f"{MOST_ERRORS_IN_A_ROW} episodes in a row .* fell asleep"):
        evaluate(config, out=tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_two_evaluations_into_one_folder_are_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {}
    with EvaluationFolder(tmp_path, settings), pytest.raises(OutputError, match=rf"another process \({os.getpid()}\)"):
        EvaluationFolder(tmp_path, settings).__enter__()
    evaluate(replace(CONFIG, episodes=1), out=tmp_path / "out")
    with pytest.raises(StoreError, match=r"(?s)another evaluation.*episodes: 1 → 2"):
        evaluate(replace(CONFIG, episodes=2), out=tmp_path / "out")
    with pytest.raises(StoreError, match=r"is finished; give another --out"):
        evaluate(replace(CONFIG, episodes=1), out=tmp_path / "out")


def test_a_full_disk_is_said_and_finished_episodes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(handle)
        if len(synced) > 4:  # the settings and three episodes
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(StoreError, match="No space left on device; the 3 episodes that were finished are kept"):
        evaluate(CONFIG, out=tmp_path)
    monkeypatch.undo()
    assert len(list((tmp_path / "episodes").iterdir())) == 3
    assert outcomes(evaluate(CONFIG, out=tmp_path)) == EXPECTED


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"suite": "liberty"}, "no suite 'liberty'; there are .*libero_10.*tabletop"),
        ({"suite": "no_such_module:Suite"}, "no module 'no_such_module'"),
        ({"suite": "slider_suite:Nothing"}, "has no 'Nothing'"),
        ({"tasks": ("sideways",)}, r"(?s)no task 'sideways'; it has\s+0: near\s+1: far"),
        ({"tasks": ("2",)}, "no task '2'"),
        ({"episodes": 9}, "initial state 8 is out of range"),
        ({"options": {"layout": "ood"}}, r"unknown keys \['layout'\].*known: \['broken', 'mass_kg'\]"),
        ({"options": {"mass_kg": "heavy"}}, "mass_kg is 'heavy'"),
        ({"replan_steps": 0}, "replan_steps is 0"),
        ({"method": "la_magic"}, "la_magic.*la_direct"),
        ({"through": "nodes"}, "only a checkpoint"),
    ],
)
def test_what_there_is_not(change: dict[str, Any], says: str) -> None:
    with pytest.raises((SuiteError, ValueError), match=says):
        evaluate(replace(CONFIG, **change), published=PAPER)


def test_a_simulator_that_cannot_be_made_ends_the_evaluation(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="the slider is broken: a wheel"):
        evaluate(replace(CONFIG, options={"broken": "a wheel"}), out=tmp_path, workers=2)


def test_compare_over_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, steps in (("a", "20"), ("b", "8")):
        arguments = ["--policy", "expert", "--videos", "0", "--max-steps", steps, "--out", str(tmp_path / name)]
        cli.main(["eval", slider_suite.NAME, *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert "max_steps 20 in one, 8 in the other" in capsys.readouterr().err
    evaluate(replace(CONFIG, max_steps=20), out=tmp_path / "c", workers=2)
    cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "c"), "--json", "--out", str(tmp_path / "page.html")])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["pairs"], row["both"], row["neither"], row["p_value"]) == (8, 6, 2, 1.0)
    assert "No difference" in (tmp_path / "page.html").read_text()
