"""Configurations are read strictly, extend one another, and keep the bounds that their fields declare."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lavla_ros.config import ConfigError, check_settings, from_plain, read_config, read_plain, setting, to_plain
from lavla_ros.resources import config_path


@dataclass(frozen=True, kw_only=True)
class Wheel:
    radius: float = setting(0.1, "Radius of the tyre.", low=0.05, high=1.0, unit="m")
    tread: str = setting("flat", choices=("flat", "deep"))

    def __post_init__(self) -> None:
        check_settings(self, "wheel.")


@dataclass(frozen=True, kw_only=True)
class Cart:
    load: int = setting(low=1)
    wheel: Wheel = field(default_factory=Wheel)
    names: tuple[str, ...] = ()


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / "child.yaml"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"load": 1, "wheels": 4}, r"here: unknown keys \['wheels'\] in the top level"),
        ({"load": 1, "wheel": {"width": 4}}, r"unknown keys \['width'\] in wheel"),
        ({"load": 1.5}, "load is 1.5; expected int"),
        ({"load": True}, "load is True; expected int"),
        ({}, "load"),
        ([], "expected a mapping"),
        ({"load": 1, "names": "ab"}, "names is 'ab'; expected a list"),
        ({"load": 1, "wheel": {"radius": 2}}, r"wheel.radius is 2.0; expected 0.05 to 1.0 m"),
        ({"load": 1, "wheel": {"radius": math.nan}}, "wheel.radius is nan"),
        ({"load": 1, "wheel": {"tread": "worn"}}, r"wheel.tread is 'worn'; expected one of \['flat', 'deep'\]"),
    ],
)
def test_what_is_wrong_is_refused_with_its_full_name(data: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_plain(Cart, data, source="here")


def test_what_is_written_down_is_restored() -> None:
    cart = Cart(load=3, wheel=Wheel(radius=0.2), names=("a", "b"))
    assert from_plain(Cart, to_plain(cart), source="here") == cart


def test_a_file_says_only_what_it_changes_in_the_one_that_it_extends(tmp_path: Path) -> None:
    child = write(
        tmp_path,
        ground="load: 1\nwheel: {radius: 0.3, tread: deep}\nnames: [a, b]\n",
        base="extends: ground.yaml\nload: 2\n",
        child="extends: base.yaml\nwheel: {radius: 0.4}\nnames: [c]\n",
    )
    assert read_config(Cart, child) == Cart(load=2, wheel=Wheel(radius=0.4, tread="deep"), names=("c",))


def test_a_shipped_file_is_extended_from_anywhere(tmp_path: Path) -> None:
    child = write(tmp_path, child="extends: contracts/libero\nname: mine\n")
    assert read_plain(child) == {**read_plain(config_path("contracts/libero.yaml")), "name": "mine"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: child.yaml", "child.yaml extends itself"),
        ("extends: nowhere.yaml", "cannot read .*nowhere.yaml"),
        ("extends: contracts/nobody", "extends is 'contracts/nobody': .*available: .*libero"),
        ("extends: [a]", r"child.yaml: extends is \['a'\]"),
    ],
)
def test_a_base_that_cannot_be_read_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_plain(write(tmp_path, child=text))
