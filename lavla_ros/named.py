"""Things that are found by name: a short one from a table, or ``module:attribute`` for what is not in it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from lavla_ros.errors import UserError


class UnknownName(UserError, LookupError):
    """Nothing has this name."""


def named(what: str, name: str, table: Mapping[str, str]) -> Any:
    """The object called ``name``, imported now; ``table`` has the short names, each with its ``module:attribute``.

    Raises UnknownName with the short names that there are, or with what the module lacks.
    """
    module, _, attribute = table.get(name, name).partition(":")
    if not attribute:
        raise UnknownName(
            f"there is no {what} {name!r}; there are {sorted(table)}, or give your own as module:attribute"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            raise  # something that the module itself needs
        raise UnknownName(f"{what} {name!r}: there is no module {module!r} on this Python's path") from None
    except AttributeError:
        raise UnknownName(f"{what} {name!r}: module {module!r} has no {attribute!r}") from None
