"""A RoboTwin checkout: its two layouts, what is missing in one, and what its evaluation script makes of it.

The checkout is made here: a few files at RoboTwin's places, and a task with its interface.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lavla_ros.contract import load_contract
from sim_bridges.suites import load_suite
from sim_bridges.worlds.robotwin import checkout
from sim_bridges.worlds.robotwin.checkout import Checkout, find_layout, find_root
from sim_bridges.worlds.robotwin.environment import RobotwinError
from sim_bridges.worlds.robotwin.seeds import try_seed

CONTRACT = load_contract("robotwin_aloha")
CONFIG = {
    "embodiment": ["aloha-agilex"],
    "camera": {"head_camera_type": "D435"},
    "data_type": {"rgb": False, "depth": True},
    "clear_cache_freq": 5,
    "render_freq": 10,
}
TASK = """
from pathlib import Path

from swing_task import SwingTask

class swing(SwingTask):
    def setup_demo(self, **kwargs):
        assert Path("assets").is_dir(), "RoboTwin looks for its files from its root"
        print("RoboTwin prints a lot")
        super().setup_demo(**kwargs)
"""
GENERATOR = """
import random

def generate_episode_descriptions(task, episodes, count):
    rows = []
    for info in episodes:
        texts = [f"{verb} {info['{A}']} to {task}" for verb in ("take", "bring", "move", "carry")]
        random.shuffle(texts)
        rows.append({"seen": ["see"], "unseen": [random.choice(texts) for _ in range(count)]})
    return rows
