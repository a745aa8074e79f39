"""Suites, tasks, initial states and assets: found, judged by content, and refused where they are wrong."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sim_bridges.worlds.libero import tasks
from sim_bridges.worlds.libero.assets import VARIABLE, find_assets
from sim_bridges.worlds.libero.initial_states import read_initial_states
from sim_bridges.worlds.libero.package import import_libero
from sim_bridges.worlds.libero.tasks import STEP_LIMITS, SUITES, LiberoError, find_task, suite_tasks

libero = pytest.importorskip("libero", reason="LIBERO is not installed")


def test_suites_have_their_tasks_and_the_official_limits() -> None:
    assert {suite: len(suite_tasks(suite)) for suite in SUITES} == {
        "libero_spatial": 10,
        "libero_object": 10,
        "libero_goal": 10,
        "libero_10": 10,
        "libero_90": 90,
    }
    assert STEP_LIMITS["libero_object"] == 280 and find_task("libero_10", 0).step_limit == 520
    every = [task for suite in SUITES for task in suite_tasks(suite)]
    assert all(task.bddl_file.is_file() and task.initial_states_file.is_file() for task in every)


def test_a_task_is_found_by_number_or_name() -> None:
    by_number = find_task("libero_object", 3)
    assert by_number == find_task("libero_object", "3") == find_task("libero_object", by_number.name)
    for suite, task, words in (
        ("libero_objects", 0, ("libero_objects", "libero_object")),
        ("libero_object", 10, ("10", "0 to 9")),
        ("libero_object", "fly", ("'fly'", "pick_up")),
        ("libero_object", -1, ("-1",)),
    ):
        with pytest.raises(LiberoError) as error:
            find_task(suite, task)
        assert all(word in str(error.value) for word in words)


def test_instructions_and_initial_states_are_the_packages_own(libero_assets: str) -> None:
    import_libero(Path(libero_assets))
    theirs = importlib.import_module("libero.libero.benchmark").get_benchmark_dict()
    for suite in SUITES:
        benchmark = theirs[suite]()
        assert [t.instruction for t in suite_tasks(suite)] == [t.language for t in benchmark.tasks]
        for index in range(0, benchmark.n_tasks, 9):
            ours = read_initial_states(suite_tasks(suite)[index].initial_states_file)
            np.testing.assert_array_equal(ours, benchmark.get_task_init_states(index))
            assert ours.dtype == np.float64 and ours.shape[0] == 50


class _Command:
    """What a harmful pickle looks like."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self._marker),)


def archive(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
    return path


def test_initial_states_are_never_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    with pytest.raises(LiberoError, match="not executed"):
        read_initial_states(archive(tmp_path / "a", pickle.dumps(_Command(marker))))
    assert not marker.exists()


def test_damaged_initial_states_are_refused(tmp_path: Path) -> None:
    good = find_task("libero_object", 0).initial_states_file
    with zipfile.ZipFile(good) as file:
        pickled = file.read("archive/data.pkl")
    assert len(read_initial_states(archive(tmp_path / "same", pickled))) == 50
    (tmp_path / "text").write_text("no archive")
    for path in (
        archive(tmp_path / "cut", pickled[: len(pickled) // 2]),
        archive(tmp_path / "list", pickle.dumps([1.0, 2.0], protocol=2)),
        archive(tmp_path / "float32", pickled.replace(b"f8", b"f4")),
        tmp_path / "text",
        tmp_path / "missing",
    ):
        with pytest.raises(LiberoError, match=path.name):
            read_initial_states(path)


def linked(assets: str, folder: Path) -> Path:
    """A folder of links to every asset."""
    for file in Path(assets).rglob("*"):
        if file.is_file() and file.parent != Path(assets):
            link = folder / file.relative_to(assets)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    return folder


def test_assets_are_known_by_their_content(libero_assets: str, tmp_path: Path) -> None:
    found = find_assets(libero_assets).provenance
    folder = linked(libero_assets, tmp_path / "copy")
    copied = find_assets(folder).provenance
    assert copied.hash == found.hash and copied.stand_ins == found.stand_ins
    own = folder / "scenes" / "libero_floor_base_style.xml"
    if not own.is_file():
        own = next(f for f in sorted(folder.rglob("*.xml")))
    text = own.read_text()
    own.unlink()
    own.write_text(text + "<!-- another scene -->")
    # provenance is read once per folder and process
    moved = folder.rename(tmp_path / "moved")
    changed = find_assets(moved).provenance
    assert changed.altered == (own.relative_to(folder).as_posix(),)
    assert changed.hash != found.hash and not changed.comparable
    assert "not comparable" in changed.statement


def test_stand_ins_are_not_comparable_and_the_originals_would_be(libero_assets: str, tmp_path: Path) -> None:
    found = find_assets(libero_assets).provenance
    if not found.stand_ins:
        pytest.skip("these assets contain no stand-ins")
    assert len(found.stand_ins) == 15 and not found.comparable and "15 stand-ins" in found.statement
    folder = linked(libero_assets, tmp_path / "own")
    for path in found.stand_ins:
        (folder / path).unlink()
        (folder / path).write_bytes(b"not the stand-in")
    replaced = find_assets(folder).provenance
    assert replaced.comparable and len(replaced.unverified) == 15 and "comparable" in replaced.statement


def test_where_assets_are_looked_for(libero_assets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, libero_assets)
    assert find_assets().found_by == VARIABLE
    assert find_assets("").folder == Path(libero_assets).resolve()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    assert find_assets(libero_assets).found_by == "argument"
    with pytest.raises(LiberoError, match=f"nowhere .from {VARIABLE}. does not exist"):
        find_assets()
    (tmp_path / "scenes").mkdir()
    with pytest.raises(LiberoError, match="lacks 151 of 151"):
        find_assets(tmp_path)
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(LiberoError, match=f"Set {VARIABLE} to a folder"):
        find_assets(download=False)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.importlib.util, "find_spec", lambda name: None)
    tasks.suite_tasks.cache_clear()
    with pytest.raises(LiberoError, match=r"not installed.*hf-libero"):
        suite_tasks("libero_object")


def load(folder: Path, assets: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from pathlib import Path; from sim_bridges.worlds.libero.package import import_libero\n"
        "from sim_bridges.worlds.libero.tasks import LiberoError\n"
        "try: import_libero(Path(sys.argv[1]))\n"
        "except LiberoError as error: sys.exit(f'refused: {error}')\n"
        "import libero.libero; print(libero.libero.get_assets_path())"
    )
    values = {k: v for k, v in os.environ.items() if k != "LIBERO_CONFIG_PATH"} | {"HOME": str(folder), **environment}
    return subprocess.run(
        [sys.executable, "-c", code, assets],
        env=values,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_loading_asks_nothing_and_leaves_the_home_alone(libero_assets: str, tmp_path: Path) -> None:
    result = load(tmp_path, libero_assets)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == libero_assets
    assert not (tmp_path / ".libero").exists()


def test_a_configuration_folder_without_one_is_refused(libero_assets: str, tmp_path: Path) -> None:
    result = load(tmp_path, libero_assets, LIBERO_CONFIG_PATH=str(tmp_path / "mine"))
    assert result.returncode == 1
    assert "refused: LIBERO_CONFIG_PATH is" in result.stderr and "config.yaml" in result.stderr
