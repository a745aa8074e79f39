"""The command line as a user meets it first."""

from __future__ import annotations

import io
import sys

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
