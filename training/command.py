"""What the training commands share: a YAML file, every key of it an option, errors as one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from lavla_ros.config import read_config
from training.reporting import is_first_process

T = TypeVar("T")


def run_command(
    config_class: type[T],
    train: Callable[[T], Path],
    *,
    prog: str,
    description: str | None,
    user_errors: tuple[type[Exception], ...],
    argv: Sequence[str] | None,
) -> int:
    """Build the configuration from ``--config`` and options, train, print the result's path.

    0 on success, 1 with a message on standard error for one of ``user_errors``.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description, add_help=False)
    parser.add_argument("--config", type=Path, default=None, help="YAML file; every key can be overridden by an option")
    known, rest = parser.parse_known_args(argv)
    try:
        default = config_class() if known.config is None else read_config(config_class, known.config)
        result = train(tyro.cli(config_class, prog=prog, description=description, args=rest, default=default))
    except user_errors as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    if is_first_process():
        print(result)
    return 0
