"""YAML as people write it: ``3e-4`` is a number, and what is written is read back as what it was."""

from __future__ import annotations

import re
from typing import Any

import yaml

# PyYAML follows YAML 1.1, where scientific notation needs a dot (3.0e-4); YAML 1.2 does not ask for it.
_NUMBER = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """Plain data only."""


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that :class:`_Loader` would take for numbers."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))


def load_yaml(text: str) -> Any:
    """The plain data of a document. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def dump_yaml(data: Any) -> str:
    """A document that :func:`load_yaml` reads back; keys stay in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)
