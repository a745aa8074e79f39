"""A child ends with its starter, by whatever means the starter ended, and not without being asked to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lavla_ros.lifeline import VARIABLE, die_with_parent

CHILD = """
import os, signal, sys, time
from pathlib import Path
from lavla_ros.lifeline import VARIABLE, die_with_parent
folder = Path(sys.argv[1])
def end(*_):
    (folder / "ended").touch()
    sys.exit(0)
signal.signal(signal.SIGINT, end)
if "late" in sys.argv:                       # the starter is gone before the child asks
    while os.getppid() == int(os.environ[VARIABLE]):
        time.sleep(0.01)
die_with_parent()
assert VARIABLE not in os.environ
(folder / "pid").write_text(str(os.getpid()))
time.sleep(30.0)
"""

PARENT = """
import os, subprocess, sys, time
from pathlib import Path
from lavla_ros.lifeline import lifeline
how, *command = sys.argv[1:]
environment = os.environ if how == "unasked" else os.environ | lifeline()
shell = ["sh", "-c", '"$@"; exit 0', "sh"] if how == "between" else []
subprocess.Popen([*shell, *command], env=environment, start_new_session=True)
Path(command[-2 if how == "late" else -1], "started").touch()
time.sleep(30.0)
"""


def _wait_for(file: Path, timeout_s: float = 15.0) -> bool:
    until = time.monotonic() + timeout_s
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.01)
    return file.exists()


def _run(how: str, folder: Path) -> None:
    """Start both, and kill the starter as the kernel would."""
    child = [sys.executable, "-c", CHILD, str(folder), *(["late"] if how == "late" else [])]
    starter = subprocess.Popen([sys.executable, "-c", PARENT, how, *child])
    assert _wait_for(folder / ("started" if how == "late" else "pid"))
    starter.send_signal(signal.SIGKILL)
    starter.wait(5.0)


@pytest.mark.parametrize("how", ["direct", "late", "between"])
def test_a_child_ends_with_its_starter(how: str, tmp_path: Path) -> None:
    _run(how, tmp_path)
    assert _wait_for(tmp_path / "ended")


def test_a_child_that_nobody_asked_lives_on(tmp_path: Path) -> None:
    _run("unasked", tmp_path)
    assert not _wait_for(tmp_path / "ended", 0.5)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGINT)
    assert _wait_for(tmp_path / "ended")


def test_what_is_no_process_id_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "launcher")
    with pytest.raises(ValueError, match="'launcher'; expected the id of the process"):
        die_with_parent()
