"""What the training commands share: a YAML file, every key of it an option, errors as one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from lavla_ros.config import read_config
from lavla_ros.errors import one_line_errors

T = TypeVar("T")


def run_command(
    config_class: type[T],
    train: Callable[[T], Path],
    *,
    prog: str,
    description: str | None,
    argv: Sequence[str] | None,
) -> None:
    """Build the configuration from ``--config`` and options, train, print the result's path.

    An error that the user can mend ends the process, with a message on standard error and status 1.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description, add_help=False)
    parser.add_argument("--config", type=Path, default=None, help="YAML file; every key can be overridden by an option")
    known, rest = parser.parse_known_args(argv)
    with one_line_errors(prog):
        default = config_class() if known.config is None else read_config(config_class, known.config)
        result = train(tyro.cli(config_class, prog=prog, description=description, args=rest, default=default))
    from training.reporting import is_first_process  # only now: help does not wait for rich

    if is_first_process():
        print(result)
