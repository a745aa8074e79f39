"""Configuration as frozen dataclasses: plain data is read strictly, and a fact about a setting is written once.

A dataclass checks itself in ``__post_init__``, by :func:`check` and, for the bounds that its fields declare with
:func:`setting`, by :func:`check_settings`. :func:`from_plain` builds one from plain data; it refuses unknown keys and
wrong types and names the key's full path. :func:`read_config` does so for a YAML file, which may extend another one:

.. code-block:: yaml

    extends: training/paper      # a shipped file of config/; a path with .yaml is relative to this file
    steps: 80000                 # replaces the base's value
    policy: {head: {heads: 4}}   # mappings are merged key by key
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from lavla_ros.errors import UserError
from lavla_ros.resources import config_path
from lavla_ros.yaml_text import load_yaml

T = TypeVar("T")
Scalar = bool | int | float | str
"""In this order, in which a command line's text is tried: text is a str only if it is nothing else."""


class ConfigError(UserError, ValueError):
    """A configuration value is missing, unknown or out of range."""


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    unit: str = "",
    settable: bool = False,
) -> Any:
    """A dataclass field with the facts about it; ``low`` and ``high`` are inclusive.

    ``settable``: the value can be changed while the program runs.
    """
    meta = {"low": low, "high": high, "choices": choices, "unit": unit, "settable": settable}
    # an empty help would hide the field's docstring from a command line
    return field(default=default, metadata=meta | ({"help": help} if help else {}))


def check(ok: bool, key: str, value: object, expected: str) -> None:
    """Raise ConfigError naming the key, its value and what was expected unless ``ok``."""
    if not ok:
        raise ConfigError(f"{key} is {value!r}; expected {expected}")


def check_settings(config: Any, prefix: str = "") -> None:
    """Raise ConfigError for the first field beyond the bounds or choices of its :func:`setting`.

    ``prefix`` stands before the field's name in the message.
    """
    for item in fields(config):
        check_setting(prefix + item.name, item.metadata, getattr(config, item.name))


def check_setting(key: str, meta: Mapping[str, Any], value: Any) -> None:
    """Raise ConfigError if ``value`` is beyond what ``meta``, a field's metadata, allows; None is not checked."""
    low, high, choices = meta.get("low"), meta.get("high"), meta.get("choices")
    if value is None:
        return
    if choices:
        check(value in choices, key, value, f"one of {list(choices)}")
    inside = (low is None or value >= low) and (high is None or value <= high)  # false for NaN
    bounds = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
    check(inside, key, value, f"{bounds} {meta.get('unit', '')}".rstrip())


def to_plain(config: Any) -> dict[str, Any]:
    """Nested dataclasses → dictionaries, lists and scalars; :func:`from_plain` restores an equal configuration."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    result = plain(asdict(config))
    assert isinstance(result, dict)
    return result


def from_plain(cls: type[T], data: object, *, source: str) -> T:
    """Build the dataclass ``cls`` from plain data, strictly.

    Raises ConfigError naming ``source`` and the full key for an unknown key, a missing one, a value
    of the wrong type or one that the dataclass itself refuses.
    """
    try:
        return _build(cls, data, "")
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def read_config(cls: type[T], path: Path) -> T:
    """The dataclass ``cls`` from a YAML file. Raises ConfigError naming the file, the key and the value at fault."""
    return from_plain(cls, read_plain(path), source=str(path))


def read_plain(path: Path) -> Any:
    """The plain data of a YAML file, merged into that of the file that it extends; an empty file is an empty mapping.

    Raises ConfigError.
    """
    return _read(path, ())


def parse_options(pairs: Sequence[str]) -> dict[str, str]:
    """``name=value`` texts of a command line → options. Raises ConfigError for one that is none."""
    for pair in pairs:
        if not pair.partition("=")[0].isidentifier() or "=" not in pair:
            raise ConfigError(f"{pair!r} is no option; write -o name=value")
    return dict(pair.split("=", 1) for pair in pairs)


def _read(path: Path, children: tuple[Path, ...]) -> Any:
    if path.resolve() in children:
        raise ConfigError(f"{path} extends itself, by way of {[str(child) for child in children]}")
    try:
        data = load_yaml(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict) or "extends" not in data:
        return data
    name = data.pop("extends")
    check(isinstance(name, str), f"{path}: extends", name, "the name or path of a YAML file")
    try:
        base = path.parent / name if name.endswith((".yaml", ".yml")) else config_path(f"{name}.yaml")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: extends is {name!r}: {error}") from None
    return merge(_read(base, (*children, path.resolve())), data)


def merge(base: Any, data: Any) -> Any:
    """``data`` over ``base``: mappings key by key, everything else replaced."""
    if not isinstance(base, Mapping) or not isinstance(data, Mapping):
        return data
    return {**base, **{key: merge(base.get(key), value) for key, value in data.items()}}


def differences(saved: object, present: object, key: str = "") -> list[str]:
    """Readable lines ``key: saved → present`` for every leaf of two nested mappings that differs."""
    if isinstance(saved, Mapping) and isinstance(present, Mapping):
        keys = sorted({*saved, *present})
        return [line for k in keys for line in differences(saved.get(k), present.get(k), f"{key}.{k}".lstrip("."))]
    return [] if saved == present else [f"{key}: {saved!r} → {present!r}"]


def _build(cls: type[T], data: object, where: str) -> T:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or 'top level'} is {data!r}; expected a mapping")
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in set(data) - known)
    if unknown:
        raise ConfigError(f"unknown keys {unknown} in {where or 'the top level'}; known: {sorted(known)}")
    hints = get_type_hints(cls)
    values = {key: _convert(hints[key], value, f"{where}.{key}".lstrip(".")) for key, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where or 'top level'}: {error}") from None


def _convert(hint: Any, value: object, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    if origin in (Union, UnionType):
        if value is None and type(None) in args:
            return None
        options = [a for a in args if a is not type(None)]
        if len(options) == 1:
            return _convert(options[0], value, where)
        for option in sorted(options, key=lambda a: a is not type(value)):
            try:
                return _convert(option, value, where)
            except ConfigError:
                continue  # the next member of the union may accept it; the error below names them all
        raise ConfigError(f"{where} is {value!r}; expected {hint}")
    if origin is Literal:
        check(value in args, where, value, f"one of {list(args)}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{where} is {value!r}; expected a list")
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}; expected a mapping")
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise ConfigError(f"{where} is {value!r}; expected {getattr(hint, '__name__', hint)}")
