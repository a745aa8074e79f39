"""A comparison on disk: its order, going on, what is refused, and its results."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from judged import model, protocol

from lavla_ros.config import ConfigError, read_config
from lavla_ros.contract import ContractError
from lavla_ros.outputs import OutputError
from lavla_ros.yaml_text import load_yaml
from sim_bridges.evaluation.compare import compare
from sim_bridges.evaluation.results import Results
from sim_bridges.judging.folder import JudgingError, JudgingFolder
from sim_bridges.judging.live import judge, stack_arguments_of
from sim_bridges.judging.overlay import PictureError, overlay, read_picture, write_picture
from sim_bridges.judging.protocol import Protocol
from sim_bridges.judging.rubrics import rubric
from sim_bridges.judging.tables import rollout_table
from sim_bridges.paper.tables import PAPER


def score(folder: JudgingFolder, *values: float) -> None:
    """The next rollout, as a person would score it."""
    rollout = folder.next()
    assert rollout is not None
    scoring = folder.scoring(rollout)
    scoring.begin(0.0, began="now")
    for part, value in enumerate(values[: len(scoring.rubric.parts)]):
        scoring.give(value, 1.0 + part, part=part)
    scoring.end(10.0, "ended by the judge")
    scoring.confirm()


def test_every_model_has_every_layout_and_the_order_is_drawn_once(tmp_path: Path) -> None:
    task = {"rubric": "place", "instruction": "pick it up", "settings": ["id", "ood"], "rollouts": 10}
    read = read_config(Protocol, protocol(tmp_path, tasks={"place_mango": task}))
    rollouts = read.rollouts()
    assert len(rollouts) == 40 and rollouts == read.rollouts()
    assert Counter(each.layout for each in rollouts) == {each.layout: 2 for each in rollouts}
    firsts = Counter(each.model for each in rollouts[::2])
    assert 3 < firsts["one"] < 17
    assert rollouts[-1].name == "place_mango, OOD, layout 10" and rollouts[-1].judged_task == "place_mango (OOD)"
    written = read_config(Protocol, protocol(tmp_path, order="as_written")).rollouts()
    assert [each.model for each in written] == ["one", "two"] * 3


def test_it_goes_on_after_what_has_a_score_and_an_open_try_is_an_error(tmp_path: Path) -> None:
    file, out = protocol(tmp_path), tmp_path / "out"
    with JudgingFolder.open(file, out) as folder:
        score(folder, 1.0, 0.8)
        second = folder.next()
        assert second is not None and second.index == 1
        folder.scoring(second).begin(0.0, began="now")  # and the power is gone
    with JudgingFolder.open(file, out) as folder:
        assert folder.next() == second
        assert [each.error for each in folder.tries(second)] == ["the session ended within the rollout"]
        folder.fail(second, "the controller is not there")
        score(folder, 0.0, 0.0)
        assert [each.phase for each in folder.tries(second)] == ["error", "error", "scored"]
        assert folder.again(1, "the camera was covered") == second == folder.next()
        with pytest.raises(JudgingError, match=r"rollouts/000005\.json has no score"):
            folder.again(5, "")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"idle_s": 30.0}, r"protocol\.idle_s: 20\.0 → 30\.0"),
        ({"seed": 1}, r"protocol\.seed: 0 → 1"),
        ({"blind": False}, r"protocol\.blind"),
    ],
)
def test_a_protocol_that_was_changed_halfway_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    out = tmp_path / "out"
    with JudgingFolder.open(protocol(tmp_path), out) as folder:
        score(folder, 1.0, 1.0)
    with pytest.raises(JudgingError, match=says):
        JudgingFolder.open(protocol(tmp_path, **changes), out)
    JudgingFolder.open(protocol(tmp_path), out)


def test_a_model_that_was_changed_halfway_is_refused(tmp_path: Path) -> None:
    file, out = protocol(tmp_path), tmp_path / "out"
    with JudgingFolder.open(file, out):
        pass
    (tmp_path / "one" / "config.yaml").write_text("policy: {}\n")
    with pytest.raises(JudgingError, match=r"models\.one: "):
        JudgingFolder.open(file, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(JudgingError, match="holds something else"):
        JudgingFolder.open(file, tmp_path / "full")


def test_a_model_of_another_contract_is_refused_before_anything_moves(tmp_path: Path) -> None:
    model(tmp_path, "other", robot="jaka_zu5")
    file = protocol(tmp_path, models={"other": {"policy": str(tmp_path / "other")}})
    with pytest.raises(ContractError, match=r"does not match that of models\.other"):
        JudgingFolder.open(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"models": {}}, "models is {}; expected one model"),
        ({"models": {"a b": {"policy": "bundled"}}}, "'a b' is no name"),
        ({"tasks": {"t": {"rubric": "stack", "bowls": 1, "instruction": "i"}}}, "bowls is 1"),
        ({"tasks": {"t": {"rubric": "juggle", "instruction": "i"}}}, "rubric is 'juggle'"),
        ({"tasks": {"t": {"rubric": "wipe", "instruction": " "}}}, "instruction is ' '"),
        ({"tasks": {"t": {"rubric": "wipe", "instruction": "i", "settings": ["id", "id"]}}}, "names that differ"),
        ({"idle": 20}, "unknown keys"),
    ],
)
def test_a_wrong_protocol_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        JudgingFolder.open(protocol(tmp_path, **changes), tmp_path / "out")


def test_a_full_disk_takes_nothing_that_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with JudgingFolder.open(protocol(tmp_path), tmp_path / "out") as folder:
        rollout = folder.next()
        assert rollout is not None
        scoring = folder.scoring(rollout)
        scoring.begin(0.0, began="now")
        scoring.press("1", 1.0)

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(JudgingError, match=r"cannot write .*No space left on device; this was not taken"):
            scoring.press("8", 2.0)
        monkeypatch.undo()
        (kept,) = folder.tries(rollout)
        assert kept == scoring.sheet and len(kept.marks) == 1


def test_results_are_the_harness_s_and_are_paired(tmp_path: Path) -> None:
    out = tmp_path / "out"
    better = {"one": (0.5, 0.0), "two": (1.0, 0.8)}
    with JudgingFolder.open(protocol(tmp_path), out) as folder:
        with pytest.raises(JudgingError, match="rollout 1 of 6 has no score"):
            folder.write_results(PAPER)
        while (rollout := folder.next()) is not None:
            score(folder, *better[rollout.model])
        folders = folder.write_results(PAPER)
    one, two = map(Results.read, folders)
    assert (one.suite, one.method, two.method, one.live, two.policy) == (
        "judged", "baseline", "la_tok", True, str(tmp_path / "two"),
    )  # fmt: skip
    assert [(e.task, e.trial, e.success, e.score, e.length_steps) for e in two.episodes] == [
        ("stack_3_bowls", 0, True, 0.9, 100), ("stack_3_bowls", 1, True, 0.9, 100), ("wipe_stain", 0, True, 1.0, 100),
    ]  # fmt: skip
    assert (folders[1] / "rollouts.md").read_text().splitlines() == [
        "| two | rollout | stack_3_bowls: bowl 2 | stack_3_bowls: bowl 3 | stack_3_bowls: score | wipe_stain: score |",
        "| --- | --- | --- | --- | --- | --- |",
        "|  | 1 | 1 | 0.8 | 0.90 | 1.00 |",
        "|  | 2 | 1 | 0.8 | 0.90 |  |",
        "|  | Avg. | 1.00 | 0.80 | 0.90 | 1.00 |",
    ]
    found = compare(one, two)
    assert (found.pairs.count, found.pairs.only_right, found.unpaired) == (3, 3, 0)
    assert found.scores is not None and found.scores.p_value == pytest.approx(2 / 8)
    assert (found.scores.left, found.scores.right) == pytest.approx((1 / 3, 2.8 / 3))
    assert "mean scores 33.3 and 93.3: +60.0 points, exact randomisation test p = 0.25" in str(found)
    page = PAPER.section([one, two])
    assert "90.0 <small>(2 rollouts ± 0)" in page and "arithmetic" in page and "Table 1:" not in page


def test_a_blind_folder_names_no_model_but_in_its_protocol_and_results(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with JudgingFolder.open(protocol(tmp_path), out) as folder:
        score(folder, 1.0, 1.0)
        rollout = folder.rollouts[0]
        assert not {"one", "two"} & {*rollout.name.split(), *rollout.layout.split("_")}
        assert "one" not in (out / "rollouts" / "000000.json").read_text().replace("none", "")
        assert not any(name in str(folder.picture(rollout, "initial").name) for name in ("one", "two"))


def test_only_a_simulator_knows_the_instruction_before_the_person_begins(tmp_path: Path) -> None:
    real = {"simulate": False, "robot_ip": "10.0.0.2"}
    mango = {"rubric": "place", "instruction": "pick the mango", "settings": ["ood"]}
    mango["arguments"] = {"task": "place_mango"}
    for arguments, given in ((real, ""), ({}, "pick the mango")):
        read = read_config(Protocol, protocol(tmp_path, tasks={"place_mango": mango}, arguments=arguments))
        found = stack_arguments_of(read, read.rollouts()[2], bags=tmp_path)
        assert found.get("instruction", "") == given and found["task"] == "place_mango"
        if given:
            assert (found["layout"], found["seed"], found["wait_for_reset"]) == ("ood", "1000001", "true")
        else:
            assert (found["simulate"], found["robot_ip"]) == ("false", "10.0.0.2") and "seed" not in found


def test_the_person_may_leave_before_the_arm_is_started(tmp_path: Path) -> None:
    said: list[str] = []
    with JudgingFolder.open(protocol(tmp_path), tmp_path / "out") as folder:
        assert judge(folder, said.append, wait=lambda _: False) is False
        assert "0 of 6 rollouts have a score; next: stack_3_bowls, layout 1" in said[0]
        assert folder.tries(folder.rollouts[0]) == []


def test_an_overlay_shows_what_is_not_where_it_was(tmp_path: Path) -> None:
    table = np.full((40, 60, 3), 100, np.uint8)
    before, now = table.copy(), table.copy()
    before[10:20, 10:20], now[10:20, 30:40] = 200, 200
    same, apart = overlay(before, before)
    assert np.array_equal(same, before) and apart == 0.0
    shown, apart = overlay(before, now)
    assert 0 < apart < 0.1
    assert shown[15, 15].tolist() == [150, 250, 150]  # darker now
    assert shown[15, 35].tolist() == [250, 150, 150]  # brighter now
    assert shown[30, 50].tolist() == [100, 100, 100]
    assert overlay(np.repeat(before, 2, axis=0), now)[0].shape == now.shape
    write_picture(tmp_path / "new" / "p.png", shown)
    assert np.array_equal(read_picture(tmp_path / "new" / "p.png"), shown)
    (tmp_path / "text.png").write_text("no picture")
    for file, says in (("text.png", "is no picture"), ("missing.png", "cannot read the picture")):
        with pytest.raises(PictureError, match=says):
            read_picture(tmp_path / file)


def test_a_scene_is_laid_out_by_the_given_picture_or_by_the_first_rollout_of_its_layout(tmp_path: Path) -> None:
    tasks = load_yaml(protocol(tmp_path).read_text())["tasks"]
    tasks["stack_3_bowls"]["reset"] = "reset"
    write_picture(tmp_path / "reset" / "2.png", np.zeros((4, 4, 3), np.uint8))
    with JudgingFolder.open(protocol(tmp_path, tasks=tasks), tmp_path / "out") as folder:
        first, second, third = folder.rollouts[:3]
        assert folder.reset_picture(first) is None and folder.reset_picture(second) is None
        assert folder.reset_picture(third) == tmp_path / "reset" / "2.png"
        score(folder, 1.0, 1.0)
        assert folder.reset_picture(second) == folder.picture(first, "initial")
    write_picture(tmp_path / "reset" / "2.png", np.ones((4, 4, 3), np.uint8))
    with pytest.raises(JudgingError, match=r"pictures\.stack_3_bowls_002\.hash"):
        JudgingFolder.open(protocol(tmp_path, tasks=tasks), tmp_path / "out")


def test_a_folder_has_one_judge(tmp_path: Path) -> None:
    file, out = protocol(tmp_path), tmp_path / "out"
    with JudgingFolder.open(file, out), pytest.raises(OutputError, match="being written by another process"):
        JudgingFolder.open(file, out).__enter__()
    assert JudgingFolder.read(out).rollouts == read_config(Protocol, file).rollouts()


def test_the_paper_s_tables_have_settings_and_a_total() -> None:
    scores = {("place_mango", setting, n): [1.0, float(n == 1)] for setting in ("id", "ood") for n in (1, 2)}
    rows = rollout_table("la_tok", {"place_mango": rubric("place")}, scores).splitlines()
    assert rows[2:5] == ["| ID | 1 | 1 | 1 | 1.00 |", "| ID | 2 | 1 | 0 | 0.50 |", "| ID | Avg. | 1.00 | 0.50 | 0.75 |"]
    assert rows[-1] == "|  | Avg. (total) | 1.00 | 0.50 | 0.75 |"
