"""Text files and pipes are UTF-8 whatever the locale: a page that says UTF-8 is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    file
    for package in ("lavla_ros", "training", "sim_bridges", "benchmarks")
    for file in (ROOT / package).rglob("*.py")
)


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in call.keywords if k.arg == name), None)


def mode_of(call: ast.Call, position: int) -> str:
    mode = call.args[position] if len(call.args) > position else keyword(call, "mode")
    return mode.value if isinstance(mode, ast.Constant) and isinstance(mode.value, str) else "r"


def leaves_it_to_the_locale(call: ast.Call) -> bool:
    if keyword(call, "encoding") is not None:
        return False
    function = call.func
    if isinstance(function, ast.Name):
        return function.id == "open" and "b" not in mode_of(call, 1)
    if not isinstance(function, ast.Attribute):
        return False
    if function.attr == "read_text":
        return not call.args
    if function.attr == "write_text":
        return len(call.args) < 2
    if function.attr == "open":  # a path's, which begins with a mode; not av.open(file), Ring.open(path)
        modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        is_path = bool(modes) and len(modes) == len(call.args) and set(modes[0]) <= set("rwxabt+")
        return is_path and "b" not in mode_of(call, 0)
    value = keyword(call, "text")
    return isinstance(value, ast.Constant) and value.value is True and function.attr in ("run", "Popen", "check_output")


def calls(file: Path) -> Iterator[ast.Call]:
    yield from (n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Call))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_text_is_left_to_the_locale(file: Path) -> None:
    found = [f"{file}:{call.lineno}" for call in calls(file) if leaves_it_to_the_locale(call)]
    assert not found, f"say encoding='utf-8': {found}"


def test_the_check_sees_what_it_is_for() -> None:
    bad = ["p.read_text()", "p.write_text(t)", "open(p)", 'p.open("w")', "subprocess.run(c, text=True)"]
    good = ['p.read_text("utf-8")', 'p.open("rb")', "av.open(file)", 'open(p, "wb")', 'open(p, "w", encoding="utf-8")']
    for source in bad + good:
        call = ast.parse(source).body[0].value  # type: ignore[attr-defined]
        assert leaves_it_to_the_locale(call) is (source in bad), source
