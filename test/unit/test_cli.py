"""The command line as a user meets it first."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from lavla_ros import cli


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out.startswith("lavla_ros ")


@pytest.mark.parametrize("words", [["help"], ["--help"], ["-h"], ["task:=pick_place", "--help"]])
def test_a_stack_shows_its_arguments(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["up", "jaka_policy", *words])
    shown = capsys.readouterr().out
    assert "simulate:=true\n" in shown  # as it has to be written
    assert "One of latest, temporal_ensemble, soft_mask." in shown


def test_a_terminal_of_few_letters_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit) as ending:
        cli.main(["eval", "--help"])
    assert ending.value.code == 0
    assert b"usage: lavla eval" in terminal.buffer.getvalue()  # type: ignore[attr-defined]


def _run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, text=True, capture_output=True, check=False, timeout=60, **options)  # type: ignore[call-overload, no-any-return]


HEAVY = {"torch", "transformers", "rclpy", "mujoco", "cv2", "av", "pyarrow", "h5py", "scipy", "ray", "PIL"}
"""Packages that take so long to import that no help may wait for them."""


def test_help_waits_for_no_heavy_import() -> None:
    program = """if True:
        import contextlib, sys
        from lavla_ros import cli
        for name in sys.argv[1:]:
            with contextlib.suppress(SystemExit):
                cli.main([*name.split(), "--help"])
            print(name, *{module.partition(".")[0] for module in sys.modules}, file=sys.stderr)
    """
    variants = ["record --by person", "latent train action", "latent train image", "bench tabletop"]
    names = [*(name for name in cli.COMMANDS if name != "emulator"), *variants, "emulator"]  # it needs an arm's limits
    done = _run(sys.executable, "-c", program, "", "latent", *names)
    assert done.returncode == 0, done.stderr
    groups, commands = done.stderr.splitlines()[:2], done.stderr.splitlines()[2:]
    assert len(commands) == len(names)
    for line in groups:
        assert not set(line.split()) & (HEAVY | {"tyro", "numpy", "yaml", "rich"})
    for line in commands:
        heavy = HEAVY if line.startswith("emulator") else HEAVY | {"numpy", "rich"}
        assert not set(line.split()) & heavy, line


@pytest.mark.parametrize(
    "name",
    [
        *sorted(set(cli.COMMANDS) - {"latent train", "bench"}),
        *("latent train action", "latent train image", "bench tabletop", "record --by person"),
    ],
)
def test_every_option_of_every_command_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse([*name.split(), "--help"])()
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    options = [(line, below) for line, below in pairwise(lines) if line.startswith("-")]
    assert len(options) > 1 or name == "up"
    for option, below in options:
        explained = [*re.split(r"\s{2,}", option, maxsplit=1)[1:], below][0]
        assert not explained.startswith(("(default", "(required", "(repeatable")), f"lavla {name}: {option}"


def test_a_command_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["latent", "lable", "runs/dataset"])
    assert ended.value.code == 2
    assert "there is no command 'latent lable'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["--help", "up jaka_policy --help", "eval --help", "dataset check /nowhere"])
def test_a_reader_that_leaves_is_no_error(command: str) -> None:
    """As `lavla … | head` does, here before the first line."""
    done = _run("bash", "-c", f"set -o pipefail; (sleep 0.3; {sys.executable} -m lavla_ros.cli {command} 2>&1) | true")
    assert done.stderr == ""
    assert done.returncode == 141


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(bag: object, out: object) -> None:
        raise ValueError("shapes (3, 4) and (5, 6) not aligned")

    monkeypatch.setattr("lavla_ros.recording.recover_bag", fault)
    with pytest.raises(ValueError, match="not aligned"):
        cli.main(["recover", "bag"])