"""


def make_checkout(root: Path, layout: checkout.Layout, *, assets: bool = True) -> Path:
    files = {
        layout.script: "",
        f"{layout.configs}/demo_clean.yml": yaml.safe_dump(CONFIG),
        f"{layout.configs}/demo_randomized.yml": yaml.safe_dump(CONFIG),
        f"{layout.configs}/_camera_config.yml": yaml.safe_dump({"D435": {"w": 320, "h": 240, "fovy": 37}}),
        f"{layout.configs}/_embodiment_config.yml": yaml.safe_dump(
            {"aloha-agilex": {"file_path": "./assets/embodiments/aloha-agilex/"}}
        ),
        f"{layout.configs}/_eval_step_limit.yml": yaml.safe_dump({"swing": 60, "other": 400}),
        "envs/__init__.py": "",
        "envs/_base_task.py": "",
        "envs/swing.py": TASK,
        "envs/utils.py": "",
        "description/utils/generate_episode_instructions.py": GENERATOR,
        "description/task_instruction/swing.json": json.dumps({"seen": [], "unseen": []}),
    }
    if assets:
        files["assets/embodiments/aloha-agilex/config.yml"] = yaml.safe_dump({"arm_joints_name": [["fl_joint1"]]})
        files["assets/objects/objaverse/list.json"] = "{}"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(params=checkout.LAYOUTS, ids=lambda layout: layout.branch)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    before = list(sys.path)
    yield make_checkout(tmp_path / "RoboTwin", request.param)
    sys.path[:] = before
    for name in [n for n in sys.modules if n == "generate_episode_instructions" or n.split(".")[0] == "envs"]:
        del sys.modules[name]


def test_both_layouts_are_found_and_read(root: Path) -> None:
    found = Checkout(root)
    assert find_layout(root) == found.layout and found.layout.branch in found.provenance().source
    assert found.tasks == ("swing",) and found.step_limit("swing") == 60 and found.step_limit("unlisted") == 1000
    arguments = found.arguments("swing")
    assert arguments["task_name"] == "swing" and arguments["eval_mode"] and arguments["render_freq"] == 0
    assert (arguments["head_camera_h"], arguments["head_camera_w"]) == (240, 320)
    assert (
        arguments["left_embodiment_config"] == arguments["right_embodiment_config"] and arguments["dual_arm_embodied"]
    )
    assert arguments["data_type"] == {"rgb": True, "depth": True, "qpos": True, "endpose": True}
    assert "seed" not in arguments and "eval_video_save_dir" not in arguments


def test_its_tasks_run_from_its_root(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Checkout, "_require_packages", lambda self: None)
    source, before = Checkout(root), Path.cwd()
    environment = source.environment("swing", CONTRACT)
    tried = try_seed(environment, source, 100_000, "unseen")
    assert tried.rejected == "" and tried.instruction.endswith("left mark to swing")
    environment.reset(100_000)
    assert environment.step_limit == 60 and environment.view().images["head"].shape == (240, 320, 3)
    assert Path.cwd() == before
    printed = capsys.readouterr()
    assert printed.out == "" and "RoboTwin prints" in printed.err


def test_an_instruction_depends_on_the_seed_alone(root: Path) -> None:
    source, info = Checkout(root), {"{A}": "block"}
    random.seed(5)
    first = [source.instruction("swing", seed, info, "unseen") for seed in range(20)]
    drawn = random.random()
    random.seed(5)
    assert drawn == random.random()  # the global generator is left as it was
    assert first == [source.instruction("swing", seed, info, "unseen") for seed in range(20)]
    assert len(set(first)) == 4
    assert source.instruction("swing", 3, info, "seen") == "see"


def test_the_hash_is_of_what_decides_the_episodes(root: Path) -> None:
    before = Checkout(root).provenance()
    assert before.comparable
    (root / "envs" / "swing.py").write_text(TASK + "\n")
    assert Checkout(root).provenance().hash != before.hash


def test_what_is_missing_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAVLA_ROBOTWIN_ROOT", raising=False)
    with pytest.raises(RobotwinError, match=r"--robotwin-root, or set LAVLA_ROBOTWIN_ROOT"):
        load_suite("robotwin")
    with pytest.raises(RobotwinError, match="is not a directory"):
        find_layout(tmp_path / "none")
    monkeypatch.setenv("LAVLA_ROBOTWIN_ROOT", str(root))
    assert find_root() == root and load_suite("robotwin").tasks == ("swing",)
    with pytest.raises(RobotwinError, match=r"no demo_dirty.yml; it has \['demo_clean', 'demo_randomized'\]"):
        Checkout(root, "demo_dirty")
    with pytest.raises(RobotwinError, match="no task 'fly'; there are swing"):
        Checkout(root).environment("fly", CONTRACT)


def test_another_layout_is_refused(root: Path) -> None:
    layout = find_layout(root)
    (root / layout.configs / "..").resolve()
    (root / layout.script).unlink()
    with pytest.raises(RobotwinError, match=r"no RoboTwin 2.0 checkout of a layout that is known here \(stable_2.0: "):
        Checkout(root)


@pytest.mark.parametrize(
    "missing", ["assets/embodiments/aloha-agilex/config.yml", "assets/objects/objaverse/list.json"]
)
def test_missing_assets(root: Path, missing: str) -> None:
    (root / missing).unlink()
    with pytest.raises(RobotwinError, match=f"{missing} missing; run script.*_download_assets.sh"):
        Checkout(root).environment("swing", CONTRACT)


def test_missing_curobo_and_vulkan(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"sapien", "mplib", "toppra"}
    monkeypatch.setattr(checkout.importlib.util, "find_spec", lambda name: object() if name in there else None)
    with pytest.raises(RobotwinError, match=r"needs curobo, not installed .* on a GPU"):
        Checkout(root).environment("swing", CONTRACT)
    there.add("curobo")

    def no_driver() -> None:
        raise checkout.SapienError("SAPIEN finds no Vulkan device to draw on: install Mesa")

    monkeypatch.setattr(checkout, "render_system", no_driver)
    with pytest.raises(RobotwinError, match="RoboTwin cannot draw here: SAPIEN finds no Vulkan device"):
        Checkout(root).environment("swing", CONTRACT)


def test_a_task_that_cannot_be_imported_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkout, "_require_packages", lambda self: None)
    (root / "envs" / "swing.py").write_text("import something_that_is_not_there")
    with pytest.raises(RobotwinError, match=r"task swing cannot be loaded from .*something_that_is_not_there"):
        Checkout(root).environment("swing", CONTRACT)
