"""The page's pad: what it shows of a mapping, and which answers count."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lavla_ros.bringup.person import open_console
from lavla_ros.bringup.session import SessionError
from lavla_ros.teleop.config import ACTIONS, Binding, Mapping, load_mapping

pad = pytest.importorskip("lavla_ros.console.pad", reason="NiceGUI is not installed")


@pytest.mark.parametrize(
    ("asked", "counts"),
    [
        *(("100000", True), ("99800", True), ("99700", False), ("0", False)),
        *(("100001", False), ("", False), ("-1", False), ("1e5", False), ("9" * 5000, False), ("²", False)),
    ],
)
def test_an_answer_counts_if_it_comes_soon_after_its_question(asked: str, counts: bool) -> None:
    assert pad.in_time(asked, 100.0) is counts


def test_the_shipped_mapping_is_shown_whole() -> None:
    mapping = load_mapping("browser")
    shown = pad.html_of(mapping)
    for binding in mapping.bindings:
        if binding.does not in ACTIONS and len(binding.input) == 1:
            assert f"{binding.input.upper()} {binding.does}{'+' if binding.factor > 0 else '−'}" in shown
    assert re.findall(r'data-input="([^"]*)"', shown) == ["deadman", "g", "-", "+", "t"]
    assert re.findall(r'data-x="(\w+)" data-y="(\w+)"', shown) == [("left_x", "left_y"), ("right_x", "right_y")]


def test_names_of_a_mapping_are_text() -> None:
    named = Binding(input='"><script>', does="deadman")
    assert "<script>" not in pad.html_of(Mapping(name="own", device="topic", bindings=(named,)))


def test_a_console_has_no_keys_of_a_terminal() -> None:
    with pytest.raises(SessionError, match='give --mapping "", and run lavla teleop in another'):
        open_console("record_demos", {}, mapping="keyboard", host="localhost", port=0, token="")


def test_models_to_choose_from_are_for_a_stack_that_runs_one(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="the stack record_demos runs no model: leave out --models"):
        open_console("record_demos", {}, mapping="", host="localhost", port=0, token="", models=tmp_path)
    gone = tmp_path / "gone"
    with pytest.raises(SessionError, match="gone is no folder; give the one that holds the checkpoints"):
        open_console("jaka_policy", {}, mapping="", host="localhost", port=0, token="", models=gone)
