"""Arguments of stacks that take over what a setting says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavla_ros.bringup.stack import StackError, load_stack, read_arguments
from lavla_ros.control.config import ExecutorOptions


def stack(folder: Path, argument: str) -> Path:
    file = folder / "stack.yaml"
    file.write_text(f"description: One.\narguments:\n  it: {argument}\nprocesses: []\n", encoding="utf-8")
    return file


def test_default_help_and_choices_are_the_settings(tmp_path: Path) -> None:
    file = stack(tmp_path, '{from: "lavla_ros.control.config:ExecutorOptions.blend"}')
    argument = next(a for a in read_arguments(file) if a.name == "it")
    setting = ExecutorOptions.__dataclass_fields__["blend"]
    assert argument.default == setting.default and argument.description == setting.metadata["help"]
    assert load_stack(file, {"it": "soft_mask"}, run_dir=tmp_path).arguments["it"] == "soft_mask"
    with pytest.raises(StackError, match="it is 'none'; expected one of"):
        load_stack(file, {"it": "none"}, run_dir=tmp_path)


def test_what_is_said_comes_before_what_is_taken_over(tmp_path: Path) -> None:
    file = stack(tmp_path, '{from: "lavla_ros.control.config:ExecutorOptions.speed_scale", default: 0.1}')
    assert load_stack(file, {}, run_dir=tmp_path).arguments["it"] == 0.1


@pytest.mark.parametrize(
    "path", ["nothing:A.b", "lavla_ros.control.config:Nothing.b", "lavla_ros.resources", "", ".:a"]
)
def test_what_cannot_be_found_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(StackError, match="argument it: from is"):
        read_arguments(stack(tmp_path, f'{{from: "{path}"}}'))
