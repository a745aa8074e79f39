"""The bimanual demo: what it writes, and what it says where it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest

from lavla_ros.bringup.launcher import LaunchError
from lavla_ros.outputs import OutputError
from lavla_ros.recording import BagReader, find_bags
from sim_bridges.demos.config import DemoConfig
from sim_bridges.demos.demo import run_demo
from sim_bridges.evaluation.results import Results
from sim_bridges.world import SuiteError

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("vulkan"), pytest.mark.long]
SUITE, TASK = "robotwin_standin", "move_blocks_to_pads"


def test_two_arms_solve_a_task_and_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, and at the same time from another shell, where it goes the same way."""
    said: list[str] = []
    out = tmp_path / "demo"
    monkeypatch.delenv("ROS_DOMAIN_ID")
    command = [sys.executable, "-m", "lavla_ros.cli", "demo-bimanual", "--tasks", TASK]
    other = subprocess.Popen(
        [*command, "--out", str(tmp_path / "other")], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    results = run_demo(DemoConfig(out=out, suite=SUITE, tasks=(TASK,), episodes=1), said.append)
    (episode,) = results.episodes
    assert episode.success and episode.seed == 100_000 and episode.task == TASK
    assert f"{TASK}, seed 100000: succeeded after {episode.length_steps} steps" in said
    told, _ = other.communicate(timeout=200.0)
    assert other.returncode == 0, told
    assert Results.read(out).fingerprint == results.fingerprint == Results.read(tmp_path / "other").fingerprint
    (bag,) = find_bags([out / "bags"])
    with BagReader(bag) as reader:
        commands = sum(1 for _ in reader.messages(["/joint_command"]))
    assert commands == episode.length_steps
    with av.open(str(out / "episode_0.mp4")) as video:
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    # one for every command; after the last nothing is decided, and the recording may end with or without its picture
    assert len(pictures) - commands in (0, 1)
    assert (pictures[0] != pictures[-1]).any(axis=2).mean() > 0.05
    page = (out / "report.html").read_text()
    assert f"lavla demo {SUITE} --task {TASK} --policy expert --episodes=1" in page and page.count("<video") == 1


def test_what_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"has no task 'fold_shirt'; it has\n  0: stack_two_blocks"):
        DemoConfig(out=tmp_path, suite=SUITE, tasks=("fold_shirt",))
    with pytest.raises(ValueError, match="episodes is 0; expected 1 to 1000"):
        DemoConfig(out=tmp_path, suite=SUITE, episodes=0)
    with pytest.raises(ValueError, match="seed is -1"):
        DemoConfig(out=tmp_path, suite=SUITE, seed=-1)
    with pytest.raises(ValueError, match="disturb pushes the expert's arm, and bundled is to act"):
        DemoConfig(out=tmp_path, disturb=True)
    with pytest.raises(OutputError, match="exists already; choose another folder"):
        run_demo(DemoConfig(out=tmp_path, suite=SUITE), print)


def test_a_stack_that_fails_is_told_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Vulkan driver: the simulator cannot draw, the episode ends in an error, and so does the demo."""
    (tmp_path / "none.json").write_text(json.dumps({}))
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "none.json"))
    monkeypatch.setenv("VK_ICD_FILENAMES", str(tmp_path / "none.json"))
    with pytest.raises(LaunchError, match=rf"of 1 episodes of {TASK} ran, status 1; the end of .*{TASK}.log"):
        run_demo(DemoConfig(out=tmp_path / "demo", suite=SUITE, tasks=(TASK,), episodes=1), print)
    assert not (tmp_path / "demo" / "results.json").exists()
