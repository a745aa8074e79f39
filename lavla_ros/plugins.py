"""Things that are found by name: those that come with the package, and yours as ``module:attribute``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def find(name: str, known: Mapping[str, Any], kind: str, error: type[Exception]) -> Any:
    """What ``known`` has by this name, else what the name says as ``module:attribute``, as text in ``known`` does.

    Raises ``error`` naming what there is, the module that is not on the path, or the attribute that it lacks. What
    the module itself raises while it is imported passes through.
    """
    target = known.get(name, name)
    if not isinstance(target, str):
        return target
    module, colon, attribute = target.partition(":")
    if not colon:
        raise error(f"there is no {kind} {name!r}; there are {sorted(known)}, or give your own as module:attribute")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is not None and not module.startswith(missing.name):
            raise  # something that the module itself needs
        raise error(f"{kind} {name!r}: there is no module {module!r} on this Python's path") from None
    if not hasattr(loaded, attribute):
        raise error(f"{kind} {name!r}: module {module!r} has no {attribute!r}")
    return getattr(loaded, attribute)
