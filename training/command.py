"""What the training commands share: a YAML file, every key of it an option, errors as one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from lavla_ros.config import ConfigError, read_config
from lavla_ros.errors import one_line_errors
from lavla_ros.plugins import find


def run_command(config: str, run: str, *, prog: str, description: str | None, argv: Sequence[str] | None) -> None:
    """Build the ``module:Config`` from ``--config`` and options, give it to the ``module:function`` that trains, which
    is imported only then, and print the path that this returns.

    An error that the user can mend ends the process, with a message on standard error and status 1.
    """
    config_class: type[Any] = find(config, {}, "configuration", ConfigError)
    parser = argparse.ArgumentParser(prog=prog, description=description, add_help=False)
    parser.add_argument("--config", type=Path, default=None, help="YAML file; every key can be overridden by an option")
    known, rest = parser.parse_known_args(argv)
    with one_line_errors(prog):
        default = config_class() if known.config is None else read_config(config_class, known.config)
        chosen = tyro.cli(config_class, prog=prog, description=description, args=rest, default=default)
        result: Path = find(run, {}, "training", ConfigError)(chosen)
    from training.reporting import is_first_process  # only now: help does not wait for rich

    if is_first_process():
        print(result)
