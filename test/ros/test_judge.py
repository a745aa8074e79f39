"""A comparison of two models at the keyboard: `lavla judge` on the simulated stack, as a person would use it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.recording import BagReader
from lavla_ros.yaml_text import dump_yaml
from sim_bridges.evaluation.results import Results
from sim_bridges.judging.folder import JudgingFolder
from sim_bridges.judging.overlay import read_picture

pytestmark = pytest.mark.alone
PROTOCOL = {
    "models": {"bundled": {"policy": "bundled"}},
    "tasks": {"pick_place": {"rubric": "place", "instruction": "Put the mango into the bowl.", "rollouts": 1}},
    "idle_s": 2.0,
    "blind": True,
}


def judge(folder: Path) -> tuple[subprocess.Popen[str], Callable[[str], str], Callable[[str], None]]:
    """The command, and how to wait for what it says and to press keys."""
    (folder / "protocol.yaml").write_text(dump_yaml(PROTOCOL))
    process = subprocess.Popen(
        [sys.executable, "-m", "lavla_ros.cli", "judge", "protocol.yaml", "--out", "out"],
        cwd=folder,
        env=ros_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said: list[str] = []

    def until(text: str) -> str:
        for line in process.stdout or ():
            said.append(line)
            if text in line:
                return line
            if "will be repeated" in line:
                break
        logs = [file.read_text() for file in folder.glob("out/logs/*.log")]
        raise AssertionError(f"{text!r} was not said:\n{''.join([*said, *logs])}")

    def press(key: str) -> None:
        assert process.stdin is not None
        process.stdin.write(key + "\n")
        process.stdin.flush()

    return process, until, press


def test_a_rollout_is_laid_out_run_scored_and_paired(tmp_path: Path) -> None:
    process, until, press = judge(tmp_path)
    try:
        until("0 of 1 rollouts have a score; next: pick_place, layout 1")
        until("Enter: start the arm")
        press("")
        until("Enter: begin")
        press("7")
        until("'7' means nothing here")
        press("")
        until("RUNNING")
        press("5")
        until("'5' is no score of the rubric place; it has 0, 1")
        press("1")
        assert until("pick: ") == "pick: 1\n"
        assert "nothing correct was done for 2 s" in until("over: ")
        assert until("scores: ") == "scores: pick 1, place 0\n"
        press("n")
        press("it slipped")  # the question has no end of line
        until("noted: it slipped")
        press("")
        assert until("score 0.50")
        assert "0/1 succeeded" in until("bundled: judged/pick_place")
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
    out = tmp_path / "out"
    folder = JudgingFolder.read(out)
    (rollout,) = folder.rollouts
    sheet = folder.scored(rollout)
    assert sheet is not None and sheet.notes == ("it slipped",) and sheet.length_s > 2.0
    assert sheet.simulated["task"] == "pick_place" and sheet.simulated["seed"] == 1_000_000
    with BagReader(Path(sheet.bag)) as bag:
        assert bag.counts["/observation/front"] > 10 and bag.counts["/joint_command"] > 0
        assert bag.episode().outcome == "failed"
    assert (
        read_picture(folder.picture(rollout, "initial")).shape == read_picture(folder.picture(rollout, "final")).shape
    )
    assert folder.video(rollout).stat().st_size > 10_000
    (episode,) = Results.read(out / "results" / "bundled").episodes
    assert (episode.score, episode.success, episode.error) == (0.5, False, None)
