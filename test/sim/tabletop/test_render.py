"""Pictures: what is on them, the same in every process, and a clear word where there is no OpenGL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sim_bridges.gl import choose_gl_backend
from sim_bridges.worlds.tabletop.render import TabletopRenderer
from sim_bridges.worlds.tabletop.sim import TabletopSim

pytestmark = pytest.mark.sim
ROOT = Path(__file__).resolve().parents[3]


def share(image: np.ndarray, kind: str) -> float:
    """Share of the pixels of a colour."""
    r, g, b = (image[..., i].astype(int) for i in range(3))
    mask = {
        "orange": (r > 150) & (g > 80) & (b < 90) & (r > g + 30),
        "blue": (b > r + 40) & (b > 60),
        "red": (r > g + 60) & (r > b + 60) & (g < 110),
    }[kind]
    return float(mask.mean())


@pytest.fixture(scope="module")
def pictured() -> tuple[TabletopSim, TabletopRenderer]:
    sim = TabletopSim("pick_place")
    return sim, TabletopRenderer(sim, 224)


def test_cameras_see_the_task(pictured: tuple[TabletopSim, TabletopRenderer]) -> None:
    sim, renderer = pictured
    for seed in range(8):
        sim.reset(seed)
        front = renderer.render("front")
        assert front.shape == (224, 224, 3)
        assert front.dtype == np.uint8
        assert share(front, "orange") > 0.002, f"seed {seed}: no mango in the front picture"
        assert share(front, "blue") > 0.01, f"seed {seed}: no bowl in the front picture"
        wrist = renderer.render("wrist")
        assert 40 < wrist.mean() < 230
        assert wrist.std() > 15


def test_the_same_state_gives_the_same_picture(pictured: tuple[TabletopSim, TabletopRenderer]) -> None:
    sim, renderer = pictured
    sim.reset(4)
    first = {name: renderer.render(name) for name in ("front", "wrist")}
    state = sim.snapshot()
    sim.reset(5)
    assert not np.array_equal(renderer.render("front"), first["front"])
    sim.restore(state)
    for name, image in ((name, renderer.render(name)) for name in ("front", "wrist")):
        assert np.array_equal(image, first[name])


def test_another_process_renders_the_same_from_a_snapshot(
    pictured: tuple[TabletopSim, TabletopRenderer], tmp_path: Path
) -> None:
    sim, renderer = pictured
    sim.reset(6)
    expected = renderer.render("wrist")
    np.save(tmp_path / "state.npy", sim.snapshot())
    code = (
        "import sys, numpy as np\n"
        "from sim_bridges.worlds.tabletop.sim import TabletopSim\n"
        "from sim_bridges.worlds.tabletop.render import TabletopRenderer\n"
        "sim = TabletopSim('pick_place'); sim.restore(np.load(sys.argv[1]))\n"
        "np.save(sys.argv[2], TabletopRenderer(sim, 224).render('wrist'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "state.npy", tmp_path / "image.npy"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr
    assert np.array_equal(np.load(tmp_path / "image.npy"), expected)


def test_without_opengl_the_error_names_the_packages() -> None:
    code = (
        "from sim_bridges.worlds.tabletop.sim import TabletopSim\n"
        "from sim_bridges.worlds.tabletop.render import NoGLError, TabletopRenderer\n"
        "sim = TabletopSim('pick_place'); sim.advance(8_000_000)\n"
        "try:\n    TabletopRenderer(sim, 64)\nexcept NoGLError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"MUJOCO_GL": "disable"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for package in ("libegl1", "libegl-mesa0", "libosmesa6"):
        assert package in done.stdout


def test_a_users_choice_of_backend_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "")  # what the choice sets is undone after the test
    assert choose_gl_backend() == "osmesa"


def test_an_unknown_camera_is_named(pictured: tuple[TabletopSim, TabletopRenderer]) -> None:
    with pytest.raises(KeyError, match="rear"):
        pictured[1].render("rear")
