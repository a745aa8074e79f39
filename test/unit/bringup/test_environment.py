"""What a caller's shell may hold, and still ROS runs, on this machine alone; or one line says what is in the way."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from lavla_ros.bringup.environment import DISCOVERY, SettingError, ros_environment
from lavla_ros.bringup.interpreter import InterpreterError, stack_python
from lavla_ros.bringup.output import Output
from lavla_ros.places import PlaceError, run_dir, writable_places
from sim_bridges.gl import choose_gl_backend
from sim_bridges.worlds.libero.package import without_log_file

HOME = {"HOME": str(Path.home())}
_NAME = "{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}"


def _profile(environment: dict[str, str]) -> ElementTree.Element:
    return ElementTree.parse(environment["FASTRTPS_DEFAULT_PROFILES_FILE"]).getroot()


def _interfaces(environment: dict[str, str]) -> list[str | None]:
    return [address.text for address in _profile(environment).iter(f"{_NAME}address")]


def test_nothing_but_this_machine_unless_somebody_asks_for_more() -> None:
    assert _interfaces(ros_environment(HOME)) == ["127.0.0.1"]
    assert ros_environment(HOME)[DISCOVERY] == "LOCALHOST"
    wide = ros_environment(HOME | {DISCOVERY: "SUBNET"})
    assert _interfaces(wide) == []
    with pytest.raises(SettingError, match="'EVERYBODY'; expected one of"):
        ros_environment(HOME | {DISCOVERY: "EVERYBODY"})


def test_both_profiles_are_the_same_but_for_the_interfaces() -> None:
    local, wide = _profile(ros_environment(HOME)), _profile(ros_environment(HOME | {DISCOVERY: "SUBNET"}))
    for transport in local.iter(f"{_NAME}transport_descriptor"):
        for interfaces in transport.findall(f"{_NAME}interfaceWhiteList"):
            transport.remove(interfaces)
    texts = [[(e.tag, (e.text or "").strip()) for e in root.iter()] for root in (local, wide)]
    assert texts[0] == texts[1]


def test_a_middleware_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingError, match="'rmw_nowhere_cpp', which is not installed here; unset RMW_IMPLEMENTATION"):
        ros_environment(HOME | {"RMW_IMPLEMENTATION": "rmw_nowhere_cpp"})


def test_modules_for_another_python_are_left_out(tmp_path: Path) -> None:
    other = tmp_path / "lib" / "python3.5" / "site-packages"
    stub = tmp_path / "stub"
    for folder in (other, stub / "rclpy"):
        folder.mkdir(parents=True)
    (stub / "rclpy" / "_rclpy_pybind11.cpython-35-x86_64-linux-gnu.so").touch()
    own = tmp_path / "own"
    text = ros_environment(HOME | {"PYTHONPATH": os.pathsep.join(map(str, (other, own, stub)))})["PYTHONPATH"]
    paths = text.split(os.pathsep)
    assert str(own) in paths and str(other) not in paths and str(stub) not in paths


def test_a_home_that_can_be_written_is_left_alone(tmp_path: Path) -> None:
    assert writable_places({"HOME": str(tmp_path)}) == {}


@pytest.mark.parametrize("home", ["/etc/passwd", ""])
def test_without_a_home_libraries_get_places_that_can_be_written(home: str, tmp_path: Path) -> None:
    given = {"HOME": home, "XDG_RUNTIME_DIR": str(tmp_path), "MPLCONFIGDIR": "/mine"}
    places = writable_places({k: v for k, v in given.items() if v})
    assert set(places) == {"ROS_LOG_DIR", "NUMBA_CACHE_DIR", "HF_HOME", "XDG_CACHE_HOME"}
    for place in places.values():
        Path(place).mkdir(parents=True)


def test_a_cache_that_somebody_else_filled_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, _mode: not str(path).startswith(str(tmp_path)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert "HF_HOME" not in writable_places({"HOME": str(tmp_path)})


def test_a_place_that_another_user_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"lavla-{os.getuid()}").symlink_to("/etc")
    with pytest.raises(PlaceError, match="set HOME, or TMPDIR"):
        writable_places({"HOME": "/etc/passwd"})


def test_what_a_killed_run_left_behind_is_removed_by_the_next() -> None:
    command = (
        "import time; from lavla_ros.places import run_dir\nwith run_dir() as f: print(f, flush=True); time.sleep(60)"
    )
    killed = subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    left = Path(killed.stdout.readline().strip())
    with run_dir() as own:
        assert left.is_dir() and own.is_dir(), "it is running"
    killed.kill()
    killed.wait()
    killed.stdout.close()
    assert left.is_dir() and not own.exists()
    with run_dir():
        assert not left.exists()


class _Stream:
    """A log that stalls, or that nobody reads any more."""

    def __init__(self, error: Exception | None = None) -> None:
        self.lines: list[str] = []
        self.error = error

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> None:
        if self.error is not None:
            raise self.error
        self.lines.append(text)

    def flush(self) -> None: ...


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device"), ValueError("closed")])
def test_a_log_that_cannot_be_written_is_given_up_in_silence(error: Exception) -> None:
    stream = _Stream(error)
    output = Output(stream, ["node"])  # type: ignore[arg-type]
    for i in range(100):
        output.write("node", f"line {i}")
    output.close()
    assert stream.lines == []


def test_the_interpreter_of_the_virtual_environment_comes_first(tmp_path: Path) -> None:
    """Two interpreters: the one that is asked lacks everything, the activated one has it all."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    prefix = Path(sys.prefix)
    if not (prefix / "bin" / "python3").exists() or sys.prefix == sys.base_prefix:
        pytest.skip("the tests run outside a virtual environment")
    path = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if (Path(p) / "lavla_ros").is_dir())}
    assert stack_python(os.environ | path | {"VIRTUAL_ENV": str(prefix)}) == str(prefix / "bin" / "python3")
    assert stack_python(os.environ | path | {"VIRTUAL_ENV": str(bare)}) == sys.executable, "it lacks ruckig"


def test_an_interpreter_that_lacks_something_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavla_ros.bringup.interpreter.NEEDED", ("yaml", "no_such_module"))
    with pytest.raises(InterpreterError, match=r"python\S* lacks no_such_module.*: activate the virtual environment"):
        stack_python(os.environ)


@pytest.mark.parametrize(("chosen", "left"), [("egl", "osmesa"), ("osmesa", "glx"), ("egl", None)])
def test_pyopengl_follows_mujoco(chosen: str, left: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What robosuite once advised to put into a shell's start file would end MuJoCo's import."""
    monkeypatch.setenv("MUJOCO_GL", chosen)
    monkeypatch.setenv("PYOPENGL_PLATFORM", left or "")
    assert choose_gl_backend() == os.environ["PYOPENGL_PLATFORM"] == chosen


def test_robosuites_log_goes_nowhere(tmp_path: Path) -> None:
    with without_log_file():
        logging.FileHandler(tmp_path / "robosuite.log").close()
        logging.FileHandler(tmp_path / "other.log").close()
    logging.FileHandler(tmp_path / "later.log").close()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["later.log", "other.log"]
